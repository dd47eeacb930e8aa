"""Counterfactual scores: identities, the definitions in float64 loops, and what double robustness promises."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrouter.estimators import (
    ESTIMATORS,
    augmented,
    counterfactual_scores,
    direct,
    doubly_robust,
    inverse_propensity_weight,
    ips,
    self_normalised_weights,
    shrunken_weight,
)
from jrouter.logging_policies import confounded, simulate_log
from jrouter.metrics import utility
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
        x=jnp.zeros((N, 1)),
        model=model,
        score=score,
        cost=cost,
        scored=jnp.asarray(SCORED),
        row_weight=jnp.linspace(0.5, 2.0, N),
    )
    logged = jnp.take_along_axis(propensity, model[:, None], axis=1)[:, 0]
    return log, Nuisances(logged, score_model, cost_model, jnp.zeros(N, jnp.int32))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_counterfactual_scores_are_their_definition(estimator):
    log, nuisances = log_and_nuisances()
    got = counterfactual_scores(log, nuisances, estimator=estimator, strength=4.0)
    weight = 1 / np.asarray(nuisances.propensity, np.float64)
    if estimator == "direct":
        weight = 0 * weight
    elif estimator == "dros":
        weight = 4.0 * weight / (weight**2 + 4.0)
    elif estimator == "snips":
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


@pytest.mark.parametrize("estimator", ["dr", "ips"])
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


def standard_errors_off(log, propensity, score, cost, table, estimator="dr"):
    """[2 T], mean error of every model's score and cost, in standard errors of that mean."""
    nuisances = Nuisances(propensity, score, cost, jnp.zeros_like(log.model))
    got = counterfactual_scores(log, nuisances, estimator=estimator)
    error = np.concatenate([got.score - table.mean_score, got.cost - table.mean_cost], axis=1).astype(np.float64)
    return error.mean(axis=0) / (error.std(axis=0) / np.sqrt(len(error)))


def wrong_outcomes(table):
    # Bends the wrong way with difficulty, so that the error depends on x as the propensity does.
    return 1.0 - table.mean_score, 3.0 * table.mean_cost.mean(axis=0) - table.mean_cost


@pytest.mark.parametrize("estimator", ["dr", "ips"])
def test_true_propensities_repair_a_wrong_outcome_model(estimator):
    table, log, propensity = confounded_log()
    off = standard_errors_off(log, propensity, *wrong_outcomes(table), table, estimator)
    assert np.abs(off).max() < 3


@pytest.mark.parametrize("exponent", [0.0, -0.5])
def test_a_true_outcome_model_repairs_wrong_propensities(exponent):
    table, log, propensity = confounded_log()
    off = standard_errors_off(log, 0.2 * (5 * propensity) ** exponent, table.mean_score, table.mean_cost, table)
    assert np.abs(off).max() < 3


def test_nothing_repairs_both():
    table, log, propensity = confounded_log()
    off = standard_errors_off(log, jnp.full_like(propensity, 0.2), *wrong_outcomes(table), table)
    assert np.abs(off).max() > 5
