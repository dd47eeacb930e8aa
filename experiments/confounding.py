"""What if something that is not in the log drives both which model is logged and how well it does?

    python experiments/confounding.py              # 6 strengths, 200 logs each: 22 minutes on a shared core
    python experiments/confounding.py --smoke      # under 1 minute

Simulated logs of 4 models, d = 6. A hidden coin moves the log-odds of every choice and the mean score: models do
better where the logging policy prefers them, as where users know what a model is good at. Given the query and
the coin the log would be ignorable; given the query alone it is not. Its strength is stated as Tan's Gamma, the
largest factor by which the coin changes the odds of a choice at any query; the value of one fixed policy, over
the coin, is known. Ridge regressions and logistic propensities, cross-fitted in 5 folds on each log.

Of each strength: bias of the doubly robust value; share of logs whose bounds hold the truth at each Gamma, both
widened by 1.96 of their own standard errors (at Gamma 1, the doubly robust interval); their width; how often the
gain over the logging policy is announced, as its lower end is above 0; and the mean Gamma at which the lower bound
of the gain, and the lower end of that, vanish. Writes <name>.json (kept cell by cell: a later run resumes), .csv
and .png.

Expect the doubly robust interval to cover without a coin, and hardly ever from Gamma 1.5 on: its bias does not
shrink with more rows, and it announces a gain in every log, also where the logging policy is the better one. Bounds
at the true Gamma hold in nearly every log, and so do some that are a little narrower, as this coin is not quite the
worst that its Gamma allows. They are wide: at Gamma 2, 34 points.
"""

import time
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cells import Study, current, select
from data import RESULTS
from sensitivity_figures import confounding_figure
from studies import script

from jrouter.io.results import text_table, write_csv
from jrouter.known_worlds import (
    KnownWorld,
    draw_known_log,
    draw_known_queries,
    hidden_gamma,
    hidden_propensities,
    linear_rule,
    make_known_world,
    mean_outcomes,
    means_given_coin,
    true_value,
)
from jrouter.metrics import expected, utility
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.sensitivity import SensitivityBounds, critical_gamma, fixed_policy_bounds
from jrouter.splits import folds_alone
from jrouter.types import Array

TABLE = "synthetic:hidden"
N_FOLDS = 5
LAM = 50.0
OUTCOME = 0.9
"""Of the way to 0 or 1 that the coin moves a mean score."""
STRENGTHS = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
GAMMAS = (1.0, 1.05, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0)
CONFIG = NuisanceConfig(outcome="ridge")
ENDS = ("low", "low_error", "high", "high_error")
COLUMNS = (
    "strength,median_gamma,gamma,logs,truth,true_gain,low,high,low_error,high_error,held,gain_low,gain_high,announced"
).split(",")


@dataclass(frozen=True)
class Options:
    """What is simulated."""

    strengths: str = ",".join(f"{strength:g}" for strength in STRENGTHS)
    """Comma-separated Gammas of the hidden coin, each at least 1."""
    seeds: int = 200
    """Logs of each strength."""
    n: int = 5_000
    """Rows of a log."""
    batch: int = 25
    """Logs of one cell."""
    world_seed: int = 0
    """Of the world's coefficients."""
    budget_minutes: float | None = None
    """Stop between cells once these have passed; run the same command again to go on."""
    fresh: bool = False
    """Forget the cells that an earlier run has kept."""
    join: tuple[Path, ...] = ()
    """Result files of the same study made elsewhere: their cells are taken over."""
    name: str = "confounding"
    """Of the result files."""
    smoke: bool = False
    """A small version of everything, at most 60 s."""
    out: Path = RESULTS
    """Folder of the result files."""


def strengths_of(options: Options) -> list[float]:
    """Numbers of --strengths.

    Raises:
      ValueError: unless they are ascending finite numbers of at least 1.
    """
    try:
        found = [float(part) for part in options.strengths.split(",")]
    except ValueError:
        found = []
    if not found or sorted(set(found)) != found or found[0] < 1.0 or not np.isfinite(found).all():
        raise ValueError(f"--strengths: expected ascending finite numbers of at least 1, got {options.strengths!r}")
    return found


