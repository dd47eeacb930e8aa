"""carrot_convex_{mlp,knn}: CARROT's trade-off as a convex combination of scores and of costs in [0, 1].

    argmax_t (1 - mu) * score_t(x) - mu * (cost_t(x) - least) / range,    mu in [0, 1]

It is the rule at lambda = mu / ((1 - mu) * range), for dividing by 1 - mu and moving all costs alike decide nothing:
`mu_of` and `lambda_of` go from one to the other. A grid of mu is a grid of lambda whose steps depend on the range of
costs in the table, so what is compared at one mu on two tables is not compared at one lambda.

Source: Somerstep et al. (2025), CARROT, arXiv 2502.03261 (the convex combination and its sweep over mu; how costs are
put on the scores' scale is our reading).

Adaptation: none, FULL FEEDBACK as `carrot_*` of the package, with the same predictors. The range is of the training
table's costs over all rows and models; mu = 1, the cheapest model, is lambda at infinity.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jrouter.methods.carrot import PREDICTORS, CarrotConfig
from jrouter.methods.plug_in import fit_all, plug_in_outcome
from jrouter.policy import Method, Policy
from jrouter.types import Array


def mu_of(lam: float | Array, cost_range: float | Array) -> Array:
    """mu in [0, 1) of a lambda.

    >>> mu_of(100., .01), mu_of(0., .01)
    (Array(0.5, dtype=float32, weak_type=True), Array(0., dtype=float32, weak_type=True))
    """
    scaled = jnp.asarray(lam * cost_range)
    return scaled / (1.0 + scaled)


def lambda_of(mu: float | Array, cost_range: float | Array) -> Array:
    """The lambda that decides as mu < 1 does.

    >>> lambda_of(.5, .01)
    Array(100., dtype=float32, weak_type=True)
    """
    return jnp.asarray(mu / ((1.0 - mu) * cost_range))


def carrot_convex(config: CarrotConfig = CarrotConfig()) -> Method:
    """Plug-in rule of a predictor trained on full feedback, in CARROT's units: a reference."""
    family = PREDICTORS[config.predictor]()

    def fit(key, problem):
        cost = problem.full.cost
        least, spread = cost.min(), cost.max() - cost.min()
        units = {"least": least, "range": jnp.where(spread > 0, spread, 1.0)}
        return fit_all(key, family, problem, problem.full.score, cost) | {"units": units}

    def apply(params, x, lam):
        score, cost = plug_in_outcome(family.predict, params, x)
        mu = mu_of(lam, params["units"]["range"])
        return (1.0 - mu) * score - mu * (cost - params["units"]["least"]) / params["units"]["range"]

    return Method(fit, Policy(apply), config, full_feedback=True, smooth=config.predictor != "knn")


def _with(predictor: str) -> Callable[..., Method]:
    default = CarrotConfig(predictor)
    return lambda config=default: carrot_convex(config)


VARIANTS = {f"carrot_convex_{predictor}": _with(predictor) for predictor in ("mlp", "knn")}
