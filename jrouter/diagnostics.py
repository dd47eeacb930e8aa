"""Diagnostics: numbers that say whether a log supports what is estimated from it.

    overlap      importance weights of the policy and of each model: effective rows, tail, mass without support
    balance      whether weighting makes each model's rows look like all rows
    calibration  of both nuisances
    misfit       whether residuals of the nuisances are related to the query

Pure: jit it, vmap it over logs. Thresholds are not set here. Where something cannot be known from what the log
holds, the field is None; no number is NaN.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jrouter.calibration import (
    OutcomeCalibration,
    PropensityCalibration,
    outcome_calibration,
    propensity_calibration,
)
from jrouter.estimators import inverse_propensity_weight
from jrouter.inference import standard_error
from jrouter.metrics import utility
from jrouter.misfit import (
    Misfit,
    check_features,
    choice_instrument,
    logged_propensity_residual,
    misfit,
    outcome_residual,
    propensity_residual,
)
from jrouter.pareto import pareto_k
from jrouter.types import Array, LoggedData, Nuisances
from jrouter.weighted import weighted_mean

SUPPORT_THRESHOLDS = (0.01, 0.02, 0.05)
"""Propensities below which `Support` counts a policy's mass."""
WEIGHT_EDGES = tuple(2.0**power for power in range(-3, 11))
"""Right ends of the bins of `Weights.histogram` after the first, which is 0; the last has no end."""


class Weights(NamedTuple):
    """Importance weights w = pi / p of one policy, where pi is the policy's probability of the logged model.

    Attributes:
      effective_rows: (sum v w)^2 / sum (v w)^2, row weights v: how many rows of equal weight would know as much.
      effective_share: of the rows.
      largest: max w.
      largest_share: of one row in the sum of all v w.
      mean: of w, by row weight: 1 is expected where propensities are right and positive; what is missing is mass
        without support, or cut off by a floor.
      mean_z: (mean - 1) / standard error, by group where the log has them. Skewed where few rows weigh much: of
        logged propensities `propensity_misfit` tests the same, model by model, with bounded residuals.
      pareto_k: shape of the tail of v w, as of `pareto.pareto_k`: from 0.7 on no standard error can be relied on.
      histogram: [16], rows with w = 0, then in bins that end at `WEIGHT_EDGES`, then above.
    """

    effective_rows: Array
    effective_share: Array
    largest: Array
    largest_share: Array
    mean: Array
    mean_z: Array
    pareto_k: Array
    histogram: Array


class Support(NamedTuple):
    """Mass of one policy on models that the log can hardly tell of: shares of its choices, from 0 to 1.

    Attributes:
      below: [3], on models of propensity below each of `SUPPORT_THRESHOLDS`.
      below_error: [3], its standard error; 0 where it is counted from propensities of every model.
      absent: scalar, on models with an estimated propensity at its floor, or 0. Where the log's own propensities are
        used: of propensity 0, estimated by 1 - mean w.
      absent_error: scalar, its standard error.
    """

    below: Array
    below_error: Array
    absent: Array
    absent_error: Array


class Balance(NamedTuple):
    """How far each model's queries are from all queries, in standard deviations of all.

    Attributes:
      before: [T, J], mean of each check feature over a model's rows; 0 for a model without rows.
      after: [T, J], the same with rows weighted by 1 / p.
      largest_before: [T], the largest |before| among features.
      largest_after: [T].
    """

    before: Array
    after: Array
    largest_before: Array
    largest_after: Array


class Diagnosis(NamedTuple):
    """What `diagnose` says of a log with T models. Rows of weight 0 are not counted.

    Attributes:
      rows: scalar, number of rows.
      model_rows: [T], number of rows of each model.
      share: [T], share of the rows of each model, by row weight.
      unscored: scalar, share of the rows without a score, by row weight.
      policy_weights: of the policy, or None without one.
      model_weights: of each model as if it were the policy: [T] each, or [T, 16].
      policy_support: of the policy, or None without one.
      model_support: of each model as if it were the policy: [T, 3] and [T].
      balance: of the check features, before and after weighting.
      left_out: [T], share of the rows whose estimated propensity of a model is a floor, or 0: they are not in
        `propensity_misfit`, nor in the slope of `propensity_calibration`. Zeros where propensities are the log's own.
      propensity_calibration: of estimated propensities; None where the log's own are used: those tell the probability
        of what was logged only.
      score_calibration: of the outcome model of score, on scored rows.
      cost_calibration: of that of cost.
      utility_calibration: of score - lambda * cost, on scored rows.
      propensity_misfit: residuals 1[t = logged] - p_t against features of the query; of logged propensities
        `misfit.logged_propensity_residual`.
      score_misfit: residuals of the outcome model of score, on scored rows.
      cost_misfit: of that of cost.
      utility_misfit: of score - lambda * cost, on scored rows.
    """

    rows: Array
    model_rows: Array
    share: Array
    unscored: Array
    policy_weights: Weights | None
    model_weights: Weights
    policy_support: Support | None
    model_support: Support
    balance: Balance
    left_out: Array
    propensity_calibration: PropensityCalibration | None
    score_calibration: OutcomeCalibration
    cost_calibration: OutcomeCalibration
    utility_calibration: OutcomeCalibration
    propensity_misfit: Misfit
    score_misfit: Misfit
    cost_misfit: Misfit
    utility_misfit: Misfit


