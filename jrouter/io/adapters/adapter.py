"""What an adapter is: the way from one record of a gateway to rows of a log."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jrouter.io.contract import OURS

Row = dict[str, Any]
"""A row of a log under jrouter's names; a column that is absent, or None, is unknown.

`request_id` str; `query` text, or chat messages as a list of {"role", "content"}; `model` str; `score`, `cost` (USD),
`propensity`, `keep_probability` and `lam` float; `timestamp` an ISO-8601 string or seconds since 1970; `group` str;
`allowed_models` list of str; `input_tokens` and `output_tokens` int; `router` str, the version of the jrouter router
that chose. `truncated` is True where the gateway cut the query short: no column of a log, but worth a warning.
"""

COLUMNS = (*OURS, "truncated")
"""Columns that a row may have."""


@dataclass(frozen=True)
class Dropped:
    """A record that is no row of a log, by what the gateway itself says of it.

    Attributes:
      reason: a few words, the same for all records dropped for it, so that they can be counted.
    """

    reason: str


Read = Callable[[Mapping[str, Any]], Iterable[Row | Dropped]]
"""One record (a JSON object, or a row of a Parquet or CSV file) -> rows; ValueError where a field is malformed."""


@dataclass(frozen=True)
class Adapter:
    """How the records of one gateway are read.

    Attributes:
      name: what `--adapter` takes.
      about: one line: which records, and what they cannot show.
      mapping: (our column, where it comes from): `documented(rows)`.
      rows: one record -> the rows it holds, and what of it was dropped.
      scores: where scores live in objects of their own, one such object -> rows of `score` with the `request_id`
        and `group` of the answer that it judges; None where there are no such objects.
    """

    name: str
    about: str
    mapping: tuple[tuple[str, str], ...]
    rows: Read
    scores: Read | None = None


def documented(rows: Read) -> tuple[tuple[str, str], ...]:
    """Returns the lines "column <- where it comes from" of a reader's docstring: there they are written, once."""
    return tuple(re.findall(r"^ +(\w+) +<- (.+)$", rows.__doc__ or "", re.MULTILINE))


def row(**columns: Any) -> Row:
    """Returns a row without the columns that are None.

    >>> row(model="small", cost=None)
    {'model': 'small'}
    """
    return {name: value for name, value in columns.items() if value is not None}
