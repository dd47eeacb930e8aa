"""Open Bandit Pipeline: the learner of its quickstart, and its neural network with the doubly robust gradient."""

from collections.abc import Callable

import numpy as np
from obp.policy import IPWLearner, NNPolicyLearner  # pyright: ignore[reportMissingImports]
from protocol import SEED, Learner, Log, work
from sklearn.linear_model import LogisticRegression


def chosen(probability: np.ndarray) -> np.ndarray:
    """[m], the most probable model of obp's [m, T, 1]."""
    return probability[:, :, 0].argmax(axis=1)


def ipw_learner(log: Log) -> Callable[[np.ndarray], np.ndarray]:
    """Importance-weighted classification by logistic regression."""
    learner = IPWLearner(n_actions=log.n_models, base_classifier=LogisticRegression(max_iter=1000))
    learner.fit(context=log.x, action=log.model, reward=log.score, pscore=log.propensity)
    return lambda x: chosen(learner.predict(context=x))


def nn_dr(log: Log) -> Callable[[np.ndarray], np.ndarray]:
    """A network trained on the doubly robust value of its policy, with a network for the outcome."""
    x = log.x.astype(np.float64)
    learner = NNPolicyLearner(
        n_actions=log.n_models, dim_context=x.shape[1], off_policy_objective="dr", random_state=SEED
    )
    learner.fit(context=x, action=log.model, reward=log.score, pscore=log.propensity)
    return lambda x: chosen(learner.predict(context=x.astype(np.float64)))


LEARNERS = {
    "ipw_learner": Learner(ipw_learner, "IPWLearner, LogisticRegression(max_iter=1000)"),
    "nn_dr": Learner(nn_dr, "NNPolicyLearner, objective dr, defaults: 100 units, 200 epochs, learning rate 1e-4"),
}

if __name__ == "__main__":
    work(LEARNERS, ("obp", "numpy", "scikit-learn", "torch"))
