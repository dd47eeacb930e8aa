"""Calibration: curves and errors in float64, slopes against other regressions, what is known to be miscalibrated."""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression

from jrouter.calibration import (
    calibration_curve,
    expected_calibration_error,
    outcome_calibration,
    propensity_calibration,
)
from jrouter.misfit import outcome_residual

T = 3
curve_of, propensities_of, outcomes_of = (
    jax.jit(function) for function in (calibration_curve, propensity_calibration, outcome_calibration)
)
residuals_of = jax.jit(jax.vmap(outcome_residual))


def choices(seed, n, power=1.0):
    """(model [n], propensities [n, T] that are `power` times as confident as the truth)."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(size=(n, T))
    model = (log_odds + rng.gumbel(size=(n, T))).argmax(axis=1)
    claimed = np.exp(power * log_odds)
    return jnp.asarray(model, jnp.int32), jnp.asarray(claimed / claimed.sum(axis=1, keepdims=True), jnp.float32)


def test_curves_and_errors_are_their_definition():
    rng = np.random.default_rng(0)
    n = 503
    predicted, observed = rng.random(n).astype(np.float32), rng.integers(2, size=n).astype(np.float32)
    weight = rng.choice([0.0, 1.0, 2.0], size=n).astype(np.float32)
    got = curve_of(predicted, observed, weight)
    order = np.argsort(predicted)
    p, y, v = (part[order].astype(np.float64) for part in (predicted, observed, weight))
    place = np.minimum((10 * (np.cumsum(v) - v / 2) / v.sum()).astype(int), 9)
    error = 0.0
    for number in range(10):
        of_bin = place == number
        total = v[of_bin].sum()
        means = [np.average(part[of_bin], weights=v[of_bin]) for part in (p, y)]
        np.testing.assert_allclose([got.predicted[number], got.observed[number]], means, rtol=1e-4)
        np.testing.assert_allclose(got.weight[number], total, rtol=1e-6)
        error += total / v.sum() * abs(means[0] - means[1])
    np.testing.assert_allclose(expected_calibration_error(got), error, rtol=1e-4)
    # Rows of weight 0 have no say, whatever they hold; and no rows at all are no error.
    odd = curve_of(np.where(weight > 0, predicted, 1e9), np.where(weight > 0, observed, -1e9), weight)
    np.testing.assert_allclose(odd.observed, got.observed, rtol=1e-4)
    assert float(expected_calibration_error(curve_of(predicted, observed, 0 * weight))) == 0.0


def test_the_slope_of_propensities_is_logistic_regressions():
    model, claimed = choices(1, 400, power=1.7)
    weight = jnp.asarray(np.random.default_rng(2).choice([0.0, 1.0, 3.0], size=400), jnp.float32)
    found = propensities_of(model, claimed, weight)
    log_odds = np.log(claimed / (1 - np.asarray(claimed))).reshape(-1, 1)
    event = np.eye(T)[model].reshape(-1)
    fit = LogisticRegression(C=1e6, tol=1e-10, max_iter=1000).fit(log_odds, event, np.repeat(weight, T))
    np.testing.assert_allclose(found.slope, fit.coef_[0, 0], rtol=2e-3)
    assert float(found.slope) < 0.8 and float(found.slope_z) < -2.5


def test_right_propensities_are_calibrated_and_others_not():
    slopes, zs, errors = [], [], []
    for seed in range(40):
        found = propensities_of(*choices(seed, 1000))
        slopes.append(found.slope)
        zs.append(found.slope_z)
        errors.append(found.error)
    assert abs(np.mean(slopes) - 1) < 4 * np.std(slopes) / np.sqrt(40)
    # 40 draws tell a deviation to 11%.
    assert 0.6 < np.std(zs) < 1.45 and abs(np.mean(zs)) < 0.7
    over, under = (propensities_of(*choices(0, 1000, power=power)) for power in (1.6, 0.6))
    assert float(over.slope_z) < -5 and float(under.slope_z) > 5 and float(under.slope) > 1.3 > 0.8 > float(over.slope)
    assert min(float(over.error), float(under.error)) > 2 * np.mean(errors)


def test_floors_and_forbidden_models_are_left_out_of_the_slope():
    model, p = choices(3, 2000)
    low = p < 0.1
    raised = jnp.maximum(p, 0.1)
    left = propensities_of(model, raised, usable=~low)
    np.testing.assert_allclose(left.slope, propensities_of(model, p, usable=~low).slope, rtol=1e-5)
    assert float(propensities_of(model, raised).slope_z) > float(left.slope_z) + 1
    # A model that was never allowed is not a pair at all.
    forbidden = jnp.concatenate([p, jnp.zeros((2000, 1))], axis=1)
    for mine, expected in zip(propensities_of(model, forbidden)[:3], propensities_of(model, p)[:3], strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)


def outcomes(seed, n=600, stretch=1.0, shift=0.0):
    """(residual [n, T], predicted [n, T], model): predictions that vary `stretch` times as much as they should."""
    rng = np.random.default_rng(seed)
    mean = np.array([0.1, 1.0, 10.0]) * (1 + 0.2 * rng.normal(size=(n, T)))
    model = jnp.asarray(rng.integers(T, size=n), jnp.int32)
    observed = mean[np.arange(n), model] * (1 + 0.1 * rng.normal(size=n))
    level = np.array([0.1, 1.0, 10.0])
    predicted = jnp.asarray(level * (1 + shift) + stretch * (mean - level), jnp.float32)
    return residuals_of(predicted, jnp.asarray(observed, jnp.float32), model), predicted, model


def test_outcome_slopes_are_regressions_within_models():
    residual, predicted, model = outcomes(0, stretch=1.5)
    weight = jnp.asarray(np.random.default_rng(1).choice([0.0, 1.0, 2.0], size=600), jnp.float32)
    found = outcomes_of(residual, predicted, model, weight)
    x, y = np.zeros(600), np.zeros(600)
    for t in range(T):
        rows = np.asarray(model) == t
        r = np.asarray(predicted, np.float64)[rows, t]
        observed, v = r + np.asarray(residual, np.float64)[rows, t], np.asarray(weight, np.float64)[rows]
        np.testing.assert_allclose(found.residual[t], np.average(observed - r, weights=v), rtol=1e-3)
        centred = observed - np.average(observed, weights=v)
        deviation = np.sqrt(np.average(centred**2, weights=v))
        x[rows], y[rows] = (r - np.average(r, weights=v)) / deviation, centred / deviation
    v = np.asarray(weight)
    np.testing.assert_allclose(found.slope, (v * x * y).sum() / (v * x * x).sum(), rtol=1e-3)
    assert 0.6 < float(found.slope) < 0.75 and float(found.slope_z) < -7
    # In dollars as in cents: nothing underflows.
    cents = outcomes_of(1e-12 * residual, 1e-12 * predicted, model, weight)
    np.testing.assert_allclose(cents.slope, found.slope, rtol=1e-4)
    np.testing.assert_allclose(cents.residual_z, found.residual_z, rtol=1e-3, atol=1e-3)


def test_right_outcome_models_are_calibrated_and_shifted_ones_not():
    right = [outcomes_of(*outcomes(seed), jnp.ones(600)) for seed in range(40)]
    z = np.array([[*found.residual_z, found.slope_z] for found in right])
    # 160 draws tell a deviation to 6%.
    assert 0.75 < z.std() < 1.25 and (np.abs(z.mean(axis=0)) < 0.7).all()
    shifted = outcomes_of(*outcomes(0, shift=0.1), jnp.ones(600))
    assert (np.asarray(shifted.residual_z) < -5).all() and (np.asarray(shifted.residual) < 0).all()
    assert (np.asarray(shifted.curve.predicted) > np.asarray(shifted.curve.observed)).mean() > 0.8


def test_constant_predictions_and_absent_models_are_no_finding():
    residual, predicted, model = outcomes(0)
    flat = jnp.broadcast_to(jnp.array([0.1, 1.0, 10.0]), predicted.shape)
    found = outcomes_of(residual, flat, model, jnp.ones(600))
    assert float(found.slope) == 1.0 and float(found.slope_z) == 0.0
    present = jnp.where(model == 2, 0.0, 1.0)
    found = outcomes_of(residual, predicted, model, present)
    assert float(found.residual[2]) == 0.0 == float(found.residual_z[2])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    # Costs that the model knows exactly.
    exact = outcomes_of(0.0 * residual, flat, model, jnp.ones(600))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(exact)) and float(exact.slope) == 1.0
