"""A log as a team has it, under our names: files or a table, columns or records of a gateway, some rows at a time."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jrouter.io.adapted_rows import adapt, find_adapter
from jrouter.io.columns import CSV, PARQUET
from jrouter.io.contract import TOKENS, Contract, choose_columns
from jrouter.io.errors import DataError, describe, listed
from jrouter.io.locations import DataFile, find_files
from jrouter.io.record_stream import SUFFIXES, Batch, Broken, memory_batches, read_batches


class Piece(NamedTuple):
    """Some rows of one file, not judged yet.

    Attributes:
      file: its name.
      rows: [n] number of each in its file.
      columns: our name -> values [n], of any type.
      broken: rows that could not be told apart into columns.
      dropped: reason -> rows that a gateway calls no answer of a model.
      truncated: rows whose query a gateway cut short.
      done: share of the log that has been read.
    """

    file: str
    rows: np.ndarray
    columns: Mapping[str, pa.Array]
    broken: Sequence[Broken]
    dropped: Counter[str]
    truncated: int
    done: float


@dataclass
class LogSource:
    """What a log is read from.

    Attributes:
      name: of the file, folder or table, as errors show it.
      data: a pyarrow Table or a pandas DataFrame, or None where there are files.
      files: those there are.
      other: names of files that cannot be read.
      original: our name -> where it came from, of what has been read so far.
    """

    name: str
    data: Any
    files: list[DataFile]
    other: list[str]
    original: dict[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of the files, or of the table in memory."""
        if self.data is None:
            return sum(file.size for file in self.files)
        return int(self.data.nbytes if isinstance(self.data, pa.Table) else self.data.memory_usage().sum())

    def pieces(self, contract: Contract, *, by_text: bool) -> Iterator[Piece]:
        """Yields the rows, in order.

        Args:
          contract: names of columns, adapter.
          by_text: whether the text is embedded, so that no embedding is read.

        Raises:
          DataError: a file that cannot be read; columns without which no row can be used.
        """
        adapter = None if contract.adapter is None else find_adapter(contract.adapter)
        if adapter is not None:
            self.original.update(adapter.mapping)
            self.original.update(contract.columns)

        def pick(names: list[str]) -> list[str]:
            return list(choose_columns(names, contract, self.name, by_text=by_text).values())

        for name, before, size, batches in self._batches(None if adapter is not None else pick):
            for batch in batches:
                done = before + size * batch.done
                if adapter is not None:
                    found = adapt(batch, adapter.rows, contract.columns)
                    yield Piece(name, found.rows, found.columns, found.broken, found.dropped, found.truncated, done)
                    continue
                original = choose_columns(batch.names, contract, name, by_text=by_text)
                if not self.original and (len(batch.rows) or not batch.broken):
                    sparse = self.data is None and self._is_json(name)
                    _require(original, batch.names, contract, self.name, sparse=sparse, by_text=by_text)
                self.original.update(original)
                columns = {ours: batch.columns[theirs] for ours, theirs in original.items() if theirs in batch.columns}
                yield Piece(name, batch.rows, columns, batch.broken, Counter(), 0, done)

    def _is_json(self, name: str) -> bool:
        return not name.lower().endswith((*PARQUET, *CSV))

    def _batches(self, pick: Any) -> Iterator[tuple[str, float, float, Iterator[Batch]]]:
        """Of each file its name, the share of the log before it, its share, and its rows."""
        if self.data is not None:
            yield self.name, 0.0, 1.0, memory_batches(self.data, pick)
            return
        total, before = sum(file.size for file in self.files), 0.0
        for file in self.files:
            yield file.name, before, file.size / total, read_batches(file, pick)
            before += file.size / total


def find_source(source: Any) -> LogSource:
    """Finds what a log is read from.

    Args:
      source: path or address of a file or folder, a pandas DataFrame, a pyarrow Table.

    Raises:
      DataError: there is nothing, or something else.
    """
    if isinstance(source, str | os.PathLike):
        files, other = find_files(source, SUFFIXES)
        name = files[0].place if len(files) == 1 else files[0].place[: -len(files[0].name) - 1]
        return LogSource(name, None, files, other)
    pandas = sys.modules.get("pandas")  # whoever holds a DataFrame has imported it
    if isinstance(source, pa.Table):
        name = "pyarrow table"
    elif pandas is not None and isinstance(source, pandas.DataFrame):
        name = "DataFrame"
    else:
        raise describe(type(source).__name__, "is no log; expected a path, a pandas DataFrame or a pyarrow Table")
    if not len(source):
        raise describe(name, "is empty (0 rows), expected at least one row")
    return LogSource(name, source, [], [])


def _require(
    original: Mapping[str, str], names: Sequence[str], contract: Contract, file: str, *, sparse: bool, by_text: bool
) -> None:
    """Raises DataError where the first rows lack a column without which none can be used.

    Args:
      original: our name -> the file's name, of the columns there.
      names: all columns there.
      contract: which others are needed.
      file: for errors.
      sparse: whether a column may come later, as in JSON lines, where null is left out.
      by_text: whether the text is embedded.
    """
    there = f"the columns there are {listed(names)}"

    def lacks(name: str, how: str) -> DataError:
        return describe(file, f"is missing; {how}; {there}", column=contract.theirs(name))

    for ours, theirs in contract.columns.items():
        elsewhere = (ours == "score" and contract.scores is not None) or (by_text and ours.startswith("embedding"))
        if ours not in original and not sparse and not elsewhere:
            if theirs not in names:
                raise describe(file, f"has no column '{theirs}' to read '{ours}' from; {there}", column=theirs)
    mapped = "add it, or name the column that holds it in `columns` (or the adapter of the gateway in `adapter`)"
    if "model" not in original:
        raise lacks("model", mapped)
    if "cost" not in original and (contract.prices is None or any(name not in original for name in TOKENS)):
        raise lacks("cost", f"{mapped}, or give `prices` for 'input_tokens' and 'output_tokens'")
    if "score" not in original and contract.scores is None and not sparse:
        raise lacks("score", f"{mapped}, or the file that holds them in `scores`")
    if contract.scores is not None and contract.on not in original and not sparse:
        raise lacks(contract.on, f"scores are joined by it: {mapped}")
    if "query" not in original and (by_text or "embedding" not in original) and not sparse:
        wanted = "the text of a query" if by_text else "text ('query') or an embedding ('embedding:<encoder>')"
        raise describe(file, f"has no column of {wanted}; {mapped}; {there}", column=contract.theirs("query"))
