"""Which router learns best from a log? Every method of the package and every baseline, ranked.

    python experiments/leaderboard.py                                # 4 regimes, 3 logs each: 20 minutes on one core
    python experiments/leaderboard.py --table table.parquet --logging-policy confounded,skewed
    python experiments/leaderboard.py --methods rm_auto,best_single  # ranks these two alone, from the cells there are
    python experiments/leaderboard.py --smoke

All methods learn from the same simulated logs and are judged on queries never logged, by every model's outcome. Those
marked * have full feedback, as no log has: references. A block is a table, a logging policy and a log seed; blocks of
all runs with the same options go into one file, and those that have every method of --methods are ranked.

Writes <name>.json (its cells: a later run resumes), <name>.csv (one row a table, logging policy, method and seed),
<name>_ranking.json (mean utility and rank with 95% intervals over blocks and test queries, paired differences of all
pairs with Holm's correction, Friedman's test) and <name>.png (critical differences). AIQ is over the costs of the
single models; APGR goes from the cheapest model to the one with the best mean score, its shares of calls read as
shares of the way from the one's mean cost to the other's, as more than two models answer.

Expect neighbours that are not decided: few logs cannot tell most of 56 methods from the next.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from baselines import BASELINES
from cells import Key, Study, select
from command_line import script
from data import Source, logging_names, sources
from judge_auto import first_name
from leaderboard_cells import NUMBERS, blocks_of, cell_of, numbers
from leaderboard_figure import critical_difference_figure, print_ranking
from leaderboard_ranking import Block, rank_methods
from learners import NAMED, Learners
from studies import StudyOptions, budget, logged_settings, method_names, say_what_is_left, smaller

from jrouter.io.results import write_csv, write_json
from jrouter.synthetic import REGIMES

EVERY = tuple(name for name in NAMED if name in BASELINES or first_name(name) == name)
"""A second name of an estimator is left out."""
SMALL = ("best_single", "regress_and_compare_ridge", "carrot_knn", "kmeans", "linucb_mean")
"""Methods of a smoke run, which are quickly compiled."""
FULL_FEEDBACK = {"oracle", *(name for name in NAMED if NAMED[name]().full_feedback)}
COMPILE, AUTO = 5.0, 3.0
"""How long compiling a program takes, and a cell of rm_auto, against the cell of another: for the time left."""
COLUMNS = ("table", "logging_policy", "method", "seed", "full_feedback", *NUMBERS, "n_train", "n_test")


@dataclass(frozen=True)
class Options(StudyOptions):
    """As every study's; methods default to all."""

    regime: str = "specialists,linear,nonlinear,poor_overlap"
    """Synthetic regime(s), comma-separated."""
    n: int = 2000
    """Logged rows of a synthetic benchmark; a table has as many as it has."""
    dim: int = 64
    """Embedding dimension of a synthetic benchmark."""
    name: str = "leaderboard"
    """Of the result files."""


def compute(study: Study, keys: Sequence[Key], setting_of: Any, learners: Learners, minutes: float | None) -> None:
    """Computes and keeps every missing cell; keys of one log follow each other.

    Args:
      study: keeps them.
      keys: of all cells asked for.
      setting_of: key -> what its method learns from.
      learners: compiled methods.
      minutes: as `budget_minutes` of `Study.missing`.
    """
    todo = [key for key in keys if study.cell(key) is None]
    first = {key["method"]: key for key in reversed(todo)}

    def work(key: Key) -> float:
        return (AUTO if key["method"] == "rm_auto" else 1.0) + COMPILE * (first.get(key["method"]) is key)

    at_once, ready = os.cpu_count() or 1, 0
    for place, key in enumerate(study.missing(keys, budget_minutes=minutes, work=work)):
        setting = setting_of(key)
        if place >= ready:
            # As many programs at once as there are cores, so that a run that is stopped has lost few.
            log = {**key, "method": ""}
            ahead = [other for other in todo[place : place + at_once] if {**other, "method": ""} == log]
            learners.compile([other["method"] for other in ahead], key["seed"], setting)
            ready = place + len(ahead)
        try:
            study.keep(key, cell_of(*learners.run(key["method"], key["seed"], setting), setting))
        except ValueError as error:
            raise ValueError(f"{', '.join(map(str, key.values()))}: {error}; leave it out by --methods") from error


