"""Counterfactual scores: identities, the definitions in float64 loops, and what double robustness promises."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrouter.balancing import balancing_weights
from jrouter.counterfactual import WEIGHTS, counterfactual_scores
from jrouter.estimators import (
    augmented,
    direct,
    doubly_robust,
    inverse_propensity_weight,
    ips,
    mrdr_row_weight,
    overlap_row_weight,
    overlap_tilt,
    self_normalised_weights,
    shrunken_weight,
    switch_weight,
)
from jrouter.logging_policies import confounded, simulate_log
from jrouter.metrics import utility
from jrouter.nuisances.crossfit import OUTCOME_MODELS, PROPENSITY_MODELS, NuisanceConfig, fit_nuisances
from jrouter.nuisances.crossfit_outcome import fit_outcome, held_out_outcome
from jrouter.nuisances.propensity import logistic
from jrouter.nuisances.ridge import ridge
from jrouter.splits import split_log
from jrouter.synthetic import draw_queries, make_world
from jrouter.types import LoggedData, Nuisances

PROPERTY = settings(max_examples=50, derandomize=True, deadline=None)
N, T = 30, 4
SCORED = np.arange(N) % 3 > 0


def example(seed=0, n=N):
    """A log of n rows and its nuisances, at random: outcomes [n, T], propensities [n, T], logged model and outcome."""
    rng = np.random.default_rng(seed)
    outcome = rng.normal(size=(n, T))
    propensity = rng.dirichlet(np.ones(T), n) * 0.9 + 0.1 / T
    model = rng.integers(T, size=n)
    observed = rng.normal(size=n)
    outcome, observed, propensity = (jnp.asarray(values, jnp.float32) for values in (outcome, observed, propensity))
    return outcome, observed, jnp.asarray(model, jnp.int32), propensity


def loop_augmented(outcome, observed, model, weight):
    """The definition, one row and one model at a time."""
    scores = np.asarray(outcome, np.float64).copy()
    for i in range(len(scores)):
        for t in range(scores.shape[1]):
            if t == int(model[i]):
                scores[i, t] = scores[i, t] + float(weight[i]) * (float(observed[i]) - scores[i, t])
    return scores


def test_augmented_is_its_definition():
    outcome, observed, model, _ = example()
    weight = jnp.linspace(0.0, 5.0, N)
    scores = jax.vmap(augmented)(outcome, observed, model, weight)
    np.testing.assert_allclose(scores, loop_augmented(outcome, observed, model, weight), rtol=1e-5, atol=1e-5)


def test_weights_0_and_1_and_1_over_p():
    outcome, observed, model, propensity = (values[0] for values in example())
    p = propensity[model]
    np.testing.assert_array_equal(augmented(outcome, observed, model, jnp.array(0.0)), direct(outcome))
    replaced = augmented(outcome, observed, model, jnp.array(1.0))
    np.testing.assert_allclose(replaced, outcome.at[model].set(observed), rtol=1e-6)
    np.testing.assert_array_equal(
        augmented(outcome, observed, model, inverse_propensity_weight(p)),
        doubly_robust(outcome, observed, model, propensity),
    )
    np.testing.assert_allclose(
        doubly_robust(outcome, observed, model, propensity)[model],
        float(outcome[model]) + (float(observed) - float(outcome[model])) / float(p),
        rtol=1e-5,
    )


def test_doubly_robust_is_direct_where_the_outcome_model_is_exact():
    outcome, _, model, propensity = example()
    observed = jnp.take_along_axis(outcome, model[:, None], axis=1)[:, 0]
    scores = jax.vmap(doubly_robust)(outcome, observed, model, propensity)
    np.testing.assert_array_equal(scores, jax.vmap(direct)(outcome))


def test_doubly_robust_is_ips_where_the_outcome_model_is_zero():
    outcome, observed, model, propensity = example()
    scores = jax.vmap(doubly_robust)(jnp.zeros_like(outcome), observed, model, propensity)
    np.testing.assert_array_equal(scores, jax.vmap(ips)(observed, model, propensity))
    expected = np.zeros((N, T))
    for i in range(N):
        expected[i, model[i]] = float(observed[i]) / float(propensity[i, model[i]])
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def estimator_calls(outcome, observed, model, propensity, **mask):
    return {
        "direct": direct(outcome, **mask),
        "ips": ips(observed, model, propensity, **mask),
        "doubly_robust": doubly_robust(outcome, observed, model, propensity, **mask),
        "augmented": augmented(outcome, observed, model, jnp.array(1.7), **mask),
    }


@pytest.mark.parametrize("logged", [1, 3])
def test_mask_is_slice(logged):
    outcome, observed, _, propensity = (values[1] for values in example())
    kept = np.array([1, 3])
    mask = jnp.zeros(T, bool).at[kept].set(True)
    whole = estimator_calls(outcome, observed, jnp.array(logged), propensity, mask=mask)
    # A slice of the propensities is not renormalised: it is still the chance of the model having been logged.
    place = jnp.array(int(np.searchsorted(kept, logged)))
    part = estimator_calls(outcome[kept], observed, place, propensity[kept])
    for name in whole:
        np.testing.assert_allclose(whole[name][kept], part[name], rtol=1e-6, err_msg=name)
        np.testing.assert_array_equal(whole[name][~mask], 0.0, err_msg=name)


def test_vmap_is_loop():
    rows = example()
    together = jax.vmap(estimator_calls)(*rows)
    for i in range(5):
        for name, scores in estimator_calls(*(values[i] for values in rows)).items():
            np.testing.assert_allclose(together[name][i], scores, rtol=1e-6, err_msg=name)


def test_gradients_are_right_and_finite_where_a_propensity_is_0():
    outcome, observed, propensity = jnp.array([0.5, -1.0, 2.0]), jnp.array(0.7), jnp.array([0.0, 0.4, 0.6])

    def total(outcome, observed, propensity, model):
        return doubly_robust(outcome, observed, jnp.array(model), propensity).sum()

    slopes = jax.grad(total, argnums=(0, 1, 2))
    for got, expected in zip(slopes(outcome, observed, propensity, 0), ([1, 1, 1], 0, [0, 0, 0]), strict=True):
        np.testing.assert_array_equal(got, np.array(expected, np.float32))
    expected = ([1, 1 - 1 / 0.4, 1], 1 / 0.4, [0, -(0.7 + 1.0) / 0.4**2, 0])
    for got, right in zip(slopes(outcome, observed, propensity, 1), expected, strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(lambda p: shrunken_weight(p, strength=3.0))(0.0), 3.0)
    # Model 0 has no weight at all.
    normalised = jax.grad(lambda w: self_normalised_weights(w, jnp.array([0, 1, 1]), n_models=2)[1])(
        jnp.array([0.0, 1.0, 3.0])
    )
    # w_1 -> 3 w_1 / (w_1 + w_2)
    np.testing.assert_allclose(normalised, [0.0, 3 * 3 / 16, -3 * 1 / 16], rtol=1e-6)


def test_inverse_propensity_weight():
    np.testing.assert_allclose(inverse_propensity_weight(jnp.array([0.0, 0.25, 1.0])), [0.0, 4.0, 1.0])


@pytest.mark.parametrize("strength", [1.0, 10.0, 400.0])
def test_shrunken_weight_is_its_definition_and_bounded(strength):
    p = np.linspace(1e-3, 1.0, 200)
    shrunken = np.asarray(shrunken_weight(jnp.asarray(p, jnp.float32), strength=strength))
    w = 1 / p
    np.testing.assert_allclose(shrunken, strength * w / (w**2 + strength), rtol=1e-5)
    assert (shrunken <= w * (1 + 1e-6)).all()
    assert (shrunken <= np.sqrt(strength) / 2 * (1 + 1e-6)).all()
    at_largest = shrunken_weight(jnp.array(strength**-0.5), strength=strength)
    np.testing.assert_allclose(at_largest, np.sqrt(strength) / 2, rtol=1e-6)


def test_shrunken_weight_lies_between_direct_and_doubly_robust():
    p = jnp.linspace(0.01, 1.0, 50)
    np.testing.assert_allclose(shrunken_weight(p, strength=1e-6), 0.0, atol=1e-5)
    np.testing.assert_array_equal(shrunken_weight(p, strength=0.0), 0.0)
    np.testing.assert_allclose(shrunken_weight(p, strength=1e12), 1 / p, rtol=1e-5)
    assert shrunken_weight(jnp.array(0.0), strength=10.0) == 0.0


@pytest.mark.parametrize("threshold", [0.5, 1.0, 4.0, 1e6])
def test_switch_weight_is_its_definition_between_direct_and_doubly_robust(threshold):
    p = np.array([0.0, 1e-3, 0.2, 0.25, 0.26, 0.9, 1.0])
    expected = [1 / value if value > 0 and 1 / value <= threshold else 0.0 for value in p]
    switched = switch_weight(jnp.asarray(p, jnp.float32), threshold=threshold)
    np.testing.assert_allclose(switched, expected, rtol=1e-6)
    slope = jax.vmap(jax.grad(lambda one: switch_weight(one, threshold=threshold)))(jnp.asarray(p, jnp.float32))
    np.testing.assert_allclose(slope, -np.square(expected), rtol=1e-5)


def test_overlap_tilt_is_its_definition_and_bounds_the_weights():
    p = np.random.default_rng(0).dirichlet(np.ones(T) / 2, 50) * 0.999 + 0.001 / T
    tilt = jax.vmap(overlap_tilt)(jnp.asarray(p, jnp.float32))
    np.testing.assert_allclose(tilt, [1 / sum(1 / value for value in row) for row in p], rtol=1e-4)
    assert (np.asarray(tilt)[:, None] / p <= 1 + 1e-4).all()
    np.testing.assert_allclose(overlap_tilt(jnp.full(T, 1 / T)), 1 / T**2, rtol=1e-6)
    # Two models: p (1 - p), the overlap weight of Li, Morgan & Zaslavsky.
    np.testing.assert_allclose(overlap_tilt(jnp.array([0.2, 0.8])), 0.16, rtol=1e-6)
    assert overlap_tilt(jnp.array([0.0, 0.4, 0.6])) == 0.0
    assert np.isfinite(jax.grad(overlap_tilt)(jnp.array([0.0, 0.4, 0.6]))).all()
    assert 0 < float(overlap_tilt(jnp.array([1e-30, 1.0]))) < 1e-29


def test_overlap_row_weight_has_mean_1_and_says_what_it_needs():
    log, nuisances = log_and_nuisances()
    everyone = replace(nuisances, all_propensity=example(0)[3])
    weight = overlap_row_weight(everyone, log.row_weight)
    np.testing.assert_allclose((log.weight * weight).sum() / log.weight.sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(overlap_row_weight(everyone).mean(), 1.0, rtol=1e-5)
    never = jnp.zeros((N, T)).at[:, 0].set(1.0)
    np.testing.assert_array_equal(overlap_row_weight(replace(nuisances, all_propensity=never)), 0.0)
    with pytest.raises(ValueError, match="propensity of every model"):
        overlap_row_weight(nuisances)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_mrdr_row_weight_is_its_definition(probability):
    p = np.array([0.01, 0.3, 1.0])
    got = mrdr_row_weight(jnp.asarray(p, jnp.float32), jnp.full(3, probability))
    np.testing.assert_allclose(got, probability**2 * (1 - p) / p**2, rtol=1e-5, atol=1e-6)
    assert mrdr_row_weight(jnp.array(0.0), jnp.array(probability)) == 0.0
    assert jax.grad(mrdr_row_weight)(0.0, probability) == 0.0


# Six rows always, so that it is compiled once; weights of 0 or of a size that float32 can sum.
amount = st.just(0.0) | st.floats(0.01, 50)
six_rows = st.lists(st.tuples(st.integers(0, 3), amount, amount), min_size=6, max_size=6)
normalise = jax.jit(self_normalised_weights, static_argnames="n_models")


@PROPERTY
@given(six_rows)
def test_self_normalised_weights_are_their_definition(rows):
    model, weight, row_weight = (np.array(column) for column in zip(*rows, strict=True))
    got = normalise(weight.astype(np.float32), model, n_models=T, row_weight=row_weight.astype(np.float32))
    for i in range(len(rows)):
        total = sum(v * w for t, w, v in rows if t == model[i])
        expected = weight[i] * row_weight.sum() / total if total > 0 else 0.0
        np.testing.assert_allclose(got[i], expected, rtol=1e-4)


def test_self_normalised_weights_average_to_1_and_ignore_a_factor():
    _, observed, model, propensity = example()
    weight = 1 / jnp.take_along_axis(propensity, model[:, None], axis=1)[:, 0]
    row_weight = jnp.linspace(0.5, 2.0, N)
    normalised = self_normalised_weights(weight, model, n_models=T, row_weight=row_weight)
    for t in range(T):
        average = (row_weight * normalised)[model == t].sum() / row_weight.sum()
        np.testing.assert_allclose(average, 1.0, rtol=1e-5)
        # SNIPS: the mean score is the weighted mean of what was observed.
        of_model = np.asarray(model) == t
        snips = (row_weight * normalised * observed)[of_model].sum() / row_weight.sum()
        both = np.asarray(row_weight * weight, np.float64)[of_model]
        np.testing.assert_allclose(snips, both @ np.asarray(observed)[of_model] / both.sum(), rtol=1e-4)
    scaled = self_normalised_weights(7 * weight, model, n_models=T, row_weight=row_weight)
    np.testing.assert_allclose(scaled, normalised, rtol=1e-5)


rows_of_scores = jax.jit(jax.vmap(doubly_robust))


@PROPERTY
@given(st.floats(0, 1000, width=32), st.integers(0, 100))
def test_scores_are_linear_in_the_outcome(lam, seed):
    score_model, score, model, propensity = example(seed)
    cost_model, cost, _, _ = example(seed + 1000)
    apart = utility(
        rows_of_scores(score_model, score, model, propensity), rows_of_scores(cost_model, cost, model, propensity), lam
    )
    together = rows_of_scores(score_model - lam * cost_model, score - lam * cost, model, propensity)
    np.testing.assert_allclose(apart, together, rtol=1e-4, atol=1e-4 * (1 + lam))


def log_and_nuisances():
    score_model, score, model, propensity = example(0)
    cost_model, cost, _, _ = example(1)
    log = LoggedData(
        x=jnp.stack([score_model[:, 0], cost_model[:, 0]], axis=1),
        model=model,
        score=score,
        cost=cost,
        scored=jnp.asarray(SCORED),
        row_weight=jnp.linspace(0.5, 2.0, N),
    )
    logged = jnp.take_along_axis(propensity, model[:, None], axis=1)[:, 0]
    return log, Nuisances(logged, score_model, cost_model, jnp.zeros(N, jnp.int32))


@pytest.mark.parametrize("estimator", list(WEIGHTS))
def test_counterfactual_scores_are_their_definition(estimator):
    log, nuisances = log_and_nuisances()
    got = counterfactual_scores(log, nuisances, estimator=estimator, strength=4.0)
    weight = 1 / np.asarray(nuisances.propensity, np.float64)
    if estimator == "direct":
        weight = 0 * weight
    elif estimator == "dros":
        weight = 4.0 * weight / (weight**2 + 4.0)
    elif estimator == "switch":
        weight = np.where(weight <= 4.0, weight, 0.0)
        assert 0 < (weight > 0).sum() < N
    elif estimator == "balancing":
        weight = balancing_weights(log.x, log.model, n_models=T, penalty=4.0, row_weight=log.row_weight)
        weight = np.asarray(weight, np.float64)
        assert np.ptp(weight[np.asarray(log.model) == 0]) > 0.1
    elif estimator in ("snips", "sndr"):
        v = np.asarray(log.row_weight, np.float64)
        totals = [sum(v[j] * weight[j] for j in range(N) if log.model[j] == log.model[i]) for i in range(N)]
        weight = weight * v.sum() / np.array(totals)
    # Of each model's answers, the share that was scored, by row weight.
    v, models = np.asarray(log.row_weight, np.float64), np.asarray(log.model)
    share = np.array([(v * SCORED)[models == t].sum() / v[models == t].sum() for t in models])
    for name in ("score", "cost"):
        outcome = np.asarray(getattr(nuisances, name), np.float64) * (estimator not in ("ips", "snips"))
        used = np.where(SCORED, weight / np.maximum(share, 1e-12), 0.0) if name == "score" else weight
        expected = loop_augmented(outcome, getattr(log, name), log.model, used)
        np.testing.assert_allclose(getattr(got, name), expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_unscored_rows_keep_the_direct_score_and_correct_the_cost():
    log, nuisances = log_and_nuisances()
    got = counterfactual_scores(log, nuisances)
    np.testing.assert_array_equal(got.score[~SCORED], nuisances.score[~SCORED])
    assert (np.asarray(got.cost != nuisances.cost).sum(axis=1) == 1).all()
    assert (np.asarray(got.score != nuisances.score).sum(axis=1)[SCORED] == 1).all()
    # Whatever stands in an unscored row's place for the score does not matter.
    other = counterfactual_scores(replace(log, score=jnp.where(SCORED, log.score, 1e6)), nuisances)
    np.testing.assert_array_equal(other.score, got.score)


@pytest.mark.parametrize("estimator", ["dr", "dros", "snips"])
def test_each_row_has_its_own_probability_of_being_scored(estimator):
    log, nuisances = log_and_nuisances()
    probability = jnp.linspace(0.2, 1.0, N)
    whole = counterfactual_scores(replace(log, scored=None), nuisances, estimator=estimator)
    share = jnp.full(T, 0.7)  # of no use beside it
    own = replace(nuisances, scored_probability=probability)
    got = counterfactual_scores(log, own, estimator=estimator, scored_share=share)
    base = nuisances.score * (estimator != "snips")
    np.testing.assert_allclose(
        got.score, base + (whole.score - base) * (SCORED / probability)[:, None], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(got.cost, whole.cost)


@pytest.mark.parametrize("estimator", [name for name in WEIGHTS if name not in ("direct", "dros")])
def test_scores_missing_at_random_given_the_model_do_not_bias(estimator):
    # Model 0 is scored on a quarter of its rows, model 1 on all: counting the others as 0 would cost it most.
    n = 40_000
    rng = np.random.default_rng(0)
    model = rng.integers(0, 2, n)
    score = (rng.random(n) < np.array([0.9, 0.5])[model]).astype(np.float32)
    scored = (model == 1) | (rng.random(n) < 0.25)
    log = LoggedData(
        x=jnp.zeros((n, 1)),
        model=jnp.asarray(model, jnp.int32),
        score=jnp.asarray(score * scored),
        cost=jnp.ones(n),
        scored=jnp.asarray(scored),
        models=("a", "b"),
    )
    wrong = jnp.full((n, 2), 0.2)
    nuisances = Nuisances(jnp.full(n, 0.5), wrong, wrong, jnp.zeros(n, jnp.int32))
    # Nothing to switch off, nothing to balance: weights are 2 for all.
    got = np.asarray(counterfactual_scores(log, nuisances, estimator=estimator).score, np.float64)
    error = got.mean(axis=0) - [0.9, 0.5]
    assert (np.abs(error) < 3 * got.std(axis=0) / np.sqrt(n)).all()


def test_unknown_estimator():
    log, nuisances = log_and_nuisances()
    with pytest.raises(ValueError, match="unknown estimator 'tmle': expected one of direct, ips"):
        counterfactual_scores(log, nuisances, estimator="tmle")


@cache
def confounded_log():
    """20,000 queries of known mean score and cost, logged by a policy that prefers who will do well."""
    table = draw_queries(make_world("nonlinear", dim=16, n_models=5), jax.random.key(1), 20_000)
    log, propensity, _ = simulate_log(jax.random.key(2), table, jax.jit(confounded)(table))
    return table, log, jnp.take_along_axis(propensity, log.model[:, None], axis=1)[:, 0]


def standard_errors_off(log, propensity, score, cost, table, estimator="dr", strength=10.0):
    """[2 T], mean error of every model's score and cost, in standard errors of that mean."""
    nuisances = Nuisances(propensity, score, cost, jnp.zeros_like(log.model))
    got = counterfactual_scores(log, nuisances, estimator=estimator, strength=strength)
    error = np.concatenate([got.score - table.mean_score, got.cost - table.mean_cost], axis=1).astype(np.float64)
    return error.mean(axis=0) / (error.std(axis=0) / np.sqrt(len(error)))


