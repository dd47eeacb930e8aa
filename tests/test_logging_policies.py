"""Logging policies: probabilities, what they look at, and logs drawn as they say."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.counterfactual import counterfactual_scores
from jrouter.logging_policies import (
    EPSILON,
    LOGGING_POLICIES,
    chosen_share,
    confounded,
    cost_proportional,
    keep_few_of_best,
    model_accuracy,
    predicted_accuracy,
    predicted_scores,
    realised_accuracy,
    simulate_log,
    uniform,
)
from jrouter.synthetic import draw_queries, make_world
from jrouter.types import BenchmarkTable, Nuisances, take_rows

N, FEW, T = 20_000, 4000, 5


@cache
def table():
    return draw_queries(make_world("specialists", dim=16, n_models=T), jax.random.key(0), N)


@cache
def probability_and_keep(name):
    policy = LOGGING_POLICIES[name]
    return jax.jit(policy.probabilities)(table()), policy.keep and policy.keep(table())


@pytest.mark.parametrize("name", LOGGING_POLICIES)
def test_probabilities(name):
    policy, share = LOGGING_POLICIES[name], chosen_share(*probability_and_keep(name))
    assert share.shape == (N, T) and share.min() > 0
    np.testing.assert_allclose(share.sum(axis=1), 1.0, rtol=1e-5)
    assert policy.ignorable == (name != "realised_accuracy")


def test_definitions():
    score, cost = np.asarray(table().score, np.float64), np.asarray(table().cost, np.float64)
    np.testing.assert_allclose(uniform(table()), 1 / T, rtol=1e-6)
    by_model = score.mean(axis=0) + EPSILON
    np.testing.assert_allclose(model_accuracy(table())[7], by_model / by_model.sum(), rtol=1e-4)
    by_query = score[:50] + EPSILON
    np.testing.assert_allclose(
        realised_accuracy(table())[:50], by_query / by_query.sum(axis=1, keepdims=True), rtol=1e-5
    )
    share = np.maximum(cost.mean(axis=0) / cost.mean(axis=0).sum(), 0.01 / T)
    np.testing.assert_allclose(cost_proportional(table())[3], share / share.sum(), rtol=1e-4)


def small():
    """A part of the queries, one of them with all its scores turned over, and its number."""
    few = take_rows(table(), range(FEW))
    return few, replace(few, score=few.score.at[17].set(1 - few.score[17])), 17


def test_what_a_policy_looks_at():
    before, after, query = small()

    def moved(policy):
        policy = jax.jit(policy)
        change = jnp.abs(policy(before) - policy(after)).max(axis=1)
        return float(change[query]), float(change.max())

    assert moved(realised_accuracy)[0] > 0.1
    # Other queries' predictions move, this one's does not.
    for policy in (predicted_scores, predicted_accuracy):
        own, others = moved(policy)
        assert own == 0 < others
    # One number for all queries, the spread of their predictions, moves by 1 / n.
    assert moved(confounded)[0] < 1e-3 and moved(model_accuracy)[0] < 2e-3
    assert moved(cost_proportional)[0] == moved(uniform)[0] == 0


def test_duplicates_of_a_query_do_not_predict_each_other():
    few, _, query = small()
    together = replace(few, group=jnp.arange(FEW).at[query].set(400))  # the same query as number 400
    predict = jax.jit(lambda score: predicted_scores(replace(together, score=score))[query])
    np.testing.assert_array_equal(predict(few.score), predict(few.score.at[400].set(1 - few.score[400])))
    assert jnp.abs(predict(few.score) - predict(1 - few.score)).max() > 0.1


def test_predictions_know_something():
    predicted, mean = np.asarray(jax.jit(predicted_scores)(table())), np.asarray(table().true_score)
    for t in range(T):
        assert np.corrcoef(predicted[:, t], mean[:, t])[0, 1] > 0.5


@pytest.mark.parametrize("spread, exploration", [(1.0, 0.1), (2.5, 0.03)])
def test_confounded_log_odds(spread, exploration):
    p = jax.jit(confounded)(table(), spread=spread, exploration=exploration)
    assert p.min() >= exploration / T * (1 - 1e-5)
    log_odds = jnp.log((p - exploration / T) / (1 - exploration))
    log_odds = log_odds - log_odds.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(log_odds.std(), spread, rtol=0.01)
    # Not only that good models are likelier: each is, where it does better than usual.
    for t in range(T):
        assert np.corrcoef(log_odds[:, t], table().true_score[:, t] - table().true_score.mean(axis=1))[0, 1] > 0.5


@pytest.mark.parametrize(
    "name, gap", [("confounded", 0.02), ("predicted_accuracy", 0.001), ("realised_accuracy", 0.1), ("cost", 0)]
)
def test_whom_a_biased_policy_prefers_looks_better_than_it_is(name, gap):
    p, _ = probability_and_keep(name)
    truth = table().score if name == "realised_accuracy" else table().true_score
    bias = (p * truth).sum(axis=0) / p.sum(axis=0) - truth.mean(axis=0)
    assert (bias > gap).all() if gap else (jnp.abs(bias) < 1e-5).all()


@cache
def simulated(name):
    probability, keep = probability_and_keep(name)
    return probability, keep, simulate_log(jax.random.key(3), table(), probability, keep)


@pytest.mark.parametrize("name", ["confounded", "cost", "realised_accuracy", "skewed"])
def test_models_are_drawn_as_often_as_they_should(name):
    probability, keep, (log, share, rows) = simulated(name)
    expected = np.asarray(probability * (1 if keep is None else keep), np.float64)
    counts = np.bincount(np.asarray(log.model), minlength=T)
    assert (np.abs(counts - expected.sum(axis=0)) < 4 * np.sqrt((expected * (1 - expected)).sum(axis=0))).all()
    # By query too: among the rows where a model is likely, and among those where it is not.
    drawn = np.asarray(log.model)[:, None] == np.arange(T)
    share = np.asarray(share, np.float64)
    np.testing.assert_allclose(share.sum(axis=1), 1.0, rtol=1e-5)
    for t in range(T):
        for part in (share[:, t] > np.median(share[:, t]), share[:, t] <= np.median(share[:, t])):
            error = (drawn[part, t] - share[part, t]).sum()
            assert abs(error) <= 4 * np.sqrt((share[part, t] * (1 - share[part, t])).sum())


@pytest.mark.parametrize("name", ["confounded", "skewed"])
def test_a_log_holds_what_the_table_says(name):
    probability, keep, (log, share, rows) = simulated(name)
    rows, model = np.asarray(rows), np.asarray(log.model)
    assert (np.diff(rows) > 0).all() and len(rows) == len(model)
    assert (len(rows) == N) == (keep is None)
    np.testing.assert_array_equal(log.score, np.asarray(table().score)[rows, model])
    np.testing.assert_array_equal(log.cost, np.asarray(table().cost)[rows, model])
    np.testing.assert_array_equal(log.x, np.asarray(table().x)[rows])
    np.testing.assert_allclose(share, chosen_share(probability, keep)[rows], rtol=1e-6)
    assert log.propensity is None and log.models == table().models and model.dtype == np.int32


def test_groups_and_shares_follow_their_rows():
    few = replace(small()[0], group=jnp.arange(FEW, dtype=jnp.int32) // 2)
    keep, probability = jnp.array([0.5, 1.0, 1.0, 1.0, 1.0]), realised_accuracy(few)
    log, share, rows = simulate_log(jax.random.key(0), few, probability, keep)
    assert log.group is not None and len(rows) < FEW
    np.testing.assert_array_equal(log.group, rows // 2)
    np.testing.assert_allclose(share, (probability * keep / (probability @ keep)[:, None])[rows], rtol=1e-5)


def test_skewed_keeps_a_quarter_of_the_best():
    _, keep, (log, share, _) = simulated("skewed")
    best = int(table().score.mean(axis=0).argmax())
    assert keep is not None
    np.testing.assert_allclose(keep, np.where(np.arange(T) == best, 0.25, 1.0))
    counts = np.bincount(np.asarray(log.model), minlength=T)
    assert 0.2 < counts[best] / np.delete(counts, best).mean() < 0.3
    # p keep, renormalised: .05 and .2 over .85
    expected = np.where(np.arange(T) == best, 0.05, 0.2) / 0.85
    np.testing.assert_allclose(share[0], expected, rtol=1e-5)


def test_the_best_quarter_of_many_models():
    mean = jnp.array([0.1, 0.9, 0.3, 0.8, 0.2, 0.5, 0.4, 0.6])
    eight = BenchmarkTable(x=None, score=jnp.broadcast_to(mean, (4, 8)), cost=jnp.ones((4, 8)))
    np.testing.assert_allclose(keep_few_of_best(eight), [1, 0.25, 1, 0.25, 1, 1, 1, 1])
    np.testing.assert_allclose(keep_few_of_best(eight, keep=0.3), [1, 0.3, 1, 0.3, 1, 1, 1, 1])


@pytest.mark.parametrize("name", ["realised_accuracy", "skewed"])
def test_true_propensities_undo_the_policy(name):
    # The chance of the choice given the outcomes themselves is a valid weight, also where x alone is not enough.
    _, _, (log, share, rows) = simulated(name)
    logged = jnp.take_along_axis(share, log.model[:, None], axis=1)[:, 0]
    zeros = jnp.zeros((len(rows), T))
    scores = counterfactual_scores(log, Nuisances(logged, zeros, zeros, log.model), estimator="ips").score
    error = np.asarray(scores - table().score[rows], np.float64)
    assert (np.abs(error.mean(axis=0)) < 3.5 * error.std(axis=0) / np.sqrt(len(rows))).all()


def test_keys():
    probability, _ = probability_and_keep("confounded")
    models = [np.asarray(simulate_log(jax.random.key(seed), table(), probability)[0].model) for seed in (0, 0, 1)]
    assert (models[0] == models[1]).all() and (models[0] != models[2]).mean() > 0.3
