"""Scores that live apart from the log (thumbs, a judge, unit tests): found by the id they share with it."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jrouter.io.columns import LARGEST, describe, listed
from jrouter.io.contract import Contract
from jrouter.io.locations import find_files
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

    Of several scores of one id the last counts. An empty score is none. Ids are compared as text: 12, 12.0 and
    '12' are the same.

    Args:
      path: path or address of a Parquet, CSV or JSON lines file, or a folder of them.
      contract: names the columns.

    Raises:
      DataError: a file that cannot be read, without these columns, or without any score.
    """
    keys, values, unusable = [], [], 0
    files, _ = find_files(path, SUFFIXES)

    def column(ours: str, names: list[str], place: str) -> str:
        for name in (contract.theirs(ours), ours):
            if name in names:
                return name
        wanted = " or ".join(f"'{name}'" for name in dict.fromkeys((contract.theirs(ours), ours)))
        raise describe(place, f"has no column {wanted}, by which scores are joined; it has {listed(names)}")

    for file in files:

        def pick(names: list[str], place: str = file.place) -> list[str]:
            return [column(contract.on, names, place), column("score", names, place)]

        for batch in read_batches(file, pick):
            unusable += len(batch.broken)
            if not len(batch.rows):
                continue
            ids_name, score_name = pick(batch.names)
            ids, score = texts(batch.columns[ids_name]), numbers(batch.columns[score_name])
            with np.errstate(invalid="ignore"):
                good = ~(ids.missing | ids.wrong | score.wrong) & (np.abs(score.values) <= LARGEST)
            unusable += int((~good & ~score.missing).sum())
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
