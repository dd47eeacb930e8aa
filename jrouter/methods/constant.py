"""random and cheapest: what any router must beat."""

from dataclasses import dataclass

import jax.numpy as jnp

from jrouter.counterfactual import counterfactual_scores
from jrouter.policy import Method, Policy
from jrouter.weighted import weighted_mean


@dataclass(frozen=True)
class ConstantConfig:
    """Nothing to configure."""


def _apply(params, x, lam):
    del x, lam
    return params["values"]


def random(config: ConstantConfig = ConstantConfig()) -> Method:
    """Every model of the pool equally often."""
    return Method(
        fit=lambda key, problem: {"values": jnp.zeros(len(problem.log.models))},
        policy=Policy(_apply, stochastic=True),
        config=config,
    )


def cheapest(config: ConstantConfig = ConstantConfig()) -> Method:
    """The model whose queries would have cost least: lowest mean doubly robust cost."""

    def fit(key, problem):
        del key
        cost = counterfactual_scores(problem.log, problem.nuisances).cost
        return {"values": -weighted_mean(cost, problem.log.weight)}

    return Method(fit=fit, policy=Policy(_apply), config=config)