def wrong_outcomes(table):
    # Bends the wrong way with difficulty, so that the error depends on x as the propensity does.
    return 1.0 - table.mean_score, 3.0 * table.mean_cost.mean(axis=0) - table.mean_cost


@pytest.mark.parametrize(("estimator", "strength"), [("dr", 0.0), ("ips", 0.0), ("sndr", 0.0), ("switch", 1e3)])
def test_true_propensities_repair_a_wrong_outcome_model(estimator, strength):
    table, log, propensity = confounded_log()
    off = standard_errors_off(log, propensity, *wrong_outcomes(table), table, estimator, strength)
    assert np.abs(off).max() < 3


def test_self_normalised_doubly_robust_ignores_a_factor_and_is_snips_without_outcome_model():
    table, log, propensity = confounded_log()
    off = standard_errors_off(log, 0.1 * propensity, *wrong_outcomes(table), table, "sndr")
    assert np.abs(off).max() < 3
    assert np.abs(standard_errors_off(log, 0.1 * propensity, *wrong_outcomes(table), table, "dr")).max() > 5
    zeros = jnp.zeros((log.model.size, 5))
    nuisances = Nuisances(propensity, zeros, zeros, jnp.zeros_like(log.model))
    sndr, snips = (counterfactual_scores(log, nuisances, estimator=name) for name in ("sndr", "snips"))
    np.testing.assert_array_equal(sndr.score, snips.score)
    np.testing.assert_array_equal(sndr.cost, snips.cost)


