"""Rows of different lengths in batches of few shapes: a program is compiled for each shape.

A batch is rows x width tokens, most of them a budget. Rows go by length, longest first, so that the rows of a batch
have about one length and all batches but the last are full. Plain NumPy, on the host.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

NARROWEST = 16
LONG = 1024
"""Above this width rows shrink with its square: scores of attention are rows x heads x width x width."""


class Slot(NamedTuple):
    """A batch: which rows, and the shape that they are padded to.

    Attributes:
      rows: [k] int64, places of its rows, k <= size.
      size: rows of the padded batch.
      width: of the padded batch.
    """

    rows: np.ndarray
    size: int
    width: int


def widths(longest: int) -> tuple[int, ...]:
    """Widths 16, 24, 32, 48, 64, 96, ... up to `longest`: few, and above 16 padding adds at most half as much again.

    >>> widths(100)
    (16, 24, 32, 48, 64, 96, 100)
    """
    found, width = [], NARROWEST
    while width < longest:
        found += [width, width * 3 // 2]
        width *= 2
    return (*(one for one in found if one < longest), max(longest, 1))


def row_sizes(width: int, *, budget: int, multiple: int = 1) -> tuple[int, ...]:
    """Numbers of rows of batches of one width: `multiple` times 1, 4, 16, ... and the most that the budget allows.

    The most is `multiple` times a power of two, also where that is more than the budget.

    >>> row_sizes(100, budget=4096)
    (1, 4, 16, 32)
    """
    most = multiple
    while 2 * most * width * max(width, LONG) <= budget * LONG:
        most *= 2
    sizes, size = [], multiple
    while size < most:
        sizes.append(size)
        size *= 4
    return (*sizes, most)


def count_shapes(longest: int, *, budget: int, multiple: int = 1) -> int:
    """Most shapes that `plan` gives rows of at most `longest` tokens: programs that may be compiled in all.

    One call needs about one of them for each width that its rows have.

    >>> count_shapes(512, budget=8192)
    48
    """
    return sum(len(row_sizes(width, budget=budget, multiple=multiple)) for width in widths(longest))


def plan(lengths: Sequence[int] | np.ndarray, *, longest: int, budget: int, multiple: int = 1) -> list[Slot]:
    """Batches of rows, longest rows first; rows of one length keep their order.

    Args:
      lengths: [n], tokens of each row, none above `longest`.
      longest: widest batch.
      budget: tokens of a batch, padding included.
      multiple: rows of a batch are a multiple of it: the devices that share them.

    Returns:
      batches in which every row stands once.
    """
    lengths = np.asarray(lengths, np.int64)
    order = np.argsort(-lengths, kind="stable")
    steps = np.array(widths(longest))
    slots, start = [], 0
    while start < len(order):
        width = int(steps[np.searchsorted(steps, max(lengths[order[start]], 1))])
        sizes = row_sizes(width, budget=budget, multiple=multiple)
        rows = order[start : start + sizes[-1]]
        slots.append(Slot(rows, next(size for size in sizes if size >= len(rows)), width))
        start += len(rows)
    return slots


def padded(rows: Sequence[np.ndarray] | Mapping[int, np.ndarray], slot: Slot, dtype: type) -> np.ndarray:
    """[slot.size, slot.width], rows of a batch [l] filled up with zeros; `rows` are those of all batches."""
    out = np.zeros((slot.size, slot.width), dtype)
    for place, row in enumerate(slot.rows):
        out[place, : len(rows[row])] = rows[row]
    return out


def filled(rows: Sequence[np.ndarray], slot: Slot) -> np.ndarray:
    """[slot.size, slot.width] bool, where `padded` holds a row's own values."""
    lengths = np.zeros(slot.size, np.int64)
    lengths[: len(slot.rows)] = [len(rows[row]) for row in slot.rows]
    return np.arange(slot.width) < lengths[:, None]
