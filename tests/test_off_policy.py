"""Value of a policy from a log: right, with the right error, and from rows that it never saw."""

from dataclasses import replace
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.counterfactual import counterfactual_scores
from jrouter.honest_value import cross_fitted_value, honest_best, split_best
from jrouter.nuisances import ridge
from jrouter.nuisances.crossfit import OUTCOME_MODELS, NuisanceConfig, fit_nuisances
from jrouter.off_policy import fixed_policy_value, paired_difference, value_of_choices
from jrouter.policy import Policy
from jrouter.splits import split_log
from jrouter.types import LoggedData

N, D, T, K = 600, 8, 3, 3
LAMBDAS = jnp.array([0.0, 50.0, 100.0])
CONFIG = NuisanceConfig(outcome="ridge")
ONE_EACH = Policy(lambda params, x, lam: jax.nn.one_hot(jnp.searchsorted(LAMBDAS, lam), T))
"""Of every query the first model at the first lambda, the second at the second, ..."""


@pytest.fixture(autouse=True, scope="module")
def one_strength():
    """A choice of strength looks at all rows; and one fit compiles faster than six."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OUTCOME_MODELS, "ridge", lambda: ridge.ridge(((float("inf"), 1.0),)))
        yield


def draw(seed, n):
    """(x, score [n, T], cost [n, T], propensities [n, T], model [n]): what makes a model score makes it answer."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D))
    mean = 1 / (1 + np.exp(-1.5 * x[:, :T]))
    cost = np.array([1e-4, 1e-3, 5e-3]) * np.exp(0.3 * x[:, T:] @ rng.normal(size=(D - T, T)))
    propensity = np.exp(1.2 * x[:, :T])
    propensity = 0.9 * propensity / propensity.sum(axis=1, keepdims=True) + 0.1 / T
    model = (np.log(propensity) + rng.gumbel(size=(n, T))).argmax(axis=1)
    return x, mean, cost, propensity, model, rng.random(n) < mean[np.arange(n), model]


@cache
def world():
    """([n, T] mean score and cost, a log with its propensities)."""
    x, mean, cost, propensity, model, score = draw(0, N)
    row = np.arange(N)
    parts = (x, score, cost[row, model], propensity[row, model], mean, cost)
    x, score, paid, propensity, mean, cost = (jnp.asarray(part, jnp.float32) for part in parts)
    return (mean, cost), LoggedData(x, jnp.asarray(model, jnp.int32), score, paid, propensity, models=("a", "b", "c"))


def value_of(log, policy=ONE_EACH, fit=lambda key, problem: {}, **named):
    return cross_fitted_value(jax.random.key(2), log, policy, fit, LAMBDAS, nuisances=CONFIG, n_folds=K, **named)


@cache
def value():
    return value_of(world()[1])


def test_value_of_single_models_is_their_true_mean_utility():
    (mean, cost), estimate = world()[0], value()
    # Over the very queries that were logged.
    truth = mean.mean(axis=0) - LAMBDAS * cost.mean(axis=0)
    log = world()[1]
    logged = [(log.score[log.model == t].mean(), log.cost[log.model == t].mean()) for t in range(T)]
    naive = np.array([score - lam * cost for (score, cost), lam in zip(logged, LAMBDAS, strict=True)])
    assert (np.abs(naive - truth) > 0.1).all() and (np.abs(estimate.value - truth) < 0.05).all()
    assert (np.abs(estimate.value - truth) < 3 * estimate.error).all()
    assert float(estimate.error.max()) < 0.1  # or the line above would say nothing
    np.testing.assert_allclose(estimate.value, estimate.score - LAMBDAS * estimate.cost, rtol=1e-4)
    # What a row contributes varies as much as its error says.
    np.testing.assert_allclose(estimate.error, np.asarray(estimate.rows).std(axis=1) / np.sqrt(N), rtol=1e-4)
    np.testing.assert_allclose(estimate.value, np.asarray(estimate.rows).mean(axis=1), rtol=1e-4)


def test_a_policy_less_itself_is_exactly_nothing():
    difference, error = paired_difference(value(), value())
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
    _, mean, _, propensity, model, observed = draw(5, n * logs)
    logged = np.eye(T)[model]
    score = jnp.asarray(0.5 + logged / propensity * (observed - 0.5)[:, None], jnp.float32)
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
    truth = (mean @ [0.5, 0.2, 0.3]).mean()
    inside = np.abs(np.asarray(values.value) - truth) < 1.96 * np.asarray(values.error)
    assert abs(inside.mean() - 0.95) < 0.045


def test_the_policy_never_saw_the_rows_that_it_is_valued_on():
    def remember(key, problem):
        return {"x": problem.log.x, "weight": problem.log.weight}

    def recognise(params, x, lam):
        """`ONE_EACH` for a query that was not learned from; for one that was, another model."""
        row = jnp.argmin(jnp.square(params["x"] - x).sum(axis=1))
        shift = jnp.where(params["weight"][row] > 0, 1, 0)
        return jax.nn.one_hot((jnp.searchsorted(LAMBDAS, lam) + shift) % T, T)

    done = []
    # All folds are fitted by one program.
    fit = chex.assert_max_traces(remember, n=1)
    valued = value_of(world()[1], Policy(recognise), fit, on_fold=done.append)
    assert done == list(range(1, K + 1))
    np.testing.assert_array_equal(valued.rows, value().rows)


