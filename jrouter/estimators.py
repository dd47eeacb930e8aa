"""Counterfactual scores: one core, `augmented`, and the weights that turn it into each estimator.

    Yhat_t = r_t + 1[t = logged] * w * (y - r_t)

With w = 0 it is the direct method, with w = 1/p doubly robust, with r = 0 and w = 1/p inverse
propensity scoring. Adding an estimator is adding a weight function. Weights here do not look at the
outcome, so every score is linear in y, and score and cost may be estimated once, with the same
weights, for every lambda.
"""

import chex
import jax
import jax.numpy as jnp

from jrouter.types import Array, CounterfactualScores, LoggedData, Nuisances
from jrouter.weighted import model_means


def augmented(outcome: Array, observed: Array, model: Array, weight: Array, *, mask: Array | None = None) -> Array:
    """Corrects an outcome model by the weighted residual of the one outcome that was observed.

    Yhat_t = r_t + 1[t = model] * weight * (observed - r_t)

    Args:
      outcome: [T], r_t(x), prediction of each model's outcome.
      observed: scalar, y, outcome of the logged model; any finite number where `weight` is 0.
      model: scalar int, index of the logged model.
      weight: scalar, at least 0.
      mask: [T] bool, True where a model may be chosen; other entries are returned as 0.

    Returns:
      [T] counterfactual scores, in the unit of `outcome`.

    Source: arXiv 2505.16037, counterfactual scores; Robins, Rotnitzky & Zhao (1994).

    >>> augmented(jnp.array([.5, .2]), 1., 1, 2.)
    Array([0.5      , 1.8000001], dtype=float32)
    """
    chex.assert_rank([outcome, observed, model, weight], [1, 0, 0, 0])
    logged = jax.nn.one_hot(model, outcome.shape[0], dtype=outcome.dtype)
    scores = outcome + logged * weight * (observed - outcome)
    return scores if mask is None else jnp.where(mask, scores, 0.0)


def direct(outcome: Array, *, mask: Array | None = None) -> Array:
    """The outcome model alone: Yhat_t = r_t.

    Args:
      outcome: [T], r_t(x).
      mask: [T] bool, True where a model may be chosen; other entries are returned as 0.

    Returns:
      [T].

    >>> direct(jnp.array([.5, .2]), mask=jnp.array([True, False]))
    Array([0.5, 0. ], dtype=float32)
    """
    chex.assert_rank(outcome, 1)
    return outcome if mask is None else jnp.where(mask, outcome, 0.0)


def ips(observed: Array, model: Array, propensity: Array, *, mask: Array | None = None) -> Array:
    """Inverse propensity scoring: Yhat_t = 1[t = model] * y / p_t.

    Args:
      observed: scalar, y.
      model: scalar int, index of the logged model.
      propensity: [T], p_t(x), probability with which each model would have been logged.
      mask: [T] bool, True where a model may be chosen; other entries are returned as 0.

    Returns:
      [T], unbiased where the propensity is right and positive.

    Source: Horvitz & Thompson (1952).

    >>> ips(1., 0, jnp.array([.25, .75]))
    Array([4., 0.], dtype=float32)
    """
    return doubly_robust(jnp.zeros_like(propensity), observed, model, propensity, mask=mask)


def doubly_robust(
    outcome: Array, observed: Array, model: Array, propensity: Array, *, mask: Array | None = None
) -> Array:
    """Doubly robust scores: right on average if either the outcome model or the propensity is.

    Yhat_t = r_t + 1[t = model] / p_t * (y - r_t)

    Args:
      outcome: [T], r_t(x).
      observed: scalar, y.
      model: scalar int, index of the logged model.
      propensity: [T], p_t(x). With a log that holds the probability of its own choice only, use
        `augmented` with `inverse_propensity_weight(p)`.
      mask: [T] bool, True where a model may be chosen; other entries are returned as 0.

    Returns:
      [T], in the unit of `outcome`.

    Source: arXiv 2505.16037, counterfactual scores; Dudik, Langford & Li (2011).

    >>> doubly_robust(jnp.array([.5, .2]), 1., 0, jnp.array([.25, .75]))
    Array([2.5, 0.2], dtype=float32)
    """
    chex.assert_equal_shape([outcome, propensity])
    return augmented(outcome, observed, model, inverse_propensity_weight(propensity[model]), mask=mask)


