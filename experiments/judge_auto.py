"""Is rm_auto the one method to use? Against each single method, and the best of them in hindsight.

    python experiments/judge_auto.py                              # seven regimes, 2,000 rows, 10 seeds: hours
    python experiments/judge_auto.py --n 20000 --seeds 3          # adds to the same file
    python experiments/judge_auto.py --n 100000 --seeds 1 --regime linear,specialists \\
        --methods best_single,regress_and_compare_pooled,rm_auto
    python experiments/judge_auto.py --table table.parquet --seeds 5
    python experiments/judge_auto.py --smoke --methods best_single,rm_auto

Every method learns from the same simulated logs and is judged on queries never logged, by every model's
outcome; rm_auto is compared query by query with all others. Whatever --n, --table, --seeds, --methods,
all cells go into one file, and what is printed is of all cells in it. A cell of the analysis is a table,
a logging policy and a number of logged rows; log seeds are inside.

Prints the mean gain of rm_auto over each comparator with a 95% interval, wins, ties and losses, its loss
to the best comparator in hindsight against its targets, and what it chose. Writes <name>.json (a later
run resumes), .csv (a row per cell, seed, method and lambda) and .png.

Expect gains over every single method, as each fails somewhere, and a loss to the best of a dozen in
hindsight, most where the log is short.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from cells import Estimate, Key, Study, current, identity, over_seeds, over_tables, select, values_of
from data import logging_names, sources
from report import text_table
from scipy import stats
from studies import (
    METRICS,
    Learners,
    Setting,
    StudyOptions,
    budget,
    draw_log,
    estimate_nuisances,
    finish,
    key_of,
    lambdas_of,
    logging_rule,
    method_names,
    paired,
    script,
    smaller,
)
from study_figures import judge_figure

from jrouter.methods import METHODS
from jrouter.nuisances.crossfit import NuisanceConfig
from jrouter.policy import Outcomes, Problem, evaluate
from jrouter.synthetic import REGIMES
from jrouter.types import Array

AUTO = "rm_auto"
REGRESSIONS = tuple(f"regress_and_compare_{name}" for name in ("ridge", "pooled", "knn", "stacked", "mlp"))
COMPARATORS = (
    "best_single",
    *REGRESSIONS,
    *(f"{name}_ipw" for name in REGRESSIONS),
    "baseline_shared",
    "baseline_per_model",
    "cf_regression",
    "causal_carrot_mlp",
    "causal_carrot_knn",
    "logging_policy",
)
"""What a team could use instead, without regret training. baseline_per_model and regress_and_compare_mlp are
one estimator under two names, and count as two."""
OTHERS = (
    "rm_softmax",
    "rm_classification_hard_dr",
    "rm_classification_hard_regressed",
    "rm_classification_cost_weighted",
    "rm_conditioned",
    "rm_residual",
)
POLICIES = {False: "confounded", True: "predicted_accuracy,confounded,skewed"}
"""Default of --logging-policy without and with a table."""
MARGIN, LEVEL = 0.005, 0.05
TARGETS = {2_000: 0.010, 20_000: 0.005}
"""Rows of the log -> mean loss to the best comparator in hindsight that is aimed at."""


@dataclass(frozen=True)
class Options(StudyOptions):
    """As every study's; methods default to all that are judged here."""

    regime: str = ",".join(REGIMES)
    """Synthetic regime(s), comma-separated."""
    logging_policy: str = ""
    """Comma-separated; default: confounded, and with a table predicted_accuracy, confounded and skewed."""
    n: int = 2000
    """Logged rows of a synthetic benchmark; a table has as many as it has."""
    seeds: int = 10
    """Log seeds 0..N-1."""
    name: str = "judge_auto"
    """Of the result files."""


# Computing cells


