"""Inverses of small positive definite matrices, in matrix products only.

Ridge regressions over folds, models and penalties need many of these in one compiled program. LAPACK's
batched kernels are not used: on CPU (jaxlib 0.10) each fans out into the thread pool it runs on, and two
at a time on two cores wait for each other for ever. Products also batch better on accelerators.
"""

import jax
import jax.numpy as jnp

from jrouter.types import Array

_LEAF = 64


def _sweep(a: Array) -> Array:
    """Inverse of a small positive definite matrix by the sweep operator (Goodnight 1979)."""

    def step(k, a):
        pivot, row, column = a[k, k], a[k], a[:, k]
        a = a - jnp.outer(column, row) / pivot
        return a.at[k].set(row / pivot).at[:, k].set(-column / pivot).at[k, k].set(1.0 / pivot)

    return jax.lax.fori_loop(0, a.shape[0], step, a)


def _divide(a: Array) -> Array:
    """Inverse by halves: that of the upper left, and that of the other's Schur complement."""
    n = a.shape[0]
    if n <= _LEAF:
        return _sweep(a)
    half = n // 2
    corner, side, rest = a[:half, :half], a[:half, half:], a[half:, half:]
    corner = _divide(corner)
    across = corner @ side
    rest = _divide(rest - side.T @ across)
    joint = across @ rest
    return jnp.block([[corner + joint @ across.T, -joint], [-joint.T, rest]])


def spd_inverse(a: Array) -> Array:
    """Inverse of a symmetric positive definite matrix.

    Args:
      a: [d, d]; batch with vmap. Float32 needs a condition number well below 1e6.

    Returns:
      [d, d], symmetric.

    >>> spd_inverse(jnp.array([[2., 0.], [0., 4.]]))
    Array([[0.5 , 0.  ],
           [0.  , 0.25]], dtype=float32)
    """
    with jax.default_matmul_precision("highest"):
        inverse = _divide(a)
        # One step of Newton's iteration squares the relative error.
        inverse = inverse @ (2.0 * jnp.eye(a.shape[0], dtype=a.dtype) - a @ inverse)
    return (inverse + inverse.T) / 2.0
