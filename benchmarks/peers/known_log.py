"""One log of a synthetic world, and the truth about the queries that policies are judged on."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.inference import standard_error
from jrouter.logging_policies import confounded, simulate_log
from jrouter.nuisances.crossfit import fit_nuisances
from jrouter.splits import split_log
from jrouter.synthetic import draw_queries, make_world


class Truth(NamedTuple):
    """What no worker sees.

    Attributes:
      mean_score: [m, T], of every model on each test query.
      references: value of the logging policy, on its own queries, and of simple policies, on the test queries.
      least_propensity: of the log, true and as estimated.
    """

    mean_score: np.ndarray
    references: dict[str, float]
    least_propensity: dict[str, float]


def write_log(path: Path, *, rows: int, test_rows: int, dim: int, models: int, seed: int) -> Truth:
    """Writes the log that all workers read, and keeps the truth.

    The world is "specialists" (0/1 scores), the log confounded: softmax of predicted scores, a tenth uniform.
    Propensities are estimated on the log, cross-fitted, as `Router.fit` does where a log has none.

    Args:
      path: of the .npz file.
      rows: of the log.
      test_rows: queries to choose for, that were never logged.
      dim: d.
      models: T.
      seed: of the world, the log and the queries.
    """
    world = make_world("specialists", dim=dim, n_models=models, seed=seed)
    key_log, key_choice, key_fit, key_test = jax.random.split(jax.random.key(seed), 4)
    table, test = draw_queries(world, key_log, rows), draw_queries(world, key_test, test_rows)
    probability = confounded(table, spread=1.0, exploration=0.1)
    log, logging, _ = simulate_log(key_choice, table, probability)
    split = split_log([log], seeds=[seed])[0]
    # Outcomes are not asked for, so they are not even compiled.
    estimated = jax.jit(lambda key, log, split: fit_nuisances(key, log, split).propensity)(key_fit, log, split)
    assert test.x is not None and test.mean_score is not None and table.mean_score is not None
    np.savez(
        path,
        x=np.asarray(log.x, np.float32),
        model=np.asarray(log.model, np.int64),
        score=np.asarray(log.score, np.float64),
        cost=np.asarray(log.cost, np.float64),
        propensity=np.asarray(estimated, np.float64),
        names=np.array(log.models),
        queries=np.asarray(test.x, np.float32),
    )
    mean_score = np.asarray(test.mean_score, np.float64)
    chosen = jnp.take_along_axis(logging, log.model[:, None], axis=1)
    return Truth(
        mean_score=mean_score,
        references={
            "logging policy": float((logging * table.mean_score).sum(axis=1).mean()),
            "uniform": float(mean_score.mean()),
            "best single model": float(mean_score.mean(axis=0).max()),
            "best model of each query": float(mean_score.max(axis=1).mean()),
        },
        least_propensity={"true": float(chosen.min()), "estimated": float(estimated.min())},
    )


def judge_choice(truth: Truth, choice: list[int]) -> dict[str, Any]:
    """True value of a choice [m], its standard error over test queries, and its regret.

    Raises:
      ValueError: where the choice is not one of the models for each query.
    """
    queries, models = truth.mean_score.shape
    picked = np.asarray(choice)
    if picked.shape != (queries,) or picked.min() < 0 or picked.max() >= models:
        raise ValueError(
            f"the worker chose {picked.shape} models from {picked.min()} to {picked.max()}, "
            f"expected ({queries},) from 0 to {models - 1}"
        )
    value = truth.mean_score[np.arange(queries), picked]
    return {
        "value": float(value.mean()),
        "standard_error": float(standard_error(jnp.asarray(value))),
        "regret": float((truth.mean_score.max(axis=1) - value).mean()),
        "shares": (np.bincount(picked, minlength=models) / queries).tolist(),
    }
