"""Nuisances fitted on a sample of a log, and applied to every row of it.

For logs larger than memory. A row's fold is told by a hash, so that it is known for rows outside the sample
too: a row is always predicted by the fit that left its fold out, and which so never saw it, nor its query.
What the sample costs is the accuracy of the nuisances; the doubly robust corrections come from all rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrouter.chunks import map_rows
from jrouter.features import fit_scaling, scale
from jrouter.nuisances import events, propensity
from jrouter.nuisances.crossfit import OUTCOME_MODELS, PROPENSITY_MODELS, NuisanceConfig
from jrouter.nuisances.crossfit_outcome import fit_outcome, outcome_predictor
from jrouter.nuisances.crossfit_propensity import fit_propensity, held_out_propensity
from jrouter.nuisances.folds import fold_weights
from jrouter.splits import Split
from jrouter.types import Array, LoggedData, Nuisances


class Fitted(NamedTuple):
    """Params and scaling of embeddings of a family, fitted on each fold's complement and on all; [K + 1, ...]."""

    params: Any
    scaling: dict[str, Array]


class SampledNuisances(NamedTuple):
    """What predicts the nuisances of any row whose fold is known.

    Attributes:
      outcome: params are pairs of a family's and of its units.
      propensity: None where the log has its own.
      limits: [K + 1, 2], between which each fold's propensities are clipped; None likewise.
      allowed: of each model having been allowed, beside the log's own propensities; None where not needed.
      scored: of the answer having been scored; None where shares serve.
    """

    outcome: Fitted
    propensity: Fitted | None = None
    limits: Array | None = None
    allowed: Fitted | None = None
    scored: Fitted | None = None


def fit_sampled(
    key: Array, log: LoggedData, split: Split, config: NuisanceConfig = NuisanceConfig()
) -> SampledNuisances:
    """Fits outcomes and propensity on each fold's complement within a sample; a pure function.

    Args:
      key: for the families that need one.
      log: the sample; without `scored` if every row of the whole log was.
      split: its folds, e.g. of `splits.folds_alone`.
      config: families and clipping. Percentiles are of the sample's rows in the other folds.
    """
    # The same keys as `crossfit.fit_nuisances`: with all rows in the sample it is the same fit.
    key_outcome, key_propensity = jax.random.split(key)
    outcome = fit_outcome(key_outcome, OUTCOME_MODELS[config.outcome](), log, split)
    fitted = Fitted((outcome.params, outcome.units), outcome.scaling)
    scaling = fit_scaling(log.x, log.weight)
    scored = allowed = None
    if log.scored is not None and config.scoring == "given_query":
        scored = Fitted(events.fit_scored(log, scale(scaling, log.x), split), scaling)
    if log.propensity is not None:
        if log.allowed is not None and config.pool == "any":
            allowed = Fitted(events.fit_allowed(log, scale(scaling, log.x), split), scaling)
        return SampledNuisances(fitted, allowed=allowed, scored=scored)
    family = PROPENSITY_MODELS[config.propensity]()
    fit = fit_propensity(key_propensity, family, log, split, pool=config.pool)
    chosen = held_out_propensity(family, fit, log, split, pool=config.pool)

    def limits(weight):
        found = propensity.clip_limits(
            config.clipping, n_models=len(log.models), training=chosen, training_weight=weight
        )
        return jnp.stack([jnp.asarray(limit, jnp.float32) for limit in found])

    limits_of_folds = jax.vmap(limits)(fold_weights(log, split))
    return SampledNuisances(fitted, Fitted(fit.params, fit.scaling), limits_of_folds, scored=scored)


def predict_sampled(
    nuisances: SampledNuisances, log: LoggedData, fold: Array, config: NuisanceConfig = NuisanceConfig()
) -> Nuisances:
    """Nuisances of rows in the sample or not, each by the fit that left its fold out.

    Args:
      nuisances: from `fit_sampled` with the same `config`.
      log: n rows.
      fold: [n] int32, by the rule that gave the sample's.
      config: families.

    Returns:
      `Nuisances` of the n rows, without `all_propensity`.
    """
    params, scaling = nuisances.outcome
    predict = outcome_predictor(OUTCOME_MODELS[config.outcome]())
    outcomes = by_fold(lambda fit, x: predict(fit, scale(scaling, x)), params, log.x, fold)

    def event(fitted, of_row):
        def predict(fit, row):
            x, model = row
            return of_row(fit, (scale(fitted.scaling, x), model), floor=config.clipping.floor)

        return by_fold(predict, fitted.params, (log.x, log.model), fold)

    chosen = log.propensity
    if chosen is None:
        assert nuisances.propensity is not None and nuisances.limits is not None, "fitted on logged propensities"
        params, scaling = nuisances.propensity
        family = PROPENSITY_MODELS[config.propensity]()

        def of_logged(params, row):
            x, model, allowed = row
            return propensity.probabilities(family, params, scale(scaling, x), allowed)[model]

        low, high = nuisances.limits[fold].T
        pool = log.allowed if config.pool == "allowed" else None
        chosen = jnp.clip(by_fold(of_logged, params, (log.x, log.model, pool), fold), low, high)
    elif nuisances.allowed is not None:
        chosen = chosen * event(nuisances.allowed, events.allowed_probability)
    scored = None if nuisances.scored is None else event(nuisances.scored, events.scored_probability)
    return Nuisances(chosen, outcomes[:, 0], outcomes[:, 1], fold, scored_probability=scored)


def by_fold(predict: Callable, params: Any, rows: Any, fold: Array, *, block: int = 1024) -> Array:
    """What the fit of each row's own fold says of it, whatever the sizes of the folds.

    Rows are sorted by fold and cut into blocks of one fold each, so that every row is predicted once and by
    one set of params: at most K blocks are not full.

    Args:
      predict: (params, row) -> [...].
      params: leading axis K + 1, the last of which is not used here.
      rows: pytree of arrays [n, ...].
      fold: [n] int32, below K.
      block: rows at a time.

    Returns:
      [n, ...].

    >>> by_fold(lambda slope, x: slope * x, jnp.array([1., 10., 0.]), jnp.arange(4.), jnp.array([1, 0, 1, 1]), block=2)
    Array([ 0.,  1., 20., 30.], dtype=float32)
    """
    n, n_folds = fold.shape[0], jax.tree.leaves(params)[0].shape[0] - 1
    block = min(block, n)
    order = jnp.argsort(fold, stable=True)
    counts = jnp.zeros(n_folds, jnp.int32).at[fold].add(1)
    ends = jnp.cumsum(counts)
    blocks = -(-counts // block)
    last = jnp.cumsum(blocks)

    def of_block(number):
        own = jnp.minimum(jnp.searchsorted(last, number, side="right"), n_folds - 1)
        places = ends[own] - counts[own] + (number - last[own] + blocks[own]) * block + jnp.arange(block)
        present = (places < ends[own]) & (number < last[-1])
        index = order[jnp.minimum(places, n - 1)]
        fit = jax.tree.map(lambda leaf: leaf[own], params)
        predicted = map_rows(lambda row: predict(fit, row), jax.tree.map(lambda leaf: leaf[index], rows), chunk=block)
        return jnp.where(present, index, n), predicted

    index, predicted = jax.lax.map(of_block, jnp.arange(-(-n // block) + n_folds))
    found = jnp.zeros((n, *predicted.shape[2:]), predicted.dtype)
    return found.at[index.reshape(-1)].set(predicted.reshape(-1, *predicted.shape[2:]), mode="drop")
