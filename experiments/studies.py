"""What the studies share: their flags, how cells are computed, and what is shown of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cells import Estimate, Key, Study, current, identity, over_seeds, select, values_of
from data import DataOptions, Source, logging_rule, smoke_size
from known_methods import chosen_methods
from learners import Learners, Setting, paired, setting_from
from one_log import draw_log, lambdas_of

from jrouter.io.results import text_table, write_csv
from jrouter.policy import Outcomes
from jrouter.types import Array

METRICS = ("utility", "regret", "routing_accuracy", "score", "cost")


@dataclass(frozen=True)
class StudyOptions(DataOptions):
    """What every study takes beside the flags of every experiment."""

    regime: str = "specialists,linear"
    """Synthetic regime(s), comma-separated."""
    n: int = 4000
    """Logged rows of a synthetic benchmark."""
    seeds: int = 3
    """Log seeds 0..N-1."""
    methods: str = ""
    """Comma-separated names; default: those of the study."""
    budget_minutes: float | None = None
    """Stop between cells once these have passed; run the same command again to go on."""
    fresh: bool = False
    """Forget the cells that an earlier run of this configuration has kept."""
    join: tuple[Path, ...] = ()
    """Result files of the same study made elsewhere, e.g. on other machines: their cells are taken over."""


def configuration(options: DataOptions, found: Sequence[Source], **more: Any) -> dict[str, Any]:
    """The options that change the numbers of a cell and are not part of its key."""
    shared = {"lambdas": options.lambdas, "smoke": options.smoke, "test_queries": found[0].test.score.shape[0]}
    if options.table is not None:
        made = {} if options.encoder is None else {"encoder": options.encoder, "text": options.text}
        return shared | {"sha256": found[0].sha256, "embedding": options.embedding} | made | more
    return shared | {"dim": options.dim, "models": options.models, "world_seed": options.world_seed} | more


def method_names(text: str, default: tuple[str, ...]) -> list[str]:
    """Names of --methods, best_single first: what others are compared with is then at hand.

    Raises:
      ValueError: for an unknown name.
    """
    return chosen_methods(text or ",".join(default))


def smaller(options: Any) -> Any:
    """The options of a smoke run: small, with one regime, one logging policy and one seed."""
    if not options.smoke:
        return options
    one = {name: getattr(options, name).split(",")[0] for name in ("regime", "logging_policy")}
    return replace(smoke_size(options), n=400, seeds=1, **one)


def logged_settings(
    found: Mapping[str, Source], options: DataOptions, *, least_room: float = 0.0
) -> Callable[[Key], Setting]:
    """Key -> what is learned from the log of its table, logging policy and seed; the last one is remembered.

    Args:
      found: table -> source.
      options: lambdas, and whether programs are quickly compiled.
      least_room: share of the rows for which one model has room at least, so that logs share their programs.
    """

    @cache
    def lambdas(table: str, policy: str) -> Array:
        return lambdas_of(found[table], policy, options)

    @lru_cache(maxsize=1)
    def setting(table: str, policy: str, seed: int) -> Setting:
        source = found[table]
        one = draw_log(source.draw(seed), source.test, logging_rule(policy, *source.confounded), seed)
        room = max(one.split.model_size, int(least_room * one.log.model.shape[0]))
        one = one._replace(split=replace(one.split, model_size=room))
        return setting_from(one, source.test, lambdas(table, policy), seed=seed, fast=options.smoke)

    return lambda key: setting(key["table"], key["logging_policy"], key["seed"])


def run_study(
    study: Study,
    keys: Sequence[Key],
    setting_of: Callable[[Key], Setting],
    references: Callable[[Key], Mapping[str, Key]],
    learners: Learners,
    *,
    budget_minutes: float | None = None,
    work: Callable[[Key], float] = lambda key: 1.0,
) -> None:
    """Computes and keeps every missing cell.

    Args:
      study: keeps them.
      keys: of all cells; those that share a setting, then those that share a log, should follow each
        other.
      setting_of: key -> what its method learns from.
      references: key -> {name: key of what it is compared with, query by query}. Where an earlier run
        kept that cell, it is computed once more, as utilities by query are not kept.
      learners: compiled methods.
      budget_minutes: and
      work: as of `Study.missing`.
    """

    by_text: dict[str, Key] = {}

    @lru_cache(maxsize=96)
    def utility_of(text: str) -> tuple[np.ndarray, Outcomes, float]:
        key = by_text[text]
        outcomes, seconds = learners.run(key["method"], key["seed"], setting_of(key))
        means = jax.tree.map(lambda leaf: leaf.mean(axis=1), outcomes)
        return np.asarray(outcomes.utility), means, seconds

    def of(key: Key):
        by_text[identity(key)] = key
        return utility_of(identity(key))

    for key in study.missing(keys, budget_minutes=budget_minutes, work=work):
        setting = setting_of(key)
        missing = [other["method"] for other in keys if _alike(other, key) and study.cell(other) is None]
        learners.compile(missing, key["seed"], setting)
        group = setting.test.group
        if group is not None:
            # Numbered anew, as the rows of a part are fewer than the groups of the whole.
            group = jnp.asarray(np.unique(np.asarray(group), return_inverse=True)[1])
        ours, means, seconds = of(key)
        others = {name: other for name, other in references(key).items() if identity(other) != identity(key)}
        alone = paired(ours, 0.0, group)
        study.keep(
            key,
            {
                "n_train": setting.problem.log.model.shape[0],
                "n_test": ours.shape[1],
                "dim": setting.problem.log.x.shape[1],
                "lambdas": setting.problem.lambdas,
                **{metric: getattr(means, metric) for metric in METRICS},
                "error": {"utility": alone["mean_error"], "utility_by_lambda": alone["error"]},
                "differences": {name: paired(ours, of(other)[0], group) for name, other in others.items()},
                "seconds": round(seconds, 3),
            },
        )
    study.save()


def _alike(first: Key, second: Key) -> bool:
    return {**first, "method": ""} == {**second, "method": ""}


def mean_utility(cells: Sequence[dict[str, Any]], metric: str = "utility") -> Estimate:
    """Mean over lambdas of one method in one setting, over its seeds; regret shares utility's error."""
    return over_seeds([float(np.mean(cell[metric])) for cell in cells], [cell["error"]["utility"] for cell in cells])


