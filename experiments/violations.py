"""Worlds in which one assumption fails by a known amount: what `assumptions.py` draws logs from.

All start from `jrouter.known_worlds`: 4 models, queries uniform on a cube of 4 dimensions, linear mean scores, a
logging policy whose log-odds are linear, so that nuisances are right until an assumption is broken. Pure functions:
vmap them over keys. At strength 0 every assumption holds.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from jrouter.known_worlds import EDGE, KnownWorld, draw_known_queries, linear_rule, log_odds, make_known_world
from jrouter.known_worlds import mean_outcomes as base_means
from jrouter.logging_policies import realised_accuracy, simulate_log
from jrouter.metrics import utility
from jrouter.policy import Policy
from jrouter.types import Array, BenchmarkTable, LoggedData

LAM = 100.0
"""Cost preference of the policy whose value is asked, and of the utility while it is affine."""
COST_NOISE = 0.8
"""Sigma of the log-normal factor between mean and realised cost: answers of one model differ in length."""
DIFFICULTY = 0.1
"""How much a standard deviation of the first coordinate lowers every model's mean score, where traffic drifts."""


def make_world(seed: int, *, half: bool = False, difficulty: float = 0.0) -> KnownWorld:
    """A world of 4 models and 4 dimensions.

    Args:
      seed: of its coefficients.
      half: halve what is each model's own, for room between 0 and 1.
      difficulty: see `DIFFICULTY`.
    """
    world = make_known_world(jax.random.key(seed), n_models=4, dim=4)
    ability = world.ability * (0.5 if half else 1.0)
    return replace(world, ability=ability.at[:, 0].add(-difficulty))


def best_at_lam(params: dict[str, Array], x: Array, lam: float | Array) -> Array:
    """Utilities [T] at `LAM` by the linear parts of a world; the first coordinates of x are its query."""
    x = x[: params["ability"].shape[1]]
    return utility(params["level"] + params["ability"] @ x, params["price"] * (1.0 + params["length"] @ x), LAM)


RULE = Policy(best_at_lam)
"""The policy to value, with `rule_params`: the best model at `LAM` by the linear parts, at whatever lambda."""


def rule_params(world: KnownWorld) -> dict[str, Array]:
    """Params of `RULE`, made without any log; coordinates of x beyond the world's own do not matter to it."""
    return linear_rule(world)[1]


def realised(key: Array, score: Array, cost: Array) -> tuple[Array, Array]:
    """0/1 scores and log-normal costs around their means, of any shape."""
    key_score, key_cost = jax.random.split(key)
    factor = jnp.exp(COST_NOISE * jax.random.normal(key_cost, cost.shape) - COST_NOISE**2 / 2)
    return jax.random.bernoulli(key_score, score).astype(jnp.float32), cost * factor


Means = Callable[[Array], tuple[Array, Array]]
"""One query [d] -> mean score [T] and mean cost [T]."""


def means_of(world: KnownWorld) -> Means:
    """The means of a world without any change."""
    return lambda x: base_means(world, x)


def table_of(world: KnownWorld, key: Array, x: Array, means: tuple[Array, Array]) -> BenchmarkTable:
    """Queries [n, d] with their means [n, T] and outcomes drawn around them."""
    return BenchmarkTable(x, *realised(key, *means), *means, models=world.models)


def propensities(world: KnownWorld, x: Array) -> Array:
    """[n, T], of the logging policy."""
    return jax.nn.softmax(jax.vmap(lambda x: log_odds(world, x))(x))


def draw_log(world: KnownWorld, key: Array, n: int) -> LoggedData:
    """A log in which all assumptions hold; costs vary by `COST_NOISE`."""
    key_x, key_table, key_log = jax.random.split(key, 3)
    x = draw_known_queries(world, key_x, n)
    table = table_of(world, key_table, x, jax.vmap(means_of(world))(x))
    return simulate_log(key_log, table, propensities(world, x))[0]


# 1. Affine utility


def _penalty(score, cost):
    return score - LAM * cost**2 / 1e-3


def _budget(limit):
    return lambda score, cost: jnp.where(cost <= limit, score, 0.0)


def _logarithm(score, cost):
    return score - 0.07 * jnp.log1p(cost / 2e-4)


BUDGETS = {"budget 0.002": 2e-3, "budget 0.001": 1e-3}
FAMILIES = {
    "quadratic penalty": _penalty,
    **{name: _budget(limit) for name, limit in BUDGETS.items()},
    "logarithm": _logarithm,
}
"""Utilities at strength 1: a penalty of 100 * cost^2 / 0.001; score where the cost is within the budget, else 0 (mean
costs of models are from 0.0002 to 0.0016); and a penalty of 0.07 * log(1 + cost / 0.0002)."""


def mixed_utility(family: str) -> Callable[[Array, Array, float | Array], Array]:
    """(score, cost, strength) -> utility: affine at strength 0, the family's at 1, and between them."""
    other = FAMILIES[family]
    return lambda score, cost, strength: (1 - strength) * utility(score, cost, LAM) + strength * other(score, cost)


