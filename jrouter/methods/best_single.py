"""best_single: one model for all queries, the best at each lambda by its cross-fitted value.

    argmax_t mean_i Yhat_i(t), Yhat the doubly robust utilities with cross-fitted nuisances

A model is a policy that needs no fitting, so cross-fitting the nuisances is all that this needs.
"""

from dataclasses import dataclass

from jrouter.counterfactual import counterfactual_scores
from jrouter.metrics import utility
from jrouter.policy import Method, Policy
from jrouter.weighted import weighted_mean


@dataclass(frozen=True)
class BestSingleConfig:
    """Which scores value the models: any of `counterfactual.WEIGHTS`, and its strength, threshold or penalty."""

    estimator: str = "dr"
    strength: float = 10.0


def best_single(config: BestSingleConfig = BestSingleConfig()) -> Method:
    """The single model with the best estimated mean utility, at every lambda."""

    def fit(key, problem):
        del key
        scores = counterfactual_scores(
            problem.log, problem.nuisances, estimator=config.estimator, strength=config.strength
        )
        weight = problem.log.weight
        return {"score": weighted_mean(scores.score, weight), "cost": weighted_mean(scores.cost, weight)}

    policy = Policy(lambda params, x, lam: utility(params["score"], params["cost"], lam))
    return Method(fit, policy, config, smooth=False)
