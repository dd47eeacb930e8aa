"""Cross-fitting: each row's nuisances come from models that never saw it.

Folds are row weights: fold k is fitted with weight 0 on its own rows, and one further fit has them
all. So all K + 1 fits are one vmapped program, and strengths of regularisation are chosen by the
folds' held-out error. That choice uses all rows; it is one number, and the fits themselves do not.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrouter.chunks import map_rows
from jrouter.features import fit_scaling, scale
from jrouter.metrics import masked
from jrouter.nuisances import kernel, neighbours, outcome, propensity, ridge
from jrouter.nuisances.outcome import OutcomeModel, outcomes_of
from jrouter.nuisances.propensity import Choices, Clipping, PropensityModel
from jrouter.nuisances.stacking import Stack, stacking_weights
from jrouter.splits import Split, rows_by_label
from jrouter.types import Array, LoggedData, Nuisances
from jrouter.weighted import weighted_mean


def stacked() -> Stack:
    """The default stack: what is linear in the query, partly shared by all models, and what is local."""
    return Stack({"pooled": ridge.pooled(), "knn": neighbours.knn()})


OUTCOME_MODELS = {
    "ridge": ridge.ridge,
    "pooled": ridge.pooled,
    "mlp": outcome.mlp,
    "mlp_per_model": outcome.mlp_per_model,
    "mlp_pooled": outcome.mlp_pooled,
    "knn": neighbours.knn,
    "kernel": kernel.kernel_pooled,
    "stacked": stacked,
}
PROPENSITY_MODELS = {"logistic": propensity.logistic, "mlp": propensity.mlp}


@dataclass(frozen=True)
class NuisanceConfig:
    """How nuisances are estimated.

    Attributes:
      outcome: one of `OUTCOME_MODELS`.
      propensity: one of `PROPENSITY_MODELS`; used where the log has no propensities.
      clipping: of estimated propensities.
    """

    outcome: str = "pooled"
    propensity: str = "logistic"
    clipping: Clipping = field(default_factory=Clipping)

    def __post_init__(self):
        for name, family in (("outcome", OUTCOME_MODELS), ("propensity", PROPENSITY_MODELS)):
            if getattr(self, name) not in family:
                raise ValueError(f"unknown {name} model {getattr(self, name)!r}: expected one of {', '.join(family)}")


class CrossFit(NamedTuple):
    """A family fitted on each fold's complement and on all rows.

    Attributes:
      params: leading axis K + 1, the last fitted on all rows.
      units: of outcomes, leading axis K + 1; None for propensities.
      scaling: of embeddings, from all rows (no outcome enters).
      strength: chosen strength, for score and for cost where the family is an outcome model; of a stack,
        {"parts": strengths of each family, "weight": [2, M]}.
      error: [P, ...] held-out error of each candidate (zeros where there was no choice).
      predicted: [n, 2, T], cross-fitted score and cost of each row; None for propensities.
      parts: fits of the families of a stack, by name; None for a single family.
    """

    params: Any
    units: Any
    scaling: dict[str, Array]
    strength: Any
    error: Array
    predicted: Any = None
    parts: Any = None


def require_smooth(config: NuisanceConfig) -> None:
    """Raises a ValueError for outcome models that move in jumps with the rows: nearest neighbours."""
    if not OUTCOME_MODELS[config.outcome]().smooth:
        smooth = ", ".join(name for name, family in OUTCOME_MODELS.items() if family().smooth)
        raise ValueError(
            f"outcome model {config.outcome!r} finds nearest neighbours, for which neither the bootstrap nor the "
            "jackknife is consistent (Abadie & Imbens 2008): resamples do not reproduce how often a row is a "
            f"neighbour of others; use NuisanceConfig(outcome=...) with one of {smooth}, or an error with the "
            "nuisances as they are"
        )


def fold_weights(log: LoggedData, split: Split) -> Array:
    """[K + 1, n], row weights of each fold's complement, then of all rows."""
    if split.n_folds == 1:
        return log.weight[None]
    held_out = split.fold == jnp.arange(split.n_folds + 1)[:, None]
    return jnp.where(held_out, 0.0, log.weight)


def held_out(predict, params: Any, x: Array, split: Split, *, only_first: bool = False) -> Array:
    """Predictions [n, ...] of each row of x by the fit of its own fold's complement.

    Args:
      predict: (params, x [d]) -> [...].
      params: leading axis K + 1.
      x: [n, d].
      split: folds.
      only_first: predict the rows of the first fold alone; those of others are 0.
    """
    if split.n_folds == 1:
        return map_rows(lambda one: predict(_at(params, 0), one), x)
    rows, present = rows_by_label(split.fold, n_labels=split.n_folds, size=split.fold_size)

    def of_fold(operands):
        number, rows = operands
        return map_rows(lambda one: predict(_at(params, number), one), x[rows])

    if only_first:
        rows, present = rows[:1], present[:1]
    predicted = jax.lax.map(of_fold, (jnp.arange(rows.shape[0]), rows))
    places = jnp.where(present, rows, x.shape[0])
    return jnp.zeros((x.shape[0], *predicted.shape[2:])).at[places].set(predicted, mode="drop")


def _at(tree: Any, index) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


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
        residual = (_at_logged(predicted, log) - observed) / _at(units, -1).deviation[:, log.model].T
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
        solution = jax.vmap(family.choose)(_at(solutions, best[0]), _at(solutions, best[1]))
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
        mean, deviation = (part[:, log.model].T for part in _at(units, -1))
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