class Ledger(Study):
    """A study in which a kept cell of rm_auto is missing as long as a method of `asked` is not in it.

    Raises:
      ValueError: if cells were kept for another file with the name of one of these tables.
    """

    asked: tuple[str, ...] = ()
    _due = 0.0

    def __init__(self, path: Path, **more: Any):
        super().__init__(path, **more)
        for group in self._others:
            if group["configuration"] == self.configuration:
                raise ValueError(f"{path} holds cells of another file named {group['table']}: pass another --name")

    def cell(self, key: Key) -> dict[str, Any] | None:
        """As of `Study`; None also for what has to be compared with more."""
        kept = super().cell(key)
        if kept is not None and key["method"] == AUTO and not set(self.asked) <= kept["differences"].keys():
            return None
        return kept

    def rivals(self, key: Key) -> list[str]:
        """What a cell of rm_auto is compared with: the methods asked for, and those it had before."""
        kept = super().cell(key)
        return list(dict.fromkeys([*self.asked, *(kept["differences"] if kept else ())]))

    def save(self) -> None:
        """Writes the file unless that would take more than a twentieth of the time: cells are thousands."""
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Writes the file."""
        begun = time.monotonic()
        super().save()
        self._due = time.monotonic() + 20 * (time.monotonic() - begun)


class Judged(NamedTuple):
    """Utility [L, n_test], means [L] of all metrics, seconds, and what rm_auto found."""

    utility: np.ndarray
    means: Outcomes
    seconds: float
    evidence: dict[str, Any]


class Judges(Learners):
    """Learners, of which rm_auto also says what it chose."""

    def judged(self, name: str, seed: int, setting: Setting) -> Judged:
        """One method, fitted and judged."""
        evidence: dict[str, Any] = {}
        if name == AUTO:
            outcomes, seconds, evidence = self._auto(seed, setting)
        else:
            outcomes, seconds = self.run(name, seed, setting)
        means = jax.tree.map(lambda leaf: np.asarray(leaf).mean(axis=1), outcomes)
        return Judged(np.asarray(outcomes.utility), means, seconds, evidence)

    def _auto(self, seed: int, setting: Setting) -> tuple[Outcomes, float, dict[str, Any]]:
        method = METHODS[AUTO]()

        def fit_and_judge(key, problem, test):
            params = method.fit(key, problem)
            return evaluate(method.policy, params, test, problem.lambdas)[0], params["evidence"]

        operands = (key_of(seed, "learners"), setting.problem, setting.test)
        program = self._compiled(AUTO, fit_and_judge, operands)
        start = time.perf_counter()
        outcomes, found = jax.block_until_ready(program(*operands))
        seconds = time.perf_counter() - start
        names = method.config.candidates
        evidence = {"chosen": names[int(found["chosen"])], "candidates": list(names)}
        return outcomes, seconds, evidence | {part: found[part] for part in ("value", "error", "gain", "gain_error")}


@cache
def first_name(name: str) -> str:
    """The first of the names of an estimator: what has several is run once."""
    if name in ("logging_policy", "oracle"):
        return name

    def estimator(name: str) -> tuple:
        method = METHODS[name]()
        return method.fit.__qualname__, method.config

    return next(other for other in METHODS if estimator(other) == estimator(name))


def run(
    ledger: Ledger,
    keys: Sequence[Key],
    setting_of: Callable[[Key], Setting],
    judges: Judges,
    *,
    budget_minutes: float | None = None,
    work: Callable[[Key], float] = lambda key: 1.0,
) -> None:
    """Computes and keeps every missing cell; keys of one setting follow each other, rm_auto last.

    Args:
      ledger: keeps them.
      keys: of all cells asked for.
      setting_of: key -> what its method learns from; remembers the last one.
      judges: compiled methods.
      budget_minutes: and
      work: as of `Study.missing`.
    """
    where, held = "", {}

    def of(key: Key, name: str) -> Judged:
        first = first_name(name)
        if first not in held:
            held[first] = judges.judged(first, key["seed"], setting_of(key))
        return held[first]

    try:
        for key in ledger.missing(keys, budget_minutes=budget_minutes, work=work):
            setting = setting_of(key)
            if (here := identity(key | {"method": ""})) != where:
                where, held = here, {}
            ours, means, seconds, evidence = of(key, key["method"])
            rivals = ledger.rivals(key) if key["method"] == AUTO else []
            ledger.keep(
                key,
                {
                    "n_train": setting.problem.log.model.shape[0],
                    "n_test": ours.shape[1],
                    "lambdas": setting.problem.lambdas,
                    **{metric: getattr(means, metric) for metric in METRICS},
                    "error": {"utility": compared(ours, 0.0, setting)["mean_error"]},
                    "differences": {name: compared(ours, of(key, name).utility, setting) for name in rivals},
                    "seconds": round(seconds, 3),
                    **({"evidence": evidence} if evidence else {}),
                },
            )
    finally:
        ledger.flush()


def compared(ours: np.ndarray, theirs: np.ndarray | float, setting: Setting) -> dict[str, Any]:
    """Mean over lambdas and test queries of a difference in utility [L, n], and its error over queries."""
    group = setting.test.group
    if group is not None:
        group = jnp.asarray(np.unique(np.asarray(group), return_inverse=True)[1])
    found = paired(ours, theirs, group)
    return {"mean": found["mean"], "mean_error": found["mean_error"]}


# The analysis, from the file alone


class Cell(NamedTuple):
    """rm_auto in one setting, over its log seeds; differences in utility, averaged over lambdas.

    Attributes:
      table: name.
      policy: of the logging.
      n: logged rows.
      seeds: how many.
      differences: rm_auto less each comparator.
      best: the comparator with the highest mean utility over the seeds.
      loss: its utility less rm_auto's.
      loss_by_seed: the same, to the best comparator of each seed.
      chosen: candidate -> how many seeds chose it.
    """

    table: str
    policy: str
    n: int
    seeds: int
    differences: dict[str, Estimate]
    best: str
    loss: Estimate
    loss_by_seed: Estimate
    chosen: Counter


class Verdict(NamedTuple):
    """What became of one cell and comparator: "win", "tie" or "loss"; p after Holm's correction."""

    outcome: str
    adjusted: float


