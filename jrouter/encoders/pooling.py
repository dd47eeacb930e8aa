"""Pooling: hidden states [l, d] of one text's tokens -> its embedding [d]; in float32, vmapped over texts."""

from collections.abc import Callable, Mapping

import chex
import jax
import jax.numpy as jnp

from jrouter.types import Array


def mean_pool(hidden: Array, mask: Array) -> Array:
    """Mean of the hidden states of the True tokens; zeros where there is none.

    Args:
      hidden: [l, d].
      mask: [l] bool, False at padding.

    Returns:
      [d] float32.

    Source: Reimers & Gurevych (2019), Sentence-BERT, section 3.

    >>> mean_pool(jnp.array([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]), jnp.array([True, True, False])).tolist()
    [2.0, 3.0]
    """
    _check(hidden, mask)
    # `where`, not a product: hidden states at padding may be anything, also not finite.
    kept = jnp.where(mask[:, None], hidden.astype(jnp.float32), 0.0)
    return kept.sum(axis=0) / jnp.maximum(mask.sum(), 1)


def cls_pool(hidden: Array, mask: Array) -> Array:
    """Hidden state of the first True token: [CLS], where a tokenizer puts one; zeros where there is none.

    Args:
      hidden: [l, d].
      mask: [l] bool, False at padding.

    Returns:
      [d] float32.

    >>> cls_pool(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([True, True])).tolist()
    [1.0, 2.0]
    """
    _check(hidden, mask)
    return jnp.where(mask.any(), hidden[jnp.argmax(mask)].astype(jnp.float32), 0.0)


def last_token_pool(hidden: Array, mask: Array) -> Array:
    """Hidden state of the last True token, which has seen all before it in a decoder; zeros where there is none.

    Args:
      hidden: [l, d].
      mask: [l] bool, False at padding.

    Returns:
      [d] float32.

    >>> last_token_pool(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([True, False])).tolist()
    [1.0, 2.0]
    """
    _check(hidden, mask)
    last = mask.shape[0] - 1 - jnp.argmax(mask[::-1])
    return jnp.where(mask.any(), hidden[last].astype(jnp.float32), 0.0)


def unit_norm(x: Array) -> Array:
    """x / |x|, or zeros where x is zero: embeddings whose inner product is their cosine.

    Args:
      x: [d].

    Returns:
      [d] float32, of length 1; also where squares of x would leave float32.

    >>> unit_norm(jnp.array([3.0, 4.0])).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    chex.assert_rank(x, 1)
    x = x.astype(jnp.float32)
    # Divided by the largest first, on which the result does not depend, and by 1 where all are zero: squares and
    # gradients stay finite.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    x = x / jnp.where(largest > 0, largest, 1.0)
    square = jnp.sum(x * x)
    return x / jnp.sqrt(jnp.where(square > 0, square, 1.0))


def _check(hidden: Array, mask: Array) -> None:
    chex.assert_rank([hidden, mask], [2, 1])
    chex.assert_equal_shape_prefix([hidden, mask], 1)


POOLINGS: Mapping[str, Callable[[Array, Array], Array]] = {
    "mean": mean_pool,
    "cls": cls_pool,
    "last_token": last_token_pool,
}
"""By name; an encoder's files name theirs."""
