"""`jrouter evaluate`: what a router is worth on a log it has not seen, and whether that traffic is alike."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jrouter.app.diagnose import lambdas_of
from jrouter.app.options import LogPlace, MaybeFile, MaybeNumbers, RouterFolder
from jrouter.app.read import LogOptions, read_traffic
from jrouter.app.terminal import bullets, check_file, heading
from jrouter.counterfactual import scored_factor
from jrouter.diagnostics import diagnose
from jrouter.inference import wald_interval
from jrouter.interval import nearest
from jrouter.io.replace import replace_whole
from jrouter.io.results import text_table
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.off_policy import PolicyValue, fixed_policy_value, paired_difference, value_of_rows
from jrouter.policy import Policy
from jrouter.router import Router
from jrouter.shift import shift
from jrouter.splits import split_log
from jrouter.types import Array, LoggedData, Nuisances
from jrouter.verdict import judge

REFIT_ROWS = 20_000
"""Rows up to which standard errors go through the fits of the nuisances, where `refit` is not given."""
SHIFTED, SHIFTED_Z = 0.2, 4.0
"""Distance in standard deviations, and z, from which on traffic is called different."""
MOVED, MOVED_Z = 0.1, 4.0
"""Share, and z, from which on a model's cost is called different."""


def evaluate_router(
    router: Router,
    log: LoggedData,
    *,
    lambdas: Sequence[float] | None = None,
    refit: bool | None = None,
    nuisances: NuisanceConfig = NuisanceConfig(),
    seed: int = 0,
) -> dict[str, Any]:
    """Off-policy value of a router on a log that it was not fitted on.

    Args:
      router: to be valued, as it is served.
      log: n rows; its models are the router's, others after them. Its costs are valued as they were logged.
      lambdas: where; None for those the router was fitted for.
      refit: whether standard errors hold that the nuisances would be others on another log; None for logs of up to
        20,000 rows.
      nuisances: how propensities and outcomes are estimated.
      seed: of the folds.

    Returns:
      Plain JSON values: `by_lambda` with values, gains over the logging policy and over the best single model (by the
      router's forecasts, so that this log does not choose it), and verdicts; `shift`, and `warnings`.

    Raises:
      ValueError: for a log of other models.
    """
    grid = jnp.asarray(router.lambdas if lambdas is None else lambdas, jnp.float32)
    policy, params = router.served(log.models)
    split = split_log([log], seeds=[seed])[0]
    key = jax.random.key(seed)
    through = log.model.shape[0] <= REFIT_ROWS if refit is None else refit
    # Folds are an argument: as constants they would be sorted while compiling.
    fitted = jax.jit(lambda key, log, split: fit_nuisances(key, log, split, nuisances))(key, log, split)
    best = best_single_of(router, log, grid)

    def values(key, log, split, params, grid):
        return [
            fixed_policy_value(key, log, split, one, own, grid, nuisances=nuisances, refit=through)
            for one, own in (
                (policy, params),
                (ONE_EACH, {"chosen": jax.nn.one_hot(best, len(log.models)), "lambdas": grid}),
            )
        ]

    value, single = jax.jit(values)(key, log, split, params, grid)
    logging = logged_value(log, fitted, grid)
    over_logging, over_best = paired_difference(value, logging), paired_difference(value, single)
    rows = []
    of_lambda = jax.jit(lambda lam, log, fitted, params: _diagnosed(policy, params, log, fitted, lam))
    for place, lam in enumerate(np.asarray(grid).tolist()):
        verdict = judge(jax.tree.map(np.asarray, of_lambda(lam, log, fitted, params)))
        rows.append(
            {
                "lam": lam,
                **_estimate("value", value.value[place], value.error[place]),
                **_estimate("score", value.score[place], value.score_error[place]),
                **_estimate("cost", value.cost[place], value.cost_error[place]),
                "logging_value": float(logging.value[place]),
                **_estimate("gain", *(part[place] for part in over_logging)),
                "best_single": log.models[int(best[place])],
                **_estimate("gain_over_best", *(part[place] for part in over_best)),
                "verdict": verdict.level,
                "reasons": list(verdict.reasons),
            }
        )
    moved, warnings = _moved(router, log)
    return {
        "router": router.version,
        "rows": int(log.model.shape[0]),
        "cost_unit": log.cost_unit,
        "propensity": "estimated" if log.propensity is None else "logged",
        "refit": bool(through),
        "by_lambda": rows,
        "shift": moved,
        "warnings": warnings,
    }


