"""How heavy the tail of importance weights is: the shape of a generalised Pareto distribution fitted to the largest.

Of weights whose tail has shape k, moments of order 1/k and more do not exist: at 0.5 the variance of a weighted
mean does not, at 1 its mean does not. From about 0.7 on, a weighted mean and its standard error cannot be relied
on however many rows there are.
"""

import math

import chex
import jax.numpy as jnp

from jrouter.types import Array

NO_TAIL = -1.0
"""`pareto_k` of weights whose largest are all equal: no tail."""
_FEWEST = 5
_GRID, _PRIOR_SCALE, _PRIOR_ROWS, _PRIOR_K = 30, 3.0, 10.0, 0.5


def tail_size(n: int) -> int:
    """How many of n weights are the tail: ceil(min(0.2 n, 3 sqrt(n))).

    >>> tail_size(100), tail_size(2000)
    (20, 135)
    """
    return 0 if n == 0 else min((n + 4) // 5, math.isqrt(9 * n - 1) + 1)


def pareto_k(weight: Array) -> Array:
    """Shape k of the generalised Pareto distribution of the largest weights (k-hat of PSIS).

    Fitted to what the ceil(min(0.2 S, 3 sqrt(S))) largest of the S positive weights exceed the next smaller one
    by, ties with it left out; shrunk towards 0.5 as if by 10 weights. Scale does not matter.

    Args:
      weight: [n], at least 0, e.g. row weight * pi / p; zeros count as rows that are not there.

    Returns:
      Scalar. `NO_TAIL` where the largest weights are all equal; infinity where fewer than 5 weights are in the
      tail, which tell nothing.

    Source: Zhang & Stephens (2009), the fit; Vehtari, Simpson, Gelman, Yao & Gabry (2024), section 3 and
    appendix, the tail and the shrinkage.

    >>> pareto_k(jnp.ones(100)), pareto_k(jnp.ones(3))
    (Array(-1., dtype=float32), Array(inf, dtype=float32))
    """
    chex.assert_rank(weight, 1)
    n = weight.shape[0]
    room = min(n - 1, tail_size(n))
    if room < _FEWEST:
        return jnp.full((), jnp.inf, weight.dtype)
    ranked = jnp.sort(weight)[::-1][: room + 1]
    # `tail_size`, of a number that is not known before the program runs.
    positive = (weight > 0).sum()
    root = jnp.ceil(jnp.sqrt(9.0 * positive) - 1e-4).astype(positive.dtype)
    size = jnp.minimum(jnp.minimum((positive + 4) // 5, root), room)
    cutoff = ranked[size]
    # Largest first, in units of the largest.
    excess = jnp.where(jnp.arange(room) < size, ranked[:room] - cutoff, 0.0)
    largest = excess[0]
    tail = (excess > 1e-6 * cutoff) & (excess > 0)
    count = tail.sum()
    excess = excess / jnp.where(largest > 0, largest, 1.0)
    fitted = _shape(jnp.where(tail, excess, 0.0), count)
    enough = count >= _FEWEST
    few = jnp.where((size >= _FEWEST) & (count == 0), NO_TAIL, jnp.inf)
    return jnp.where(enough, fitted, few)


def _shape(excess: Array, count: Array) -> Array:
    """Posterior mean of the shape: excesses [m], largest (1) first, zeros after the `count` that there are."""
    rows = jnp.maximum(count, 1).astype(excess.dtype)
    points = _GRID + jnp.floor(jnp.sqrt(rows) + 1e-4)
    place = jnp.arange(1, _GRID + int(excess.shape[0] ** 0.5) + 2)
    quartile = excess[jnp.clip(count - jnp.floor(rows / 4.0 + 0.5).astype(jnp.int32), 0, excess.shape[0] - 1)]
    quartile = jnp.where(quartile > 0, quartile, 1.0)
    theta = 1.0 + (1.0 - jnp.sqrt(points / (place - 0.5))) / (_PRIOR_SCALE * quartile)
    theta = jnp.where(theta == 0, 1e-6, theta)

    def shape_at(theta):
        # What theta is to the largest excess could round to 1, where the logarithm ends.
        return jnp.log1p(-jnp.minimum(theta[..., None] * excess, 1.0 - 1e-7)).sum(axis=-1) / rows

    shape = shape_at(theta)
    ratio = jnp.maximum(-theta / jnp.where(shape == 0, -1e-6, shape), 1e-30)
    likelihood = jnp.where(place <= points, rows * (jnp.log(ratio) - shape - 1.0), -jnp.inf)
    posterior = jnp.exp(likelihood - likelihood.max())
    mean = (posterior * theta).sum() / posterior.sum()
    shape = shape_at(mean)
    return (rows * shape + _PRIOR_ROWS * _PRIOR_K) / (rows + _PRIOR_ROWS)
