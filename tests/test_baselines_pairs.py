"""Routers of pairs: labels, thresholds and the chain by hand, and the right model where it is known."""

from dataclasses import replace

import baseline_world as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from baselines import pairs, routellm

X, CLUSTER = world.draw(7, 300)
METHODS = {
    "routellm_mf": (routellm.routellm_mf, routellm.RouteLlmMfConfig(rank=16)),
    "routellm_sw": (routellm.routellm_sw, routellm.RouteLlmSwConfig(gamma=1e4)),
    "routellm_classifier": (routellm.routellm_classifier, routellm.RouteLlmClassifierConfig(hidden=())),
}


@pytest.mark.parametrize("name", list(METHODS))
def test_a_chain_sends_each_query_to_the_model_that_is_best_for_it(name):
    build, config = METHODS[name]
    method = build(config)
    assert not method.full_feedback
    _, values = world.fitted(method, world.problem_of(), X)
    for place, lam in enumerate(world.LAMBDAS):
        assert world.share_right(values[:, place], CLUSTER, lam) > 0.93


def test_with_full_feedback_the_log_does_not_matter():
    method = routellm.routellm_sw(routellm.RouteLlmSwConfig(full=True, gamma=1e4))
    assert method.full_feedback
    problem = world.problem_of()
    nothing = jnp.zeros_like(problem.nuisances.score)
    run = world.program(method)
    ours, theirs = (
        np.asarray(run(one, jnp.asarray(X, jnp.float32), jnp.asarray(world.LAMBDAS))[1])
        for one in (problem, replace(problem, nuisances=replace(problem.nuisances, score=nothing)))
    )
    np.testing.assert_array_equal(ours, theirs)
    assert world.share_right(ours[:, 0], CLUSTER, 0.0) > 0.9


def test_labels_are_on_average_a_win_and_half_a_tie():
    """Of 0/1 scores, however the two models' depend on each other."""
    rng = np.random.default_rng(0)
    score = (rng.random((5000, 1)) < [0.3, 0.7]).astype(np.float32)  # nested: a right weak model, a right strong one
    labels = np.asarray(pairs.win_labels(jnp.asarray(score)))
    wins, ties = score[:, 1] > score[:, 0], score[:, 1] == score[:, 0]
    assert labels.mean() == pytest.approx(wins.mean() + 0.5 * ties.mean(), abs=1e-6)
    assert labels.mean() == pytest.approx(0.5 + 0.5 * (score[:, 1].mean() - score[:, 0].mean()), abs=1e-6)


def test_thresholds_are_the_best_of_all():
    """Against every threshold of two models, with weights and noise; and a row of weight 0 says nothing."""
    rng = np.random.default_rng(1)
    probability = rng.random(60).astype(np.float32)
    values = rng.normal(size=(60, 2)).astype(np.float32) + np.stack([0.4 - probability, probability - 0.4], axis=1)
    weight = (rng.integers(0, 3, 60) * 1.0).astype(np.float32)
    found = pairs.calibrated(*map(jnp.asarray, (probability[:, None], values, weight)), thresholds=400)[0]

    def worth(threshold):
        return (weight * np.where(probability > threshold, values[:, 1], values[:, 0])).sum()

    best = max(worth(threshold) for threshold in [0.0, *probability, 1.0])
    assert worth(float(found)) == pytest.approx(best, rel=1e-5)


def test_a_poor_middle_model_is_climbed_past():
    values = jnp.tile(jnp.array([[0.4, 0.1, 0.9]]), (50, 1))
    probability = jnp.asarray(np.random.default_rng(2).uniform([0.1, 0.8], [0.3, 0.9], (50, 2)), jnp.float32)
    threshold = pairs.calibrated(probability, values, jnp.ones(50), thresholds=11)
    chosen = jax.vmap(lambda p: pairs.chain_values(jnp.arange(3), p, threshold).argmax())(probability)
    assert (np.asarray(chosen) == 2).all()


def test_values_are_highest_where_climbing_stops():
    rng = np.random.default_rng(3)
    for _ in range(50):
        probability, threshold, order = rng.random(4), rng.random(4), rng.permutation(5)
        climbs = probability > threshold
        stops = order[4 if climbs.all() else int(climbs.argmin())]
        values = pairs.chain_values(*map(jnp.asarray, (order, probability, threshold)))
        assert int(values.argmax()) == stops


def test_one_pair_of_bradley_terry_has_its_closed_form():
    """Weighted logistic regression on a constant, by Newton's steps, gives the weighted mean of labels."""
    rng = np.random.default_rng(4)
    omega, labels = rng.uniform(1, 100, 40), rng.random(40)
    log_odds = 0.0
    for _ in range(30):
        p = 1 / (1 + np.exp(-log_odds))
        log_odds += (omega * (labels - p)).sum() / (omega.sum() * p * (1 - p))
    assert 1 / (1 + np.exp(-log_odds)) == pytest.approx((omega * labels).sum() / omega.sum(), rel=1e-6)


def test_likeness_is_10_to_100_between_a_right_angle_and_the_most_like():
    stored = jnp.array([[2.0, 0.0], [0.0, 5.0], [3.0, 3.0]])
    omega = routellm.likeness_weights(jnp.array([1.0, 0.0]), stored, 10.0)
    np.testing.assert_allclose(omega, [100.0, 10.0, 10 ** (1 + np.sqrt(0.5))], rtol=1e-5)
