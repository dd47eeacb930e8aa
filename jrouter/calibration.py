"""Calibration of nuisances: whether what they say is what is observed, on average and along what they say.

A nuisance may be calibrated and know nothing, and a calibrated one may err on every query: see `misfit` for what
it leaves out.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jrouter.misfit import moments
from jrouter.types import Array

BINS = 10
_NEWTON_STEPS = 12


class Curve(NamedTuple):
    """Predictions in bins of equal weight, from the lowest to the highest: [B] each.

    Attributes:
      predicted: mean prediction.
      observed: mean of what was observed.
      weight: sum of the weights of what is in the bin; where it is 0, so are the means.
    """

    predicted: Array
    observed: Array
    weight: Array


class PropensityCalibration(NamedTuple):
    """Calibration of estimated propensities over all pairs of a row and a model that was allowed.

    Attributes:
      error: scalar, expected calibration error: mean distance of observed shares from predicted ones over bins.
      slope: scalar, of the log-odds of being logged on the estimated ones: below 1 they are overconfident.
      slope_z: scalar, (slope - 1) by a score test: about standard normal where it is 1.
      curve: shares by bins.
    """

    error: Array
    slope: Array
    slope_z: Array
    curve: Curve


class OutcomeCalibration(NamedTuple):
    """Calibration of an outcome model on the rows of the logged model.

    Attributes:
      residual: [T], mean of y - r_t over each model's rows; 0 for a model without rows.
      residual_z: [T], about standard normal, or nearer to 0, where r is right.
      slope: scalar, of y on r_t within models, each in units of its outcomes' deviation: below 1 predictions vary
        too much, above 1 too little; 1 where they do not vary.
      slope_z: scalar, (slope - 1) by a score test.
      curve: outcomes by bins of predictions, all models together.
    """

    residual: Array
    residual_z: Array
    slope: Array
    slope_z: Array
    curve: Curve


def calibration_curve(predicted: Array, observed: Array, weight: Array, *, n_bins: int = BINS) -> Curve:
    """Means in bins of equal weight: a prediction is in the bin where the middle of its share of all weight falls.

    Args:
      predicted: [m].
      observed: [m].
      weight: [m], at least 0.
      n_bins: B.

    Returns:
      `Curve`. Equal predictions may fall in two bins.

    Source: Nixon et al. (2019), adaptive calibration error.

    >>> calibration_curve(jnp.array([.4, .1, .2, .3]), jnp.array([1., 0., 1., 1.]), jnp.ones(4), n_bins=2).observed
    Array([0.5, 1. ], dtype=float32)
    """
    chex.assert_equal_shape([predicted, observed, weight])
    order = jnp.argsort(jnp.where(weight > 0, predicted, jnp.inf))
    predicted, observed, weight = predicted[order], observed[order], weight[order]
    # Scaled first: so the running sum of a million weights ends near 1.
    share = weight / jnp.maximum(weight.sum(), 1e-30)
    middle = jnp.cumsum(share) - share / 2
    place = jnp.clip((n_bins * middle).astype(jnp.int32), 0, n_bins - 1)

    def total(values):
        return jax.ops.segment_sum(jnp.where(weight > 0, values, 0.0), place, num_segments=n_bins)

    of_bin = total(weight)
    divisor = jnp.where(of_bin > 0, of_bin, 1.0)
    return Curve(total(weight * predicted) / divisor, total(weight * observed) / divisor, of_bin)


def expected_calibration_error(curve: Curve) -> Array:
    """Mean of |observed - predicted| over the bins, by their weight. Noise alone makes it larger than 0.

    >>> expected_calibration_error(Curve(jnp.array([.1, .5]), jnp.array([.2, .5]), jnp.array([3., 1.]))).round(3)
    Array(0.075, dtype=float32)
    """
    gap = curve.weight * jnp.abs(curve.observed - curve.predicted)
    return gap.sum() / jnp.maximum(curve.weight.sum(), 1e-30)


def propensity_calibration(
    model: Array,
    propensity: Array,
    row_weight: Array | None = None,
    *,
    usable: Array | None = None,
    group: Array | None = None,
) -> PropensityCalibration:
    """Calibration of cross-fitted propensities, one pair of a row and a model at a time.

    The slope b is that of logit P(t = logged) = a + b logit p_t, by Newton steps.

    Args:
      model: [n] int, that was logged.
      propensity: [n, T], 0 where a model was not allowed: such pairs are left out.
      row_weight: [n], or None for ones.
      usable: [n, T] bool, False where the estimate is a floor: left out of the slope, not of the error.
      group: [n] int in 0..n-1, rows that are not independent of each other.

    Returns:
      `PropensityCalibration`.

    Source: Cox (1958), slope; Nixon et al. (2019), error.
    """
    n, n_models = propensity.shape
    weight = jnp.ones(n) if row_weight is None else row_weight
    event = jax.nn.one_hot(model, n_models)
    pair = weight[:, None] * (propensity > 0)
    curve = calibration_curve(propensity.reshape(-1), event.reshape(-1), pair.reshape(-1))
    pair = pair if usable is None else pair * usable
    safe = jnp.clip(propensity, 1e-6, 1.0 - 1e-6)
    log_odds = jnp.log(safe) - jnp.log1p(-safe)
    slope = _logistic_slope(log_odds, event, pair)
    # Orthogonal to the intercept, at a = 0 and b = 1.
    spread = pair * safe * (1.0 - safe)
    middle = (spread * log_odds).sum() / jnp.maximum(spread.sum(), 1e-30)
    score = (pair * (event - safe) * (log_odds - middle)).sum(axis=1)
    z = moments(score[:, None], jnp.ones((n, 1)), group=group)[0, 0]
    return PropensityCalibration(expected_calibration_error(curve), slope, z, curve)


def _logistic_slope(log_odds: Array, event: Array, weight: Array) -> Array:
    """b of P(event) = sigmoid(a + b log_odds), from a = 0 and b = 1; 1 where the log-odds do not vary."""
    weight = weight / jnp.maximum(weight.sum(), 1e-30)

    def step(carry, _):
        a, b = carry
        predicted = jax.nn.sigmoid(a + b * log_odds)
        error = weight * (event - predicted)
        spread = weight * predicted * (1.0 - predicted)
        total = jnp.maximum(spread.sum(), 1e-12)
        middle = (spread * log_odds).sum() / total
        centred = log_odds - middle
        variance = (spread * jnp.square(centred)).sum()
        varies = variance > 1e-8 * total
        move = jnp.where(varies, (error * centred).sum() / jnp.where(varies, variance, 1.0), 0.0)
        # Steps no longer than 1, as Newton's may run away where one side is nearly never observed.
        move = jnp.clip(move, -1.0, 1.0)
        shift = jnp.clip(error.sum() / total - middle * move, -2.0, 2.0)
        return (a + shift, b + move), None

    (_, slope), _ = jax.lax.scan(step, (jnp.zeros(()), jnp.ones(())), None, length=_NEWTON_STEPS)
    return slope


def outcome_calibration(
    residual: Array, predicted: Array, model: Array, row_weight: Array, *, group: Array | None = None
) -> OutcomeCalibration:
    """Calibration of cross-fitted outcome predictions.

    slope = 1 + sum_i v e (r - rbar_t) / s_t^2 / sum_i v (r - rbar_t)^2 / s_t^2

    Args:
      residual: [n, T], as of `misfit.outcome_residual`.
      predicted: [n, T], r.
      model: [n] int, that was logged.
      row_weight: [n], 0 where the outcome was not observed.
      group: [n] int in 0..n-1, rows that are not independent of each other.

    Returns:
      `OutcomeCalibration`.
    """
    chex.assert_equal_shape([residual, predicted])
    n, n_models = residual.shape
    logged = jax.nn.one_hot(model, n_models) * row_weight[:, None]
    total = logged.sum(axis=0)
    divisor = jnp.where(total > 0, total, 1.0)

    def of_model(values):
        return (logged * values).sum(axis=0) / divisor

    mean = of_model(residual)
    observed = predicted + residual
    # Each model in units of its largest outcome, then of their deviation: dollars squared would underflow.
    largest = jnp.abs(jnp.where(logged > 0, observed, 0.0)).max(axis=0)
    unit = jnp.where(largest > 0, largest, 1.0)
    variance = of_model(jnp.square((observed - of_model(observed)) / unit))
    live = variance > 1e-12
    unit = unit * jnp.sqrt(jnp.where(live, variance, 1.0))
    error = jnp.where(live, (residual - mean) / unit, 0.0)
    around = jnp.where(live, (predicted - of_model(predicted)) / unit, 0.0)
    spread = (logged * jnp.square(around)).sum()
    varies = spread > 1e-8 * total.sum()
    covariance = (logged * error * around).sum()
    product = (logged * error * around).sum(axis=1)
    row = jnp.arange(n)
    return OutcomeCalibration(
        residual=mean,
        residual_z=moments(logged * residual, jnp.ones((n, 1)), group=group)[:, 0],
        slope=1.0 + jnp.where(varies, covariance / jnp.where(varies, spread, 1.0), 0.0),
        slope_z=jnp.where(varies, moments(product[:, None], jnp.ones((n, 1)), group=group)[0, 0], 0.0),
        curve=calibration_curve(predicted[row, model], observed[row, model], row_weight),
    )
