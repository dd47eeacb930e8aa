"""Compiled policies: batches of any size are answered as rows one by one, and nothing compiles in use."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations

from jrouter import compiled_policy
from jrouter.batching import largest_batch
from jrouter.compiled_policy import CompiledPolicy
from jrouter.methods import METHODS
from jrouter.networks import count_parameters
from jrouter.policy import Policy

D, T = 6, 5
SIZES = (0, 1, 2, 3, 7, 8, 9, 8192 + 5)
RNG = np.random.default_rng(0)
# Small whole numbers: sums are exact in whatever order, ties are many, and equal means equal.
X = RNG.integers(-3, 4, (8192 + 5, D)).astype(np.float32)
W, COST = RNG.integers(-3, 4, (D, T)), RNG.integers(0, 3, T)
PARAMS = {"w": jnp.asarray(W, jnp.float32), "cost": jnp.asarray(COST, jnp.float32)}
POOL = (True, False, True, True, False)


def linear(params, x, lam):
    return x @ params["w"] - lam * params["cost"]


def compiled(stochastic: Any = False, at=None):
    return CompiledPolicy(Policy(linear, stochastic, at), PARAMS, D, T)


def values_of(x, lam, pool):
    """Utilities in float64, those outside the pool out of reach."""
    return np.where(pool, x.astype(np.float64) @ W - lam * COST, -np.inf)


@pytest.mark.parametrize("pool", [None, POOL])
def test_choices_are_those_of_rows_one_by_one(pool):
    policy = compiled()
    for n in SIZES:
        expected = values_of(X[:n], 2.0, pool or (True,) * T).argmax(axis=1)
        chosen = policy.choices(X[:n], 2.0, pool)
        np.testing.assert_array_equal(chosen, expected)
        assert chosen.dtype == np.int32
    assert len(np.unique(expected)) > 2
    assert {size for _, size in policy._programs} == {1, 2, 4, 8, 16, policy.sizes[-1]}


def test_probabilities_are_those_of_rows_one_by_one():
    policy = compiled(stochastic=True)
    values = values_of(X, 0.5, POOL)
    expected = np.exp(values - values.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    for n in SIZES:
        probability, finite = policy.probabilities(X[:n], 0.5, POOL)
        np.testing.assert_allclose(probability, expected[:n], rtol=1e-5, atol=1e-7)
        assert finite.shape == (n,) and finite.all()


def test_other_rows_of_a_batch_do_not_change_a_result():
    policy = compiled(stochastic=True)
    noise = np.random.default_rng(1).normal(size=(8, D)).astype(np.float32)
    alone = policy.probabilities(noise[:5], 0.3, None)[0]
    for beside in (
        noise,
        np.concatenate([noise[:5], 1e30 * noise[5:]]),
        np.where(np.arange(8)[:, None] < 5, noise, np.nan),
    ):
        np.testing.assert_array_equal(policy.probabilities(beside, 0.3, None)[0][:5], alone)


def test_the_choice_is_the_most_probable_also_of_a_policy_that_draws():
    for stochastic in (False, True, lambda params: jnp.array(True)):
        policy = compiled(stochastic)
        noise = np.random.default_rng(2).normal(size=(64, D)).astype(np.float32)
        probability, _ = policy.probabilities(noise, 0.5, POOL)
        np.testing.assert_array_equal(policy.choices(noise, 0.5, POOL), probability.argmax(axis=1))


def test_rows_that_are_not_finite_are_marked_in_every_piece():
    policy, x = compiled(), X.copy()
    bad = [0, 4000, 8191, 8192, 8196]  # the last two in another batch than the others
    x[bad, np.arange(5)] = [np.nan, np.inf, -np.inf, np.nan, np.inf]
    chosen = policy.choices(x, 0.0, None)
    assert np.flatnonzero(chosen < 0).tolist() == bad
    np.testing.assert_array_equal(np.delete(chosen, bad), values_of(np.delete(X, bad, 0), 0.0, True).argmax(axis=1))
    assert np.flatnonzero(~policy.probabilities(x, 0.0, None)[1]).tolist() == bad


def test_large_numbers_are_finite():
    largest = np.finfo(np.float32).max
    x = largest * np.array([[1.0] * D, [-1.0] * D, [1.0, -1.0] * (D // 2)], np.float32)
    assert compiled().probabilities(x, 0.0, None)[1].all() and (compiled().choices(x, 0.0, None) >= 0).all()


def test_after_compile_nothing_compiles():
    policy = compiled(stochastic=lambda params: params["cost"][0] > 0, at=lambda params, lam: params)
    policy.sizes = (1, 2, 4, 8)
    with compilations() as found:
        policy.compile()
        assert len(found) >= 8  # two programs for each size: the counter counts
        found.clear()
        for n in (0, 1, 3, 5, 8, 21):
            for lam in (0.0, 1.0, 2.5 * n):
                for pool in (None, POOL, (n > 3,) + (True,) * (T - 1)):
                    policy.choices(X[:n], lam, pool)
                    policy.choices(jax.device_put(X[:n]), lam, pool)
                    policy.probabilities(X[:n].astype(np.float64), lam, pool)
        assert not found
        policy.sizes = (16,)
        policy.choices(X[:3], 0.0, None)
        assert len(found) == 1


def test_compiled_sizes_are_the_only_ones():
    policy = compiled()
    policy.choices(X[:1], 0.0, None)
    policy.compile((16, 4, 4))
    assert policy.sizes == (4, 16)
    for n in (1, 4, 5, 40):
        np.testing.assert_array_equal(policy.choices(X[:n], 1.0, None), values_of(X[:n], 1.0, True).argmax(axis=1))
    assert {size for _, size in policy._programs} == {1, 4, 16}  # 1 from before


def test_threads_share_programs():
    policy, together = compiled(), Barrier(8)

    def ask(number):
        together.wait()
        return [policy.choices(X[number : number + n], float(number % 3), None) for n in (1, 3, 1, 4)]

    with ThreadPoolExecutor(8) as threads, compilations() as found:
        answers = list(threads.map(ask, range(8)))
    assert len(found) == 2  # one for each size, 1 and 4
    for number, answer in enumerate(answers):
        for n, chosen in zip((1, 3, 1, 4), answer, strict=True):
            expected = values_of(X[number : number + n], number % 3, True).argmax(axis=1)
            np.testing.assert_array_equal(chosen, expected)


def test_params_at_a_lambda_are_reduced_once_and_few_are_kept():
    knots = jnp.arange(100.0)
    params = {"w": knots[:, None, None] * PARAMS["w"], "cost": PARAMS["cost"], "knots": knots}
    reductions = []

    def index(params, lam):
        return jnp.argmin(jnp.abs(params["knots"] - lam))

    def apply(params, x, lam):
        return linear({"w": params["w"][index(params, lam)], "cost": params["cost"]}, x, lam)

    def at(params, lam):
        reductions.append(params["knots"].shape)
        return {name: params[name][index(params, lam)][None] for name in ("w", "knots")} | {"cost": params["cost"]}

    whole, reduced = (CompiledPolicy(Policy(apply, at=one), params, D, T) for one in (None, at))
    for lam in [*range(30), 3, 99, 3]:
        np.testing.assert_array_equal(reduced.choices(X[:4], float(lam), None), whole.choices(X[:4], float(lam), None))
    assert reductions == [(100,)]  # traced once, though called for each of many lambdas
    assert reduced._at.cache_info().currsize == compiled_policy.LAMBDAS_KEPT
    assert reduced.context.cache_info().currsize <= compiled_policy.LAMBDAS_KEPT
    assert reduced._at(3.0)[0]["w"].shape == (1, D, T)


def test_rows_on_the_device_are_answered_like_others():
    policy = compiled()
    policy.compile((4,))
    expected = policy.choices(X[:4], 1.0, None)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.int32):
        np.testing.assert_array_equal(policy.choices(jnp.asarray(X[:4], dtype), 1.0, None), expected)
        np.testing.assert_array_equal(policy.choices(jnp.asarray(X[:3], dtype), 1.0, None), expected[:3])


def test_params_are_on_the_device_once():
    host = jax.tree.map(np.asarray, PARAMS)
    policy = CompiledPolicy(Policy(linear), host, D, T)
    first, again = policy.context(0.0, None)[0], policy.context(1.0, POOL)[0]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(first))
    assert all(one is other for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True))


def test_nearest_neighbours_go_in_pieces_that_fit_in_memory():
    n, dim, memory = 1000, 16, 2**22
    shapes = {"x": (T, n, dim), "observed": (T, n, 2), "weight": (T, n, 1), "offset": (T, n, 1), "k": (2,)}
    params = {
        "model": {name: jnp.ones(shape) for name, shape in shapes.items()},
        "mean": jnp.zeros((2, T)),
        "deviation": jnp.ones((2, T)),
        "scaling": {"centre": jnp.zeros(dim), "scale": jnp.ones(())},
    }
    size = largest_batch(count_parameters(params), dim, memory=memory)
    assert size == 128
    policy = METHODS["regress_and_compare_knn"]().policy
    rows, scalar = jax.ShapeDtypeStruct((size, dim), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    program = jax.jit(compiled_policy._choices(policy)).lower(params, rows, scalar, jnp.ones(T, bool)).compile()
    used = program.memory_analysis()
    assert used is not None and memory / 8 < used.temp_size_in_bytes < 2.5 * memory
