"""uniroute and uniroute_learned: a model is the vector of its errors on clusters of queries, new ones too.

    choose argmin_t  Phi(x) . Psi(t) + lambda * c_t,    Psi_k(t) = mean error of t on validation queries of cluster k

Phi(x) [K] says which cluster x is of: one-hot for k-means; softmax(W x + b), fitted so that Phi(x) . Psi(t) predicts
the errors of the training rows, for the learned map. Nothing in Phi belongs to a model, so a model that no
training row saw is added by its errors on a few scored queries (`with_model`), and nothing is fitted again.

Source: Jitkrittum et al. (2025), Universal Model Routing for Efficient LLM Inference, arXiv 2502.08773
(cluster-based routing by k-means, and the learned cluster map).

Adaptation: the paper scores every model on every validation query. Here Psi_k(t) is the mean over the rows of k that
t was logged on, shrunken to the model's mean error by `pseudo_rows`: right where choices depend on the query
through its cluster alone. All rows serve for Psi: of a fifth of them, a model has a T-th, too few for K errors.
So the rows that the learned map is fitted on are among those that Psi was made of, which the paper keeps apart.
Deviations: squared error in place of the log loss, so that scores need not be in [0, 1]; embeddings are put on
one common scale; the map starts as soft k-means.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from baselines.kmeans import k_means, squared_distances
from jrouter.features import fit_scaling, scale
from jrouter.metrics import utility
from jrouter.policy import Method, Policy
from jrouter.train import Hyper, Rows, TrainConfig, make_train, train_keys
from jrouter.types import Array
from jrouter.weighted import weighted_mean


@dataclass(frozen=True)
class UniRouteConfig:
    """How many clusters, how many rows the model's mean counts as in each, and whether the cluster map is learned."""

    clusters: int = 20
    pseudo_rows: float = 3.0
    learned: bool = False
    epochs: int = 10


def error_vector(params: dict[str, Any], x: Array, score: Array, weight: Array) -> Array:
    """Psi [K]: one model's mean error 1 - score on each cluster, shrunken to its mean error over all.

    Args:
      params: of a fitted router; its clusters and its shrinkage.
      x: [m, d], queries as they are.
      score: [m], of this model.
      weight: [m].
    """
    n_clusters = params["centres"].shape[0]
    mine = jnp.argmin(squared_distances(scale(params["scaling"], x), params["centres"]), axis=1)
    error, mean = 1.0 - score, weighted_mean(1.0 - score, weight)
    rows = jax.ops.segment_sum(weight, mine, num_segments=n_clusters)
    sums = jax.ops.segment_sum(weight * error, mine, num_segments=n_clusters)
    return (sums + params["pseudo_rows"] * mean) / (rows + params["pseudo_rows"])


def with_model(params: dict[str, Any], x: Array, score: Array, cost: Array) -> dict[str, Any]:
    """Params for one more model, last, from its scores [m] and costs [m] on queries [m, d]; the rest as before."""
    error = error_vector(params, x, score, jnp.ones_like(score))
    return params | {
        "error": jnp.concatenate([params["error"], error[:, None]], axis=1),
        "cost": jnp.append(params["cost"], cost.mean()),
    }


def cluster_map(params: dict[str, Any], x: Array) -> Array:
    """Phi [K], of one query [d]."""
    scaled = scale(params["scaling"], x)
    if "map" in params:
        return jax.nn.softmax(params["map"]["weights"] @ scaled + params["map"]["bias"])
    return jax.nn.one_hot(jnp.argmin(squared_distances(scaled, params["centres"])), params["centres"].shape[0])


def uniroute(config: UniRouteConfig = UniRouteConfig()) -> Method:
    """The least of predicted error and priced mean cost."""

    def learn_map(key, problem, params):
        log, split = problem.log, problem.split
        rows = split.train
        weight = log.score_weight[rows] * split.train_weight
        examples = scale(params["scaling"], log.x[rows]), log.model[rows], 1.0 - log.score[rows]

        def loss(learned, example, setting):
            x, model, error = example
            predicted = jax.nn.softmax(learned["weights"] @ x + learned["bias"]) @ params["error"][:, model]
            return (predicted - error) ** 2

        def start(key):
            # The shares of clusters that spread alike in all directions, as far as the rows do around the centres.
            x, centres = examples[0], params["centres"]
            distance = jnp.square(x).sum(axis=1) + squared_distances(x, centres).min(axis=1)
            spread = jnp.maximum(weighted_mean(distance, weight) / x.shape[1], 1e-6)
            return {"weights": centres / spread, "bias": -0.5 * jnp.square(centres).sum(axis=1) / spread}

        train = make_train(start, loss, TrainConfig(config.epochs, min_batches=16))
        return train(train_keys(key), Rows(examples, weight), None, Hyper())[0]

    def fit(key, problem):
        log = problem.log
        key_clusters, key_map = jax.random.split(key)
        scaling = fit_scaling(log.x, log.weight)
        centres = k_means(key_clusters, scale(scaling, log.x), log.weight, clusters=config.clusters)
        params = {"centres": centres, "scaling": scaling, "pseudo_rows": jnp.asarray(config.pseudo_rows)}

        def of_model(model):
            scored = log.score_weight * (log.model == model)
            error = error_vector(params, log.x, log.score, scored)
            return error, weighted_mean(log.cost, log.weight * (log.model == model))

        error, cost = jax.vmap(of_model, out_axes=(1, 0))(jnp.arange(len(log.models)))
        params |= {"error": error, "cost": cost}
        return params | {"map": learn_map(key_map, problem, params)} if config.learned else params

    def apply(params, x, lam):
        return utility(1.0 - cluster_map(params, x) @ params["error"], params["cost"], lam)

    return Method(fit, Policy(apply), config, smooth=False)


def uniroute_learned(config: UniRouteConfig = UniRouteConfig(learned=True)) -> Method:
    """The same with a learned cluster map."""
    return uniroute(config)
