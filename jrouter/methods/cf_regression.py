"""cf_regression: regress counterfactual utilities on the query, then take the best.

Utility is affine and ridge regression is linear in its targets, so regressing score and cost once, with
one penalty, is regressing the utility of every lambda. With a fixed linear smoother this coincides with
Causal-CARROT, whose predictors it is told apart by.

Source: arXiv 2505.16037, CF-Regression.
"""

from dataclasses import dataclass

from jrouter.methods.plug_in import fit_all, plug_in_policy
from jrouter.nuisances import regression
from jrouter.policy import Method
from jrouter.tuning import tuned_scores


@dataclass(frozen=True)
class CfRegressionConfig:
    """Which scores (as of `RouterConfig`), and which penalties per coordinate ridge may choose from."""

    estimator: str = "dr"
    strength: float | str = 10.0
    ratios: tuple[float, ...] = regression.RATIOS


def cf_regression(config: CfRegressionConfig = CfRegressionConfig()) -> Method:
    """Plug-in rule of ridge regression on counterfactual scores."""
    family = regression.ridge(tuple(config.ratios))

    def fit(key, problem):
        scores = tuned_scores(problem.log, problem.nuisances, estimator=config.estimator, strength=config.strength)
        return fit_all(key, family, problem, scores.score, scores.cost)

    return Method(fit, plug_in_policy(family.predict), config)
