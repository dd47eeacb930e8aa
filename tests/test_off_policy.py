"""Value of a policy from a log: right, with the right error, and from rows that it never saw."""

from dataclasses import replace
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.logging_policies import confounded, simulate_log
from jrouter.nuisances import ridge
from jrouter.nuisances.crossfit import OUTCOME_MODELS, NuisanceConfig
from jrouter.off_policy import cross_fitted_value, paired_difference, value_of_choices
from jrouter.policy import Policy
from jrouter.synthetic import draw_queries, make_world

N, D, T, K = 600, 8, 3, 3
LAMBDAS = jnp.array([0.0, 100.0])
CONFIG = NuisanceConfig(outcome="ridge")


@pytest.fixture(autouse=True, scope="module")
def one_strength():
    """A choice of strength looks at all rows; and one fit compiles faster than six."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OUTCOME_MODELS, "ridge", lambda: ridge.ridge(((float("inf"), 1.0),)))
        yield


@cache
def world():
    """(table, log with its propensities): which model answers depends on what makes it score."""
    table = draw_queries(make_world("linear", dim=D, n_models=T), jax.random.key(0), N)
    probability = confounded(table, spread=1.5, exploration=0.1)
    log, true, _ = simulate_log(jax.random.key(1), table, probability)
    propensity = jnp.take_along_axis(true, log.model[:, None], axis=1)[:, 0]
    return table, replace(log, propensity=propensity)


def always(model):
    return Policy(lambda params, x, lam: jax.nn.one_hot(model, T))


def nothing(key, problem):
    return {}


def truth(model):
    """[L], mean utility of one model over the very queries that were logged."""
    table = world()[0]
    return np.asarray(table.mean_score[:, model].mean() - LAMBDAS * table.mean_cost[:, model].mean())


@cache
def value(model):
    log = world()[1]
    return cross_fitted_value(jax.random.key(2), log, always(model), nothing, LAMBDAS, nuisances=CONFIG, n_folds=K)


@pytest.mark.parametrize("model", [0, T - 1])
def test_value_of_a_single_model_is_its_true_mean_utility(model):
    estimate = value(model)
    assert (np.abs(estimate.value - truth(model)) < 3 * estimate.error).all()
    assert float(estimate.error.max()) < 0.1  # or the line above would say nothing
    np.testing.assert_allclose(estimate.value, estimate.score - LAMBDAS * estimate.cost, rtol=1e-4)
    # What a row contributes varies as much as its error says.
    np.testing.assert_allclose(estimate.error, np.asarray(estimate.rows).std(axis=1) / np.sqrt(N), rtol=1e-4)
    np.testing.assert_allclose(estimate.value, np.asarray(estimate.rows).mean(axis=1), rtol=1e-4)


def test_a_policy_less_itself_is_exactly_nothing():
    difference, error = paired_difference(value(0), value(0))
    np.testing.assert_array_equal(difference, 0.0)
    np.testing.assert_array_equal(error, 0.0)


def test_paired_differences_of_like_policies_are_far_surer_than_unpaired_ones():
    scores = jnp.asarray(np.random.default_rng(3).random((N, T)), jnp.float32)
    cost = jnp.zeros((N, T))
    one = jax.nn.one_hot(jnp.zeros((N, 1), jnp.int32), T)
    like = jnp.where((jnp.arange(N) < N // 20)[:, None, None], jnp.roll(one, 1, axis=-1), one)
    first, second = (value_of_choices(choice, scores, cost, jnp.zeros(1)) for choice in (one, like))
    difference, error = paired_difference(first, second)
    np.testing.assert_allclose(difference, first.value - second.value, atol=1e-6)
    assert float(error[0]) < 0.5 * float(jnp.hypot(first.error, second.error)[0])
    # Weighted and grouped as the values themselves are.
    weight, group = 1.0 + jnp.arange(N) % 2, jnp.arange(N) // 2
    weighted, _ = paired_difference(first, second, weight, group)
    rows = np.asarray(first.rows - second.rows)[0]
    np.testing.assert_allclose(weighted[0], np.average(rows, weights=weight), rtol=1e-4)


def test_the_standard_error_is_the_spread_over_logs():
    # Exact propensities, an outcome model that knows nothing, a policy that mixes.
    n, logs = 200, 400
    table = draw_queries(make_world("linear", dim=D, n_models=T), jax.random.key(5), n * logs)
    probability = confounded(table)
    log, true, _ = simulate_log(jax.random.key(6), table, probability)
    weight = 1.0 / true[jnp.arange(n * logs), log.model]
    logged = jax.nn.one_hot(log.model, T)
    score = 0.5 + logged * (weight * (log.score - 0.5))[:, None]
    choice = jnp.broadcast_to(jnp.array([0.5, 0.2, 0.3]), (n, 1, T))

    @jax.jit
    @jax.vmap
    def of_log(score):
        return value_of_choices(choice, score, jnp.zeros((n, T)), jnp.zeros(1))

    values = of_log(score.reshape(logs, n, T))
    spread = np.asarray(values.value).std(ddof=1)
    # The spread of 400 logs is known to 1 / sqrt(800) = 3.5%.
    np.testing.assert_allclose(np.sqrt((np.asarray(values.error) ** 2).mean()), spread, rtol=4 * 0.035)
    # 95% intervals hold the truth in 95% of the logs; 400 logs tell that to 1.1 points.
    mean = float((table.mean_score @ choice[0, 0]).mean())
    inside = np.abs(np.asarray(values.value) - mean) < 1.96 * np.asarray(values.error)
    assert abs(inside.mean() - 0.95) < 0.045


def test_neither_policy_nor_nuisances_see_the_rows_that_they_are_valued_on():
    log = world()[1]

    def remember(key, problem):
        return {"x": problem.log.x, "weight": problem.log.weight}

    def recognise(params, x, lam):
        """Model 0 for a query that was learned from, model 1 for one that was not."""
        row = jnp.argmin(jnp.square(params["x"] - x).sum(axis=1))
        return jax.nn.one_hot(jnp.where(params["weight"][row] > 0, 0, 1), T)

    # All folds are fitted by one program.
    fit = chex.assert_max_traces(remember, n=1)
    done = []
    arguments = {"nuisances": CONFIG, "n_folds": K, "on_fold": done.append}
    valued = cross_fitted_value(jax.random.key(2), log, Policy(recognise), fit, LAMBDAS, **arguments)
    assert done == list(range(1, K + 1))
    np.testing.assert_array_equal(valued.rows, value(1).rows)

    # Doubly robust scores of a model that did not answer are outcome predictions: of other folds' rows.
    row = int(np.flatnonzero(np.asarray(log.model) != 1)[0])
    other = replace(log, score=log.score.at[row].add(100.0), cost=log.cost.at[row].add(1.0))
    changed = cross_fitted_value(jax.random.key(2), other, always(1), nothing, LAMBDAS, nuisances=CONFIG, n_folds=K)
    np.testing.assert_array_equal(changed.rows[:, row], value(1).rows[:, row])
    answered = int(log.model[row])
    third = cross_fitted_value(
        jax.random.key(2), other, always(answered), nothing, LAMBDAS, nuisances=CONFIG, n_folds=K
    )
    moved = np.abs(np.asarray(third.rows[0]) - np.asarray(value(answered).rows[0])) > 1e-2
    assert moved.mean() > 0.3  # it is in the fits of the other folds


def test_rows_of_weight_zero_do_not_count():
    log = world()[1]
    weight = (jnp.arange(N) % 4 > 0).astype(jnp.float32)
    choice = jax.nn.one_hot(jnp.broadcast_to(log.model[:, None], (N, 2)), T)
    score = jnp.where(weight[:, None] > 0, log.score[:, None], 1e4) * jnp.ones((1, T))
    ours = value_of_choices(choice, score, jnp.zeros((N, T)), LAMBDAS, weight)
    kept = np.flatnonzero(np.asarray(weight))
    expected = value_of_choices(choice[kept], score[kept], jnp.zeros((kept.size, T)), LAMBDAS)
    np.testing.assert_allclose(ours.value, expected.value, rtol=1e-5)
    np.testing.assert_allclose(ours.error, expected.error, rtol=1e-4)
