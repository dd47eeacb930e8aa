"""kmeans and kmeans_full: k-means clusters of queries, and in each the mean score and cost of every model.

    f_t(x) = mean over the p clusters nearest to x of  sum_{i in k, t_i = t} y_i / (rows of t in k + pseudo rows)

with y around the model's mean over all its rows, to which a cluster with few rows of a model falls back.

Source: Zhang et al. (2025), The Avengers, arXiv 2505.19797 (embed, cluster, score each model in each cluster),
and Avengers-Pro, arXiv 2508.12631 (60 clusters, the nearest few of a query averaged, cost beside score).

Adaptation: those score every model on every query; a cluster of a log holds a T-th of that, so its means are
shrunken, by as many pseudo rows as predict held-out rows best. Means are of the rows that a model got: right where
choices depend on the query through its cluster alone. `kmeans_full` has every outcome: FULL FEEDBACK.
Deviations: utility score - lambda * cost in place of scores and costs normalised in each cluster and weighed by alpha;
embeddings centred and on one common scale, not each of length 1; one answer, no vote of several samples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jrouter.methods.plug_in import fit_all, fit_logged, plug_in_policy
from jrouter.nuisances.outcome import OutcomeModel, Outcomes, choose
from jrouter.nuisances.regression import TargetModel
from jrouter.policy import Method
from jrouter.types import Array


@dataclass(frozen=True)
class KmeansConfig:
    """How many clusters, how many of them answer a query, and the shrinkages to choose from, in rows."""

    clusters: int = 60
    nearest: int = 4
    pseudo_rows: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0)
    full: bool = False


def squared_distances(x: Array, centres: Array) -> Array:
    """[..., K], of queries [..., d] to centres [K, d], less |x|^2, which is the same for all of them."""
    return jnp.square(centres).sum(axis=-1) - 2.0 * x @ centres.T


def k_means(key: Array, x: Array, weight: Array, *, clusters: int, iterations: int = 25) -> Array:
    """Centres of clusters that divide the rows, by Lloyd's steps from a start by k-means++.

    Args:
      key: of the start.
      x: [n, d].
      weight: [n]; a row of weight 0 is as good as absent.
      clusters: K.
      iterations: Lloyd's steps.

    Returns:
      [K, d]; of fewer distinct rows than K, some are equal.

    Source: Arthur & Vassilvitskii (2007).

    >>> k_means(jax.random.key(0), jnp.array([[0.], [1.], [8.], [10.]]), jnp.ones(4), clusters=2).sort(axis=0)
    Array([[0.5],
           [9. ]], dtype=float32)
    """

    def add(number, carry):
        centres, distance = carry
        # The tiny term counts where all rows are at a centre already.
        row = jax.random.categorical(jax.random.fold_in(key, number), jnp.log(weight * (distance + 1e-12)))
        return centres.at[number].set(x[row]), jnp.minimum(distance, jnp.square(x - x[row]).sum(axis=1))

    def step(number, centres):
        del number
        mine = jnp.argmin(squared_distances(x, centres), axis=1)
        total = jax.ops.segment_sum(weight, mine, num_segments=clusters)[:, None]
        sums = jax.ops.segment_sum(weight[:, None] * x, mine, num_segments=clusters)
        return jnp.where(total > 0, sums / jnp.where(total > 0, total, 1.0), centres)

    start = jax.lax.fori_loop(0, clusters, add, (jnp.zeros((clusters, x.shape[1])), jnp.ones(x.shape[0])))
    return jax.lax.fori_loop(0, iterations, step, start[0])


def _predict(nearest: int) -> Callable:
    def predict(params, x):
        near = jax.lax.top_k(-squared_distances(x, params["centres"]), min(nearest, params["centres"].shape[0]))[1]
        return params["cells"][:, near].mean(axis=1)

    return predict


def logged_cells(config: KmeansConfig) -> OutcomeModel:
    """Means of clusters from one model's outcome a query, in units around each model's mean."""

    def prepare(key, outcomes: Outcomes, n_models: int, model_size: int):
        del model_size
        centres = k_means(key, outcomes.x, outcomes.weight.max(axis=1), clusters=config.clusters)
        cell = jnp.argmin(squared_distances(outcomes.x, centres), axis=1) * n_models + outcomes.model
        weight = jnp.broadcast_to(outcomes.weight, outcomes.observed.shape)

        def by_cell(values):
            sums = jax.ops.segment_sum(values, cell, num_segments=config.clusters * n_models)
            return sums.T.reshape(2, config.clusters, n_models)

        return {"centres": centres, "sums": by_cell(weight * outcomes.observed), "rows": by_cell(weight)}

    def solve(statistics, pseudo_rows):
        return statistics["sums"] / (statistics["rows"] + pseudo_rows)

    def assemble(statistics, cells):
        return {"centres": statistics["centres"], "cells": cells}

    strengths = jnp.array(config.pseudo_rows)
    return OutcomeModel(prepare, solve, _predict(config.nearest), strengths, choose, assemble, smooth=False)


def full_cells(config: KmeansConfig) -> TargetModel:
    """Means of clusters from every model's outcome on every query."""

    def fit(key, x, targets, weight, pseudo_rows):
        centres = k_means(key, x, weight, clusters=config.clusters)
        mine = jnp.argmin(squared_distances(x, centres), axis=1)
        rows = jax.ops.segment_sum(weight, mine, num_segments=config.clusters)
        sums = jax.ops.segment_sum(weight[:, None, None] * targets, mine, num_segments=config.clusters)
        return {"centres": centres, "cells": (sums / (rows + pseudo_rows)[:, None, None]).swapaxes(0, 1)}

    return TargetModel(fit, _predict(config.nearest), jnp.array(config.pseudo_rows))


def kmeans(config: KmeansConfig = KmeansConfig()) -> Method:
    """Plug-in rule of the clusters' means."""
    if config.full:
        targets = full_cells(config)

        def fit_full(key, problem):
            return fit_all(key, targets, problem, problem.full.score, problem.full.cost)

        return Method(fit_full, plug_in_policy(targets.predict), config, full_feedback=True, smooth=False)
    family = logged_cells(config)
    return Method(
        lambda key, problem: fit_logged(key, family, problem.log, problem),
        plug_in_policy(family.predict),
        config,
        smooth=False,
    )


def kmeans_full(config: KmeansConfig = KmeansConfig(full=True)) -> Method:
    """The same with every model's outcome, as its authors have it: a reference."""
    return kmeans(config)
