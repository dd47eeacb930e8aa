"""Intervals: paired bootstrap over test queries and logs, and standard errors of means."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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


def poisson_counts(key: Array, shape: tuple[int, ...]) -> Array:
    """Independent Poisson(1) counts: how often a row is in a resample whose size is free to vary.

    By 16 random bits each, so probabilities are right to 1 in 65,536. The bits are those of XLA's own
    generator: many times faster than JAX's default, and the same only on the same kind of device.

    >>> counts = poisson_counts(jax.random.key(0), (100, 100))
    >>> counts.dtype, bool(jnp.abs(counts.mean() - 1.0) < .05)
    (dtype('uint8'), True)
    """
    size = math.prod(shape)
    own = jax.random.wrap_key_data(jnp.resize(jax.random.key_data(key), (4,)), impl="rbg")
    words = jax.random.bits(own, (-(-size // 2),), jnp.uint32)
    uniform = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size].reshape(shape)
    ends = np.cumsum([math.exp(-1.0) / math.factorial(count) for count in range(9)])
    steps = [round(end * 65_536) for end in ends if round(end * 65_536) < 65_536]
    return sum(((uniform >= jnp.uint16(step)).astype(jnp.uint8) for step in steps), start=jnp.zeros(shape, jnp.uint8))


def bootstrap_means(
    key: Array,
    values: Array,
    weight: Array | None = None,
    *,
    group: Array | None = None,
    n_resamples: int = 10_000,
    at_once: int = 64,
) -> Array:
    """Resampled weighted means of many columns, as products of counts with values, some resamples at a time.

        sum_i c_i w_i v_i / sum_i c_i w_i,  c_i Poisson(1), one count for all rows of a group

    For values that are what they are whatever the resample: those of a FIXED policy under FIXED nuisances.
    How these would change with the log is not in it, and an interval made of it is too narrow by that.

    Args:
      key: of the resamples.
      values: [n, C]; differences of columns are paired: take differences of the returned means.
      weight: [n], or None for ones.
      group: [n] int in 0..n-1, rows that are not independent of each other; each is its own without it.
      n_resamples: B.
      at_once: resamples in one product; bounds memory.

    Returns:
      [B, C].

    Source: Hanley & MacGibbon (2006), Poisson resampling; Davison & Hinkley (1997), section 3.8.
    """
    n = values.shape[0]
    weight = jnp.ones(n) if weight is None else weight
    summed = jnp.concatenate([values * weight[:, None], weight[:, None]], axis=1)
    if group is not None:
        summed = jnp.zeros_like(summed).at[group].add(summed)

    def some(key):
        sums = poisson_counts(key, (at_once, n)).astype(values.dtype) @ summed
        return sums[:, :-1] / jnp.maximum(sums[:, -1:], 1e-30)

    found = jax.lax.map(some, jax.random.split(key, -(-n_resamples // at_once)))
    return found.reshape(-1, values.shape[1])[:n_resamples]


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
