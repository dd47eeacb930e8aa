"""Does a router trained at the ends of a lambda interval serve what lies inside?

    python experiments/interval_generalization.py            # about 5 minutes on 2 cores
    python experiments/interval_generalization.py --smoke

rm_interval with knots 100, 250 and 1,000 apart on lambda 0 to 1,000, interpolating logits or utilities,
against a router trained at the very lambda (rm_softmax), at 25, 50 and 75% of intervals; on the synthetic
benchmark (or --table) and on a world whose third model is best only inside, where ends cannot know it.
Prints paired differences in mean test utility x 100 with 95% intervals over queries and logs, and what
each costs in parameters and seconds; writes interval_generalization.json, .csv and .png.

Expect little loss at width 100 but near lambda 0, where models change places most, and a large one at
1,000. Utility heads lose less than logits.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from command_line import script
from data import (
    TEST_ROWS,
    DataOptions,
    Simulation,
    Source,
    draws,
    logging_names,
    seed_keys,
    simulate,
    smoke_size,
    sources,
)
from figures import interval_figure
from tqdm import tqdm

from jrouter import synthetic
from jrouter.inference import percentile_interval
from jrouter.io.results import text_table, write_csv, write_json
from jrouter.methods.rm_interval import HEADS, RmIntervalConfig, rm_interval
from jrouter.methods.rm_softmax import rm_softmax
from jrouter.metrics import cost_increases
from jrouter.networks import count_parameters
from jrouter.policy import Method, evaluate
from jrouter.resampling import paired_bootstrap
from jrouter.sweep import over_seeds

TOP = 1000.0
WIDTHS = (100.0, 250.0, 1000.0)
QUARTERS = (0.25, 0.5, 0.75)
COLUMNS = "table,logging_policy,width,head,position,lambda,seed,utility,utility_direct,cost,seconds".split(",")


@dataclass(frozen=True)
class Options(DataOptions):
    """As every experiment's; --lambdas is not used: the range is 0 to 1,000."""

    seeds: int = 2