def cells_of(path: Path) -> list[Cell]:
    """The cells of a result file in which rm_auto was compared with something, by rows of the log.

    Comparators are those that all seeds of a cell have; hindsight looks at the same test queries that
    judge, and so flatters the best of many a little.
    """
    found = []
    for group in current(path):
        for policy in values_of(group["cells"], "logging_policy"):
            here = select(group["cells"], logging_policy=policy, method=AUTO)
            for n in values_of(here, "n"):
                rows = select(here, n=n)
                names = [name for name in COMPARATORS if all(name in row["differences"] for row in rows)]
                if not names:
                    continue
                means = {name: [row["differences"][name]["mean"] for row in rows] for name in names}
                errors = {name: [row["differences"][name]["mean_error"] for row in rows] for name in names}
                differences = {name: over_seeds(means[name], errors[name]) for name in names}
                best = min(names, key=lambda name: differences[name].mean)
                by_seed = [min(names, key=lambda name: means[name][s]) for s in range(len(rows))]
                found.append(
                    Cell(
                        group["table"],
                        policy,
                        n,
                        len(rows),
                        differences,
                        best,
                        _negated(differences[best]),
                        over_seeds(
                            [-means[name][s] for s, name in enumerate(by_seed)],
                            [errors[name][s] for s, name in enumerate(by_seed)],
                        ),
                        Counter(row["evidence"]["chosen"] for row in rows),
                    )
                )
    return sorted(found, key=lambda cell: (cell.table.startswith("synthetic:"), cell.n))


def _negated(estimate: Estimate) -> Estimate:
    return estimate._replace(mean=-estimate.mean)


def over_cells(cells: Sequence[Cell], estimate_of: Callable[[Cell], Estimate]) -> Estimate:
    """Mean over cells, each counting the same; speaks for these tables alone.

    Cells of one table share test queries and parts of their logs: their errors are added up, as if they
    moved together, which is the worst case. Tables are independent.
    """
    by_table: dict[str, list[Estimate]] = {}
    for cell in cells:
        by_table.setdefault(cell.table, []).append(estimate_of(cell))
    # `over_tables` weighs tables the same: scaled so that cells count the same.
    scale = len(by_table) / len(cells)
    return over_tables(
        [
            Estimate(
                scale * sum(one.mean for one in held),
                scale * sum(one.error for one in held),
                min(one.freedom for one in held),
            )
            for held in by_table.values()
        ]
    )