def mean_utility(family: str, score: Array, cost: Array, strength: float | Array) -> Array:
    """E[utility] at mean scores and mean costs of any shape, over 0/1 scores and log-normal costs."""
    if family == "quadratic penalty":
        mean = score - LAM * cost**2 * jnp.exp(COST_NOISE**2) / 1e-3
    elif family in BUDGETS:
        # Score and cost are independent given the query and the model.
        mean = score * norm.cdf((jnp.log(BUDGETS[family] / cost) + COST_NOISE**2 / 2) / COST_NOISE)
    else:
        # 400 equal shares of the normal: the logarithm is too smooth for the ends to matter.
        normal = norm.ppf((jnp.arange(400) + 0.5) / 400)
        factors = jnp.exp(COST_NOISE * normal - COST_NOISE**2 / 2)
        mean = jax.lax.map(lambda factor: _logarithm(score, cost * factor), factors).mean(axis=0)
    return (1 - strength) * utility(score, cost, LAM) + strength * mean


# 2. Lipschitz scores


def jump(x: Array) -> Array:
    """-1/2 or 1/2, by the side of the boundary.

    >>> float(jump(jnp.array([-0.1, 5.0]))), float(jump(jnp.array([0.1, 5.0])))
    (-0.5, 0.5)
    """
    return jnp.where(x[0] > 0, 0.5, -0.5)


def _signs(world: KnownWorld) -> Array:
    return jnp.where(jnp.arange(len(world.models)) % 2 == 0, 1.0, -1.0)


def jump_means(world: KnownWorld, height: float | Array) -> Means:
    """Means whose score jumps by `height` at the boundary: up for half of the models, down for the others."""

    def means(x):
        score, cost = base_means(world, x)
        return jnp.clip(score + height * _signs(world) * jump(x), 0.02, 0.98), cost

    return means


def draw_jump_log(
    world: KnownWorld, key: Array, n: int, height: float | Array, follow: float | Array
) -> tuple[LoggedData, Array]:
    """A log whose scores jump, and its true propensities [n, T].

    Args:
      world: and
      key: of everything.
      n: rows.
      height: of the jump in mean score.
      follow: how far the logging policy knows: its log-odds jump by `follow * height`, as the scores do.
    """
    key_x, key_table, key_log = jax.random.split(key, 3)
    x = draw_known_queries(world, key_x, n)
    table = table_of(world, key_table, x, jax.vmap(jump_means(world, height))(x))
    known = follow * height * _signs(world) * jax.vmap(jump)(x)[:, None]
    probability = jax.nn.softmax(jnp.log(propensities(world, x)) + known)
    return simulate_log(key_log, table, probability)[:2]


# 3. Ignorability


def draw_outcome_log(world: KnownWorld, key: Array, n: int, share: float | Array) -> tuple[LoggedData, Array]:
    """A log that chose by what the answers would score: p = (1 - share) / T + share * realised_accuracy.

    Returns:
      The log, and p(t | x, outcomes) [n, T].
    """
    key_x, key_table, key_log = jax.random.split(key, 3)
    x = draw_known_queries(world, key_x, n)
    table = table_of(world, key_table, x, jax.vmap(means_of(world))(x))
    probability = (1 - share) / len(world.models) + share * realised_accuracy(table)
    return simulate_log(key_log, table, probability)[:2]


# 5. The same traffic (4, SUTVA, is in sessions.py)


def tilted_queries(world: KnownWorld, key: Array, n: int, tilt: float | Array) -> Array:
    """[n, d] queries whose first coordinate has density proportional to exp(tilt * x_0): harder where tilt > 0."""
    x = draw_known_queries(world, key, n)
    share = (x[:, 0] + EDGE) / (2 * EDGE)
    safe = jnp.where(jnp.abs(tilt) > 1e-6, tilt, 1.0)
    tilted = jnp.log1p(share * jnp.expm1(2 * EDGE * safe)) / safe - EDGE
    return x.at[:, 0].set(jnp.where(jnp.abs(tilt) > 1e-6, tilted, x[:, 0]))


def density_ratio(x: Array, tilt: float | Array) -> Array:
    """Density of `tilted_queries` over that of the log's queries, at one query [d].

    >>> float(density_ratio(jnp.zeros(2), 0.0))
    1.0
    """
    safe = jnp.where(jnp.abs(tilt) > 1e-6, tilt, 1.0)
    scale = safe * EDGE / jnp.sinh(safe * EDGE)
    return jnp.where(jnp.abs(tilt) > 1e-6, scale * jnp.exp(safe * x[0]), 1.0)


def fall_means(world: KnownWorld, model: int | Array, fall: float | Array) -> Means:
    """Means after one model's score has fallen."""

    def means(x):
        score, cost = base_means(world, x)
        return jnp.clip(score.at[model].add(-fall), 0.02, 0.98), cost

    return means


def draw_falling_log(
    world: KnownWorld, key: Array, n: int, model: int | Array, fall: float | Array, since: float | Array
) -> LoggedData:
    """A log in which one model's score falls when the share `since` of the rows is written; 1 for never.

    Args:
      world: and
      key: of everything.
      n: rows, in order of time: `time` is the share of rows written before.
      model: whose score falls.
      fall: by how much.
      since: when.
    """
    key_x, key_table, key_log = jax.random.split(key, 3)
    x, time = draw_known_queries(world, key_x, n), jnp.arange(n) / n
    means = jax.vmap(lambda x, time: fall_means(world, model, jnp.where(time >= since, fall, 0.0))(x))(x, time)
    log = simulate_log(key_log, table_of(world, key_table, x, means), propensities(world, x))[0]
    return replace(log, time=time)
