"""What a comparison says of its methods: intervals and paired differences, rows of a table, what is printed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from data import Simulation, Source
from learners_over_seeds import Judged

from jrouter.inference import percentile_interval
from jrouter.io.results import text_table
from jrouter.metrics import cost_increases
from jrouter.policy import Outcomes
from jrouter.resampling import paired_bootstrap
from jrouter.types import Array

COLUMNS = (
    "table,logging_policy,method,lambda,seed,n_train,n_test,utility,regret,routing_accuracy,score,cost,seconds"
).split(",")


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
