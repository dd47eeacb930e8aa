"""Nearest-neighbour outcome models: the mean outcome of the k most similar queries a model answered."""

import jax
import jax.numpy as jnp

from jrouter.nuisances.outcome import OutcomeModel, Outcomes
from jrouter.splits import rows_by_label
from jrouter.types import Array

NEIGHBOURS = (5.0, 10.0, 20.0, 40.0)


def nearest_rows(x: Array, stored: Array, weight: Array, *, most: int) -> tuple[Array, Array]:
    """The stored rows nearest to x in Euclidean distance, nearest first.

    Args:
      x: [d].
      stored: [m, d].
      weight: [m]; rows of weight 0 are never neighbours (their returned weight is 0).
      most: how many; at most m are returned.

    Returns:
      rows [most] int, weight [most].
    """
    # |s|^2 - 2 s.x orders as |s - x|^2 does, and is a matrix product under vmap over queries.
    nearness = 2.0 * stored @ x - jnp.square(stored).sum(axis=-1)
    _, rows = jax.lax.top_k(jnp.where(weight > 0, nearness, -jnp.inf), min(most, stored.shape[0]))
    return rows, weight[rows]


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
        return {"x": outcomes.x[rows], "observed": outcomes.observed[rows], "weight": weight}

    def solve(statistics, strength):
        del statistics
        return jnp.full(2, strength)

    def predict(params, x):
        def of_model(stored, observed, weight):
            if weight.shape[-1] == 1:
                rows, near = nearest_rows(x, stored, weight[:, 0], most=most)
                return mean_of_nearest(observed[rows], near[:, None], params["k"])
            # Where some answers were not scored, score has neighbours of its own.
            means = []
            for output in (0, 1):
                rows, near = nearest_rows(x, stored, weight[:, output], most=most)
                means.append(mean_of_nearest(observed[rows, output, None], near[:, None], params["k"][output]))
            return jnp.concatenate(means)

        return jax.vmap(of_model, out_axes=1)(params["x"], params["observed"], params["weight"])

    def choose(for_score, for_cost):
        return jnp.stack([for_score[0], for_cost[1]])

    def assemble(statistics, k):
        return {**statistics, "k": k}

    return OutcomeModel(prepare, solve, predict, jnp.array(neighbours), choose, assemble, shared_work=True)
