"""How bad may the log be? Few rows of the best models, cheap or near-deterministic choices, other traffic.

    python experiments/stress_logging.py                          # synthetic, about 40 minutes on 2 cores
    python experiments/stress_logging.py --smoke                  # under 1 minute
    python experiments/stress_logging.py --table table.parquet --name stress_of_my_table

Logs of the same queries, written in different ways:

- as --logging-policy says, and uniformly: for comparison;
- uniformly, of the best quarter of the models only 30, 20, 10, 5% of the rows kept;
- in proportion to the models' costs;
- near-deterministic: confounded, log-odds of standard deviation 6, of which 10, 5, 2% is exploration;
- other traffic: queries are of two kinds, the log holds 20, 50, 80 or 95% of the first kind and the
  traffic that judges always 20%; all these logs are of one length, shorter than the others. The kinds are
  halves along the first principal component of x, or the tasks of a table with a column `task`.

Judged on queries never logged, by every model's outcome. Prints mean test utility x 100 and paired
differences, with 95% intervals; writes <name>.json (kept cell by cell: a later run resumes), .csv and
.png.

Expect rules that regress outcomes to suffer little where propensities become small, and all to lose what
they never saw: the best models at 5%, and the kind of query that is rare in the log.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.csv
import pyarrow.parquet
from cells import Key
from command_line import script
from data import Source, compiled, logging_rule, sources
from learners import Setting, setting_from
from one_log import draw_log
from studies import StudyOptions, method_names, smaller
from study_figures import stress_figure
from variants import Variants, study_variants

from jrouter.io.tables import read_table
from jrouter.logging_policies import LOGGING_POLICIES, LoggingPolicy, confounded, keep_few_of_best, uniform
from jrouter.types import Array, BenchmarkTable, take_rows

METHODS = ("best_single", "regress_and_compare_pooled", "baseline_shared", "logging_policy", "rm_auto")
REFERENCES = ("best_single", "regress_and_compare_pooled", "logging_policy")
AS_ASKED = "as asked"
SPREAD = 6.0
TEST_SHARE, LOG_SHARES = 0.2, (0.2, 0.5, 0.8, 0.95)

LOGGINGS: dict[str, LoggingPolicy] = {
    "uniform": LoggingPolicy(uniform),
    **{
        f"{100 * keep:g}% of the best models' rows": LoggingPolicy(uniform, partial(keep_few_of_best, keep=keep))
        for keep in (0.3, 0.2, 0.1, 0.05)
    },
    "proportional to cost": LOGGING_POLICIES["cost"],
    **{
        f"near-deterministic, {100 * share:g}% explored": LoggingPolicy(
            partial(confounded, spread=SPREAD, exploration=share)
        )
        for share in (0.1, 0.05, 0.02)
    },
}
"""What replaces the logging policy; the names are what results show."""
TRAFFIC = {f"traffic: {100 * s:g}% in the log, {100 * TEST_SHARE:g}% after": s for s in LOG_SHARES}
"""Share of the first kind of queries in the log; the names are what results show."""


@dataclass(frozen=True)
class Options(StudyOptions):
    """As every study's; --logging-policy is what the log is like where it is not stressed."""

    name: str = "stress_logging"
    """Of the result files."""


Kinds = Callable[[BenchmarkTable], np.ndarray]


def kinds_by_task(path: Path, embedding: str | None) -> Kinds | None:
    """Queries [n] -> bool, of the first kind or not, by the tasks of a table.

    Tasks are dealt to the two kinds from the largest down, each to the kind with fewer rows so far. Rows of
    parts of the table are found again by their embeddings.

    Args:
      path: the table.
      embedding: as for `read_table`.

    Returns:
      The rule, or None for a table without a column `task`, or with one task alone.
    """
    parquet = path.name.endswith((".parquet", ".pq"))
    held = pyarrow.parquet.read_table(path) if parquet else pyarrow.csv.read_csv(path)
    if "task" not in held.column_names:
        return None
    tasks = np.array([str(task) for task in held["task"].to_pylist()])
    names, counts = np.unique(tasks, return_counts=True)
    if len(names) < 2:
        return None
    rows, first = {True: 0, False: 0}, {}
    for place in np.argsort(-counts, kind="stable"):
        first[names[place]] = rows[True] <= rows[False]
        rows[first[names[place]]] += int(counts[place])
    x = np.asarray(read_table(path, embedding=embedding).x)
    of_query = {row.tobytes(): first[task] for row, task in zip(x, tasks, strict=True)}
    return lambda table: np.array([of_query[row.tobytes()] for row in np.asarray(table.x)])


