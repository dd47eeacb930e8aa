"""Whether queries are those of another log: their mean, against the mean that a router was trained on.

    delta = mean_new - mean_old,   E |delta|^2 = tr(S) (1/n + 1/m) without a shift

Only means and variances of the old log are needed, so a router can carry them; no query is kept.
"""

from typing import NamedTuple

import jax.numpy as jnp

from jrouter.types import Array
from jrouter.weighted import weighted_mean

Reference = dict[str, Array]
"""{"mean" [d], "variance" [d], "queries" scalar}: of the queries that a router was trained on."""


class Shift(NamedTuple):
    """How far queries have moved.

    Attributes:
      distance: of the means along the direction in which they differ, in standard deviations of the new queries
        along it: .1 is little, 1 is another traffic.
      z: (|delta|^2 - its mean) / its standard deviation, without a shift: about 0 then, and rarely above 4.
    """

    distance: Array
    z: Array


def reference_of(x: Array, row_weight: Array | None = None, *, queries: float | Array | None = None) -> Reference:
    """What a router remembers of its queries [n, d]; `queries` of them are independent (n if None)."""
    mean = weighted_mean(x, row_weight)
    count = x.shape[0] if queries is None else queries
    return {"mean": mean, "variance": weighted_mean(jnp.square(x - mean), row_weight), "queries": jnp.float32(count)}


def shift(
    reference: Reference, x: Array, row_weight: Array | None = None, *, queries: float | Array | None = None
) -> Shift:
    """Compares new queries with those of a reference. Pure.

    Args:
      reference: from `reference_of`.
      x: [n, d], new queries.
      row_weight: [n].
      queries: how many of them are independent; n if None.

    Source: the sum statistic of Chen & Qin (2010), A two-sample test for high-dimensional data.
    """
    count = jnp.float32(x.shape[0] if queries is None else queries)
    mean = weighted_mean(x, row_weight)
    centred = x - mean
    delta = mean - reference["mean"]
    square = jnp.square(delta).sum()
    rate = 1.0 / count + 1.0 / reference["queries"]
    own = weighted_mean(jnp.square(centred), row_weight)
    trace = (own / count + reference["variance"] / reference["queries"]).sum() / rate
    # tr(S^2) = E (x.y)^2 of independent rows.
    half = x.shape[0] // 2
    products = (centred[:half] * centred[half : 2 * half]).sum(axis=1)
    both = None if row_weight is None else row_weight[:half] * row_weight[half : 2 * half]
    trace_square = weighted_mean(jnp.square(products), both)
    deviation = jnp.sqrt(2.0 * jnp.maximum(trace_square, 1e-30)) * rate
    along = jnp.matmul(centred, delta, precision="highest")
    spread = jnp.sqrt(weighted_mean(jnp.square(along), row_weight))
    return Shift(
        distance=jnp.where(spread > 0, square / jnp.where(spread > 0, spread, 1.0), 0.0),
        z=(square - trace * rate) / deviation,
    )
