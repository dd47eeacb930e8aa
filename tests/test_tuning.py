"""Tuning of weights: SLOPE by its definition, and strengths that follow the log, not the unit of cost."""

from dataclasses import replace
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.counterfactual import counterfactual_scores
from jrouter.methods.rm_softmax import RmSoftmaxConfig, rm_softmax
from jrouter.policy import Problem
from jrouter.splits import split_log
from jrouter.tuning import RULES, choose_strength, choose_strength_by_error, slope, tuned_scores
from jrouter.tuning import STRENGTHS as CANDIDATES
from jrouter.types import LoggedData, Nuisances, take_rows

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1e4)


def loop_slope(estimate, error, width):
    chosen = 0
    for m in range(len(estimate)):
        for i in range(m + 1):
            for j in range(i):
                if (np.abs(estimate[i] - estimate[j]) > width * (error[i] + error[j])).any():
                    return chosen
        chosen = m
    return chosen


@pytest.mark.parametrize("n_targets", [1, 4])
def test_slope_is_its_definition(n_targets):
    rng = np.random.default_rng(0)
    jitted = jax.jit(slope)
    seen = set()
    for _ in range(60):
        bias = np.arange(6)[:, None] ** 2 * rng.exponential(0.2, n_targets)
        error = 2.0 ** -np.arange(6)[:, None] * rng.uniform(0.5, 2, n_targets)
        estimate = bias + error * rng.normal(size=(6, n_targets))
        got = int(jitted(jnp.asarray(estimate, jnp.float32), jnp.asarray(error, jnp.float32), width=1.5))
        assert got == loop_slope(estimate, error, 1.5)
        seen.add(got)
    assert len(seen) > 2


def test_slope_by_hand():
    # 0 +- 2, 1 +- 1, 1.5 +- .5, 4 +- .2: the last leaves the first's interval.
    estimate, error = jnp.array([0.0, 1.0, 1.5, 4.0]), jnp.array([1.0, 0.5, 0.25, 0.1])
    assert slope(estimate, error) == 2
    assert slope(estimate, error, width=10.0) == 3
    assert slope(-estimate, error) == 2
    assert slope(estimate, error, width=0.0) == 0
    # Once contradicted, no later candidate returns, even where it meets all of the earlier ones.
    assert slope(jnp.array([0.0, 5.0, 0.0]), error[:3]) == 0
    # One target of several is enough, whatever its unit.
    both = jnp.stack([jnp.zeros(4), 1e-6 * estimate], axis=1)
    assert slope(both, jnp.stack([error, 1e-6 * error], axis=1)) == 2


@cache
def logged():
    """A confounded log of 4,000 queries and 3 models, exact propensities, and good and bad outcome models."""
    rng = np.random.default_rng(0)
    n = 4000
    x = rng.normal(size=(n, 3))
    mean_score = 0.5 + 0.1 * np.tanh(x) + 0.2 * np.tanh(x[:, :1])
    mean_cost = np.array([1e-4, 1e-3, 1e-2]) * np.exp(0.3 * x[:, :1])
    propensity = np.exp(1.5 * x)
    propensity = 0.94 * propensity / propensity.sum(axis=1, keepdims=True) + 0.02
    model = (rng.random(n)[:, None] > propensity.cumsum(axis=1)).sum(axis=1)

    def at_logged(values):
        return jnp.asarray(values[np.arange(n), model], jnp.float32)

    score = rng.random(n) < at_logged(mean_score)
    cost = at_logged(mean_cost * np.exp(0.3 * rng.normal(size=(n, 1)) - 0.045))
    log = LoggedData(
        x=jnp.asarray(x, jnp.float32),
        model=jnp.asarray(model, jnp.int32),
        score=jnp.asarray(score, jnp.float32),
        cost=cost,
        row_weight=jnp.ones(n),
        models=("a", "b", "c"),
    )
    mean_score, mean_cost = jnp.asarray(mean_score, jnp.float32), jnp.asarray(mean_cost, jnp.float32)
    good = Nuisances(at_logged(propensity), mean_score, mean_cost, jnp.zeros(n, jnp.int32))
    # Bends the wrong way with x, so that its error depends on x as the propensity does.
    bad = replace(good, score=1.0 - mean_score, cost=3.0 * mean_cost.mean(axis=0) - mean_cost)
    return log, good, bad


choose = {rule: jax.jit(rule, static_argnames="estimator") for rule in (choose_strength, choose_strength_by_error)}


@pytest.mark.parametrize("rule", choose)
@pytest.mark.parametrize("estimator", ["dros", "switch"])
def test_a_bad_outcome_model_asks_for_larger_strengths_than_a_good_one(rule, estimator):
    log, good, bad = logged()
    for_good, _ = choose[rule](log, good, estimator=estimator, strengths=jnp.array(STRENGTHS))
    for_bad, info = choose[rule](log, bad, estimator=estimator, strengths=jnp.array(STRENGTHS))
    assert for_good == 0
    assert for_bad > for_good + 1
    assert info.chosen == for_bad
    assert info.estimates.shape == info.errors.shape == (len(STRENGTHS), 6)


