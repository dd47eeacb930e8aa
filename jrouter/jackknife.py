"""How an estimate moves with each row's weight: standard errors that hold what the nuisances would have been.

    D_i = d V / d c_i  at counts c = 1,    error^2 = sum_g (sum_{i in g} D_i)^2

The infinitesimal jackknife. V is the whole way from a log to a value, nuisances fitted inside, so D_i has both
the row's own contribution and what its weight does to every fit. JAX differentiates that way backwards: all D_i
of one value in about the time of a few fits, where a bootstrap needs hundreds.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from jrouter.chunks import map_rows
from jrouter.types import Array, LoggedData

AT_ONCE = 16
"""Values that are differentiated in one vmap. It bounds memory; and of more than 32, XLA's CPU compiler (jaxlib 0.10)
gives the 33rd and later ones the wrong derivatives through a gather in a scan: `test_jackknife` holds that none are."""


def influence(log: LoggedData, estimate: Callable[[LoggedData], Array]) -> tuple[Array, Array]:
    """An estimate from a log, and its derivatives in how often each row counts. Pure.

    Args:
      log: n rows.
      estimate: log -> array of any shape; pure, and smooth in the row weights. A choice among fits or policies
        by a maximum is not smooth, nor are nearest neighbours: make such choices outside, or split the log.

    Returns:
      What `estimate` returns, and an array of that shape with a further axis [n]: `inference.influence_error`
      makes standard errors of it.

    Source: Jaeckel (1972); Efron (2014), section 4; Giordano, Stephenson, Liu, Jordan & Broderick (2019).

    >>> log = LoggedData(jnp.zeros((2, 1)), jnp.zeros(2, jnp.int32), jnp.array([1., 3.]), jnp.ones(2), models=("a",))
    >>> influence(log, lambda log: (log.weight * log.score).sum() / log.weight.sum())
    (Array(2., dtype=float32), Array([-0.5,  0.5], dtype=float32))
    """

    def of_counts(counts: Array) -> Array:
        return estimate(replace(log, row_weight=log.weight * counts))

    value, pull = jax.vjp(of_counts, jnp.ones_like(log.cost))
    unit = jnp.eye(value.size, dtype=value.dtype).reshape(value.size, *value.shape)
    (moved,) = map_rows(pull, unit, chunk=AT_ONCE)
    return value, moved.reshape(*value.shape, -1)


def contributions(value: Array, influence: Array, row_weight: Array) -> Array:
    """Rows whose weighted mean is the value and whose standard error is the jackknife's.

        v_i = V + D_i * sum_j w_j / w_i,   V where a row weighs nothing

    Args:
      value: [...].
      influence: [..., n], D.
      row_weight: [n], w.

    Returns:
      [..., n].
    """
    positive = row_weight > 0
    scale = jnp.where(positive, row_weight.sum() / jnp.where(positive, row_weight, 1.0), 0.0)
    return value[..., None] + influence * scale
