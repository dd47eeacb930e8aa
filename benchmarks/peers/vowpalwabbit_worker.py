"""Vowpal Wabbit: contextual bandits over a fixed set of models, and over models with features (adf).

Its own text format is made from the arrays first; that counts as fitting, as a user does it too.
"""

from collections.abc import Callable

import numpy as np
import vowpalwabbit  # pyright: ignore[reportMissingImports]
from protocol import Learner, Log, work


def features(x: np.ndarray) -> list[str]:
    """Of each query, its numbers as text."""
    return [" ".join(f"{place}:{value:.5g}" for place, value in enumerate(row)) for row in x.tolist()]


def cb(*, passes: int, rate: float = 0.5) -> Callable[[Log], Callable[[np.ndarray], np.ndarray]]:
    """`--cb` with the doubly robust estimate of cost, which is -score."""

    def fit(log: Log) -> Callable[[np.ndarray], np.ndarray]:
        workspace = vowpalwabbit.Workspace(f"--cb {log.n_models} --cb_type dr -b 20 -l {rate} --quiet")
        logged = zip(log.model, log.score, log.propensity, features(log.x), strict=True)
        lines = [f"{model + 1}:{-score:g}:{chance:.6g} | {text}" for model, score, chance, text in logged]
        for _ in range(passes):
            for line in lines:
                workspace.learn(line)
        return lambda x: np.array([workspace.predict(f"| {text}") - 1 for text in features(x)])

    return fit


def cb_adf(*, passes: int, rate: float = 0.5) -> Callable[[Log], Callable[[np.ndarray], np.ndarray]]:
    """`--cb_adf` with multi-task regression, its default, and all products of query and model."""

    def fit(log: Log) -> Callable[[np.ndarray], np.ndarray]:
        workspace = vowpalwabbit.Workspace(f"--cb_adf --cb_type mtr -q QM -b 20 -l {rate} --quiet")
        plain = [f"|M model={number}" for number in range(log.n_models)]

        def lines(text: str) -> list[str]:
            return [f"shared |Q {text}", *plain]

        examples = [lines(text) for text in features(log.x)]
        logged = zip(examples, log.model, log.score, log.propensity, strict=True)
        for example, model, score, chance in logged:
            example[model + 1] = f"0:{-score:g}:{chance:.6g} {plain[model]}"
        for _ in range(passes):
            for example in examples:
                workspace.learn(example)
        # Of each model its score, least first best.
        return lambda x: np.array([int(np.argmin(workspace.predict(lines(text)))) for text in features(x)])

    return fit


DR, MTR = "--cb T --cb_type dr -b 20", "--cb_adf --cb_type mtr -q QM -b 20"
LEARNERS = {
    "cb_dr": Learner(cb(passes=1), f"{DR}, one pass"),
    "cb_dr_10_passes": Learner(cb(passes=10), f"{DR}, ten passes"),
    "cb_dr_10_passes_slow": Learner(cb(passes=10, rate=0.05), f"{DR} -l 0.05 (default 0.5), ten passes"),
    "cb_adf_mtr_10_passes": Learner(cb_adf(passes=10), f"{MTR}, ten passes"),
    "cb_adf_mtr_10_passes_slow": Learner(cb_adf(passes=10, rate=0.05), f"{MTR} -l 0.05 (default 0.5), ten passes"),
}

if __name__ == "__main__":
    work(LEARNERS, ("vowpalwabbit", "numpy"))
