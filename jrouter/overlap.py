"""Overlap: whether the log holds enough of what a policy would choose, by its importance weights, and balance.

w_i = pi(t_i | x_i) / p_{t_i}(x_i),   effective rows (sum v w)^2 / sum (v w)^2,   row weights v
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jrouter.inference import standard_error
from jrouter.pareto import pareto_k
from jrouter.types import Array
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
    return Support(below, jnp.zeros_like(below), share(at_floor(propensity, floor)), jnp.zeros(()))


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


def at_floor(propensity: Array, floor: float | Array) -> Array:
    """Which propensities [..., T] are at the floor, `floor` / T, but for rounding."""
    return propensity <= floor * (1.0 + 1e-5) / propensity.shape[-1]


def balance(features: Array, model: Array, weight: Array, row_weight: Array, *, n_models: int) -> Balance:
    """Standardised mean differences between each model's rows and all rows, before and after weighting.

    Args:
      features: [n, J], of mean 0 and variance 1 over the rows, from `check_features`.
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
