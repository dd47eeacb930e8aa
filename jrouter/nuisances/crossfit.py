"""Cross-fitting: each row's nuisances come from models that never saw it.

Folds are row weights: fold k is fitted with weight 0 on its own rows, and one further fit has them
all. So all K + 1 fits are one vmapped program, and strengths of regularisation are chosen by the
folds' held-out error. That choice uses all rows; it is one number, and the fits themselves do not.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrouter.features import fit_scaling, scale
from jrouter.nuisances import events, kernel, neighbours, outcome, propensity, ridge
from jrouter.nuisances.crossfit_propensity import POOLS, clip_by_fold, fit_propensity, held_out_propensities
from jrouter.nuisances.folds import CrossFit, at, fold_weights, held_out
from jrouter.nuisances.outcome import OutcomeModel, outcomes_of
from jrouter.nuisances.propensity import Clipping
from jrouter.nuisances.stacking import Stack, stacking_weights
from jrouter.splits import Split
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
SCORING = ("given_query", "given_model", "given_score")


@dataclass(frozen=True)
class NuisanceConfig:
    """How nuisances are estimated.

    Attributes:
      outcome: one of `OUTCOME_MODELS`.
      propensity: one of `PROPENSITY_MODELS`; used where the log has no propensities.
      clipping: of estimated propensities. Its floor is that of the probabilities of `events` too.
      pool: which models the policies that are to be valued or learned may choose, where the log says which ones
        each row was allowed: "any" of them, or only those that the row was "allowed". See `crossfit_propensity`.
      scoring: what decides, beside chance, whether an answer is scored: "given_query", query and model, by an
        estimate of P(scored | x, t); "given_model", the model alone, by the share of its answers that was scored.
        "given_score" is refused.

    Raises:
      ValueError: for an unknown name, or for scores that are recorded depending on what they are.
    """

    outcome: str = "pooled"
    propensity: str = "logistic"
    clipping: Clipping = field(default_factory=Clipping)
    pool: str = "any"
    scoring: str = "given_query"

    def __post_init__(self):
        for name, family in (("outcome", OUTCOME_MODELS), ("propensity", PROPENSITY_MODELS)):
            if getattr(self, name) not in family:
                raise ValueError(f"unknown {name} model {getattr(self, name)!r}: expected one of {', '.join(family)}")
        for name, known in (("pool", POOLS), ("scoring", SCORING)):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: expected one of {', '.join(known)}")
        if self.scoring == "given_score":
            raise ValueError(
                "scoring 'given_score': where the score itself decides whether it is recorded, the log holds no trace "
                "of the scores that are missing, and no weights repair it. Score rows drawn at random, by query and "
                "model at most (say, by a judge on a random sample), and leave the others without a score; then use "
                "'given_query'"
            )


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


class Strengths(NamedTuple):
    """As `CrossFit.strength`: of the outcome model, and of propensities (None where the log has them).

    And of `events`, None where they are not estimated: of being scored, and [T] of having been allowed.
    """

    outcome: Any
    propensity: Any = None
    scored: Any = None
    allowed: Any = None


def choose_strengths(key: Array, log: LoggedData, split: Split, config: NuisanceConfig = NuisanceConfig()) -> Strengths:
    """The strengths that `fit_nuisances` would choose on this log: to be kept where it is refitted on resamples."""
    key_outcome, key_propensity = jax.random.split(key)
    outcome = fit_outcome(key_outcome, OUTCOME_MODELS[config.outcome](), log, split).strength
    x = scale(fit_scaling(log.x, log.weight), log.x)
    chosen = scored = allowed = None
    if _estimates_scoring(log, config):
        scored = events.fit_scored(log, x, split).strength[0]
    if _estimates_allowed(log, config):
        allowed = events.fit_allowed(log, x, split).strength[0]
    if log.propensity is None:
        family = PROPENSITY_MODELS[config.propensity]()
        chosen = fit_propensity(key_propensity, family, log, split, pool=config.pool).strength
    return Strengths(outcome, chosen, scored, allowed)


def _estimates_scoring(log: LoggedData, config: NuisanceConfig) -> bool:
    return log.scored is not None and config.scoring == "given_query"


def _estimates_allowed(log: LoggedData, config: NuisanceConfig) -> bool:
    return log.propensity is not None and log.allowed is not None and config.pool == "any"


def fit_nuisances(
    key: Array,
    log: LoggedData,
    split: Split,
    config: NuisanceConfig = NuisanceConfig(),
    *,
    strengths: Strengths | None = None,
) -> Nuisances:
    """Cross-fitted propensity and outcomes of every row of a log.

    A pure function: vmap or map it over logs.

    Args:
      key: for the families that need one.
      log: n rows.
      split: folds; with n_folds=1 cross-fitting is off and every row sees itself.
      config: which families, the clipping of estimated propensities, and how rows were selected.
      strengths: of regularisation, to be used instead of choosing.

    Returns:
      `Nuisances` of the n rows.

    Source: arXiv 2505.16037 (estimators); Chernozhukov et al. (2018), cross-fitting.
    """
    key_outcome, key_propensity = jax.random.split(key)
    family = OUTCOME_MODELS[config.outcome]()
    given = strengths or Strengths(None)
    score, cost = held_out_outcome(fit_outcome(key_outcome, family, log, split, strength=given.outcome))
    chosen, every = cross_fitted_propensity(
        key_propensity, log, split, config, strength=given.propensity, allowed_strength=given.allowed
    )
    scored = cross_fitted_scoring(log, split, config, strength=given.scored)
    return Nuisances(chosen, score, cost, split.fold, every, scored)


def cross_fitted_propensity(
    key: Array,
    log: LoggedData,
    split: Split,
    config: NuisanceConfig,
    *,
    strength: Any = None,
    allowed_strength: Any = None,
) -> tuple[Array, Array | None]:
    """Probability of the logged model [n] and of every model [n, T], after the floor or clipping.

    Where the log has its own, p_i = p(t_i | x_i, A_i), they are used unclipped, for the logged model alone. Where it
    also says which models A_i were allowed, and any may be chosen (`config.pool`), the propensity is

        p_i * P(t_i in A | x_i)

    the second factor cross-fitted. Corrections by its inverse are right on average over choices and sets,

        E[1[t_i = t] f(Y_t) / (p(t | x, A) P(t in A | x)) | x]
          = E[1[t in A] E[f(Y_t) | x, A] | x] / P(t in A | x) = E[f(Y_t) | x],

    where A does not depend on outcomes given x. It is not p(t | x): two rows of one query may differ in it. Both
    are right; this one uses what the log knows.

    Args:
      key: for families that need one.
      log: n rows.
      split: folds.
      config: family, clipping and pool.
      strength: of regularisation, to be used instead of choosing.
      allowed_strength: [T], the same of P(t in A | x).
    """
    if log.propensity is not None:
        if not _estimates_allowed(log, config):
            return log.propensity, None
        x = scale(fit_scaling(log.x, log.weight), log.x)
        fits = events.fit_allowed(log, x, split, strength=allowed_strength)
        of_row = partial(events.allowed_probability, floor=config.clipping.floor)
        return log.propensity * held_out(of_row, fits, (x, log.model), split), None
    family = PROPENSITY_MODELS[config.propensity]()
    fit = fit_propensity(key, family, log, split, pool=config.pool, strength=strength)
    every = held_out_propensities(family, fit, log, split, pool=config.pool)
    every = clip_by_fold(every, log, split, config.clipping)
    chosen = jnp.take_along_axis(every, log.model[:, None], axis=1)[:, 0]
    if config.pool == "allowed" and log.allowed is not None:
        every = jnp.where(log.allowed, every, 0.0)
    return chosen, every


def cross_fitted_scoring(
    log: LoggedData, split: Split, config: NuisanceConfig, *, strength: Any = None
) -> Array | None:
    """Probability [n] that the logged model's answer is scored, given query and model; None where shares serve.

    Args:
      log: n rows.
      split: folds.
      config: `scoring`, and the floor, as a share of the model's scored share.
      strength: of regularisation, to be used instead of choosing.
    """
    if not _estimates_scoring(log, config):
        return None
    x = scale(fit_scaling(log.x, log.weight), log.x)
    of_row = partial(events.scored_probability, floor=config.clipping.floor)
    return held_out(of_row, events.fit_scored(log, x, split, strength=strength), (x, log.model), split)
