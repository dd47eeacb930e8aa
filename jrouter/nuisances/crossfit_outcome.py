"""Cross-fitted outcomes: what every model would have scored and cost, by fits that never saw the row.

Folds are row weights: fold k is fitted with weight 0 on its own rows, and one further fit has them
all. So all K + 1 fits are one vmapped program, and strengths of regularisation are chosen by the
folds' held-out error. That choice uses all rows; it is one number, and the fits themselves do not.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jrouter.features import fit_scaling, scale
from jrouter.nuisances.folds import CrossFit, at, fold_weights, held_out
from jrouter.nuisances.outcome import OutcomeModel, outcomes_of
from jrouter.nuisances.stacking import Stack, stacking_weights
from jrouter.splits import Split
from jrouter.types import Array, LoggedData
from jrouter.weighted import weighted_mean


def outcome_predictor(family: OutcomeModel | Stack):
    """((params, units), scaled x) -> [2, T] in the units of score and cost."""
    return lambda fit, x: fit[1].mean + fit[1].deviation * family.predict(fit[0], x)


def fit_outcome(
    key: Array, family: OutcomeModel | Stack, log: LoggedData, split: Split, *, strength: Any = None
) -> CrossFit:
    """Fits an outcome model on each fold's complement and on all rows.

    Args:
      key: for families that need one.
      family: e.g. `ridge.pooled()`, or a `Stack` of several.
      log: n rows.
      split: folds.
      strength: `CrossFit.strength` of another fit of this family, to be used instead of choosing.
    """
    if isinstance(family, Stack):
        return _fit_stack(key, family, log, split, strength)
    scaling = fit_scaling(log.x, log.weight)
    x = scale(scaling, log.x)
    weights = fold_weights(log, split)
    outcomes, units = jax.vmap(lambda weight: outcomes_of(log, x, weight, family.features))(weights)
    keys = jax.random.split(key, weights.shape[0])
    # x and the choices are the same in every fold: only what differs gets the fold axis.
    by_fold = None if outcomes.features is None else 0
    axes = outcomes._replace(x=None, model=None, observed=0, weight=0, features=by_fold)
    outcomes = outcomes._replace(x=x, model=log.model)
    statistics = jax.vmap(
        lambda key, of_fold: family.prepare(key, of_fold, len(log.models), split.model_size), in_axes=(0, axes)
    )(keys, outcomes)
    solve, assemble = jax.vmap(family.solve, in_axes=(0, None)), jax.vmap(family.assemble)
    observed = jnp.stack([log.score, log.cost], axis=1)
    row_weight = jnp.stack([log.score_weight, log.weight], axis=1)
    if family.shared_work:
        row_weight = row_weight * (split.fold == 0)[:, None]

    def attempt(strength):
        solution = solve(statistics, strength)
        fit = assemble(statistics, solution), units
        predicted = held_out(outcome_predictor(family), fit, x, split, only_first=family.shared_work)
        residual = (_at_logged(predicted, log) - observed) / at(units, -1).deviation[:, log.model].T
        return solution, weighted_mean(residual**2, row_weight)

    error = jnp.zeros((1, 2))
    if strength is not None:
        solutions = [solve(statistics, strength[output]) for output in (0, 1)]
        solution = jax.vmap(family.choose)(*solutions)
    elif len(family.strengths) > 1 and split.n_folds > 1:
        solutions, error = jax.lax.map(
            attempt, family.strengths, batch_size=len(family.strengths) if family.shared_work else 1
        )
        best = jnp.argmin(error, axis=0)
        solution = jax.vmap(family.choose)(at(solutions, best[0]), at(solutions, best[1]))
        strength = family.strengths[best]
    else:
        strength = jnp.stack([family.strengths[len(family.strengths) // 2]] * 2)
        solution = solve(statistics, strength[0])
    params = assemble(statistics, solution)
    predicted = held_out(outcome_predictor(family), (params, units), x, split)
    return CrossFit(params, units, scaling, strength, error, predicted)


def _at_logged(predicted: Array, log: LoggedData) -> Array:
    """[n, 2], predictions [n, 2, T] for the models that were logged."""
    return jnp.take_along_axis(predicted, log.model[:, None, None], axis=2)[..., 0]


def _fit_stack(key: Array, stack: Stack, log: LoggedData, split: Split, strength: Any) -> CrossFit:
    """Fits every family of a stack, then their weights on the rows that each of their fits held out."""
    keys = jax.random.split(key, len(stack.families))
    fits = {
        name: fit_outcome(key, family, log, split, strength=None if strength is None else strength["parts"][name])
        for key, (name, family) in zip(keys, stack.families.items(), strict=True)
    }
    # All families have the same units: those of the rows, around each model's mean.
    units, scaling = next((fit.units, fit.scaling) for fit in fits.values())
    if strength is None:
        mean, deviation = (part[:, log.model].T for part in at(units, -1))
        predicted = jnp.stack([(_at_logged(fit.predicted, log) - mean) / deviation for fit in fits.values()])
        observed = (jnp.stack([log.score, log.cost], axis=1) - mean) / deviation
        row_weight = jnp.stack([log.score_weight, log.weight], axis=1)
        weight = jax.vmap(stacking_weights, in_axes=(2, 1, 1))(predicted, observed, row_weight)
    else:
        weight = strength["weight"]
    # A family's prediction around its fold's mean, weighted; the same algebra as `Stack.predict`.
    fold_mean = units.mean[split.fold] if split.n_folds > 1 else units.mean[jnp.zeros_like(split.fold)]
    around = jnp.stack([fit.predicted - fold_mean for fit in fits.values()])
    predicted = fold_mean + jnp.einsum("om,mnot->not", weight, around)
    n_fits = units.mean.shape[0]
    parts = {name: fit.params for name, fit in fits.items()}
    params = {"parts": parts, "weight": jnp.broadcast_to(weight, (n_fits, *weight.shape))}
    chosen = {"parts": {name: fit.strength for name, fit in fits.items()}, "weight": weight}
    return CrossFit(params, units, scaling, chosen, jnp.zeros((1, 2)), predicted, fits)


def held_out_outcome(fit: CrossFit) -> tuple[Array, Array]:
    """Cross-fitted score [n, T] and cost [n, T] of the rows that `fit` was fitted on."""
    return fit.predicted[:, 0], fit.predicted[:, 1]