@pytest.mark.parametrize("rule", choose)
def test_order_of_candidates_and_unit_of_cost_do_not_matter(rule):
    log, _, bad = logged()
    run = partial(choose[rule], estimator="dros")
    chosen, info = run(log, bad, strengths=jnp.array(STRENGTHS))
    backwards, _ = run(log, bad, strengths=jnp.array(STRENGTHS[::-1]))
    assert STRENGTHS[::-1][int(backwards)] == STRENGTHS[int(chosen)]
    in_cents, other = run(
        replace(log, cost=1e4 * log.cost), replace(bad, cost=1e4 * bad.cost), strengths=jnp.array(STRENGTHS)
    )
    assert in_cents == chosen
    np.testing.assert_allclose(info.estimates, other.estimates, rtol=1e-3)
    np.testing.assert_allclose(info.errors, other.errors, rtol=1e-3)


def test_both_score_and_cost_are_looked_at():
    log, good, bad = logged()
    for mixed in (replace(good, score=bad.score), replace(good, cost=bad.cost)):
        assert choose[choose_strength](log, mixed, estimator="dros", strengths=jnp.array(STRENGTHS))[0] > 0


def test_info_is_means_and_errors_in_units():
    log, _, bad = logged()
    _, info = choose[choose_strength](log, bad, estimator="dros", strengths=jnp.array(STRENGTHS))
    scores = counterfactual_scores(log, bad, estimator="dros", strength=STRENGTHS[2])
    model, n = np.asarray(log.model), log.model.size
    for t in range(3):
        unit = np.asarray(log.cost, np.float64)[model == t].std()
        np.testing.assert_allclose(
            info.estimates[2, 3 + t], np.asarray(scores.cost, np.float64)[:, t].mean() / unit, rtol=1e-3
        )
        moved = np.asarray(scores.cost - bad.cost, np.float64)[:, t]
        np.testing.assert_allclose(info.errors[2, 3 + t], moved.std() / np.sqrt(n) / unit, rtol=1e-3)


@chex.assert_max_traces(n=1)
def traced(log, nuisances, strengths):
    return choose_strength(log, nuisances, estimator="balancing", strengths=strengths)


def test_balancing_is_tuned_too_in_one_program_and_row_weights_count():
    log, good, bad = logged()
    run = jax.jit(traced)
    strengths = jnp.array([1e-3, 1.0, 100.0])
    for_good, _ = run(log, good, strengths)
    for_bad, info = run(log, bad, strengths)
    assert for_good == 0 < for_bad
    # Absent rows say nothing, whatever was observed of them.
    half = replace(log, row_weight=jnp.asarray(np.arange(log.model.size) % 2, jnp.float32))
    chosen, first = run(half, bad, strengths)
    spoilt = replace(half, cost=jnp.where(half.weight > 0, half.cost, 1e3))
    again, second = run(spoilt, bad, strengths)
    assert again == chosen
    np.testing.assert_allclose(first.estimates, second.estimates, rtol=1e-4, atol=1e-5)
    assert (np.asarray(first.errors) > np.asarray(info.errors)).all()


def test_estimators_without_a_strength():
    log, good, _ = logged()
    for rule in choose:
        with pytest.raises(ValueError, match="'dr' has no strength to choose: expected one of switch, dros, balancing"):
            rule(log, good, estimator="dr", strengths=jnp.ones(2))


def test_scores_may_be_asked_for_by_rule():
    log, _, bad = logged()
    for rule, choose_by in RULES.items():
        tuned = jax.jit(partial(tuned_scores, estimator="dros", strength=rule))(log, bad)
        chosen, _ = choose[choose_by](log, bad, estimator="dros", strengths=jnp.array(CANDIDATES))
        at_it = counterfactual_scores(log, bad, estimator="dros", strength=CANDIDATES[int(chosen)])
        np.testing.assert_allclose(tuned.score, at_it.score, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(tuned.cost, at_it.cost, rtol=1e-5, atol=1e-8)
    with pytest.raises(ValueError, match="unknown rule 'best': expected a number or one of slope, error"):
        tuned_scores(log, bad, estimator="dros", strength="best")
    with pytest.raises(ValueError, match="'dr' has no strength to choose"):
        tuned_scores(log, bad, estimator="dr", strength="slope")


def test_a_router_may_be_trained_on_scores_whose_strength_the_log_chose():
    log, _, bad = logged()
    few = take_rows(log, np.arange(300))
    split = split_log([few], seeds=[0])[0]
    problem = Problem(few, split, jax.tree.map(lambda leaf: leaf[:300], bad), jnp.array([100.0]))

    @partial(jax.jit, static_argnames="strength")
    def fit(strength):
        return rm_softmax(RmSoftmaxConfig(strength=strength, hidden=(4,), epochs=1)).fit(jax.random.key(0), problem)

    chosen, _ = choose[choose_strength](few, problem.nuisances, estimator="dros", strengths=jnp.array(CANDIDATES))
    chex.assert_trees_all_close(fit("slope"), fit(CANDIDATES[int(chosen)]), rtol=1e-4, atol=1e-6)
