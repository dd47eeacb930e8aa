"""Maps in chunks against a plain map: what is padded is in neither result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.chunks import map_and_sum_rows, map_rows, rows_at_once

N = 37


@pytest.mark.parametrize("chunk", [1, 10, 36, 37, 1000])
def test_chunks_are_one_map(chunk):
    # Padding repeats the first row, which adds most.
    rows = {"x": jnp.arange(N, dtype=jnp.float32), "y": jnp.ones((N, 3))}

    def function(row):
        return row["x"] * row["y"], {"sum": row["y"], "ratio": 1.0 / (row["x"] + 1.0)}

    kept, summed = jax.jit(lambda rows: map_and_sum_rows(function, rows, chunk=chunk))(rows)
    np.testing.assert_array_equal(kept, np.arange(N)[:, None] * np.ones(3))
    np.testing.assert_array_equal(summed["sum"], np.full(3, N))
    np.testing.assert_allclose(summed["ratio"], (1 / np.arange(1, N + 1)).sum(), rtol=1e-6)
    np.testing.assert_array_equal(map_rows(lambda row: function(row)[0], rows, chunk=chunk), kept)


def test_chunks_shrink_with_what_a_row_makes():
    assert rows_at_once(1) == 1024 and rows_at_once(10**12) == 1
    assert rows_at_once(10**5) * 10**5 <= 2**24 < (rows_at_once(10**5) + 1) * 10**5