def ranking_of(names: Sequence[str], blocks: Sequence[Block], cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The ranking, with what else is shown of each method: means over blocks where they are defined."""
    ranking = rank_methods(names, blocks)
    for method in ranking["methods"]:
        columns = zip(*map(numbers, select(cells, method=method["method"])), strict=True)
        defined = [[value for value in column if value is not None] for column in columns]
        means = [float(np.mean(column)) if column else None for column in defined]
        method |= dict(zip(NUMBERS[1:], means[1:], strict=True))
        method |= {"full_feedback": method["method"] in FULL_FEEDBACK, "baseline": method["method"] in BASELINES}
    return ranking | {name: sorted({cell[name] for cell in cells}) for name in ("n_train", "n_test")}


def rows_of(groups: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """One row a table, logging policy, method and seed."""
    return [
        [group["table"], *[cell["key"][name] for name in COLUMNS[1:4]], cell["key"]["method"] in FULL_FEEDBACK]
        + [*numbers(cell), cell["n_train"], cell["n_test"]]
        for group in groups
        for cell in group["cells"]
    ]


def settings_of(tables: Sequence[str], policies: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of table and logging policy, each log once: regimes that differ in how they are logged alone, as
    nonlinear and poor_overlap do, are one world wherever the policy is none of theirs.

    >>> settings_of(["synthetic:nonlinear", "synthetic:poor_overlap"], ["confounded", "cost"])[2:]
    [('synthetic:poor_overlap', 'confounded')]
    """

    def world(table: str, policy: str) -> Any:
        regime = REGIMES.get(table.removeprefix("synthetic:"))
        if regime is None or policy == "confounded":
            return table
        return replace(regime, logging_spread=0.0, exploration=0.0)

    first = {(world(table, policy), policy): table for table in reversed(tables) for policy in policies}
    return [(table, policy) for table in tables for policy in policies if first[world(table, policy), policy] == table]


def main(options: Options) -> None:
    """Computes what is missing, then ranks what is there."""
    if options.smoke:
        options = replace(smaller(options), seeds=2)
    names = method_names(options.methods, SMALL if options.smoke else EVERY)
    if len(names) < 2:
        raise ValueError(f"--methods: expected at least two to rank, got {names[0]}")
    policies, minutes, path = logging_names(options), budget(options), options.out / f"{options.name}.json"

    def called(source: Source) -> str:
        made = (options.embedding, options.encoder, options.text) if options.table is not None else ()
        return ", ".join([source.name, *filter(None, made)])

    found = {called(source): source for source in sources(options)}
    # The same for a table as for synthetic benchmarks, so that all are one study.
    shared = ("lambdas", "smoke", "n", "dim", "models", "world_seed")
    study = Study(
        path,
        options=options,
        configuration={name: getattr(options, name) for name in shared},
        digests={name: source.sha256 for name, source in found.items()},
        fresh=options.fresh,
        join=options.join,
    )
    # Seeds outside: a run that is stopped has each table about as often.
    keys: list[Key] = [
        {"table": table, "logging_policy": policy, "seed": seed, "method": method}
        for seed in range(options.seeds)
        for table, policy in settings_of(list(found), policies)
        for method in names
    ]

    # Compiling takes longer than running: room for half of the rows of one model, and logs share their programs.
    setting_of = logged_settings(found, options, least_room=0.5)
    compute(study, keys, setting_of, Learners(fast=options.smoke), minutes)
    finish(study, keys, names)


def finish(study: Study, keys: Sequence[Key], names: Sequence[str]) -> None:
    """Writes the CSV, the ranking and its figure, and says what is missing."""
    groups, path = study.groups(), study.path
    if groups:
        study.save()
        write_csv(path.with_suffix(".csv"), COLUMNS, rows_of(groups))
    blocks, cells = blocks_of(groups, names)
    if blocks:
        ranking = ranking_of(names, blocks, cells)
        ranked = path.with_name(f"{path.stem}_ranking.json")
        tables = ", ".join(dict.fromkeys(block.table for block in blocks))
        write_json(ranked, options=study.options, results=[{"table": tables, "sha256": None, **ranking}])
        critical_difference_figure(ranking, path.with_suffix(".png"))
        print_ranking(ranking)
        print(f"\nwrote {path.name}, {ranked.name}, {path.stem}.csv and .png to {path.parent}")
    else:
        print(f"no log has cells of all {len(names)} methods yet: nothing is ranked")
    say_what_is_left(study, keys)


if __name__ == "__main__":
    script(main, Options, __doc__)
