"""Regression of every model's target at once: for full feedback, and for counterfactual scores.

Unlike an outcome model, which sees one model's outcome per query, these see [n, T, 2] targets. A fixed
linear smoother applied to score and to cost, then combined, is the smoother applied to utility.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrouter.features import fit_scaling, scale
from jrouter.linalg import spd_inverse
from jrouter.networks import HIDDEN, OutcomeNetwork, head_width, run
from jrouter.nuisances.folds import fold_weights, held_out
from jrouter.nuisances.neighbours import NEIGHBOURS, mean_of_nearest, nearest_rows, nearness_offset
from jrouter.splits import Split
from jrouter.train import Hyper, Rows, TrainConfig, make_train, train_keys
from jrouter.types import Array, LoggedData
from jrouter.weighted import weighted_mean

RATIOS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class TargetModel(NamedTuple):
    """fit(key, x [n, d], targets [n, 2, T], weight [n], strength) -> params; predict(params, x) -> [2, T].

    `strengths` are tried on all folds; on the first alone where `shared_work`, as for `OutcomeModel`.
    """

    fit: Callable
    predict: Callable
    strengths: Array
    shared_work: bool = False


def ridge(ratios: tuple[float, ...] = RATIOS) -> TargetModel:
    """Multi-output ridge regression; the penalty is ratio * d on scaled embeddings."""

    def fit(key, x, targets, weight, strength):
        del key
        total = jnp.maximum(weight.sum(), 1e-30)
        x_mean, mean = weight @ x / total, jnp.tensordot(weight, targets, 1) / total
        weighted = (x - x_mean) * weight[:, None]
        gram = weighted.T @ (x - x_mean) + strength * x.shape[1] * jnp.eye(x.shape[1])
        moment = jnp.tensordot(weighted.T, targets - mean, 1)
        solution = spd_inverse(gram) @ moment.reshape(x.shape[1], -1)
        coefficients = solution.T.reshape(*mean.shape, x.shape[1])
        return {"coefficients": coefficients, "intercept": mean - coefficients @ x_mean}

    def predict(params, x):
        return params["coefficients"] @ x + params["intercept"]

    return TargetModel(fit, predict, jnp.array(ratios))


def mlp(hidden: tuple[int, ...] = HIDDEN, config: TrainConfig = TrainConfig(min_batches=16), weight_decay: float = 0.1):
    """Network with a shared trunk, trained on all targets of a query at once."""

    def fit(key, x, targets, weight, strength):
        network = OutcomeNetwork(targets.shape[-1], hidden)

        def loss(params, example, setting):
            x, target = example
            return ((run(network, params, x) - target) ** 2).sum()

        train = make_train(lambda key: network.init(key, x[0]), loss, config)
        return train(train_keys(key), Rows((x, targets), weight), None, Hyper(weight_decay=strength))[0]

    def predict(params, x):
        return run(OutcomeNetwork(head_width(params) // 2, hidden), params, x)

    return TargetModel(fit, predict, jnp.array([weight_decay]))


def knn(neighbours: tuple[float, ...] = NEIGHBOURS) -> TargetModel:
    """Mean target of the k nearest queries, the same for all models."""
    most = int(max(neighbours))

    def fit(key, x, targets, weight, strength):
        del key
        return {"x": x, "targets": targets, "weight": weight, "offset": nearness_offset(x, weight), "k": strength}

    def predict(params, x):
        rows = nearest_rows(x, params["x"], params["offset"], most=most)
        targets, weight = params["targets"][rows], params["weight"][rows]
        flat = mean_of_nearest(targets.reshape(targets.shape[0], -1), weight[:, None], params["k"])
        return flat.reshape(targets.shape[1:])

    return TargetModel(fit, predict, jnp.array(neighbours), shared_work=True)


class Regression(NamedTuple):
    """A fitted target model: params [K + 1, ...] (the last on all rows), and how targets were scaled."""

    params: Any
    mean: Array
    deviation: Array
    scaling: dict[str, Array]
    strength: Array


def fit_targets(
    key: Array, family: TargetModel, log: LoggedData, split: Split, score: Array, cost: Array
) -> Regression:
    """Regresses score [n, T] and cost [n, T] on x, on each fold's complement and on all rows.

    The strength is that with the least held-out squared error, summed over models and both targets
    in units of their variance.
    """
    scaling = fit_scaling(log.x, log.weight)
    x = scale(scaling, log.x)
    targets = jnp.stack([score, cost], axis=1)
    mean = weighted_mean(targets, log.weight)
    variance = weighted_mean((targets - mean) ** 2, log.weight)
    deviation = jnp.where(variance > 1e-20, jnp.sqrt(jnp.where(variance > 1e-20, variance, 1.0)), 1.0)
    standard = (targets - mean) / deviation
    weights = fold_weights(log, split)
    keys = jax.random.split(key, weights.shape[0])
    fit = jax.vmap(lambda key, weight, strength: family.fit(key, x, standard, weight, strength), in_axes=(0, 0, None))

    row_weight = log.weight * (split.fold == 0) if family.shared_work else log.weight

    def held_out_error(strength):
        params = fit(keys, weights, strength)
        predicted = held_out(family.predict, params, x, split, only_first=family.shared_work)
        return weighted_mean(((predicted - standard) ** 2).sum(axis=(1, 2)), row_weight)

    strength = family.strengths[len(family.strengths) // 2]
    if len(family.strengths) > 1 and split.n_folds > 1:
        strength = family.strengths[jnp.argmin(jax.vmap(held_out_error)(family.strengths))]
    return Regression(fit(keys, weights, strength), mean, deviation, scaling, strength)


def held_out_targets(family: TargetModel, fit: Regression, log: LoggedData, split: Split) -> Array:
    """[n, 2, T], cross-fitted predictions of the rows that `fit` was fitted on."""
    return fit.mean + fit.deviation * held_out(family.predict, fit.params, scale(fit.scaling, log.x), split)