def two_sided(estimate: Estimate) -> float:
    """p-value of no difference, from Student's distribution; 1 for a difference that is 0 without error."""
    if estimate.error == 0:
        return float(estimate.mean == 0)
    return float(2 * stats.t.sf(abs(estimate.mean) / estimate.error, estimate.freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that may all be compared with one level.

    adjusted_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)), the p-values sorted upwards

    Args:
      p_values: m of them.

    Returns:
      m adjusted p-values in the order given.

    >>> holm([0.01, 0.5])
    [0.02, 0.5]

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def verdicts(cells: Sequence[Cell]) -> dict[tuple[int, str], Verdict]:
    """(place of the cell, comparator) -> win, tie or loss.

    A loss: rm_auto's mean difference is below -max(0.5 points, its standard error), and its two-sided
    p-value (Student, over log seeds and test queries), corrected after Holm over all cells and comparators
    in the file, is below 0.05. A win is the same above. All else is a tie.
    """
    places = [(place, name) for place, cell in enumerate(cells) for name in cell.differences]
    estimates = [cells[place].differences[name] for place, name in places]
    adjusted = holm([two_sided(estimate) for estimate in estimates])
    return {
        at: Verdict("win" if estimate.mean > 0 else "loss", p) if p < LEVEL and beyond(estimate) else Verdict("tie", p)
        for at, estimate, p in zip(places, estimates, adjusted, strict=True)
    }


def beyond(estimate: Estimate) -> bool:
    """Whether a difference is larger than max(0.5 points, one standard error), whatever its p-value."""
    return abs(estimate.mean) > max(MARGIN, estimate.error)


class Row(NamedTuple):
    """rm_auto against one comparator over all cells that have it.

    Attributes:
      name: of the comparator.
      gain: mean difference.
      wins: cells, and
      ties: and
      losses: as of `verdicts`.
      uncorrected: losses beyond the margin, whatever their p-values.
    """

    name: str
    gain: Estimate
    wins: int
    ties: int
    losses: int
    uncorrected: int


def comparison(cells: Sequence[Cell]) -> list[Row]:
    """A row per comparator, in the order of `COMPARATORS`."""
    found, rows = verdicts(cells), []
    for name in COMPARATORS:
        having = [cell for cell in cells if name in cell.differences]
        if having:
            count = Counter(verdict.outcome for (_, other), verdict in found.items() if other == name)
            below = sum(c.differences[name].mean < 0 and beyond(c.differences[name]) for c in having)
            gain = over_cells(having, lambda cell, name=name: cell.differences[name])
            rows.append(Row(name, gain, count["win"], count["tie"], count["loss"], below))
    return rows


def target_at(n: int) -> float | None:
    """The loss aimed at with n rows: that of the largest size in `TARGETS` which n reaches.

    >>> target_at(10_000), target_at(100_000), target_at(500)
    (0.01, 0.005, None)
    """
    reached = [size for size in TARGETS if size <= n]
    return TARGETS[max(reached)] if reached else None


def hindsight(cells: Sequence[Cell]) -> list[tuple[int, list[Cell], Estimate, Estimate]]:
    """Per number of rows: its cells, mean loss to the best of the cell, and to the best of each seed."""
    result = []
    for n in sorted({cell.n for cell in cells}):
        here = [cell for cell in cells if cell.n == n]
        losses = over_cells(here, lambda cell: cell.loss), over_cells(here, lambda cell: cell.loss_by_seed)
        result.append((n, here, *losses))
    return result


# Printing


def points(estimate: Estimate) -> str:
    """A difference x 100 with its 95% interval.

    >>> points(Estimate(0.012, 0.0))
    '+1.20 [+1.20, +1.20]'
    """
    return f"{100 * estimate.mean:+.2f} [{100 * estimate.low:+.2f}, {100 * estimate.high:+.2f}]"


def label(cell: Cell) -> str:
    """A cell in words."""
    return f"{cell.table}, {cell.policy}, {cell.n:,} rows"


