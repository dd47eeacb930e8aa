"""One small fitted router and its log, for tests of what is done with routers."""

from functools import cache

import jax.numpy as jnp
import numpy as np

from jrouter.router import Router
from jrouter.types import LoggedData

N, D = 600, 6
MODELS = ("small", "middle", "large")
WEIGHTS = np.random.default_rng(5).normal(size=(D, 3)).astype(np.float32)
LEVEL = np.array([0.4, 0.55, 0.7], np.float32)
COST = np.array([1e-4, 1e-3, 1e-2], np.float32)


def world(n: int, seed: int):
    """Queries, expected score [n, 3] and cost [n, 3]: linear, and each model is the best somewhere."""
    x = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    return x, LEVEL + 0.1 * x @ WEIGHTS, np.broadcast_to(COST, (n, 3)) * (1 + 0.2 * np.tanh(x[:, :1]))


def make_log(n: int = N, seed: int = 0, **columns) -> LoggedData:
    """Rows of a log with uniform logging."""
    x, score, cost = world(n, seed)
    rng = np.random.default_rng(seed + 1000)
    model = rng.integers(0, 3, n)
    row = np.arange(n)
    observed = score[row, model] + 0.05 * rng.normal(size=n)
    return LoggedData(
        jnp.asarray(x),
        jnp.asarray(model, jnp.int32),
        jnp.asarray(observed, jnp.float32),
        jnp.asarray(cost[row, model], jnp.float32),
        models=MODELS,
        **columns,
    )


@cache
def fitted() -> Router:
    """A plug-in router with forecasts, without assessment."""
    return Router.fit(
        make_log(), method="regress_and_compare_pooled", lambdas=[0.0, 20.0, 100.0], assess_folds=0, progress=False
    )