def effective_rows(weight: Array) -> Array:
    """(sum w)^2 / sum w^2, and 0 where all weights are 0.

    Args:
      weight: [n], row weight * importance weight. The variance of a weighted mean of outcomes of equal variance is
        theirs over this number, as `inference.standard_error` has it.

    Returns:
      Scalar, from 0 to n.

    Source: Kish (1965), section 11.7.

    >>> effective_rows(jnp.array([1., 1., 0.])), effective_rows(jnp.array([3., 1., 0.]))
    (Array(2., dtype=float32), Array(1.6, dtype=float32))
    """
    largest = jnp.abs(weight).max()
    weight = weight / jnp.where(largest > 0, largest, 1.0)
    square = jnp.square(weight).sum()
    return jnp.where(square > 0, jnp.square(weight.sum()) / jnp.where(square > 0, square, 1.0), 0.0)


def weigh(ratio: Array, row_weight: Array | None = None, *, group: Array | None = None) -> Weights:
    """`Weights` of importance weights `ratio` [n]; arguments as of `diagnose`."""
    row_weight = jnp.ones_like(ratio) if row_weight is None else row_weight
    counts = row_weight > 0
    ratio = jnp.where(counts, ratio, 0.0)
    both = row_weight * ratio
    effective, total = effective_rows(both), both.sum()
    mean = weighted_mean(ratio, row_weight)
    error = standard_error(ratio, row_weight, group=group)
    off = jnp.where(jnp.abs(mean - 1.0) > 1e-5, mean - 1.0, 0.0)  # rounding is no deviation, however sure
    place = jnp.where(ratio > 0, 1 + jnp.searchsorted(jnp.array(WEIGHT_EDGES), ratio), 0)
    return Weights(
        effective_rows=effective,
        effective_share=effective / jnp.maximum(counts.sum(), 1),
        largest=ratio.max(),
        largest_share=both.max() / jnp.where(total > 0, total, 1.0),
        mean=mean,
        mean_z=off / jnp.maximum(error, 1e-6),
        pareto_k=pareto_k(both),
        histogram=jnp.zeros(len(WEIGHT_EDGES) + 2).at[place].add(counts.astype(ratio.dtype)),
    )


def support(
    probability: Array, propensity: Array, row_weight: Array | None = None, *, floor: float | Array = 0.0
) -> Support:
    """`Support` of a policy under known or estimated propensities of every model: arguments as of `diagnose`."""
    chex.assert_equal_shape([probability, propensity])

    def share(lacking):
        return weighted_mean(jnp.where(lacking, probability, 0.0).sum(axis=1), row_weight)

    below = jnp.stack([share(propensity < threshold) for threshold in SUPPORT_THRESHOLDS])
    return Support(below, jnp.zeros_like(below), share(_at_floor(propensity, floor)), jnp.zeros(()))


def support_by_weights(
    ratio: Array, propensity: Array, row_weight: Array | None = None, *, group: Array | None = None
) -> Support:
    """`Support` of a policy where only the propensities of logged models are known.

    sum_t pi_t 1[p_t < c] = 1 - E[w 1[p >= c]], as what is likely enough to be logged is logged in proportion.

    Args:
      ratio: [n], w.
      propensity: [n], p of the logged model.
      row_weight: [n], or None for ones.
      group: [n] int in 0..n-1, rows that are not independent of each other.

    Returns:
      `Support`, with standard errors: unlike counted shares these are noisy, and cut to [0, 1].
    """

    def missing(enough):
        present = jnp.where(enough, ratio, 0.0)
        return jnp.clip(1.0 - weighted_mean(present, row_weight), 0.0, 1.0), standard_error(
            present, row_weight, group=group
        )

    below, error = jax.tree.map(
        lambda *parts: jnp.stack(parts), *[missing(propensity >= threshold) for threshold in SUPPORT_THRESHOLDS]
    )
    return Support(below, error, *missing(propensity > 0))


def _at_floor(propensity: Array, floor: float | Array) -> Array:
    return propensity <= floor * (1.0 + 1e-5) / propensity.shape[-1]


