"""Methods fitted on the logs of all seeds by one program each, and judged on queries that were never logged."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from data import Simulation, Source, compiler_options, seed_keys
from known_methods import REFERENCES
from learners import NAMED, evaluate_method

from jrouter.metrics import decide, utility
from jrouter.policy import Outcomes, judge
from jrouter.sweep import over_seeds


class Judged(NamedTuple):
    """A method's results: outcomes [S, L, n_test], shares [S, L, T], seconds per seed, full feedback or not."""

    outcomes: Outcomes
    shares: np.ndarray
    seconds: float
    full_feedback: bool


def compile_learner(name: str, source: Source, simulation: Simulation, *, fast: bool) -> Any:
    """One program that fits a method on every seed's log and judges it on the test queries.

    Args:
      name: of the method.
      source: test queries.
      simulation: stacked problems.
      fast: compile in half the time to slower code, which pays for small sizes.
    """
    method = NAMED[name]()
    at_once = 1 if jax.default_backend() == "cpu" else simulation.logging_test.shape[0]

    def fit_and_judge(keys, problems, test):
        def one(key, problem):
            return evaluate_method(method, method.fit(key, problem), test, problem.lambdas)

        return over_seeds(one, at_once=at_once)(keys, problems)

    return (
        jax.jit(fit_and_judge, compiler_options=compiler_options(fast)).lower(*_operands(source, simulation)).compile()
    )


def _operands(source: Source, simulation: Simulation) -> tuple:
    # The same keys for every method: what differs between two of them is not their luck.
    return seed_keys(simulation.logging_test.shape[0], "learners"), simulation.problems, source.test


def run_learner(program: Any, name: str, source: Source, simulation: Simulation) -> Judged:
    """Runs a compiled method."""
    start = time.perf_counter()
    outcomes, shares = jax.block_until_ready(program(*_operands(source, simulation)))
    seconds = (time.perf_counter() - start) / simulation.logging_test.shape[0]
    full_feedback = NAMED[name]().full_feedback
    return Judged(jax.tree.map(np.asarray, outcomes), np.asarray(shares), seconds, full_feedback)


def run_reference(name: str, source: Source, simulation: Simulation) -> Judged:
    """Judges choices that are known as probabilities: the logging policy's, or hindsight's."""
    test, lambdas = source.test, simulation.lambdas
    n_seeds = simulation.logging_test.shape[0]

    @jax.jit
    def of_query(score, cost, logging):
        if name == "oracle":
            probability = jax.vmap(lambda lam: decide(utility(score, cost, lam)))(lambdas)
        else:
            probability = jnp.broadcast_to(logging, (lambdas.shape[0], *logging.shape))
        return judge(probability, score, cost, lambdas), probability

    by_query = jax.vmap(of_query)
    start = time.perf_counter()
    each = [by_query(test.true_score, test.true_cost, simulation.logging_test[seed]) for seed in range(n_seeds)]
    outcomes = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf).T for leaf in leaves]), *[o for o, _ in each])
    shares = np.stack([np.asarray(probability.mean(axis=0)) for _, probability in each])
    return Judged(outcomes, shares, (time.perf_counter() - start) / n_seeds, name == "oracle")


def run_setting(
    source: Source, simulation: Simulation, methods: list[str], *, fast: bool, note: Callable[[str], None]
) -> dict[str, Judged]:
    """All methods on one source and logging policy.

    Each is run as soon as it is compiled, beside the compilation of others: that fills all cores, and
    makes the seconds of a run no benchmark. Two names of one estimator are run once.
    """

    def estimator(name: str) -> tuple:
        method = NAMED[name]()
        return method.fit.__qualname__, method.config

    first_with = {}
    for name in methods:
        if name not in REFERENCES:
            first_with.setdefault(estimator(name), name)
    # The last take longest, so they go first and no core waits for one of them alone.
    longest_first = list(reversed(first_with.values()))
    found = {}
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        waiting = {pool.submit(compile_learner, name, source, simulation, fast=fast): name for name in longest_first}
        for done in as_completed(waiting):
            # Popped, so that a program is freed once it has run.
            name = waiting.pop(done)
            note(f"compiled {name}")
            found[name] = run_learner(done.result(), name, source, simulation)
            note(f"ran {name}")
    judged = {}
    for name in methods:
        if name in REFERENCES:
            judged[name] = run_reference(name, source, simulation)
        else:
            judged[name] = found[first_with[estimator(name)]]
    return judged
