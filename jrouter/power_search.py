"""Rows, or random exploration, that a power needs: what `power` says, turned around.

world = with_gain(make_power_world(log, nuisances, probability, lam), 0.02)
rows_needed(key, world, exploration=0.05)
exploration_needed(key, world, n_rows=10_000)
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jrouter.power import Power, power_by_formula, power_curve, rows_by_formula
from jrouter.power_world import PowerWorld, exploration_price, gain_deviation
from jrouter.types import Array

STEP = 1.05
"""Sizes that `rows_needed` tries are 5% apart."""
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Shares of exploration that `exploration_needed` tries first."""


class RowsNeeded(NamedTuple):
    """Fewest rows.

    Attributes:
      rows: these, or None where `max_rows` are too few.
      power: simulated, there (or at `max_rows`), and
      error: its Monte Carlo standard error.
      coverage: of the true gain by the intervals, there.
      formula: rows by the formula; not rounded.
    """

    rows: int | None
    power: float
    error: float
    coverage: float
    formula: float


class ExplorationNeeded(NamedTuple):
    """Least share of exploration.

    Attributes:
      exploration: the share, or None where none reaches the power.
      power: simulated, there (or at the last share tried), and
      error: its Monte Carlo standard error.
      coverage: of the true gain by the intervals, there.
      formula: the share by the formula, None likewise.
      price: mean utility per query that exploring this much costs while the log is written.
    """

    exploration: float | None
    power: float
    error: float
    coverage: float
    formula: float | None
    price: float


def suffices(found: Power, target: float) -> list[bool]:
    """Whether a power is reached by logs that report the errors they make (`Power.trusted`), by size."""
    return ((found.power >= target) & found.trusted).tolist()


@cache
def program(**static) -> Callable[..., Power]:
    """`power_curve`, compiled once for many gains, shares of exploration and sizes."""
    return jax.jit(partial(power_curve, **static))


def rows_needed(
    key: Array,
    world: PowerWorld,
    *,
    target: float = 0.8,
    exploration: float = 0.0,
    max_rows: int = 1_000_000,
    n_simulations: int = 1000,
    level: float = 0.95,
    one_sided: bool = False,
    **named,
) -> RowsNeeded:
    """The fewest rows with a simulated power of `target` that can be trusted, there and in all larger logs tried.

    Sizes 5% apart around what the formula says are simulated by one program; further ones if need be. On the host.

    Args:
      key: of the simulations.
      world: of `with_gain`; its gain is to be detected.
      target: power.
      exploration: e.
      max_rows: the most rows to try; time goes with rows times simulations.
      n_simulations: B; of 1,000, power is known to 0.013, and rows to about 3%.
      level: and
      one_sided: of the interval.
      named: fit and at_once of `power_curve`.
    """
    interval = {"level": level, "one_sided": one_sided}
    named = {"n_simulations": n_simulations, **interval, **named}
    formula = float(rows_by_formula(gain_deviation(world, exploration), world.gain, target=target, **interval))
    middle = min(max(formula, 4.0), float(max_rows))
    sufficient, upwards = None, False
    while True:
        sizes = [int(min(max(round(middle * STEP**step), 2), max_rows)) for step in range(-10, 16)]
        curve = program(n_rows=2 ** math.ceil(math.log2(sizes[-1])), **named)
        found = curve(key, world, sizes=jnp.array(sizes), exploration=exploration)
        enough = suffices(found, target)
        first = len(sizes) - enough[::-1].index(False) if False in enough else 0
        place = min(first, len(sizes) - 1)
        power, error, coverage = (float(part[place]) for part in (found.power, found.error, found.coverage))
        answer = RowsNeeded(sizes[place], power, error, coverage, formula)
        if first < len(sizes):
            if first > 0 or sizes[0] == 2 or upwards:
                return answer
            sufficient, middle = answer, sizes[0] / STEP**15
        elif sufficient is not None:
            return sufficient
        elif sizes[-1] == max_rows:
            return answer._replace(rows=None)
        else:
            upwards, middle = True, min(sizes[-1] * STEP**10, float(max_rows))


def exploration_needed(
    key: Array,
    world: PowerWorld,
    *,
    n_rows: int,
    target: float = 0.8,
    shares: Sequence[float] = SHARES,
    n_simulations: int = 1000,
    level: float = 0.95,
    one_sided: bool = False,
    **named,
) -> ExplorationNeeded:
    """The least share of uniform exploration at which logs of `n_rows` have the power `target`, and can be trusted.

    `shares` are simulated, then the bracket of the first that suffices is halved 5 times, all by one program. Power
    need not rise with exploration: where the logging policy mostly chooses what the policy would, exploring takes
    rows from it. On the host.

    Args:
      key: of the simulations, common to all shares.
      world: of `with_gain`; its gain is to be detected.
      n_rows: of the log.
      target: power.
      shares: ascending, tried first.
      n_simulations: B.
      level: and
      one_sided: of the interval.
      named: fit and at_once of `power_curve`.
    """
    interval = {"level": level, "one_sided": one_sided}
    compiled = program(n_rows=n_rows, n_simulations=n_simulations, **interval, **named)
    curve = partial(compiled, key, world, sizes=jnp.array([n_rows]))

    def simulated(share: float) -> bool:
        return suffices(curve(exploration=share), target)[0]

    def by_formula(share: float) -> bool:
        power = power_by_formula(gain_deviation(world, share), world.gain, n_rows, **interval)
        return float(power) >= target

    share = least_share(simulated, shares)
    found = curve(exploration=shares[-1] if share is None else share)
    power, error, coverage = (float(part[0]) for part in (found.power, found.error, found.coverage))
    price = math.nan if share is None else float(exploration_price(world, share))
    return ExplorationNeeded(share, power, error, coverage, least_share(by_formula, shares), price)


def least_share(enough: Callable[[float], bool], shares: Sequence[float], *, halvings: int = 5) -> float | None:
    """The first of `shares` that is enough, its bracket halved; None where none is.

    >>> least_share(lambda share: share >= .3, (0., .2, .4, 1.), halvings=1), least_share(lambda share: False, (0.,))
    (0.30000000000000004, None)
    """
    place = next((place for place, share in enumerate(shares) if enough(share)), None)
    if place is None or place == 0:
        return None if place is None else shares[0]
    low, high = shares[place - 1], shares[place]
    for _ in range(halvings):
        middle = (low + high) / 2.0
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