def fit_propensity(
    key: Array, family: PropensityModel, log: LoggedData, split: Split, *, strength: Any = None
) -> CrossFit:
    """Fits a propensity model on each fold's complement and on all rows.

    Args:
      key: for families that need one.
      family: e.g. `propensity.logistic()`.
      log: n rows.
      split: folds.
      strength: `CrossFit.strength` of another fit of this family, to be used instead of choosing.
    """
    if strength is not None:
        family = family._replace(strengths=jnp.asarray(strength)[None])
    scaling = fit_scaling(log.x, log.weight)
    allowed = jnp.ones((log.model.shape[0], len(log.models)), bool) if log.allowed is None else log.allowed
    choices = Choices(scale(scaling, log.x), log.model, allowed)
    weights = fold_weights(log, split)
    keys = jax.random.split(key, weights.shape[0])
    fit = jax.vmap(lambda key, weight, strength: family.fit(key, choices, weight, strength), in_axes=(0, 0, None))
    candidates = jax.vmap(fit, in_axes=(None, None, 0))(keys, weights, family.strengths)

    def held_out_loss(params):
        chosen = held_out_propensity(family, CrossFit(params, None, scaling, weights, weights), log, split)
        # Where in the log: a probability may underflow to 0 in float32.
        return weighted_mean(-jnp.log(jnp.maximum(chosen, 1e-30)), log.weight)

    if len(family.strengths) > 1 and split.n_folds > 1:
        error = jax.lax.map(held_out_loss, candidates)
        best = jnp.argmin(error)
    else:
        error, best = jnp.zeros(1), len(family.strengths) // 2
    return CrossFit(_at(candidates, best), None, scaling, family.strengths[best], error)


def held_out_propensity(family: PropensityModel, fit: CrossFit, log: LoggedData, split: Split) -> Array:
    """[n], cross-fitted probability of the logged model, before any clipping."""
    return jnp.take_along_axis(held_out_propensities(family, fit, log, split), log.model[:, None], axis=1)[:, 0]


def held_out_propensities(family: PropensityModel, fit: CrossFit, log: LoggedData, split: Split) -> Array:
    """[n, T], cross-fitted probability of every model, before any clipping."""
    x = scale(fit.scaling, log.x)
    log_odds = held_out(family.log_odds, fit.params, x, split)
    return jax.nn.softmax(log_odds if log.allowed is None else masked(log_odds, log.allowed))


class Strengths(NamedTuple):
    """As `CrossFit.strength`: of the outcome model, and of propensities (None where the log has them)."""

    outcome: Any
    propensity: Any = None


def choose_strengths(key: Array, log: LoggedData, split: Split, config: NuisanceConfig = NuisanceConfig()) -> Strengths:
    """The strengths that `fit_nuisances` would choose on this log: to be kept where it is refitted on resamples."""
    key_outcome, key_propensity = jax.random.split(key)
    outcome = fit_outcome(key_outcome, OUTCOME_MODELS[config.outcome](), log, split).strength
    if log.propensity is not None:
        return Strengths(outcome)
    return Strengths(
        outcome, fit_propensity(key_propensity, PROPENSITY_MODELS[config.propensity](), log, split).strength
    )


def fit_nuisances(
    key: Array,
    log: LoggedData,
    split: Split,
    config: NuisanceConfig = NuisanceConfig(),
    *,
    strengths: Strengths | None = None,
) -> Nuisances:
    """Cross-fitted propensity and outcomes of every row of a log.

    A pure function: vmap or map it over logs. Logged propensities are used as they are.

    Args:
      key: for the families that need one.
      log: n rows.
      split: folds; with n_folds=1 cross-fitting is off and every row sees itself.
      config: which families, and the clipping of estimated propensities.
      strengths: of regularisation, to be used instead of choosing.

    Returns:
      `Nuisances` of the n rows.

    Source: arXiv 2505.16037 (estimators); Chernozhukov et al. (2018), cross-fitting.
    """
    key_outcome, key_propensity = jax.random.split(key)
    family = OUTCOME_MODELS[config.outcome]()
    given = strengths or Strengths(None)
    score, cost = held_out_outcome(fit_outcome(key_outcome, family, log, split, strength=given.outcome))
    chosen, every = cross_fitted_propensity(key_propensity, log, split, config, strength=given.propensity)
    return Nuisances(chosen, score, cost, split.fold, every)


def cross_fitted_propensity(
    key: Array, log: LoggedData, split: Split, config: NuisanceConfig, *, strength: Any = None
) -> tuple[Array, Array | None]:
    """Probability of the logged model [n] and of every model [n, T], after the floor or clipping.

    The log's own, unclipped and for the logged model alone, where it has them.

    Args:
      key: for families that need one.
      log: n rows.
      split: folds.
      config: family and clipping.
      strength: of regularisation, to be used instead of choosing.
    """
    if log.propensity is not None:
        return log.propensity, None
    family = PROPENSITY_MODELS[config.propensity]()
    fit = fit_propensity(key, family, log, split, strength=strength)
    every = _clip_by_fold(held_out_propensities(family, fit, log, split), log, split, config.clipping)
    chosen = jnp.take_along_axis(every, log.model[:, None], axis=1)[:, 0]
    return chosen, every if log.allowed is None else jnp.where(log.allowed, every, 0.0)


def _clip_by_fold(every: Array, log: LoggedData, split: Split, clipping: Clipping) -> Array:
    """Clips each row [T] by the percentiles of the other folds' logged models (of all rows without folds)."""
    n_models = len(log.models)
    chosen = jnp.take_along_axis(every, log.model[:, None], axis=1)[:, 0]

    def of_fold(weight):
        return propensity.clip(every, clipping, n_models=n_models, training=chosen, training_weight=weight)

    clipped = jax.vmap(of_fold)(fold_weights(log, split))
    return clipped[split.fold, jnp.arange(log.model.shape[0])] if split.n_folds > 1 else clipped[0]
