"""Curves of (cost, score), and one number for each: hull and AIQ, APGR and CPT, distance to a frontier.

A curve is what a router gives at m settings (thresholds, cost preferences): mean cost [m] and mean score [m], in any
order. Its shape is static: what is left out is masked, so that all of this can be compiled, and vmapped over resamples.

What other implementations do otherwise is said where it changes numbers. Both RouterBench's and RouteLLM's call
`np.trapz`, which NumPy no longer has. LLMRouterBench publishes no code of its metrics: they are here as replications
quote its paper.
"""

import chex
import jax
import jax.numpy as jnp

from jrouter.types import Array


def on_hull(cost: Array, score: Array) -> Array:
    """Which points are corners of the non-decreasing convex hull: no mix of other points costs as much and scores more.

    A mix of two routers, one of them drawn for each query, is a point on the line between theirs; a router that
    costs more and scores less can be replaced by one that does not. Of points that are the same, the first counts.

    Args:
      cost: [m].
      score: [m].

    Returns:
      [m] bool; ascending in cost, the corners ascend in score.

    Source: RouterBench, arXiv 2403.12031, section 3. Its `evaluation/AIQ.py` fails for fewer than three points, and of
    several at the lowest cost takes the first, not the best.

    >>> on_hull(jnp.array([1., 2., 3., 4.]), jnp.array([0., 0.4, 1., 0.9])).tolist()
    [True, False, True, False]
    """
    chex.assert_rank([cost, score], 1)
    chex.assert_equal_shape([cost, score])
    order = jnp.lexsort((-score, cost))
    cost, score = cost[order], score[order]
    best_before = jax.lax.cummax(jnp.concatenate([jnp.full(1, -jnp.inf, score.dtype), score[:-1]]))
    rises = score > best_before
    # A corner is where every line from the left is steeper than every line to the right, among points that rise.
    run, rise = cost[None] - cost[:, None], score[None] - score[:, None]
    slope = rise / jnp.where(run > 0, run, 1.0)
    ahead = (run > 0) & rises[:, None] & rises[None]
    from_left = jnp.where(ahead, slope, jnp.inf).min(axis=0)
    to_right = jnp.where(ahead, slope, -jnp.inf).max(axis=1)
    corner = rises & (from_left > to_right)
    return jnp.zeros_like(corner).at[order].set(corner)


def hull_at(cost: Array, score: Array, at: Array) -> Array:
    """Score of the non-decreasing convex hull at given costs: what a mix of the points can reach for so much.

    Beyond the dearest corner it is flat. Below the cheapest it is the line from (0, 0), no answer at no cost.

    Args:
      cost: [m], at least 0.
      score: [m].
      at: [k] costs, at least 0.

    Returns:
      [k].

    Source: RouterBench, arXiv 2403.12031, section 3 (interpolation, extrapolation, non-decreasing convex hull).

    >>> hull_at(jnp.array([1., 3.]), jnp.array([0.2, 0.6]), jnp.array([0.5, 2., 9.])).round(3)
    Array([0.1, 0.4, 0.6], dtype=float32)
    """
    corner = on_hull(cost, score)
    order = jnp.lexsort((-score, cost))
    # Points that are no corner take the place of the corner before them; the first is always one.
    x, y = (jax.lax.cummax(jnp.where(corner, values, -jnp.inf)[order]) for values in (cost, score))
    return jnp.where(at < x[0], y[0] * at / jnp.where(x[0] > 0, x[0], 1.0), jnp.interp(at, x, y))


def aiq(cost: Array, score: Array, *, low: float | Array | None = None, high: float | Array | None = None) -> Array:
    """Average improvement in quality: mean height of the non-decreasing convex hull over a range of costs.

        AIQ = 1 / (high - low) * integral from low to high of hull(c) dc

    Routers are compared over one range, of all of them; each one's own is the default. In a range of one cost
    it is the height there, in an empty one (high < low) NaN. Not changed by the unit of cost.

    Args:
      cost: [m], at least 0.
      score: [m].
      low: least cost, at least 0; None for the least of the curve.
      high: largest cost; None for the largest of the curve.

    Returns:
      Scalar.

    Source: RouterBench, arXiv 2403.12031, section 3. Its `evaluation/AIQ.py` divides the area by `high`, not by
    `high - low`, and begins at the curve's own least cost: a router is charged for what it does not offer cheaply.

    >>> aiq(jnp.array([1., 3.]), jnp.array([0.2, 0.6])).round(3)
    Array(0.4, dtype=float32)
    """
    low = cost.min() if low is None else jnp.asarray(low, cost.dtype)
    high = cost.max() if high is None else jnp.asarray(high, cost.dtype)
    # The hull is straight between the costs of the points, so that trapezoids are exact.
    at = jnp.sort(jnp.concatenate([jnp.clip(cost, low, high), jnp.stack([low, high])]))
    height, width = hull_at(cost, score, at), high - low
    share = jnp.diff(at) / jnp.where(width > 0, width, 1.0)
    area = (share * (height[1:] + height[:-1]) / 2).sum()
    return jnp.where(width > 0, area, jnp.where(width == 0, height[0], jnp.nan))


def gap_recovered(score: Array, weak: float | Array, strong: float | Array) -> Array:
    """PGR: how much of what separates two models a router makes good; NaN where the strong one is not better.

        PGR = (score - weak) / (strong - weak)

    Source: RouteLLM, arXiv 2406.18665, section on metrics.

    >>> gap_recovered(jnp.array([0.5, 0.75]), 0.5, 1.0)
    Array([0. , 0.5], dtype=float32)
    """
    gap = jnp.asarray(strong - weak, score.dtype)
    return jnp.where(gap > 0, (score - weak) / jnp.where(gap > 0, gap, 1.0), jnp.nan)


