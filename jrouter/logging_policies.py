"""Logging policies: how a full table becomes a log of one model per query, with known propensities.

Each gives probabilities [n, T]. Those that depend on x alone, or on nothing, leave the log ignorable:
given x, which model answered says nothing of how well it would. The one that does not says so.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.features import fit_scaling, scale
from jrouter.linalg import spd_inverse
from jrouter.splits import deal_groups
from jrouter.types import Array, BenchmarkTable, LoggedData, take_rows

EPSILON = 0.05
"""Added to scores before they are made proportional, so that every model has some chance."""


def _proportional(values: Array) -> Array:
    return values / values.sum(axis=-1, keepdims=True)


def predicted_scores(table: BenchmarkTable, *, penalty: float = 30.0, n_folds: int = 5) -> Array:
    """[n, T], score of each model predicted from x by ridge regression on the other folds' queries.

    Out of fold, so that a query's own outcomes never enter: a policy made of these depends on x only.
    """
    assert table.x is not None, "predictions need embeddings"
    group = np.arange(table.score.shape[0]) if table.group is None else np.asarray(table.group)
    fold = jnp.asarray(deal_groups(np.random.default_rng(0), group, (1 / n_folds,) * n_folds))
    x = scale(fit_scaling(table.x), table.x)

    def of_fold(number):
        weight = (fold != number).astype(jnp.float32)
        mean = weight @ table.score / weight.sum()
        gram = (x * weight[:, None]).T @ x + penalty * x.shape[1] * jnp.eye(x.shape[1])
        return mean + x @ (spd_inverse(gram) @ ((x * weight[:, None]).T @ (table.score - mean)))

    by_fold = jax.lax.map(of_fold, jnp.arange(n_folds))
    return jnp.take_along_axis(by_fold, fold[None, :, None], axis=0)[0]


def uniform(table: BenchmarkTable) -> Array:
    """p_t = 1 / T. Ignorable, and the best overlap there is."""
    return jnp.full(table.score.shape, 1.0 / table.score.shape[1])


def model_accuracy(table: BenchmarkTable) -> Array:
    """p_t proportional to the model's mean score over all queries. Ignorable: no query enters."""
    return jnp.broadcast_to(_proportional(table.score.mean(axis=0) + EPSILON), table.score.shape)


def predicted_accuracy(table: BenchmarkTable) -> Array:
    """p_t(x) proportional to the score predicted from x (at least 0) + eps. Ignorable given x."""
    return _proportional(jnp.maximum(predicted_scores(table), 0.0) + EPSILON)


def realised_accuracy(table: BenchmarkTable) -> Array:
    """p_t proportional to the REALISED score of this query + eps: breaks ignorability.

    The choice depends on outcomes that x does not explain, as if the logger had known the answers.
    On 0/1 scores almost every logged score is then 1. The true p(t | x, outcomes) is still a valid
    weight; a propensity estimated from x is not.
    """
    return _proportional(jnp.maximum(table.score, 0.0) + EPSILON)


def cost_proportional(table: BenchmarkTable) -> Array:
    """p_t proportional to the model's mean cost over all queries (at least 1% of uniform). Ignorable."""
    share = _proportional(table.cost.mean(axis=0))
    n_models = table.score.shape[1]
    return jnp.broadcast_to(_proportional(jnp.maximum(share, 0.01 / n_models)), table.score.shape)


def confounded(table: BenchmarkTable, *, spread: float = 1.0, exploration: float = 0.1) -> Array:
    """Softmax of predicted scores, sharpened: log-odds of standard deviation `spread` over queries and models.

    What makes a query easy for a model makes that model likelier: x confounds choice and score.
    Ignorable given x, but for the one number that scales all log-odds, which has seen every outcome.

    Args:
      table: n queries.
      spread: standard deviation of the log-odds; 1 is clear confounding, 2.5 poor overlap.
      exploration: share drawn uniformly, so that p_t >= exploration / T.
    """
    score = predicted_scores(table)
    centred = score - score.mean(axis=1, keepdims=True)
    choice = jax.nn.softmax(spread * centred / jnp.maximum(centred.std(), 1e-12))
    return (1.0 - exploration) * choice + exploration / score.shape[1]


def keep_few_of_best(table: BenchmarkTable, *, keep: float = 0.25) -> Array:
    """[T], share of its rows that a model keeps: `keep` for the best quarter of the models, else 1."""
    n_best = max(1, table.score.shape[1] // 4)
    rank = jnp.argsort(jnp.argsort(-table.score.mean(axis=0)))
    return jnp.where(rank < n_best, keep, 1.0)


class LoggingPolicy(NamedTuple):
    """probabilities(table) -> [n, T], and which rows are lost after the draw: keep(table) -> [T]."""

    probabilities: Callable[[BenchmarkTable], Array]
    keep: Callable[[BenchmarkTable], Array] | None = None
    ignorable: bool = True


LOGGING_POLICIES = {
    "uniform": LoggingPolicy(uniform),
    "model_accuracy": LoggingPolicy(model_accuracy),
    "predicted_accuracy": LoggingPolicy(predicted_accuracy),
    "confounded": LoggingPolicy(confounded),
    "cost": LoggingPolicy(cost_proportional),
    # Uniform, then only a quarter of the best models' rows are kept: the log knows little of them.
    "skewed": LoggingPolicy(uniform, keep_few_of_best),
    "realised_accuracy": LoggingPolicy(realised_accuracy, ignorable=False),
}


def chosen_share(probability: Array, keep: Array | None) -> Array:
    """[n, T], probability of each model among the rows that are kept: p_t keep_t / sum_s p_s keep_s."""
    return probability if keep is None else _proportional(probability * keep)


def simulate_log(
    key: Array, table: BenchmarkTable, probability: Array, keep: Array | None = None
) -> tuple[LoggedData, Array, Array]:
    """Draws one model per query and keeps its outcome only.

    Args:
      key: of the draws.
      table: n queries with every model's outcome.
      probability: [n, T], the logging policy.
      keep: [T], share of each model's rows that is kept, or None for all.

    Returns:
      The log of the m kept rows, without propensities, as most logs are; their true propensities
      [m, T]; and their rows in the table [m].
    """
    key_model, key_keep = jax.random.split(key)
    model = jax.random.categorical(key_model, jnp.log(jnp.maximum(probability, 1e-38)), axis=1)
    rows = jnp.arange(table.score.shape[0])
    if keep is not None:
        rows = rows[jax.random.uniform(key_keep, rows.shape) < keep[model]]
    picked = take_rows(replace(table, mean_score=None, mean_cost=None), rows)
    assert picked.x is not None, "a log needs embeddings"
    model = model[rows].astype(jnp.int32)
    log = LoggedData(
        x=picked.x,
        model=model,
        score=jnp.take_along_axis(picked.score, model[:, None], axis=1)[:, 0],
        cost=jnp.take_along_axis(picked.cost, model[:, None], axis=1)[:, 0],
        group=picked.group,
        models=table.models,
        cost_unit=table.cost_unit,
    )
    return log, chosen_share(probability, keep)[rows], rows
