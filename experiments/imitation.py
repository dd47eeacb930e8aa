"""What does a routing library learn from a log that it takes for full feedback?

    python experiments/imitation.py                       # specialists and linear, 13 minutes on one core
    python experiments/imitation.py --smoke               # a small version, under 1 minute
    python experiments/imitation.py --table table.parquet --logging-policy predicted_accuracy

Libraries that expect every model's answer to every query label a query with the best model among its rows, and
train a classifier on these labels (`baselines/imitation.py`). A log has one row a query. imitation_knn and
imitation_mlp do with it what such a library does; rm_auto (the default here) and best_single learn from the same
rows. logging_policy is the policy that wrote the log, and logging_most_probable its most probable model, always.

All are judged on queries never logged, by every model's mean outcome. Prints mean utility x 100 by lambda with 95%
intervals over test queries and log seeds; then the share of training labels that are the logged model, the share
of test choices that are the logging policy's most probable model, and utility less that of this model. Writes
<name>.json, .csv (as compare_methods) and .png.

Expect 100% of labels to be the logged model, and routers worth about what the logging policy is worth: the MLP,
trained for as long as the library trains it, as much as its draws at every lambda; the vote somewhat more or less.
Neither hears of lambda. rm_auto is far above both. It may agree with the old policy more often than they do, where
that policy sought good answers: agreement alone does not tell imitation from being right.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from baselines.imitation import labels
from command_line import script
from comparison_results import COLUMNS, csv_rows, print_setting, summarise
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
from known_methods import REFERENCES, chosen_methods
from learners import NAMED
from learners_over_seeds import Judged, run_reference
from one_log import lambdas_of
from tqdm import tqdm

from jrouter.inference import percentile_interval
from jrouter.io.results import text_table, write_csv, write_json
from jrouter.metrics import decide
from jrouter.policy import choice_outcomes, evaluate
from jrouter.resampling import paired_bootstrap
from jrouter.sweep import over_seeds
from jrouter.types import Array

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DRAWS, MOST_PROBABLE = "logging_policy", "logging_most_probable"
DEFAULT = "imitation_knn,imitation_mlp,best_single,rm_auto"
N_LAMBDAS = 4
STYLES = {
    "imitation_knn": ("#D55E00", "-", "v", "imitation, kNN"),
    "imitation_mlp": ("#E69F00", "-", "^", "imitation, MLP"),
    DRAWS: ("#999999", ":", "x", "logging policy, as it draws"),
    MOST_PROBABLE: ("#56B4E9", "--", "s", "logging policy, most probable model"),
    "best_single": ("#009E73", "-.", "D", "best single model"),
    "rm_auto": ("#0072B2", "-", "o", "rm_auto, the default"),
}
"""Okabe and Ito's colours and grey, dashes, markers and labels."""


@dataclass(frozen=True)
class Options(DataOptions):
    """Which methods, beside what every experiment takes."""

    regime: str = "specialists,linear"
    """Synthetic regime(s), comma-separated."""
    seeds: int = 5
    """Log seeds 0..N-1."""
    n: int = 20_000
    """Logged rows of a synthetic benchmark."""
    methods: str = DEFAULT
    """Comma-separated names, of experiments/baselines too; the logging policy is always there."""
    name: str = "imitation"
    """Of the result files."""


def run_learner(name: str, source: Source, simulation: Simulation, *, fast: bool) -> tuple[Judged, np.ndarray]:
    """Fits a method on every seed's log.

    Returns:
      What it is worth on the test queries; and [S, L, n_test], the probability that it chooses the logging
      policy's most probable model.
    """
    method, test = NAMED[name](), source.test
    x = test.x
    assert x is not None, "routers read embeddings"
    most_probable = jax.vmap(jax.vmap(decide))(simulation.logging_test)

    def fit_and_judge(keys, problems, most_probable):
        def one(key, operands):
            problem, of_test = operands
            params = method.fit(key, problem)
            outcomes, shares = evaluate(method.policy, params, test, problem.lambdas)
            # Agreement is the score of a test in which the old policy's favourite earns 1.
            agreement, _ = choice_outcomes(method.policy, params, x, of_test, of_test, problem.lambdas)
            return outcomes, shares, agreement

        return over_seeds(one)(keys, (problems, most_probable))

    jitted = jax.jit(fit_and_judge, compiler_options=compiler_options(fast))
    keys = seed_keys(most_probable.shape[0], "learners")
    outcomes, shares, agreement = jax.tree.map(np.asarray, jitted(keys, simulation.problems, most_probable))
    return Judged(outcomes, shares, 0.0, method.full_feedback), agreement


