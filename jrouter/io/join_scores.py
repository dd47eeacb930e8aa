"""Scores that live apart from the log (thumbs, a judge, unit tests): found by the id they share with it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from jrouter.io.adapted_rows import adapt, find_adapter
from jrouter.io.columns import LARGEST
from jrouter.io.contract import Contract
from jrouter.io.errors import describe, listed
from jrouter.io.locations import DataFile, find_files
from jrouter.io.raw_columns import Read, numbers, texts
from jrouter.io.record_stream import SUFFIXES, read_batches
from jrouter.io.seen_rows import text_keys


@dataclass
class Scores:
    """Scores by id: 17 bytes each, whatever the ids are.

    Attributes:
      name: of the file.
      keys: [m] int64, sorted: of the ids.
      values: [m] float64.
      used: [m] bool, whether a row of the log had this id.
      repeated: rows of the file that a later row of the same id replaced.
      unusable: rows of the file with an id or a score that cannot be used.
    """

    name: str
    keys: np.ndarray
    values: np.ndarray
    used: np.ndarray
    repeated: int
    unusable: int

    def join(self, ids: Read, score: Read) -> Read:
        """Returns the scores of rows: those joined by their ids, and `score` where there is none to join."""
        keys = text_keys(ids.values)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found = (self.keys[place] == keys) & ~ids.missing & ~ids.wrong
        self.used[place[found]] = True
        values = np.where(found, self.values[place], score.values)
        return Read(values, score.missing & ~found, score.wrong & ~found)

    def counts(self) -> dict[str, int]:
        """How many there are, and how many of them the log has a row for."""
        matched = int(self.used.sum())
        return {"scores": len(self.keys), "matched": matched, "unmatched": len(self.keys) - matched}


def read_scores(path: str, contract: Contract) -> Scores:
    """Reads a file of scores: the contract's `on` and `score`, under our names or the log's.

    Where the contract's adapter reads score objects of its gateway, a file without such columns is read as those.
    Of several scores of one id the last counts. An empty score is none. Ids are compared as text: 12, 12.0 and
    '12' are the same.

    Args:
      path: path or address of a Parquet, CSV or JSON lines file, or a folder of them.
      contract: names the columns.

    Raises:
      DataError: a file that cannot be read, without these columns, or without any score.
    """
    adapter = None if contract.adapter is None else find_adapter(contract.adapter)
    files, _ = find_files(path, SUFFIXES)
    keys, values, unusable = [], [], 0
    for ids, score, lost in _pairs(files, contract, getattr(adapter, "scores", None)):
        with np.errstate(invalid="ignore"):
            good = ~(ids.missing | ids.wrong | score.wrong) & (np.abs(score.values) <= LARGEST)
        unusable += lost + int((~good & ~score.missing).sum())
        good &= ~score.missing
        keys.append(text_keys(ids.values.filter(pa.array(good))))
        values.append(score.values[good])
    key = np.concatenate([*keys, np.zeros(0, np.int64)])
    value = np.concatenate([*values, np.zeros(0)])
    if not len(key):
        raise describe(files[0].place, f"has no row with '{contract.on}' and a finite score; check its columns")
    order = np.argsort(key, kind="stable")
    key, value = key[order], value[order]
    last = np.append(key[1:] != key[:-1], True)
    key, value = key[last], value[last]
    return Scores(files[0].name, key, value, np.zeros(len(key), bool), len(last) - len(key), unusable)


def _pairs(files: Sequence[DataFile], contract: Contract, read: Any) -> Iterator[tuple[Read, Read, int]]:
    """Ids and scores, some at a time, and how many rows between them are neither.

    Args:
      files: of scores.
      contract: names their columns.
      read: a gateway's score object -> rows, as `Adapter.scores`, for files without such columns; or None.
    """
    names = (contract.on, "score")

    def row(record: Mapping[str, Any]) -> Any:
        found = {ours: record[name] for ours in names for name in _names(ours, contract)[::-1] if name in record}
        return [found] if len(found) == len(names) else read(record)

    for file in files:

        def pick(there: list[str], place: str = file.place) -> list[str]:
            return [_column(ours, there, contract, place) for ours in names]

        for batch in read_batches(file, pick if read is None else None):
            if read is None:
                theirs = pick(batch.names) if len(batch.rows) else []
                columns = {ours: batch.columns[name] for ours, name in zip(names, theirs, strict=False)}
                rows, broken = len(batch.rows), len(batch.broken)
            else:
                found = adapt(batch, row, {})
                columns, rows, broken = found.columns, len(found.rows), len(found.broken)
            ids, score = (columns.get(name, pa.nulls(rows)) for name in names)
            yield texts(ids), numbers(score), broken


def _names(ours: str, contract: Contract) -> list[str]:
    """What one of our columns may be called in a file of scores."""
    return list(dict.fromkeys((contract.scores_columns.get(ours, contract.theirs(ours)), ours)))


def _column(ours: str, names: Sequence[str], contract: Contract, place: str) -> str:
    """The file's name of one of our columns: as said, or the log's, or ours."""
    wanted = _names(ours, contract)
    for name in wanted:
        if name in names:
            return name
    how = f"name it: scores_columns '{ours}', `--map-scores {ours}=...`"
    raise describe(place, f"has no column {listed(wanted)}, for the scores to be joined; {how}; it has {listed(names)}")
