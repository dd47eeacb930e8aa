"""Embeddings on one scale, so that penalties and learning rates mean the same on every log."""

import jax.numpy as jnp

from jrouter.types import Array
from jrouter.weighted import weighted_mean


def fit_scaling(x: Array, row_weight: Array | None = None) -> dict[str, Array]:
    """Centre and one common scale of embeddings [n, d].

    One scale for all coordinates, not one each: directions that carry little stay small.

    Returns:
      {"centre": [d], "scale": scalar}, such that scaled coordinates have mean 0 and mean square 1.
    """
    centre = weighted_mean(x, row_weight)
    variance = weighted_mean(jnp.square(x - centre).mean(axis=1), row_weight)
    return {"centre": centre, "scale": jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 1.0)}


def scale(scaling: dict[str, Array], x: Array) -> Array:
    """(x - centre) / scale, for one embedding [d] or rows of them.

    >>> scale(fit_scaling(jnp.array([[1., 3.], [3., 1.]])), jnp.array([2., 3.]))
    Array([0., 1.], dtype=float32)
    """
    return (x - scaling["centre"]) / scaling["scale"]
