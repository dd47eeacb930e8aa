"""`jrouter calibrate`: which lambda meets a budget, or a quality, on this traffic."""

import json
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.app.evaluate import REFIT_ROWS
from jrouter.app.options import LogPlace, MaybeFile, MaybeNumber, RouterFolder
from jrouter.app.read import LogOptions, read_traffic
from jrouter.app.terminal import check_file, heading
from jrouter.crossing import greatest_meeting, least_meeting
from jrouter.io.replace import replace_whole
from jrouter.io.results import text_table
from jrouter.nuisances.crossfit import NuisanceConfig
from jrouter.off_policy import fixed_policy_value
from jrouter.router import Router
from jrouter.splits import split_log
from jrouter.types import LoggedData

LAMBDAS = 33
"""Lambdas that are tried."""


def calibrate_router(
    router: Router,
    log: LoggedData,
    *,
    budget: float | None = None,
    min_score: float | None = None,
    n_lambdas: int = LAMBDAS,
    nuisances: NuisanceConfig = NuisanceConfig(),
    seed: int = 0,
) -> dict[str, Any]:
    """The lambda at which a router keeps within a budget, or reaches a mean score, on a log's traffic.

    Args:
      router: as it is served.
      log: n rows it was not fitted on; models as of `evaluate_router`.
      budget: mean cost of a query, at most; or
      min_score: mean score, at least.
      n_lambdas: tried, from the least to the greatest fitted one, as dense between any two fitted ones.
      nuisances: how propensities and outcomes are estimated.
      seed: of the folds.

    Returns:
      Plain JSON values: `crossing`, as of `crossing.Crossing`, and the `curve` of cost and score.

    Raises:
      ValueError: without a target, or with both; for a log of other models.
    """
    if (budget is None) == (min_score is None):
        raise ValueError("give a budget or a least score, one of both")
    if budget is not None and not 0.0 <= budget < np.inf:
        raise ValueError(f"budget: expected a finite number of at least 0, got {budget:g}")
    if min_score is not None and not np.isfinite(min_score):
        raise ValueError(f"least score: expected a finite number, got {min_score:g}")
    policy, params = router.served(log.models)
    places = np.linspace(0, len(router.lambdas) - 1, max(n_lambdas, len(router.lambdas)))
    grid = jnp.asarray(np.unique(np.interp(places, np.arange(len(router.lambdas)), router.lambdas)), jnp.float32)
    split = split_log([log], seeds=[seed])[0]
    refit = log.model.shape[0] <= REFIT_ROWS
    run = jax.jit(
        lambda key, log, split, params, grid: fixed_policy_value(
            key, log, split, policy, params, grid, nuisances=nuisances, refit=refit
        )
    )
    value = jax.tree.map(np.asarray, run(jax.random.key(seed), log, split, params, grid))
    lambdas = np.asarray(grid, np.float64)
    if budget is not None:
        crossing = least_meeting(lambdas, value.cost, value.cost_error, budget)
    else:
        assert min_score is not None
        crossing = greatest_meeting(lambdas, value.score, value.score_error, min_score)
    curve = [
        {
            "lam": float(lam),
            "cost": float(value.cost[at]),
            "cost_error": float(value.cost_error[at]),
            "score": float(value.score[at]),
            "score_error": float(value.score_error[at]),
        }
        for at, lam in enumerate(lambdas)
    ]
    return {
        "router": router.version,
        "target": {"budget": budget} if budget is not None else {"min_score": min_score},
        "cost_unit": log.cost_unit,
        "propensity": "estimated" if log.propensity is None else "logged",
        "crossing": {name: _finite(one) for name, one in crossing._asdict().items()},
        "curve": curve,
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def describe_calibration(found: dict[str, Any]) -> str:
    """A calibration as text for a terminal."""
    crossing, unit = found["crossing"], found["cost_unit"]
    budget = found["target"].get("budget")
    wanted = (
        f"mean cost at most {budget:g} {unit}"
        if budget is not None
        else f"mean score at least {found['target']['min_score']:g}"
    )
    if crossing["lam"] is None:
        costs, scores = ([row[name] for row in found["curve"]] for name in ("cost", "score"))
        lines = [
            heading(f"No fitted lambda has a {wanted} on this traffic"),
            f"  cost goes from {min(costs):.4g} to {max(costs):.4g} {unit}, "
            f"score from {min(scores):.3f} to {max(scores):.3f}",
        ]
    else:
        lines = [
            heading(f"lambda {crossing['lam']:.4g}: {wanted}"),
            f"  95% interval of that lambda: {_shown(crossing['low'])} to {_shown(crossing['high'])}",
            f"  estimated there: {crossing['value']:.4g} ± {1.96 * crossing['error']:.2g}",
        ]
    sure = crossing["sure"]
    lines.append(
        "  no fitted lambda meets it for sure (at the unfavourable end of its 95% interval)"
        if sure is None
        else f"  met even at the unfavourable end of the interval: lambda {sure:.4g}"
    )
    if found["propensity"] == "estimated":
        lines.append("  propensities are estimated, which is weaker than logged ones")
    step = max(1, len(found["curve"]) // 11)
    rows = [
        [
            f"{row['lam']:.4g}",
            f"{row['cost']:.4g} ± {1.96 * row['cost_error']:.2g}",
            f"{row['score']:.3f} ± {1.96 * row['score_error']:.3f}",
        ]
        for row in found["curve"][::step]
    ]
    return "\n".join(
        [*lines, *("  " + line for line in text_table(["lambda", f"cost, {unit}", "score"], rows).splitlines())]
    )


def _shown(value: float | None) -> str:
    return "beyond those fitted" if value is None else f"{value:.4g}"


@dataclass(frozen=True)
class Calibrate:
    """Says which lambda meets a budget, or a least score, on a log's traffic, with an interval."""

    router: RouterFolder
    """Folder of the router."""
    log: LogPlace
    """A log of the traffic, that the router was not fitted on."""
    budget: MaybeNumber = None
    """Mean cost of a query, at most, in the log's unit."""
    min_score: MaybeNumber = None
    """Mean score, at least."""
    read: LogOptions = LogOptions()
    json: MaybeFile = None
    """Also writes the calibration there, with the curve."""
    seed: int = 0
    """Of folds and samples."""

    def run(self) -> int:
        if (self.budget is None) == (self.min_score is None):
            raise ValueError("give --budget or --min-score, one of both")
        check_file("--json", self.json)
        router = Router.load(self.router)
        with read_traffic(router, self.log, self.read, seed=self.seed) as team:
            found = calibrate_router(router, team.log, budget=self.budget, min_score=self.min_score, seed=self.seed)
        print(describe_calibration(found))
        if self.json is not None:
            replace_whole(self.json, lambda file: file.write(json.dumps(found, indent=1) + "\n"))
        return 0 if found["crossing"]["lam"] is not None else 3
