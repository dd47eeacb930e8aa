"""Which rows estimate what: test split, validation split, folds; a group is never divided."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass

from jrouter.types import Array, LoggedData


@register_dataclass
@dataclass(frozen=True)
class Split:
    """The rows of a log by what they may be used for.

    Attributes:
      fold: [n] int32, fold of each row for cross-fitting.
      train: [a] int32, rows that a router's gradient may see, padded with row 0 ...
      train_weight: [a], ... at weight 0 (1 elsewhere).
      valid: [b] int32, rows that choose its epoch, padded likewise.
      valid_weight: [b].
      n_folds: number of folds (static).
      fold_size: room for the largest fold (static).
      model_size: room for the rows of the most logged model (static).
    """

    fold: Array
    train: Array
    train_weight: Array
    valid: Array
    valid_weight: Array
    n_folds: int = field(metadata={"static": True})
    fold_size: int = field(metadata={"static": True})
    model_size: int = field(metadata={"static": True})


def deal_groups(rng: np.random.Generator, group: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """Deals whole groups at random to parts of about the given shares of the rows.

    Args:
      rng: generator.
      group: [n], rows with equal values stay together.
      shares: share of the rows of each part, summing to 1.

    Returns:
      [n] int, the part of each row.

    >>> deal_groups(np.random.default_rng(0), np.array([0, 0, 1, 1]), (.5, .5)).tolist()
    [0, 0, 1, 1]
    """
    _, ids, counts = np.unique(group, return_inverse=True, return_counts=True)
    order = rng.permutation(counts.size)
    # A group goes where its middle row falls.
    middle = np.cumsum(counts[order]) - counts[order] / 2
    part = np.empty(counts.size, int)
    part[order] = np.searchsorted(np.cumsum(shares)[:-1] * group.size, middle)
    return part[ids]


def split_log(logs: list[LoggedData], *, seeds: list[int], n_folds: int = 5, valid_share: float = 0.2) -> list[Split]:
    """Splits logs of equal length, with the same static sizes for all, so that they may be stacked.

    Args:
      logs: each of n rows.
      seeds: of each log's split.
      n_folds: K; 1 for no cross-fitting.
      valid_share: share of the rows that choose a router's epoch.

    Returns:
      One `Split` a log.

    Raises:
      ValueError: if a log has too few rows (or groups) for the folds.
    """
    sides, folds = [], []
    for log, seed in zip(logs, seeds, strict=True):
        n_rows = log.model.shape[0]
        group = np.arange(n_rows) if log.group is None else np.asarray(log.group)
        if len(np.unique(group)) < max(2, n_folds):
            raise ValueError(f"a log of {len(np.unique(group))} distinct queries cannot be split in {n_folds} folds")
        rng = np.random.default_rng(seed)
        sides.append(deal_groups(rng, group, (1 - valid_share, valid_share)))
        folds.append(deal_groups(rng, group, (1 / n_folds,) * n_folds))
        if len(np.unique(sides[-1])) < 2 or len(np.unique(folds[-1])) < n_folds:
            largest = np.unique(group, return_counts=True)[1].max()
            raise ValueError(
                f"one query (or group) has {largest} of {n_rows} rows, which may not be divided: too few others "
                f"are left for {n_folds} folds and a validation set; use fewer folds or a finer group"
            )
    room = [max(int((side == part).sum()) for side in sides) for part in (0, 1)]
    fold_size = max(int(np.bincount(fold).max()) for fold in folds)
    model_size = max(int(np.bincount(np.asarray(log.model)).max()) for log in logs)

    def padded(side, part):
        rows = np.flatnonzero(side == part)
        spare = room[part] - rows.size
        weight = np.repeat([1.0, 0.0], [rows.size, spare])
        return jnp.asarray(np.pad(rows, (0, spare)), jnp.int32), jnp.asarray(weight, jnp.float32)

    return [
        Split(jnp.asarray(fold, jnp.int32), *padded(side, 0), *padded(side, 1), n_folds, fold_size, model_size)
        for side, fold in zip(sides, folds, strict=True)
    ]


def folds_alone(log: LoggedData, fold: np.ndarray, *, n_folds: int) -> Split:
    """A split whose folds were told elsewhere, and which says nothing of training and validation rows.

    Args:
      log: n rows.
      fold: [n] int, of each row.
      n_folds: K.

    Raises:
      ValueError: if a fold has no row, or there are fewer than two folds.
    """
    rows = np.bincount(fold, minlength=n_folds)
    if n_folds < 2 or (rows == 0).any():
        raise ValueError(f"{n_folds} folds of {rows.tolist()} rows: expected at least two folds, each with rows")
    model_size = int(np.bincount(np.asarray(log.model)).max())
    none, no_weight = jnp.zeros(0, jnp.int32), jnp.zeros(0)
    return Split(jnp.asarray(fold, jnp.int32), none, no_weight, none, no_weight, n_folds, int(rows.max()), model_size)


def without_fold(log: LoggedData, split: Split, number: int | Array) -> tuple[LoggedData, Split]:
    """A log and its folds as if the rows of one fold did not exist: they weigh nothing, and are of no fold.

    Args:
      log: n rows.
      split: K >= 2 folds.
      number: of the fold to leave out.

    Returns:
      The log, row weights 0 on that fold; and the split in K - 1 folds 0 .. K - 2, its rows labelled K - 1.
    """
    rest = replace(log, row_weight=jnp.where(split.fold == number, 0.0, log.weight))
    return rest, replace(split, fold=(split.fold - number - 1) % split.n_folds, n_folds=split.n_folds - 1)


def rows_by_label(label: Array, *, n_labels: int, size: int) -> tuple[Array, Array]:
    """Rows gathered by label, in a block of static shape.

    Args:
      label: [n] int; rows of other labels than 0 .. n_labels - 1 are left out.
      n_labels: number of labels.
      size: room for the most frequent label.

    Returns:
      rows [n_labels, size] int32, and present [n_labels, size] bool, False at padding (row 0).

    >>> rows_by_label(jnp.array([1, 0, 1]), n_labels=2, size=2)[0]
    Array([[1, 0],
           [0, 2]], dtype=int32)
    """
    order = jnp.argsort(label, stable=True)
    counts = jnp.zeros(n_labels, jnp.int32).at[label].add(1)
    start = jnp.cumsum(counts) - counts
    place = jnp.arange(size)
    present = place < counts[:, None]
    rows = order[jnp.minimum(start[:, None] + place, label.shape[0] - 1)]
    return jnp.where(present, rows, 0), present


def stack(items: list):
    """Stacks pytrees of equal structure along a new leading axis, e.g. logs over seeds."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)
