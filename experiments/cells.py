"""Resumable studies: every finished cell is kept at once, and a later run does only what is missing.

A cell is what one method gave in one setting with one seed: a dict of numbers under a key, a dict of
names. `<out>/<name>.json` is the ledger and the result file in one. It is written whole after every
cell, which takes milliseconds where a cell takes seconds, so a killed run loses the cell it was at.
Cells are grouped by table and by the options that change numbers: cells of another configuration stay
in the file but are not mixed with these. The groups of the last run come first, and figures draw those.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from tqdm import tqdm

import jrouter
from jrouter.io.results import SCHEMA, plain, write_json

Key = dict[str, Any]


PRESENTATION = (
    "assumption_page.py",
    "auto_tables.py",
    "confounding_table.py",
    "coverage_table.py",
    "figures.py",
    "inference_tables.py",
    "judgement.py",
    "leaderboard_figure.py",
    "leaderboard_ranking.py",
    "leaderboard_tables.py",
    "method_tables.py",
    "pool_figure.py",
    "pool_tables.py",
    "published_figure.py",
    "readme_tables.py",
    "results.py",
    "sensitivity_figures.py",
    "study_figures.py",
    "table_text.py",
)
"""Files that show cells and do not compute them."""


def code_digest() -> str:
    """Eight hex digits that change with any source file that may change a cell's numbers."""
    found = hashlib.sha256()
    for folder in (Path(jrouter.__file__).parent, Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            if path.name not in PRESENTATION:
                found.update(path.read_bytes())
    return found.hexdigest()[:8]


def identity(key: Key) -> str:
    """A key as text, the same whatever the order of its names."""
    return json.dumps(plain(key), sort_keys=True)


class Study:
    """The finished cells of one configuration, and the file that holds them.

    Args:
      path: of the JSON file.
      options: of the script; written down as the file's `config`.
      configuration: whatever changes the numbers and is not part of a cell's key.
      digests: {table: SHA-256 of its file, or None}; a table's cells are those of that very file.
      fresh: forget the cells that this configuration has in the file.
      join: other files of the same study, made elsewhere: their cells of this configuration are taken
        where this file has none.

    Raises:
      ValueError: if the file is there but holds something else, or `join` names one without such cells.
    """

    def __init__(
        self,
        path: Path,
        *,
        options: Any,
        configuration: Mapping[str, Any],
        digests: Mapping[str, str | None],
        fresh: bool = False,
        join: Sequence[Path] = (),
    ):
        self.path, self.options, self.code = path, options, code_digest()
        self.configuration = plain(configuration)
        self.digests = dict(digests)
        self._cells: dict[str, dict[str, Any]] = {}
        self._others: list[dict[str, Any]] = []
        for group in _groups(path) if path.exists() else []:
            mine = group["configuration"] == self.configuration
            table = group["table"]
            if mine and self.digests.setdefault(table, group["sha256"]) == group["sha256"]:
                kept = [] if fresh and table in digests else group["cells"]
                self._cells |= {identity({"table": table, **cell["key"]}): cell for cell in kept}
            else:
                self._others.append(group)
        for other in join:
            self._take(other)

    def _take(self, path: Path) -> None:
        """Takes the cells of another file where there are none."""
        if not path.exists():
            raise ValueError(f"--join: {path} is missing")
        groups = [group for group in _groups(path) if group["configuration"] == self.configuration]
        if not groups:
            raise ValueError(f"--join: {path} holds no cells computed with the options of this run")
        for group in groups:
            table = group["table"]
            if self.digests.setdefault(table, group["sha256"]) != group["sha256"]:
                raise ValueError(f"--join: {path} holds cells of another file named {table}")
            for cell in group["cells"]:
                self._cells.setdefault(identity({"table": table, **cell["key"]}), cell)

    def stale(self) -> int:
        """How many kept cells were computed by other code than is here now."""
        return sum(cell["code"] != self.code for cell in self._cells.values())

    def cell(self, key: Key) -> dict[str, Any] | None:
        """What was kept under a key (which has a "table"), or None."""
        return self._cells.get(identity(key))

    def keep(self, key: Key, values: Mapping[str, Any]) -> None:
        """Keeps a finished cell, in memory and in the file.

        Raises:
          ValueError: if a number is not finite; nothing is then kept.
        """
        cell = {"key": {name: value for name, value in plain(key).items() if name != "table"}, **plain(values)}
        json.dumps(cell, allow_nan=False)
        self._cells[identity(key)] = cell | {"code": self.code}
        self.save()

    def groups(self) -> list[dict[str, Any]]:
        """The cells of this configuration, by table."""
        by_table: dict[str, list] = {table: [] for table in self.digests}
        for text, cell in self._cells.items():
            by_table[json.loads(text)["table"]].append(cell)
        return [
            {"table": table, "sha256": self.digests[table], "configuration": self.configuration, "cells": cells}
            for table, cells in by_table.items()
            if cells
        ]

    def save(self) -> None:
        """Writes the file: these groups first, then those of other configurations as they were."""
        write_json(self.path, options=self.options, results=[*self.groups(), *self._others])

    def missing(
        self,
        keys: Sequence[Key],
        *,
        budget_minutes: float | None = None,
        work: Callable[[Key], float] = lambda key: 1.0,
    ) -> Iterator[Key]:
        """The keys without a cell, in order, under a bar that says how much time all cells still need.

        Args:
          keys: of all cells of the study.
          budget_minutes: once these have passed, no further key is given out; None for no limit.
          work: how long a cell takes, in any unit, for the estimate of the time left.
        """
        begun = time.monotonic()
        said: Any = [""]  # of what tqdm takes, only a list can be changed without it being reformatted
        todo = [key for key in keys if self.cell(key) is None]
        done = len(keys) - len(todo)
        total = sum(work(key) for key in keys)
        # The rate is the average since the start: cells of one method follow each other unevenly.
        with tqdm(
            total=total,
            initial=total - sum(work(key) for key in todo),
            smoothing=0,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar}| {postfix[0]} [{elapsed}, {remaining} left]",
            postfix=said,
        ) as bar:
            for key in todo:
                if budget_minutes is not None and time.monotonic() - begun >= 60 * budget_minutes:
                    return
                now = ", ".join(str(value) for value in key.values())
                said[0] = f"{done}/{len(keys)} cells, now {now}"
                bar.refresh()
                yield key
                done += self.cell(key) is not None
                bar.update(work(key))
            said[0] = f"{done}/{len(keys)} cells"
            bar.refresh()


