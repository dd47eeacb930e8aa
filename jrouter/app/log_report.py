"""What a log supports, as plain values: for a terminal, a JSON file, a page, and the manifest of a router."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.app.diagnosis_plots import as_results
from jrouter.counterfactual import counterfactual_scores, scored_factor
from jrouter.diagnostics import Diagnosis, diagnose
from jrouter.inference import standard_error, wald_interval
from jrouter.interval import ascending, lambda_grid
from jrouter.metrics import decide, utility
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.off_policy import value_of_choices
from jrouter.router_record import now
from jrouter.splits import split_log
from jrouter.types import Array, LoggedData, Nuisances
from jrouter.verdict import LEVELS, Verdict, judge, judge_numbers
from jrouter.weighted import model_means, weighted_mean

LAMBDAS = 5
"""Lambdas that a log is diagnosed at, where none are given."""
ESTIMATED = (
    "The log has no propensities: they are estimated from the queries. That is weaker: whatever drove the choice of "
    "a model and is not in the query's embedding biases everything below, and no number here can show it. Log the "
    "probability with which each model was chosen (`jrouter route --explore` writes it)."
)
LOGGED = (
    "Propensities are the log's own: nothing that drove the choice of a model can bias what is estimated with them."
)


def diagnose_log(
    log: LoggedData,
    *,
    lambdas: Sequence[float] | Array | None = None,
    nuisances: NuisanceConfig = NuisanceConfig(),
    seed: int = 0,
) -> dict[str, Any]:
    """What a log supports: at each lambda of the rule that takes the model of the best held-out estimates, by model.

    Args:
      log: from `read_log`.
      lambdas: where; None for five where this log's scores and costs trade.
      nuisances: how propensities and outcomes are estimated.
      seed: of the folds.

    Returns:
      Plain JSON values: `log`, `models`, `propensity`, `by_lambda`, `diagnosis` (at the middle lambda), `verdict`.
      The verdict of the log is "refuse" where no lambda can be trusted, "ok" where all can.
    """
    grid = ascending(lambda_grid(log, size=LAMBDAS) if lambdas is None else jnp.asarray(lambdas))
    split = split_log([log], seeds=[seed])[0]
    # Folds are an argument: as constants they would be sorted while compiling.
    fit = jax.jit(lambda key, log, split: fit_nuisances(key, log, split, nuisances))
    estimated = fit(jax.random.key(seed), log, split)
    run = jax.jit(_at_lambda)
    found = [jax.tree.map(np.asarray, run(log, estimated, lam)) for lam in grid]
    verdicts = [judge(diagnosis) for diagnosis, _ in found]
    by_lambda = [
        _lambda_row(float(lam), verdict, *one) for lam, verdict, one in zip(grid, verdicts, found, strict=True)
    ]
    middle = found[len(found) // 2][0]
    results = as_results(middle, log.models, dim=log.x.shape[1])
    propensity = results["diagnosis"]["propensity_calibration"]
    return {
        "log": _at_a_glance(log),
        "models": _models(log, middle),
        "propensity": {
            "kind": "estimated" if log.propensity is None else "logged",
            "statement": ESTIMATED if log.propensity is None else LOGGED,
            "calibration": propensity,
        },
        "features": results["features"],
        "diagnosis": results["diagnosis"],
        "by_lambda": by_lambda,
        "verdict": _overall(np.asarray(grid).tolist(), verdicts),
        "versions": {name: importlib.metadata.version(name) for name in ("jrouter", "jax")},
        "created": now(),
    }


def _at_lambda(log: LoggedData, estimated: Nuisances, lam: Array) -> tuple[Diagnosis, dict[str, Array]]:
    probability = jax.vmap(decide)(utility(estimated.score, estimated.cost, lam))
    scores = counterfactual_scores(log, estimated)
    value = value_of_choices(probability[:, None], scores.score, scores.cost, lam[None], log.row_weight, log.group)
    own = jnp.take_along_axis(estimated.score, log.model[:, None], axis=1)[:, 0]
    logged = utility(own + scored_factor(log, estimated) * (log.score - own), log.cost, lam)
    gain = value.rows[0] - logged
    return diagnose(log, estimated, probability, lam=lam), {
        "value": value.value[0],
        "logging_value": weighted_mean(logged, log.weight),
        "gain": weighted_mean(gain, log.weight),
        "error": standard_error(gain, log.weight, group=log.group),
        "mix": weighted_mean(probability, log.weight),
    }


def _lambda_row(lam: float, verdict: Verdict, diagnosis: Diagnosis, values: dict[str, Any]) -> dict[str, Any]:
    interval = wald_interval(jnp.array(values["gain"]), jnp.array(values["error"]))
    weights, support = diagnosis.policy_weights, diagnosis.policy_support
    assert weights is not None and support is not None  # a policy was given
    return {
        "lam": lam,
        **{name: float(values[name]) for name in ("value", "logging_value", "gain")},
        "gain_low": float(interval.low),
        "gain_high": float(interval.high),
        "effective_rows": float(weights.effective_rows),
        "pareto_k": float(weights.pareto_k),
        "no_support": float(support.absent),
        "mix": np.round(values["mix"], 4).tolist(),
        "verdict": verdict.level,
        "reasons": list(verdict.reasons),
    }


def _at_a_glance(log: LoggedData) -> dict[str, Any]:
    weight, score_weight = log.weight, log.score_weight
    queries = log.model.shape[0] if log.group is None else len(np.unique(np.asarray(log.group)))
    return {
        "rows": int(log.model.shape[0]),
        "queries": int(queries),
        "models": len(log.models),
        "scored_share": float(score_weight.sum() / jnp.maximum(weight.sum(), 1e-30)),
        "mean_score": float(weighted_mean(log.score, score_weight)),
        "mean_cost": float(weighted_mean(log.cost, weight)),
        "cost_unit": log.cost_unit,
        "time": None,
    }


def _models(log: LoggedData, diagnosis: Diagnosis) -> list[dict[str, Any]]:
    n_models = len(log.models)
    score = np.asarray(model_means(log.score, log.model, log.score_weight, n_models=n_models))
    cost = np.asarray(model_means(log.cost, log.model, log.weight, n_models=n_models))
    rows = []
    for place, name in enumerate(log.models):
        weights, support = jax.tree.map(
            lambda leaf, at=place: leaf[at], (diagnosis.model_weights, diagnosis.model_support)
        )
        own = np.asarray(log.score_weight) * (np.asarray(log.model) == place)
        scored = int((own > 0).sum())
        verdict = judge_numbers(
            {
                "rows": float(diagnosis.rows),
                "effective_rows": float(weights.effective_rows),
                "largest_share": float(weights.largest_share),
                "pareto_k": float(weights.pareto_k),
                "mean_z": float(weights.mean_z),
                "unsupported": float(max(support.absent - 2.0 * support.absent_error, 0.0)),
                "propensity_p": float(diagnosis.propensity_misfit.p_value),
                "outcome_p": float(diagnosis.utility_misfit.p_value),
                "imbalance": float(diagnosis.balance.largest_after[place]),
                "least_rows": float(diagnosis.model_rows[place]),
            }
        )
        error = float(standard_error(log.score, jnp.asarray(own), group=log.group)) if scored > 1 else None
        rows.append(
            {
                "name": name,
                "rows": int(diagnosis.model_rows[place]),
                "share": float(diagnosis.share[place]),
                "scored": scored,
                "mean_score": float(score[place]) if scored else None,
                "score_error": error,
                "mean_cost": float(cost[place]) if np.isfinite(cost[place]) else None,
                "effective_rows": float(weights.effective_rows),
                "largest_weight": float(weights.largest),
                "pareto_k": float(weights.pareto_k),
                "no_support": float(support.absent),
                "smd_before": float(diagnosis.balance.largest_before[place]),
                "smd_after": float(diagnosis.balance.largest_after[place]),
                "verdict": verdict.level,
                "reasons": [
                    reason.replace("this policy", "it").replace("the policy's", "its") for reason in verdict.reasons
                ],
            }
        )
    return rows


def _overall(lambdas: Sequence[float], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The log's verdict: refuse where no lambda can be trusted, ok where all can, and the reasons by lambda."""
    levels = [LEVELS.index(verdict.level) for verdict in verdicts]
    level = 2 if min(levels) == 2 else min(max(levels), 1)
    reasons = []
    for reason in dict.fromkeys(reason for verdict in verdicts for reason in verdict.reasons):
        where = [f"{lam:.4g}" for lam, verdict in zip(lambdas, verdicts, strict=True) if reason in verdict.reasons]
        reasons.append(f"lambda {', '.join(where)}: {reason}")
    return {"level": LEVELS[level], "reasons": reasons}
