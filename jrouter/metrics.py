"""What a router is judged by, for one query with known outcomes of every model.

`probability` [T] is the policy's choice: one-hot for a router that decides, spread for one that
explores. Averages over queries are taken where these are called.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jrouter.types import Array

_LOWEST = -1e30  # Below any utility, and finite: no gradient through it is NaN.


def masked(values: Array, mask: Array | None) -> Array:
    """Values [T] with those of unavailable models so low that softmax gives them exactly 0.

    >>> jax.nn.softmax(masked(jnp.zeros(3), jnp.array([True, True, False])))
    Array([0.5, 0.5, 0. ], dtype=float32)
    """
    return values if mask is None else jnp.where(mask, values, _LOWEST)


def utility(score: Array, cost: Array, lam: float | Array) -> Array:
    """Utility of each model at one cost preference: u_t = a_t - lambda * c_t.

    Args:
      score: [T], a.
      cost: [T], c, in a unit of cost.
      lam: lambda >= 0, score per unit of cost.

    Returns:
      [T].

    Source: arXiv 2505.16037, section on the problem.

    >>> utility(jnp.array([.5, .9]), jnp.array([.001, .002]), 100.)
    Array([0.4, 0.7], dtype=float32)
    """
    chex.assert_equal_shape([score, cost])
    return score - lam * cost


def best_utility(utility: Array, mask: Array | None = None) -> Array:
    """max_t u_t over the models of the pool (0 for an empty pool).

    >>> best_utility(jnp.array([1., 3.]), jnp.array([True, False]))
    Array(1., dtype=float32)
    """
    best = masked(utility, mask).max(axis=-1)
    return best if mask is None else jnp.where(mask.any(axis=-1), best, 0.0)


def best_models(utility: Array, *, cost: Array | None = None, mask: Array | None = None) -> Array:
    """Which models are right: every maximiser of utility, up to rounding, or the cheapest of them.

    Args:
      utility: [T].
      cost: [T], breaks ties in utility (at lambda = 0 most queries tie); None keeps them all.
      mask: [T] bool, True where a model may be chosen.

    Returns:
      [T] bool, True at the maximisers; exactly one where `cost` is given (the first, if the costs
      tie as well).

    >>> best_models(jnp.array([1., 1., 0.]), cost=jnp.array([3., 2., 1.]))
    Array([False,  True, False], dtype=bool)
    """
    allowed = jnp.ones_like(utility, bool) if mask is None else mask
    # A compiler may compute utility once for its maximum and once to compare, with other rounding.
    rounding = 4 * jnp.finfo(utility.dtype).eps * jnp.where(allowed, jnp.abs(utility), 0.0).max()
    right = allowed & (utility >= best_utility(utility, mask) - rounding)
    if cost is None:
        return right
    cheapest = jnp.argmin(jnp.where(right, cost, jnp.inf))
    return right & (jnp.arange(utility.shape[0]) == cheapest)


def expected(probability: Array, values: Array) -> Array:
    """Expected value of a policy: sum_t pi_t * v_t, for utility, score or cost `values` [T].

    >>> expected(jnp.array([.5, .5]), jnp.array([0., 1.]))
    Array(0.5, dtype=float32)
    """
    chex.assert_equal_shape([probability, values])
    # A model that is never chosen does not count, whatever it is worth: 0 * inf would be NaN.
    return (probability * jnp.where(probability > 0, values, 0.0)).sum(axis=-1)


def regret(probability: Array, utility: Array, *, mask: Array | None = None) -> Array:
    """max_s u_s - sum_t pi_t u_t: what is lost against the best model of the pool for this query.

    With 0/1 outcomes the maximum is hindsight, which no router can reach; with mean outcomes
    (synthetic benchmarks) it is the best policy on x.

    >>> regret(jnp.array([1., 0.]), jnp.array([0., 1.]))
    Array(1., dtype=float32)
    """
    return best_utility(utility, mask) - expected(probability, utility)


def routing_accuracy(probability: Array, utility: Array, *, mask: Array | None = None) -> Array:
    """Probability of choosing a best model; any maximiser of utility counts as right.

    >>> routing_accuracy(jnp.array([.5, .5, 0.]), jnp.array([1., 1., 0.]))
    Array(1., dtype=float32)
    """
    return jnp.where(best_models(utility, mask=mask), probability, 0.0).sum(axis=-1)


def cost_increases(cost: Array, *, tolerance: float | Array = 0.0) -> Array:
    """How often mean cost rises from one lambda to the next: 0 for the best policy at every lambda.

    The optimal policy's expected cost never increases with lambda. A learned router's may.

    Args:
      cost: [L], mean cost at ascending lambdas.
      tolerance: increases up to this many units of cost are not counted.

    Returns:
      Scalar int.

    >>> cost_increases(jnp.array([3., 1., 2., 2.]))
    Array(1, dtype=int32)
    """
    return (jnp.diff(cost) > tolerance).sum()


def pareto_frontier(cost: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Indices, by ascending cost, of the points that score more than every cheaper or equally dear one.

    >>> pareto_frontier(np.array([1., 2., 3.]), np.array([.5, .4, .9])).tolist()
    [0, 2]
    """
    order = np.lexsort((-np.asarray(score), np.asarray(cost)))
    best_so_far = np.maximum.accumulate(np.concatenate([[-np.inf], np.asarray(score)[order][:-1]]))
    return order[np.asarray(score)[order] > best_so_far]


def model_shares(probability: Array) -> Array:
    """[T], share of queries [n, T] that each model answers.

    >>> model_shares(jnp.array([[1., 0.], [.5, .5]]))
    Array([0.75, 0.25], dtype=float32)
    """
    chex.assert_rank(probability, 2)
    return jnp.mean(probability, axis=0)


def choose(values: Array, *, mask: Array | None = None) -> Array:
    """Index of the highest value [T] in the pool; the first of several that tie.

    >>> choose(jnp.array([1., 3., 2.]), mask=jnp.array([True, False, True]))
    Array(2, dtype=int32)
    """
    # Clipped to what `masked` gives the rest: a value of -inf in the pool must not lose to them by much.
    pool = values if mask is None else jnp.where(mask, jnp.maximum(values, _LOWEST / 2), 2 * _LOWEST)
    return jnp.argmax(pool)


def decide(values: Array, *, mask: Array | None = None) -> Array:
    """One-hot choice of the highest value [T] in the pool; the first of several that tie.

    >>> decide(jnp.array([1., 3., 2.]), mask=jnp.array([True, False, True]))
    Array([0., 0., 1.], dtype=float32)
    """
    return jax.nn.one_hot(choose(values, mask=mask), values.shape[-1], dtype=jnp.float32)