def _groups(path: Path) -> list[dict[str, Any]]:
    try:
        record = json.loads(path.read_text())
        groups = record["results"]
        if record["schema"] != SCHEMA or not all("cells" in g and "configuration" in g for g in groups):
            raise KeyError("cells")
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is there but holds no cells of a study: move it, or pass another --name") from None
    return groups


def current(path: Path) -> list[dict[str, Any]]:
    """The groups of the last run's configuration, from a study's file alone."""
    groups = _groups(path)
    return [group for group in groups if group["configuration"] == groups[0]["configuration"]]


def select(cells: Sequence[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    """The cells whose key has these values.

    >>> select([{"key": {"seed": 0}}, {"key": {"seed": 1}}], seed=1)
    [{'key': {'seed': 1}}]
    """
    return [cell for cell in cells if all(cell["key"].get(name) == value for name, value in fields.items())]


def values_of(cells: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """The distinct values of one name of the keys, in the order in which they first appear."""
    return list(dict.fromkeys(cell["key"][name] for cell in cells if name in cell["key"]))


class Estimate(NamedTuple):
    """A mean with its standard error and the degrees of freedom of that."""

    mean: float
    error: float
    freedom: float = math.inf

    @property
    def half_width(self) -> float:
        """Half of the 95% interval, from Student's distribution."""
        return float(stats.t.ppf(0.975, self.freedom)) * self.error

    @property
    def low(self) -> float:
        """Lower end of the 95% interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the 95% interval."""
        return self.mean + self.half_width


def over_seeds(means: Sequence[float], errors: Sequence[float]) -> Estimate:
    """Mean over log seeds, with an error for the seeds and for the test queries.

        error^2 = s^2 / S + mean_s error_s^2

    s^2 is the variance between seeds. All seeds are judged on the same test queries, so their errors do
    not average out. What queries and seeds have in common is counted in both parts: the interval is a
    little wide. Degrees of freedom after Welch and Satterthwaite; one seed speaks for its log alone.

    Args:
      means: [S], of each seed.
      errors: [S], standard errors over test queries.

    >>> over_seeds([1.0, 3.0], [0.0, 0.0])
    Estimate(mean=2.0, error=1.0, freedom=1.0)
    """
    n_seeds = len(means)
    of_queries = float(np.mean(np.square(errors)))
    of_seeds = float(np.var(means, ddof=1)) / n_seeds if n_seeds > 1 else 0.0
    variance = of_seeds + of_queries
    freedom = (n_seeds - 1) * (variance / of_seeds) ** 2 if of_seeds > 0 else math.inf
    return Estimate(float(np.mean(means)), math.sqrt(variance), freedom)


def over_tables(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of independent estimates, e.g. of several tables; speaks for these tables alone.

    >>> over_tables([Estimate(1.0, 0.3), Estimate(3.0, 0.4)])
    Estimate(mean=2.0, error=0.25, freedom=inf)
    """
    parts = np.square([estimate.error / len(estimates) for estimate in estimates])
    below = sum(part**2 / estimate.freedom for part, estimate in zip(parts, estimates, strict=True))
    freedom = float(parts.sum() ** 2 / below) if below > 0 else math.inf
    return Estimate(float(np.mean([estimate.mean for estimate in estimates])), float(np.sqrt(parts.sum())), freedom)
