"""A policy that knows of what has changed since it was trained: prices, added models, and one query's limits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.decision import Limits, advantage, drawn, explored, feasible, stay
from jrouter.forecast import forecast
from jrouter.policy import Policy
from jrouter.types import Array


@dataclass(frozen=True)
class AmendedPolicy(Policy):
    """A policy at present prices, with models added since: params are {"policy", "forecast", "price" [T]}.

    Its values are `decision.advantage`, which depend on the pool. It decides: a policy that draws is taken at its
    most probable model.
    """

    def values(self, params: Any, x: Array, lam: float | Array, mask: Array | None = None) -> Array:
        score, cost = forecast(params["forecast"], x)
        pool = jnp.ones(score.shape, bool) if mask is None else mask
        known = self.apply(params["policy"], x, lam)
        return advantage(known, score, cost, lam, price=params["price"], mask=pool)


def amended(policy: Policy) -> AmendedPolicy:
    """The policy with amendments, of those params."""
    at = policy.at
    return AmendedPolicy(
        policy.apply,
        at=None if at is None else lambda params, lam: {**params, "policy": at(params["policy"], lam)},
    )


class Decided(NamedTuple):
    """Decisions on n queries: [n] each, or as said.

    Attributes:
      model: index, drawn.
      choice: index of the best, which exploration may have left.
      could: [n, T] bool, what could have been drawn, or would have been feasible.
      score: forecast of it.
      cost: likewise, at present prices.
      unmet: [n, 2] bool, as of `decision.feasible`.
      kept: whether the dialogue stayed on its model although another was better.
      finite: whether the query was.
    """

    model: np.ndarray
    choice: np.ndarray
    could: np.ndarray
    score: np.ndarray
    cost: np.ndarray
    unmet: np.ndarray
    kept: np.ndarray
    finite: np.ndarray


def deciding(policy: AmendedPolicy, finite: Callable[[Array], Array]) -> Callable[..., tuple[Array, ...]]:
    """(params, (x [n, d], previous [n], draw [n]), lam, (pool [T], limits)) -> fields of `Decided`.

    Args:
      policy: of `amended`.
      finite: x [n, d] -> [n] bool.
    """

    def one(params, row, lam, keep_to: tuple[Array, Limits]):
        (x, previous, draw), (pool, limits) = row, keep_to
        score, cost = forecast(params["forecast"], x)
        cost = params["price"] * cost
        could, unmet = feasible(score, cost, pool, limits)
        ahead = policy.values(params, x, lam, could)
        choice, kept = stay(ahead, previous, lam, limits.switch_cost)
        probability = explored(choice, could, limits.explore)
        model = drawn(probability, draw)
        return model, choice, could, score[model], cost[model], unmet, kept & (model == previous)

    def decisions(params, rows, lam, keep_to):
        return (*jax.vmap(lambda row: one(params, row, lam, keep_to))(rows), finite(rows[0]))

    return decisions
