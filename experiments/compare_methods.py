"""Which learner makes the best router from a biased log? All of them, on one log, judged by the truth.

    python experiments/compare_methods.py                        # synthetic, 3 minutes on 2 cores
    python experiments/compare_methods.py --smoke                # a small version, under 1 minute
    python experiments/compare_methods.py --table table.parquet --logging-policy predicted_accuracy --seeds 5

A log is simulated per seed: one model per query, chosen by the logging policy. Every method learns from
it (those marked * have full feedback, as no log has: references) and is judged on queries never logged,
by every model's outcome. Prints mean utility x 100 with 95% intervals over test queries and log seeds;
writes <out>/<name>.json, .csv, _utility.png and _frontier.png.

Expect regression rules to win where the truth is simple (regime linear) and regret training to beat the
naive baselines everywhere; the table shows who loses to whom.
"""

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from baselines import BASELINES
from command_line import script
from data import (
    DataOptions,
    Simulation,
    Source,
    compiler_options,
    logging_names,
    parse_lambdas,
    seed_keys,
    simulate,
    smoke_size,
    sources,
)
from figures import score_against_cost, utility_over_lambda
from learners import NAMED, evaluate_method
from tqdm import tqdm

from jrouter.inference import percentile_interval
from jrouter.io.results import text_table, write_csv, write_json
from jrouter.methods import METHODS
from jrouter.metrics import cost_increases, decide, utility
from jrouter.policy import Outcomes, judge
from jrouter.resampling import paired_bootstrap
from jrouter.sweep import over_seeds
from jrouter.types import Array

REFERENCES = ("logging_policy", "oracle")
"""Not learned here: probabilities [n, T] of the simulation and of hindsight."""
LEARNED = tuple(name for name in METHODS if name not in REFERENCES)
PARTS = (
    "regress_and_compare_stacked",
    "regress_and_compare_stacked_ipw",
    "rm_residual",
    "rm_conditioned",
    "linucb_lower",
)
"""Left out by default, to keep the first command short."""
COLUMNS = (
    "table,logging_policy,method,lambda,seed,n_train,n_test,utility,regret,routing_accuracy,score,cost,seconds"
).split(",")


@dataclass(frozen=True)
class Options(DataOptions):
    """Which methods, beside what every experiment takes."""

    methods: str = "default"
    """default (all but what rm_auto is made of), all, or comma-separated names, of experiments/baselines too."""
    name: str = "compare_methods"
    """Of the result files."""


class Judged(NamedTuple):
    """A method's results: outcomes [S, L, n_test], shares [S, L, T], seconds per seed, full feedback or not."""

    outcomes: Outcomes
    shares: np.ndarray
    seconds: float
    full_feedback: bool


def chosen_methods(text: str) -> list[str]:
    """Names of --methods, in the table's order.

    Raises:
      ValueError: for an unknown name.
    """
    package = [*LEARNED, *REFERENCES]
    known = [*LEARNED, *BASELINES, *REFERENCES]
    asked = {"all": package, "default": [name for name in package if name not in PARTS]}.get(
        text, [name.strip() for name in text.split(",")]
    )
    for name in asked:
        if name not in known:
            raise ValueError(f"--methods: unknown {name!r}, expected one of {', '.join(known)}")
    return [name for name in known if name in asked]


def compile_learner(name: str, source: Source, simulation: Simulation, *, fast: bool) -> Any:
    """One program that fits a method on every seed's log and judges it on the test queries.

    Args:
      name: of the method.
      source: test queries.
      simulation: stacked problems.
      fast: compile in half the time to slower code, which pays for small sizes.
    """
    method = NAMED[name]()
    at_once = 1 if jax.default_backend() == "cpu" else simulation.logging_test.shape[0]

    def fit_and_judge(keys, problems, test):
        def one(key, problem):
            return evaluate_method(method, method.fit(key, problem), test, problem.lambdas)

        return over_seeds(one, at_once=at_once)(keys, problems)

    return (
        jax.jit(fit_and_judge, compiler_options=compiler_options(fast)).lower(*_operands(source, simulation)).compile()
    )


def _operands(source: Source, simulation: Simulation) -> tuple:
    # The same keys for every method: what differs between two of them is not their luck.
    return seed_keys(simulation.logging_test.shape[0], "learners"), simulation.problems, source.test


def run_learner(program: Any, name: str, source: Source, simulation: Simulation) -> Judged:
    """Runs a compiled method."""
    start = time.perf_counter()
    outcomes, shares = jax.block_until_ready(program(*_operands(source, simulation)))
    seconds = (time.perf_counter() - start) / simulation.logging_test.shape[0]
    full_feedback = NAMED[name]().full_feedback
    return Judged(jax.tree.map(np.asarray, outcomes), np.asarray(shares), seconds, full_feedback)


