"""Diagnostics: numbers that say whether a log supports what is estimated from it.

    overlap      importance weights of the policy and of each model: effective rows, tail, mass without support
    balance      whether weighting makes each model's rows look like all rows
    calibration  of both nuisances
    misfit       whether residuals of the nuisances are related to the query

Pure: jit it, vmap it over logs. Thresholds are not set here. Where something cannot be known from what the log
holds, the field is None; no number is NaN.
"""

from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jrouter.calibration import (
    OutcomeCalibration,
    PropensityCalibration,
    outcome_calibration,
    propensity_calibration,
)
from jrouter.check_features import check_features
from jrouter.estimators import inverse_propensity_weight
from jrouter.metrics import utility
from jrouter.misfit import (
    Misfit,
    choice_instrument,
    logged_propensity_residual,
    misfit,
    outcome_residual,
    propensity_residual,
)
from jrouter.overlap import Balance, Support, Weights, at_floor, balance, support, support_by_weights, weigh
from jrouter.types import Array, LoggedData, Nuisances
from jrouter.weighted import weighted_mean


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

    def of_number(number):
        """Of the model of that number; after the last, of the policy."""
        single = jnp.broadcast_to(jax.nn.one_hot(number, n_models), (n, n_models))
        return of_policy(single if probability is None else jnp.where(number < n_models, single, probability))

    n_policies = n_models if probability is None else n_models + 1
    of_policies = jax.lax.map(of_number, jnp.arange(n_policies))  # one program, and one policy's [n, T] at a time
    model_weights, model_support = jax.tree.map(lambda leaf: leaf[:n_models], of_policies)
    policy_weights, policy_support = (None, None) if probability is None else _at(of_policies, n_models)

    if every is None:
        instrument = choice_instrument(
            features, log.model, n_models=n_models, row_weight=row_weight, group=group, allowed=log.allowed
        )
        of_choice = jax.vmap(lambda *row: logged_propensity_residual(*row[:3], allowed=row[3]))(
            log.model, nuisances.propensity, instrument, log.allowed
        )
        left_out, of_propensity = jnp.zeros(n_models), None
    else:
        usable = ~at_floor(every, floor)
        of_choice = jax.vmap(lambda *row: propensity_residual(*row[:2], usable=row[2]))(log.model, every, usable)
        left_out = weighted_mean(1.0 - usable, row_weight)
        of_propensity = propensity_calibration(log.model, every, row_weight, usable=usable, group=group)

    # Where an answer was not scored its score is unknown, and so is its utility.
    score_weight = log.score_weight
    score = jax.vmap(outcome_residual)(nuisances.score, log.score, log.model)
    cost = jax.vmap(outcome_residual)(nuisances.cost, log.cost, log.model)
    residuals = jnp.stack([score, cost, utility(score, cost, lam)])
    predicted = jnp.stack([nuisances.score, nuisances.cost, utility(nuisances.score, nuisances.cost, lam)])
    weights = jnp.stack([score_weight, row_weight, score_weight])
    calibrations = jax.vmap(partial(outcome_calibration, group=group), in_axes=(0, 0, None, 0))(
        residuals, predicted, log.model, weights
    )
    misfits = jax.vmap(lambda residual, weight: misfit(residual, features, weight, group=group))(
        jnp.concatenate([residuals, of_choice[None]]), jnp.concatenate([weights, row_weight[None]])
    )
    score_calibration, cost_calibration, utility_calibration = (_at(calibrations, place) for place in range(3))
    score_misfit, cost_misfit, utility_misfit, propensity_misfit = (_at(misfits, place) for place in range(4))
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
        score_calibration=score_calibration,
        cost_calibration=cost_calibration,
        utility_calibration=utility_calibration,
        propensity_misfit=propensity_misfit,
        score_misfit=score_misfit,
        cost_misfit=cost_misfit,
        utility_misfit=utility_misfit,
    )


def _at(tree: Any, place: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[place], tree)
