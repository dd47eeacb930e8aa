"""What judge_auto's cells say of rm_auto: gains, wins and losses, and the loss to the best in hindsight.

A cell is a table, a logging policy and a number of logged rows; log seeds are inside. Everything is read
from the study's file alone.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from cells import Estimate, current, over_seeds, over_tables, select, values_of
from scipy import stats

from jrouter.io.results import text_table

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
MARGIN, LEVEL = 0.005, 0.05
TARGETS = {2_000: 0.010, 20_000: 0.005}
"""Rows of the log -> mean loss to the best comparator in hindsight that is aimed at."""


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


def points(estimate: Estimate, digits: int = 2) -> str:
    """A difference x 100 with its 95% interval.

    >>> points(Estimate(0.012, 0.0))
    '+1.20 [+1.20, +1.20]'
    """
    low, high = estimate.low, estimate.high
    return f"{100 * estimate.mean:+.{digits}f} [{100 * low:+.{digits}f}, {100 * high:+.{digits}f}]"


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
