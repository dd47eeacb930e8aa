"""A world in which the best model of a query is known, for tests of baselines: clusters of queries, T models."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.policy import Method, Problem
from jrouter.splits import split_log
from jrouter.types import BenchmarkTable, LoggedData, Nuisances

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

QUICK = {"xla_backend_optimization_level": 0}
CENTRES = 3.0 * np.eye(4)
MEAN = np.array([[0.9, 0.3, 0.4], [0.2, 0.8, 0.3], [0.1, 0.3, 0.9], [0.5, 0.55, 0.6]])
"""[4, 3], mean score of each model on each cluster; the dearest is not the best everywhere."""
PRICE = np.array([1.0, 2.0, 4.0])
LAMBDAS = np.array([0.0, 0.1, 100.0], np.float32)
NAMES = ("small", "middle", "large")


def draw(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries [n, 4], and the cluster of each."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, 4, n)
    return CENTRES[cluster] + 0.5 * rng.normal(size=(n, 4)), cluster


def best(cluster: np.ndarray, lam: float) -> np.ndarray:
    """The right model of each query."""
    return (MEAN - lam * PRICE)[cluster].argmax(axis=1)


def problem_of(seed: int = 0, n: int = 1200, *, binary: bool = True, **changes: Any) -> Problem:
    """A log by a policy that prefers cheap models; nuisances are the true ones, so scores to learn from are right."""
    rng = np.random.default_rng(100 + seed)
    x, cluster = draw(seed, n)
    mean, cost = MEAN[cluster], np.broadcast_to(PRICE, (n, 3)) * rng.uniform(0.8, 1.2, size=(n, 1))
    score = (rng.random((n, 3)) < mean) * 1.0 if binary else mean
    propensity = np.array([0.5, 0.3, 0.2])
    model, row = rng.choice(3, size=n, p=propensity), np.arange(n)

    def as_array(values):
        return jnp.asarray(values, jnp.float32)

    columns = {"x": x, "score": score[row, model], "cost": cost[row, model]}
    parts: dict[str, Any] = {name: as_array(values) for name, values in columns.items()} | changes
    log = LoggedData(model=jnp.asarray(model, jnp.int32), models=NAMES, **parts)
    split = split_log([log], seeds=[seed], n_folds=3)[0]
    known = Nuisances(as_array(propensity[model]), as_array(mean), as_array(cost), split.fold)
    full = BenchmarkTable(None, as_array(score), as_array(cost), models=NAMES)
    return Problem(log, split, known, jnp.asarray(LAMBDAS), full)


def program(method: Method) -> Callable[..., tuple[Any, jax.Array]]:
    """Jitted: (problem, queries [m, d], lambdas [L]) -> params and values [m, L, T]."""

    def run(problem, x, lambdas):
        params = method.fit(jax.random.key(0), problem)
        of_query = jax.vmap(method.policy.values, in_axes=(None, None, 0))
        return params, jax.vmap(of_query, in_axes=(None, 0, None))(params, x, lambdas)

    return jax.jit(run, compiler_options=QUICK)


def fitted(method: Method, problem: Problem, x: np.ndarray, lambdas: np.ndarray = LAMBDAS) -> tuple[Any, np.ndarray]:
    """Params, and finite values [m, L, T] of queries x."""
    params, values = program(method)(problem, jnp.asarray(x, jnp.float32), jnp.asarray(lambdas))
    for leaf in jax.tree.leaves((params, values)):
        assert np.isfinite(np.asarray(leaf)).all()
    return params, np.asarray(values)


def share_right(values: np.ndarray, cluster: np.ndarray, lam: float) -> float:
    """Of queries whose best model leads by .1 at least, the share that `values` [m, T] decides rightly."""
    ordered = np.sort((MEAN - lam * PRICE)[cluster], axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 0.1
    assert clear.any()
    return float((values.argmax(axis=1) == best(cluster, lam))[clear].mean())
