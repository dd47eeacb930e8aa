"""Plug-in rules: predict every model's score and cost, then take the best utility.

No method of its own: what baseline, regress_and_compare, carrot, cf_regression and rm_residual share.
"""

from dataclasses import replace
from typing import Any

import jax

from jrouter.chunks import map_rows, rows_at_once
from jrouter.features import scale
from jrouter.metrics import decide, expected, utility
from jrouter.nuisances.crossfit_outcome import fit_outcome
from jrouter.nuisances.folds import CrossFit
from jrouter.nuisances.outcome import OutcomeModel
from jrouter.nuisances.regression import TargetModel, fit_targets
from jrouter.nuisances.stacking import Stack
from jrouter.policy import Policy, Problem
from jrouter.splits import Split
from jrouter.types import Array, CounterfactualScores, LoggedData


def plug_in_policy(predict) -> Policy:
    """Policy of a predictor: (params, scaled x) -> standardised [2, T], in units kept with its params."""

    def apply(params, x, lam):
        score, cost = plug_in_outcome(predict, params, x)
        return utility(score, cost, lam)

    return Policy(apply)


def plug_in_outcome(predict, params, x: Array) -> Array:
    """[2, T], predicted score and cost of one query [d] by params of `fit_logged` or `fit_all`."""
    standard = predict(params["model"], scale(params["scaling"], x))
    return params["mean"] + params["deviation"] * standard


def decision_values(predicted: Array, scores: CounterfactualScores, lambdas: Array) -> Array:
    """What each row's plug-in decisions are worth, by scores that did not make them.

    mean over lambdas of the score less lam * cost of argmax_t predicted utility

    Args:
      predicted: [n, 2, T], score and cost of each model.
      scores: counterfactual, of the n rows.
      lambdas: [L].

    Returns:
      [n].
    """

    def of_row(row):
        predicted, score, cost = row

        def at(lam):
            choice = decide(utility(predicted[0], predicted[1], lam))
            return expected(choice, utility(score, cost, lam))

        return jax.vmap(at)(lambdas).mean()

    chunk = rows_at_once(lambdas.shape[0] * scores.score.shape[1])
    return map_rows(of_row, (predicted, scores.score, scores.cost), chunk=chunk)


def _folds_needed(family: OutcomeModel | Stack | TargetModel, split: Split) -> Split:
    """Folds serve to choose a strength: without a choice, one fit on all rows is enough."""
    return split if len(family.strengths) > 1 else replace(split, n_folds=1)


def fit_logged(key: Array, family: OutcomeModel | Stack, log: LoggedData, problem: Problem) -> dict[str, Any]:
    """Params of the plug-in rule of an outcome model fitted on the log's own outcomes."""
    return plug_in_params(fit_outcome(key, family, log, _folds_needed(family, problem.split)))


def plug_in_params(fit: CrossFit) -> dict[str, Any]:
    """Params of the plug-in rule of an outcome model, those fitted on all rows."""
    last = jax.tree.map(lambda leaf: leaf[-1], (fit.params, fit.units))
    return {"model": last[0], "mean": last[1].mean, "deviation": last[1].deviation, "scaling": fit.scaling}


def fit_all(key: Array, family: TargetModel, problem: Problem, score: Array, cost: Array) -> dict[str, Any]:
    """Params of the plug-in rule of a regression on every model's target [n, T]."""
    fit = fit_targets(key, family, problem.log, _folds_needed(family, problem.split), score, cost)
    last = jax.tree.map(lambda leaf: leaf[-1], fit.params)
    return {"model": last, "mean": fit.mean, "deviation": fit.deviation, "scaling": fit.scaling}
