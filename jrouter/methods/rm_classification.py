"""rm_classification: cross-entropy of the router against the best model of each query.

Which model is best must be read off noisy scores, and how matters:

- hard_dr: argmax of each row's own doubly robust utilities (the paper's reading). Not consistent: with
  exact nuisances, mean scores (.9, .8), propensities (.3, .7) and 0/1 outcomes, the worse model is the
  label of 59% of the rows.
- hard_regressed: argmax of a cross-fitted regression of these utilities on x.
- cost_weighted: no label; every model weighted by its utility above the row's worst. Consistent in order.

Labels break ties in utility by the lower cost.

Source: arXiv 2505.16037, RM-Classification.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax

from jrouter.losses import classification_surrogate, cost_weighted_surrogate
from jrouter.methods.regret_training import RouterConfig, as_targets, fit_routers, router_scores, routers_policy
from jrouter.metrics import utility
from jrouter.nuisances import regression
from jrouter.policy import Method

LABELS = ("hard_dr", "hard_regressed", "cost_weighted")


@dataclass(frozen=True)
class RmClassificationConfig(RouterConfig):
    """`RouterConfig`, and one of `LABELS`."""

    labels: str = "cost_weighted"

    def __post_init__(self):
        super().__post_init__()
        if self.labels not in LABELS:
            raise ValueError(f"unknown labels {self.labels!r}: expected one of {', '.join(LABELS)}")


def rm_classification(config: RmClassificationConfig = RmClassificationConfig()) -> Method:
    """A network per lambda, trained by cross-entropy."""

    def surrogate(logits, targets, lam):
        score, cost = targets
        values = utility(score, cost, lam)
        if config.labels == "cost_weighted":
            return cost_weighted_surrogate(logits, values)
        return classification_surrogate(logits, values, cost=cost)

    def fit(key, problem):
        key_labels, key_routers = jax.random.split(key)
        scores = router_scores(problem, config)
        targets = as_targets(scores)
        if config.labels == "hard_regressed":
            family = regression.ridge()
            fitted = regression.fit_targets(key_labels, family, problem.log, problem.split, *targets)
            smooth = regression.held_out_targets(family, fitted, problem.log, problem.split)
            targets = smooth[:, 0], smooth[:, 1]
        return fit_routers(key_routers, problem, targets, surrogate, config, problem.lambdas)

    return Method(fit, routers_policy(config), config)


def _with(labels: str) -> Callable[..., Method]:
    # The paper's reading takes labels from doubly robust scores; shrinking them would be another method.
    default = RmClassificationConfig(labels=labels, estimator="dr" if labels == "hard_dr" else "dros")
    return lambda config=default: rm_classification(config)


VARIANTS = {f"rm_classification_{labels}": _with(labels) for labels in LABELS}
