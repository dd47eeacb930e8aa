"""Intervals: paired bootstrap over test queries and logs, and standard errors of means."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jrouter.types import Array


class Interval(NamedTuple):
    """An estimate with the ends of its interval; arrays of one shape."""

    estimate: Array
    low: Array
    high: Array


def resample_counts(key: Array, n: int, n_resamples: int) -> Array:
    """[B, n], how often each of n units is drawn, in each of B resamples of n with replacement.

    >>> float(resample_counts(jax.random.key(0), 5, 3).sum())
    15.0
    """
    drawn = jax.random.randint(key, (n_resamples, n), 0, n)
    return jax.vmap(lambda row: jnp.zeros(n).at[row].add(1.0))(drawn)


def paired_bootstrap(key: Array, values: Array, *, n_resamples: int = 1000) -> Array:
    """Resampled means of many columns over seeds and test queries, the same resamples for all.

    Queries and seeds are drawn independently (a two-way, "pigeonhole" bootstrap), as products of counts
    with values. With S seeds, resampled means over seeds vary (S - 1) / S too little, much for the few
    seeds of an experiment; counts are stretched around 1 by sqrt(S / (S - 1)) to undo it. With one
    seed the resamples vary over queries only, and speak for that log alone.

    Args:
      key: of the resamples.
      values: [S, n, C], per seed, test query and column (e.g. method x lambda). Differences of
        columns are paired: take differences of the returned means.
      n_resamples: B.

    Returns:
      [B, C].

    Source: Owen (2007), The pigeonhole bootstrap.
    """
    n_seeds, n, n_columns = values.shape
    key_seeds, key_queries = jax.random.split(key)
    stretch = jnp.sqrt(n_seeds / (n_seeds - 1)) if n_seeds > 1 else 0.0
    seeds = 1.0 + stretch * (resample_counts(key_seeds, n_seeds, n_resamples) - 1.0)
    queries = resample_counts(key_queries, n, n_resamples)
    per_seed = jnp.einsum("bn,snc->bsc", queries, values) / n
    return jnp.einsum("bs,bsc->bc", seeds, per_seed) / n_seeds


def percentile_interval(estimate: Array, resamples: Array, *, level: float = 0.95) -> Interval:
    """The central share `level` of resamples [B, ...] around `estimate` [...].

    >>> percentile_interval(jnp.array(.5), jnp.linspace(0., 1., 101), level=.9).low
    Array(0.05, dtype=float32)
    """
    tail = (1.0 - level) / 2.0
    low, high = jnp.quantile(resamples, jnp.array([tail, 1.0 - tail]), axis=0)
    return Interval(estimate, low, high)


def standard_error(values: Array, weight: Array | None = None, *, group: Array | None = None) -> Array:
    """Standard error of the weighted mean of per-row values: of an average of influence functions.

    sqrt(sum_g (sum_{i in g} w_i (v_i - mean))^2) / sum_i w_i

    Args:
      values: [..., n].
      weight: [n], or None for ones.
      group: [n] int in 0..n-1, rows that are not independent of each other (same query, user); each
        row is its own without it.

    Returns:
      [...].

    >>> standard_error(jnp.array([0., 1., 0., 1.]))
    Array(0.25, dtype=float32)
    """
    n = values.shape[-1]
    weight = jnp.ones(n) if weight is None else weight
    total = jnp.maximum(weight.sum(), 1e-30)
    mean = (weight * values).sum(axis=-1, keepdims=True) / total
    influence = weight * (values - mean) / total
    if group is not None:
        influence = jnp.zeros_like(influence).at[..., group].add(influence)
    return jnp.sqrt(jnp.square(influence).sum(axis=-1))
