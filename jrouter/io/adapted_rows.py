"""A gateway's records become columns of a log, through an adapter; a malformed record is a row that is rejected."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jrouter.io.adapters import ADAPTERS, Adapter
from jrouter.io.contract import KEPT, TOKENS
from jrouter.io.errors import DataError, listed
from jrouter.io.raw_columns import as_column
from jrouter.io.record_stream import Batch, Broken

MALFORMED = (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError)
"""What reading a record of any shape may raise."""


class Adapted(NamedTuple):
    """Rows that a batch of records holds.

    Attributes:
      rows: [n] number of each row's record in its file.
      columns: our name -> values [n].
      broken: records that are malformed, and rows between records that are none.
      dropped: reason -> rows that the gateway itself calls no answer of a model.
      truncated: rows whose query the gateway cut short.
    """

    rows: np.ndarray
    columns: Mapping[str, pa.Array]
    broken: list[Broken]
    dropped: Counter[str]
    truncated: int


def find_adapter(name: str) -> Adapter:
    """Returns the adapter of that name.

    Raises:
      DataError: there is none.
    """
    if name not in ADAPTERS:
        raise DataError(f"adapter: found {name!r}, expected one of {listed(sorted(ADAPTERS))}.")
    return ADAPTERS[name]


def adapt(batch: Batch, read: Any, overrides: Mapping[str, str]) -> Adapted:
    """Reads the rows of a batch of records.

    Args:
      batch: its `records`.
      read: one record -> its rows and what was dropped, as `Adapter.rows`.
      overrides: our name -> a field of the record, at the top, that fills it, or replaces what the adapter found.
    """
    rows, numbers, broken, dropped = [], [], list(batch.broken), Counter()
    for number, record in zip(batch.rows.tolist(), batch.records, strict=True):
        try:
            found = list(read(record))
        except MALFORMED as problem:
            told = str(problem) if isinstance(problem, ValueError) else f"{type(problem).__name__}: {problem}"
            broken.append(Broken(number, "record is malformed", told[:120]))
            continue
        given = {ours: record[theirs] for ours, theirs in overrides.items() if record.get(theirs) is not None}
        if not found:
            dropped["record without an answer"] += 1
        for one in found:
            if isinstance(one, Mapping):
                rows.append({**one, **given})
                numbers.append(number)
            else:
                dropped[one.reason] += 1
    columns = {name: as_column([row.get(name) for row in rows]) for name in (*KEPT, *TOKENS)}
    columns = {name: column for name, column in columns.items() if column.null_count < len(rows)}
    truncated = sum(bool(row.get("truncated")) for row in rows)
    return Adapted(np.array(numbers, int), columns, broken, dropped, truncated)
