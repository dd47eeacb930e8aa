"""Resamples of rows, queries and seeds: how often each is drawn, and the sums and means that this makes of them."""

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.types import Array
from jrouter.weighted import weighted_mean


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


COUNT_SHARES = (94, 94, 49, 13, 5, 1)
"""P(count = 0), P(count = 1), ... in 256ths, as Poisson(1) as 8 random bits allow.

Mean and variance are exactly 1, the third central moment is 1.008, the fourth 3.95 (Poisson: 1, 1, 1, 4), and
no multiples of 1/256 with these first two moments come nearer to its third.
"""


def _count_quarters(key: Array, shape: tuple[int, ...]) -> list[Array]:
    """Counts in four parts, int32 [..., ceil(n / 4)] each: one for each byte of the same random words."""
    words = jax.random.bits(key, (*shape[:-1], -(-shape[-1] // 4)), jnp.uint32)
    steps = np.cumsum(COUNT_SHARES)[:-1].tolist()

    def of_byte(place):
        byte = ((words >> (8 * place)) & 255).astype(jnp.int32)
        return sum(((byte >= step).astype(jnp.int32) for step in steps), start=jnp.zeros_like(byte))

    return [of_byte(place) for place in range(4)]


def poisson_counts(key: Array, shape: tuple[int, ...]) -> Array:
    """Independent counts, nearly Poisson(1): how often a row is in a resample whose size is free to vary.

    From 8 random bits each, so at most 5, with the shares `COUNT_SHARES`.

    Args:
      key: of the counts.
      shape: [..., n], at least one axis.

    Returns:
      uint8 of that shape.

    >>> counts = poisson_counts(jax.random.key(0), (100, 100))
    >>> counts.dtype, bool(jnp.abs(counts.mean() - 1.0) < .05)
    (dtype('uint8'), True)
    """
    quarters = [part.astype(jnp.uint8) for part in _count_quarters(key, shape)]
    return jnp.concatenate(quarters, axis=-1)[..., : shape[-1]]


def bootstrap_sums(
    key: Array, values: Array, *, group: Array | None = None, n_resamples: int = 10_000, at_once: int = 64
) -> Array:
    """Resampled sums of many columns, as products of counts with values, some resamples at a time.

        sum_i c_i v_i,  c_i of `poisson_counts`, one count for all rows of a group

    Estimates that are functions of sums (means, ratios of means) are resampled by that function of these.
    The same resamples for all columns. Half of the work is random bits.

    Args:
      key: of the resamples; the same key gives the same counts on every device, whatever the values.
      values: [n, K].
      group: [n] int in 0..n-1, rows that are not independent of each other; each is its own without it.
      n_resamples: B.
      at_once: resamples in one product; bounds memory.

    Returns:
      [B, K].

    Source: Hanley & MacGibbon (2006), Poisson resampling; Chamandy et al. (2012), for other counts of mean and
    variance 1.

    >>> bootstrap_sums(jax.random.key(0), jnp.zeros((10, 2)), n_resamples=3).shape
    (3, 2)
    """
    n, n_columns = values.shape
    if group is not None:
        values = jnp.zeros_like(values).at[group].add(values)
    quarter = -(-n // 4)
    blocks = jnp.pad(values, ((0, 4 * quarter - n), (0, 0))).reshape(4, quarter, n_columns)
    whole = values.sum(axis=0)

    def some(key):
        counts = _count_quarters(key, (at_once, n))
        # Counts less 1 sum to what is added to the log's own sums: small numbers, little rounding.
        added = (
            jnp.matmul((count - 1).astype(values.dtype), block, precision="highest")
            for count, block in zip(counts, blocks, strict=True)
        )
        return sum(added, start=whole)

    found = jax.lax.map(some, jax.random.split(key, -(-n_resamples // at_once)))
    return found.reshape(-1, n_columns)[:n_resamples]


def bootstrap_means(
    key: Array,
    values: Array,
    weight: Array | None = None,
    *,
    group: Array | None = None,
    n_resamples: int = 10_000,
    at_once: int = 64,
) -> Array:
    """Resampled weighted means of many columns.

        sum_i c_i w_i v_i / sum_i c_i w_i,  c_i of `poisson_counts`, one count for all rows of a group

    For values that are what they are whatever the resample: those of a FIXED policy under FIXED nuisances.
    How these would change with the log is not in it, and an interval made of it may be too narrow or too
    wide by that: `jackknife` and `refitted` have it.

    Args:
      key: of the resamples.
      values: [n, C]; differences of columns are paired: take differences of the returned means.
      weight: [n], or None for ones.
      group: [n] int in 0..n-1, rows that are not independent of each other; each is its own without it.
      n_resamples: B.
      at_once: resamples in one product; bounds memory.

    Returns:
      [B, C]; the mean of all rows where the rows of a resample weigh nothing.

    Source: Hanley & MacGibbon (2006), Poisson resampling; Davison & Hinkley (1997), section 3.8.
    """
    weight = jnp.ones(values.shape[0]) if weight is None else weight
    # Around their mean: of values far from 0 the sums would be large, and rounded.
    mean = weighted_mean(values, weight)
    columns = jnp.concatenate([(values - mean) * weight[:, None], weight[:, None]], axis=1)
    sums = bootstrap_sums(key, columns, group=group, n_resamples=n_resamples, at_once=at_once)
    total = sums[:, -1:]
    positive = total > 1e-6 * weight.sum()  # what rounding leaves of 0 is not a weight
    return mean + jnp.where(positive, sums[:, :-1] / jnp.where(positive, total, 1.0), 0.0)
