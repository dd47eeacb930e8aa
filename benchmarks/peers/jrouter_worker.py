"""jrouter: `Router.fit` as a user calls it, with the log's propensities, for one cost preference, 0."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from protocol import SEED, Learner, Log, work

from jrouter import Router
from jrouter.types import LoggedData


def fitted(method: str) -> Callable[[Log], Callable[[np.ndarray], np.ndarray]]:
    """The fit of a method by its name."""

    def fit(log: Log) -> Callable[[np.ndarray], np.ndarray]:
        data = LoggedData(
            x=jnp.asarray(log.x),
            model=jnp.asarray(log.model, jnp.int32),
            score=jnp.asarray(log.score, jnp.float32),
            cost=jnp.asarray(log.cost, jnp.float32),
            propensity=jnp.asarray(log.propensity, jnp.float32),
            models=tuple(log.names.tolist()),
        )
        router = Router.fit(data, method=method, lambdas=[0.0], seed=SEED, assess_folds=0, progress=False)
        place = {name: number for number, name in enumerate(data.models)}
        return lambda x: np.array([place[name] for name in router.route(x, 0.0)])

    return fit


SETTINGS = "defaults, lambdas=[0.0], assess_folds=0; compilation counted"

if __name__ == "__main__":
    methods = ("rm_auto", "regress_and_compare_pooled")
    work({method: Learner(fitted(method), SETTINGS) for method in methods}, ("jrouter", "jax"))
