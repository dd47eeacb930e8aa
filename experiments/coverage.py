"""Do 95% intervals hold the truth as often as they say, and does the verdict warn where they cannot?

    python experiments/coverage.py                         # 12 regimes, 1,000 logs each: hours; resumes by cells
    python experiments/coverage.py --smoke                 # under 1 minute
    python experiments/coverage.py --parts obp             # the first 200 logs through Open Bandit Pipeline

Simulated logs of 4 models, d = 6, of a fixed policy whose value is known; ridge regressions and logistic
propensities with strengths chosen on each log, 5 folds. Regimes differ in rows, overlap, in which nuisance is
wrong, and in whether propensities are in the log. Parts:

- default: the doubly robust value -+ 1.96 standard errors that hold the nuisances' own error (`jackknife`, the
  package's default), and the log's verdict; beside it the usual percentile bootstrap of seven estimators with the
  nuisances as they are (1,000 resamples).
- estimators: the same of all eight estimators, and standard errors with the nuisances as they are; 200 logs.
- bootstrap: a percentile bootstrap that fits the nuisances again on every resample; 200 logs x 200 resamples,
  regimes of 2,000 rows.
- obp: values and bootstrap intervals of Open Bandit Pipeline from the same nuisances, 200 logs; needs the extra
  `peers` and `pip install --no-deps --ignore-requires-python obp==0.5.7`.

Six regimes were used to fix the verdict's thresholds (`jrouter.verdict`), six others report. Expect the jackknife
to hold where a nuisance is right, intervals that keep nuisances as they are to miss for all estimators but "dr", and
"both wrong" to be missed by all, with a verdict that says so. Writes <name>.json (kept cell by cell), .csv, .png.
"""

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from cells import Study, current, select
from coverage_figure import coverage_figure, verdict_figure
from coverage_logs import (
    AS_IS_RESAMPLES,
    DEFAULT,
    LAM,
    OBP_ESTIMATORS,
    REGIMES,
    OneLog,
    Regime,
    obp_intervals,
)
from data import RESULTS

from jrouter.io.results import text_table, write_csv
from jrouter.off_policy import VALUE_ESTIMATORS
from jrouter.policy_value import POLICY_ESTIMATORS
from jrouter.verdict import LEVELS, Thresholds, judge_numbers

PARTS = ("default", "estimators", "bootstrap", "obp")
KINDS = ("jackknife", "as is", "bootstrap as is", "bootstrap refitted", "obp")
NORMAL = 1.959964
LOG_SEED = 2_000
"""Of the reported logs; those of 1,000 were looked at while the verdict was made."""


@dataclass(frozen=True)
class Options:
    """What is simulated."""

    regimes: str = ",".join(REGIMES)
    """Comma-separated names."""
    parts: str = "default,estimators,bootstrap"
    """Some of default, estimators, bootstrap, obp."""
    logs: int = 1_000
    """Logs of each regime."""
    few: int = 200
    """Logs of all parts but the default: the first of them."""
    resamples: int = 200
    """Of the refitted bootstrap."""
    batch: int = 50
    """Logs of one cell."""
    budget_minutes: float | None = None
    """Stop between cells once these have passed; run the same command again to go on."""
    fresh: bool = False
    """Forget the cells that an earlier run has kept."""
    join: tuple[Path, ...] = ()
    """Result files of the same study made elsewhere: their cells are taken over."""
    name: str = "coverage"
    """Of the result files."""
    smoke: bool = False
    """Small sizes."""
    out: Path = RESULTS
    """Folder of the result files."""


def keys_of(options: Options) -> list[dict[str, Any]]:
    """Keys of all cells: a batch of logs of one regime, for one part."""
    keys = []
    for part in options.parts.split(","):
        if part not in PARTS:
            raise SystemExit(f"error: --parts: unknown part {part!r}, expected some of {', '.join(PARTS)}")
        for name in options.regimes.split(","):
            if name not in REGIMES:
                raise SystemExit(f"error: --regimes: unknown regime {name!r}, expected some of {', '.join(REGIMES)}")
            if part == "bootstrap" and REGIMES[name].rows > 2_000:
                continue
            logs = options.logs if part == "default" else options.few
            keys += [
                {"table": "known_worlds", "part": part, "regime": name, "first": first}
                for first in range(0, logs, options.batch)
            ]
    # A batch of every regime before the next: a run cut short has a little of each.
    return sorted(keys, key=lambda key: (REGIMES[key["regime"]].rows, PARTS.index(key["part"]), key["first"]))