def inverse_propensity_weight(propensity: Array) -> Array:
    """w = 1 / p, and 0 where p is 0: such a row says nothing of the logging policy's choice.

    Args:
      propensity: any shape, probability of the logged model.

    Returns:
      The same shape.

    >>> inverse_propensity_weight(jnp.array([.5, 0.]))
    Array([2., 0.], dtype=float32)
    """
    propensity = jnp.asarray(propensity)
    positive = propensity > 0
    # Double where: the gradient of the branch not taken must be finite too.
    return jnp.where(positive, 1.0 / jnp.where(positive, propensity, 1.0), 0.0)


def shrunken_weight(propensity: Array, *, strength: float | Array) -> Array:
    """Doubly robust with optimistic shrinkage (DRos): w -> strength * w / (w^2 + strength).

    Small strengths approach the direct method, large ones doubly robust. Trades bias for variance:
    the largest possible weight is sqrt(strength) / 2.

    Args:
      propensity: any shape, probability of the logged model.
      strength: at least 0.

    Returns:
      The same shape.

    Source: Su, Dimakopoulou, Krishnamurthy & Dudik (2020), section 3.

    >>> shrunken_weight(jnp.array([.1]), strength=100.)
    Array([5.], dtype=float32)
    """
    # In terms of p = 1/w, which neither overflows nor divides by zero: s * p / (1 + s * p^2).
    propensity = jnp.asarray(propensity)
    return strength * propensity / (1.0 + strength * propensity**2)


def self_normalised_weights(weight: Array, model: Array, *, n_models: int, row_weight: Array | None = None) -> Array:
    """Divides weights by their mean total per model, so that each model's weights average to 1.

    w_i -> w_i * sum_j v_j / sum_{j: t_j = t_i} v_j w_j, with row weights v.

    Needs the whole batch. With a zero outcome model, the mean score of a model becomes the weighted
    mean of what it was observed to do (SNIPS): bounded by the data, and unmoved by a constant factor
    in the propensities.

    Args:
      weight: [n], e.g. inverse propensities.
      model: [n] int, index of the logged model.
      n_models: T.
      row_weight: [n], or None for ones.

    Returns:
      [n]; 0 where a model's weights sum to 0.

    Source: Swaminathan & Joachims (2015).

    >>> self_normalised_weights(jnp.array([2., 6., 5.]), jnp.array([0, 0, 1]), n_models=2)
    Array([0.75, 2.25, 3.  ], dtype=float32)
    """
    chex.assert_equal_shape([weight, model])
    row_weight = jnp.ones_like(weight) if row_weight is None else row_weight
    total = jax.ops.segment_sum(row_weight * weight, model, num_segments=n_models)[model]
    positive = total > 0
    return jnp.where(positive, weight * row_weight.sum() / jnp.where(positive, total, 1.0), 0.0)


ESTIMATORS = ("direct", "ips", "snips", "dr", "dros")


def counterfactual_scores(
    log: LoggedData, nuisances: Nuisances, *, estimator: str = "dr", strength: float | Array = 10.0
) -> CounterfactualScores:
    """Scores and costs of every model on every logged row, with the same weights for both.

    Rows whose answer was not scored keep the direct term for the score; the corrections of the others
    are divided by the share of their model's answers that was scored. That is right where scoring
    happens at random given the model.

    Args:
      log: n rows.
      nuisances: for the same rows.
      estimator: one of `ESTIMATORS`.
      strength: of the shrinkage, for "dros".

    Returns:
      `CounterfactualScores`, [n, T] each. "snips" looks at the whole batch, so its rows are not
      independent of each other.

    Raises:
      ValueError: for an unknown estimator.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown estimator {estimator!r}: expected one of {', '.join(ESTIMATORS)}")
    n_models = nuisances.score.shape[1]
    if estimator == "direct":
        weight = jnp.zeros_like(nuisances.propensity)
    elif estimator == "dros":
        weight = shrunken_weight(nuisances.propensity, strength=strength)
    else:
        weight = inverse_propensity_weight(nuisances.propensity)
    if estimator == "snips":
        weight = self_normalised_weights(weight, log.model, n_models=n_models, row_weight=log.weight)
    score, cost = nuisances.score, nuisances.cost
    if estimator in ("ips", "snips"):
        score, cost = jnp.zeros_like(score), jnp.zeros_like(cost)
    score_weight = weight
    if log.scored is not None:
        share = model_means(log.scored.astype(weight.dtype), log.model, log.weight, n_models=n_models)[log.model]
        # No share (NaN, or 0) where all of a model's rows weigh nothing: then neither do these.
        score_weight = jnp.where(log.scored & (share > 0), weight / jnp.where(share > 0, share, 1.0), 0.0)
    correct = jax.vmap(augmented)
    return CounterfactualScores(
        score=correct(score, log.score, log.model, score_weight),
        cost=correct(cost, log.cost, log.model, weight),
    )
