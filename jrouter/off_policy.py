"""Value of a policy from the log alone: cross-fitted, doubly robust, with standard errors.

    V(pi) = mean_i sum_t pi(t | x_i, lam) * Yhat_i(t)

Fold by fold, nuisances AND policy are fitted again on the other folds, so a policy is never valued on
rows that it, or what values it, was fitted on. What is valued is the learner on this much data.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.estimators import counterfactual_scores
from jrouter.inference import standard_error
from jrouter.metrics import expected, utility
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.policy import Policy, Problem, choose_all
from jrouter.splits import split_log
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


def value_of_choices(
    probability: Array,
    score: Array,
    cost: Array,
    lambdas: Array,
    row_weight: Array | None = None,
    group: Array | None = None,
) -> PolicyValue:
    """Value of choices made without looking at the outcomes that score them.

    Args:
      probability: [n, L, T], pi(t | x_i, lam).
      score: [n, T], counterfactual.
      cost: [n, T], counterfactual.
      lambdas: [L].
      row_weight: [n].
      group: [n], rows that are not independent.

    Returns:
      `PolicyValue`. The standard error is that of the mean of the rows' contributions, nuisances as
      given: right to first order for doubly robust scores with cross-fitted nuisances.
    """
    of_rows = jax.vmap(jax.vmap(expected, in_axes=(0, None)))  # queries, then lambdas
    per_row_score, per_row_cost = of_rows(probability, score).T, of_rows(probability, cost).T
    rows = utility(per_row_score, per_row_cost, lambdas[:, None])
    return PolicyValue(
        value=weighted_mean(rows.T, row_weight),
        error=standard_error(rows, row_weight, group=group),
        rows=rows,
        score=weighted_mean(per_row_score.T, row_weight),
        cost=weighted_mean(per_row_cost.T, row_weight),
    )


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

    The complement is expressed by row weights 0 on the fold, so all folds share compiled programs.

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
    estimate = jax.jit(lambda key, log: fit_nuisances(key, log, inner, nuisances))
    learn = jax.jit(fit)
    probability = jnp.zeros((log.model.shape[0], lambdas.shape[0], len(log.models)))
    score, cost = jnp.zeros(probability.shape[::2]), jnp.zeros(probability.shape[::2])
    for number in range(n_folds):
        held_out = outer.fold == number
        key_nuisances, key_fit = jax.random.split(jax.random.fold_in(key, number))
        rest = replace(log, row_weight=jnp.where(held_out, 0.0, log.weight))
        # Held-out rows weigh nothing, so none of these fits has seen them: the same nuisances serve
        # the learner on the complement and the scores that value it here.
        estimated = estimate(key_nuisances, rest)
        params = learn(key_fit, Problem(rest, inner, estimated, lambdas))
        scores = counterfactual_scores(log, estimated)
        rows = np.flatnonzero(np.asarray(held_out))
        probability = probability.at[rows].set(choose_all(policy, params, log.x[rows], lambdas))
        score, cost = score.at[rows].set(scores.score[rows]), cost.at[rows].set(scores.cost[rows])
        if on_fold is not None:
            on_fold(number + 1)
    return value_of_choices(probability, score, cost, lambdas, log.row_weight, log.group)


def paired_difference(
    first: PolicyValue, second: PolicyValue, row_weight: Array | None = None, group: Array | None = None
) -> tuple[Array, Array]:
    """Difference in value of two policies on the same rows, and its standard error: [L] each.

    Paired, so what makes a row easy or hard for both cancels.
    """
    difference = first.rows - second.rows
    return weighted_mean(difference.T, row_weight), standard_error(difference, row_weight, group=group)
