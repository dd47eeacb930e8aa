"""What `coverage.py` shows of its cells: how often intervals hold the truth, and what the verdict says."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cells import select
from coverage_figure import coverage_figure, verdict_figure
from coverage_logs import DEFAULT, OBP_ESTIMATORS, PARTS, REGIMES

from jrouter.io.results import text_table, write_csv
from jrouter.off_policy import VALUE_ESTIMATORS
from jrouter.policy_value import POLICY_ESTIMATORS
from jrouter.verdict import LEVELS, Thresholds, judge_numbers

KINDS = ("jackknife", "as is", "bootstrap as is", "bootstrap refitted", "obp")


def estimators_of(kind: str, part: str) -> tuple[str, ...]:
    """Which estimators a kind of interval is of in the cells of a part, in the order of its arrays."""
    if kind in ("bootstrap as is", "obp"):
        return {"bootstrap as is": POLICY_ESTIMATORS, "obp": OBP_ESTIMATORS}[kind]
    return (DEFAULT,) if part == "default" else VALUE_ESTIMATORS


@dataclass(frozen=True)
class Covered:
    """Coverage of one kind of interval of one estimator in one regime."""

    regime: str
    kind: str
    estimator: str
    logs: int
    coverage: float
    width: float

    @property
    def error(self) -> float:
        """Standard error of the coverage, after Agresti and Coull."""
        near = (self.coverage * self.logs + 2) / (self.logs + 4)
        return math.sqrt(near * (1 - near) / (self.logs + 4))


def covered_of(groups: Sequence[dict[str, Any]]) -> list[Covered]:
    """Coverage and width of every interval that cells hold."""
    cells = [cell for group in groups for cell in group["cells"]]
    batch = groups[0]["configuration"]["batch"]
    found: dict[tuple[str, str, str], Covered] = {}
    regimes = [name for name in REGIMES if any(cell["key"]["regime"] == name for cell in cells)]
    for regime, kind, part in itertools.product(regimes, KINDS, reversed(PARTS)):
        held = [cell[kind] for cell in select(cells, regime=regime, part=part) if kind in cell]
        if not held:
            continue
        logs = batch * len(held)
        share = np.sum([one["covered"] for one in held], axis=0) / logs
        width = np.mean([one["width"] for one in held], axis=0)
        # The default's own cells come last: they have more logs.
        for place, name in enumerate(estimators_of(kind, part)):
            found[regime, kind, name] = Covered(regime, kind, name, logs, float(share[place]), float(width[place]))
    return list(found.values())


@dataclass(frozen=True)
class Judged:
    """The verdict in one regime, and the default interval under it."""

    regime: str
    logs: int
    coverage: float
    width: float
    verdicts: dict[str, float]
    covered_where_ok: float | None
    ok: int

    @property
    def warned(self) -> float:
        """Share of logs with a verdict of caution or refuse."""
        return 1.0 - self.verdicts["ok"]


def judged_of(groups: Sequence[dict[str, Any]], thresholds: Thresholds = Thresholds()) -> list[Judged]:
    """Verdicts made anew from the kept numbers, and what the default interval covers where they are ok."""
    cells = [cell for group in groups for cell in group["cells"] if cell["key"]["part"] == "default"]
    found = []
    for regime in [name for name in REGIMES if any(cell["key"]["regime"] == name for cell in cells)]:
        mine = select(cells, regime=regime)
        covers = np.concatenate([cell["covers"] for cell in mine]).astype(bool)
        names = mine[0]["numbers"]
        numbers = {name: np.concatenate([cell["numbers"][name] for cell in mine]) for name in names}
        levels = np.array(
            [
                judge_numbers({name: float(values[row]) for name, values in numbers.items()}, thresholds).level
                for row in range(covers.size)
            ]
        )
        ok = levels == "ok"
        width = float(np.mean([cell["jackknife"]["width"][0] for cell in mine]))
        shares = {level: float((levels == level).mean()) for level in LEVELS}
        where_ok = float(covers[ok].mean()) if ok.any() else None
        found.append(Judged(regime, covers.size, float(covers.mean()), width, shares, where_ok, int(ok.sum())))
    return found


def show(groups: Sequence[dict[str, Any]]) -> None:
    """Prints coverage by estimator, and the verdicts."""
    covered = covered_of(groups)
    for regime in dict.fromkeys(one.regime for one in covered):
        rows = []
        for kind in KINDS:
            by_name = {one.estimator: one for one in covered if one.regime == regime and one.kind == kind}
            if by_name:
                shown = [f"{100 * by_name[name].coverage:.1f}" if name in by_name else "" for name in VALUE_ESTIMATORS]
                rows.append([kind, *shown])
        print(f"\n{regime}: % of logs whose 95% interval holds the truth")
        print(text_table(["interval", *VALUE_ESTIMATORS], rows))
    print("\nthe default interval (dr, jackknife) and the verdict, % of logs")
    rows = [
        [
            one.regime,
            f"{100 * one.coverage:.1f}",
            "" if one.covered_where_ok is None else f"{100 * one.covered_where_ok:.1f} ({one.ok})",
            *(f"{100 * one.verdicts[level]:.1f}" for level in LEVELS),
        ]
        for one in judged_of(groups)
    ]
    print(text_table(["regime", "covers", "where ok (logs)", *LEVELS], rows))


def write(groups: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes the CSV and the figures that belong to a result file."""
    covered, judged = covered_of(groups), judged_of(groups)
    columns = ("regime", "interval", "estimator", "logs", "coverage", "coverage_error", "width")
    rows = [[one.regime, one.kind, one.estimator, one.logs, one.coverage, one.error, one.width] for one in covered]
    write_csv(path.with_suffix(".csv"), columns, rows)
    coverage_figure(covered, path.with_suffix(".png"))
    if judged:
        verdict_figure(judged, path.with_name(f"{path.stem}_verdict.png"))