def run_reference(name: str, source: Source, simulation: Simulation) -> Judged:
    """Judges choices that are known as probabilities: the logging policy's, or hindsight's."""
    test, lambdas = source.test, simulation.lambdas
    n_seeds = simulation.logging_test.shape[0]

    @jax.jit
    def of_query(score, cost, logging):
        if name == "oracle":
            probability = jax.vmap(lambda lam: decide(utility(score, cost, lam)))(lambdas)
        else:
            probability = jnp.broadcast_to(logging, (lambdas.shape[0], *logging.shape))
        return judge(probability, score, cost, lambdas), probability

    by_query = jax.vmap(of_query)
    start = time.perf_counter()
    each = [by_query(test.true_score, test.true_cost, simulation.logging_test[seed]) for seed in range(n_seeds)]
    outcomes = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf).T for leaf in leaves]), *[o for o, _ in each])
    shares = np.stack([np.asarray(probability.mean(axis=0)) for _, probability in each])
    return Judged(outcomes, shares, (time.perf_counter() - start) / n_seeds, name == "oracle")


def run_setting(
    source: Source, simulation: Simulation, methods: list[str], *, fast: bool, note: Callable[[str], None]
) -> dict[str, Judged]:
    """All methods on one source and logging policy.

    Each is run as soon as it is compiled, beside the compilation of others: that fills all cores, and
    makes the seconds of a run no benchmark. Two names of one estimator are run once.
    """

    def estimator(name: str) -> tuple:
        method = NAMED[name]()
        return method.fit.__qualname__, method.config

    first_with = {}
    for name in methods:
        if name not in REFERENCES:
            first_with.setdefault(estimator(name), name)
    # The last take longest, so they go first and no core waits for one of them alone.
    longest_first = list(reversed(first_with.values()))
    found = {}
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        waiting = {pool.submit(compile_learner, name, source, simulation, fast=fast): name for name in longest_first}
        for done in as_completed(waiting):
            # Popped, so that a program is freed once it has run.
            name = waiting.pop(done)
            note(f"compiled {name}")
            found[name] = run_learner(done.result(), name, source, simulation)
            note(f"ran {name}")
    judged = {}
    for name in methods:
        if name in REFERENCES:
            judged[name] = run_reference(name, source, simulation)
        else:
            judged[name] = found[first_with[estimator(name)]]
    return judged


def intervals(judged: dict[str, Judged], n_resamples: int = 1000) -> dict[str, Any]:
    """Intervals of every metric, over test queries and seeds, and of paired differences in utility.

    Returns:
      {metric: {method: Interval [L + 1]}}, the last entry the mean over lambdas, and
      "differences": {first: {second: Interval [L + 1]}} of the regret-trained methods to all others.
    """
    key = jax.random.key(2)
    names = list(judged)

    def with_mean(values: Array) -> Array:
        return jnp.concatenate([values, values.mean(axis=-1, keepdims=True)], axis=-1)

    result: dict[str, Any] = {}
    for metric in Outcomes._fields:
        values = np.stack([getattr(judged[name].outcomes, metric) for name in names], axis=1)  # [S, M, L, n]
        n_seeds, n_methods, n_lambdas, n_test = values.shape
        flat = jnp.asarray(values.reshape(n_seeds, -1, n_test).swapaxes(1, 2))
        # The same key for every metric: resamples are shared throughout.
        resamples = paired_bootstrap(key, flat, n_resamples=n_resamples).reshape(-1, n_methods, n_lambdas)
        resamples, estimate = with_mean(resamples), with_mean(jnp.asarray(values.mean(axis=(0, 3))))
        result[metric] = {
            name: percentile_interval(estimate[place], resamples[:, place]) for place, name in enumerate(names)
        }
        if metric == "utility":
            result["differences"] = {
                first: {
                    second: percentile_interval(estimate[a] - estimate[b], resamples[:, a] - resamples[:, b])
                    for b, second in enumerate(names)
                    if second != first
                }
                for a, first in enumerate(names)
                if first.startswith("rm_")
            }
    return result


