"""Value of a policy from the log alone, by any of eight estimators, with standard errors.

    V(pi) = mean_i sum_t pi(t | x_i, lam) * Yhat_i(t)

For policies that were made without this log; `honest_value` has those that were learned or chosen on it. Standard
errors hold what the nuisances would have been with another log. Probabilities [n, L, T] are never stored: a
chunk of rows at a time, they become sums.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrouter.chunks import map_and_sum_rows, rows_at_once
from jrouter.counterfactual import scored_factor
from jrouter.estimators import mrdr_row_weight
from jrouter.inference import standard_error
from jrouter.jackknife import contributions, influence
from jrouter.metrics import expected, utility
from jrouter.nuisances.crossfit import (
    OUTCOME_MODELS,
    NuisanceConfig,
    Strengths,
    choose_strengths,
    fit_nuisances,
    require_smooth,
)
from jrouter.nuisances.crossfit_outcome import fit_outcome, held_out_outcome
from jrouter.policy import Policy
from jrouter.policy_value import POLICY_ESTIMATORS, Terms, estimates, policy_terms
from jrouter.splits import Split
from jrouter.types import Array, LoggedData, Nuisances
from jrouter.weighted import weighted_mean

VALUE_ESTIMATORS = (*POLICY_ESTIMATORS, "mrdr")


class PolicyValue(NamedTuple):
    """Estimated value of a policy at each lambda.

    Attributes:
      value: [L], mean utility.
      error: [L], its standard error.
      rows: [L, n], each row's contribution: its weighted mean is the value, its standard error the value's; what
        paired differences and bands are made of.
      score: [L] and
      cost: [L], the two parts of the value.
      score_error: [L] and
      cost_error: [L], their standard errors.
    """

    value: Array
    error: Array
    rows: Array
    score: Array
    cost: Array
    score_error: Array
    cost_error: Array


def value_of_rows(
    score: Array, cost: Array, lambdas: Array, row_weight: Array | None = None, group: Array | None = None
) -> PolicyValue:
    """Value of choices from the score and cost that each row's choice is expected to have.

    Args:
      score: [L, n].
      cost: [L, n].
      lambdas: [L].
      row_weight: [n].
      group: [n], rows that are not independent.

    Returns:
      `PolicyValue`. The standard error is that of the mean of the rows' contributions, nuisances as
      given: right to first order for doubly robust scores with cross-fitted nuisances that are both right.
    """
    rows = utility(score, cost, lambdas[:, None])
    value, mean_score, mean_cost = (weighted_mean(part.T, row_weight) for part in (rows, score, cost))
    error, score_error, cost_error = (standard_error(part, row_weight, group=group) for part in (rows, score, cost))
    return PolicyValue(value, error, rows, mean_score, mean_cost, score_error, cost_error)


def value_of_choices(
    probability: Array,
    score: Array,
    cost: Array,
    lambdas: Array,
    row_weight: Array | None = None,
    group: Array | None = None,
) -> PolicyValue:
    """Value of given choices, made without looking at the outcomes that score them.

    Args:
      probability: [n, L, T], pi(t | x_i, lam).
      score: [n, T], counterfactual.
      cost: [n, T], counterfactual.
      lambdas: [L].
      row_weight: [n].
      group: [n], rows that are not independent.

    Returns:
      As of `value_of_rows`.
    """
    of_rows = jax.vmap(jax.vmap(expected, in_axes=(0, None)))  # queries, then lambdas
    return value_of_rows(of_rows(probability, score).T, of_rows(probability, cost).T, lambdas, row_weight, group)


def summed_terms(
    log: LoggedData,
    nuisances: Nuisances,
    policy: Policy,
    params: Any,
    lambdas: Array,
    *,
    mask: Array | None = None,
    threshold: float | Array = 10.0,
    strength: float | Array = 10.0,
) -> Terms:
    """What estimators of a policy's value sum over the rows of a log, by row weight: [2, L] each, score then cost.

    Args:
      log: n rows.
      nuisances: for the same rows.
      policy: and
      params: its parameters.
      lambdas: [L].
      mask: [n, T] bool, models that the policy may choose on each row; None for all.
      threshold: and
      strength: as of `policy_value.policy_terms`.
    """

    def one(row):
        x, model, outcomes, observed, propensity, scored, mask, weight = row

        def at(lam):
            probability = policy.probabilities(params, x, lam, mask)
            both = [
                policy_terms(
                    probability, outcome, y, model, propensity, scored=factor, threshold=threshold, strength=strength
                )
                for outcome, y, factor in zip(outcomes, observed, (scored, 1.0), strict=True)
            ]
            return jax.tree.map(lambda *parts: jnp.stack(parts), *both)

        terms = jax.vmap(at, out_axes=1)(lambdas)
        return (), jax.tree.map(lambda term: weight * term, terms)

    scored = scored_factor(log, nuisances)
    outcomes, observed = (nuisances.score, nuisances.cost), (log.score, log.cost)
    rows = (log.x, log.model, outcomes, observed, nuisances.propensity, scored, mask, log.weight)
    chunk = rows_at_once(lambdas.shape[0] * len(log.models))
    # Choices are made again on the way back rather than kept for every row.
    return map_and_sum_rows(jax.checkpoint(one), rows, chunk=chunk)[1]


def fixed_policy_value(
    key: Array,
    log: LoggedData,
    split: Split,
    policy: Policy,
    params: Any,
    lambdas: Array,
    *,
    nuisances: NuisanceConfig = NuisanceConfig(),
    estimator: str = "dr",
    threshold: float | Array = 10.0,
    strength: float | Array = 10.0,
    refit: bool = True,
) -> PolicyValue:
    """Value of a policy that was made WITHOUT this log, by cross-fitted nuisances. Pure: jit it, vmap it.

    A policy that was learned from these rows looks better on them than it is: use `honest_value.cross_fitted_value`.

    Args:
      key: of the nuisances.
      log: n rows; those of one `group` are taken as dependent.
      split: folds of the nuisances.
      policy: and
      params: its parameters.
      lambdas: [L].
      nuisances: how propensities and outcomes are estimated.
      estimator: one of `VALUE_ESTIMATORS`; formulas in `policy_value`. "mrdr" fits an outcome model for each
        lambda.
      threshold: largest weight of "switch".
      strength: of the shrinkage of "dros".
      refit: whether standard errors hold that nuisances would have been others with another log, by
        `jackknife.influence`: about 2 L times the work of the fits. Without it they are those of nuisances as
        they are: right to first order for "dr" where both nuisances are right, wrong otherwise ("direct" then has
        hardly any error at all).

    Returns:
      `PolicyValue`, over all rows.

    Raises:
      ValueError: for an unknown estimator; for nearest neighbours with `refit`.

    Source: formulas as in `policy_value`; errors as in `jackknife`.
    """
    values = value_estimate(
        key,
        log,
        split,
        policy,
        params,
        lambdas,
        nuisances=nuisances,
        threshold=threshold,
        strength=strength,
        refit=refit,
    )
    (score, cost), (score_moved, cost_moved) = influence(log, lambda log: values(log, (estimator,))[0])
    return value_of_influence(score, cost, score_moved, cost_moved, lambdas, log.weight, log.group)


def value_of_influence(
    score: Array, cost: Array, score_influence: Array, cost_influence: Array, lambdas: Array, weight: Array, group: Any
) -> PolicyValue:
    """`PolicyValue` of a mean score [L] and mean cost [L], and how they move with each row, [L, n] each."""
    rows = contributions(score, score_influence, weight), contributions(cost, cost_influence, weight)
    found = value_of_rows(*rows, lambdas, weight, group)
    return found._replace(value=utility(score, cost, lambdas), score=score, cost=cost)


def value_estimate(
    key: Array,
    log: LoggedData,
    split: Split,
    policy: Policy,
    params: Any,
    lambdas: Array,
    *,
    nuisances: NuisanceConfig = NuisanceConfig(),
    threshold: float | Array = 10.0,
    strength: float | Array = 10.0,
    refit: bool = True,
    strengths: Strengths | None = None,
) -> Callable[[LoggedData, tuple[str, ...]], Array]:
    """A function of row weights: (log, names of estimators) -> [E, 2, L], mean scores and costs by each of them.

    What errors are made of: `jackknife.influence` differentiates it, `refitted.bootstrap_log` resamples it.
    Strengths of regularisation are chosen here, once, on `log` as it is.

    Args:
      log: whose rows are weighted.
      refit: whether nuisances are fitted again for other row weights.
      strengths: of regularisation, to be used instead of choosing.

    Others as of `fixed_policy_value`.
    """
    if refit:
        require_smooth(nuisances)
    original, strengths = log, strengths or choose_strengths(key, log, split, nuisances)
    as_is = None if refit else fit_nuisances(key, log, split, nuisances, strengths=strengths)

    def mrdr(log: LoggedData, fitted: Nuisances) -> Array:
        def at(lam):
            # The outcome model as it would be, or as it is.
            outcome = _mrdr_outcome(
                key, log if refit else original, split, fitted, lam, policy, params, nuisances, strengths
            )
            terms = summed_terms(log, outcome, policy, params, lam[None], mask=_pool(log, nuisances))
            return estimates(terms)[:, 0, POLICY_ESTIMATORS.index("dr")]

        return jax.lax.map(at, lambdas).T

    def estimate(log: LoggedData, names: tuple[str, ...]) -> Array:
        for name in names:
            if name not in VALUE_ESTIMATORS:
                raise ValueError(f"unknown estimator {name!r}: expected one of {', '.join(VALUE_ESTIMATORS)}")
        fitted = as_is or fit_nuisances(key, log, split, nuisances, strengths=strengths)
        mask = _pool(log, nuisances)
        terms = summed_terms(log, fitted, policy, params, lambdas, mask=mask, threshold=threshold, strength=strength)
        by_estimator = jnp.moveaxis(estimates(terms), -1, 0)
        values: dict[str, Array] = {name: by_estimator[place] for place, name in enumerate(POLICY_ESTIMATORS)}
        if "mrdr" in names:
            values["mrdr"] = mrdr(log, fitted)
        return jnp.stack([values[name] for name in names])

    return estimate


def _pool(log: LoggedData, nuisances: NuisanceConfig) -> Array | None:
    """[n, T], which models the policy may choose on each row; None for all."""
    return log.allowed if nuisances.pool == "allowed" else None


def _mrdr_outcome(
    key: Array,
    log: LoggedData,
    split: Split,
    fitted: Nuisances,
    lam: Array,
    policy: Policy,
    params: Any,
    nuisances: NuisanceConfig,
    strengths: Strengths,
) -> Nuisances:
    """Nuisances whose outcome model is fitted for this policy at this lambda."""

    def of_row(x, model, mask):
        return policy.probabilities(params, x, lam, mask)[model]

    chosen = jax.vmap(of_row)(log.x, log.model, _pool(log, nuisances))
    weight = mrdr_row_weight(fitted.propensity, chosen)
    # Of mean 1, as the rows were: penalties are absolute.
    mean = weighted_mean(weight, log.weight)
    weight = log.weight * jnp.where(mean > 0, weight / jnp.where(mean > 0, mean, 1.0), 0.0)
    family = OUTCOME_MODELS[nuisances.outcome]()
    outcome = fit_outcome(key, family, replace(log, row_weight=weight), split, strength=strengths.outcome)
    score, cost = held_out_outcome(outcome)
    return replace(fitted, score=score, cost=cost)


def paired_difference(
    first: PolicyValue, second: PolicyValue, row_weight: Array | None = None, group: Array | None = None
) -> tuple[Array, Array]:
    """Difference in value of two policies on the same rows, and its standard error: [L] each.

    Paired, so what makes a row easy or hard for both cancels.
    """
    difference = first.rows - second.rows
    return weighted_mean(difference.T, row_weight), standard_error(difference, row_weight, group=group)
