"""The nouns: what was logged, what a benchmark knows, and what is estimated from it.

Frozen dataclasses registered as pytrees. Arrays are leaves with the row axis first, so that a
selection of rows is one `tree.map`; names and units are static and stay on the host.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass
from jax.typing import ArrayLike

Array = jax.Array
Rows = TypeVar("Rows")


def _static(default: Any) -> Any:
    return field(default=default, metadata={"static": True})


@register_dataclass
@dataclass(frozen=True)
class LoggedData:
    """One model per query: what a gateway's log holds.

    Attributes:
      x: [n, d] query embeddings.
      model: [n] int32, index of the model that answered, in `models`.
      score: [n], quality of the answer (any bounded scale, usually 0 to 1); 0 where not scored.
      cost: [n], cost of the answer in `cost_unit`, at least 0.
      propensity: [n], probability with which the logging policy chose `model`, or None.
      row_weight: [n], how often a row counts (bootstrap counts, inverse keep probability), or None. It
        multiplies all that the row adds to anything: fits, means, standard errors, losses.
      allowed: [n, T] bool, which models the logging policy could have chosen, or None for all.
      scored: [n] bool, whether `score` was observed, or None for all. It may depend on the query and the
        model, not on the score.
      group: [n] int32, rows that must stay on one side of a split (same query, user), or None.
      time: [n], seconds since the first row of the log, or None.
      models: names of the T models (static).
      cost_unit: unit of `cost` (static).
    """

    x: Array
    model: Array
    score: Array
    cost: Array
    propensity: Array | None = None
    row_weight: Array | None = None
    allowed: Array | None = None
    scored: Array | None = None
    group: Array | None = None
    time: Array | None = None
    models: tuple[str, ...] = _static(())
    cost_unit: str = _static("USD")

    @property
    def weight(self) -> Array:
        """[n], `row_weight`, or ones."""
        return jnp.ones_like(self.cost) if self.row_weight is None else self.row_weight

    @property
    def score_weight(self) -> Array:
        """[n], `weight`, 0 where the answer was not scored."""
        return self.weight if self.scored is None else self.weight * self.scored


@register_dataclass
@dataclass(frozen=True)
class BenchmarkTable:
    """Every model's outcome on every query: what a log is simulated from.

    Attributes:
      x: [n, d] query embeddings, or None for a table that holds text only.
      score: [n, T], realised score of each model.
      cost: [n, T], realised cost of each model, in `cost_unit`.
      mean_score: [n, T], E[score | query], where known (synthetic benchmarks), or None.
      mean_cost: [n, T], E[cost | query], where known, or None.
      group: [n] int32, equal for duplicates of a query.
      models: names of the T models (static).
      cost_unit: unit of `cost` (static).
    """

    x: Array | None
    score: Array
    cost: Array
    mean_score: Array | None = None
    mean_cost: Array | None = None
    group: Array | None = None
    models: tuple[str, ...] = _static(())
    cost_unit: str = _static("USD")

    @property
    def true_score(self) -> Array:
        """[n, T], what a policy is judged by: the mean score where known, else the realised one."""
        return self.score if self.mean_score is None else self.mean_score

    @property
    def true_cost(self) -> Array:
        """[n, T], the mean cost where known, else the realised one."""
        return self.cost if self.mean_cost is None else self.mean_cost


@register_dataclass
@dataclass(frozen=True)
class Nuisances:
    """What the counterfactual scores are built from, for the rows of one log.

    Attributes:
      propensity: [n], probability of the logged model: the log's own where it has one (never
        clipped; times the estimated probability that the model was allowed, where policies may choose
        any model and the log says which were allowed), else the estimate after its floor or clipping.
      score: [n, T], outcome model of score.
      cost: [n, T], outcome model of cost.
      fold: [n] int32, the fold whose complement the estimates of a row were fitted on.
      all_propensity: [n, T], estimated probability of every model, floored or clipped as `propensity`
        is; 0 where a model was not allowed if policies are restricted to what was (`NuisanceConfig.pool`);
        None where the log's own propensities are used.
      scored_probability: [n], estimated probability that the logged model's answer is scored, above 0;
        None where all were, or where the share of each model's answers is to be used.
    """

    propensity: Array
    score: Array
    cost: Array
    fold: Array
    all_propensity: Array | None = None
    scored_probability: Array | None = None


@register_dataclass
@dataclass(frozen=True)
class CounterfactualScores:
    """Estimated score and cost of every model on every logged query: [n, T] each.

    Both use the same weights, and utility is affine in them, so one pair serves every lambda.
    """

    score: Array
    cost: Array


def take_rows(data: Rows, rows: ArrayLike | Sequence[int]) -> Rows:
    """Returns `data` with the rows at indices `rows` [m], in that order.

    >>> log = LoggedData(jnp.eye(3), jnp.arange(3), jnp.ones(3), jnp.arange(3.), models=("a", "b", "c"))
    >>> take_rows(log, [2, 0]).cost
    Array([2., 0.], dtype=float32)
    """
    index = jnp.asarray(rows)
    return jax.tree.map(lambda leaf: leaf[index], data)
