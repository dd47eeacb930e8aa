"""What routers are judged by: definitions in loops, ties, pools, and values that must not spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrouter.metrics import (
    best_models,
    best_utility,
    cost_increases,
    decide,
    expected,
    masked,
    model_shares,
    pareto_frontier,
    regret,
    routing_accuracy,
    utility,
)

PROPERTY = settings(max_examples=100, derandomize=True, deadline=None)
SCORE = jnp.array([0.9, 0.2, 0.9, 0.5])
COST = jnp.array([4.0, 0.5, 3.0, 1.0])
POLICY = jnp.array([0.1, 0.2, 0.3, 0.4])


def test_utility():
    got = utility(SCORE, COST, 0.1)
    for t in range(4):
        np.testing.assert_allclose(got[t], float(SCORE[t]) - 0.1 * float(COST[t]), rtol=1e-6)
    np.testing.assert_array_equal(utility(SCORE, COST, 0.0), SCORE)
    assert utility(SCORE, COST, 1e6).argmax() == COST.argmin()


def test_definitions_in_loops():
    rng = np.random.default_rng(0)
    for _ in range(20):
        # Few distinct values, so that there are ties; and a policy that leaves some models out.
        u, f = rng.integers(3, size=5).astype(np.float32), rng.dirichlet(np.ones(5)) * (rng.random(5) < 0.7)
        f = f.astype(np.float32)
        best = max(u)
        value, right = 0.0, 0.0
        for t in range(5):
            value += float(f[t]) * float(u[t])
            right += float(f[t]) if u[t] == best else 0.0
        u, f = jnp.asarray(u), jnp.asarray(f)
        assert best_utility(u) == best
        np.testing.assert_allclose(expected(f, u), value, rtol=1e-5)
        np.testing.assert_allclose(regret(f, u), best - value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(routing_accuracy(f, u), right, rtol=1e-5)
        np.testing.assert_array_equal(best_models(u), u == best)


def test_ties():
    np.testing.assert_array_equal(best_models(SCORE), [True, False, True, False])
    np.testing.assert_array_equal(best_models(SCORE, cost=COST), [False, False, True, False])
    np.testing.assert_array_equal(best_models(SCORE, cost=jnp.ones(4)), [True, False, False, False])
    # Cheap, but not right: model 1 must not win.
    pool = jnp.array([True, True, False, True])
    np.testing.assert_array_equal(best_models(SCORE, cost=COST, mask=pool), [True, False, False, False])
    np.testing.assert_array_equal(best_models(SCORE, cost=COST, mask=jnp.zeros(4, bool)), [False] * 4)
    np.testing.assert_allclose(routing_accuracy(POLICY, SCORE), 0.4, rtol=1e-6)


@pytest.mark.parametrize("kept", [[0, 1], [1, 3], [2]])
def test_mask_is_slice(kept):
    kept = np.array(kept)
    mask = jnp.zeros(4, bool).at[kept].set(True)
    policy = jnp.where(mask, POLICY, 0.0) / POLICY[kept].sum()
    for metric in (regret, routing_accuracy):
        np.testing.assert_allclose(
            metric(policy, SCORE, mask=mask), metric(policy[kept], SCORE[kept]), rtol=1e-6, atol=1e-6
        )
    for whole, part in [
        (best_utility(SCORE, mask), best_utility(SCORE[kept])),
        (best_models(SCORE, mask=mask)[kept], best_models(SCORE[kept])),
        (best_models(SCORE, mask=mask, cost=COST)[kept], best_models(SCORE[kept], cost=COST[kept])),
        (decide(-SCORE, mask=mask)[kept], decide(-SCORE[kept])),
        (jax.nn.softmax(masked(SCORE, mask))[kept], jax.nn.softmax(SCORE[kept])),
    ]:
        np.testing.assert_allclose(whole, part, rtol=1e-6)
    assert not best_models(SCORE, mask=mask)[~mask].any()
    np.testing.assert_array_equal(jax.nn.softmax(masked(SCORE, mask))[~mask], 0.0)
    np.testing.assert_array_equal(decide(-SCORE, mask=mask)[~mask], 0.0)


def test_batches_of_queries():
    utilities = jnp.stack([SCORE, COST])
    pool = jnp.array([[True, True, False, True], [False] * 4])
    np.testing.assert_array_equal(best_utility(utilities, pool), jnp.array([0.9, 0.0]))
    np.testing.assert_allclose(expected(jnp.stack([POLICY, POLICY]), utilities), utilities @ POLICY, rtol=1e-6)


@pytest.mark.parametrize("value", [-jnp.inf, jnp.inf, jnp.nan])
def test_a_model_that_is_never_chosen_does_not_count(value):
    np.testing.assert_allclose(expected(jnp.array([1.0, 0.0]), jnp.array([0.25, value])), 0.25)


def test_a_model_that_may_not_be_chosen_does_not_count():
    chosen, pool = jnp.array([0.5, 0.5, 0.0]), jnp.array([True, True, False])
    for value in (jnp.inf, -jnp.inf, jnp.nan):
        values = jnp.array([0.25, 0.75, value])
        np.testing.assert_allclose(regret(chosen, values, mask=pool), 0.25)
        np.testing.assert_allclose(routing_accuracy(chosen, values, mask=pool), 0.5)
    # In the pool and worthless: no regret in leaving it.
    np.testing.assert_allclose(regret(chosen, jnp.array([0.25, 0.75, -jnp.inf])), 0.25)


def test_decide():
    np.testing.assert_array_equal(decide(jnp.array([1.0, 3.0, 3.0])), [0.0, 1.0, 0.0])
    rows = jax.vmap(decide)(jnp.array([[0.0, 0.0], [-2.0, -1.0]]))
    np.testing.assert_array_equal(rows, [[1.0, 0.0], [0.0, 1.0]])
    assert decide(jnp.array([1, 2])).dtype == jnp.float32


def test_model_shares():
    probability = np.random.default_rng(0).dirichlet(np.ones(3), 7).astype(np.float32)
    expected_shares = [sum(float(row[t]) for row in probability) / 7 for t in range(3)]
    np.testing.assert_allclose(model_shares(jnp.asarray(probability)), expected_shares, rtol=1e-5)


@PROPERTY
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.sampled_from([0.0, 1.0, 2.5]))
def test_cost_increases(cost, tolerance):
    rises = sum(after - before > tolerance for before, after in zip(cost[:-1], cost[1:], strict=True))
    assert cost_increases(jnp.asarray(cost, jnp.float32), tolerance=tolerance) == rises


@PROPERTY
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=10))
def test_pareto_frontier_is_what_nothing_dominates(points):
    frontier = pareto_frontier(*(np.array(column, float) for column in zip(*points, strict=True)))
    kept = []
    for i, (cost, score) in enumerate(points):
        dominated = any(
            (c <= cost and s >= score and (c, s) != (cost, score)) or ((c, s) == (cost, score) and j < i)
            for j, (c, s) in enumerate(points)
        )
        if not dominated:
            kept.append(i)
    assert frontier.tolist() == sorted(kept, key=lambda i: points[i][0])


@pytest.mark.parametrize("level", ["0", "1", "2"])
def test_hindsight_is_right_however_it_is_compiled(level):
    # Compiled apart, utility and its maximum are rounded differently on some levels.
    score = jnp.asarray(np.random.default_rng(0).random((500, 11)) < 0.6, jnp.float32)
    cost = 1e-3 * jax.random.uniform(jax.random.key(1), score.shape)

    def accuracy(score, cost, lam):
        return routing_accuracy(decide(utility(score, cost, lam)), utility(score, cost, lam))

    of_queries = jax.vmap(jax.vmap(accuracy, in_axes=(None, None, 0)), in_axes=(0, 0, None))
    compiled = jax.jit(of_queries, compiler_options={"xla_backend_optimization_level": level})
    np.testing.assert_array_equal(compiled(score, cost, jnp.linspace(0.0, 1000.0, 11)), 1.0)
