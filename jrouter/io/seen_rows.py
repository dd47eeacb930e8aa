"""Which rows have been seen before, over a log of any length: 8 bytes a row."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jrouter.hashing import mix, row_keys
from jrouter.io.columns import is_list
from jrouter.io.raw_columns import nulls


class SeenKeys:
    """A set of 64-bit keys that is asked and filled thousands at a time.

    Sorted runs, merged when they are as long as their neighbour: 8 bytes a key, 24 for a moment while the longest
    two are merged; log2(n) searches a key.

    >>> seen = SeenKeys()
    >>> seen.add(np.array([3, 1, 3], np.int64)).tolist(), seen.add(np.array([1, 2], np.int64)).tolist()
    ([False, False, True], [True, False])
    """

    def __init__(self) -> None:
        self.runs: list[np.ndarray] = []

    def add(self, keys: np.ndarray) -> np.ndarray:
        """Returns [n] bool, which keys [n] were there before, in the set or earlier in `keys`; and adds the others."""
        unique, first = np.unique(keys, return_index=True)
        old = np.zeros(len(unique), bool)
        for run in self.runs:
            place = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            old |= run[place] == unique
        before = np.ones(len(keys), bool)
        before[first[~old]] = False
        new = unique[~old]
        while len(new) and self.runs and len(self.runs[-1]) <= 2 * len(new):
            new = np.sort(np.concatenate([self.runs.pop(), new]), kind="stable")  # merges what is sorted
        if len(new):
            self.runs.append(new)
        return before

    def __len__(self) -> int:
        return sum(map(len, self.runs))


def text_keys(column: pa.Array) -> np.ndarray:
    """[n] int64, the same within this process for the same text (SipHash of its bytes); of null, some number."""
    values = column.cast(pa.large_binary()).to_pylist()
    return np.fromiter(map(hash, values), np.int64, len(values))


def whole_row_keys(columns: Mapping[str, pa.Array]) -> np.ndarray:
    """[n] int64, equal for rows that are equal in all `columns`: numbers, texts, lists of texts, embeddings."""
    keys = np.zeros(1, np.uint64)
    for column in columns.values():
        if pa.types.is_fixed_size_list(column.type):
            width = column.type.list_size
            here = row_keys(column.flatten().to_numpy().reshape(len(column), width))
        elif is_list(column.type):
            here = text_keys(pc.call_function("binary_join", [column, pa.scalar("\x1f", pa.large_string())]))
        elif pa.types.is_floating(column.type):
            here = column.fill_null(np.nan).to_numpy().view(np.uint64)
        else:
            here = text_keys(column)
        keys = mix(keys ^ mix(here.astype(np.uint64)))
    return keys.astype(np.int64)


class Again(NamedTuple):
    """Rows that were there before, [n] bool each.

    Attributes:
      by_id: whose id was there before.
      in_all: without an id, equal in all columns, time among them.
      alike: without an id or a time, equal in all columns.
    """

    by_id: np.ndarray
    in_all: np.ndarray
    alike: np.ndarray


def repeats(columns: Mapping[str, pa.Array], rows: int, seen: SeenKeys) -> Again:
    """Finds rows that were there before, by `request_id`, or without one by all columns; and adds them to `seen`.

    Args:
      columns: of a clean log, [n] each.
      rows: n.
      seen: keys of the rows before.
    """
    keys, has_id, timed = np.zeros(rows, np.int64), np.zeros(rows, bool), np.zeros(rows, bool)
    if "request_id" in columns:
        has_id, keys = ~nulls(columns["request_id"]), text_keys(columns["request_id"])
    if "timestamp" in columns:
        timed = ~nulls(columns["timestamp"])
    if not has_id.all():
        keys = np.where(has_id, keys, whole_row_keys(columns))
    again = seen.add(keys)
    return Again(again & has_id, again & ~has_id & timed, again & ~has_id & ~timed)
