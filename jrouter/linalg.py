"""Inverses of small positive definite matrices, in matrix products only.

Ridge regressions over folds, models and penalties need many of these in one compiled program. LAPACK's
batched kernels are not used: on CPU (jaxlib 0.10) each fans out into the thread pool it runs on, and two
at a time on two cores wait for each other for ever. Products also batch better on accelerators.
"""

import jax
import jax.numpy as jnp

from jrouter.types import Array

_LEAF = 64


def _factor_leaf(a: Array) -> Array:
    """Inverse of the Cholesky factor of a small matrix: column by column, then row by row."""
    n = a.shape[0]
    place = jnp.arange(n)

    def eliminate(k, lower):
        column = jnp.where(place >= k, lower[:, k] / jnp.sqrt(lower[k, k]), 0.0)
        below = place > k
        lower = lower - jnp.where(below[:, None] & below[None], jnp.outer(column, column), 0.0)
        return lower.at[:, k].set(column)

    lower = jnp.tril(jax.lax.fori_loop(0, n, eliminate, a))

    def solve(k, inverse):
        known = jnp.where(place < k, lower[k], 0.0) @ inverse
        return inverse.at[k].set(((place == k) - known) / lower[k, k])

    return jax.lax.fori_loop(0, n, solve, jnp.zeros_like(a))


def _factor(a: Array) -> Array:
    """Inverse of the Cholesky factor by halves: stable, which halving the inverse itself is not."""
    n = a.shape[0]
    if n <= _LEAF:
        return _factor_leaf(a)
    half = n // 2
    first = _factor(a[:half, :half])
    side = a[half:, :half] @ first.T
    last = _factor(a[half:, half:] - side @ side.T)
    return jnp.block([[first, jnp.zeros((half, n - half), a.dtype)], [-(last @ side) @ first, last]])


def spd_inverse(a: Array) -> Array:
    """Inverse of a symmetric positive definite matrix.

    Args:
      a: [d, d]; batch with vmap. Float32 needs a condition number well below 1e6.

    Returns:
      [d, d], symmetric.

    >>> spd_inverse(jnp.array([[4., 0.], [0., 16.]]))
    Array([[0.25  , 0.    ],
           [0.    , 0.0625]], dtype=float32)
    """
    with jax.default_matmul_precision("highest"):
        factor = _factor(a)
        return factor.T @ factor


def orthonormal(columns: Array) -> Array:
    """Columns that span the same space, each orthogonal to those before it and of length 1.

    By the Cholesky factor of their products, twice: the second time undoes the first's rounding.

    Args:
      columns: [n, m], m at most n. A column that those before it explain, or that is zero, gives one of no
        meaning, and length at most 1.

    Returns:
      [n, m].

    Source: Yamamoto, Nakatsukasa, Yanagisawa & Fukaya (2015), CholeskyQR2.

    >>> orthonormal(jnp.array([[2., 2.], [0., 3.]])).round(3)
    Array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    with jax.default_matmul_precision("highest"):
        for _ in range(2):
            length = jnp.sqrt(jnp.square(columns).sum(axis=0))
            columns = columns / jnp.where(length > 0, length, 1.0)
            products = columns.T @ columns
            columns = columns @ _factor(products + 1e-6 * jnp.eye(products.shape[0])).T
    return columns