def points(width: float) -> list[tuple[float, float]]:
    """(position, lambda) at the quarters of the first, a middle and the last interval of a width."""
    starts = sorted({0.0, width * (int(TOP / width) // 2), TOP - width} - {TOP})
    return [(quarter, start + quarter * width) for start in starts for quarter in QUARTERS]


def middle_source(options: DataOptions) -> Source:
    """The world whose middle model is best only inside the range."""
    world = synthetic.middle_model_world(dim=min(options.dim, 32))
    draw, test = draws(world, options.n, 1000 if options.smoke else TEST_ROWS, key=jax.random.key(3))
    return Source("synthetic:middle_model", None, draw, test, (1.0, 0.1))


def run(method: Method, source: Source, simulation: Simulation, fit_at: jax.Array, judge_at: jax.Array):
    """Fits at some lambdas and judges at others: per seed (utility, cost) [S, L, n], seconds, parameters."""
    n_seeds = simulation.logging_test.shape[0]
    keys = seed_keys(n_seeds, "interval")
    at = jnp.broadcast_to(fit_at, (n_seeds, *fit_at.shape))
    problems = replace(simulation.problems, lambdas=at)
    fit: Any = jax.jit(over_seeds(method.fit)).lower(keys, problems).compile()
    start = time.perf_counter()
    params = jax.block_until_ready(fit(keys, problems))
    seconds = (time.perf_counter() - start) / n_seeds
    judge = jax.jit(lambda params, test: evaluate(method.policy, params, test, judge_at)[0])
    outcomes = [judge(jax.tree.map(lambda leaf, s=seed: leaf[s], params), source.test) for seed in range(n_seeds)]
    size = count_parameters(params["networks"]) // n_seeds
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *outcomes)
    return stacked, seconds, size


def study(source: Source, policy: str, options: Options, note) -> tuple[dict[str, Any], list[list[Any]]]:
    """All widths and heads on one source."""
    simulation = simulate(source, policy, options, keep_full=False)
    note("nuisances")
    asked = sorted({lam for width in WIDTHS for _, lam in points(width)})
    judge_at = jnp.array(asked)
    direct, direct_seconds, direct_size = run(rm_softmax(), source, simulation, judge_at, judge_at)
    note("a router per lambda")
    fine = jnp.linspace(0.0, TOP, 11 if options.smoke else 41)
    result: dict[str, Any] = {
        "table": source.name,
        "sha256": source.sha256,
        "logging_policy": policy,
        "lambdas": fine,
        "direct": {
            "lambdas": judge_at,
            "utility": direct.utility.mean(axis=(0, 2)),
            "parameters_per_router": direct_size // len(asked),
            "seconds_per_router": direct_seconds / len(asked),
        },
        "routers": [],
    }
    rows = []
    for width in WIDTHS:
        knots = tuple(float(knot) for knot in np.arange(0.0, TOP + width / 2, width))
        for head in HEADS:
            method = rm_interval(RmIntervalConfig(head=head, knots=knots))
            both = jnp.concatenate([judge_at, fine])
            outcomes, seconds, size = run(method, source, simulation, jnp.array(knots), both)
            inside, curve = outcomes.utility[:, : len(asked)], outcomes.utility[:, len(asked) :]
            cells = points(width)
            where = np.array([asked.index(lam) for _, lam in cells])
            difference = jnp.asarray(inside[:, where] - direct.utility[:, where])  # [S, P, n]
            # Beside each point, the mean over points at 25, 50, 75% of the intervals.
            at = {quarter: np.array([p for p, _ in cells]) == quarter for quarter in QUARTERS}
            means = jnp.stack([difference[:, mask].mean(axis=1) for mask in at.values()], axis=1)
            columns = jnp.concatenate([difference, means], axis=1)
            resamples = paired_bootstrap(jax.random.key(4), columns.swapaxes(1, 2))
            interval = percentile_interval(columns.mean(axis=(0, 2)), resamples)
            cost = outcomes.cost[:, len(asked) :].mean(axis=-1)
            result["routers"].append(
                {
                    "width": width,
                    "head": head,
                    "points": [{"position": q, "lambda": lam} for q, lam in cells],
                    "difference": [part[: len(cells)] for part in interval],
                    "difference_by_position": [part[len(cells) :] for part in interval],
                    "utility": curve.mean(axis=(0, 2)),
                    "cost_increases": [int(cost_increases(row, tolerance=1e-6 * row.max())) for row in cost],
                    "parameters": size,
                    "seconds": seconds,
                }
            )
            for seed in range(inside.shape[0]):
                for (quarter, lam), place in zip(cells, where, strict=True):
                    head_row = [source.name, policy, width, head, quarter, lam, seed]
                    ours, theirs = inside[seed, place].mean(), direct.utility[seed, place].mean()
                    mean_cost = outcomes.cost[seed, place].mean()
                    rows.append([*head_row, float(ours), float(theirs), float(mean_cost), seconds])
            note(f"width {width:g}, {head}")
    return result, rows


def print_study(result: dict[str, Any]) -> None:
    """Differences to a router trained at the very lambda, and what each router costs."""
    print(f"\n{result['table']}, {result['logging_policy']} logging: utility x 100 less a router's of that lambda")
    direct = result["direct"]
    rows = []
    for router in result["routers"]:
        estimate, low, high = (np.asarray(part) for part in router["difference_by_position"])
        cells = [
            f"{100 * e:+.2f} [{100 * lo:+.2f}, {100 * hi:+.2f}]" for e, lo, hi in zip(estimate, low, high, strict=True)
        ]
        worst = 100 * float(np.asarray(router["difference"][0]).min())
        increases = sum(router["cost_increases"]) / len(router["cost_increases"])
        name = f"width {router['width']:g}, {router['head']}"
        costs = [f"{router['parameters']:,}", f"{router['seconds']:.1f}"]
        rows.append([name, *cells, f"{worst:+.2f}", f"{increases:.1f}", *costs])
    each = [f"{direct['parameters_per_router']:,}", f"{direct['seconds_per_router']:.1f}"]
    rows.append(["one router (one lambda)", "", "", "", "", "", *each])
    print(text_table(["router", "25%", "50%", "75%", "worst", "cost rises", "parameters", "seconds"], rows))


def main(options: Options) -> None:
    """Runs the study and writes its files."""
    options = smoke_size(options)
    found = [*sources(options), middle_source(options)]
    policies = logging_names(options)
    results, rows = [], []
    with tqdm(total=len(found) * len(policies) * (2 + len(WIDTHS) * len(HEADS)), dynamic_ncols=True) as progress:

        def note(text: str) -> None:
            progress.set_postfix_str(text, refresh=False)
            progress.update()

        for source in found:
            for policy in policies:
                result, more = study(source, policy, options, note)
                results.append(result)
                rows += more
    for result in results:
        print_study(result)
    path = Path(options.out) / "interval_generalization.json"
    write_json(path, options=options, results=results)
    write_csv(path.with_suffix(".csv"), COLUMNS, rows)
    interval_figure(path, path.with_suffix(".png"))
    print(f"\nwrote interval_generalization.json, .csv and .png to {options.out}")


if __name__ == "__main__":
    script(main, Options, __doc__)
