"""How many logged queries, or how much random exploration, does it take to detect a gain of a policy?

Power is the share of future logs whose interval of the doubly robust gain excludes 0: by simulation in a world made
of the user's own log (`power_world`), and by the formula that simulation checks,

    power = Phi(g sqrt(m) / sd - z),   m = ((z + z_power) sd / g)^2

for m rows, a gain g, a row's standard deviation sd (`gain_deviation`, or that of the log's own contributions) and
the interval's normal value z. `power_search` turns both around: rows, or exploration, for a power.

The formula trusts the standard error that a log reports. Where overlap is poor, most logs hold none of the few rows
that should weigh most: they report small errors, and simulated power is then HIGHER than the formula's, though by
luck alone, as the simulation knows the outcome model to be right. `Power.trusted` says where that is so.
"""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from jrouter.chunks import rows_at_once
from jrouter.estimators import inverse_propensity_weight
from jrouter.power_world import DrawnLog, PowerWorld, draw_rows, explored
from jrouter.types import Array

LEAST_REPORTED = 0.9
"""Of the spread of estimates, for the standard errors of logs to be trusted."""

Fit = Callable[[Array, DrawnLog, Array], tuple[Array, Array]]
"""(key, m rows, their weights [m]) -> outcome [m, T] and propensity [m] of the logged model: nuisances fitted on a
simulated log. Rows of weight 0 are of larger logs, and must not count."""


class Power(NamedTuple):
    """Power at each size [M], and what it is made of.

    Attributes:
      power: share of simulated logs whose interval excludes 0.
      error: its Monte Carlo standard error, (k + 1) / (B + 2) in place of k / B so that it is never 0.
      gain: mean estimate.
      spread: standard deviation of the estimates.
      standard_error: mean of the standard errors that logs report; less than `spread` where they promise too much.
      coverage: share of simulated logs whose interval holds the true gain.
      trusted: whether logs report the errors that they make: `standard_error` at least `LEAST_REPORTED` of `spread`,
        in the bounds of Monte Carlo error. Elsewhere power says little: what such logs detect depends on rows that
        they do not hold.
    """

    power: Array
    error: Array
    gain: Array
    spread: Array
    standard_error: Array
    coverage: Array
    trusted: Array


def normal_value(level: float, *, one_sided: bool) -> float:
    """Standard errors from the estimate to the end of an interval.

    >>> round(normal_value(.95, one_sided=False), 3), round(normal_value(.95, one_sided=True), 3)
    (1.96, 1.645)
    """
    return NormalDist().inv_cdf(level if one_sided else (1.0 + level) / 2.0)


def rows_by_formula(
    deviation: float | Array, gain: float | Array, *, target: float = 0.8, level: float = 0.95, one_sided: bool = False
) -> Array:
    """Rows that a power needs: ((z + z_target) sd / g)^2; not rounded up.

    Args:
      deviation: sd, of a row's contribution to the estimated gain: its standard error times the root of the rows.
      gain: g, in the same unit; infinitely many rows for 0.
      target: power, above that of no gain.
      level: of the interval.
      one_sided: whether it has a lower end only.

    >>> round(float(rows_by_formula(.5, .05)))
    785
    """
    total = normal_value(level, one_sided=one_sided) + NormalDist().inv_cdf(target)
    return jnp.square(total * jnp.asarray(deviation) / gain)


def power_by_formula(
    deviation: float | Array,
    gain: float | Array,
    n_rows: float | Array,
    *,
    level: float = 0.95,
    one_sided: bool = False,
) -> Array:
    """Power of n_rows by the normal distribution; arguments as of `rows_by_formula`.

    >>> round(float(power_by_formula(.5, .05, 785)), 3), round(float(power_by_formula(.5, 0., 785)), 3)
    (0.8, 0.05)
    """
    ratio = gain * jnp.sqrt(jnp.asarray(n_rows, jnp.float32)) / deviation
    value = normal_value(level, one_sided=one_sided)
    above = norm.cdf(ratio - value)
    return above if one_sided else above + norm.cdf(-ratio - value)


def gain_rows(world: PowerWorld, drawn: DrawnLog, fitted: tuple[Array, Array] | None = None) -> Array:
    """[m], doubly robust contributions to the gain, less the true gain.

    sum_t c_t r_t + c_m / q_m (y - r_m),   c = pi - b

    Args:
      world: whose true nuisances are used ...
      drawn: m rows.
      fitted: ... unless these are given: outcome [m, T], and propensity [m] of the logged model.
    """
    contrast = world.contrast
    if fitted is None:
        correction = contrast[drawn.row, drawn.model] * inverse_propensity_weight(drawn.propensity) * drawn.noise
        return world.direct[drawn.row] - world.gain + correction
    outcome, propensity = fitted
    contrast = contrast[drawn.row]
    logged = (jnp.arange(drawn.model.shape[0]), drawn.model)
    correction = contrast[logged] * inverse_propensity_weight(propensity) * (drawn.observed - outcome[logged])
    return (contrast * outcome).sum(axis=1) - world.gain + correction