ONE_EACH = Policy(lambda params, x, lam: params["chosen"][nearest(params["lambdas"], lam)])
"""One model at each lambda: params {"chosen" [L, T] one-hot, "lambdas" [L]}."""


def best_single_of(router: Router, log: LoggedData, lambdas: Array) -> Array:
    """[L] int, the model of the pool with the best mean forecast on these queries: no outcome is looked at."""
    score, cost = (np.average(part, axis=0, weights=np.asarray(log.weight)) for part in router.forecast(log.x))
    usable = np.array([name in router.pool for name in router.models])
    values = np.where(usable, score - np.asarray(lambdas)[:, None] * cost, -np.inf)
    return jnp.asarray(values.argmax(axis=1))


def logged_value(log: LoggedData, fitted: Nuisances, lambdas: Array) -> PolicyValue:
    """Value of what the log did: its own outcomes, corrected where answers were not scored."""
    own = jnp.take_along_axis(fitted.score, log.model[:, None], axis=1)[:, 0]
    score = own + scored_factor(log, fitted) * (log.score - own)
    score, cost = (jnp.broadcast_to(part, (lambdas.shape[0], *part.shape)) for part in (score, log.cost))
    return value_of_rows(score, cost, lambdas, log.row_weight, log.group)


def _diagnosed(policy: Policy, params: Any, log: LoggedData, fitted: Nuisances, lam: Any):
    probability = jax.lax.map(lambda x: policy.probabilities(params, x, lam), log.x, batch_size=1024)
    return diagnose(log, fitted, probability, lam=lam)


def _estimate(name: str, value: Any, error: Any) -> dict[str, float]:
    interval = wald_interval(jnp.asarray(value), jnp.asarray(error))
    return {
        name: float(value),
        f"{name}_error": float(error),
        f"{name}_low": float(interval.low),
        f"{name}_high": float(interval.high),
    }


def _moved(router: Router, log: LoggedData) -> tuple[dict[str, Any] | None, list[str]]:
    """How far queries and costs are from those of the training log, and what to say of it."""
    warnings = [
        f"the log has {int((np.asarray(log.model) == place).sum()):,} rows of {name}, which this router does not know"
        for place, name in enumerate(log.models)
        if place >= len(router.models)
    ]
    if router.reference is None:
        return None, [*warnings, "this router does not remember its queries (an older format): traffic is not compared"]
    queries = None if log.group is None else len(np.unique(np.asarray(log.group)))
    found = jax.jit(lambda reference, log: shift(reference, log.x, log.row_weight, queries=queries))(
        router.reference, log
    )
    distance, z = float(found.distance), float(found.z)
    if distance > SHIFTED and z > SHIFTED_Z:
        warnings.append(
            f"these queries are not those of the training log: their mean moved by {distance:.2f} standard deviations "
            f"(z = {z:.0f}); the values below are of this traffic, but the router was made for other: fit it again"
        )
    for name, ratio, z_cost in _cost_changes(router, log):
        if abs(ratio - 1.0) > MOVED and abs(z_cost) > MOVED_Z:
            warnings.append(
                f"{name} costs {ratio:.2f} times what the router expects on these queries: a new price? "
                f"`jrouter pool --price {name}={ratio * router.prices[router.models.index(name)]:.3g}`"
            )
    return {"distance": distance, "z": z}, warnings


