"""Evaluation of policies against a plain loop."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.methods.constant import random
from jrouter.policy import Policy, choice_outcomes, evaluate
from jrouter.types import BenchmarkTable

N, D, T = 37, 4, 3
LAMBDAS = jnp.array([0.0, 10.0, 200.0])
PRICE = jnp.array([1e-3, 3e-3, 1e-2])
WEIGHTS = jnp.asarray(np.random.default_rng(1).normal(size=(T, D)), jnp.float32)
MASK = jnp.array([True, False, True])


def apply(params, x, lam):
    return params @ x - lam * PRICE


def table(known_means):
    rng = np.random.default_rng(0)
    x, score, cost = rng.normal(size=(N, D)), rng.integers(0, 2, (N, T)), 1e-2 * rng.random((N, T))
    means = rng.random((N, T)), 1e-2 * rng.random((N, T))
    x, score, cost, mean_score, mean_cost = (jnp.asarray(part, jnp.float32) for part in (x, score, cost, *means))
    realised = BenchmarkTable(x, score, cost, models=("a", "b", "c"))
    return replace(realised, mean_score=mean_score, mean_cost=mean_cost) if known_means else realised


def by_loop(queries, stochastic, mask):
    """({outcome: [L, n]}, shares [L, T]) in float64, one query, lambda and model after another."""
    names = ("score", "cost", "utility", "regret", "routing_accuracy")
    result, shares = {name: np.zeros((len(LAMBDAS), N)) for name in names}, np.zeros((len(LAMBDAS), T))
    pool = [t for t in range(T) if mask is None or mask[t]]
    score, cost = np.asarray(queries.true_score, np.float64), np.asarray(queries.true_cost, np.float64)
    for place, lam in enumerate(np.asarray(LAMBDAS, np.float64)):
        for row in range(N):
            values = np.asarray(WEIGHTS, np.float64) @ np.asarray(queries.x[row], np.float64) - lam * np.asarray(PRICE)
            probability = np.zeros(T)
            if stochastic:
                probability[pool] = np.exp(values[pool]) / np.exp(values[pool]).sum()
            else:
                probability[max(pool, key=lambda t: values[t])] = 1.0
            worth = score[row] - lam * cost[row]
            best = max(worth[t] for t in pool)
            result["score"][place, row] = probability @ score[row]
            result["cost"][place, row] = probability @ cost[row]
            result["utility"][place, row] = probability @ worth
            result["regret"][place, row] = best - probability @ worth
            result["routing_accuracy"][place, row] = sum(probability[t] for t in pool if worth[t] > best - 1e-9)
            shares[place] += probability / N
    return result, shares


@pytest.mark.parametrize("known_means", [False, True])
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("mask", [None, MASK])
def test_evaluation_is_a_loop_over_queries_lambdas_and_models(known_means, stochastic, mask):
    queries = table(known_means)
    outcomes, shares = evaluate(Policy(apply, stochastic), WEIGHTS, queries, LAMBDAS, mask=mask)
    expected, expected_shares = by_loop(queries, stochastic, mask)
    for name, values in expected.items():
        assert getattr(outcomes, name).shape == (len(LAMBDAS), N)
        np.testing.assert_allclose(getattr(outcomes, name), values, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(shares, expected_shares, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 10, 5000])
def test_chunks_do_not_matter(chunk):
    queries, policy = table(True), Policy(apply, stochastic=True)
    whole, whole_shares = evaluate(policy, WEIGHTS, queries, LAMBDAS, chunk=N)
    parts, parts_shares = evaluate(policy, WEIGHTS, queries, LAMBDAS, chunk=chunk)
    for ours, theirs in zip(parts, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(parts_shares, whole_shares, rtol=1e-5)
    assert queries.x is not None
    by_chunk = choice_outcomes(policy, WEIGHTS, queries.x, queries.score, queries.cost, LAMBDAS, mask=MASK, chunk=chunk)
    whole = jax.vmap(lambda x: jax.vmap(lambda lam: policy.probabilities(WEIGHTS, x, lam, MASK))(LAMBDAS))(queries.x)
    for ours, values in zip(by_chunk, (queries.score, queries.cost), strict=True):
        np.testing.assert_allclose(ours, jnp.einsum("nlt,nt->ln", whole, values), rtol=1e-5, atol=1e-6)


def test_memory_is_bounded_by_a_chunk_not_by_rows_times_lambdas_times_models():
    n_models = 16
    policy = Policy(lambda params, x, lam: params @ x - lam * jnp.arange(n_models), stochastic=True)

    def temporary(rows, lambdas):
        """Bytes beside arguments and results, of a value and of a judgement."""
        shapes = [(n_models, D), (rows, D), (rows, n_models), (rows, n_models), (lambdas,)]
        given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        value = jax.jit(lambda params, *rest: choice_outcomes(policy, params, *rest))
        judge = jax.jit(
            lambda params, x, score, cost, lambdas: evaluate(policy, params, BenchmarkTable(x, score, cost), lambdas)
        )
        sizes = [one.lower(*given).compile().memory_analysis() for one in (value, judge)]
        known = [size.temp_size_in_bytes for size in sizes if size is not None]
        return np.array(known) if len(known) == 2 else pytest.skip("this backend does not say what a program needs")

    n, n_lambdas = 20_000, 50
    small, large = temporary(n, n_lambdas), temporary(4 * n, n_lambdas)
    # What is kept, [L, n] of a value (2) and of a judgement (5), is moved around once or twice; [L, n, T] is not there.
    kept = 4 * n_lambdas * np.array([2, 5])
    assert (large - small < 2.5 * kept * 3 * n).all()
    assert (large < 4 * 4 * n * n_lambdas * n_models).all()


@pytest.mark.parametrize("stochastic", [False, True])
def test_a_mask_is_a_slice(stochastic):
    pool = np.flatnonzero(MASK)
    x = jnp.asarray(np.random.default_rng(2).normal(size=D), jnp.float32)
    masked = Policy(apply, stochastic).probabilities(WEIGHTS, x, 5.0, MASK)
    sliced = Policy(lambda params, x, lam: apply(params, x, lam)[pool], stochastic)
    np.testing.assert_allclose(masked[pool], sliced.probabilities(WEIGHTS, x, 5.0), rtol=1e-6)
    assert float(masked[1]) == 0.0


def test_a_rule_that_decides_takes_the_first_of_a_tie():
    policy = Policy(lambda params, x, lam: jnp.zeros(T))
    np.testing.assert_array_equal(policy.probabilities(None, jnp.zeros(D), 0.0), [1.0, 0.0, 0.0])
    mask = jnp.array([False, True, True])
    np.testing.assert_array_equal(policy.probabilities(None, jnp.zeros(D), 0.0, mask), [0.0, 1.0, 0.0])


@pytest.mark.parametrize("mask", [None, MASK])
def test_random_is_uniform_over_the_pool(mask):
    policy = random().policy
    probability = policy.probabilities({"values": jnp.zeros(T)}, jnp.zeros(D), 3.0, mask)
    pool = np.ones(T) if mask is None else np.asarray(mask, float)
    np.testing.assert_allclose(probability, pool / pool.sum(), rtol=1e-6)
