"""baseline_* and regress_and_compare_*: regress logged outcomes on the query, compare, choose.

The paper's Baseline is CARROT trained naively on the log; its R&C has one regressor per model. How the
two differ is open there, so several readings are kept:

- baseline_shared: one network for all models, a head each, no weights.
- baseline_per_model: a network per model, no weights.
- regress_and_compare_{ridge,pooled,mlp,knn}: one regressor per model (`pooled` shares a part), no weights;
  `stacked` is a convex combination of pooled and knn.
- regress_and_compare_*_ipw: the same, each row weighted by 1 / propensity, in units of its mean.

baseline_per_model and regress_and_compare_mlp are one estimator under two names: read this way, the
paper's two baselines do not differ.

Source: arXiv 2505.16037, baselines; Somerstep et al. (2025), CARROT.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax.numpy as jnp

from jrouter.estimators import inverse_propensity_weight
from jrouter.methods.plug_in import fit_logged, plug_in_policy
from jrouter.nuisances.crossfit import OUTCOME_MODELS
from jrouter.policy import Method
from jrouter.weighted import weighted_mean


@dataclass(frozen=True)
class RegressConfig:
    """Which regressor (a key of `nuisances.crossfit.OUTCOME_MODELS`), and whether rows are weighted by 1/p."""

    outcome: str = "ridge"
    inverse_propensity: bool = False


def regress_and_compare(config: RegressConfig = RegressConfig()) -> Method:
    """Argmax of predicted utility, from outcome models fitted on the log."""
    family = OUTCOME_MODELS[config.outcome]()

    def fit(key, problem):
        log = problem.log
        if config.inverse_propensity:
            weight = inverse_propensity_weight(problem.nuisances.propensity)
            # Of mean 1, so that a ridge penalty means what it means without weights.
            weight = weight / jnp.maximum(weighted_mean(weight, log.weight), 1e-30)
            log = replace(log, row_weight=log.weight * weight)
        return fit_logged(key, family, log, problem)

    return Method(fit, plug_in_policy(family.predict), config, smooth=family.smooth)


def _reading(outcome: str, inverse_propensity: bool) -> Callable[..., Method]:
    default = RegressConfig(outcome, inverse_propensity)
    return lambda config=default: regress_and_compare(config)


OUTCOMES = (("ridge", "ridge"), ("pooled", "pooled"), ("mlp", "mlp_per_model"), ("knn", "knn"), ("stacked", "stacked"))
READINGS = {
    "baseline_shared": _reading("mlp", False),
    "baseline_per_model": _reading("mlp_per_model", False),
} | {
    f"regress_and_compare_{name}{'_ipw' * weighted}": _reading(outcome, weighted)
    for weighted in (False, True)
    for name, outcome in OUTCOMES
}
