"""What the studies share: their flags, one log of one seed, and one method fitted on it and judged."""

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from cells import Estimate, Key, Study, current, identity, over_seeds, select, values_of
from compare_methods import chosen_methods
from data import DataOptions, Source, compiler_options, logging_rule, parse_lambdas, seed_keys, smoke_size
from report import text_table, write_csv

from jrouter.inference import standard_error
from jrouter.interval import lambda_grid
from jrouter.io.columns import DataError
from jrouter.logging_policies import LoggingPolicy, simulate_log
from jrouter.methods import METHODS
from jrouter.metrics import decide, utility
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.policy import Method, Outcomes, Problem, evaluate, judge
from jrouter.splits import Split, split_log
from jrouter.types import Array, BenchmarkTable, LoggedData, Nuisances, take_rows

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
        return shared | {"sha256": found[0].sha256, "embedding": options.embedding} | more
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


class OneLog(NamedTuple):
    """A simulated log and what is known of it.

    Attributes:
      log: m rows.
      split: of them.
      full: every model's outcome on these rows, for references with full feedback.
      rows: [m], their places in the table that was logged.
      true_propensity: [m, T].
      logging_test: [n_test, T], probabilities of the logging policy on the test queries.
    """

    log: LoggedData
    split: Split
    full: BenchmarkTable
    rows: Array
    true_propensity: Array
    logging_test: Array


