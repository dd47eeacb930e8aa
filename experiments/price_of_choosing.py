"""What does it cost to choose a router on the log that values it? Naive and honest intervals.

    python experiments/price_of_choosing.py                # about 15 minutes on 2 cores; resumes by cells
    python experiments/price_of_choosing.py --smoke        # under 1 minute

Simulated logs of 2,000 rows, 4 models, d = 6, of which everything is known; what is right in itself (doubly robust,
right nuisances) is made wrong by choosing alone. For each way of choosing, two 95% intervals of the value of what
was chosen:

- naive: chosen on all rows, valued on the same rows;
- honest: chosen on the other folds, valued on each (`honest_best`, `cross_fitted_value`), 5 folds;
- split: chosen on half of the rows, valued on the other half (`split_best`; of the rules alone).

Ways: the best of 20 fixed rules that are all about as good; the router of regress_and_compare_ridge; rm_auto. An
interval holds if it has the true value of the very policies it is about: of the naive one the router of all rows, of
the honest one the mean over the folds' routers. Expect naive values too high, and honest intervals that hold.
Writes <name>.json (kept cell by cell), .csv and .png.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from cells import Study, current, select, values_of
from command_line import script
from data import RESULTS

from jrouter.honest_value import fit_without_fold, honest_best, rows_of_fold, split_best
from jrouter.inference import standard_error
from jrouter.io.results import text_table, write_csv
from jrouter.known_worlds import draw_known_log, linear_rule, make_known_world, true_value
from jrouter.methods import METHODS
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.off_policy import fixed_policy_value
from jrouter.policy import Method, Problem
from jrouter.splits import split_log
from jrouter.types import Array, LoggedData

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LAM = jnp.array([200.0])
CONFIG = NuisanceConfig(outcome="ridge")
RULES, N_FOLDS, NORMAL = 20, 5, 1.959964
KINDS = ("naive", "honest", "split")
WAYS = ("best of 20 rules", "regress_and_compare_ridge", "rm_auto")


@dataclass(frozen=True)
class Options:
    """What is simulated."""

    rows: int = 2_000
    """Of a log."""
    logs: int = 200
    """Logs."""
    auto_logs: int = 40
    """Logs for rm_auto: the first of them."""
    budget_minutes: float | None = None
    """Stop between cells once these have passed; run the same command again to go on."""
    fresh: bool = False
    """Forget the cells that an earlier run has kept."""
    name: str = "price_of_choosing"
    """Of the result files."""
    smoke: bool = False
    """Small sizes."""
    out: Path = RESULTS
    """Folder of the result files."""


class Runner:
    """Compiled programs of each way of choosing, of logs of one length.

    Args:
      rows: of a log.
      queries: by which the truth is known.
    """

    def __init__(self, rows: int, queries: int):
        self.rows = rows
        self.world = make_known_world(jax.random.key(20))
        self.rule, self.params = linear_rule(self.world)
        log, _ = draw_known_log(self.world, jax.random.key(0), rows)
        self.outer, self.inner = (
            replace(split_log([log], seeds=[seed], n_folds=N_FOLDS)[0], model_size=rows) for seed in (0, 1)
        )
        self.truth_of = lambda policy, params: _value(
            true_value(self.world, policy, params, LAM, jax.random.key(9), n=queries)
        )
        self._programs = {way: jax.jit(self._way(way)) for way in WAYS}

    def run(self, way: str, log_number: int) -> dict[str, float]:
        """Naive and honest value, error and truth of one log."""
        log, _ = draw_known_log(self.world, jax.random.fold_in(jax.random.key(1), log_number), self.rows)
        return {name: float(value) for name, value in self._programs[way](log).items()}

    def _way(self, way: str) -> Callable[[LoggedData], dict[str, Array]]:
        if way == WAYS[0]:
            return self._best_rule
        return lambda log: self._learner(METHODS[way](), log)

    def _best_rule(self, log: LoggedData) -> dict[str, Array]:
        noise = 0.1 * jax.random.normal(jax.random.key(3), (RULES, *self.params["ability"].shape))
        rules = jax.vmap(lambda noise: self.params | {"ability": self.params["ability"] + noise})(noise)
        value = jax.lax.map(
            lambda params: fixed_policy_value(
                jax.random.key(2), log, self.inner, self.rule, params, LAM, nuisances=CONFIG, refit=False
            ),
            rules,
        )
        truth = jax.lax.map(lambda params: self.truth_of(self.rule, params), rules)
        found = honest_best(value.rows[:, 0], self.outer.fold, n_folds=N_FOLDS)
        share = jnp.bincount(self.outer.fold, length=N_FOLDS) / self.rows
        half = jnp.arange(self.rows) % 2 == 0  # rows are independent: any half is
        chosen, split, split_error = split_best(value.rows[:, 0], half)
        return {
            "split": split,
            "split_error": split_error,
            "split_truth": truth[chosen],
            "naive": value.value[found.best, 0],
            "naive_error": value.error[found.best, 0],
            "naive_truth": truth[found.best],
            "honest": found.value,
            "honest_error": found.error,
            "honest_truth": share @ truth[found.by_fold],
        }

    def _learner(self, method: Method, log: LoggedData) -> dict[str, Array]:
        key = jax.random.key(2)
        problem = Problem(log, self.inner, fit_nuisances(key, log, self.inner, CONFIG), LAM)
        params = method.fit(key, problem)
        naive = fixed_policy_value(key, log, self.inner, method.policy, params, LAM, nuisances=CONFIG, refit=False)

        def of_fold(number):
            estimated, (own,) = fit_without_fold(
                key, log, self.outer, self.inner, [method.fit], LAM, number, nuisances=CONFIG
            )
            places, score, cost = rows_of_fold(log, self.outer, method.policy, own, estimated, LAM, number)
            return places, (score - LAM[:, None] * cost)[0], self.truth_of(method.policy, own)

        places, values, truth = jax.lax.map(of_fold, jnp.arange(N_FOLDS))
        rows = jnp.zeros(self.rows).at[places.ravel()].set(values.ravel(), mode="drop")
        share = jnp.bincount(self.outer.fold, length=N_FOLDS) / self.rows
        return {
            "naive": naive.value[0],
            "naive_error": naive.error[0],
            "naive_truth": self.truth_of(method.policy, params),
            "honest": rows.mean(),
            "honest_error": standard_error(rows),
            "honest_truth": share @ truth,
        }


def _value(parts: tuple[Array, Array]) -> Array:
    return parts[0][0] - LAM[0] * parts[1][0]


def summaries(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each way and interval: logs, bias, coverage with its standard error, and width."""
    cells = [cell for group in groups for cell in group["cells"]]
    found = []
    for way in values_of(cells, "way"):
        mine = select(cells, way=way)
        for kind in KINDS:
            if kind not in mine[0]:
                continue
            value, error, truth = (np.array([cell[kind + end] for cell in mine]) for end in ("", "_error", "_truth"))
            covers = np.abs(value - truth) <= NORMAL * error
            near = (covers.sum() + 2) / (covers.size + 4)
            found.append(
                {
                    "way": way,
                    "interval": kind,
                    "logs": covers.size,
                    "bias": float((value - truth).mean()),
                    "bias_error": float((value - truth).std(ddof=1) / np.sqrt(covers.size)),
                    "coverage": float(covers.mean()),
                    "coverage_error": float(np.sqrt(near * (1 - near) / (covers.size + 4))),
                    "width": float(2 * NORMAL * error.mean()),
                }
            )
    return found