def test_nuisances_never_saw_the_rows_that_they_value():
    log = world()[1]
    row = int(np.flatnonzero(np.asarray(log.model) == 0)[0])
    other = value_of(replace(log, score=log.score.at[row].add(100.0), cost=log.cost.at[row].add(1.0)))
    # Doubly robust scores of the models that did not answer are predictions, from other rows alone.
    np.testing.assert_array_equal(other.rows[1:, row], value().rows[1:, row])
    # It is in the fits of the other folds, of the model that answered and of no other.
    moved = np.abs(np.asarray(other.rows) - np.asarray(value().rows)) > 1e-2
    assert moved[0].mean() > 0.3 and not moved[1:].any()


def test_rows_of_weight_zero_do_not_count():
    log = world()[1]
    weight = (jnp.arange(N) % 4 > 0).astype(jnp.float32)
    choice = jax.nn.one_hot(jnp.broadcast_to(log.model[:, None], (N, LAMBDAS.size)), T)
    score = jnp.where(weight[:, None] > 0, log.score[:, None], 1e4) * jnp.ones((1, T))
    ours = value_of_choices(choice, score, jnp.zeros((N, T)), LAMBDAS, weight)
    kept = np.flatnonzero(np.asarray(weight))
    expected = value_of_choices(choice[kept], score[kept], jnp.zeros((kept.size, T)), LAMBDAS)
    np.testing.assert_allclose(ours.value, expected.value, rtol=1e-5)
    np.testing.assert_allclose(ours.error, expected.error, rtol=1e-4)


MIXED = Policy(lambda params, x, lam: params @ x - lam * jnp.array([0.0, 0.01, 0.03]), stochastic=True)
PARAMS = jnp.eye(T, D)


def all_choices(x):
    """[n, L, T], what is never stored."""
    return jax.vmap(lambda x: jax.vmap(lambda lam: MIXED.probabilities(PARAMS, x, lam))(LAMBDAS))(x)


def test_values_in_chunks_are_those_of_all_probabilities_at_once():
    log = replace(world()[1], row_weight=1.0 + jnp.arange(N) % 3, group=jnp.arange(N) // 2)
    split = split_log([log], seeds=[0], n_folds=K)[0]
    more = {"nuisances": CONFIG, "refit": False}
    ours = jax.jit(lambda: fixed_policy_value(jax.random.key(4), log, split, MIXED, PARAMS, LAMBDAS, **more))()
    scores = counterfactual_scores(log, jax.jit(lambda: fit_nuisances(jax.random.key(4), log, split, CONFIG))())
    whole = value_of_choices(all_choices(log.x), scores.score, scores.cost, LAMBDAS, log.row_weight, log.group)
    for mine, expected in zip(ours, whole, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)
    # A learner that always returns these params is valued fold by fold, by nuisances without the fold.
    learned = value_of(log, MIXED, lambda key, problem: PARAMS)
    np.testing.assert_allclose(learned.value, whole.value, atol=3 * float(whole.error.max()))
    assert (np.asarray(learned.rows) != 0).all()  # every row has its place


def test_a_learner_valued_fold_by_fold_is_the_loop_over_folds():
    log = world()[1]
    ours = value_of(log, MIXED, lambda key, problem: PARAMS)
    outer, inner = (split_log([log], seeds=[seed], n_folds=K)[0] for seed in (0, 1))
    estimate = jax.jit(lambda key, log: fit_nuisances(key, log, inner, CONFIG))
    score, cost = np.zeros((N, T)), np.zeros((N, T))
    for number in range(K):
        held_out = np.asarray(outer.fold) == number
        key = jax.random.split(jax.random.fold_in(jax.random.key(2), number))[0]
        scores = counterfactual_scores(log, estimate(key, replace(log, row_weight=jnp.asarray(~held_out, jnp.float32))))
        score[held_out], cost[held_out] = scores.score[held_out], scores.cost[held_out]
    whole = value_of_choices(all_choices(log.x), jnp.asarray(score), jnp.asarray(cost), LAMBDAS)
    for mine, expected in zip(ours, whole, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=2e-4, atol=1e-5)


def test_the_best_of_several_policies_is_valued_where_it_was_not_chosen():
    # Policies of equal value: the largest of their values is luck, and twenty times as much of it as of one.
    n, policies, logs = 200, 20, 300
    rows = jax.random.normal(jax.random.key(0), (logs, policies, n))
    fold = jnp.arange(n) % 5
    best, by_fold, value, error = jax.vmap(lambda rows: honest_best(rows, fold, n_folds=5))(rows)
    assert by_fold.shape == (logs, 5)
    naive = rows.mean(axis=2).max(axis=1)
    assert float(naive.mean()) > 1.5 / np.sqrt(n)
    assert abs(float(value.mean())) < 4 * float(value.std()) / np.sqrt(logs)
    np.testing.assert_array_equal(best, rows.mean(axis=2).argmax(axis=1))
    covered = np.abs(value) < 1.96 * error
    # Folds choose on each other's rows: with policies all alike the interval is too narrow, as its docstring says.
    assert 0.75 < covered.mean() < 0.97
    # Rows that choose and do not value leave none of it.
    chosen, value, error = jax.vmap(lambda rows: split_best(rows, fold < 2))(rows)
    covered = np.abs(value) < 1.96 * error
    assert abs(covered.mean() - 0.95) < 4 * np.sqrt(0.05 * 0.95 / logs)
    np.testing.assert_array_equal(chosen, rows[:, :, fold >= 2].mean(axis=2).argmax(axis=1))
    # One that is better by far is chosen everywhere, and its value is its rows' mean, weighted.
    weight = 1.0 + jnp.arange(n) % 2
    found = honest_best(rows[0].at[3].add(10.0), fold, n_folds=5, row_weight=weight)
    assert found.by_fold.tolist() == [3] * 5
    np.testing.assert_allclose(found.value, np.average(rows[0, 3] + 10.0, weights=weight), rtol=1e-5)
