"""carrot_{mlp,knn} and causal_carrot_{mlp,knn}: predict every model's score and cost, then compare.

CARROT trains on FULL feedback, every model's outcome on every query: a reference that no log allows.
Causal-CARROT trains the same predictors on doubly robust scores instead.

Source: Somerstep et al. (2025), CARROT; arXiv 2505.16037, Causal-CARROT.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jrouter.methods.plug_in import fit_all, plug_in_policy
from jrouter.nuisances import regression
from jrouter.policy import Method
from jrouter.tuning import tuned_scores

PREDICTORS = {"mlp": regression.mlp, "knn": regression.knn, "ridge": regression.ridge}


@dataclass(frozen=True)
class CarrotConfig:
    """Which predictor, and which scores stand for the outcomes nobody saw (causal only)."""

    predictor: str = "mlp"
    estimator: str = "dr"
    strength: float | str = 10.0


def carrot(config: CarrotConfig = CarrotConfig()) -> Method:
    """Plug-in rule of a predictor trained on full feedback: a reference."""
    family = PREDICTORS[config.predictor]()

    def fit(key, problem):
        return fit_all(key, family, problem, problem.full.score, problem.full.cost)

    return Method(fit, plug_in_policy(family.predict), config, full_feedback=True, smooth=config.predictor != "knn")


def causal_carrot(config: CarrotConfig = CarrotConfig()) -> Method:
    """Plug-in rule of a predictor trained on counterfactual scores."""
    family = PREDICTORS[config.predictor]()

    def fit(key, problem):
        scores = tuned_scores(problem.log, problem.nuisances, estimator=config.estimator, strength=config.strength)
        return fit_all(key, family, problem, scores.score, scores.cost)

    return Method(fit, plug_in_policy(family.predict), config, smooth=config.predictor != "knn")


def _with(build: Callable[..., Method], predictor: str) -> Callable[..., Method]:
    default = CarrotConfig(predictor)
    return lambda config=default: build(config)


VARIANTS = {
    f"{name}_{predictor}": _with(build, predictor)
    for name, build in (("carrot", carrot), ("causal_carrot", causal_carrot))
    for predictor in ("mlp", "knn")
}