def print_judgement(path: Path) -> None:
    """Everything that the file says of rm_auto; nothing where it was not run."""
    cells = cells_of(path)
    if not cells:
        print(f"\n{AUTO} was compared with none of the comparators yet")
        return
    rows, found = comparison(cells), verdicts(cells)
    print(f"\n{AUTO} less each comparator: mean test utility x 100 over {len(cells)} cells, with 95% interval")
    lines = [[row.name, points(row.gain), *map(str, (row.wins, row.ties, row.losses, row.uncorrected))] for row in rows]
    print(text_table(["comparator", "mean difference", "wins", "ties", "losses", "before Holm"], lines))

    print("\nloss to the best comparator in hindsight, points, with 95% interval")
    lines = [
        [
            label(c),
            str(c.seeds),
            f"{c.best} of {len(c.differences)}",
            points(c.loss),
            points(c.loss_by_seed),
            _counted(c.chosen),
        ]
        for c in cells
    ]
    print(text_table(["cell", "seeds", "best, of how many", "loss", "loss, best of each seed", "chosen"], lines))

    print("\ntargets")
    for n, here, loss, by_seed in hindsight(cells):
        of = f"{n:,} rows, {len(here)} cells of {len({cell.table for cell in here})} tables"
        print(f"mean loss at {of}: {points(loss)}; to the best of each seed: {points(by_seed)}")
        if (target := target_at(n)) is not None:
            over = [f"{label(cell)} ({100 * cell.loss.mean:+.2f} to {cell.best})" for cell in here]
            over = [text for text, cell in zip(over, here, strict=True) if cell.loss.mean > target]
            _said(loss.mean <= target, f"at most {100 * target:.1f} points", over)
    lost = [f"{label(cells[at])} to {name}" for (at, name), verdict in found.items() if verdict.outcome == "loss"]
    _said(not lost, "no cell lost by more than max(0.5 points, one standard error) after Holm's correction", lost)
    short = [f"{row.name} ({points(row.gain)})" for row in rows if row.gain.low <= 0]
    _said(not short, "mean gain over each single comparator above 0, interval excluding 0", short)
    print("\nchosen over all logs: " + _counted(sum((cell.chosen for cell in cells), Counter())))


def _counted(chosen: Counter) -> str:
    return ", ".join(f"{name} {count}" for name, count in chosen.most_common())


def _said(met: bool, target: str, where: list[str]) -> None:
    print(f"  {'met' if met else 'MISSED'}: {target}" + (f"; not so: {'; '.join(where)}" if where else ""))


# The script


def main(options: Options) -> None:
    """Computes what is missing, then judges all that is in the file."""
    of_table = options.table is not None
    options = smaller(replace(options, logging_policy=options.logging_policy or POLICIES[of_table]))
    asked = method_names(options.methods, (*COMPARATORS, *OTHERS, AUTO))
    methods = sorted(asked, key=lambda name: name == AUTO)
    policies, minutes, path = logging_names(options), budget(options), options.out / f"{options.name}.json"
    encoder = f", {options.embedding}" if of_table and options.embedding else ""
    found = {source.name + encoder: source for source in sources(options)}
    rows = {name: source.draw(0).score.shape[0] if of_table else options.n for name, source in found.items()}
    # The same for a table as for synthetic benchmarks, so that all are one study.
    shared = ("lambdas", "smoke", "dim", "models", "world_seed")
    ledger = Ledger(
        path,
        options=options,
        configuration={name: getattr(options, name) for name in shared},
        digests={name: source.sha256 for name, source in found.items()},
        fresh=options.fresh,
    )
    ledger.asked = tuple(name for name in methods if name != AUTO)
    keys: list[Key] = [
        {"table": table, "logging_policy": policy, "n": rows[table], "seed": seed, "method": method}
        for table in found
        for policy in policies
        for seed in range(options.seeds)
        for method in methods
    ]

    @cache
    def lambdas(table: str, policy: str) -> Array:
        return lambdas_of(found[table], policy, options)

    @lru_cache(maxsize=1)
    def setting(table: str, policy: str, seed: int) -> Setting:
        source = found[table]
        one = draw_log(source.draw(seed), source.test, logging_rule(policy, *source.confounded), seed)
        nuisances = estimate_nuisances(seed, one.log, one.split, NuisanceConfig(), fast=options.smoke)
        problem = Problem(one.log, one.split, nuisances, lambdas(table, policy), one.full)
        return Setting(problem, source.test, one.logging_test)

    def setting_of(key: Key) -> Setting:
        return setting(key["table"], key["logging_policy"], key["seed"])

    def work(key: Key) -> float:
        # rm_auto fits everything again in each fold.
        return 10.0 if key["method"] == AUTO else 1.0

    run(ledger, keys, setting_of, Judges(fast=options.smoke), budget_minutes=minutes, work=work)
    if finish(ledger, keys, lambda path, out: judge_figure(cells_of(path), out)):
        print_judgement(path)


if __name__ == "__main__":
    script(main, Options, __doc__)
