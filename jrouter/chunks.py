"""A function of one row, mapped over many in chunks, so that memory is bounded by the chunk."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

ROWS = 1024
"""Rows in a chunk, at most."""

_NUMBERS = 2**24
"""What a chunk may hold of a result that its rows make and do not keep: 64 MiB in float32."""


def rows_at_once(numbers: int, *, most: int = ROWS) -> int:
    """Rows in a chunk where each makes `numbers` numbers on the way to its result, e.g. lambdas x models.

    >>> rows_at_once(11 * 11), rows_at_once(1000 * 1000)
    (1024, 16)
    """
    return max(1, min(most, _NUMBERS // max(numbers, 1)))


def map_rows(function: Callable, rows: Any, *, chunk: int = ROWS) -> Any:
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
    return map_and_sum_rows(lambda row: (function(row), ()), rows, chunk=chunk)[0]


def map_and_sum_rows(function: Callable, rows: Any, *, chunk: int = ROWS) -> tuple[Any, Any]:
    """The same for a function of one row that returns a pair: what is kept of each row, and what is summed.

    Args:
      function: row -> (kept, summed).
      rows: pytree of arrays [n, ...].
      chunk: rows at a time, at most.

    Returns:
      Kept, with a leading axis [n], and summed over the rows.

    >>> map_and_sum_rows(lambda x: (2 * x, x), jnp.arange(5), chunk=2)
    (Array([0, 2, 4, 6, 8], dtype=int32), Array(10, dtype=int32))
    """
    n = jax.tree.leaves(rows)[0].shape[0]
    n_chunks = -(-n // chunk)
    if n_chunks == 1:
        kept, summed = jax.vmap(function)(rows)
        return kept, jax.tree.map(lambda leaf: leaf.sum(axis=0), summed)
    size = -(-n // n_chunks)
    index = jnp.arange(n_chunks * size)
    places = jnp.where(index < n, index, 0).reshape(n_chunks, size)
    present = (index < n).reshape(n_chunks, size)

    def of_chunk(operands):
        places, present = operands
        kept, summed = jax.vmap(function)(jax.tree.map(lambda leaf: leaf[places], rows))
        # Selected, not multiplied: a padded row counts nothing, whatever it is.
        return kept, jax.tree.map(
            lambda leaf: jnp.where(present.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0).sum(axis=0), summed
        )

    kept, summed = jax.lax.map(of_chunk, (places, present))
    kept = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], kept)
    return kept, jax.tree.map(lambda leaf: leaf.sum(axis=0), summed)
