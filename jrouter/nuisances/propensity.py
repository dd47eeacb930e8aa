"""Propensity models: which model the logging policy would have chosen, and how probably.

Estimated propensities are kept away from 0 by a floor, or by the paper's percentile clipping, which
biases; logged ones are used as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrouter.linalg import spd_inverse
from jrouter.metrics import masked
from jrouter.networks import PropensityNetwork, run
from jrouter.train import Hyper, Rows, TrainConfig, make_train, train_keys
from jrouter.types import Array

LOGISTIC_PENALTIES = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_CONJUGATE_STEPS = 25


class Choices(NamedTuple):
    """Logged choices: x [n, d] scaled, model [n], allowed [n, T] bool."""

    x: Array
    model: Array
    allowed: Array


class PropensityModel(NamedTuple):
    """A family: fit(key, Choices, weight [n], strength) -> params; log_odds(params, x [d]) -> [T]."""

    fit: Callable
    log_odds: Callable
    strengths: Array


def _cross_entropy(log_odds: Array, model: Array, allowed: Array) -> Array:
    return -jax.nn.log_softmax(masked(log_odds, allowed))[model]


def logistic_log_odds(params: dict[str, Array], x: Array) -> Array:
    """[T], log-odds of each class for one scaled query, up to a constant."""
    return x @ params["kernel"] + params["bias"]


@jax.custom_vjp
def _moves_with(slope: Array, x: Array, predicted: Array, weight: Array, penalty: Array, precondition: Array) -> Array:
    """0, as the slope at an optimum is; its derivative is that of the optimum, -H^-1 slope, H the Hessian there.

    By conjugate gradients, in products as small as a step's. Source: implicit function theorem.
    """
    del x, predicted, weight, penalty, precondition
    return 0.0 * slope  # not zeros: under vmap these would be one for all, and so would their cotangents


def _moves_forward(slope, *fixed):
    return 0.0 * slope, fixed


def _moves_backward(fixed, cotangent):
    x, predicted, weight, penalty, precondition = fixed

    def hessian(v):
        moved = predicted * (v @ x.T)
        return ((moved - predicted * moved.sum(axis=0)) * weight) @ x + penalty * v

    def over(numerator, divisor):
        positive = divisor > 1e-37
        return jnp.where(positive, numerator / jnp.where(positive, divisor, 1.0), 0.0)

    def step(carry, _):
        solved, residual, direction, size = carry
        curved = hessian(direction)
        length = over(size, (direction * curved).sum())
        solved, residual = solved + length * direction, residual - length * curved
        towards = residual @ precondition
        new_size = (residual * towards).sum()
        return (solved, residual, towards + over(new_size, size) * direction, new_size), None

    towards = cotangent @ precondition
    start = (jnp.zeros_like(cotangent), cotangent, towards, (cotangent * towards).sum())
    (solved, _, _, _), _ = jax.lax.scan(step, start, None, length=_CONJUGATE_STEPS)
    return -solved, None, None, None, None, None


_moves_with.defvjp(_moves_forward, _moves_backward)


def logistic(
    penalties: tuple[float, ...] = LOGISTIC_PENALTIES, *, iterations: int = 50, intercepts: int = 0
) -> PropensityModel:
    """Multinomial logistic regression, L2-penalised.

    mean_i w_i * -log softmax(W x_i + b)_{t_i} + penalty / 2 * |W|^2

    By majorisation with momentum: the Hessian is at most (X'X / 2) for each model (Boehning 1992), so
    steps are preconditioned by one factorisation and need no line search, which under vmap would make
    every fold wait for the slowest.

    Args:
      penalties: candidates, chosen by cross-validated log loss. Unpenalised fits are overconfident.
      iterations: of gradient steps on all rows.
      intercepts: how many of the last columns of x are indicators of which one of them is 1: intercepts of kinds
        of rows, as good as unpenalised, in place of b.
    """
    free = max(intercepts, 1)

    def fit(key, choices: Choices, weight: Array, strength: Array):
        del key
        n_models = choices.allowed.shape[1]
        x = choices.x
        if not intercepts:
            x = jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)  # the last column is b's
        weight = weight / jnp.maximum(weight.sum(), 1e-30)
        penalty = jnp.full(x.shape[1], strength).at[-free:].set(1e-6)
        bound = 0.5 * (x * weight[:, None]).T @ x + jnp.diag(penalty)
        precondition = spd_inverse(bound + 1e-6 * jnp.eye(x.shape[1]))
        # [T, n] rather than [n, T]: a softmax over few classes is several times as fast with rows side by side.
        logged = jax.nn.one_hot(choices.model, n_models, axis=0)
        allowed, across = choices.allowed.T, x.T

        def gradient(w):
            predicted = jax.nn.softmax(masked(w @ across, allowed), axis=0)
            return ((predicted - logged) * weight) @ x + penalty * w, predicted

        def step(carry, _):
            w, previous, momentum = carry
            ahead = w + momentum / (momentum + 3.0) * (w - previous)
            slope, _ = gradient(ahead)
            new = ahead - slope @ precondition
            # Start the momentum again where it climbs (O'Donoghue & Candes 2015).
            climbs = (slope * (new - w)).sum() > 0
            return (new, w, jnp.where(climbs, 0.0, momentum + 1.0)), None

        start = jnp.zeros((n_models, x.shape[1]))
        fixed = jax.lax.stop_gradient
        (w, _, _), _ = jax.lax.scan(step, (start, start, 0.0), None, length=iterations)
        # Derivatives are those of the optimum, not of the way to it.
        w = fixed(w)
        slope, predicted = gradient(w)
        w = w + _moves_with(slope, *(fixed(part) for part in (x, predicted, weight, penalty, precondition)))
        if intercepts:
            return {"kernel": w.T, "bias": jnp.zeros(n_models)}
        return {"kernel": w[:, :-1].T, "bias": w[:, -1]}

    return PropensityModel(fit, logistic_log_odds, jnp.array(penalties))


def mlp(hidden: tuple[int, ...] = (64,), config: TrainConfig = TrainConfig(min_batches=16), weight_decay: float = 0.3):
    """A network with softmax output.

    Args:
      hidden: widths of the hidden layers.
      config: epochs and batch size.
      weight_decay: of AdamW.
    """

    def fit(key, choices: Choices, weight: Array, strength: Array):
        network = PropensityNetwork(choices.allowed.shape[1], hidden)

        def loss(params, example, setting):
            return _cross_entropy(run(network, params, example.x), example.model, example.allowed)

        train = make_train(lambda key: network.init(key, choices.x[0]), loss, config)
        return train(train_keys(key), Rows(choices, weight), None, Hyper(weight_decay=strength))[0]

    def log_odds(params, x):
        width = params["params"]["head"]["bias"].shape[-1]
        return run(PropensityNetwork(width, hidden), params, x)

    return PropensityModel(fit, log_odds, jnp.array([weight_decay]))


def probabilities(family: PropensityModel, params: Any, x: Array, allowed: Array | None = None) -> Array:
    """[T], estimated probability of each model on one scaled query; 0 where not allowed."""
    log_odds = family.log_odds(params, x)
    return jax.nn.softmax(log_odds if allowed is None else masked(log_odds, allowed))


@dataclass(frozen=True)
class Clipping:
    """How estimated propensities are kept away from 0. Logged ones never are.

    Attributes:
      floor: lowest value, as a share of uniform 1 / T: p -> max(p, floor / T).
      percentiles: the paper's option, instead of the floor: clip p(t_i | x_i) to these percentiles
        (0 to 100) of the training rows' values, e.g. (5, 95). Whether the paper takes them per model
        or pooled is open; here pooled over the logged models. It biases.
    """

    floor: float = 0.1
    percentiles: tuple[float, float] | None = None


def clip(propensity: Array, clipping: Clipping, *, n_models: int, training: Array, training_weight: Array) -> Array:
    """Applies `clipping` to estimated propensities of logged models.

    Args:
      propensity: [n].
      clipping: floor, or percentiles.
      n_models: T.
      training: [m], propensities of the rows that the estimate was fitted on.
      training_weight: [m], 0 for rows outside the training folds.

    Returns:
      [n].

    >>> clip(jnp.array([.001, .5]), Clipping(), n_models=2, training=jnp.ones(1), training_weight=jnp.ones(1))
    Array([0.05, 0.5 ], dtype=float32)
    """
    low, high = clip_limits(clipping, n_models=n_models, training=training, training_weight=training_weight)
    return jnp.clip(propensity, low, high)


def clip_limits(
    clipping: Clipping, *, n_models: int, training: Array, training_weight: Array
) -> tuple[Array | float, Array | float]:
    """The least and the largest value that `clip` leaves; arguments as there.

    >>> clip_limits(Clipping(), n_models=2, training=jnp.ones(1), training_weight=jnp.ones(1))
    (0.05, inf)
    """
    if clipping.percentiles is None:
        return clipping.floor / n_models, float("inf")
    order = jnp.argsort(training)
    share = jnp.cumsum(training_weight[order]) / training_weight.sum()
    low, high = (training[order][jnp.searchsorted(share, q / 100 * 0.999999)] for q in clipping.percentiles)
    return low, high