def _cost_changes(router: Router, log: LoggedData) -> list[tuple[str, float, float]]:
    """Of each model with 30 rows or more: observed over forecast cost, and how many standard errors that is from 1."""
    _, cost = router.forecast(log.x)
    model, observed = np.asarray(log.model), np.asarray(log.cost, np.float64)
    found = []
    for place, name in enumerate(router.models):
        rows = np.flatnonzero(model == place)
        expected = cost[rows, place].astype(np.float64)
        if len(rows) < 30 or not expected.sum() > 0:
            continue
        ratio = observed[rows].sum() / expected.sum()
        error = np.sqrt(np.square(observed[rows] - ratio * expected).sum()) / expected.sum()
        found.append((name, float(ratio), float((ratio - 1.0) / max(error, 1e-12))))
    return found


def describe_evaluation(found: dict[str, Any]) -> str:
    """An evaluation as text for a terminal."""
    weaker = ", which is weaker than logged ones" if found["propensity"] == "estimated" else ""
    errors = "hold the fits of the nuisances" if found["refit"] else "take the nuisances as they are"
    lines = [
        heading(f"Router {found['router']} on {found['rows']:,} rows it has not seen (utility x 100, 95% intervals)"),
        f"  propensities are {found['propensity']}{weaker}; standard errors {errors}",
        *(f"  ! {line.strip(' -')}" for line in found["warnings"]),
    ]
    table = [
        [
            f"{row['lam']:.4g}",
            f"{100 * row['value']:.1f} ± {196 * row['value_error']:.1f}",
            f"{row['score']:.3f}",
            f"{row['cost']:.3g}",
            f"{100 * row['gain']:+.1f} [{100 * row['gain_low']:+.1f}, {100 * row['gain_high']:+.1f}]",
            f"{100 * row['gain_over_best']:+.1f} ± {196 * row['gain_over_best_error']:.1f}",
            row["best_single"],
            row["verdict"],
        ]
        for row in found["by_lambda"]
    ]
    header = ["lambda", "value", "score", "cost", "gain over logging", "over best single", "(that is)", "verdict"]
    lines += ["  " + line for line in text_table(header, table).splitlines()]
    reasons = dict.fromkeys(reason for row in found["by_lambda"] for reason in row["reasons"])
    for reason in reasons:
        where = ", ".join(f"{row['lam']:.4g}" for row in found["by_lambda"] if reason in row["reasons"])
        lines += bullets([f"lambda {where}: {reason}"])
    return "\n".join(lines)


@dataclass(frozen=True)
class Evaluate:
    """Values a router on a log it has not seen, against what the log did and the best single model."""

    router: RouterFolder
    """Folder of the router."""
    log: LogPlace
    """A log that the router was not fitted on."""
    read: LogOptions = LogOptions()
    lambdas: MaybeNumbers = None
    """Comma-separated; by default those the router was fitted for."""
    refit: Annotated[bool | None, tyro.conf.arg(metavar="True|False", help_behavior_hint="")] = None
    """Whether errors allow for propensities and outcome model being estimated; by default up to 20,000 rows."""
    json: MaybeFile = None
    """Also writes the evaluation there."""
    seed: int = 0
    """Of folds and samples."""

    def run(self) -> int:
        check_file("--json", self.json)
        lambdas = lambdas_of(self.lambdas)
        router = Router.load(self.router)
        with read_traffic(router, self.log, self.read, seed=self.seed) as team:
            found = evaluate_router(router, team.log, lambdas=lambdas, refit=self.refit, seed=self.seed)
            same = team.report.fingerprint == router.record.get("data", {}).get("fingerprint")
        if same:
            found["warnings"].insert(0, "this is the log that the router was fitted on: its values are too high")
        print(describe_evaluation(found))
        if self.json is not None:
            replace_whole(self.json, lambda file: file.write(json.dumps(found, indent=1) + "\n"))
        return 0