def mean_difference(cells: Sequence[dict[str, Any]], to: str) -> Estimate | None:
    """Paired difference in mean utility to the reference `to`, over seeds; None where there is none."""
    found = [cell["differences"][to] for cell in cells if to in cell["differences"]]
    return over_seeds([d["mean"] for d in found], [d["mean_error"] for d in found]) if found else None


def print_groups(path: Path, *, row: str, to: Sequence[str]) -> None:
    """Tables from the file alone: row x method, mean test utility x 100, then differences to references."""

    def percent(estimate: Estimate | None) -> str:
        return "" if estimate is None else f"{100 * estimate.mean:.1f}±{100 * estimate.half_width:.1f}"

    def signed(estimate: Estimate | None) -> str:
        if estimate is None:
            return ""
        return f"{100 * estimate.mean:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"

    for group in current(path):
        for policy in values_of(group["cells"], "logging_policy"):
            cells = select(group["cells"], logging_policy=policy)
            methods, names = values_of(cells, "method"), values_of(cells, row)
            found = {(n, m): select(cells, method=m, **{row: n}) for n in names for m in methods}
            print(
                f"\n{group['table']}, {policy} logging, {len(values_of(cells, 'seed'))} seed(s), "
                f"{cells[0]['n_test']} test queries\nmean test utility x 100 over {len(cells[0]['lambdas'])} lambdas, "
                "± half of the 95% interval over seeds and queries"
            )
            lines = [
                [str(n), *[percent(mean_utility(c) if (c := found[n, m]) else None) for m in methods]] for n in names
            ]
            print(text_table([row, *methods], lines))
            for reference in to:
                lines = [[str(n), *[signed(mean_difference(found[n, m], reference)) for m in methods]] for n in names]
                if any(cell for line in lines for cell in line[1:]):
                    print(f"\nless {reference}, paired, with 95% interval")
                    print(text_table([row, *methods], lines))


def write_cells(path: Path) -> None:
    """The CSV of a study's file: one row per cell and lambda."""
    groups = current(path)
    names = list(dict.fromkeys(name for group in groups for cell in group["cells"] for name in cell["key"]))
    rows = [
        [group["table"], *[cell["key"].get(name, "") for name in names], float(lam), cell["n_train"], cell["n_test"]]
        + [float(cell[metric][place]) for metric in METRICS]
        + [cell["seconds"]]
        for group in groups
        for cell in group["cells"]
        for place, lam in enumerate(cell["lambdas"])
    ]
    write_csv(path.with_suffix(".csv"), ["table", *names, "lambda", "n_train", "n_test", *METRICS, "seconds"], rows)


def finish(study: Study, keys: Sequence[Key], draw: Callable[[Path, Path], None]) -> bool:
    """Writes the CSV and the figure, and says what is still missing. False where there is no cell yet."""
    done = cells_done(study, keys)
    if done:
        write_cells(study.path)
        draw(study.path, study.path.with_suffix(".png"))
        print(f"\nwrote {study.path.stem}.json, .csv and .png to {study.path.parent}")
    say_what_is_left(study, keys)
    return done > 0


def cells_done(study: Study, keys: Sequence[Key]) -> int:
    """How many of these cells have been computed."""
    return sum(study.cell(key) is not None for key in keys)


def say_what_is_left(study: Study, keys: Sequence[Key]) -> None:
    """Says how many cells are missing, and how many were kept from other code."""
    if (done := cells_done(study, keys)) < len(keys):
        print(f"{done} of {len(keys)} cells are done: run the same command again for the others")
    if stale := study.stale():
        print(f"{stale} cells were kept from other code than is here now: --fresh computes them again")


def budget(options: Any) -> float | None:
    """Minutes of --budget-minutes, of any options that have it.

    Raises:
      ValueError: unless a number of at least 0.
    """
    value = options.budget_minutes
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise ValueError(f"--budget-minutes: expected a number of at least 0, got {value}")
    return value
