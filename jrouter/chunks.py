"""A function of one row, mapped over many in chunks, so that memory is bounded by the chunk."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def map_rows(function: Callable, rows: Any, *, chunk: int = 1024) -> Any:
    """`vmap(function)(rows)`, at most `chunk` rows at a time.

    Chunks are of equal size, the last padded with repeats of the first row: `lax.map` with a batch size
    compiles the function a second time for the remainder.

    Args:
      function: of one row.
      rows: pytree of arrays [n, ...].
      chunk: rows at a time, at most.

    Returns:
      What `function` returns, with a leading axis [n].

    >>> map_rows(lambda x: 2 * x, jnp.arange(5), chunk=2)
    Array([0, 2, 4, 6, 8], dtype=int32)
    """
    n = jax.tree.leaves(rows)[0].shape[0]
    n_chunks = -(-n // chunk)
    size = -(-n // n_chunks)
    index = jnp.arange(n_chunks * size)
    index = jnp.where(index < n, index, 0).reshape(n_chunks, size)
    mapped = jax.lax.map(lambda i: jax.vmap(function)(jax.tree.map(lambda leaf: leaf[i], rows)), index)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], mapped)