def draw_log(
    logged: BenchmarkTable,
    test: BenchmarkTable,
    rule: LoggingPolicy,
    seed: int,
    *,
    rows: np.ndarray | None = None,
    roomy: bool = False,
) -> OneLog:
    """Simulates the log of one seed: the same whichever other seeds are run.

    Args:
      logged: queries.
      test: queries that judge; the logging policy is made on both.
      rule: the logging policy.
      seed: of the draws and of the split.
      rows: the queries that are logged, or None for all.
      roomy: room for all rows of one model, so that any logging policy of them shares the programs.
    """
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), replace(logged, group=None), replace(test, group=None))
    probability = rule.probabilities(both)
    keep = None if rule.keep is None else rule.keep(both)
    n = logged.score.shape[0]
    chosen = np.arange(n) if rows is None else rows
    picked = take_rows(logged, chosen)
    log, true, kept = simulate_log(jax.random.key(seed), picked, probability[:n][chosen], keep)
    if keep is not None:
        # A few rows less, so that the logs of most seeds are of one length and share their programs.
        step = max(1, len(chosen) // 50)
        size = jnp.arange(max(step, kept.shape[0] // step * step))
        log, true, kept = take_rows(log, size), true[size], kept[size]
    of_test = probability[n:]
    if keep is not None:
        of_test = of_test * keep / (of_test * keep).sum(axis=1, keepdims=True)
    split = with_room(split_log([log], seeds=[seed])[0], n_rows=log.model.shape[0])
    if roomy:
        split = replace(split, model_size=log.model.shape[0])
    full = replace(take_rows(picked, kept), x=None)
    return OneLog(log, split, full, jnp.asarray(chosen)[kept], true, of_test)


def with_room(split: Split, *, n_rows: int) -> Split:
    """The split with its static sizes rounded up, so that other seeds share the compiled programs."""

    def up(size: int, step: int) -> int:
        return min(-(-size // step) * step, n_rows)

    def padded(rows, weight):
        spare = max(0, up(rows.shape[0], 16) - rows.shape[0])
        return jnp.pad(rows, (0, spare)), jnp.pad(weight, (0, spare))

    train, train_weight = padded(split.train, split.train_weight)
    valid, valid_weight = padded(split.valid, split.valid_weight)
    return replace(
        split,
        train=train,
        train_weight=train_weight,
        valid=valid,
        valid_weight=valid_weight,
        fold_size=up(split.fold_size, 16),
        model_size=up(split.model_size, max(1, n_rows // 16)),
    )


def lambdas_of(source: Source, policy: str, options: DataOptions, *, size: int = 6) -> Array:
    """Lambdas of --lambdas; auto looks at the log of seed 0, and is then the same for every seed.

    Raises:
      ValueError: for text that is no list of lambdas.
    """
    given = parse_lambdas(options.lambdas)
    if given is not None:
        return given
    log = draw_log(source.draw(0), source.test, logging_rule(policy, *source.confounded), 0).log
    return lambda_grid(log, size=3 if options.smoke else size)


@cache
def _nuisance_program(config: NuisanceConfig, fast: bool) -> Callable:
    return jax.jit(
        lambda key, log, split: fit_nuisances(key, log, split, config), compiler_options=compiler_options(fast)
    )


def estimate_nuisances(seed: int, log: LoggedData, split: Split, config: NuisanceConfig, *, fast: bool) -> Nuisances:
    """Nuisances of one log, by a program that seeds and variants share."""
    return _nuisance_program(config, fast)(key_of(seed, "nuisances"), log, split)


def key_of(seed: int, use: str) -> Array:
    """The key of one seed, whichever other seeds are run."""
    return seed_keys(seed + 1, use)[seed]


class Setting(NamedTuple):
    """What the methods of a cell learn from and are judged on; logging_test [n_test, T]."""

    problem: Problem
    test: BenchmarkTable
    logging_test: Array


@dataclass
class Learners:
    """Methods by name, and their compiled programs, one per method and shape of the data.

    Attributes:
      methods: name -> method, beside those of the package.
      fast: compile in half the time to slower code.
    """

    methods: Mapping[str, Callable[[], Method]] = field(default_factory=dict)
    fast: bool = False
    _programs: dict = field(default_factory=dict)

    def run(self, name: str, seed: int, setting: Setting) -> tuple[Outcomes, float]:
        """Outcomes [L, n_test] of a method, and the seconds that its fit and judgement took."""
        program, operands = self._compiled(name, seed, setting)
        start = time.perf_counter()
        outcomes = jax.block_until_ready(program(*operands))
        return jax.tree.map(np.asarray, outcomes), time.perf_counter() - start

    def compile(self, names: Sequence[str], seed: int, setting: Setting) -> None:
        """Compiles several methods at once, on all cores."""
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(lambda name: self._compiled(name, seed, setting), names))

    def _compiled(self, name: str, seed: int, setting: Setting) -> tuple[Any, tuple]:
        """The program of a method, and its operands."""
        if name in ("logging_policy", "oracle"):
            operands = (setting.logging_test, setting.test, setting.problem.lambdas)
            return self.program(name, _judge_hindsight if name == "oracle" else _judge_choices, operands), operands
        method = {**METHODS, **self.methods}[name]()

        def fit_and_judge(key, problem, test):
            return evaluate(method.policy, method.fit(key, problem), test, problem.lambdas)[0]

        operands = (key_of(seed, "learners"), setting.problem, setting.test)
        return self.program(name, fit_and_judge, operands), operands

    def program(self, name: str, function: Callable, operands: tuple) -> Any:
        """`function` compiled for operands of these shapes, once under one name."""
        shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(operands))
        signature = (name, jax.tree.structure(operands), shapes)
        if signature not in self._programs:
            jitted = jax.jit(function, compiler_options=compiler_options(self.fast))
            self._programs[signature] = jitted.lower(*operands).compile()
        return self._programs[signature]


def _judge_choices(probability: Array, test: BenchmarkTable, lambdas: Array) -> Outcomes:
    def one(probability, score, cost):
        return judge(jnp.broadcast_to(probability, (lambdas.shape[0], score.shape[0])), score, cost, lambdas)

    return jax.tree.map(jnp.transpose, jax.vmap(one)(probability, test.true_score, test.true_cost))


def _judge_hindsight(probability: Array, test: BenchmarkTable, lambdas: Array) -> Outcomes:
    del probability

    def one(score, cost):
        best = jax.vmap(lambda lam: decide(utility(score, cost, lam)))(lambdas)
        return judge(best, score, cost, lambdas)

    return jax.tree.map(jnp.transpose, jax.vmap(one)(test.true_score, test.true_cost))


def paired(ours: np.ndarray, theirs: np.ndarray | float, group: Array | None) -> dict[str, Any]:
    """Mean of a difference in utility [L, n], per lambda and over them, with errors over test queries."""
    difference = jnp.asarray(ours - theirs)
    both = jnp.concatenate([difference, difference.mean(axis=0, keepdims=True)])
    mean, error = np.asarray(both.mean(axis=1)), np.asarray(standard_error(both, group=group))
    return {"estimate": mean[:-1], "error": error[:-1], "mean": mean[-1], "mean_error": error[-1]}


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
        study.keep(
            key,
            {
                "n_train": setting.problem.log.model.shape[0],
                "n_test": ours.shape[1],
                "dim": setting.problem.log.x.shape[1],
                "lambdas": setting.problem.lambdas,
                **{metric: getattr(means, metric) for metric in METRICS},
                "error": {"utility": paired(ours, 0.0, group)["mean_error"]},
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
    done = sum(study.cell(key) is not None for key in keys)
    if done:
        write_cells(study.path)
        draw(study.path, study.path.with_suffix(".png"))
        print(f"\nwrote {study.path.stem}.json, .csv and .png to {study.path.parent}")
    if done < len(keys):
        print(f"{done} of {len(keys)} cells are done: run the same command again for the others")
    if stale := study.stale():
        print(f"{stale} cells were kept from other code than is here now: --fresh computes them again")
    return done > 0


def script(main: Callable[[Any], None], options: type, doc: str | None) -> None:
    """Runs a script from the command line; what it is asked wrongly ends in one line."""
    try:
        main(tyro.cli(options, description=doc))
    except (DataError, ValueError) as error:
        sys.exit(f"error: {error}")


def budget(options: StudyOptions) -> float | None:
    """Minutes of --budget-minutes.

    Raises:
      ValueError: unless a number of at least 0.
    """
    value = options.budget_minutes
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise ValueError(f"--budget-minutes: expected a number of at least 0, got {value}")
    return value
