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

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from cells import Study, current
from command_line import script
from coverage_logs import AS_IS_RESAMPLES, LAM, PARTS, REGIMES, OneLog, Regime, obp_intervals
from coverage_table import show, write
from data import RESULTS

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
    """Keys of all cells: a batch of logs of one regime, for one part.

    Raises:
      ValueError: for an unknown part or regime.
    """
    keys = []
    for part in options.parts.split(","):
        if part not in PARTS:
            raise ValueError(f"--parts: unknown part {part!r}, expected some of {', '.join(PARTS)}")
        for name in options.regimes.split(","):
            if name not in REGIMES:
                raise ValueError(f"--regimes: unknown regime {name!r}, expected some of {', '.join(REGIMES)}")
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
    write(groups, study.path)


if __name__ == "__main__":
    script(main, Options, __doc__)