def test_balancing_repairs_what_the_outcome_model_misses_without_propensities():
    # Score is linear in x, logging depends on x, and the outcome model says nothing of it.
    rng = np.random.default_rng(0)
    n = 4000
    x = rng.normal(size=(n, 4))
    model = (rng.random(n) < 1 / (1 + np.exp(-x[:, 0]))).astype(int)
    mean = np.stack([x[:, 0], 2.0 + x[:, 0] - x[:, 1]], axis=1)
    score = mean[np.arange(n), model] + rng.normal(size=n)
    x, score = jnp.asarray(x, jnp.float32), jnp.asarray(score, jnp.float32)
    log = LoggedData(x, jnp.asarray(model, jnp.int32), score, score, models=("a", "b"))
    constant = jnp.tile(jnp.array([0.0, 2.0]), (n, 1))
    nuisances = Nuisances(jnp.full(n, jnp.nan), constant, constant, log.model)
    score_with = jax.jit(counterfactual_scores, static_argnames="estimator")
    got = score_with(log, nuisances, estimator="balancing", strength=100.0)
    np.testing.assert_array_equal(got.score, got.cost)
    error = np.asarray(got.score, np.float64) - mean
    assert (np.abs(error.mean(axis=0)) < 3 * error.std(axis=0) / np.sqrt(n)).all()
    naive = np.array([np.asarray(score)[model == t].mean() for t in (0, 1)]) - mean.mean(axis=0)
    assert naive[0] < -0.3 < 0.3 < naive[1]


