"""Bounds of a value that is identified in part only, and the confidence interval of what lies between them.

    mean(part) + (1 - mean(mass)) * lowest  <=  V  <=  mean(part) + (1 - mean(mass)) * highest

Source: Manski (1990), Nonparametric bounds on treatment effects; Imbens & Manski (2004), Confidence intervals for
partially identified parameters.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from jrouter.inference import standard_error
from jrouter.types import Array
from jrouter.weighted import weighted_mean


class ValueBounds(NamedTuple):
    """Bounds of the policy's value over all queries, and their confidence interval. Scalars.

    Attributes:
      low: every unsupported choice is worth the lowest outcome.
      high: every one is worth the highest.
      low_error: and
      high_error: standard errors of the two ends.
      unsupported: share of the policy's choices that is not supported.
      interval_low: and
      interval_high: hold the true value with (at least) the level's probability, whatever unsupported choices are
        worth within their range.
      critical: standard errors by which the interval is wider than the ends.
    """

    low: Array
    high: Array
    low_error: Array
    high_error: Array
    unsupported: Array
    interval_low: Array
    interval_high: Array
    critical: Array


def imbens_manski_critical(width: float | Array, *, level: float = 0.95) -> Array:
    """Standard errors to add on either side of an identified interval, for one that holds the true VALUE.

    c of  Phi(c + width) - Phi(-c) = level

    From the two-sided normal value where the interval is a point to the one-sided one where it is wide: a true
    value cannot be near both ends.

    Args:
      width: any shape, at least 0: of the identified interval, in units of the larger standard error of its ends.
      level: of the interval.

    Returns:
      The same shape.

    Source: Imbens & Manski (2004), section 4.

    >>> [round(float(imbens_manski_critical(width)), 3) for width in (0., 1., 100.)]
    [1.96, 1.681, 1.645]
    """
    width = jnp.asarray(width)

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2.0
        enough = norm.cdf(middle + width) - norm.cdf(-middle) >= level
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    one_sided, two_sided = norm.ppf(level), norm.ppf((1.0 + level) / 2.0)
    start = jnp.full(width.shape, one_sided, width.dtype), jnp.full(width.shape, two_sided, width.dtype)
    return jax.lax.fori_loop(0, 24, halve, start)[1]


def value_bounds(
    part: Array,
    mass: Array,
    row_weight: Array | None = None,
    group: Array | None = None,
    *,
    lowest: float | Array,
    highest: float | Array,
    mass_is_known: bool = True,
    level: float = 0.95,
) -> ValueBounds:
    """Bounds of the policy's value over all queries, nothing assumed of its unsupported choices but their range.

        mean(part) + (1 - mean(mass)) * lowest  <=  V  <=  mean(part) + (1 - mean(mass)) * highest

    For the gain over the logging policy, whose outcomes were observed, subtract each row's from `part`.

    Args:
      part: [n], of `supported_terms`.
      mass: [n].
      row_weight: [n].
      group: [n] int in 0..n-1, rows that are not independent.
      lowest: scalar or [n], least possible outcome (see `utility_range`).
      highest: scalar or [n], greatest.
      mass_is_known: False where `mass` came from logged propensities alone. Then the width of the identified
        interval is an estimate too, the ends may cross (they are put in order), and the interval takes the
        two-sided normal value, which is never too small.
      level: of the confidence interval.

    Returns:
      `ValueBounds`. Where all choices are supported, both ends are the doubly robust value and the interval is
      its usual one.

    Source: Manski (1990); D'Amour, Ding, Feller, Lei & Sekhon (2021); Imbens & Manski (2004).

    >>> bounds = value_bounds(jnp.array([.2, .4]), jnp.array([.5, 1.]), lowest=0., highest=1.)
    >>> round(float(bounds.low), 3), round(float(bounds.high), 3)
    (0.3, 0.55)
    """
    chex.assert_equal_shape([part, mass])
    rows = [part + (1.0 - mass) * end for end in (lowest, highest)]
    ends = jnp.stack([weighted_mean(row, row_weight) for row in rows])
    errors = jnp.stack([standard_error(row, row_weight, group=group) for row in rows])
    order = jnp.argsort(ends)
    (low, high), (low_error, high_error) = ends[order], errors[order]
    largest = errors.max()
    # Ends without an error: any critical value will do, and 0 / 0 will not.
    width = (high - low) / jnp.where(largest > 0, largest, 1.0) if mass_is_known else jnp.zeros_like(low)
    critical = imbens_manski_critical(width, level=level)
    return ValueBounds(
        low=low,
        high=high,
        low_error=low_error,
        high_error=high_error,
        unsupported=1.0 - weighted_mean(mass, row_weight),
        interval_low=low - critical * low_error,
        interval_high=high + critical * high_error,
        critical=critical,
    )


def utility_range(
    lam: float | Array,
    *,
    score_range: tuple[float | Array, float | Array],
    cost_range: tuple[float | Array, float | Array],
) -> tuple[float | Array, float | Array]:
    """Least and greatest utility of outcomes in these ranges: the worst score at the highest cost, and the reverse.

    >>> utility_range(100., score_range=(0., 1.), cost_range=(0., .01))
    (-1.0, 1.0)
    """
    return score_range[0] - lam * cost_range[1], score_range[1] - lam * cost_range[0]
