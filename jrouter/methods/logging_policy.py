"""logging_policy: what wrote the log, estimated from it; the thing to improve on."""

from dataclasses import dataclass

import jax

from jrouter.features import scale
from jrouter.nuisances.crossfit import PROPENSITY_MODELS, fit_propensity
from jrouter.policy import Method, Policy


@dataclass(frozen=True)
class LoggingPolicyConfig:
    """Which propensity model."""

    propensity: str = "logistic"


def logging_policy(config: LoggingPolicyConfig = LoggingPolicyConfig()) -> Method:
    """Draws from the estimated propensities, the same at every lambda."""
    family = PROPENSITY_MODELS[config.propensity]()

    def fit(key, problem):
        fitted = fit_propensity(key, family, problem.log, problem.split)
        return {"model": jax.tree.map(lambda leaf: leaf[-1], fitted.params), "scaling": fitted.scaling}

    def apply(params, x, lam):
        del lam
        return family.log_odds(params["model"], scale(params["scaling"], x))

    return Method(fit, Policy(apply, stochastic=True), config)