def test_overlap_rows_weigh_to_the_truth_of_the_overlap_population_with_less_variance():
    # Far from x = 0 one model is hardly ever asked, and there all do worse.
    rng = np.random.default_rng(0)
    n = 20_000
    x = rng.normal(size=n)
    every = np.exp(2 * x[:, None] * np.array([1.0, 0.0, -1.0]))
    every /= every.sum(axis=1, keepdims=True)
    mean = np.array([0.5, 0.7, 0.9]) - 0.1 * x[:, None] ** 2
    model = (rng.random(n)[:, None] > every.cumsum(axis=1)).sum(axis=1)
    score = jnp.asarray(mean[np.arange(n), model] + 0.1 * rng.normal(size=n), jnp.float32)
    log = LoggedData(x=jnp.asarray(x[:, None], jnp.float32), model=jnp.asarray(model), score=score, cost=score)
    wrong = jnp.full((n, 3), 0.4)
    chosen = jnp.asarray(every[np.arange(n), model], jnp.float32)
    nuisances = Nuisances(chosen, wrong, wrong, log.model, jnp.asarray(every, jnp.float32))
    scores = np.asarray(counterfactual_scores(log, nuisances).score, np.float64)
    tilt = 1 / (1 / every).sum(axis=1)
    truth = tilt @ mean / tilt.sum()
    influence = np.asarray(overlap_row_weight(nuisances), np.float64)[:, None] * (scores - truth)
    noise = influence.std(axis=0) / np.sqrt(n)
    assert (np.abs(influence.mean(axis=0)) < 3 * noise).all()
    # Another estimand, not the truth over all queries; and a steadier one.
    assert (truth - mean.mean(axis=0) > 5 * noise).all()
    assert noise.sum() < 0.7 * scores.std(axis=0).sum() / np.sqrt(n)