def power_curve(
    key: Array,
    world: PowerWorld,
    *,
    sizes: Sequence[int] | Array,
    n_rows: int | None = None,
    exploration: float | Array = 0.0,
    n_simulations: int = 1000,
    level: float = 0.95,
    one_sided: bool = False,
    fit: Fit | None = None,
    at_once: int | None = None,
) -> Power:
    """Power at several sizes of the log, by simulation. Pure: jit it, map it over shares of exploration.

    The logs of one simulation are nested: its first rows are the smaller ones, so a curve is smoother than its
    Monte Carlo errors say.

    Args:
      key: of the simulations; the same one gives the same queries at every share of exploration.
      world: of `with_gain`.
      sizes: M numbers of rows, ascending, the least at least 2.
      n_rows: rows that are drawn, at least the largest size, so that logs of many sizes share a program; static. None
        for the largest size, which must then be known when traced.
      exploration: e, share of uniform choices.
      n_simulations: B.
      level: of the interval.
      one_sided: whether the interval has a lower end only (power to see that the policy is better), or both.
      fit: fits the nuisances on each simulated log, at each size; pure. None takes the world's own, the truth, as
        if these were known: the price of estimating them, second order in large logs, is then left out.
      at_once: simulations in one vmap; bounds memory.

    Returns:
      `Power`, [M] each.

    >>> world = PowerWorld(
    ...     weight=jnp.ones(2), propensity=jnp.full((2, 2), .5), allowed=jnp.ones((2, 2), bool),
    ...     policy=jnp.eye(2), baseline=1. - jnp.eye(2), mean=jnp.eye(2), chance=None, noise=jnp.zeros((2, 1)),
    ...     even=True,
    ... )
    >>> power_curve(jax.random.key(0), world, sizes=(10, 20), n_simulations=3).power
    Array([1., 1.], dtype=float32)
    """
    if n_rows is None:
        n_rows = int(sizes[-1])
    chosen, sizes = explored(world, exploration), jnp.asarray(sizes)
    at_once = min(at_once or rows_at_once(n_rows * (chosen.shape[1] + 8), most=64), n_simulations)
    value = normal_value(level, one_sided=one_sided)
    # Of each row, the first of the sizes that has it.
    place = jnp.searchsorted(sizes, jnp.arange(n_rows), side="right")

    def sums_of_refit(fit: Fit, key: Array, drawn: DrawnLog, size: Array) -> Array:
        weight = (jnp.arange(n_rows) < size).astype(chosen.dtype)
        rows = gain_rows(world, drawn, fit(key, drawn, weight))
        return jnp.stack([weight @ rows, weight @ jnp.square(rows)])

    def simulate(key: Array) -> tuple[Array, Array]:
        key_draw, key_fit = jax.random.split(key)
        drawn = draw_rows(key_draw, world, chosen, n_rows=n_rows)

        if fit is None:
            rows = gain_rows(world, drawn)
            columns = jnp.stack([rows, jnp.square(rows)], axis=1)
            sums = jax.ops.segment_sum(columns, place, num_segments=len(sizes) + 1, indices_are_sorted=True)
            sums = jnp.cumsum(sums[:-1], axis=0)
        else:
            sums = jax.lax.map(partial(sums_of_refit, fit, key_fit, drawn), sizes)
        mean, square = sums.T / sizes
        # Around the true gain, so that little is left to cancel.
        error = jnp.sqrt(jnp.maximum(square - jnp.square(mean), 0.0) / sizes)
        return world.gain + mean, error

    keys = jax.random.split(key, (-(-n_simulations // at_once), at_once))
    found = jax.lax.map(jax.vmap(simulate), keys)
    estimate, error = (leaf.reshape(-1, len(sizes))[:n_simulations] for leaf in found)
    detected, missed = (
        (off if one_sided else jnp.abs(off)) > value * error for off in (estimate, estimate - world.gain)
    )
    spread, reported = estimate.std(axis=0), error.mean(axis=0)
    # The spread of B estimates is known to 1 / sqrt(2 B) of itself.
    least = LEAST_REPORTED * (1.0 - 2.0 / (2.0 * n_simulations) ** 0.5)
    smoothed = (detected.sum(axis=0) + 1.0) / (n_simulations + 2.0)
    return Power(
        power=detected.mean(axis=0),
        error=jnp.sqrt(smoothed * (1.0 - smoothed) / n_simulations),
        gain=estimate.mean(axis=0),
        spread=spread,
        standard_error=reported,
        coverage=1.0 - missed.mean(axis=0),
        trusted=reported >= least * spread,
    )


def power_grid(key: Array, world: PowerWorld, *, sizes: Sequence[int] | Array, explorations: Array, **named) -> Power:
    """`power_curve` at each share of exploration [E], with common random numbers: leaves [E, M]. Pure."""

    def at(exploration):
        return power_curve(key, world, sizes=sizes, exploration=exploration, **named)

    return jax.lax.map(at, jnp.asarray(explorations))
