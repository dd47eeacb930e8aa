"""Folds as row weights: a family is fitted with weight 0 on each fold's rows, and once on all rows.

So all K + 1 fits are one vmapped program, and each row is predicted by the fit that never saw it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrouter.chunks import map_rows
from jrouter.splits import Split, rows_by_label
from jrouter.types import Array, LoggedData


class CrossFit(NamedTuple):
    """A family fitted on each fold's complement and on all rows.

    Attributes:
      params: leading axis K + 1, the last fitted on all rows.
      units: of outcomes, leading axis K + 1; None for propensities.
      scaling: of embeddings, from all rows (no outcome enters).
      strength: chosen strength, for score and for cost where the family is an outcome model; of a stack,
        {"parts": strengths of each family, "weight": [2, M]}.
      error: [P, ...] held-out error of each candidate (zeros where there was no choice).
      predicted: [n, 2, T], cross-fitted score and cost of each row; None for propensities.
      parts: fits of the families of a stack, by name; None for a single family.
    """

    params: Any
    units: Any
    scaling: dict[str, Array]
    strength: Any
    error: Array
    predicted: Any = None
    parts: Any = None


def fold_weights(log: LoggedData, split: Split) -> Array:
    """[K + 1, n], row weights of each fold's complement, then of all rows."""
    if split.n_folds == 1:
        return log.weight[None]
    held_out = split.fold == jnp.arange(split.n_folds + 1)[:, None]
    return jnp.where(held_out, 0.0, log.weight)


def held_out(predict, params: Any, x: Any, split: Split, *, only_first: bool = False) -> Array:
    """Predictions [n, ...] of each row of x by the fit of its own fold's complement.

    Args:
      predict: (params, row of x) -> [...].
      params: leading axis K + 1.
      x: [n, d], or a pytree of arrays [n, ...].
      split: folds.
      only_first: predict the rows of the first fold alone; those of others are 0.
    """
    if split.n_folds == 1:
        return map_rows(lambda one: predict(at(params, 0), one), x)
    rows, present = rows_by_label(split.fold, n_labels=split.n_folds, size=split.fold_size)

    def of_fold(operands):
        number, rows = operands
        return map_rows(lambda one: predict(at(params, number), one), at(x, rows))

    if only_first:
        rows, present = rows[:1], present[:1]
    predicted = jax.lax.map(of_fold, (jnp.arange(rows.shape[0]), rows))
    n = split.fold.shape[0]
    places = jnp.where(present, rows, n)
    return jnp.zeros((n, *predicted.shape[2:])).at[places].set(predicted, mode="drop")


def at(tree: Any, index) -> Any:
    """Leaves at an index of their leading axis: one fold's params, or some rows."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