def test_estimated_propensities_of_all_models_are_kept_for_overlap(monkeypatch):
    monkeypatch.setitem(OUTCOME_MODELS, "ridge", lambda: ridge(((float("inf"), 1.0),)))
    monkeypatch.setitem(PROPENSITY_MODELS, "logistic", lambda: logistic((0.1,)))
    outcome, score, _, _ = example(0, 300)
    rng = np.random.default_rng(0)
    # Model 3 was not allowed on the first 50 rows; model 2 was never asked, so that the floor binds.
    model = jnp.asarray(np.where(rng.random(300) < 0.5, np.where(np.arange(300) < 50, 0, 3), 1), jnp.int32)
    allowed = jnp.ones((300, T), bool).at[:50, 3].set(False)
    log = LoggedData(outcome, model, score, jnp.abs(score), allowed=allowed, models=tuple("abcd"))
    split = split_log([log], seeds=[0], n_folds=2)[0]

    def fit(log, pool="allowed"):
        return fit_nuisances(jax.random.key(0), log, split, NuisanceConfig("ridge", pool=pool))

    got = jax.jit(fit)(log)
    every = np.asarray(got.all_propensity)
    np.testing.assert_array_equal(every[np.arange(300), model], got.propensity)
    np.testing.assert_array_equal(every[:50, 3], 0.0)
    np.testing.assert_allclose(every[:, 2], 0.1 / T, rtol=1e-5)
    assert np.ptp(every[50:, 3]) > 0.01 and every[50:].min() >= 0.1 / T * (1 - 1e-6)
    weight = np.asarray(overlap_row_weight(got))
    assert (weight[:50] == 0).all() and (weight[50:] > 0).all()
    assert jax.eval_shape(fit, replace(log, propensity=jnp.full(300, 0.5))).all_propensity is None
    # Averaged over what was allowed, every model may be chosen, on those rows too.
    free = jax.jit(partial(fit, pool="any"))(log)
    assert np.asarray(free.all_propensity).min() >= 0.1 / T * (1 - 1e-6) and (overlap_row_weight(free) > 0).all()


