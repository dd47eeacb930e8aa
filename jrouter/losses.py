"""Surrogates of decision regret, one query at a time, and the bounds that tie them to regret.

Regret of choosing t on a query with utilities u is max_s u_s - u_t. It is piecewise constant in a
router's logits; each surrogate here is not. All return one number per query: `vmap` over queries and
average (`weighted.weighted_mean`) where they are called.
"""

import chex
import jax
import jax.numpy as jnp

from jrouter.metrics import best_models, best_utility, masked
from jrouter.types import Array


def _gaps(utility: Array, mask: Array | None) -> Array:
    """[T], max_s u_s - u_t, and 0 where a model may not be chosen."""
    gaps = best_utility(utility, mask) - utility
    return gaps if mask is None else jnp.where(mask, gaps, 0.0)


def softmax_regret(
    logits: Array, utility: Array, *, temperature: float | Array = 1.0, mask: Array | None = None
) -> Array:
    """RM-Softmax: expected regret of the policy softmax(logits / temperature).

    sum_t softmax(h / tau)_t * (max_s u_s - u_t)

    Its minimiser over all functions of x is the optimal assignment, also when `utility` is noisy but
    unbiased, since the expectation over the noise moves max_s by a constant only.

    Args:
      logits: [T], h(x).
      utility: [T], utility of each model, e.g. doubly robust.
      temperature: tau > 0; the paper leaves it open.
      mask: [T] bool, True where a model may be chosen.

    Returns:
      Scalar, at least 0, in the unit of utility.

    Source: arXiv 2505.16037, RM-Softmax.

    >>> softmax_regret(jnp.zeros(2), jnp.array([1., 0.]))
    Array(0.5, dtype=float32)
    """
    chex.assert_rank([logits, utility], 1)
    chex.assert_equal_shape([logits, utility])
    return jax.nn.softmax(masked(logits / temperature, mask)) @ _gaps(utility, mask)


def classification_surrogate(
    logits: Array, utility: Array, *, mask: Array | None = None, cost: Array | None = None
) -> Array:
    """RM-Classification: cross-entropy of the router against the best model.

    CE = -log sum_{t in argmax u} softmax(h)_t

    With one maximiser this is the usual cross-entropy. Where several tie, any of them counts as
    right, or only the cheapest if `cost` is given. Trap: the best model of a row of NOISY scores is
    not a consistent label for the best model of that query (see methods/rm_classification.py).

    Args:
      logits: [T], h(x).
      utility: [T].
      mask: [T] bool, True where a model may be chosen.
      cost: [T], to break ties.

    Returns:
      Scalar, at least 0; 0 for an empty pool.

    Source: arXiv 2505.16037, RM-Classification.

    >>> classification_surrogate(jnp.zeros(4), jnp.array([0., 2., 1., 0.]))
    Array(1.3862944, dtype=float32)
    """
    chex.assert_rank([logits, utility], 1)
    chex.assert_equal_shape([logits, utility])
    right = best_models(utility, cost=cost, mask=mask)
    logits = masked(logits, mask)
    log_mass = jax.nn.logsumexp(masked(logits, right))
    return jnp.where(right.any(), jax.nn.logsumexp(logits) - log_mass, 0.0)


def cost_weighted_surrogate(logits: Array, utility: Array, *, mask: Array | None = None) -> Array:
    """RM-Classification with every model weighted by how much it beats the worst.

    sum_t (u_t - min_s u_s) * -log softmax(h)_t

    Linear in the noise of u up to the same constant for all t, so the order of the minimiser's
    probabilities is the order of E[u_t | x]: consistent where labels from noisy rows are not.

    Args:
      logits: [T], h(x).
      utility: [T].
      mask: [T] bool, True where a model may be chosen.

    Returns:
      Scalar, at least 0.

    Source: arXiv 2505.16037, RM-Classification, read as a cost-sensitive loss (our option).

    >>> cost_weighted_surrogate(jnp.zeros(2), jnp.array([1., 0.]))
    Array(0.6931472, dtype=float32)
    """
    chex.assert_rank([logits, utility], 1)
    chex.assert_equal_shape([logits, utility])
    gain = utility + best_utility(-utility, mask)
    log_probability = jax.nn.log_softmax(masked(logits, mask))
    if mask is not None:
        gain, log_probability = jnp.where(mask, gain, 0.0), jnp.where(mask, log_probability, 0.0)
    return -(gain @ log_probability)


def pinsker_regret_bound(cross_entropy: Array, *, lipschitz: float | Array) -> Array:
    """Upper bound of a randomised router's regret by its cross-entropy, through Pinsker.

    regret <= L * ||e_t* - f||_1 <= L * sqrt(2 * CE)

    Args:
      cross_entropy: any shape, CE(e_t*, f(x)) >= 0.
      lipschitz: L, such that expected utility is L-Lipschitz in the policy in the 1-norm; half the
        range of the utilities is enough.

    Returns:
      The same shape.

    Source: arXiv 2505.16037, bound of RM-Classification.

    >>> pinsker_regret_bound(jnp.array(2.), lipschitz=.5)
    Array(1., dtype=float32)
    """
    cross_entropy = jnp.asarray(cross_entropy, jnp.float32)
    positive = cross_entropy > 0
    # Double where: the square root has an infinite gradient at 0.
    return lipschitz * jnp.where(positive, jnp.sqrt(2 * jnp.where(positive, cross_entropy, 1.0)), 0.0)


def total_variation_regret_bound(cross_entropy: Array, *, utility_range: float | Array) -> Array:
    """The exact and tighter form: regret <= range * (1 - exp(-CE)).

    ||e_t* - f||_1 = 2 * (1 - f_t*) = 2 * (1 - exp(-CE)), so no inequality of Pinsker's is needed.

    Args:
      cross_entropy: any shape, CE >= 0.
      utility_range: max_t u_t - min_t u_t.

    Returns:
      The same shape.

    >>> total_variation_regret_bound(jnp.log(2.), utility_range=1.)
    Array(0.5, dtype=float32)
    """
    return -utility_range * jnp.expm1(-jnp.asarray(cross_entropy, jnp.float32))
