"""Which lambda meets a budget or a quality: where a curve over lambda crosses a target, and how sure that is.

Cost and score of a router both fall as lambda rises, so a budget gives a least lambda, a quality a greatest.
"""

from typing import NamedTuple

import numpy as np

from jrouter.power import normal_value


class Crossing(NamedTuple):
    """The lambda that meets a target; None where none of those tried does.

    Attributes:
      lam: by the estimates.
      low: least lambda that the data do not contradict, and
      high: greatest: an interval for the lambda that meets the target exactly.
      sure: the lambda that meets it even at the interval's unfavourable end, or None.
      value: estimate at `lam`, and
      error: its standard error; NaN where there is no lambda.
    """

    lam: float | None
    low: float | None
    high: float | None
    sure: float | None
    value: float
    error: float


def least_meeting(
    lambdas: np.ndarray, value: np.ndarray, error: np.ndarray, target: float, *, level: float = 0.95
) -> Crossing:
    """The least lambda from which on a falling curve is at most `target`: e.g. its cost a budget.

        low:  from where on value - z error <= target,    high = sure: from where on value + z error <= target

    An interval from pointwise intervals: it holds the lambda at which the curve crosses whenever the interval of
    the curve there holds the target.

    Args:
      lambdas: [L] ascending.
      value: [L], estimates.
      error: [L], standard errors.
      target: in the curve's unit.
      level: of the interval, two-sided.

    >>> least_meeting(np.arange(4.), np.array([4., 3., 2., 1.]), np.full(4, .4), 2.5)[:4]
    (2.0, 1.0, 3.0, 3.0)
    """
    margin = normal_value(level, one_sided=False) * np.asarray(error)
    place, first, last = (
        _from_where_on(np.asarray(curve) <= target) for curve in (value, value - margin, value + margin)
    )
    lam, low, sure = (None if at is None else float(lambdas[at]) for at in (place, first, last))
    # Where no lambda is surely enough, the interval ends with what was tried.
    high = float(lambdas[-1]) if sure is None and low is not None else sure
    found = (float("nan"),) * 2 if place is None else (float(value[place]), float(error[place]))
    return Crossing(lam, low, high, sure, *found)


def greatest_meeting(
    lambdas: np.ndarray, value: np.ndarray, error: np.ndarray, target: float, *, level: float = 0.95
) -> Crossing:
    """The greatest lambda up to which a falling curve is at least `target`: e.g. its score a quality.

    Arguments as of `least_meeting`, whose mirror image this is; `sure` is the interval's lower end.

    >>> greatest_meeting(np.arange(4.), np.array([.9, .8, .7, .6]), np.full(4, .04), .75)[:4]
    (1.0, 0.0, 2.0, 0.0)
    """
    mirrored = least_meeting(
        -np.asarray(lambdas)[::-1], -np.asarray(value)[::-1], np.asarray(error)[::-1], -target, level=level
    )
    lam, high, low, sure = (None if one is None else -one + 0.0 for one in mirrored[:4])
    return Crossing(lam, low, high, sure, -mirrored.value, mirrored.error)


def _from_where_on(meets: np.ndarray) -> int | None:
    """The first place from which on all are True, or None."""
    if not meets[-1]:
        return None
    misses = np.flatnonzero(~meets)
    return 0 if misses.size == 0 else int(misses[-1]) + 1
