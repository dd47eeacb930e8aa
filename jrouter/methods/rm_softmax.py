"""rm_softmax: minimise the expected regret of a softmax policy on counterfactual utilities.

Equal, up to a constant, to maximising the policy's plug-in value. One network per lambda.

Source: arXiv 2505.16037, RM-Softmax.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jrouter.losses import softmax_regret
from jrouter.methods.regret_training import RouterConfig, as_targets, fit_routers, router_scores, routers_policy
from jrouter.metrics import utility
from jrouter.policy import Method


@dataclass(frozen=True)
class RmSoftmaxConfig(RouterConfig):
    """`RouterConfig`, and the temperature of the softmax (open in the paper)."""

    temperature: float = 1.0


def softmax_surrogate(config: RmSoftmaxConfig) -> Callable:
    """(logits [T], (score [T], cost [T]), lam) -> regret of the softmax policy on one row."""

    def surrogate(logits, targets, lam):
        score, cost = targets
        return softmax_regret(logits, utility(score, cost, lam), temperature=config.temperature)

    return surrogate


def rm_softmax(config: RmSoftmaxConfig = RmSoftmaxConfig()) -> Method:
    """A network per lambda, trained by softmax regret."""

    def fit(key, problem):
        scores = router_scores(problem, config)
        return fit_routers(key, problem, as_targets(scores), softmax_surrogate(config), config, problem.lambdas)

    return Method(fit, routers_policy(config), config)
