"""The price of choosing: what a learner, or the best of several policies, is worth on the log it comes from.

- `cross_fitted_value`: of a learner. Fold by fold, nuisances AND policy are fitted again on the other folds, so a
  policy is never valued on rows that it, or what values it, was fitted on. What is valued is the learner on
  this much data.
- `honest_best`, `split_best`: of the best of several fixed policies, chosen on the log that values it.

Probabilities [n, L, T] are never stored: a chunk of rows at a time, they become the score and the cost of
each row's choices, [L, n] each.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrouter.counterfactual import counterfactual_scores
from jrouter.inference import standard_error
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.off_policy import PolicyValue, value_of_rows
from jrouter.policy import Policy, Problem, choice_outcomes
from jrouter.splits import Split, rows_by_label, split_log
from jrouter.types import Array, LoggedData, Nuisances
from jrouter.weighted import weighted_mean


def fit_without_fold(
    key: Array,
    log: LoggedData,
    outer: Split,
    inner: Split,
    fits: Sequence[Callable[[Array, Problem], Any]],
    lambdas: Array,
    number: int | Array,
    *,
    nuisances: NuisanceConfig = NuisanceConfig(),
) -> tuple[Nuisances, list[Any]]:
    """Nuisances and learners fitted as if one fold did not exist. Pure.

    The complement is expressed by row weights 0 on the fold, so all folds are one program.

    Args:
      key: of the fits.
      log: n rows.
      outer: its folds are left out in turn.
      inner: folds of the nuisances, drawn apart from `outer`.
      fits: of learners.
      lambdas: [L].
      number: of the fold.
      nuisances: how propensities and outcomes are estimated.

    Returns:
      Nuisances of all n rows, those of the fold too, which no fit has seen; and the learners' params.
    """
    key_nuisances, key_fit = jax.random.split(jax.random.fold_in(key, number))
    rest = replace(log, row_weight=jnp.where(outer.fold == number, 0.0, log.weight))
    # Held-out rows weigh nothing, so none of these fits has seen them: the same nuisances serve
    # the learner on the complement and the scores that value it on the fold.
    estimated = fit_nuisances(key_nuisances, rest, inner, nuisances)
    return estimated, [fit(key_fit, Problem(rest, inner, estimated, lambdas)) for fit in fits]


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

    Args:
      policy: and
      fit: the learner.

    Others as of `fit_without_fold`.

    Returns:
      Places [m] of the fold's rows in the log (n where there are fewer), and the doubly robust score and
      cost of their choices: [L, m] each.
    """
    estimated, (params,) = fit_without_fold(key, log, outer, inner, [fit], lambdas, number, nuisances=nuisances)
    return rows_of_fold(log, outer, policy, params, estimated, lambdas, number)


def rows_of_fold(
    log: LoggedData,
    outer: Split,
    policy: Policy,
    params: Any,
    estimated: Nuisances,
    lambdas: Array,
    number: int | Array,
) -> tuple[Array, Array, Array]:
    """`held_out_rows`, from what `fit_without_fold` has fitted already."""
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


class HonestBest(NamedTuple):
    """What it is worth to take the best of several policies.

    Attributes:
      best: scalar int, the policy of the largest value on all rows: the one to take.
      by_fold: [K] int, the best on the other folds, which is what each fold values.
      value: scalar, over all rows, of taking the best of the other folds.
      error: scalar, its standard error.
    """

    best: Array
    by_fold: Array
    value: Array
    error: Array


def honest_best(
    rows: Array, fold: Array, *, n_folds: int, row_weight: Array | None = None, group: Array | None = None
) -> HonestBest:
    """Value of choosing the best of M fixed policies on this log: chosen on the other folds, valued on each.

    The largest of M values on the same rows is too large: it was chosen for its luck as well. Its resamples
    have that luck built in, so no bootstrap repairs it. The folds' choices look at each other's rows, so where many
    policies are equally good the standard error is too small: of 20 alike, 95% intervals held in 83% of logs.
    `split_best` is right there too, and wider.

    Args:
      rows: [M, n], each row's contribution to each policy's value (`PolicyValue.rows` at one lambda).
      fold: [n] int, folds that divide no group.
      n_folds: K >= 2.
      row_weight: [n].
      group: [n], rows that are not independent.

    >>> honest_best(jnp.array([[1., 1., 0., 0.], [0., 0., 1., 1.]]), jnp.array([0, 0, 1, 1]), n_folds=2).value
    Array(0., dtype=float32)
    """
    weight = jnp.ones(rows.shape[1]) if row_weight is None else row_weight
    number = jnp.arange(n_folds)[:, None]
    elsewhere = jax.vmap(lambda weight: weighted_mean(rows.T, weight))(jnp.where(fold == number, 0.0, weight))
    by_fold = jnp.argmax(elsewhere, axis=1)
    own = jnp.take_along_axis(rows, by_fold[fold][None], axis=0)[0]
    best = jnp.argmax(weighted_mean(rows.T, weight))
    return HonestBest(best, by_fold, weighted_mean(own, weight), standard_error(own, weight, group=group))


def split_best(
    rows: Array, held_out: Array, *, row_weight: Array | None = None, group: Array | None = None
) -> tuple[Array, Array, Array]:
    """Value of the best of M fixed policies by sample splitting: chosen on one part of a log, valued on the other.

    Its interval is right however alike the policies are, as no row both chooses and values; and wider than that of
    `honest_best`, as only the rows held out value.

    Args:
      rows: [M, n], each row's contribution to each policy's value (`PolicyValue.rows` at one lambda).
      held_out: [n] bool, rows that value; no group on both sides.
      row_weight: [n].
      group: [n], rows that are not independent.

    Returns:
      The policy chosen, its value, and the standard error: scalars.

    Source: Cox (1975), A note on data-splitting.

    >>> split_best(jnp.array([[1., 0., 0.], [0., 2., 4.]]), jnp.array([False, True, True]))[1]
    Array(0., dtype=float32)
    """
    weight = jnp.ones(rows.shape[1]) if row_weight is None else row_weight
    chosen = jnp.argmax(weighted_mean(rows.T, jnp.where(held_out, 0.0, weight)))
    valued = jnp.where(held_out, weight, 0.0)
    return chosen, weighted_mean(rows[chosen], valued), standard_error(rows[chosen], valued, group=group)