class Runner:
    """Compiled programs of each regime and part, made when first needed.

    Args:
      options: of the script.
    """

    def __init__(self, options: Options):
        self.options = options
        self._ones: dict[str, OneLog] = {}
        self._programs: dict[tuple[str, str], Any] = {}

    def regime(self, name: str) -> Regime:
        """A regime, smaller in a smoke run."""
        found = REGIMES[name]
        return replace(found, rows=300) if self.options.smoke else found

    def one(self, name: str) -> OneLog:
        """The functions of a regime."""
        if name not in self._ones:
            self._ones[name] = OneLog(self.regime(name))
        return self._ones[name]

    def program(self, name: str, part: str) -> Any:
        """Keys of logs -> arrays."""
        if (name, part) not in self._programs:
            self._programs[name, part] = self._compiled(self.one(name), part)
        return self._programs[name, part]

    def _compiled(self, one: OneLog, part: str) -> Any:
        if part == "bootstrap":
            return jax.jit(
                lambda keys: jax.lax.map(lambda key: one.refitted_bootstrap(key, self.options.resamples), keys)
            )
        function = {"default": one.default, "estimators": one.estimators, "obp": one.arrays}[part]
        size = max(1, min(10, 20_000 // one.regime.rows))
        return jax.jit(lambda keys: jax.lax.map(function, keys, batch_size=size))

    def run(self, key: dict[str, Any]) -> dict[str, Any]:
        """What a cell holds."""
        name, part, first = key["regime"], key["part"], key["first"]
        # The logs of a regime are the same for all parts.
        numbers = np.arange(first, first + self.options.batch)
        keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(LOG_SEED + REGIMES[name].world), number))(
            numbers
        )
        truth, begun = self.one(name).truth, time.perf_counter()
        found = jax.tree.map(np.asarray, self.program(name, part)(keys))
        # Of the cell: the first of a run compiles as well.
        seconds = round(time.perf_counter() - begun, 2)
        if part == "bootstrap":
            refitted = summary("bootstrap refitted", found[:, 0], found[:, 1], truth)
            return {"truth": truth, "seconds": seconds, **refitted}
        if part == "obp":
            took, lows, highs = [], [], []
            for place, number in enumerate(numbers):
                _, low, high, one = obp_intervals(tuple(part[place] for part in found), int(number))
                took.append(one)
                lows.append(low)
                highs.append(high)
            theirs = summary("obp", np.stack(lows), np.stack(highs), truth)
            return {"truth": truth, "seconds": round(sum(took), 2), **theirs}
        value, error, as_is = (found[name] for name in ("value", "refitted", "as_is"))
        kept = {
            "truth": truth,
            "seconds": seconds,
            "bias": (value - truth).mean(axis=0),
            "squares": np.square(value - truth).mean(axis=0),
            **summary("jackknife", value - NORMAL * error, value + NORMAL * error, truth),
            **summary("as is", value - NORMAL * as_is, value + NORMAL * as_is, truth),
        }
        if part == "estimators":
            return kept
        return {
            **kept,
            **summary("bootstrap as is", found["low"], found["high"], truth),
            "covers": (np.abs(value[:, 0] - truth) <= NORMAL * error[:, 0]).astype(int),
            "numbers": {name: rounded(values) for name, values in found["numbers"].items()},
        }


def summary(kind: str, low: np.ndarray, high: np.ndarray, truth: float) -> dict[str, Any]:
    """Of one kind of intervals [logs, estimators]: how many hold the truth, and their mean width."""
    return {kind: {"covered": ((low <= truth) & (truth <= high)).sum(axis=0), "width": (high - low).mean(axis=0)}}


def rounded(values: np.ndarray) -> list[float]:
    """Four significant digits."""
    return [float(f"{value:.4g}") for value in values.astype(float)]


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


def main(options: Options) -> None:
    """Computes missing cells, prints what all say, and writes table and figure."""
    if options.smoke:
        one = options.regimes.split(",")[0]
        options = replace(options, regimes=one, parts="default,bootstrap", logs=20, few=10, batch=10, resamples=10)
    study = Study(
        options.out / f"{options.name}.json",
        options=options,
        configuration={
            "batch": options.batch,
            "resamples": options.resamples,
            "as_is_resamples": AS_IS_RESAMPLES,
            "lam": LAM,
            "log_seed": LOG_SEED,
            "smoke": options.smoke,
            "regimes": {name: asdict(regime) for name, regime in REGIMES.items()},
        },
        digests={"known_worlds": None},
        fresh=options.fresh,
        join=options.join,
    )
    runner = Runner(options)
    work = {"default": 1.0, "estimators": 3.0, "bootstrap": 20.0, "obp": 5.0}
    keys = keys_of(options)
    for key in study.missing(
        keys,
        budget_minutes=options.budget_minutes,
        work=lambda key: work[key["part"]] * REGIMES[key["regime"]].rows,
    ):
        study.keep(key, runner.run(key))
    study.save()
    groups = current(study.path)
    show(groups)
    write(options, groups)


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


def write(options: Options, groups: Sequence[dict[str, Any]]) -> None:
    """Writes <name>.csv and the figures."""
    covered, judged = covered_of(groups), judged_of(groups)
    columns = ("regime", "interval", "estimator", "logs", "coverage", "coverage_error", "width")
    rows = [[one.regime, one.kind, one.estimator, one.logs, one.coverage, one.error, one.width] for one in covered]
    write_csv(options.out / f"{options.name}.csv", columns, rows)
    coverage_figure(covered, options.out / f"{options.name}.png")
    if judged:
        verdict_figure(judged, options.out / f"{options.name}_verdict.png")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
