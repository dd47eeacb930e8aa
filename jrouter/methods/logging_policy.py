"""logging_policy: what wrote the log, estimated from it; the thing to improve on."""

from dataclasses import dataclass

import jax

from jrouter.features import scale
from jrouter.nuisances.crossfit import PROPENSITY_MODELS
from jrouter.nuisances.crossfit_propensity import fit_propensity
from jrouter.policy import Method, Policy


@dataclass(frozen=True)
class LoggingPolicyConfig:
    """Which propensity model."""

    propensity: str = "logistic"


def logging_policy(config: LoggingPolicyConfig = LoggingPolicyConfig()) -> Method:
    """Draws from the estimated propensities, the same at every lambda.

    Where the log says which models each row was allowed, it draws from p(t | x), the average over these sets: what
    the log did with such a query, and what its observed outcomes are the value of. Asked with a pool of models, it
    keeps the ratios of these probabilities; p(t | x, allowed) would not be what wrote the log where it is asked
    without one, and would often choose what was seldom allowed.
    """
    family = PROPENSITY_MODELS[config.propensity]()

    def fit(key, problem):
        fitted = fit_propensity(key, family, problem.log, problem.split)
        return {"model": jax.tree.map(lambda leaf: leaf[-1], fitted.params), "scaling": fitted.scaling}

    def apply(params, x, lam):
        del lam
        return family.log_odds(params["model"], scale(params["scaling"], x))

    return Method(fit, Policy(apply, stochastic=True), config)
