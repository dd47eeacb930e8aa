"""Conditional tails of outcomes by model: how far residuals reach, where a prediction is like this one.

Per model, rows that it answered are put in a few bins of equal weight by their prediction, and the law of their
residuals is taken to be the same within a bin. For 0/1 outcomes a law depends on its mean alone, so this is
right up to the width of a bin; for others it is as sharp as predictions tell the spread of outcomes.

Each row's tails come from the rows of the other folds. One sort and two running sums serve every tilt, so a
further tilt costs next to nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jrouter.types import Array

BINS, ROWS_PER_BIN = 10, 50
"""At most so many bins a model, and at least so many of its rows a bin."""


class Tails(NamedTuple):
    """What is known of the residuals about a row's prediction, at one tilt.

    Attributes:
      quantile: [n], tilt / (1 + tilt) quantile of residuals like that of the logged model's prediction.
      shift: [n, T], by how much the tilted mean outcome of each model exceeds its prediction.
    """

    quantile: Array
    shift: Array


class _Sums(NamedTuple):
    """Residuals in ascending order within segments, with running sums of weights and of weighted residuals.

    Attributes:
      residual: [n].
      weight: [K, n + 1], of each fold's complement, from 0 on.
      sums: [K, n + 1].
      total: [K, S], weight of each segment, exactly 0 where it has no row.
      start: [S], where each segment begins, and
      end: [S], where it ends.
    """

    residual: Array
    weight: Array
    sums: Array
    total: Array
    start: Array
    end: Array


def prediction_bins(outcome: Array, model: Array, weight: Array, *, n_bins: int = BINS) -> Array:
    """Bins of predictions: for each model, equal shares of the weight of the rows that it answered.

    Args:
      outcome: [n, T], predictions.
      model: [n] int, index of the logged model.
      weight: [n]; rows of weight 0 shape no bin.
      n_bins: at most; fewer for a model with less than `ROWS_PER_BIN` rows a bin.

    Returns:
      [n, T] int, bin of each prediction; equal predictions are in one bin.
    """

    def of_model(predicted, t):
        own = (model == t) & (weight > 0)
        order = jnp.argsort(jnp.where(own, predicted, jnp.inf))
        placed = jnp.where(own, predicted, jnp.inf)[order]
        below = _running(jnp.where(own, weight, 0.0)[order])
        # In the middle of what ties with it, so that the order may be turned around.
        middle = sum(below[jnp.searchsorted(placed, predicted, side=side)] for side in ("left", "right")) / 2
        bins = jnp.clip(own.sum() // ROWS_PER_BIN, 1, n_bins)
        share = middle / jnp.maximum(below[-1], 1e-30)
        return jnp.clip(jnp.floor(share * bins), 0, bins - 1).astype(jnp.int32)

    return jax.vmap(of_model, in_axes=(1, 0), out_axes=1)(outcome, jnp.arange(outcome.shape[1]))


def make_tails(
    outcome: Array,
    observed: Array,
    model: Array,
    fold: Array,
    weight: Array,
    *,
    n_folds: int,
    n_bins: int = BINS,
) -> Callable[[Array], Tails]:
    """Cross-fitted tails of a log's outcomes.

    With residuals e of a bin, q their tau-quantile, tau = tilt / (1 + tilt), the mean of e under a density ratio
    of `tilt` above q and 1 / tilt below is larger than that of e by

        (1 - 1 / tilt) * mean(tilt * max(e - q, 0) + max(q - e, 0)),

    which is 0 at tilt 1, and for tilt < 1 negative: then ratios are small above a low quantile. Where a bin has
    no row in the other folds, all rows of the model serve, and where the model has none, all rows of the log.

    Args:
      outcome: [n, T], predictions by an outcome model that did not see the row.
      observed: [n], outcome of the logged model.
      model: [n] int, index of the logged model.
      fold: [n] int in 0..n_folds-1.
      weight: [n]; rows without an outcome weigh 0.
      n_folds: K; 1 lets every row see itself.
      n_bins: as of `prediction_bins`.

    Returns:
      tilt > 0 -> `Tails`.
    """
    n, n_models = outcome.shape
    rows = jnp.arange(n)
    residual = jnp.where(weight > 0, observed - outcome[rows, model], 0.0)
    bins = jnp.arange(n_models) * n_bins + prediction_bins(outcome, model, weight, n_bins=n_bins)
    # Every row is in three segments, in this order of preference: its bin, its model, the log.
    first = n_models * n_bins
    of_model = jnp.broadcast_to(first + jnp.arange(n_models), bins.shape)
    segment = jnp.stack([bins, of_model, jnp.full_like(bins, first + n_models)])
    others = weight[None] if n_folds == 1 else jnp.where(fold == jnp.arange(n_folds)[:, None], 0.0, weight)
    complement = jnp.zeros_like(fold) if n_folds == 1 else fold
    sums = _sums_of(
        jnp.tile(residual, 3), segment[:, rows, model].reshape(-1), jnp.tile(others, 3), size=first + n_models + 1
    )
    preferred = jnp.argmax(sums.total[complement[:, None], segment] > 0, axis=0)
    place = complement[:, None], jnp.take_along_axis(segment, preferred[None], axis=0)[0]

    def tails(tilt: Array) -> Tails:
        quantile, shift = (part[place] for part in _tails_of(sums, tilt))
        return Tails(quantile[rows, model], shift)

    return tails


def _running(values: Array) -> Array:
    """[..., n + 1], sums of the first 0, 1, ..., n values."""
    return jnp.concatenate([jnp.zeros_like(values[..., :1]), jnp.cumsum(values, axis=-1)], axis=-1)


def _sums_of(residual: Array, segment: Array, weight: Array, *, size: int) -> _Sums:
    order = jnp.lexsort((residual, segment))
    ends = jnp.searchsorted(segment[order], jnp.arange(size + 1))
    total = jax.vmap(lambda weight: jax.ops.segment_sum(weight, segment, num_segments=size))(weight)
    weight, residual = weight[:, order], residual[order]
    return _Sums(residual, _running(weight), _running(weight * residual), total, ends[:-1], ends[1:])


def _tails_of(sums: _Sums, tilt: Array) -> tuple[Array, Array]:
    """Quantile and shift of each fold's complement and segment: [K, S] each, 0 shift where it has no row."""
    tau = tilt / (1.0 + tilt)
    # The first row at which the running weight reaches tau's share of its segment.
    place = jax.vmap(jnp.searchsorted)(sums.weight[:, 1:], sums.weight[:, sums.start] + tau * sums.total)
    place = jnp.clip(place, sums.start, jnp.maximum(sums.end - 1, sums.start))
    quantile = sums.residual[jnp.minimum(place, sums.residual.shape[0] - 1)]

    def between(first, last):
        """Sum of weights times (residual - quantile) over a part of each segment."""
        weight, sum_ = (
            jnp.take_along_axis(part, last, 1) - jnp.take_along_axis(part, first, 1)
            for part in (sums.weight, sums.sums)
        )
        return sum_ - quantile * weight

    start, end = (jnp.broadcast_to(ends, place.shape) for ends in (sums.start, sums.end))
    spread = tilt * between(place, end) - between(start, place)
    some = sums.total > 0
    return quantile, jnp.where(some, (1.0 - 1.0 / tilt) * spread / jnp.where(some, sums.total, 1.0), 0.0)