def run_logging(source: Source, simulation: Simulation) -> tuple[dict[str, Judged], dict[str, np.ndarray]]:
    """The logging policy as it draws, and its most probable model, as of `run_learner`."""
    most_probable = simulation._replace(logging_test=jax.vmap(jax.vmap(decide))(simulation.logging_test))
    judged = {
        DRAWS: run_reference(DRAWS, source, simulation),
        MOST_PROBABLE: run_reference(DRAWS, source, most_probable),
    }
    drawn = np.asarray(simulation.logging_test.max(axis=-1))[:, None]
    shape = judged[DRAWS].outcomes.utility.shape
    return judged, {DRAWS: np.broadcast_to(drawn, shape), MOST_PROBABLE: np.ones(shape, np.float32)}


def beside_logging(judged: Mapping[str, Judged], agreement: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Of each method: agreement with the logging policy's most probable model, and utility less its utility.

    Means over lambdas and test queries, with 95% intervals over queries and seeds; differences are paired.
    """
    names = list(judged)
    values = [agreement[name].mean(axis=1) for name in names]
    values += [judged[name].outcomes.utility.mean(axis=1) for name in names]
    columns = jnp.asarray(np.stack(values, axis=-1))  # [S, n_test, 2 M]
    resamples = paired_bootstrap(jax.random.key(3), columns)
    estimate = columns.mean(axis=(0, 1))
    reference = len(names) + names.index(MOST_PROBABLE)
    found = {}
    for place, name in enumerate(names):
        ours = len(names) + place
        gain = percentile_interval(
            estimate[ours] - estimate[reference], resamples[:, ours] - resamples[:, reference]
        )._asdict()
        found[name] = {
            "agreement": percentile_interval(estimate[place], resamples[:, place])._asdict(),
            "gain": gain,
        }
    return found


def labels_logged(simulation: Simulation) -> Array:
    """[S], share of a log's rows whose query is labelled with the model that was logged there."""
    logs = simulation.problems.log
    return (jax.jit(jax.vmap(labels))(logs) == logs.model).mean(axis=1)


def run_setting(source: Source, policy: str, options: Options, progress: tqdm) -> tuple[dict[str, Any], list]:
    """What the JSON and the CSV hold for one table and logging policy."""
    lambdas = lambdas_of(source, policy, options, size=N_LAMBDAS)
    asked = ",".join(f"{lam:.6g}" for lam in np.asarray(lambdas))
    progress.set_postfix_str(f"{source.name}, {policy}: logs and nuisances")
    simulation = simulate(source, policy, replace(options, lambdas=asked), keep_full=False)
    judged, agreement = run_logging(source, simulation)
    for name in chosen_methods(options.methods):
        progress.set_postfix_str(f"{source.name}, {policy}: {name}")
        judged[name], agreement[name] = run_learner(name, source, simulation, fast=options.smoke)
        progress.update()
    order = [name for name in STYLES if name in judged]
    judged = {name: judged[name] for name in [*order, *(name for name in judged if name not in order)]}
    setting = summarise(source, policy, simulation, judged)
    setting["labels_logged"] = labels_logged(simulation)
    setting["beside_logging"] = beside_logging(judged, agreement)
    return setting, csv_rows(setting, judged)


def print_agreement(setting: Mapping[str, Any]) -> None:
    """The table of labels, agreement and value, of one setting."""
    share = 100 * float(np.mean(setting["labels_logged"]))
    chance = 100 / len(setting["model_names"])
    print(f"\ntraining labels that are the logged model: {share:.1f}%; chance of agreeing: {chance:.1f}%")
    rows = []
    for name, one in setting["beside_logging"].items():
        agrees, gain = ({end: 100 * float(one[part][end]) for end in one[part]} for part in ("agreement", "gain"))
        rows.append(
            [
                name,
                f"{agrees['estimate']:.1f} [{agrees['low']:.1f}, {agrees['high']:.1f}]",
                f"{gain['estimate']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]",
            ]
        )
    print(text_table(["method", "% of test choices the policy's most probable", f"utility less {MOST_PROBABLE}"], rows))


def figure_of(result: Path, out: Path) -> None:
    """Utility over lambda, and agreement with the logging policy, by setting; from the file alone."""
    settings = json.loads(result.read_text())["results"]
    figure, axes = plt.subplots(
        len(settings), 2, figsize=(11, 3.6 * len(settings)), squeeze=False, layout="constrained"
    )
    for (left, right), setting in zip(axes, settings, strict=True):
        names = [name for name in STYLES if name in setting["methods"]]
        places = np.arange(len(setting["lambdas"]))
        for name in names:
            colour, line, marker, label = STYLES[name]
            values = {end: 100 * np.array(cell) for end, cell in setting["methods"][name]["utility"].items()}
            left.plot(places, values["estimate"], color=colour, linestyle=line, marker=marker, label=label)
            left.fill_between(places, values["low"], values["high"], color=colour, alpha=0.15, linewidth=0)
        left.set_xticks(places, [f"{lam:.3g}" if lam < 100 else f"{lam:,.0f}" for lam in setting["lambdas"]])
        left.set_xlabel(f"lambda (score per {setting['cost_unit']}), not to scale")
        left.set_ylabel("mean test utility x 100")
        left.set_title(f"{setting['table']}, {setting['logging_policy']} logging", fontsize=10)
        bars(right, setting, names)
        for axis in (left, right):
            axis.grid(alpha=0.25, axis="both" if axis is left else "x")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(out, dpi=130)
    plt.close(figure)


def bars(axis: Any, setting: Mapping[str, Any], names: Sequence[str]) -> None:
    """Share of test choices that are the logging policy's most probable model."""
    for place, name in enumerate(names):
        cell = {end: 100 * value for end, value in setting["beside_logging"][name]["agreement"].items()}
        # Rounded in the file: an interval without width may end a hair on the wrong side.
        ends = np.maximum([[cell["estimate"] - cell["low"]], [cell["high"] - cell["estimate"]]], 0.0)
        axis.barh(place, cell["estimate"], xerr=ends, color=STYLES[name][0], height=0.7, error_kw={"linewidth": 1})
        axis.text(cell["high"] + 1, place, f"{cell['estimate']:.0f}", va="center", fontsize=9)
    axis.axvline(100 / len(setting["model_names"]), color="black", linewidth=0.8, linestyle="--")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlim(0, 108)
    axis.set_xlabel("% of choices that are the logging policy's\nmost probable model (dashes: chance)")


def main(options: Options) -> None:
    """Runs the experiment and writes its files."""
    if options.smoke:
        options = replace(smoke_size(options), seeds=2, regime=options.regime.split(",")[0])
    methods, policies = chosen_methods(options.methods), logging_names(options)
    if taken := [name for name in methods if name in REFERENCES]:
        raise ValueError(f"--methods: {taken[0]!r} learns nothing here; expected methods that learn from a log")
    parse_lambdas(options.lambdas)
    found = sources(options)
    settings, rows = [], []
    with tqdm(total=len(found) * len(policies) * len(methods), unit="method", dynamic_ncols=True) as progress:
        for source in found:
            for policy in policies:
                setting, more = run_setting(source, policy, options, progress)
                settings.append(setting)
                rows += more
    result = options.out / f"{options.name}.json"
    write_json(result, options=options, results=settings)
    for setting in json.loads(result.read_text())["results"]:
        print_setting(setting)
        print_agreement(setting)
    write_csv(result.with_suffix(".csv"), COLUMNS, rows)
    figure_of(result, result.with_suffix(".png"))
    print(f"\nwrote {options.name}.json, .csv and .png to {options.out}")


if __name__ == "__main__":
    script(main, Options, __doc__)
