"""Attention in a layout that suits matrix products: heads beside examples, one product for each pair of them."""

import jax
import jax.numpy as jnp

from jrouter.types import Array


def mask_bias(allowed: Array) -> Array:
    """Returns what to add to scores: 0 where attention is allowed, the least float32 where not.

    A query that may look nowhere then looks everywhere alike: its output is finite, and stands at padding.
    """
    return jnp.where(allowed, 0.0, jnp.finfo(jnp.float32).min)


def attend(query: Array, key: Array, value: Array, bias: Array) -> Array:
    """Attention softmax(q k' / sqrt(e) + bias) v, scores and softmax in float32; query heads share keys in groups.

    The sum that normalises divides the output [.., l, e], not the weights [.., l, l]: one pass less over what is
    largest.

    Args:
      query: [n, l, h, e].
      key: [n, l, g, e], h a multiple of g: query heads h/g * i to h/g * (i + 1) - 1 share key head i.
      value: [n, l, g, e].
      bias: [n, l or 1, l] float32, by query and key.

    Returns:
      [n, l, h * e], in the dtype of `value`.

    Source: Vaswani et al. (2017), Attention is all you need, section 3.2.1; groups: Ainslie et al. (2023), GQA.
    """
    n, length, heads, width = query.shape
    groups = key.shape[2]
    shared = heads // groups
    query = query * jnp.asarray(width**-0.5, query.dtype)
    query = query.reshape(n, length, groups, shared, width).transpose(0, 2, 3, 1, 4)
    query = query.reshape(n, groups, shared * length, width)
    key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
    scores = jnp.einsum("ngqe,ngke->ngqk", query, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(n, groups, shared, length, length) + bias[:, None, None]
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(value.dtype).reshape(n, groups, shared * length, length)
    out = jnp.einsum("ngqk,ngke->ngqe", weights, value, preferred_element_type=jnp.float32)
    out = (out.reshape(n, groups, shared, length, width) / total).astype(value.dtype)
    return out.transpose(0, 3, 1, 2, 4).reshape(n, length, heads * width)
