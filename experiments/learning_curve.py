"""How much log does a team need? Regret against rows of the log, from 500 to 100,000.

    python experiments/learning_curve.py                          # specialists, about an hour on 2 cores
    python experiments/learning_curve.py --smoke                  # under 1 minute
    python experiments/learning_curve.py --table table.parquet --name learning_curve_of_my_table

`plain` is the paper's recipe, RM-Softmax on plain doubly robust scores; `full_feedback` regresses every
model's outcome (ridge), which no log has; `rm_auto` and `best_single` learn from the log alone. --seeds
logs at each size up to 20,000 rows, one above. A table gives its own first rows, as many as it has.

Judged on the same queries, never logged, by every model's outcome. Prints mean test utility x 100 by rows,
the slope of log regret in log rows (least squares over sizes, with a standard error for the seeds), and the
least log with which each method is within 1 point of its value at the largest. Writes <name>.json (kept
cell by cell: a later run resumes), .csv and .png.

Expect best_single to need least and to gain least, the plain recipe to leave it slowly (weight variance),
and regression on full feedback to fall like a power of rows, ahead of every learner from the log.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
from cells import Key, Study, current, select, values_of
from command_line import script
from data import Source, logging_names, logging_rule, sources
from known_methods import chosen_methods
from learners import Learners, Setting, setting_from
from one_log import draw_log, lambdas_of
from studies import (
    StudyOptions,
    budget,
    configuration,
    finish,
    mean_utility,
    print_groups,
    run_study,
    smaller,
)
from study_figures import learning_figure

from jrouter.io.results import text_table
from jrouter.methods.carrot import CarrotConfig, carrot
from jrouter.methods.rm_softmax import RmSoftmaxConfig, rm_softmax
from jrouter.types import Array, take_rows

OURS = {
    "plain": lambda: rm_softmax(RmSoftmaxConfig(estimator="dr")),
    "full_feedback": lambda: carrot(CarrotConfig("ridge")),
}
"""Methods of this study that have no name in the package."""
METHODS = ("best_single", "plain", "rm_auto", "full_feedback")
ONE_SEED_ABOVE = 20_000
GRID_ROWS = 10_000
POINT = 0.01


@dataclass(frozen=True)
class Options(StudyOptions):
    """As every study's; --n is not used."""

    regime: str = "specialists"
    """Synthetic regime(s), comma-separated."""
    sizes: str = "500,1000,2000,5000,10000,20000,50000,100000"
    """Rows of the logs."""
    name: str = "learning_curve"
    """Of the result files."""


def parse_sizes(text: str) -> list[int]:
    """Sizes of --sizes.

    Raises:
      ValueError: for anything but ascending whole numbers of at least 50.
    """
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 50 or sizes != sorted(set(sizes)):
        raise ValueError(f"--sizes: expected ascending whole numbers of at least 50, got {text!r}")
    return sizes


def names_of(text: str) -> list[str]:
    """Names of --methods, this study's own among them.

    Raises:
      ValueError: for an unknown name.
    """
    asked = [name.strip() for name in text.split(",")] if text else list(METHODS)
    chosen_methods(",".join(name for name in asked if name not in OURS) or "best_single")
    return list(dict.fromkeys(asked))


def slope_of(sizes: Sequence[int], regrets: Sequence[Sequence[float]]) -> tuple[float, float | None, float] | None:
    """Least-squares line through the mean log regret at each size, over log rows.

    slope = sum_n c_n m_n,  error^2 = sum_n c_n^2 s^2 / S_n

    m_n is the mean log regret of the S_n seeds at size n and s^2 their variance, pooled over the sizes
    that have several. The error speaks for the seeds, not for a relation that is no line.

    Args:
      sizes: at least 2, distinct.
      regrets: of each size, one per seed.

    Returns:
      slope, its standard error (None where no size has two seeds), intercept; in natural logarithms.
      None for fewer than two sizes, or where a regret is not positive.

    >>> round(slope_of([10, 100], [[1.0], [0.1]])[0], 6)
    -1.0
    """
    if len(sizes) < 2 or min(min(values) for values in regrets) <= 0:
        return None
    x, logs = np.log(sizes), [np.log(values) for values in regrets]
    means = np.array([values.mean() for values in logs])
    weight = (x - x.mean()) / np.square(x - x.mean()).sum()
    slope = float(weight @ means)
    freedom = sum(len(values) - 1 for values in logs)
    error = None
    if freedom:
        variance = sum(np.square(values - values.mean()).sum() for values in logs) / freedom
        error = math.sqrt(sum(w**2 * variance / len(values) for w, values in zip(weight, logs, strict=True)))
    return slope, error, float(means.mean() - slope * x.mean())


def rows_needed(sizes: Sequence[int], utilities: Sequence[float], *, within: float = POINT) -> int:
    """The least size from which on utility stays within `within` of that at the largest.

    >>> rows_needed([1, 2, 3, 4], [0.1, 0.5, 0.3, 0.505])
    4
    """
    needed = sizes[-1]
    for size, value in zip(reversed(sizes), reversed(utilities), strict=True):
        if utilities[-1] - value > within:
            break
        needed = size
    return needed


