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