def hidden_world(seed: int, strength: float, *, queries: int = 2**15) -> tuple[KnownWorld, float, float]:
    """A world whose coin has a given Gamma: the largest over many queries.

    Args:
      seed: of the world.
      strength: Gamma, at least 1.
      queries: how many.

    Returns:
      The world, its Gamma, found by bisection, and the median of the queries' Gammas.
    """
    x = draw_known_queries(make_known_world(jax.random.key(seed)), jax.random.key(7), queries)

    def world(choice):
        return make_known_world(jax.random.key(seed), hidden_choice=choice, hidden_outcome=OUTCOME)

    @jax.jit
    def gammas(choice):
        found = jax.vmap(partial(hidden_gamma, world(choice)))(x)
        return found.max(), jnp.median(found)

    low, high = 0.0, 4.0
    for _ in range(30 if strength > 1.0 else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if float(gammas(middle)[0]) < strength else (low, middle)
    largest, median = gammas(low)
    return world(low), float(largest), float(median)


def logging_value(world: KnownWorld, key: Array, *, n: int = 2**20, chunk: int = 2**14) -> Array:
    """Mean utility of what the logging policy, which sees the coin, chooses."""

    def of_query(x):
        score, cost = mean_outcomes(world, x)
        coins = jnp.array([-1.0, 1.0])
        given = jax.vmap(lambda coin: utility(means_given_coin(world, score, coin), cost, LAM))(coins)
        return jax.vmap(expected)(hidden_propensities(world, x), given).mean()

    def of_chunk(key):
        return jax.vmap(of_query)(draw_known_queries(world, key, chunk)).mean()

    return jax.lax.map(of_chunk, jax.random.split(key, -(-n // chunk))).mean()


class Simulation:
    """Compiled programs, the same for all strengths, made when first needed.

    Args:
      options: of the script.
    """

    def __init__(self, options: Options):
        self.options = options
        self.policy, self.params = linear_rule(make_known_world(jax.random.key(options.world_seed)))
        self._worlds: dict[float, dict[str, Any]] = {}

    def known(self, strength: float) -> dict[str, Any]:
        """The world of a strength, and what is known of it."""
        if strength not in self._worlds:
            world, gamma, median = hidden_world(self.options.world_seed, strength)
            truth, logging = map(float, self._truths(world))
            self._worlds[strength] = {
                "world": world,
                "known": {"gamma": gamma, "median_gamma": median, "truth": truth, "true_gain": truth - logging},
            }
        return self._worlds[strength]

    @cached_property
    def _truths(self):
        def truths(world):
            lambdas = jnp.array([LAM])
            score, cost = true_value(world, self.policy, self.params, lambdas, jax.random.key(9), n=2**20)
            return utility(score, cost, lambdas)[0], logging_value(world, jax.random.key(9))

        return jax.jit(truths)

    @cached_property
    def bounds_of(self):
        """(world, keys [B]) -> `SensitivityBounds` of [B, G], a log for each key."""
        n = self.options.n
        log, _ = draw_known_log(make_known_world(jax.random.key(0)), jax.random.key(0), n)
        # Rows are independent: any folds are.
        split = replace(folds_alone(log, np.arange(n) % N_FOLDS, n_folds=N_FOLDS), model_size=n)

        def of_log(world, split, key):
            log, _ = draw_known_log(world, jax.random.fold_in(key, 0), n)
            nuisances = fit_nuisances(jax.random.fold_in(key, 1), log, split, CONFIG)
            lambdas, gammas = jnp.array([LAM]), jnp.array(GAMMAS)
            found = fixed_policy_bounds(log, nuisances, self.policy, self.params, lambdas, gammas, n_folds=N_FOLDS)
            return jax.tree.map(lambda leaf: leaf[0], found)

        run = jax.jit(lambda world, split, keys: jax.lax.map(lambda key: of_log(world, split, key), keys))
        return lambda world, keys: run(world, split, keys)

    def cell(self, key: dict[str, Any]) -> dict[str, Any]:
        """What a cell holds: counts and means over its logs, and the curves of its first log."""
        begun = time.perf_counter()
        found = self.known(key["strength"])
        numbers = np.arange(key["first"], key["first"] + self.options.batch)
        # Logs of one number have the same queries at every strength.
        keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(5), number))(numbers)
        bounds = self.bounds_of(found["world"], keys)
        critical = jax.vmap(partial(critical_gamma, jnp.array(GAMMAS)))(bounds.gain)
        return {
            **found["known"],
            "gammas": GAMMAS,
            "logs": len(numbers),
            **summary(bounds, found["known"]["truth"]),
            **{name: np.asarray(part).sum() for name, part in critical._asdict().items()},
            "first_log": {
                "gain": {end: np.asarray(getattr(bounds.gain, end))[0] for end in ENDS},
                "critical": {name: np.asarray(part)[0].tolist() for name, part in critical._asdict().items()},
            },
            "seconds": round(time.perf_counter() - begun, 3),
        }


def summary(bounds: SensitivityBounds, truth: float) -> dict[str, Any]:
    """Means over logs of bounds [B, G]; how many hold the truth, and announce a gain.

    Args:
      bounds: of the value and of the gain.
      truth: value of the policy.
    """
    bounds = jax.tree.map(np.asarray, bounds)
    low, high = (np.asarray(end) for end in bounds.value.interval())
    return {
        "held": ((low <= truth) & (truth <= high)).sum(axis=0),
        "announced": (np.asarray(bounds.gain.interval()[0]) > 0).sum(axis=0),
        "value": {end: getattr(bounds.value, end).mean(axis=0) for end in ENDS},
        "gain": {end: getattr(bounds.gain, end).mean(axis=0) for end in ENDS},
        "squares": np.square(bounds.value.low[:, 0] - truth).mean(),
    }


@dataclass(frozen=True)
class Strength:
    """All cells of one strength, joined."""

    strength: float
    gamma: float
    median_gamma: float
    truth: float
    true_gain: float
    logs: int
    gammas: list[float]
    held: np.ndarray
    announced: np.ndarray
    value: dict[str, np.ndarray]
    gain: dict[str, np.ndarray]
    spread: float
    critical: dict[str, float]
    first_log: dict[str, Any]

    def at(self, gamma: float) -> int:
        """Place of a Gamma in the grid."""
        return self.gammas.index(gamma)


def joined(path: Path) -> list[Strength]:
    """Results by strength, from the file alone."""
    found = []
    cells = [cell for group in current(path) for cell in group["cells"]]
    for strength in sorted({cell["key"]["strength"] for cell in cells}):
        mine = sorted(select(cells, strength=strength), key=lambda cell: cell["key"]["first"])
        logs = sum(cell["logs"] for cell in mine)

        def total(name, mine=mine):
            return np.sum([np.asarray(cell[name], float) for cell in mine], axis=0)

        def mean(name, mine=mine, logs=logs):
            parts = {end: [np.array(cell[name][end]) * cell["logs"] for cell in mine] for end in ENDS}
            return {end: np.sum(part, axis=0) / logs for end, part in parts.items()}

        value = mean("value")
        squares = sum(cell["squares"] * cell["logs"] for cell in mine) / logs
        bias = value["low"][0] - mine[0]["truth"]
        known = ("gamma", "median_gamma", "truth", "true_gain", "gammas", "first_log")
        found.append(
            Strength(
                strength=strength,
                logs=logs,
                held=total("held") / logs,
                announced=total("announced") / logs,
                value=value,
                gain=mean("gain"),
                spread=float(max(squares - bias**2, 0.0) ** 0.5),
                critical={name: float(total(name)) / logs for name in mine[0]["first_log"]["critical"]},
                **{name: mine[0][name] for name in known},
            )
        )
    return found


SHOWN = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
"""Gammas whose bounds the table is about; all are in the CSV."""
TABLE_COLUMNS = (
    "Gamma of the coin",
    "median query",
    "true gain",
    "bias at 1",
    *(f"holds at {gamma:g}" for gamma in SHOWN),
    "width at the true Gamma",
    "gain announced at 1",
    "gain announced at the true Gamma",
    "gain vanishes at",
    "its lower end at",
)


def table_rows(path: Path) -> list[list[str]]:
    """A row for each strength, under `TABLE_COLUMNS`: values x 100, shares of logs in %."""
    rows = []
    for one in joined(path):
        here = one.at(one.strength)
        rows.append(
            [
                f"{one.strength:g}",
                f"{one.median_gamma:.2f}",
                f"{100 * one.true_gain:+.1f}",
                f"{100 * (one.value['low'][0] - one.truth):+.1f}",
                *(f"{100 * one.held[one.at(gamma)]:.1f}" for gamma in SHOWN),
                f"{100 * (one.value['high'] - one.value['low'])[here]:.1f}",
                f"{100 * one.announced[0]:.1f}",
                f"{100 * one.announced[here]:.1f}",
                f"{one.critical['point']:.2f}",
                f"{one.critical['confident']:.2f}",
            ]
        )
    return rows


def csv_rows(path: Path) -> list[list[Any]]:
    """A row for each strength and Gamma."""
    return [
        [one.strength, one.median_gamma, gamma, one.logs, one.truth, one.true_gain]
        + [float(one.value[end][place]) for end in ("low", "high", "low_error", "high_error")]
        + [float(one.held[place])]
        + [float(one.gain[end][place]) for end in ("low", "high")]
        + [float(one.announced[place])]
        for one in joined(path)
        for place, gamma in enumerate(one.gammas)
    ]


def main(options: Options) -> None:
    """Computes missing cells, prints what all say, and writes table and figure."""
    strengths = strengths_of(options)
    if options.smoke:
        options = replace(options, seeds=8, n=600, batch=4)
        strengths = [strength for strength in strengths if strength in (1.0, 2.0)] or strengths[:1]
    if missing := [strength for strength in strengths if strength not in GAMMAS]:
        raise ValueError(f"--strengths: {missing[0]:g} is none of {', '.join(f'{gamma:g}' for gamma in GAMMAS)}")
    if options.seeds < 1 or options.batch < 1 or options.seeds % options.batch:
        raise ValueError(f"--seeds: expected a multiple of --batch {options.batch}, got {options.seeds}")
    shared = ("n", "batch", "world_seed", "smoke")
    study = Study(
        options.out / f"{options.name}.json",
        options=options,
        configuration={name: getattr(options, name) for name in shared} | {"lam": LAM, "outcome": OUTCOME},
        digests={TABLE: None},
        fresh=options.fresh,
        join=options.join,
    )
    # A batch of every strength before the next: a run cut short has a little of each.
    keys = [
        {"table": TABLE, "strength": strength, "first": first}
        for first in range(0, options.seeds, options.batch)
        for strength in strengths
    ]
    simulation = Simulation(options)
    for key in study.missing(keys, budget_minutes=options.budget_minutes):
        study.keep(key, simulation.cell(key))
    study.save()
    path = study.path
    done = sum(study.cell(key) is not None for key in keys)
    if done < len(keys):
        print(f"\n{done} of {len(keys)} cells are done: run the same command again for the others")
    if not done:
        return
    print(f"\n{options.n:,} rows a log, {joined(path)[0].logs} logs a strength; value x 100 at lambda {LAM:g}")
    print(text_table(TABLE_COLUMNS, table_rows(path)))
    write_csv(path.with_suffix(".csv"), COLUMNS, csv_rows(path))
    confounding_figure(joined(path), path.with_suffix(".png"))
    if stale := study.stale():
        print(f"{stale} cells were kept from other code than is here now: --fresh computes them again")
    print(f"\nwrote {path.stem}.json, .csv and .png to {path.parent}")


if __name__ == "__main__":
    script(main, Options, __doc__)
