"""Counterfactual scores: one core, `augmented`, and the weights that turn it into each estimator.

    Yhat_t = r_t + 1[t = logged] * w * (y - r_t)

With w = 0 it is the direct method, with w = 1/p doubly robust, with r = 0 and w = 1/p inverse
propensity scoring. `counterfactual` applies them to a log, by name. Weights here do not look at the
outcome, so every score is linear in y, and score and cost may be estimated once, with the same
weights, for every lambda. (Overlap and MRDR weights are weights of rows, not of corrections: see each.)
"""

import chex
import jax
import jax.numpy as jnp

from jrouter.types import Array, Nuisances
from jrouter.weighted import weighted_mean


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


def switch_weight(propensity: Array, *, threshold: float | Array) -> Array:
    """Switch-DR: w = 1 / p where that is at most the threshold, else 0.

    Rows whose weight would be large keep the outcome model alone. A threshold below 1 gives the direct
    method, a large one doubly robust.

    Args:
      propensity: any shape, probability of the logged model.
      threshold: largest weight.

    Returns:
      The same shape.

    Source: Wang, Agarwal & Dudik (2017), section 4.

    >>> switch_weight(jnp.array([.5, .1, 0.]), threshold=5.)
    Array([2., 0., 0.], dtype=float32)
    """
    weight = inverse_propensity_weight(propensity)
    return jnp.where(weight <= threshold, weight, 0.0)


def overlap_tilt(propensity: Array) -> Array:
    """How much a query belongs to the overlap population, where every model could have been logged.

    h = 1 / sum_t 1 / p_t

    Weighting rows by h is ANOTHER ESTIMAND: the value over queries in proportion to h, not over all
    queries. There no correction weighs more than 1, h / p_t <= 1, and among all tilts this one gives the
    least total variance of the models' means where outcomes vary equally. As the estimand depends on p,
    it is doubly robust only around the p that is used.

    Args:
      propensity: [T], p_t(x) of every model, summing to 1.

    Returns:
      Scalar, from 0 (also where some model has p = 0) to 1 / T^2 (uniform).

    Source: Li, Morgan & Zaslavsky (2018); for several treatments Li & Li (2019), section 2.

    >>> overlap_tilt(jnp.array([.5, .5])), overlap_tilt(jnp.array([1., 0.]))
    (Array(0.25, dtype=float32), Array(0., dtype=float32))
    """
    chex.assert_rank(propensity, 1)
    positive = (propensity > 0).all()
    propensity = jnp.where(positive, propensity, 1.0)
    # In units of the least p: reciprocals of tiny ones could overflow.
    least = propensity.min()
    return jnp.where(positive, least / (least / propensity).sum(), 0.0)


def overlap_row_weight(nuisances: Nuisances, row_weight: Array | None = None) -> Array:
    """Overlap tilts of a log's rows, of mean 1: multiply them into its row weights.

    Works with every estimator: means of scores, losses and values become those over the overlap
    population (see `overlap_tilt`: another estimand), not over all queries.

    Args:
      nuisances: n rows, with `all_propensity`.
      row_weight: [n], under which the mean is 1, or None for ones.

    Returns:
      [n]; zeros where no row could have gone to every model.

    Raises:
      ValueError: if only the logged model's propensity is known.
    """
    if nuisances.all_propensity is None:
        raise ValueError(
            "overlap weights need the propensity of every model (Nuisances.all_propensity), which is filled where "
            "propensities are estimated: a log that holds that of its own choice only does not tell it"
        )
    tilt = jax.vmap(overlap_tilt)(nuisances.all_propensity)
    mean = weighted_mean(tilt, row_weight)
    return jnp.where(mean > 0, tilt / jnp.where(mean > 0, mean, 1.0), 0.0)


def mrdr_row_weight(propensity: Array, target_probability: Array) -> Array:
    """Row weights that fit an outcome model so that doubly robust values of one policy vary least (MRDR).

    v = pi^2 (1 - p) / p^2

    The variance that the logging policy's draw adds to the value of a policy is the mean over logged rows
    of v (y - r)^2, so least squares with these weights, the log's row weights multiplied by them, minimise
    it (exactly for a policy that decides; for one that draws, products of different models' errors are
    left out). The value of that policy only: the outcome model, and so the scores, depend on the policy,
    and score and cost must be fitted again for another one (say, of another lambda). Given the policy
    they stay linear in y.

    Args:
      propensity: any shape, p, probability of the logged model.
      target_probability: the same shape, pi, probability of the logged model under the policy to value;
        chosen without looking at the outcomes.

    Returns:
      The same shape; 0 where p is 0.

    Source: Farajtabar, Chow & Ghavamzadeh (2018), section 4.

    >>> mrdr_row_weight(jnp.array([.5, .1, .1]), jnp.array([1., 1., 0.]))
    Array([ 2., 90.,  0.], dtype=float32)
    """
    weight = target_probability * inverse_propensity_weight(propensity)
    return weight**2 * (1.0 - propensity)
