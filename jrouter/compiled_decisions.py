"""Decisions of a router with limits, exploration and dialogues: programs compiled for a few batch sizes."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jrouter.amended import Decided, amended, deciding
from jrouter.compiled_policy import CompiledPolicy, finite_rows
from jrouter.compiled_texts import CompiledTexts
from jrouter.decision import Limits
from jrouter.forecast import Forecast
from jrouter.forecast import forecast as forecast_of
from jrouter.policy import Policy


class Decision(NamedTuple):
    """What was decided on one query, as its log should say.

    Attributes:
      model: to call.
      propensity: probability with which it was drawn, exact; 1 without exploration.
      allowed: models that met the limits: those that could have been drawn.
      lam: lambda, as it was used.
      score: forecast of the model's, and
      cost: of its cost, at present prices.
      unmet: "max_cost" or "min_score", where no model met it and the nearest was taken.
      kept: whether the dialogue stayed on its model because the gain did not pay for leaving it.
      router: version of the router.
    """

    model: str
    propensity: float
    allowed: tuple[str, ...]
    lam: float
    score: float | None
    cost: float | None
    unmet: tuple[str, ...]
    kept: bool
    router: str


def limits_of(max_cost: float | None, min_score: float | None, switch_cost: float, explore: float) -> Limits:
    """What one decision keeps to, from what a caller says.

    Raises:
      ValueError: for limits that are not finite, or exploration outside [0, 1].
    """
    for name, value in (("max_cost", max_cost), ("min_score", min_score), ("switch_cost", switch_cost)):
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name}: expected a finite number, got {value}")
    if not 0.0 <= explore <= 1.0:
        raise ValueError(f"explore: expected a share from 0 to 1, got {explore}")
    most = float("inf") if max_cost is None else float(max_cost)
    least = -float("inf") if min_score is None else float(min_score)
    return Limits(most, least, float(switch_cost), float(explore))


def dialogues(previous: str | None | Sequence[str | None], models: Sequence[str], n: int) -> np.ndarray:
    """[n] int32, index of the model that each dialogue is on; -1 for none, or for one that is not there any more.

    Raises:
      ValueError: for another number of dialogues than n.

    >>> dialogues(["b", None, "old"], ("a", "b"), 3)
    array([ 1, -1, -1], dtype=int32)
    """
    names = [previous] * n if previous is None or isinstance(previous, str) else list(previous)
    if len(names) != n:
        raise ValueError(f"previous: expected one model for each of {n} queries, got {len(names)}")
    place = {name: index for index, name in enumerate(models)}
    return np.array([-1 if name is None else place.get(name, -1) for name in names], np.int32)


def as_decisions(found: Decided, models: Sequence[str], lam: float, explore: float, version: str) -> list[Decision]:
    """Decisions with names, of what was decided at one lambda."""

    def one(row: int) -> Decision:
        # As `decision.explored`, to all digits.
        chosen = float(found.model[row] == found.choice[row])
        return Decision(
            model=models[int(found.model[row])],
            propensity=(1.0 - explore) * chosen + explore / int(found.could[row].sum()),
            allowed=tuple(name for name, could in zip(models, found.could[row], strict=True) if could),
            lam=lam,
            score=float(found.score[row]),
            cost=float(found.cost[row]),
            unmet=tuple(name for name, unmet in zip(("max_cost", "min_score"), found.unmet[row], strict=True) if unmet),
            kept=bool(found.kept[row]),
            router=version,
        )

    return [one(row) for row in range(len(found.model))]


class CompiledDecisions:
    """`Decided` for batches of any size; threads may share one.

    Args:
      policy: and
      params: its parameters.
      forecasts: of all T models, those added since at the end.
      price: T multiples.
      dim: width of the embeddings.

    Attributes:
      programs: "decisions", of rows with the index of each dialogue's model (-1 for none) and a uniform number; its
        pools are (pool, limits), or None for all models without limits.
    """

    def __init__(self, policy: Policy, params: Any, forecasts: Forecast, price: tuple[float, ...], dim: int):
        n_models = len(price)
        whole, every = amended(policy), (True,) * n_models

        def place(key: tuple[tuple[bool, ...], Limits] | None) -> tuple[np.ndarray, Limits]:
            pool, limits = key or (every, Limits())
            return np.array(pool), jax.tree.map(np.float32, limits)

        self.programs = CompiledPolicy(
            whole,
            {"policy": params, "forecast": forecasts, "price": np.array(price, np.float32)},
            dim,
            n_models,
            functions={"decisions": deciding(whole, finite_rows)},
            beside=(np.int32(0), np.float32(0)),
            place=place,
        )
        self._forecasts = jax.jit(jax.vmap(lambda params, x: forecast_of(params, x), in_axes=(None, 0)))
        self._forecast_params = jax.device_put(forecasts, self.programs.device)

    def __call__(
        self,
        queries: Any,
        previous: np.ndarray,
        draw: np.ndarray,
        lam: float,
        pool: tuple[bool, ...],
        limits: Limits,
        *,
        texts: CompiledTexts | None = None,
    ) -> Decided:
        """Decides rows [n, d], with the index of each dialogue's model (-1 for none) and uniform numbers [n].

        Args:
          queries: the rows; or n texts, where `texts` reads them.
          texts: of these `programs`, from tokens to decisions.
        """
        if texts is not None:
            return Decided(*texts.answer("decisions", queries, lam, (pool, limits), (previous, draw)))
        return Decided(*self.programs.answer("decisions", (queries, previous, draw), lam, (pool, limits)))

    def compile(self, sizes: Any = None) -> None:
        """Compiles the programs of these batch sizes; None for all."""
        self.programs.compile(sizes)

    def forecast(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score and cost [n, T] of rows x [n, d], at the prices of training."""
        score, cost = self._forecasts(self._forecast_params, x)
        return np.asarray(score), np.asarray(cost)
