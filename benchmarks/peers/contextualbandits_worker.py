"""contextualbandits: a classifier per model, the offset tree, and its doubly robust estimator.

The first does not use propensities. The package's own documentation advises against the last.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from contextualbandits.offpolicy import (  # pyright: ignore[reportMissingImports]
    DoublyRobustEstimator,
    OffsetTree,
)
from contextualbandits.online import SeparateClassifiers  # pyright: ignore[reportMissingImports]
from protocol import Learner, Log, work
from sklearn.linear_model import LogisticRegression, Ridge

RANDOM_STATE = 1
"""It refuses 0."""


def classifier() -> Any:
    """The base of all three."""
    return LogisticRegression(max_iter=1000)


def separate(log: Log) -> Callable[[np.ndarray], np.ndarray]:
    """P(score = 1 | query) of each model, and the largest."""
    learner = SeparateClassifiers(classifier(), nchoices=log.n_models, random_state=RANDOM_STATE)
    learner.fit(log.x, log.model, log.score)
    return lambda x: learner.predict(x)


def offset_tree(log: Log) -> Callable[[np.ndarray], np.ndarray]:
    """A tree of weighted binary classifiers."""
    learner = OffsetTree(classifier(), nchoices=log.n_models)
    learner.fit(X=log.x, a=log.model, r=log.score, p=log.propensity)
    return lambda x: learner.predict(x)


def doubly_robust(log: Log) -> Callable[[np.ndarray], np.ndarray]:
    """Cost-sensitive regression on doubly robust scores."""
    learner = DoublyRobustEstimator(
        Ridge(100.0),
        reward_estimator=classifier(),
        nchoices=log.n_models,
        method="rovr",
        # Its default replaces estimated costs of 0 or less by random numbers, and all costs, -score, are.
        handle_invalid=False,
        random_state=RANDOM_STATE,
    )
    learner.fit(X=log.x, a=log.model, r=log.score, p=log.propensity)
    return lambda x: learner.predict(x)


BASE = "LogisticRegression(max_iter=1000)"
LEARNERS = {
    "separate_classifiers": Learner(separate, f"SeparateClassifiers, {BASE}"),
    "offset_tree": Learner(offset_tree, f"OffsetTree, {BASE}"),
    "doubly_robust": Learner(doubly_robust, f"DoublyRobustEstimator, Ridge(100), {BASE}, rovr, handle_invalid=False"),
}

if __name__ == "__main__":
    work(LEARNERS, ("contextualbandits", "numpy", "scikit-learn"))