def summarise(source: Source, policy: str, simulation: Simulation, judged: dict[str, Judged]) -> dict[str, Any]:
    """What the JSON holds for one setting."""
    found = intervals(judged)

    def named(interval):
        return {"estimate": interval.estimate[:-1], "low": interval.low[:-1], "high": interval.high[:-1]}

    def mean(interval):
        return {"estimate": interval.estimate[-1], "low": interval.low[-1], "high": interval.high[-1]}

    methods = {}
    for name, one in judged.items():
        cost = one.outcomes.cost.mean(axis=-1)  # [S, L]
        methods[name] = {metric: named(found[metric][name]) for metric in Outcomes._fields} | {
            "mean_over_lambdas": {metric: mean(found[metric][name]) for metric in Outcomes._fields},
            "shares": one.shares.mean(axis=0),
            "cost_increases": [int(cost_increases(row, tolerance=1e-6 * row.max())) for row in jnp.asarray(cost)],
            "seconds": one.seconds,
            "full_feedback": one.full_feedback,
        }
    test = source.test
    return {
        "table": source.name,
        "sha256": source.sha256,
        "logging_policy": policy,
        "n_train": simulation.problems.log.model.shape[1],
        "n_test": test.score.shape[0],
        "model_names": list(test.models),
        "cost_unit": test.cost_unit,
        "lambdas": simulation.lambdas,
        "single_models": {"score": test.true_score.mean(axis=0), "cost": test.true_cost.mean(axis=0)},
        "methods": methods,
        "differences": {
            first: {second: named(interval) | {"mean_over_lambdas": mean(interval)} for second, interval in row.items()}
            for first, row in found["differences"].items()
        },
    }


def csv_rows(setting: dict[str, Any], judged: dict[str, Judged]) -> list[list[Any]]:
    """One row per method, lambda and seed."""
    rows = []
    for name, one in judged.items():
        means = {metric: getattr(one.outcomes, metric).mean(axis=-1) for metric in Outcomes._fields}
        for place, lam in enumerate(np.asarray(setting["lambdas"])):
            for seed in range(one.shares.shape[0]):
                head = [setting["table"], setting["logging_policy"], name, float(lam), seed]
                values = [float(means[metric][seed, place]) for metric in COLUMNS[7:12]]
                rows.append([*head, setting["n_train"], setting["n_test"], *values, one.seconds])
    return rows


def print_setting(setting: dict[str, Any]) -> None:
    """The table method x lambda: utility x 100, and half the width of its interval."""
    lambdas = np.asarray(setting["lambdas"])
    print(
        f"\n{setting['table']}, {setting['logging_policy']} logging: {setting['n_train']} logged rows, "
        f"{setting['n_test']} test queries, {len(setting['model_names'])} models\n"
        f"mean test utility x 100 (± half of the 95% interval) by lambda, score per {setting['cost_unit']}; "
        "* has full feedback or hindsight"
    )

    def cell(estimate, low, high):
        return f"{100 * float(estimate):.1f}±{50 * float(high - low):.1f}"

    rows = []
    for name, method in setting["methods"].items():
        mean, at = method["mean_over_lambdas"]["utility"], method["utility"]
        cells = [cell(at["estimate"][i], at["low"][i], at["high"][i]) for i in range(len(lambdas))]
        star = "*" if method["full_feedback"] else ""
        rows.append([name + star, cell(mean["estimate"], mean["low"], mean["high"]), *cells])
    print(text_table(["method", "mean", *[f"{lam:.4g}" for lam in lambdas]], rows))
    for first, others in setting["differences"].items():
        if first != "rm_softmax":
            continue
        wins, losses = [], []
        for second, interval in others.items():
            mean = interval["mean_over_lambdas"]
            (wins if mean["low"] > 0 else losses if mean["high"] < 0 else []).append(second)
        print(f"rm_softmax, mean over lambdas: better than {', '.join(wins) or 'none'}")
        print(f"{' ' * 10}  worse than {', '.join(losses) or 'none'}; undecided against the rest")


def main(options: Options) -> None:
    """Runs the comparison and writes its files."""
    options = smoke_size(options)
    methods = chosen_methods(options.methods)
    policies = logging_names(options)
    parse_lambdas(options.lambdas)
    found = sources(options)
    settings, rows = [], []
    steps = len(found) * len(policies) * (2 * len(methods) + 1)
    with tqdm(total=steps, unit="step", dynamic_ncols=True, mininterval=0.5) as progress:

        def note(text: str) -> None:
            progress.set_postfix_str(text, refresh=False)
            progress.update()

        for source in found:
            for policy in policies:
                simulation = simulate(source, policy, options)
                note(f"{source.name}, {policy}: nuisances")
                judged = run_setting(source, simulation, methods, fast=options.smoke, note=note)
                settings.append(summarise(source, policy, simulation, judged))
                rows += csv_rows(settings[-1], judged)
        progress.total = progress.n  # what two names share was done once
        progress.refresh()
    for setting in settings:
        print_setting(setting)
    result = options.out / f"{options.name}.json"
    write_json(result, options=options, results=settings)
    write_csv(result.with_suffix(".csv"), COLUMNS, rows)
    utility_over_lambda(result, options.out / f"{options.name}_utility.png")
    score_against_cost(result, options.out / f"{options.name}_frontier.png")
    print(f"\nwrote {options.name}.json, .csv, _utility.png and _frontier.png to {options.out}")
    assert not any(math.isnan(value) for row in rows for value in row[7:]), "a result is not a number"


if __name__ == "__main__":
    script(main, Options, __doc__)
