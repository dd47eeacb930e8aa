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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from cells import Key, Study, identity
from command_line import script
from data import logging_names, sources
from judgement import AUTO, COMPARATORS, cells_of, print_judgement
from learners import Learners, Setting, paired
from one_log import key_of
from studies import METRICS, StudyOptions, budget, finish, logged_settings, method_names, smaller
from study_figures import judge_figure

from jrouter.methods import METHODS
from jrouter.policy import Outcomes, evaluate
from jrouter.synthetic import REGIMES

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
        program = self.program(AUTO, fit_and_judge, operands)
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
        join=options.join,
    )
    ledger.asked = tuple(name for name in methods if name != AUTO)
    keys: list[Key] = [
        {"table": table, "logging_policy": policy, "n": rows[table], "seed": seed, "method": method}
        for table in found
        for policy in policies
        for seed in range(options.seeds)
        for method in methods
    ]

    def work(key: Key) -> float:
        # rm_auto fits everything again in each fold.
        return 10.0 if key["method"] == AUTO else 1.0

    setting_of = logged_settings(found, options)
    run(ledger, keys, setting_of, Judges(fast=options.smoke), budget_minutes=minutes, work=work)
    if finish(ledger, keys, lambda path, out: judge_figure(cells_of(path), out)):
        print_judgement(path)


if __name__ == "__main__":
    script(main, Options, __doc__)