def test_mrdr_fits_the_outcome_model_that_values_its_policy_with_least_variance():
    # Model 1 always is the policy; its score bends with x, the outcome model cannot, and it was rarely asked
    # where x is large: there a plain fit is worst and the weights are largest.
    rng = np.random.default_rng(0)
    n = 20_000
    x = rng.uniform(-1, 1, n)
    p = 0.04 + 0.92 / (1 + np.exp(5 * x))
    model = (rng.random(n) < p).astype(int)
    score = np.exp(2 * x) / 4 + 0.1 * rng.normal(size=n)
    log = LoggedData(
        x=jnp.asarray(x[:, None], jnp.float32),
        model=jnp.asarray(model, jnp.int32),
        score=jnp.asarray(score, jnp.float32),
        cost=jnp.ones(n),
        models=("other", "policy"),
    )
    logged = jnp.asarray(np.where(model == 1, p, 1 - p), jnp.float32)
    split, family = split_log([log], seeds=[0], n_folds=2)[0], ridge(((float("inf"), 1e-3),))
    mrdr = mrdr_row_weight(logged, (log.model == 1).astype(jnp.float32))

    def fit(log):
        return held_out_outcome(fit_outcome(jax.random.key(0), family, log, split))

    fit = jax.jit(fit)
    squares = {}
    for name, row_weight in (("plain", None), ("mrdr", mrdr), ("reverse", 1 / (1 + mrdr))):
        score, cost = fit(replace(log, row_weight=jnp.ones(n) if row_weight is None else row_weight))
        scores = counterfactual_scores(log, Nuisances(logged, score, cost, split.fold)).score[:, 1]
        scores = np.asarray(scores, np.float64)
        truth = np.sinh(2) / 8
        assert abs(scores.mean() - truth) < 3 * scores.std() / np.sqrt(n)  # each is right on average
        squares[name] = (scores - truth) ** 2
    for better, worse in (("mrdr", "plain"), ("mrdr", "reverse")):
        gain = squares[worse] - squares[better]
        assert gain.mean() > 3 * gain.std() / np.sqrt(n)
    assert squares["mrdr"].mean() < 0.8 * squares["plain"].mean()


@pytest.mark.parametrize("exponent", [0.0, -0.5])
def test_a_true_outcome_model_repairs_wrong_propensities(exponent):
    table, log, propensity = confounded_log()
    off = standard_errors_off(log, 0.2 * (5 * propensity) ** exponent, table.mean_score, table.mean_cost, table)
    assert np.abs(off).max() < 3


def test_nothing_repairs_both():
    table, log, propensity = confounded_log()
    off = standard_errors_off(log, jnp.full_like(propensity, 0.2), *wrong_outcomes(table), table)
    assert np.abs(off).max() > 5
