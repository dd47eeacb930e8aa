"""EconML: policy tree and forest on doubly robust scores, with boosted trees for the outcome.

Neither takes propensities: both estimate their own, cross-fitted.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from econml.policy import DRPolicyForest, DRPolicyTree  # pyright: ignore[reportMissingImports]
from protocol import SEED, Learner, Log, work
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression


def fitted(kind: Any, **settings: Any) -> Callable[[Log], Callable[[np.ndarray], np.ndarray]]:
    """The fit of a tree or a forest."""

    def fit(log: Log) -> Callable[[np.ndarray], np.ndarray]:
        x = log.x.astype(np.float64)
        learner = kind(
            model_regression=HistGradientBoostingRegressor(random_state=SEED),
            model_propensity=LogisticRegression(max_iter=1000),
            random_state=SEED,
            **settings,
        )
        learner.fit(log.score, log.model, X=x)
        logged = np.unique(log.model)  # it numbers the models that the log has
        return lambda x: logged[np.asarray(learner.predict(x.astype(np.float64))).astype(int)]

    return fit


NUISANCES = "HistGradientBoostingRegressor, LogisticRegression(max_iter=1000)"
LEARNERS = {
    "policy_tree": Learner(fitted(DRPolicyTree), f"DRPolicyTree, defaults; {NUISANCES}"),
    "policy_forest": Learner(fitted(DRPolicyForest), f"DRPolicyForest, defaults: 100 trees; {NUISANCES}"),
}

if __name__ == "__main__":
    work(LEARNERS, ("econml", "numpy", "scikit-learn"))
