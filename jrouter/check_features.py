"""Check features: few functions of a query that anything which depends on the query is held against.

The leading directions of x, their squares and pairwise products.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jrouter.linalg import orthonormal
from jrouter.types import Array
from jrouter.weighted import weighted_mean

DIRECTIONS = 8
"""Directions of x that are looked at, at most."""
_ITERATIONS = 15


def feature_names(dim: int) -> list[str]:
    """Names of the columns of `check_features` for embeddings of `dim` dimensions.

    >>> feature_names(2)
    ['x1', 'x2', 'x1^2', 'x1 x2', 'x2^2']
    """
    letter = "x" if dim <= DIRECTIONS else "direction "
    names = [f"{letter}{number + 1}" for number in range(min(dim, DIRECTIONS))]
    pairs = zip(*_pairs(len(names)), strict=True)
    return names + [f"{names[i]}^2" if i == j else f"{names[i]} {names[j]}" for i, j in pairs]


def _pairs(m: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(m)


def leading_directions(x: Array, row_weight: Array | None = None, *, n_directions: int = DIRECTIONS) -> Array:
    """Projections of embeddings on their leading principal directions, by iterations of their subspace.

    Q <- orthonormal(X' V X Q)

    Directions of nearly equal variance are told apart less well than the space they span.

    Args:
      x: [n, d].
      row_weight: [n], or None for ones.
      n_directions: m, at most d.

    Returns:
      [n, m], of mean 0, by falling variance; signs are arbitrary, and the same for the same x.

    Source: Halko, Martinsson & Tropp (2011), algorithm 4.4.
    """
    weight = jnp.ones(x.shape[0]) if row_weight is None else row_weight
    x = x - weighted_mean(x, weight)
    # In units in which squares do not overflow.
    largest = jnp.abs(x * (weight > 0)[:, None]).max()
    x = x / jnp.where(largest > 0, largest, 1.0)

    def step(directions, _):
        projected = jnp.matmul(x, directions, precision="highest") * weight[:, None]
        return orthonormal(jnp.matmul(x.T, projected, precision="highest")), None

    start = jax.random.normal(jax.random.key(0), (x.shape[1], n_directions))
    directions, _ = jax.lax.scan(step, orthonormal(start), None, length=_ITERATIONS)
    return jnp.matmul(x, directions, precision="highest")


def check_features(x: Array, row_weight: Array | None = None) -> Array:
    """What residuals are held against: m directions of x, then their squares and pairwise products.

    Each of mean 0 and variance 1 over the rows; a feature that does not vary is 0.

    Args:
      x: [n, d]; where d > 8, its 8 leading principal directions stand for it.
      row_weight: [n], or None for ones.

    Returns:
      [n, J], J = m + m (m + 1) / 2 with m = min(d, 8), in the order of `feature_names`.

    >>> check_features(jnp.array([[1.], [2.], [2.], [3.]]))[:, 0]
    Array([-1.4142135,  0.       ,  0.       ,  1.4142135], dtype=float32)
    """
    chex.assert_rank(x, 2)
    if x.shape[1] > DIRECTIONS:
        x = leading_directions(x, row_weight)
    linear = _standardised(x, row_weight)
    first, second = _pairs(linear.shape[1])
    return jnp.concatenate([linear, _standardised(linear[:, first] * linear[:, second], row_weight)], axis=1)


def _standardised(values: Array, row_weight: Array | None) -> Array:
    mean = weighted_mean(values, row_weight)
    centred = values - mean
    deviation = jnp.sqrt(weighted_mean(jnp.square(centred), row_weight))
    # What rounding leaves of a constant does not vary.
    varies = deviation > 1e-5 * jnp.abs(mean)
    return jnp.where(varies, centred / jnp.where(varies, deviation, 1.0), 0.0)