def fitted(groups: list[dict[str, Any]]) -> dict[tuple[str, str, str], tuple[float, float | None, float]]:
    """Slopes by table, logging policy and method, from the cells alone."""
    slopes = {}
    for group in groups:
        for policy in values_of(group["cells"], "logging_policy"):
            for method in values_of(group["cells"], "method"):
                cells = select(group["cells"], logging_policy=policy, method=method)
                sizes = sorted(values_of(cells, "n"))
                line = slope_of(sizes, [[float(np.mean(c["regret"])) for c in select(cells, n=n)] for n in sizes])
                if line is not None:
                    slopes[group["table"], policy, method] = line
    return slopes


def print_needs(groups: list[dict[str, Any]]) -> None:
    """Slopes, and how much log each method needs, from the cells alone."""
    slopes = fitted(groups)
    for group in groups:
        for policy in values_of(group["cells"], "logging_policy"):
            rows, sentences = [], []
            for method in values_of(group["cells"], "method"):
                cells = select(group["cells"], logging_policy=policy, method=method)
                sizes = sorted(values_of(cells, "n"))
                values = [mean_utility(select(cells, n=n)).mean for n in sizes]
                line = slopes.get((group["table"], policy, method))
                if line is not None:
                    error = "" if line[1] is None else f"{line[1]:.3f}"
                    rows.append([method, f"{line[0]:+.3f}", error])
                sentences.append(
                    f"{method} {rows_needed(sizes, values):,} rows ({100 * values[-1]:.1f} at {sizes[-1]:,})"
                )
            print(f"\n{group['table']}, {policy} logging: slope of log regret in log rows")
            print(text_table(["method", "slope", "standard error"], rows))
            print(
                "How much log does a team need? To be within 1 point of what it reaches with the largest log: "
                + "; ".join(sentences)
                + "."
            )


def main(options: Options) -> None:
    """Runs the study and writes its files."""
    options = smaller(options)
    sizes = parse_sizes("200,400" if options.smoke else options.sizes)
    methods, policies, minutes = names_of(options.methods), logging_names(options), budget(options)
    grid_rows = min(sizes[-1], GRID_ROWS)
    base = {source.name: source for source in sources(replace(options, n=grid_rows))}
    if options.table is not None:
        (source,) = base.values()
        held = source.draw(0).score.shape[0]
        sizes = [n for n in sizes if n < held] + ([held] if sizes[-1] >= held else [])
    of_study = configuration(options, list(base.values()))
    study = Study(
        options.out / f"{options.name}.json",
        options=options,
        configuration=of_study,
        digests={name: source.sha256 for name, source in base.items()},
        fresh=options.fresh,
        join=options.join,
    )
    keys: list[Key] = [
        {"table": table, "logging_policy": policy, "n": n, "seed": seed, "method": method}
        for table in base
        for policy in policies
        for n in sizes
        for seed in range(options.seeds if n <= ONE_SEED_ABOVE else 1)
        for method in methods
    ]

    @cache
    def lambdas(table: str, policy: str) -> Array:
        # Of one log, so that every size is judged at the same lambdas.
        return lambdas_of(base[table], policy, options)

    @lru_cache(maxsize=1)
    def source_of(table: str, n: int) -> Source:
        if options.table is not None or n == grid_rows:
            return base[table]
        # The same test queries whatever n is.
        return next(source for source in sources(replace(options, n=n)) if source.name == table)

    @lru_cache(maxsize=1)
    def setting(table: str, policy: str, n: int, seed: int) -> Setting:
        source = source_of(table, n)
        logged = source.draw(seed)
        if options.table is not None:
            order = np.random.default_rng(seed).permutation(logged.score.shape[0])
            logged = take_rows(logged, np.sort(order[:n]))
        one = draw_log(logged, source.test, logging_rule(policy, *source.confounded), seed)
        return setting_from(one, source.test, lambdas(table, policy), seed=seed, fast=options.smoke)

    def setting_of(key: Key) -> Setting:
        return setting(key["table"], key["logging_policy"], key["n"], key["seed"])

    def references(key: Key) -> dict[str, Any]:
        return {"best_single": key | {"method": "best_single"}} if "best_single" in methods else {}

    def work(key: Key) -> float:
        # Networks take time in proportion to rows, but a step is never smaller than a small batch.
        return 2_000 + key["n"]

    learners = Learners(OURS, fast=options.smoke)
    run_study(study, keys, setting_of, references, learners, budget_minutes=minutes, work=work)
    if finish(study, keys, lambda path, out: learning_figure(path, out, fitted(current(path)))):
        print_groups(study.path, row="n", to=["best_single"])
        print_needs(current(study.path))


if __name__ == "__main__":
    script(main, Options, __doc__)
