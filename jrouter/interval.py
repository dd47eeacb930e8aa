"""The lambda axis: where it is interesting, which interval a lambda is in, and what lies between."""

from typing import NamedTuple

import chex
import jax.numpy as jnp
from jax.typing import ArrayLike

from jrouter.metrics import utility
from jrouter.types import Array, CounterfactualScores, LoggedData
from jrouter.weighted import model_means, weighted_mean

PAPER_LAMBDAS = tuple(100.0 * step for step in range(11))
"""0, 100, ..., 1000, score per USD: the range that a later reimplementation of the paper used."""


def interpolate(
    low: Array, high: Array, lam: float | Array, *, lam_low: float | Array, lam_high: float | Array
) -> Array:
    """What lies between two endpoints: alpha * low + (1 - alpha) * high, alpha = (hi - lam) / (hi - lo).

    Exact for utilities, which are affine in lambda (Proposition: y(lam) = alpha y(lo) + (1-alpha) y(hi)).
    Not for regret-trained logits, whose scale is not identified. Outside [lam_low, lam_high] it
    extrapolates; `locate` clips.

    Args:
      low: [T], values at `lam_low`.
      high: [T], values at `lam_high`.
      lam: lambda.
      lam_low: lower end of the interval.
      lam_high: upper end; equal ends give `low`.

    Returns:
      [T].

    Source: arXiv 2505.16037, RM-Interval.

    >>> interpolate(jnp.array([0., 1.]), jnp.array([1., 0.]), 25., lam_low=0., lam_high=100.)
    Array([0.25, 0.75], dtype=float32)
    """
    chex.assert_equal_shape([low, high])
    width = jnp.asarray(lam_high - lam_low, low.dtype)
    wide = width > 0
    share_high = jnp.where(wide, (lam - lam_low) / jnp.where(wide, width, 1.0), 0.0)
    return (1.0 - share_high) * low + share_high * high


class Located(NamedTuple):
    """Where a lambda lies between knots: indices of its two endpoints, and the lambda clipped to them."""

    low: Array
    high: Array
    lam: Array


def locate(knots: Array, lam: float | Array) -> Located:
    """The interval of `knots` [K] (ascending, K >= 2) that holds `lam`; outside, the nearest end.

    >>> locate(jnp.array([0., 100., 200.]), 130.)
    Located(low=Array(1, dtype=int32), high=Array(2, dtype=int32), lam=Array(130., dtype=float32))
    """
    lam = jnp.clip(jnp.asarray(lam, jnp.float32), knots[0], knots[-1])
    low = jnp.clip(jnp.searchsorted(knots, lam, side="right") - 1, 0, knots.shape[0] - 2)
    return Located(low, low + 1, lam)


def nearest(knots: Array, lam: float | Array) -> Array:
    """Index of the knot nearest to `lam`.

    >>> nearest(jnp.array([0., 100., 200.]), 130.)
    Array(1, dtype=int32)
    """
    return jnp.argmin(jnp.abs(knots - lam))


def lambda_grid(log: LoggedData, *, size: int = 11) -> Array:
    """The lambdas at which models of this log change places: quantiles of score gap / cost gap.

    For each pair of models in which the dearer one scores more, lambda = gap in mean score / gap in
    mean cost is where the two tie. The grid is 0 and evenly spaced quantiles of these, of half the
    least and of twice the largest (so that one pair gives a range too). It looks at plain means of the
    log, which is good enough to say where to look.

    Args:
      log: n rows of T models.
      size: number of lambdas, at least 2.

    Returns:
      [size] ascending, the first 0. Where no pair trades, multiples of (score range / cost range).

    Raises:
      ValueError: if costs are all equal, or if no model was scored: lambda then has no scale.
    """
    if not bool((log.score_weight > 0).any()):
        raise ValueError("no row of this log was scored: nothing says which model is better")
    score = model_means(log.score, log.model, log.score_weight, n_models=len(log.models))
    cost = model_means(log.cost, log.model, log.weight, n_models=len(log.models))
    score_gap, cost_gap = score[:, None] - score[None], cost[:, None] - cost[None]
    trades = (score_gap > 0) & (cost_gap > 0)
    if bool(trades.any()):
        ties = (score_gap / cost_gap)[trades]
        ties = jnp.concatenate([ties, ties.min()[None] / 2.0, ties.max()[None] * 2.0])
        return jnp.concatenate([jnp.zeros(1), jnp.quantile(ties, jnp.linspace(0.0, 1.0, size + 1)[1:-1])])
    spread = jnp.nanmax(cost) - jnp.nanmin(cost)
    if not bool(spread > 0):
        raise ValueError("no cost preference to choose: every model of this log costs the same; pass lambdas")
    scale = jnp.maximum(jnp.nanmax(score) - jnp.nanmin(score), 1e-3) / spread
    return jnp.linspace(0.0, 2.0, size) * scale


def ascending(lambdas: ArrayLike) -> Array:
    """Lambdas as a float32 array [L], once they are known to be a grid.

    Raises:
      ValueError: for lambdas that are not finite, at least 0 and ascending.

    >>> ascending([0, 100])
    Array([  0., 100.], dtype=float32)
    """
    grid = jnp.asarray(lambdas, jnp.float32)
    usable = grid.ndim == 1 and grid.size > 0 and bool(jnp.isfinite(grid).all() & (grid >= 0).all())
    if not usable or not bool((jnp.diff(grid) > 0).all()):
        raise ValueError(f"lambdas must ascend, finite and at least 0, got {grid.tolist()}")
    return grid


def regret_scale(scores: CounterfactualScores, lam: float | Array, row_weight: Array | None = None) -> Array:
    """Mean over queries of the standard deviation of utility over models: what regret is measured in.

    The range of utilities grows with lambda, so a loss that averages over lambda divides by this.

    Args:
      scores: [n, T].
      lam: lambda.
      row_weight: [n].

    Returns:
      Scalar, positive.
    """
    values = utility(scores.score, scores.cost, lam)
    return jnp.maximum(weighted_mean(values.std(axis=1), row_weight), 1e-12)