def kinds_by_projection(logged: BenchmarkTable) -> Kinds:
    """Queries [n] -> bool, by the side of the median along the first principal component of logged ones."""
    x = np.asarray(logged.x, np.float64)
    centre = x.mean(axis=0)
    axis = np.linalg.eigh((x - centre).T @ (x - centre))[1][:, -1]
    axis = axis * np.sign(axis[np.abs(axis).argmax()])
    middle = np.median((x - centre) @ axis)
    return lambda table: (np.asarray(table.x, np.float64) - centre) @ axis > middle


def mixed(side: np.ndarray, share: float, size: int, seed: int) -> np.ndarray:
    """Rows [size], drawn without replacement, of which `share` are of the first kind.

    >>> mixed(np.array([True, False, True, False]), 0.5, 2, 0).tolist()
    [0, 1]
    """
    rng = np.random.default_rng(seed)
    first = round(share * size)
    rows = [
        rng.permutation(np.flatnonzero(side == kind))[:count] for kind, count in ((True, first), (False, size - first))
    ]
    return np.sort(np.concatenate(rows))


def largest(side: np.ndarray, shares: tuple[float, ...]) -> int:
    """The most rows, in twentieths of all, that a part has at each of some shares of the first kind.

    >>> largest(np.arange(100) < 50, (0.2, 0.5)), largest(np.arange(100) < 50, (0.2, 0.95))
    (60, 50)
    """
    first, second, step = side.sum(), (~side).sum(), max(1, len(side) // 20)
    return int(min(min(first / share, second / (1 - share)) for share in shares)) // step * step


class Traffic(NamedTuple):
    """What kind a query is, and rows of the test queries."""

    kinds: Kinds
    test_rows: np.ndarray


def traffic_of(options: Options, source: Source) -> Traffic:
    """How traffic is divided and judged, for one source and all of its seeds.

    Raises:
      ValueError: if one kind of query is missing.
    """
    logged = source.draw(0)
    by_task = None if options.table is None else kinds_by_task(options.table, options.embedding)
    kinds = by_task or kinds_by_projection(logged)
    of_test = kinds(source.test)
    size = largest(of_test, (TEST_SHARE,))
    if min(size, largest(kinds(logged), LOG_SHARES)) < 20:
        raise ValueError(f"{source.name}: too few queries of one kind to mix traffic")
    return Traffic(kinds, mixed(of_test, TEST_SHARE, size, 0))


def main(options: Options) -> None:
    """Runs the study and writes its files."""
    options = smaller(options)
    methods = method_names(options.methods, METHODS)
    found = {source.name: source for source in sources(options)}
    names = [AS_ASKED, *LOGGINGS, *TRAFFIC]
    if options.smoke:
        # Logs of one length, so that each method is compiled once.
        names = [AS_ASKED, *list(LOGGINGS)[-2:]]
    rules = {name: compiled(rule) for name, rule in LOGGINGS.items()}

    @cache
    def traffic(table: str) -> Traffic:
        return traffic_of(options, found[table])

    def setting(source: Source, policy: str, seed: int, variant: str, lambdas: Array) -> Setting:
        rows, test_rows = None, None
        logged = source.draw(seed)
        if variant in TRAFFIC:
            side, test_rows = traffic(source.name).kinds(logged), traffic(source.name).test_rows
            rows = mixed(side, TRAFFIC[variant], largest(side, LOG_SHARES), seed)
        rule = rules[variant] if variant in rules else logging_rule(policy, *source.confounded)
        one = draw_log(logged, source.test, rule, seed, rows=rows, roomy=options.smoke)
        test = source.test
        if test_rows is not None:
            one, test = one._replace(logging_test=one.logging_test[test_rows]), take_rows(test, test_rows)
        return setting_from(one, test, lambdas, seed=seed, fast=options.smoke)

    def references(key: Key) -> dict[str, Key]:
        return {name: key | {"method": name} for name in REFERENCES if name in methods}

    variants = Variants({table: names for table in found}, setting, references, REFERENCES, stress_figure)
    study_variants(options, methods, found, variants)


if __name__ == "__main__":
    script(main, Options, __doc__)
