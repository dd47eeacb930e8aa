"""`jrouter plan`: how many more logged queries, or how much exploration, until a gain can be seen."""

import json
from dataclasses import dataclass, replace
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from jrouter.app.options import LogPlace, MaybeFile, MaybeFolder
from jrouter.app.read import LogOptions, read_team_log, read_traffic
from jrouter.app.terminal import check_file, heading
from jrouter.interval import lambda_grid
from jrouter.io.replace import replace_whole
from jrouter.metrics import decide, utility
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.power import power_by_formula
from jrouter.power_search import exploration_needed, rows_needed
from jrouter.power_world import gain_deviation, make_power_world, with_gain
from jrouter.router import Router
from jrouter.splits import split_log
from jrouter.types import LoggedData

WORLD_ROWS = 20_000
"""Queries of the world that logs are simulated in, at most."""


def plan_log(
    log: LoggedData,
    *,
    gain: float,
    lam: float | None = None,
    power: float = 0.8,
    router: Router | None = None,
    max_rows: int = 1_000_000,
    n_simulations: int = 500,
    nuisances: NuisanceConfig = NuisanceConfig(),
    seed: int = 0,
) -> dict[str, Any]:
    """What it takes to see a gain over the logging policy: rows without exploration, and exploration at these rows.

    Args:
      log: n rows, of the traffic to come.
      gain: mean utility of a query, to be told from 0 by a 95% interval.
      lam: lambda; None for the middle one of those where this log trades.
      power: probability of seeing it.
      router: whose gain it is; None for the rule that takes the best held-out estimate.
      max_rows: the most rows that are tried.
      n_simulations: logs that are simulated at each size.
      nuisances: how propensities and outcomes are estimated.
      seed: of folds and simulations.

    Returns:
      Plain JSON values: `rows` (needed, None where `max_rows` are too few), `more_rows`, `exploration` at as many rows
      as the log has (None where none does), its `price` per query, and the power of the log as it is.

    Raises:
      ValueError: for a gain or power that is none; a log of other models than the router's.
    """
    if not gain > 0 or not 0 < power < 1:
        raise ValueError(f"expected a gain above 0 and a power between 0 and 1, got {gain:g} and {power:g}")
    n = int(log.model.shape[0])
    if not np.isfinite(lam or 0.0) or (lam or 0.0) < 0:
        raise ValueError(f"lambda: expected a finite number of at least 0, got {lam}")
    # New logs are drawn by the propensity of every model, which a log that holds its own choice's does not tell.
    log = replace(log, propensity=None)
    grid = np.asarray(lambda_grid(log))
    lam = float(grid[len(grid) // 2]) if lam is None else float(lam)
    split = split_log([log], seeds=[seed])[0]
    fit = jax.jit(lambda key, log, split: fit_nuisances(key, log, split, nuisances))
    fitted = fit(jax.random.key(seed), log, split)
    if router is None:
        probability = jax.vmap(decide)(utility(fitted.score, fitted.cost, lam))
    else:
        policy, params = router.served(log.models)
        probability = jax.jit(jax.vmap(lambda x: policy.probabilities(params, x, lam)))(log.x)
    if n > WORLD_ROWS:
        drawn = np.random.default_rng(seed).choice(n, WORLD_ROWS, replace=False)
        log, fitted, probability = jax.tree.map(lambda leaf: leaf[drawn], (log, fitted, probability))
    world = with_gain(make_power_world(log, fitted, probability, lam), gain)
    key = jax.random.key(seed + 1)
    now = float(power_by_formula(gain_deviation(world, 0.0), gain, n))
    rows = rows_needed(key, world, target=power, max_rows=max_rows, n_simulations=n_simulations)
    exploring = exploration_needed(key, world, n_rows=n, target=power, n_simulations=n_simulations)
    return {
        "gain": gain,
        "lam": lam,
        "power": power,
        "log_rows": n,
        "power_now": now,
        "rows": rows.rows,
        "more_rows": None if rows.rows is None else max(0, rows.rows - n),
        "rows_by_formula": float(rows.formula) if np.isfinite(rows.formula) else None,
        "max_rows": max_rows,
        "exploration": exploring.exploration,
        "price": None if exploring.exploration is None else exploring.price,
        "cost_unit": log.cost_unit,
    }


def describe_plan(found: dict[str, Any]) -> str:
    """A plan as text for a terminal."""
    gain, target = 100 * found["gain"], 100 * found["power"]
    lines = [
        heading(f"To see a gain of {gain:.3g} (utility x 100) over the logging policy at lambda {found['lam']:.4g}"),
        f"  with a 95% interval, in {target:.0f} of 100 logs; this log of {found['log_rows']:,} rows would in about "
        f"{100 * found['power_now']:.0f}",
    ]
    if found["rows"] is None:
        lines.append(f"  more than {found['max_rows']:,} logged queries, written as now")
    else:
        lines.append(f"  {found['rows']:,} logged queries, written as now: {found['more_rows']:,} more")
    if found["exploration"] is None:
        lines.append(f"  no share of exploration does it with {found['log_rows']:,} queries: it takes more of both")
    elif found["exploration"] == 0:
        lines.append(f"  as it is, {found['log_rows']:,} queries do: no exploration is needed")
    else:
        price = f"{100 * found['price']:.2g}"
        lines.append(
            f"  or {found['log_rows']:,} queries with {100 * found['exploration']:.3g}% of them drawn uniformly "
            f"(`jrouter route --explore`), which costs {price} of utility x 100 a query while it lasts"
        )
    lines.append("  simulated from this log's estimates: a plan, no promise; rows of one user count for less")
    return "\n".join(lines)


@dataclass(frozen=True)
class Plan:
    """Says how many more logged queries, or how much exploration, it takes to see a gain."""

    log: LogPlace
    """A log of the traffic to come."""
    gain: float
    """Mean utility of a query, e.g. 0.02: two points of score at equal cost."""
    lam: Annotated[float | None, tyro.conf.arg(name="lambda", metavar="NUMBER", help_behavior_hint="")] = None
    """Cost preference; by default the middle one of those where this log's scores and costs trade."""
    power: float = 0.8
    """Probability of seeing the gain."""
    router: MaybeFolder = None
    """Folder of the router whose gain it is; by default the rule that takes the best held-out estimate."""
    max_rows: int = 1_000_000
    """Most rows that are tried."""
    read: LogOptions = LogOptions()
    json: MaybeFile = None
    """Also writes the plan there."""
    seed: int = 0
    """Of folds, samples and simulations."""

    def run(self) -> int:
        check_file("--json", self.json)
        router = None if self.router is None else Router.load(self.router)
        reading = (
            read_team_log(self.log, self.read, seed=self.seed)
            if router is None
            else read_traffic(router, self.log, self.read, seed=self.seed)
        )
        with reading as team:
            found = plan_log(
                team.log,
                gain=self.gain,
                lam=self.lam,
                power=self.power,
                router=router,
                max_rows=self.max_rows,
                seed=self.seed,
            )
        print(describe_plan(found))
        if self.json is not None:
            replace_whole(self.json, lambda file: file.write(json.dumps(found, indent=1) + "\n"))
        return 0
