"""Decisions of a router with limits, exploration and dialogues: programs compiled for a few batch sizes."""

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
