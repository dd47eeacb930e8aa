"""One decision: what a policy would choose, changed by what has changed since, by limits, and by exploring.

advantage   how far each model is from the policy's choice, at present prices, with models added since
feasible    which models meet a query's limits on cost and score, by forecast
explored    probabilities of a decision that explores, and the draw
"""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jrouter.metrics import choose, masked, utility
from jrouter.types import Array

FIRST = 1e-30
"""Advantage of the policy's choice over what ties with it."""


def advantage(values: Array, score: Array, cost: Array, lam: float | Array, *, price: Array, mask: Array) -> Array:
    """How far each model is above the policy's choice b, by forecast, at present prices.

        a_t = min(u_t - u_b, 0) + (v_t - u_t) - (v_b - u_b)    models that the policy knows
        a_t = v_t - v_b                                        models added since
        u_t = score_t - lambda cost_t,   v_t = score_t - lambda price_t cost_t

    The policy was trained to choose: at the prices it was trained for, nothing it knows is better than its choice,
    and the forecast says by how much it is worse. What has changed since is added to that. So without changes the
    choice stays, and of a policy that takes the best of these forecasts itself, this is that rule at new prices.

    Args:
      values: [T0], logits or utilities of the models that the policy knows, the first T0 of T.
      score: [T], forecast.
      cost: [T], forecast, at the prices of training.
      lam: lambda.
      price: [T], present price as a multiple of the price of training; of an added model, of its forecast.
      mask: [T] bool, models that may be chosen.

    Returns:
      [T], for the best of which to be chosen: `FIRST` for b where nothing is better, far below where `mask` is False.
      Where the mask has no model that the policy knows, v.

    >>> values, score, cost = jnp.array([1., 0.]), jnp.array([.5, .9]), jnp.array([1., 1.])
    >>> advantage(values, score, cost, .5, price=jnp.ones(2), mask=jnp.ones(2, bool)).argmax()
    Array(0, dtype=int32)
    >>> advantage(values, score, cost, .5, price=jnp.array([1., .5]), mask=jnp.ones(2, bool)).round(2)
    Array([0.  , 0.25], dtype=float32)
    """
    chex.assert_equal_shape([score, cost, price, mask])
    known = values.shape[0]
    before, now = utility(score, cost, lam), utility(score, price * cost, lam)
    any_known = mask[:known].any()
    best = choose(values, mask=mask[:known])
    worse = jnp.minimum(before - before[best], 0.0) + (now - before) - (now - before)[best]
    ahead = jnp.where(jnp.arange(score.shape[0]) < known, worse, now - now[best])
    ahead = ahead.at[best].set(FIRST)
    return masked(jnp.where(any_known, ahead, now), mask)


class Limits(NamedTuple):
    """What one decision must keep to.

    Attributes:
      max_cost: of the query, in units of cost; infinity for none.
      min_score: expected; minus infinity for none.
      switch_cost: what leaving the model of the dialogue costs once (a lost cache), in units of cost.
      explore: share of decisions that are drawn uniformly from the feasible models.
    """

    max_cost: float | Array = float("inf")
    min_score: float | Array = -float("inf")
    switch_cost: float | Array = 0.0
    explore: float | Array = 0.0


def feasible(score: Array, cost: Array, mask: Array, limits: Limits) -> tuple[Array, Array]:
    """The models of a pool that meet the limits, by forecast; the nearest to it where none does.

    First the limit on cost: where no model is that cheap, the cheapest is taken. Of what is left, the limit on
    score: where none is that good, the best is taken.

    Args:
      score: [T], forecast.
      cost: [T], forecast, at present prices.
      mask: [T] bool, the pool.
      limits: of this query.

    Returns:
      [T] bool, and [2] bool: whether the limit on cost, and on score, is met by none.

    >>> feasible(jnp.array([.2, .9]), jnp.array([1., 5.]), jnp.ones(2, bool), Limits(max_cost=3., min_score=.5))
    (Array([ True, False], dtype=bool), Array([False,  True], dtype=bool))
    """
    cheap = mask & (cost <= limits.max_cost)
    too_dear = ~cheap.any()
    cheap = jnp.where(too_dear, _only(jnp.argmin(jnp.where(mask, cost, jnp.inf)), mask), cheap)
    good = cheap & (score >= limits.min_score)
    too_bad = ~good.any()
    good = jnp.where(too_bad, _only(jnp.argmax(jnp.where(cheap, score, -jnp.inf)), mask), good)
    return good, jnp.stack([too_dear, too_bad])


def stay(advantages: Array, previous: Array, lam: float | Array, switch_cost: float | Array) -> tuple[Array, Array]:
    """The best model, or the dialogue's, where the gain does not pay for leaving it.

        leave p  <=>  max_t a_t - a_p > lambda * switch_cost

    Args:
      advantages: [T], from `advantage`; far below where a model may not be chosen.
      previous: index of the model that the dialogue is on; -1 for none.
      lam: lambda.
      switch_cost: in units of cost.

    Returns:
      Index of the choice, and whether it stayed although another was better.

    >>> stay(jnp.array([0., -.1]), jnp.array(1), 100., .002)
    (Array(1, dtype=int32), Array(True, dtype=bool))
    """
    best = jnp.argmax(advantages)
    own = advantages[previous]
    possible = (previous >= 0) & (own > masked(own, jnp.array(False)))
    keep = possible & (advantages[best] - own <= lam * switch_cost)
    return jnp.where(keep, previous, best).astype(jnp.int32), keep & (previous != best)


def explored(choice: Array, mask: Array, explore: float | Array) -> Array:
    """Probabilities of a decision that explores: (1 - e) 1[t = choice] + e / m for the m models of the mask.

    >>> explored(jnp.array(1), jnp.array([True, True, False]), jnp.float32(.1))
    Array([0.05, 0.95, 0.  ], dtype=float32)
    """
    return (1.0 - explore) * _only(choice, mask) + explore * mask / jnp.maximum(mask.sum(), 1)


def drawn(probability: Array, draw: Array) -> Array:
    """The model that a uniform number in [0, 1) draws.

    >>> drawn(jnp.array([.25, 0., .75]), jnp.array(.25))
    Array(2, dtype=int32)
    """
    reached = jnp.cumsum(probability)
    # Never a model of probability 0, whatever rounding does to the sum.
    last = probability.shape[0] - 1 - jnp.argmax(probability[::-1] > 0)
    return jnp.minimum(jnp.searchsorted(reached, draw, side="right"), last).astype(jnp.int32)


def _only(index: Array, like: Array) -> Array:
    return jnp.arange(like.shape[0]) == index
