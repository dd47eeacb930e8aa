"""Logs of the worlds of `assumptions.py`, their analyses and what is learned from them, held to the truth.

An analysis is a log, an estimator and a true value: its intervals are value -+ 1.96 errors of
`off_policy.fixed_policy_value`. Logs of one seed have the same queries and noise at every strength.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import assumption_programs as programs
import jax
import jax.numpy as jnp
import numpy as np
import sessions
import violations
from assumption_programs import ESTIMATORS, LIGHT
from data import compiler_options
from violations import LAM, RULE, Means

from jrouter.known_worlds import KnownWorld
from jrouter.metrics import utility
from jrouter.nuisances.crossfit import NuisanceConfig
from jrouter.policy import Policy
from jrouter.splits import Split, split_log
from jrouter.types import Array, BenchmarkTable, LoggedData

NORMAL = 1.959964


class Values(NamedTuple):
    """An analysis of S logs: values [S], their standard errors [S], and the true value."""

    value: Any
    error: Any
    truth: float


class Learned(NamedTuple):
    """A learner on S logs: true utility [S] of its router, and its regret [S] where there is a best to compare with."""

    utility: Any
    regret: Any | None = None


class Found(NamedTuple):
    """What a cell found: analyses, learners and shares by name."""

    values: dict[str, Values]
    learned: dict[str, Learned]
    shares: dict[str, float]


def summary(found: Found) -> dict[str, Any]:
    """A cell as it is kept: numbers alone, whole numbers of logs beside them."""

    def of_values(one: Values) -> dict[str, float]:
        value, error = np.asarray(one.value, float), np.asarray(one.error, float)
        return {
            "logs": value.size,
            "truth": one.truth,
            "bias": value.mean() - one.truth,
            "bias_error": value.std(ddof=1) / value.size**0.5,
            "spread": value.std(ddof=1),
            "error": error.mean(),
            "coverage": float((np.abs(value - one.truth) <= NORMAL * error).mean()),
        }

    def of_learned(one: Learned) -> dict[str, float]:
        parts = {"utility": one.utility} | ({} if one.regret is None else {"regret": one.regret})
        cell: dict[str, float] = {"logs": np.size(one.utility)}
        for name, each in parts.items():
            each = np.asarray(each, float)
            cell |= {name: each.mean(), f"{name}_error": each.std(ddof=1) / each.size**0.5}
        return cell

    return {
        "values": {name: of_values(one) for name, one in found.values.items()},
        "learned": {name: of_learned(one) for name, one in found.learned.items()},
        "shares": found.shares,
    }


class Analyses:
    """Logs of one size and what is done with them; compiled programs, and what cells share, are kept between cells.

    Args:
      n: rows of a log.
      logs: S, log seeds 0..S-1.
      learner_logs: how many of them are learned from.
      world_seed: of all worlds.
      truth_queries: over how many queries true values are averaged.
      fast: compile in half the time to slower code.
    """

    def __init__(self, *, n: int, logs: int, learner_logs: int, world_seed: int, truth_queries: int, fast: bool):
        self.n, self.fast, self.truth_queries, self.learner_logs = n, fast, truth_queries, learner_logs
        self.keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(1), seed))(jnp.arange(logs))
        make = partial(violations.make_world, world_seed)
        self.plain, self.half = make(), make(half=True)
        self.harder = make(half=True, difficulty=violations.DIFFICULTY)
        self.config = NuisanceConfig(*(next(iter(LIGHT[kind])) for kind in ("outcome", "propensity")))
        self._programs: dict[Any, Callable] = {}

    def jitted(self, function: Callable, *operands: Any, **static: Any) -> Any:
        """Calls `function`, compiled once for these static arguments (and for each shape of the others)."""
        name = (function, *static.items())
        if name not in self._programs:
            self._programs[name] = jax.jit(partial(function, **static), compiler_options=compiler_options(self.fast))
        return self._programs[name](*operands)

    def drawn(self, draw: Callable, world: KnownWorld, *more: Any) -> Any:
        """S draws of (world, key, n, *more)."""

        def every(world, keys, more):
            return jax.lax.map(lambda key: draw(world, key, self.n, *more), keys)

        name = (draw, "drawn")
        if name not in self._programs:
            self._programs[name] = jax.jit(every)
        return self._programs[name](world, self.keys, more)

    @cached_property
    def split(self) -> Split:
        """Folds, and rows of training and validation, the same for every log: rows are in no order that matters."""
        return self._split(None)

    @cached_property
    def session_split(self) -> Split:
        """The same, sessions undivided."""
        return self._split(jnp.arange(self.n) // sessions.TURNS)

    def _split(self, group: Array | None) -> Split:
        none = jnp.zeros(self.n)
        log = LoggedData(none[:, None], none.astype(jnp.int32), none, none, group=group)
        # One model may have any number of rows.
        return replace(split_log([log], seeds=[0])[0], model_size=self.n)

    def alike(self, logs: LoggedData) -> LoggedData:
        """Logs with weights and groups, be they of no effect: so all share their programs."""
        shape = logs.model.shape
        weight = jnp.ones(shape) if logs.row_weight is None else logs.row_weight
        group = jnp.broadcast_to(jnp.arange(self.n), shape) if logs.group is None else logs.group
        return replace(logs, row_weight=weight, group=group)

    def values(
        self,
        logs: LoggedData,
        world: KnownWorld,
        truth: float,
        *,
        split: Split | None = None,
        policy: Policy = RULE,
    ) -> dict[str, Values]:
        """Analyses of `RULE` on S logs, by estimator."""
        operands = (self.alike(logs), split or self.split, violations.rule_params(world))
        value, error = self.jitted(programs.values_of_logs, *operands, policy=policy, config=self.config)
        return {name: Values(value[:, at], error[:, at], truth) for at, name in enumerate(ESTIMATORS)}

    def test(self, world: KnownWorld, means: Means | None = None, tilt: Array | float = 0.0) -> BenchmarkTable:
        """Queries after the log, with their outcomes."""
        key_x, key_outcomes = jax.random.split(jax.random.key(2))
        x = violations.tilted_queries(world, key_x, self.truth_queries, tilt)
        return violations.table_of(world, key_outcomes, x, jax.vmap(means or violations.means_of(world))(x))

    def judging(self, test: BenchmarkTable) -> BenchmarkTable:
        """The queries that judge learners."""
        return jax.tree.map(lambda leaf: leaf[:4096], test)

    def truth(self, world: KnownWorld, test: BenchmarkTable) -> float:
        """True value of `RULE`."""
        params = violations.rule_params(world)
        choice = jax.vmap(lambda x: RULE.probabilities(params, x, LAM))(test.x)
        return float((choice * utility(test.true_score, test.true_cost, LAM)).sum(axis=1).mean())

    def few(self, logs: LoggedData) -> LoggedData:
        """The logs that are learned from."""
        return jax.tree.map(lambda leaf: leaf[: self.learner_logs], self.alike(logs))

    def learned(self, logs: LoggedData, test: BenchmarkTable, method: str) -> Learned:
        """A learner on the few logs."""
        return Learned(
            *self.jitted(
                programs.learn,
                self.few(logs),
                self.split,
                self.judging(test),
                method=method,
                config=self.config,
            )
        )

    @cached_property
    def plain_logs(self) -> LoggedData:
        """Logs in which all holds."""
        return self.drawn(violations.draw_log, self.plain)

    @cached_property
    def score_and_cost(self) -> tuple[Array, Array]:
        """`two_values` of the plain logs."""
        params = violations.rule_params(self.plain)
        return self.jitted(programs.two_values, self.plain_logs, self.split, params, config=self.config)
