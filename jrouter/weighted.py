"""Weighted averages, guarded against weights that sum to nothing."""

import jax
import jax.numpy as jnp

from jrouter.types import Array


def weighted_mean(values: Array, weight: Array | None = None, *, axis: int = 0) -> Array:
    """sum_i w_i v_i / sum_i w_i, and 0 where the weights sum to 0.

    >>> weighted_mean(jnp.array([1., 5.]), jnp.array([3., 1.]))
    Array(2., dtype=float32)
    """
    if weight is None:
        return values.mean(axis=axis)
    weight = weight.reshape(weight.shape + (1,) * (values.ndim - axis - weight.ndim))
    total = weight.sum(axis=axis)
    positive = total > 0
    return jnp.where(positive, (weight * values).sum(axis=axis) / jnp.where(positive, total, 1.0), 0.0)


def model_means(values: Array, model: Array, weight: Array, *, n_models: int) -> Array:
    """[T], weighted mean of `values` [n] over the rows of each model; NaN for a model without rows.

    >>> model_means(jnp.array([1., 3., 5.]), jnp.array([0, 0, 1]), jnp.array([1., 3., 1.]), n_models=2)
    Array([2.5, 5. ], dtype=float32)
    """
    total = jax.ops.segment_sum(weight, model, num_segments=n_models)
    sums = jax.ops.segment_sum(weight * values, model, num_segments=n_models)
    return jnp.where(total > 0, sums / jnp.where(total > 0, total, 1.0), jnp.nan)
