"""Worlds with a hidden coin, and what one cell of `confounding.py` computes on logs drawn from them."""

import time
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.known_worlds import (
    KnownWorld,
    draw_known_log,
    draw_known_queries,
    hidden_gamma,
    hidden_propensities,
    linear_rule,
    make_known_world,
    mean_outcomes,
    means_given_coin,
    true_value,
)
from jrouter.metrics import expected, utility
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.sensitivity import SensitivityBounds, critical_gamma, fixed_policy_bounds
from jrouter.splits import folds_alone
from jrouter.types import Array

N_FOLDS = 5
LAM = 50.0
OUTCOME = 0.9
"""Of the way to 0 or 1 that the coin moves a mean score."""
GAMMAS = (1.0, 1.05, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0)
CONFIG = NuisanceConfig(outcome="ridge")
ENDS = ("low", "low_error", "high", "high_error")


def hidden_world(seed: int, strength: float, *, queries: int = 2**15) -> tuple[KnownWorld, float, float]:
    """A world whose coin has a given Gamma: the largest over many queries.

    Args:
      seed: of the world.
      strength: Gamma, at least 1.
      queries: how many.

    Returns:
      The world, its Gamma, found by bisection, and the median of the queries' Gammas.
    """
    x = draw_known_queries(make_known_world(jax.random.key(seed)), jax.random.key(7), queries)

    def world(choice):
        return make_known_world(jax.random.key(seed), hidden_choice=choice, hidden_outcome=OUTCOME)

    @jax.jit
    def gammas(choice):
        found = jax.vmap(partial(hidden_gamma, world(choice)))(x)
        return found.max(), jnp.median(found)

    low, high = 0.0, 4.0
    for _ in range(30 if strength > 1.0 else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if float(gammas(middle)[0]) < strength else (low, middle)
    largest, median = gammas(low)
    return world(low), float(largest), float(median)


def logging_value(world: KnownWorld, key: Array, *, n: int = 2**20, chunk: int = 2**14) -> Array:
    """Mean utility of what the logging policy, which sees the coin, chooses."""

    def of_query(x):
        score, cost = mean_outcomes(world, x)
        coins = jnp.array([-1.0, 1.0])
        given = jax.vmap(lambda coin: utility(means_given_coin(world, score, coin), cost, LAM))(coins)
        return jax.vmap(expected)(hidden_propensities(world, x), given).mean()

    def of_chunk(key):
        return jax.vmap(of_query)(draw_known_queries(world, key, chunk)).mean()

    return jax.lax.map(of_chunk, jax.random.split(key, -(-n // chunk))).mean()


class Simulation:
    """Compiled programs, the same for all strengths, made when first needed.

    Args:
      n: rows of a log.
      batch: logs of a cell.
      world_seed: of the world's coefficients.
    """

    def __init__(self, *, n: int, batch: int, world_seed: int):
        self.n, self.batch, self.world_seed = n, batch, world_seed
        self.policy, self.params = linear_rule(make_known_world(jax.random.key(world_seed)))
        self._worlds: dict[float, dict[str, Any]] = {}

    def known(self, strength: float) -> dict[str, Any]:
        """The world of a strength, and what is known of it."""
        if strength not in self._worlds:
            world, gamma, median = hidden_world(self.world_seed, strength)
            truth, logging = map(float, self._truths(world))
            self._worlds[strength] = {
                "world": world,
                "known": {"gamma": gamma, "median_gamma": median, "truth": truth, "true_gain": truth - logging},
            }
        return self._worlds[strength]

    @cached_property
    def _truths(self):
        def truths(world):
            lambdas = jnp.array([LAM])
            score, cost = true_value(world, self.policy, self.params, lambdas, jax.random.key(9), n=2**20)
            return utility(score, cost, lambdas)[0], logging_value(world, jax.random.key(9))

        return jax.jit(truths)

    @cached_property
    def bounds_of(self):
        """(world, keys [B]) -> `SensitivityBounds` of [B, G], a log for each key."""
        n = self.n
        log, _ = draw_known_log(make_known_world(jax.random.key(0)), jax.random.key(0), n)
        # Rows are independent: any folds are.
        split = replace(folds_alone(log, np.arange(n) % N_FOLDS, n_folds=N_FOLDS), model_size=n)

        def of_log(world, split, key):
            log, _ = draw_known_log(world, jax.random.fold_in(key, 0), n)
            nuisances = fit_nuisances(jax.random.fold_in(key, 1), log, split, CONFIG)
            lambdas, gammas = jnp.array([LAM]), jnp.array(GAMMAS)
            found = fixed_policy_bounds(log, nuisances, self.policy, self.params, lambdas, gammas, n_folds=N_FOLDS)
            return jax.tree.map(lambda leaf: leaf[0], found)

        run = jax.jit(lambda world, split, keys: jax.lax.map(lambda key: of_log(world, split, key), keys))
        return lambda world, keys: run(world, split, keys)

    def cell(self, key: dict[str, Any]) -> dict[str, Any]:
        """What a cell holds: counts and means over its logs, and the curves of its first log."""
        begun = time.perf_counter()
        found = self.known(key["strength"])
        numbers = np.arange(key["first"], key["first"] + self.batch)
        # Logs of one number have the same queries at every strength.
        keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(5), number))(numbers)
        bounds = self.bounds_of(found["world"], keys)
        critical = jax.vmap(partial(critical_gamma, jnp.array(GAMMAS)))(bounds.gain)
        return {
            **found["known"],
            "gammas": GAMMAS,
            "logs": len(numbers),
            **summary(bounds, found["known"]["truth"]),
            **{name: np.asarray(part).sum() for name, part in critical._asdict().items()},
            "first_log": {
                "gain": {end: np.asarray(getattr(bounds.gain, end))[0] for end in ENDS},
                "critical": {name: np.asarray(part)[0].tolist() for name, part in critical._asdict().items()},
            },
            "seconds": round(time.perf_counter() - begun, 3),
        }


def summary(bounds: SensitivityBounds, truth: float) -> dict[str, Any]:
    """Means over logs of bounds [B, G]; how many hold the truth, and announce a gain.

    Args:
      bounds: of the value and of the gain.
      truth: value of the policy.
    """
    bounds = jax.tree.map(np.asarray, bounds)
    low, high = (np.asarray(end) for end in bounds.value.interval())
    return {
        "held": ((low <= truth) & (truth <= high)).sum(axis=0),
        "announced": (np.asarray(bounds.gain.interval()[0]) > 0).sum(axis=0),
        "value": {end: getattr(bounds.value, end).mean(axis=0) for end in ENDS},
        "gain": {end: getattr(bounds.gain, end).mean(axis=0) for end in ENDS},
        "squares": np.square(bounds.value.low[:, 0] - truth).mean(),
    }
