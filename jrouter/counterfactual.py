"""Counterfactual scores of a log, by the name of their weights: what was logged becomes an estimate of every model.

Adding an estimator is adding a weight function, and naming it in `WEIGHTS`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jrouter.balancing import balancing_weights
from jrouter.estimators import (
    augmented,
    inverse_propensity_weight,
    self_normalised_weights,
    shrunken_weight,
    switch_weight,
)
from jrouter.types import Array, CounterfactualScores, LoggedData, Nuisances
from jrouter.weighted import model_means


class Weight(NamedTuple):
    """Weights of an estimator, of corrections to an outcome model; they never look at an outcome.

    Attributes:
      of_log: (log, nuisances, strength) -> [n], of each row's correction.
      outcome: whether an outcome model is corrected; without one, what was not logged is 0.
      whole_log: whether a row's weight needs all rows of the log, so that it cannot be streamed.
    """

    of_log: Callable[[LoggedData, Nuisances, float | Array], Array]
    outcome: bool = True
    whole_log: bool = False


def _none(log: LoggedData, nuisances: Nuisances, strength: float | Array) -> Array:
    return jnp.zeros_like(nuisances.propensity)


def _inverse(log: LoggedData, nuisances: Nuisances, strength: float | Array) -> Array:
    return inverse_propensity_weight(nuisances.propensity)


def _normalised(log: LoggedData, nuisances: Nuisances, strength: float | Array) -> Array:
    weight, n_models = inverse_propensity_weight(nuisances.propensity), nuisances.score.shape[1]
    return self_normalised_weights(weight, log.model, n_models=n_models, row_weight=log.weight)


def _switched(log: LoggedData, nuisances: Nuisances, strength: float | Array) -> Array:
    return switch_weight(nuisances.propensity, threshold=strength)


def _shrunken(log: LoggedData, nuisances: Nuisances, strength: float | Array) -> Array:
    return shrunken_weight(nuisances.propensity, strength=strength)


def _balancing(log: LoggedData, nuisances: Nuisances, strength: float | Array) -> Array:
    n_models = nuisances.score.shape[1]
    return balancing_weights(log.x, log.model, n_models=n_models, penalty=strength, row_weight=log.row_weight)


WEIGHTS: dict[str, Weight] = {
    "direct": Weight(_none),
    "ips": Weight(_inverse, outcome=False),
    "snips": Weight(_normalised, outcome=False, whole_log=True),
    "dr": Weight(_inverse),
    "sndr": Weight(_normalised, whole_log=True),
    "switch": Weight(_switched),
    "dros": Weight(_shrunken),
    "balancing": Weight(_balancing, whole_log=True),
}
"""Estimators by name."""


def scored_factor(log: LoggedData, nuisances: Nuisances, *, scored_share: Array | None = None) -> Array:
    """What a correction of the score is multiplied by: was it scored, over the probability that it would be.

    Args:
      log: n rows.
      nuisances: for the same rows.
      scored_share: as of `counterfactual_scores`.

    Returns:
      [n]; ones where every answer was scored.
    """
    if log.scored is None:
        return jnp.ones_like(log.cost)
    probability = nuisances.scored_probability
    if probability is None:
        if scored_share is None:
            seen = log.scored.astype(log.cost.dtype)
            scored_share = model_means(seen, log.model, log.weight, n_models=nuisances.score.shape[1])
        probability = scored_share[log.model]
    # No share (NaN, or 0) where all of a model's rows weigh nothing: then neither do these.
    return jnp.where(log.scored, inverse_propensity_weight(probability), 0.0)


def counterfactual_scores(
    log: LoggedData,
    nuisances: Nuisances,
    *,
    estimator: str = "dr",
    strength: float | Array = 10.0,
    scored_share: Array | None = None,
) -> CounterfactualScores:
    """Scores and costs of every model on every logged row, with the same weights for both.

    Rows whose answer was not scored keep the direct term for the score; the corrections of the others
    are divided by the probability that they were scored:

        P(scored | x, t), `nuisances.scored_probability`, right where scoring happens at random given both, or
        the share of model t's answers that was scored, right where it happens at random given the model

    The cost is always observed, and its corrections are not divided.

    Args:
      log: n rows.
      nuisances: for the same rows.
      estimator: a name in `WEIGHTS`.
      strength: of the shrinkage for "dros", the threshold for "switch", the penalty for "balancing". For
        each, a larger one has less bias and more variance. Others ignore it.
      scored_share: [T], share of each model's answers that was scored, where these rows are a part of a
        larger log; None for the share among these rows. Used where there is no `scored_probability`.

    Returns:
      `CounterfactualScores`, [n, T] each. The weights of "snips", "sndr" (the same, with the outcome
      model kept) and "balancing" need the whole batch, so rows are not independent of each other.
      "balancing" does not look at the propensities.

    Raises:
      ValueError: for an unknown estimator.
    """
    if estimator not in WEIGHTS:
        raise ValueError(f"unknown estimator {estimator!r}: expected one of {', '.join(WEIGHTS)}")
    chosen = WEIGHTS[estimator]
    weight = chosen.of_log(log, nuisances, strength)
    score, cost = nuisances.score, nuisances.cost
    if not chosen.outcome:
        score, cost = jnp.zeros_like(score), jnp.zeros_like(cost)
    correct = jax.vmap(augmented)
    return CounterfactualScores(
        score=correct(score, log.score, log.model, weight * scored_factor(log, nuisances, scored_share=scored_share)),
        cost=correct(cost, log.cost, log.model, weight),
    )
