"""Standard errors, of means and of influence functions, and the intervals and bands made of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jrouter.resampling import bootstrap_sums
from jrouter.types import Array


class Interval(NamedTuple):
    """An estimate with the ends of its interval; arrays of one shape."""

    estimate: Array
    low: Array
    high: Array


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
    return influence_error(weight * (values - mean) / total, group=group)


def influence_error(influence: Array, *, group: Array | None = None) -> Array:
    """Standard error of an estimate that moves by `influence` [..., n] as each row counts once more: [...].

    sqrt(sum_g (sum_{i in g} D_i)^2)

    >>> influence_error(jnp.array([3., 4.])), influence_error(jnp.array([3., 4.]), group=jnp.zeros(2, jnp.int32))
    (Array(5., dtype=float32), Array(7., dtype=float32))
    """
    return jnp.sqrt(jnp.square(_by_group(influence, group)).sum(axis=-1))


def _by_group(influence: Array, group: Array | None) -> Array:
    return influence if group is None else jnp.zeros_like(influence).at[..., group].add(influence)


def n_clusters(weight: Array, group: Array | None = None) -> Array:
    """Number of rows, or of groups [n] of rows, that weigh something: the `clusters` of `wald_interval`.

    >>> int(n_clusters(jnp.array([1., 2., 0.]), jnp.array([0, 0, 2])))
    1
    """
    present = weight > 0
    return present.sum() if group is None else jnp.zeros(weight.shape[0]).at[group].max(present).sum()


def wald_interval(
    estimate: Array, error: Array, *, level: float = 0.95, clusters: int | Array | None = None
) -> Interval:
    """estimate -+ q * error, symmetric.

    Args:
      estimate: [...].
      error: [...], standard errors.
      level: of the interval.
      clusters: G, how many independent parts the error is made of (`n_clusters`). With few (blocks, users) it is
        noisy and low: q is of Student's distribution with G - 1 degrees of freedom, and the error is multiplied
        by sqrt(G / (G - 1)). None for many.

    Returns:
      `Interval`.

    Source: Cameron, Gelbach & Miller (2008), section 2, for few clusters.

    >>> round(float(wald_interval(jnp.array(0.), jnp.array(1.)).high), 3)
    1.96
    """
    quantile = jax.scipy.stats.norm.ppf(0.5 + level / 2)
    if clusters is not None:
        freedom = jnp.maximum(clusters - 1.0, 1.0)
        quantile = student_quantile(0.5 + level / 2, freedom)
        error = error * jnp.sqrt((freedom + 1.0) / freedom)
    return Interval(estimate, estimate - quantile * error, estimate + quantile * error)


def student_quantile(probability: float | Array, freedom: Array) -> Array:
    """Quantile of Student's distribution, of at least 1/2: by bisection, and by its expansion for many degrees.

    Source: Abramowitz & Stegun (1964), 26.7.5.

    >>> round(float(student_quantile(.975, jnp.array(10.))), 3)
    2.228
    """
    few = jnp.minimum(freedom, 100.0)

    def below(t):
        # P(T < t) for t >= 0.
        return 1.0 - 0.5 * jax.scipy.special.betainc(few / 2.0, 0.5, few / (few + t**2))

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        beyond = below(middle) < probability
        return jnp.where(beyond, middle, low), jnp.where(beyond, high, middle)

    zero = jnp.zeros_like(few)
    low, high = jax.lax.fori_loop(0, 40, halve, (zero, zero + 1e3))
    z = jax.scipy.stats.norm.ppf(probability)
    many = z + (z**3 + z) / (4.0 * freedom)
    return jnp.where(freedom > few, many, 0.5 * (low + high))


def simultaneous_interval(
    key: Array,
    estimate: Array,
    influence: Array,
    *,
    group: Array | None = None,
    level: float = 0.95,
    n_resamples: int = 2_000,
) -> Interval:
    """A band that holds all of several estimates at once: estimate_l -+ q * error_l.

        q: the `level` quantile of max_l |sum_i (c_i - 1) D_li| / error_l,  c_i of `poisson_counts`

    Where an estimate cannot vary (a difference of policies that coincide there) the band has no width there,
    and that place does not count in the maximum.

    Args:
      key: of the resamples.
      estimate: [L], e.g. a value or a gain at each lambda.
      influence: [L, n], how each moves as a row counts once more.
      group: [n] int, rows that are not independent.
      level: that all L are held.
      n_resamples: of the maximum.

    Returns:
      `Interval` of [L] each. For one policy that is the same at every lambda value is linear in lambda: the
      band is then that of two numbers, and little wider than a single interval.

    Source: Chernozhukov, Chetverikov & Kato (2013), Gaussian multiplier; Belloni et al. (2018), of estimated
    influence functions.
    """
    error = influence_error(influence, group=group)
    varies = error > 1e-6 * error.max(initial=0.0)
    moved = bootstrap_sums(
        key, (influence - influence.mean(axis=1, keepdims=True)).T, group=group, n_resamples=n_resamples
    )
    largest = jnp.where(varies, jnp.abs(moved) / jnp.where(varies, error, 1.0), 0.0).max(axis=1)
    quantile = jnp.quantile(largest, level)
    width = jnp.where(varies, quantile * error, 0.0)
    return Interval(estimate, estimate - width, estimate + width)


def time_blocks(time: Array, *, n_blocks: int) -> Array:
    """Blocks of consecutive rows, of nearly equal numbers: a `group` for logs whose rows depend on their neighbours.

    Put into the log (`replace(log, group=time_blocks(log.time, n_blocks=50))`), folds, standard errors and
    resamples all take blocks as a whole. Blocks should be long against how far the dependence reaches, and many.

    Args:
      time: [n].
      n_blocks: at most n.

    Returns:
      [n] int32 in 0 .. n_blocks - 1, ascending in time; rows of one time may fall into two blocks.

    Source: Kuensch (1989), for the bootstrap of blocks.

    >>> time_blocks(jnp.array([3., 1., 2., 9.]), n_blocks=2)
    Array([1, 0, 0, 1], dtype=int32)
    """
    n = time.shape[0]
    place = jnp.zeros(n, jnp.int32).at[jnp.argsort(time, stable=True)].set(jnp.arange(n, dtype=jnp.int32))
    # The first blocks are longer by one row.
    size, longer = divmod(n, n_blocks)
    edge = longer * (size + 1)
    late = longer + (place - edge) // max(size, 1)
    return jnp.where(place < edge, place // (size + 1), late).astype(jnp.int32)