def figure_of(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """Bias and coverage of naive and honest intervals."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 1.6 + 0.6 * len(ways)), sharey=True, layout="constrained")
    colours, markers = ("#D55E00", "#0072B2", "#009E73"), "osD"
    for kind, offset, colour, marker in zip(KINDS, (-0.18, 0.0, 0.18), colours, markers, strict=True):
        mine = [row for row in rows if row["interval"] == kind]
        where = np.array([ways.index(row["way"]) for row in mine]) + offset
        style = {"color": colour, "marker": marker, "linestyle": "none", "label": kind}
        bias, error = (100 * np.array([row[name] for row in mine]) for name in ("bias", "bias_error"))
        axes[0].errorbar(bias, where, xerr=NORMAL * error, **style)
        share, error = (100 * np.array([row[name] for row in mine]) for name in ("coverage", "coverage_error"))
        axes[1].errorbar(share, where, xerr=NORMAL * error, **style)
    axes[0].axvline(0, color="black", linewidth=0.8)
    axes[0].set_xlabel("estimated less true value, x 100")
    axes[1].axvline(95, color="black", linewidth=0.8)
    axes[1].set_xlabel("% of logs whose 95% interval holds the truth")
    axes[0].set_yticks(range(len(ways)), ways)
    axes[0].set_ylim(len(ways) - 0.5, -0.5)
    for axis in axes:
        axis.grid(axis="x", alpha=0.25)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(KINDS), frameon=False)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(options: Options) -> None:
    """Computes missing cells, prints the table, writes it and the figure."""
    if options.smoke:
        options = replace(options, rows=300, logs=3, auto_logs=1)
    study = Study(
        options.out / f"{options.name}.json",
        options=options,
        configuration={"rows": options.rows, "smoke": options.smoke, "rules": RULES, "folds": N_FOLDS},
        digests={"known_worlds": None},
        fresh=options.fresh,
    )
    runner = Runner(options.rows, 2**12 if options.smoke else 2**17)
    keys = [
        {"table": "known_worlds", "way": way, "log": number}
        for way in WAYS
        for number in range(options.auto_logs if way == "rm_auto" else options.logs)
    ]
    work = dict(zip(WAYS, (1.0, 1.0, 20.0), strict=True))
    for key in study.missing(keys, budget_minutes=options.budget_minutes, work=lambda key: work[key["way"]]):
        study.keep(key, runner.run(key["way"], key["log"]))
    study.save()
    rows = summaries(current(study.path))
    columns = list(rows[0])
    shown = [[f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    print(text_table(columns, shown))
    write_csv(options.out / f"{options.name}.csv", columns, [list(row.values()) for row in rows])
    figure_of(rows, options.out / f"{options.name}.png")


if __name__ == "__main__":
    script(main, Options, __doc__)