def balance(features: Array, model: Array, weight: Array, row_weight: Array, *, n_models: int) -> Balance:
    """Standardised mean differences between each model's rows and all rows, before and after weighting.

    Args:
      features: [n, J], of mean 0 and variance 1 over the rows, from `misfit.check_features`.
      model: [n] int, that was logged.
      weight: [n], e.g. 1 / p; normalised here, model by model.
      row_weight: [n].
      n_models: T.

    Returns:
      `Balance`.

    Source: Austin & Stuart (2015); for several treatments McCaffrey et al. (2013).
    """

    def difference(weight):
        logged = jax.nn.one_hot(model, n_models) * weight[:, None]
        total = logged.sum(axis=0)
        return jnp.matmul((logged / jnp.where(total > 0, total, 1.0)).T, features, precision="highest")

    before, after = difference(row_weight), difference(row_weight * weight)
    return Balance(before, after, jnp.abs(before).max(axis=1), jnp.abs(after).max(axis=1))


def diagnose(
    log: LoggedData,
    nuisances: Nuisances,
    probability: Array | None = None,
    *,
    lam: float | Array,
    floor: float | Array = 0.1,
) -> Diagnosis:
    """Numbers that say whether a log supports what is estimated from it, for one policy at one lambda. Pure.

    Args:
      log: n rows.
      nuisances: of the same rows, cross-fitted.
      probability: [n, T], pi(t | x_i) of the policy to be valued, chosen without looking at these rows' outcomes;
        None for none: each model is diagnosed as if it were the policy in any case.
      lam: lambda, score per unit of cost, for the utility.
      floor: of estimated propensities, as a share of 1 / T, as of `nuisances.propensity.Clipping`; 0 for none. With
        its percentiles instead, 0 too: what these change then counts as misfit, which it is.

    Returns:
      `Diagnosis`. `explain.explain_diagnosis` says it in words.
    """
    n, n_models = nuisances.score.shape
    chex.assert_shape(nuisances.cost, (n, n_models))
    if probability is not None:
        chex.assert_shape(probability, (n, n_models))
    row_weight, group, every = log.weight, log.group, nuisances.all_propensity
    logged = jax.nn.one_hot(log.model, n_models)
    inverse = inverse_propensity_weight(nuisances.propensity)
    features = check_features(log.x, row_weight)

    def of_policy(probability):
        ratio = (probability * logged).sum(axis=1) * inverse
        weights = weigh(ratio, row_weight, group=group)
        if every is None:
            return weights, support_by_weights(ratio, nuisances.propensity, row_weight, group=group)
        return weights, support(probability, every, row_weight, floor=floor)

    def of_model(number):
        return of_policy(jnp.broadcast_to(jax.nn.one_hot(number, n_models), (n, n_models)))

    model_weights, model_support = jax.lax.map(of_model, jnp.arange(n_models))
    policy_weights, policy_support = (None, None) if probability is None else of_policy(probability)

    if every is None:
        instrument = choice_instrument(
            features, log.model, n_models=n_models, row_weight=row_weight, group=group, allowed=log.allowed
        )
        of_choice = jax.vmap(lambda *row: logged_propensity_residual(*row[:3], allowed=row[3]))(
            log.model, nuisances.propensity, instrument, log.allowed
        )
        left_out, of_propensity = jnp.zeros(n_models), None
    else:
        usable = ~_at_floor(every, floor)
        of_choice = jax.vmap(lambda *row: propensity_residual(*row[:2], usable=row[2]))(log.model, every, usable)
        left_out = weighted_mean(1.0 - usable, row_weight)
        of_propensity = propensity_calibration(log.model, every, row_weight, usable=usable, group=group)

    # Where an answer was not scored its score is unknown, and so is its utility.
    score_weight = log.score_weight
    score = jax.vmap(outcome_residual)(nuisances.score, log.score, log.model)
    cost = jax.vmap(outcome_residual)(nuisances.cost, log.cost, log.model)
    outcomes = {
        "score": (score, nuisances.score, score_weight),
        "cost": (cost, nuisances.cost, row_weight),
        "utility": (utility(score, cost, lam), utility(nuisances.score, nuisances.cost, lam), score_weight),
    }
    found = {
        name: (
            outcome_calibration(residual, predicted, log.model, weight, group=group),
            misfit(residual, features, weight, group=group),
        )
        for name, (residual, predicted, weight) in outcomes.items()
    }
    counts = (row_weight > 0).astype(row_weight.dtype)
    return Diagnosis(
        rows=counts.sum(),
        model_rows=counts @ logged,
        share=weighted_mean(logged, row_weight),
        unscored=1.0 - weighted_mean(score_weight, jnp.ones(n)) / jnp.maximum(row_weight.mean(), 1e-30),
        policy_weights=policy_weights,
        model_weights=model_weights,
        policy_support=policy_support,
        model_support=model_support,
        balance=balance(features, log.model, inverse, row_weight, n_models=n_models),
        left_out=left_out,
        propensity_calibration=of_propensity,
        score_calibration=found["score"][0],
        cost_calibration=found["cost"][0],
        utility_calibration=found["utility"][0],
        propensity_misfit=misfit(of_choice, features, row_weight, group=group),
        score_misfit=found["score"][1],
        cost_misfit=found["cost"][1],
        utility_misfit=found["utility"][1],
    )
