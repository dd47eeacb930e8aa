"""What reading a log found: rows kept, rejected and dropped, with reasons, as an object and as plain JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Example:
    """A rejected row: its file, its number in it (from 0), and what was found there."""

    file: str
    row: int
    found: str


@dataclass(frozen=True)
class Rejected:
    """Rows that cannot be used, and why.

    Attributes:
      reason: the same for all of them.
      rows: how many.
      first: up to five of them.
    """

    reason: str
    rows: int
    first: tuple[Example, ...]


class Rejections:
    """Counts rejected rows by reason while a log is read; keeps the first five of each."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.first: dict[str, list[Example]] = {}

    def add(self, reason: str, file: str, rows: np.ndarray, found: Sequence[str]) -> None:
        """Adds rows of one file and reason; `found` shows the first of them."""
        if not len(rows):
            return
        self.rows[reason] = self.rows.get(reason, 0) + len(rows)
        kept = self.first.setdefault(reason, [])
        for row, shows in list(zip(rows.tolist(), found, strict=False))[: 5 - len(kept)]:
            kept.append(Example(file, row, shows))

    def count(self, reason: str, rows: int, first: Sequence[Example]) -> None:
        """Adds `rows` of one reason, of which `first` may be shown."""
        self.rows[reason] = self.rows.get(reason, 0) + rows
        self.first[reason] = list(first[: min(5, self.rows[reason])])

    @property
    def total(self) -> int:
        """All rejected rows."""
        return sum(self.rows.values())

    def summary(self) -> tuple[Rejected, ...]:
        """By reason, the most frequent first."""
        order = sorted(self.rows, key=lambda reason: -self.rows[reason])
        return tuple(Rejected(reason, self.rows[reason], tuple(self.first[reason])) for reason in order)


@dataclass(frozen=True)
class ReadReport:
    """What reading a log found.

    rows_read = rows_kept + all rows of `rejected` + all of `dropped`.

    Attributes:
      files: of each file {"name", "bytes", "rows"}.
      fingerprint: SHA-256 of the clean rows, in order.
      rows_read: rows; of an adapter, what its records hold.
      rows_kept: rows of the clean log.
      rejected: the others, by reason.
      dropped: what the gateway itself calls no answer of a model -> rows.
      unscored: kept rows without a score.
      joined: {"scores", "matched", "unmatched"} of a file of scores, or None.
      columns: our name of each column that was read -> where it came from.
      adapter: its name, or None.
      warnings: one sentence each.
      models: name -> kept rows.
      propensity: "logged", "absent", or "partial, ignored".
      time: first and last moment, ISO-8601 in UTC, or None.
    """

    files: tuple[Mapping[str, Any], ...]
    fingerprint: str
    rows_read: int
    rows_kept: int
    rejected: tuple[Rejected, ...]
    dropped: Mapping[str, int]
    unscored: int
    joined: Mapping[str, int] | None
    columns: Mapping[str, str]
    adapter: str | None
    warnings: tuple[str, ...]
    models: Mapping[str, int]
    propensity: str
    time: tuple[str, str] | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON holds it."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Ingested:
    """A clean log: the folder of its Parquet parts, and what reading it found."""

    folder: Path
    report: ReadReport
