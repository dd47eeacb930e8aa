"""Cross-fitting: each row's nuisances, propensity and outcomes, come from models that never saw it.

`crossfit_outcome` and `crossfit_propensity` fit; here is which families they fit, how, and what becomes of a log.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrouter.features import fit_scaling, scale
from jrouter.nuisances import events, kernel, neighbours, outcome, propensity, ridge
from jrouter.nuisances.crossfit_outcome import fit_outcome, held_out_outcome
from jrouter.nuisances.crossfit_propensity import POOLS, clip_by_fold, fit_propensity, held_out_propensities
from jrouter.nuisances.folds import held_out
from jrouter.nuisances.propensity import Clipping
from jrouter.nuisances.stacking import Stack
from jrouter.splits import Split
from jrouter.types import Array, LoggedData, Nuisances


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
