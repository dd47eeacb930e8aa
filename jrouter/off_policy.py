"""Value of a policy from the log alone: cross-fitted, doubly robust, with standard errors.

    V(pi) = mean_i sum_t pi(t | x_i, lam) * Yhat_i(t)

- `fixed_policy_value`: of a policy that was made without this log.
- `cross_fitted_value`: of a learner. Fold by fold, nuisances AND policy are fitted again on the other folds,
  so a policy is never valued on rows that it, or what values it, was fitted on. What is valued is the
  learner on this much data.

Probabilities [n, L, T] are never stored: a chunk of rows at a time, they become the score and the cost of
each row's choices, [L, n] each.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrouter.estimators import counterfactual_scores
from jrouter.inference import standard_error
from jrouter.metrics import expected, utility
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.policy import Policy, Problem, choice_outcomes
from jrouter.splits import Split, rows_by_label, split_log
from jrouter.types import Array, LoggedData
from jrouter.weighted import weighted_mean


class PolicyValue(NamedTuple):
    """Estimated value of a policy at each lambda.

    Attributes:
      value: [L], mean utility.
      error: [L], its standard error.
      rows: [L, n], each row's contribution: what paired differences are made of.
      score: [L] and
      cost: [L], the two parts of the value.
    """

    value: Array
    error: Array
    rows: Array
    score: Array
    cost: Array


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
      given: right to first order for doubly robust scores with cross-fitted nuisances.
    """
    rows = utility(score, cost, lambdas[:, None])
    return PolicyValue(
        value=weighted_mean(rows.T, row_weight),
        error=standard_error(rows, row_weight, group=group),
        rows=rows,
        score=weighted_mean(score.T, row_weight),
        cost=weighted_mean(cost.T, row_weight),
    )


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
    strength: float | Array = 10.0,
) -> PolicyValue:
    """Value of a policy that was made WITHOUT this log, by cross-fitted nuisances. Pure: jit it, vmap it.

    A policy that was learned from these rows looks better on them than it is: use `cross_fitted_value`.

    Args:
      key: of the nuisances.
      log: n rows.
      split: folds of the nuisances.
      policy: and
      params: its parameters.
      lambdas: [L].
      nuisances: how propensities and outcomes are estimated.
      estimator: and
      strength: of the counterfactual scores, as of `estimators.counterfactual_scores`.

    Returns:
      `PolicyValue`, over all rows.
    """
    estimated = fit_nuisances(key, log, split, nuisances)
    scores = counterfactual_scores(log, estimated, estimator=estimator, strength=strength)
    rows = choice_outcomes(policy, params, log.x, scores.score, scores.cost, lambdas)
    return value_of_rows(*rows, lambdas, log.row_weight, log.group)


def held_out_rows(
    key: Array,
    log: LoggedData,
    outer: Split,
    inner: Split,
    policy: Policy,
    fit: Callable[[Array, Problem], Any],
    lambdas: Array,
    number: int | Array,
    *,
    nuisances: NuisanceConfig = NuisanceConfig(),
) -> tuple[Array, Array, Array]:
    """What one fold's rows say of a learner's policy, everything fitted without them. Pure.

    The complement is expressed by row weights 0 on the fold, so all folds are one program.

    Args:
      key: of the fits.
      log: n rows.
      outer: its folds are left out in turn.
      inner: folds of the nuisances, drawn apart from `outer`.
      policy: and
      fit: the learner.
      lambdas: [L].
      number: of the fold.
      nuisances: how propensities and outcomes are estimated.

    Returns:
      Places [m] of the fold's rows in the log (n where there are fewer), and the doubly robust score and
      cost of their choices: [L, m] each.
    """
    key_nuisances, key_fit = jax.random.split(jax.random.fold_in(key, number))
    rest = replace(log, row_weight=jnp.where(outer.fold == number, 0.0, log.weight))
    # Held-out rows weigh nothing, so none of these fits has seen them: the same nuisances serve
    # the learner on the complement and the scores that value it here.
    estimated = fit_nuisances(key_nuisances, rest, inner, nuisances)
    params = fit(key_fit, Problem(rest, inner, estimated, lambdas))
    scores = counterfactual_scores(log, estimated)
    by_fold, present = rows_by_label(outer.fold, n_labels=outer.n_folds, size=outer.fold_size)
    rows = by_fold[number]
    places = jnp.where(present[number], rows, log.model.shape[0])
    return places, *choice_outcomes(policy, params, log.x[rows], scores.score[rows], scores.cost[rows], lambdas)


def cross_fitted_value(
    key: Array,
    log: LoggedData,
    policy: Policy,
    fit: Callable[[Array, Problem], Any],
    lambdas: Array,
    *,
    nuisances: NuisanceConfig = NuisanceConfig(),
    n_folds: int = 5,
    seed: int = 0,
    on_fold: Callable[[int], None] | None = None,
) -> PolicyValue:
    """Doubly robust value of a learner's policy, everything refitted on each fold's complement.

    Args:
      key: of the fits.
      log: n rows.
      policy: and
      fit: the learner, e.g. of `METHODS[name]()`. It sees the complement's rows at their weights.
      lambdas: [L].
      nuisances: how propensities and outcomes are estimated.
      n_folds: K >= 2.
      seed: of the folds. Use the same for policies that are to be compared.
      on_fold: called with the number of finished folds.

    Returns:
      `PolicyValue`, over all rows.

    Source: Chernozhukov et al. (2018); Dudik, Langford & Li (2011).
    """
    outer = split_log([log], seeds=[seed], n_folds=n_folds)[0]
    inner = split_log([log], seeds=[seed + 1], n_folds=n_folds)[0]

    @jax.jit
    def of_fold(key, log, outer, inner, lambdas, number):
        return held_out_rows(key, log, outer, inner, policy, fit, lambdas, number, nuisances=nuisances)

    score = jnp.zeros((lambdas.shape[0], log.model.shape[0]))
    cost = jnp.zeros_like(score)
    for number in range(n_folds):
        places, *found = of_fold(key, log, outer, inner, lambdas, jnp.int32(number))
        score, cost = (
            whole.at[:, places].set(part, mode="drop") for whole, part in zip((score, cost), found, strict=True)
        )
        if on_fold is not None:
            on_fold(number + 1)
    return value_of_rows(score, cost, lambdas, log.row_weight, log.group)


def paired_difference(
    first: PolicyValue, second: PolicyValue, row_weight: Array | None = None, group: Array | None = None
) -> tuple[Array, Array]:
    """Difference in value of two policies on the same rows, and its standard error: [L] each.

    Paired, so what makes a row easy or hard for both cancels.
    """
    difference = first.rows - second.rows
    return weighted_mean(difference.T, row_weight), standard_error(difference, row_weight, group=group)
