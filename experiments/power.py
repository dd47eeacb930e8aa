"""How much log, or random exploration, does it take to see that a learned router is better than what wrote the log?

    python experiments/power.py                          # synthetic, about 3 minutes on 1 core
    python experiments/power.py --smoke                  # under 1 minute
    python experiments/power.py --table table.parquet --gains 0.01,0.03

A log is simulated, its nuisances are estimated and a router is learned from it, as from a user's log; no table's
truth is used beyond that. At one lambda, future logs are drawn from these estimates (`jrouter.power_world`), by the
estimated logging policy mixed with shares of uniform exploration, and the router's gain over the logging policy is
set to what is to be detected. Power is the share of these logs whose 95% interval of the doubly robust gain excludes
0. Prints, for each gain and share of exploration, the rows for a power of 0.8, simulated and by the formula, and what
exploring costs per query; writes power.json, .csv and .png.

Expect rows to go with 1 / gain^2, and a little exploration to save most of the rows that it can save: it helps where
the router's choices were seldom logged.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from command_line import script
from data import DataOptions, Source, compiler_options, logging_names, logging_rule, parse_lambdas, smoke_size, sources
from known_methods import chosen_methods
from one_log import draw_log, estimate_nuisances, key_of
from power_figure import power_figure
from tqdm import tqdm

from jrouter.chunks import map_rows
from jrouter.interval import lambda_grid
from jrouter.io.results import text_table, write_csv, write_json
from jrouter.methods import METHODS
from jrouter.nuisances.crossfit import NuisanceConfig
from jrouter.policy import Problem
from jrouter.power import power_by_formula, power_grid
from jrouter.power_search import exploration_needed, rows_needed
from jrouter.power_world import PowerWorld, exploration_price, gain_deviation, make_power_world, with_gain

TARGET = 0.8
COLUMNS = (
    "table,logging_policy,method,lambda,gain,exploration,rows,power,error,formula,coverage,spread,standard_error"
).split(",")


@dataclass(frozen=True)
class Options(DataOptions):
    """Beside what every experiment takes; only one log is drawn, and one lambda looked at."""

    seeds: int = 1
    """Not used: the log is that of seed 0."""
    lambdas: str = "auto"
    """One number; auto takes the middle of the lambdas at which this log's scores and costs trade."""
    method: str = "rm_auto"
    """The learner."""
    gains: str = "0.01,0.02,0.05"
    """Gains to detect, in units of score per query."""
    explorations: str = "0,0.02,0.1,0.3,1"
    """Shares of uniform exploration in the future logs."""
    max_rows: int = 400_000
    """The most rows that are tried."""
    simulations: int = 500
    """Simulated logs of each size."""
    name: str = "power"
    """Of the result files."""


def numbers(flag: str, text: str, *, low: float, high: float) -> list[float]:
    """Ascending numbers of a flag.

    Raises:
      ValueError: for anything else, or outside [low, high].
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or found != sorted(set(found)) or not low <= found[0] or not found[-1] <= high:
        raise ValueError(f"{flag}: expected ascending numbers from {low:g} to {high:g}, got {text!r}")
    return found


def learned_world(source: Source, policy: str, options: Options) -> tuple[PowerWorld, float, int]:
    """The world of a log and of the router learned from it; the lambda; the log's rows."""
    log, split, *_ = draw_log(source.draw(0), source.test, logging_rule(policy, *source.confounded), 0)
    given = parse_lambdas(options.lambdas)
    if given is not None and given.shape[0] != 1:
        raise ValueError(f"--lambdas: expected auto or one number, got {options.lambdas!r}")
    lam = lambda_grid(log)[5] if given is None else given[0]
    nuisances = estimate_nuisances(0, log, split, NuisanceConfig(), fast=options.smoke)
    method = METHODS[options.method]()

    def choices(key, problem):
        params = method.fit(key, problem)
        return map_rows(lambda x: method.policy.probabilities(params, x, lam), problem.log.x)

    problem = Problem(log, split, nuisances, lam[None])
    learn = jax.jit(choices, compiler_options=compiler_options(options.smoke))
    return make_power_world(log, nuisances, learn(key_of(0, "learners"), problem), lam), float(lam), log.model.shape[0]


