"""Nearest-neighbour outcome models: the mean outcome of the k most similar queries a model answered."""

import jax
import jax.numpy as jnp

from jrouter.nuisances.outcome import OutcomeModel, Outcomes
from jrouter.splits import rows_by_label
from jrouter.types import Array

NEIGHBOURS = (5.0, 10.0, 20.0, 40.0)


def nearness_offset(stored: Array, weight: Array) -> Array:
    """-|s|^2 / 2 of each stored row [m, d], and below all others at weight [m] 0: never among neighbours."""
    return jnp.where(weight > 0, -0.5 * jnp.square(stored).sum(axis=-1), -1e30)


def nearest_rows(x: Array, stored: Array, offset: Array, *, most: int) -> Array:
    """The stored rows nearest to x in Euclidean distance, nearest first.

    Args:
      x: [d].
      stored: [m, d].
      offset: [m], from `nearness_offset`.
      most: how many; at most m are returned.

    Returns:
      [most] int; after all rows of positive weight come rows of weight 0.
    """
    # x.s - |s|^2 / 2 orders as -|s - x|^2 does. In this order of operands, vmap over queries and models makes
    # one matrix product whose result need not be transposed.
    return jax.lax.top_k(x @ stored.T + offset, min(most, stored.shape[0]))[1]


def mean_of_nearest(values: Array, weight: Array, k: Array) -> Array:
    """Weighted mean of the first k of `values` [most, O] with weights [most, O]; k: [O]. 0 if none."""
    used = weight * (jnp.arange(values.shape[0])[:, None] < k)
    total = used.sum(axis=0)
    return jnp.where(total > 0, (used * values).sum(axis=0) / jnp.where(total > 0, total, 1.0), 0.0)


def knn(neighbours=NEIGHBOURS) -> OutcomeModel:
    """k nearest neighbours, for each model among the rows it received.

    Args:
      neighbours: candidates for k, chosen for score and for cost by the error on the first fold, whose
        neighbours are found once for all of them.
    """
    most = int(max(neighbours))

    def prepare(key, outcomes: Outcomes, n_models: int, model_size: int):
        del key
        rows, present = rows_by_label(outcomes.model, n_labels=n_models, size=model_size)
        weight = outcomes.weight[rows] * present[..., None]
        stored = outcomes.x[rows]
        offset = jax.vmap(jax.vmap(nearness_offset, in_axes=(None, 1), out_axes=1))(stored, weight)
        return {"x": stored, "observed": outcomes.observed[rows], "weight": weight, "offset": offset}

    def solve(statistics, strength):
        del statistics
        return jnp.full(2, strength)

    def predict(params, x):
        def of_model(stored, observed, weight, offset):
            if weight.shape[-1] == 1:
                rows = nearest_rows(x, stored, offset[:, 0], most=most)
                return mean_of_nearest(observed[rows], weight[rows], params["k"])
            # Where some answers were not scored, score has neighbours of its own.
            means = []
            for output in (0, 1):
                rows = nearest_rows(x, stored, offset[:, output], most=most)
                near = observed[rows, output, None], weight[rows, output, None]
                means.append(mean_of_nearest(*near, params["k"][output]))
            return jnp.concatenate(means)

        parts = (params[name] for name in ("x", "observed", "weight", "offset"))
        return jax.vmap(of_model, out_axes=1)(*parts)

    def choose(for_score, for_cost):
        return jnp.stack([for_score[0], for_cost[1]])

    def assemble(statistics, k):
        return {**statistics, "k": k}

    return OutcomeModel(
        prepare, solve, predict, jnp.array(neighbours), choose, assemble, shared_work=True, smooth=False
    )
