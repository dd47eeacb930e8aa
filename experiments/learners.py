"""One method fitted on one log and judged on queries that were never logged."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from baselines import BASELINES
from baselines.cascade import Cascade
from data import compiler_options
from one_log import OneLog, estimate_nuisances, key_of

from jrouter.inference import standard_error
from jrouter.methods import METHODS
from jrouter.metrics import decide, utility
from jrouter.nuisances.crossfit import NuisanceConfig
from jrouter.policy import Method, Outcomes, Problem, evaluate, judge
from jrouter.types import Array, BenchmarkTable

NAMED = {**METHODS, **BASELINES}
"""Every method that --methods may name."""


def evaluate_method(method: Method, params: Any, table: BenchmarkTable, lambdas: Array) -> tuple[Outcomes, Array]:
    """What a fitted method is worth, and the shares of models, as `evaluate`; a cascade pays for all that it asks."""
    if isinstance(method, Cascade):
        return method.outcomes(params, table, lambdas)
    return evaluate(method.policy, params, table, lambdas)


class Setting(NamedTuple):
    """What the methods of a cell learn from and are judged on; logging_test [n_test, T]."""

    problem: Problem
    test: BenchmarkTable
    logging_test: Array


def setting_from(one: OneLog, test: BenchmarkTable, lambdas: Array, *, seed: int, fast: bool) -> Setting:
    """A log with its nuisances, estimated as by default, and what judges.

    Args:
      one: the log.
      test: queries of `one.logging_test`.
      lambdas: [L].
      seed: of the log.
      fast: compile in half the time to slower code.
    """
    nuisances = estimate_nuisances(seed, one.log, one.split, NuisanceConfig(), fast=fast)
    return Setting(Problem(one.log, one.split, nuisances, lambdas, one.full), test, one.logging_test)


@dataclass
class Learners:
    """Methods by name, and their compiled programs, one per method and shape of the data.

    Attributes:
      methods: name -> method, beside those of `NAMED`.
      fast: compile in half the time to slower code.
    """

    methods: Mapping[str, Callable[[], Method]] = field(default_factory=dict)
    fast: bool = False
    _programs: dict = field(default_factory=dict)

    def run(self, name: str, seed: int, setting: Setting) -> tuple[Outcomes, float]:
        """Outcomes [L, n_test] of a method, and the seconds that its fit and judgement took."""
        program, operands = self._compiled(name, seed, setting)
        start = time.perf_counter()
        outcomes = jax.block_until_ready(program(*operands))
        return jax.tree.map(np.asarray, outcomes), time.perf_counter() - start

    def compile(self, names: Sequence[str], seed: int, setting: Setting) -> None:
        """Compiles several methods at once, on all cores."""
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(lambda name: self._compiled(name, seed, setting), names))

    def _compiled(self, name: str, seed: int, setting: Setting) -> tuple[Any, tuple]:
        """The program of a method, and its operands."""
        if name in ("logging_policy", "oracle"):
            operands = (setting.logging_test, setting.test, setting.problem.lambdas)
            return self.program(name, _judge_hindsight if name == "oracle" else _judge_choices, operands), operands
        method = {**NAMED, **self.methods}[name]()

        def fit_and_judge(key, problem, test):
            return evaluate_method(method, method.fit(key, problem), test, problem.lambdas)[0]

        operands = (key_of(seed, "learners"), setting.problem, setting.test)
        return self.program(name, fit_and_judge, operands), operands

    def program(self, name: str, function: Callable, operands: tuple) -> Any:
        """`function` compiled for operands of these shapes, once under one name."""
        shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(operands))
        signature = (name, jax.tree.structure(operands), shapes)
        if signature not in self._programs:
            jitted = jax.jit(function, compiler_options=compiler_options(self.fast))
            self._programs[signature] = jitted.lower(*operands).compile()
        return self._programs[signature]


def _judge_choices(probability: Array, test: BenchmarkTable, lambdas: Array) -> Outcomes:
    def one(probability, score, cost):
        return judge(jnp.broadcast_to(probability, (lambdas.shape[0], score.shape[0])), score, cost, lambdas)

    return jax.tree.map(jnp.transpose, jax.vmap(one)(probability, test.true_score, test.true_cost))


def _judge_hindsight(probability: Array, test: BenchmarkTable, lambdas: Array) -> Outcomes:
    del probability

    def one(score, cost):
        best = jax.vmap(lambda lam: decide(utility(score, cost, lam)))(lambdas)
        return judge(best, score, cost, lambdas)

    return jax.tree.map(jnp.transpose, jax.vmap(one)(test.true_score, test.true_cost))


def paired(ours: np.ndarray, theirs: np.ndarray | float, group: Array | None) -> dict[str, Any]:
    """Mean of a difference in utility [L, n], per lambda and over them, with errors over test queries."""
    difference = jnp.asarray(ours - theirs)
    both = jnp.concatenate([difference, difference.mean(axis=0, keepdims=True)])
    mean, error = np.asarray(both.mean(axis=1)), np.asarray(standard_error(both, group=group))
    return {"estimate": mean[:-1], "error": error[:-1], "mean": mean[-1], "mean_error": error[-1]}
