"""Training of one network: a scan over epochs of minibatches, weighted rows, the best epoch kept."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jrouter.chunks import map_rows
from jrouter.types import Array
from jrouter.weighted import weighted_mean

VALID_CHUNK = 8192
"""Rows at a time of which a validation loss is made: what a network makes of them is not kept for all rows."""


@dataclass(frozen=True)
class TrainConfig:
    """What changes the compiled program.

    Attributes:
      epochs: passes over the rows.
      batch_size: rows a step, at most.
      min_batches: steps an epoch, at least: on a small log batches shrink, or there would be few steps.
      keep_epochs: return the params of the start and of every epoch, for a caller who chooses among them.
    """

    epochs: int = 15
    batch_size: int = 512
    min_batches: int = 1
    keep_epochs: bool = False


class Hyper(NamedTuple):
    """What a sweep may vary: traced scalars."""

    learning_rate: float | Array = 1e-3
    weight_decay: float | Array = 1e-2


class TrainKeys(NamedTuple):
    """Keys by use: the order of minibatches is shared over lambda, so they are kept apart."""

    init: Array
    shuffle: Array


class Rows(NamedTuple):
    """Examples (a pytree of arrays [n, ...]) and how much each row counts [n]."""

    examples: Any
    weight: Array


class TrainState(NamedTuple):
    """What training carries from epoch to epoch."""

    params: Any
    optimiser: Any
    best_params: Any
    best_loss: Array


class TrainInfo(NamedTuple):
    """What training reports: losses [epochs] (validation: 1 more, before the first)."""

    train_loss: Array
    valid_loss: Array


def train_keys(key: Array) -> TrainKeys:
    """Keys for one training."""
    return TrainKeys(*jax.random.split(key))


def make_train(init: Callable, loss: Callable, config: TrainConfig) -> Callable:
    """Makes a training function that can be jitted, and vmapped over anything it is given.

    AdamW, the learning rate falling to 0 along a half cosine. A minibatch's loss is
    sum_i w_i loss_i / (batch size * mean weight of all rows), so a row of weight 2 counts as two.

    Args:
      init: key -> params.
      loss: (params, example, setting) -> scalar, for one example.
      config: static sizes.

    Returns:
      train(keys, rows, setting, hyper, valid=None) -> (params, TrainInfo). With `valid` rows, the
      params are those of the epoch, or of the start, with the least weighted validation loss; else
      the last ones. With `config.keep_epochs` they are all [epochs + 1, ...], the start first.
    """

    def per_example(params, examples, setting):
        return jax.vmap(loss, in_axes=(None, 0, None))(params, examples, setting)

    def train(keys: TrainKeys, rows: Rows, setting: Any, hyper: Hyper, valid: Rows | None = None):
        n_rows = rows.weight.shape[0]
        batch = max(1, min(config.batch_size, n_rows // config.min_batches))
        n_batches = n_rows // batch
        mean_weight = jnp.maximum(rows.weight.mean(), 1e-30)
        decay = optax.cosine_decay_schedule(1.0, config.epochs * n_batches)
        optimiser = optax.adamw(lambda step: hyper.learning_rate * decay(step), weight_decay=hyper.weight_decay)

        def batch_loss(params, index):
            examples = jax.tree.map(lambda leaf: leaf[index], rows.examples)
            return (rows.weight[index] * per_example(params, examples, setting)).mean() / mean_weight

        def step(carry, index):
            params, state = carry
            value, gradient = jax.value_and_grad(batch_loss)(params, index)
            update, state = optimiser.update(gradient, state, params)
            return (optax.apply_updates(params, update), state), value

        def validate(params):
            if valid is None:
                return jnp.zeros(())
            losses = map_rows(lambda example: loss(params, example, setting), valid.examples, chunk=VALID_CHUNK)
            return weighted_mean(losses, valid.weight)

        def epoch(state: TrainState, number):
            order = jax.random.permutation(jax.random.fold_in(keys.shuffle, number), n_rows)
            index = order[: n_batches * batch].reshape(n_batches, batch)
            (params, optimiser_state), losses = jax.lax.scan(step, (state.params, state.optimiser), index)
            valid_loss = validate(params)
            # Without validation rows every epoch "improves", so the last one is returned.
            better = jnp.asarray(True) if valid is None else valid_loss < state.best_loss
            best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, state.best_params)
            best_loss = jnp.where(better, valid_loss, state.best_loss)
            kept = params if config.keep_epochs else None
            return TrainState(params, optimiser_state, best, best_loss), (losses.mean(), valid_loss, kept)

        params = init(keys.init)
        first = validate(params)
        state = TrainState(params, optimiser.init(params), params, first)
        state, (train_loss, valid_loss, kept) = jax.lax.scan(epoch, state, jnp.arange(config.epochs))
        info = TrainInfo(train_loss, jnp.concatenate([first[None], valid_loss]))
        if config.keep_epochs:
            return jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), params, kept), info
        return state.best_params, info

    return train