def of_gain(world: PowerWorld, gain: float, log_rows: int, options: Options, note) -> dict[str, Any]:
    """Power over rows and exploration, and what is needed, for one gain."""
    shares = numbers("--explorations", options.explorations, low=0.0, high=1.0)
    world = jax.jit(with_gain)(world, gain)
    deviations = [float(gain_deviation(world, share)) for share in shares]
    needed = []
    for share in shares:
        needed.append(
            rows_needed(
                jax.random.key(1),
                world,
                target=TARGET,
                exploration=share,
                max_rows=options.max_rows,
                n_simulations=options.simulations,
            )
        )
        note(f"gain {gain:g}, exploration {share:g}")
    # From where the best share has little power to where the worst has the target, as far as there is time.
    top = min(1.3 * max(need.rows or options.max_rows for need in needed), options.max_rows)
    sizes = np.unique(np.geomspace(max(min(need.formula for need in needed) / 12, 20), top, 12).astype(int))
    curves = jax.jit(power_grid, static_argnames=("n_rows", "n_simulations"))(
        jax.random.key(2),
        world,
        sizes=jnp.asarray(sizes),
        n_rows=int(sizes[-1]),
        explorations=jnp.array(shares),
        n_simulations=options.simulations,
    )
    note(f"gain {gain:g}, curves")
    explored = exploration_needed(
        jax.random.key(3), world, n_rows=log_rows, target=TARGET, n_simulations=options.simulations
    )
    note(f"gain {gain:g}, exploration of {log_rows:,} rows")
    return {
        "gain": gain,
        "rows": sizes,
        "explorations": [
            {
                "exploration": share,
                "price": float(exploration_price(world, share)),
                "deviation": deviations[place],
                "needed": needed[place]._asdict(),
                "by_formula": power_by_formula(deviations[place], gain, jnp.asarray(sizes)),
                **{name: values[place] for name, values in curves._asdict().items()},
            }
            for place, share in enumerate(shares)
        ],
        "exploration_needed": {"rows": log_rows, **explored._asdict()},
    }


def needed_as_text(gain: dict[str, Any], max_rows: int) -> list[str]:
    """How many rows show a gain, simulated (and by the formula), of each exploration."""
    found = [one["needed"] for one in gain["explorations"]]
    said = [f"> {max_rows:,}" if needed["rows"] is None else f"{needed['rows']:,}" for needed in found]
    return [f"{rows} ({needed['formula']:,.0f})" for rows, needed in zip(said, found, strict=True)]


def print_setting(setting: dict[str, Any]) -> None:
    """Rows for a power of 0.8, by gain and exploration."""
    head = (
        f"{setting['table']}, {setting['logging_policy']} logging, {setting['method']} at lambda {setting['lambda']:g}"
    )
    print(f"\n{head}: rows for a power of {TARGET:g} (by the formula)")
    first = setting["gains"][0]
    names = [f"exploration {one['exploration']:g}" for one in first["explorations"]]
    lines = [[f"gain {gain['gain']:g}", *needed_as_text(gain, setting["max_rows"])] for gain in setting["gains"]]
    lines.append(["price per query", *[f"{one['price']:.4f}" for one in first["explorations"]]])
    print(text_table(["", *names], lines))
    for gain in setting["gains"]:
        need = gain["exploration_needed"]
        share = "no share reaches it" if need["exploration"] is None else f"{need['exploration']:.3f}"
        print(
            f"exploration for a gain of {gain['gain']:g} in {need['rows']:,} rows: {share} (power {need['power']:.2f})"
        )


def main(options: Options) -> None:
    """Runs the experiment and writes its files."""
    options = smoke_size(options)
    if options.smoke:
        options = replace(options, simulations=100, max_rows=20_000, gains="0.05,0.1", explorations="0,0.3")
        if options.method == Options.method:
            options = replace(options, method="regress_and_compare_pooled")  # compiles fast
    gains = numbers("--gains", options.gains, low=1e-6, high=1e6)
    shares = numbers("--explorations", options.explorations, low=0.0, high=1.0)
    chosen_methods(options.method)
    policies = logging_names(options)
    settings, rows = [], []
    found = sources(options)
    with tqdm(total=len(found) * len(policies) * (1 + len(gains) * (2 + len(shares))), dynamic_ncols=True) as progress:

        def note(text: str) -> None:
            progress.set_postfix_str(text, refresh=False)
            progress.update()

        for source in found:
            for policy in policies:
                world, lam, log_rows = learned_world(source, policy, options)
                note("router")
                settings.append(
                    {
                        "table": source.name,
                        "sha256": source.sha256,
                        "logging_policy": policy,
                        "method": options.method,
                        "lambda": lam,
                        "target": TARGET,
                        "max_rows": options.max_rows,
                        "gains": [of_gain(world, gain, log_rows, options, note) for gain in gains],
                    }
                )
    for setting in settings:
        print_setting(setting)
        head = [setting[name] for name in ("table", "logging_policy", "method", "lambda")]
        for gain in setting["gains"]:
            for one in gain["explorations"]:
                columns = ("power", "error", "by_formula", "coverage", "spread", "standard_error")
                for place, size in enumerate(gain["rows"]):
                    cells = [float(one[name][place]) for name in columns]
                    rows.append([*head, gain["gain"], one["exploration"], int(size), *cells])
    path = Path(options.out) / f"{options.name}.json"
    write_json(path, options=options, results=settings)
    write_csv(path.with_suffix(".csv"), COLUMNS, rows)
    power_figure(path, path.with_suffix(".png"))
    print(f"\nwrote {options.name}.json, .csv and .png to {options.out}")


if __name__ == "__main__":
    script(main, Options, __doc__)