def _call_curve(share: Array, score: Array, weak: float | Array, strong: float | Array) -> tuple[Array, Array]:
    """Shares ascending from 0 to 1, and what is recovered at each."""
    chex.assert_rank([share, score], 1)
    chex.assert_equal_shape([share, score])
    best = jnp.where(share[None] == share[:, None], score[None], -jnp.inf).max(axis=1)
    order = jnp.argsort(share)
    share, recovered = share[order], gap_recovered(best[order], weak, strong)
    ends = jnp.where(share[0] > 0, 0.0, recovered[0]), jnp.where(share[-1] < 1, 1.0, recovered[-1])
    return (
        jnp.concatenate([jnp.zeros(1, share.dtype), share, jnp.ones(1, share.dtype)]),
        jnp.concatenate([ends[0][None], recovered, ends[1][None]]),
    )


def apgr(share: Array, score: Array, weak: float | Array, strong: float | Array) -> Array:
    """Average performance gap recovered by a router between two models, over the share of calls to the strong one.

        APGR = integral from 0 to 1 of PGR(c) dc

    By trapezoids. A curve that does not reach the ends is completed by the models themselves, (0, weak) and
    (1, strong); of several scores at one share the best counts. 1/2 for a router that draws by chance, 1 for one
    that is as good as the strong model at every share, NaN where the strong model is not better.

    Args:
      share: [m] in [0, 1], of queries that the strong model answers.
      score: [m].
      weak: mean score of the weak model, and
      strong: of the strong one.

    Returns:
      Scalar.

    Source: RouteLLM, arXiv 2406.18665, section on metrics (there by ten levels of cost). Its
    `routellm/evals/evaluate.py` averages over the shares that the thresholds happened to cover.

    >>> apgr(jnp.array([0.5]), jnp.array([0.9]), 0.5, 0.9)
    Array(0.75, dtype=float32)
    """
    share, recovered = _call_curve(share, score, weak, strong)
    return (jnp.diff(share) * (recovered[1:] + recovered[:-1]) / 2).sum()


def call_threshold(
    share: Array, score: Array, weak: float | Array, strong: float | Array, *, recovered: float
) -> Array:
    """CPT(x): the least share of calls to the strong model that recovers x of what separates the two.

    On the curve of `apgr`, straight between its points; the first crossing, where it rises and falls. Infinite for a
    curve that gets to share 1 without; NaN where the strong model is not better.

    Args:
      share: [m] in [0, 1].
      score: [m].
      weak: and
      strong: mean scores.
      recovered: x in (0, 1], 0.5 for CPT(50%).

    Returns:
      Scalar in [0, 1].

    Source: RouteLLM, arXiv 2406.18665, section on metrics. Its `routellm/evals/evaluate.py` uses `np.interp` with score
    as the abscissa, which is wrong without a word where score falls as calls rise, and gives the last share where
    x is never reached.

    >>> call_threshold(jnp.array([0.2, 0.5]), jnp.array([0.6, 0.9]), 0.5, 0.9, recovered=0.5).round(3)
    Array(0.3, dtype=float32)
    """
    share, curve = _call_curve(share, score, weak, strong)
    # A score that is meant to be the strong model's may miss it by rounding.
    reached = curve >= recovered - 4 * jnp.finfo(curve.dtype).eps
    first = jnp.argmax(reached)
    before = jnp.maximum(first - 1, 0)
    rise = curve[first] - curve[before]
    part = jnp.where(rise > 0, (recovered - curve[before]) / jnp.where(rise > 0, rise, 1.0), 1.0)
    crossing = share[before] + jnp.clip(part, 0.0, 1.0) * (share[first] - share[before])
    found = jnp.where(reached.any(), crossing, jnp.inf)
    return jnp.where(jnp.isnan(curve).any(), jnp.nan, found)


def frontier_distance(cost: Array, score: Array, other_cost: Array, other_score: Array) -> Array:
    """ParetoDist: how far a router's settings are, on average, from the frontier of all points that are compared.

        mean_i min_f |s_i - s_f| + |l_i - l_f|,    s score and l log cost, each from 0 to 1 over all points

    f are the points that no other beats in cost or score without losing in the other. 0 if every setting is one of
    them. Depends on what is compared; not on the unit of cost. Where all are equal, that term is 0.

    Args:
      cost: [m] of the router, above 0; a free point has no log cost, and the distance is NaN.
      score: [m].
      other_cost: [k] of the other routers and the single models.
      other_score: [k].

    Source: LLMRouterBench, arXiv 2601.07206, section on metrics.

    >>> points = jnp.array([1., 100.]), jnp.array([0.5, 0.9])
    >>> frontier_distance(jnp.array([10.]), jnp.array([0.5]), *points).round(3)
    Array(0.5, dtype=float32)
    """
    own = cost.shape[0]
    length, height = jnp.log(jnp.concatenate([cost, other_cost])), jnp.concatenate([score, other_score])
    cheaper, dearer = length[None] < length[:, None], length[None] > length[:, None]
    better, worse = height[None] > height[:, None], height[None] < height[:, None]
    beaten = ((cheaper & ~worse) | (better & ~dearer)).any(axis=1)

    def unit(values):
        span = values.max() - values.min()
        return (values - values.min()) / jnp.where(span == 0, 1.0, span)

    length, height = unit(length), unit(height)
    apart = jnp.abs(length[:own, None] - length[None]) + jnp.abs(height[:own, None] - height[None])
    return jnp.where(beaten[None], jnp.inf, apart).min(axis=1).mean()
