"""Cross-fitted propensities: of a row's models, by fits that never saw what was chosen for it.

Where a log says which models a row was allowed (A), there are two of them, and each is right for its own target:

    "any"      p(t | x) = E[p(t | x, A) | x], for policies that choose among all models
    "allowed"  p(t | x, A), for policies restricted to the models that the row was allowed

Dividing by p(t | x, A) says nothing of rows where t was not allowed: for a policy that may choose t everywhere
it counts the rest as if it were all. Dividing by p(t | x) weighs the rest up for it, which is right where A does
not depend on outcomes given x.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jrouter.features import fit_scaling, scale
from jrouter.metrics import masked
from jrouter.nuisances import propensity
from jrouter.nuisances.folds import CrossFit, at, fold_weights, held_out
from jrouter.nuisances.propensity import Choices, Clipping, PropensityModel
from jrouter.splits import Split
from jrouter.types import Array, LoggedData
from jrouter.weighted import weighted_mean

POOLS = ("any", "allowed")


def fit_propensity(
    key: Array, family: PropensityModel, log: LoggedData, split: Split, *, pool: str = "any", strength: Any = None
) -> CrossFit:
    """Fits a propensity model on each fold's complement and on all rows.

    Args:
      key: for families that need one.
      family: e.g. `propensity.logistic()`.
      log: n rows.
      split: folds.
      pool: one of `POOLS`: "any" fits p(t | x), whatever models each row was allowed, which is the average over
        them; "allowed" fits p(t | x, A), a softmax over the row's allowed models.
      strength: `CrossFit.strength` of another fit of this family, to be used instead of choosing.
    """
    if strength is not None:
        family = family._replace(strengths=jnp.asarray(strength)[None])
    scaling = fit_scaling(log.x, log.weight)
    allowed = _pool(log, pool)
    allowed = jnp.ones((log.model.shape[0], len(log.models)), bool) if allowed is None else allowed
    choices = Choices(scale(scaling, log.x), log.model, allowed)
    weights = fold_weights(log, split)
    keys = jax.random.split(key, weights.shape[0])
    fit = jax.vmap(lambda key, weight, strength: family.fit(key, choices, weight, strength), in_axes=(0, 0, None))
    candidates = jax.vmap(fit, in_axes=(None, None, 0))(keys, weights, family.strengths)

    def held_out_loss(params):
        chosen = held_out_propensity(family, CrossFit(params, None, scaling, weights, weights), log, split, pool=pool)
        # Where in the log: a probability may underflow to 0 in float32.
        return weighted_mean(-jnp.log(jnp.maximum(chosen, 1e-30)), log.weight)

    if len(family.strengths) > 1 and split.n_folds > 1:
        error = jax.lax.map(held_out_loss, candidates)
        best = jnp.argmin(error)
    else:
        error, best = jnp.zeros(1), len(family.strengths) // 2
    return CrossFit(at(candidates, best), None, scaling, family.strengths[best], error)


def _pool(log: LoggedData, pool: str) -> Array | None:
    """[n, T] bool, models that share a row's probability; None for all."""
    if pool not in POOLS:
        raise ValueError(f"unknown pool {pool!r}: expected one of {', '.join(POOLS)}")
    return log.allowed if pool == "allowed" else None


def held_out_propensity(
    family: PropensityModel, fit: CrossFit, log: LoggedData, split: Split, *, pool: str = "any"
) -> Array:
    """[n], cross-fitted probability of the logged model, before any clipping; `pool` as of `fit_propensity`."""
    every = held_out_propensities(family, fit, log, split, pool=pool)
    return jnp.take_along_axis(every, log.model[:, None], axis=1)[:, 0]


def held_out_propensities(
    family: PropensityModel, fit: CrossFit, log: LoggedData, split: Split, *, pool: str = "any"
) -> Array:
    """[n, T], cross-fitted probability of every model, before any clipping; `pool` as of `fit_propensity`."""
    x = scale(fit.scaling, log.x)
    log_odds = held_out(family.log_odds, fit.params, x, split)
    return jax.nn.softmax(masked(log_odds, _pool(log, pool)))


def clip_by_fold(every: Array, log: LoggedData, split: Split, clipping: Clipping) -> Array:
    """Clips each row [T] by the percentiles of the other folds' logged models (of all rows without folds)."""
    n_models = len(log.models)
    chosen = jnp.take_along_axis(every, log.model[:, None], axis=1)[:, 0]

    def of_fold(weight):
        return propensity.clip(every, clipping, n_models=n_models, training=chosen, training_weight=weight)

    clipped = jax.vmap(of_fold)(fold_weights(log, split))
    return clipped[split.fold, jnp.arange(log.model.shape[0])] if split.n_folds > 1 else clipped[0]
