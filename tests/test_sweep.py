"""A sweep is a loop of single trainings, compiled once."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.losses import softmax_regret
from jrouter.metrics import utility
from jrouter.sweep import over_settings, sweep
from jrouter.train import Hyper, Rows, TrainConfig, TrainKeys, make_train, train_keys

S, N, D, T = 3, 40, 4, 3
LAMBDAS = jnp.array([0.0, 2.0, 2.0])
HYPER = Hyper(0.15, 0.01)


def regret(params, example, lam):
    x, score, cost = example
    return softmax_regret(x @ params["kernel"] + params["bias"], utility(score, cost, lam))


def start(key):
    return {"kernel": jax.random.normal(key, (D, T)), "bias": jnp.zeros(T)}


# Minibatches, so that the order of rows is part of what is compared.
TRAIN = make_train(start, regret, TrainConfig(epochs=4, batch_size=16))
single = jax.jit(TRAIN)
many = jax.jit(chex.assert_max_traces(sweep(TRAIN), n=1))


def keys(first=0):
    return jax.vmap(train_keys)(jax.vmap(jax.random.key)(jnp.arange(first, first + S)))


def examples(*leading, seed=0):
    """x, score and cost, both linear in x: what is learned on some rows serves on others."""
    x = jax.random.normal(jax.random.key(seed), (*leading, N, D))
    return x, x[..., :T], x[..., ::-1][..., :T]


@cache
def shared():
    """Keys, rows, and the result of a sweep over seeds on one log."""
    rows, valid = Rows(examples(), jnp.ones(N)), Rows(examples(seed=1), jnp.ones(N))
    return rows, valid, many(keys(), rows, LAMBDAS, HYPER, valid)


def at(tree, *index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def assert_is_loop(swept, rows_of, valid_of):
    for s in range(S):
        for place, lam in enumerate(LAMBDAS):
            alone = single(at(keys(), s), rows_of(s), lam, HYPER, valid_of(s))
            chex.assert_trees_all_close(at(swept, s, place), alone, atol=1e-4, rtol=1e-3)


def test_sweep_is_loop():
    rows, valid, swept = shared()
    assert swept[1].train_loss.shape == (S, 3, 4) and swept[1].valid_loss.shape == (S, 3, 5)
    # It learns, or the initial params would be compared with themselves.
    assert (swept[1].valid_loss[..., -1] < 0.9 * swept[1].valid_loss[..., 0]).all()
    assert_is_loop(swept, lambda s: rows, lambda s: valid)


def test_sweep_over_row_weights_is_loop():
    rows, valid, unweighted = shared()
    counts = jnp.asarray(np.random.default_rng(0).multinomial(N, [1 / N] * N, size=S), jnp.float32)
    rows, valid = rows._replace(weight=counts), valid._replace(weight=counts[::-1])
    swept = jax.jit(sweep(TRAIN, weight_per_seed=True))(keys(), rows, LAMBDAS, HYPER, valid)
    assert_is_loop(swept, lambda s: rows._replace(weight=counts[s]), lambda s: valid._replace(weight=valid.weight[s]))
    assert jnp.abs(swept[1].train_loss - unweighted[1].train_loss).max() > 1e-2


def test_sweep_over_logs_is_loop():
    rows, valid = Rows(examples(S), jnp.ones((S, N))), Rows(examples(S, seed=1), jnp.ones((S, N)))
    swept = jax.jit(sweep(TRAIN, log_per_seed=True))(keys(), rows, LAMBDAS, HYPER, valid)
    assert_is_loop(swept, lambda s: at(rows, s), lambda s: at(valid, s))


def test_one_compilation_for_the_whole_sweep():
    rows, valid, (first, _) = shared()
    # `many` may be traced once: other values are the same program.
    second, _ = many(keys(7), Rows(examples(seed=2), 2 * rows.weight), LAMBDAS + 1, Hyper(0.01, 0.0), valid)
    assert jnp.abs(jax.tree.leaves(first)[0] - jax.tree.leaves(second)[0]).max() > 1e-2
    with pytest.raises(AssertionError, match="traced"):  # other shapes are another one
        many(keys(), rows, LAMBDAS[:2], HYPER, valid)


def test_seeds_differ_and_repeat():
    rows, valid, swept = shared()
    chex.assert_trees_all_equal(swept, many(keys(), rows, LAMBDAS, HYPER, valid))
    kernel = swept[0]["kernel"]
    for other in (1, 2):
        assert jnp.abs(kernel[0] - kernel[other]).max() > 0.1


def test_lambdas_share_initialisation_and_minibatches():
    rows, valid, (params, info) = shared()
    chex.assert_trees_all_close(at(params, 0, 1), at(params, 0, 2), rtol=1e-5)
    assert jnp.abs(info.train_loss[0, 0] - info.train_loss[0, 1]).max() > 1e-2
    # The order of minibatches is part of the result, and comes from its own key.
    shuffled = TrainKeys(at(keys(), 0).init, jax.random.key(99))
    _, other = single(shuffled, rows, LAMBDAS[1], HYPER, valid)
    np.testing.assert_allclose(other.valid_loss[0], info.valid_loss[0, 1, 0], rtol=1e-5)
    assert jnp.abs(other.train_loss - info.train_loss[0, 1]).max() > 1e-3


def test_over_settings_without_validation_rows_and_no_key_used_twice():
    rows, valid, (_, info) = shared()
    with jax.debug_key_reuse(True):
        with pytest.raises(jax.errors.KeyReuseError):  # the check works on this version of jax
            key = jax.random.key(0)
            jax.random.normal(key)
            jax.random.uniform(key)
        params, alone = jax.jit(over_settings(TRAIN))(at(keys(), 0), rows, LAMBDAS, HYPER)
    np.testing.assert_allclose(alone.train_loss, info.train_loss[0], rtol=1e-4, atol=1e-5)
    # Without validation rows the last params are returned: those whose loss on them the sweep saw last.
    losses = jax.vmap(lambda one, lam: jax.vmap(regret, in_axes=(None, 0, None))(one, valid.examples, lam).mean())
    np.testing.assert_allclose(losses(params, LAMBDAS), info.valid_loss[0, :, -1], rtol=1e-4, atol=1e-5)
