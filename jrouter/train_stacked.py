"""Training of many networks at once on the same rows in the same order: `train.make_train` for a whole sweep.

Same optimiser, same minibatches, same choice of the epoch as one network alone: the numbers are those of a
loop, up to rounding. What differs between networks: where they start, their setting (e.g. lambda), learning
rate and weight decay, and, with replicates, the weight and the targets of the rows (bootstrap resamples,
refitted nuisances). Embeddings and minibatches are shared, so `stacked.forward` sees each row once.

A network whose validation loss has not improved for `patience` epochs stops: its best epoch is settled.
It is trained on until the caller takes it out of the stack, which changes no result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jrouter.stacked import Stacked, forward, per_network, stack, take
from jrouter.train import Hyper, Rows, TrainConfig, TrainInfo
from jrouter.types import Array

NEVER = 2**30


@dataclass(frozen=True)
class StackedConfig(TrainConfig):
    """`TrainConfig`, and:

    Attributes:
      patience: epochs without a better validation loss after which a network stops; None for never.
      dtype: of the numbers that are multiplied, "float32" or "bfloat16"; sums, params and optimiser stay
        float32.
      weight_by_replicate: row weights are [S, n], of S replicates.
      targets_by_replicate: targets are [S, n, ...].
      row_blocks: rows are in so many blocks of equal length, and a minibatch takes as many of each, in an
        order of its own: devices or processes that hold a block need no other's rows. It changes the order
        of rows, so results are the same wherever the blocks are, and others with another number of blocks.
    """

    patience: int | None = None
    dtype: str = "float32"
    weight_by_replicate: bool = False
    targets_by_replicate: bool = False
    row_blocks: int = 1

    def __post_init__(self):
        if self.row_blocks < 1 or self.batch_size % self.row_blocks:
            raise ValueError(f"row_blocks: expected a divisor of batch_size {self.batch_size}, got {self.row_blocks}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype: expected float32 or bfloat16, got {self.dtype!r}")
        if self.keep_epochs:
            raise ValueError("keep_epochs: a stack keeps the best epoch alone")


class Members(NamedTuple):
    """What tells R networks of a stack apart; each leaf [R, ...].

    Attributes:
      key: of the initialisation.
      setting: of the loss, e.g. lambda.
      hyper: learning rates and weight decays.
      replicate: which replicate's weights and targets; 0 without replicates.
    """

    key: Array
    setting: Any
    hyper: Hyper
    replicate: Array


class StackedState(NamedTuple):
    """What training carries from epoch to epoch.

    Attributes:
      params: of R networks.
      mean: and
      square: of their gradients, as Adam keeps both.
      best: params of each network's best epoch.
      best_loss: [R], its validation loss.
      waited: [R], epochs since.
      epoch: scalar, epochs done.
    """

    params: Stacked
    mean: Stacked
    square: Stacked
    best: Stacked
    best_loss: Array
    waited: Array
    epoch: Array


class StackedTrain(NamedTuple):
    """Pure functions, to be jitted. `advance` is `steps` on all rows and `end_epoch`, epochs times.

    Attributes:
      init: (members, rows, valid) -> StackedState.
      advance: (state, members, rows, valid, shuffle key, *, epochs) -> (state, TrainInfo [epochs, R]).
      steps: (state, members, rows, order key, first, mean_weight, total_steps, *, batch) -> (state, loss [R]):
        once through some rows, in minibatches of `batch`. `first` counts the steps before, `total_steps` those
        of the whole training, along which the learning rate falls; `mean_weight` is that of all rows.
      end_epoch: (state, members, valid) -> (state, validation loss [R]): which networks have become better.
    """

    init: Callable
    advance: Callable
    steps: Callable
    end_epoch: Callable


def members_of(keys: Array, settings: Any, hyper: Hyper, replicate: Array | None = None) -> Members:
    """Members of a stack, scalars repeated to [R].

    Args:
      keys: [R], of initialisations.
      settings: each leaf [R, ...].
      hyper: numbers, or [R] each.
      replicate: [R] or None.
    """
    n = keys.shape[0]
    wide = Hyper(*(jnp.broadcast_to(jnp.asarray(value, jnp.float32), (n,)) for value in hyper))
    return Members(keys, settings, wide, jnp.zeros(n, jnp.int32) if replicate is None else replicate)


def take_members(members: Members, places: Any) -> Members:
    """Some members, by their places [m]."""
    return jax.tree.map(lambda leaf: leaf[places], members)


def take_state(state: StackedState, places: Any) -> StackedState:
    """The state of some members, by their places [m]."""
    return StackedState(
        params=take(state.params, places),
        mean=take(state.mean, places),
        square=take(state.square, places),
        best=take(state.best, places),
        best_loss=state.best_loss[places],
        waited=state.waited[places],
        epoch=state.epoch,
    )


def taken(leaf: Array, index: Array) -> Array:
    """Rows of [n, ...] in D blocks, at places [D, m] within each block: [D * m, ...]."""
    blocks = leaf.reshape(index.shape[0], -1, *leaf.shape[1:])
    return jax.vmap(lambda block, places: block[places])(blocks, index).reshape(-1, *leaf.shape[1:])


def minibatches(key: Array, n_rows: int, n_batches: int, batch: int, blocks: int) -> Array:
    """[n_batches, blocks, batch / blocks], places within each block, every block in an order of its own."""
    keys = key[None] if blocks == 1 else jax.random.split(key, blocks)
    order = jax.vmap(lambda key: jax.random.permutation(key, n_rows // blocks))(keys)
    used = order[:, : n_batches * batch // blocks]
    return used.reshape(blocks, n_batches, batch // blocks).transpose(1, 0, 2)


def half_cosine(step: Array | int, total: Array | int) -> Array:
    """Share of the learning rate at a step: from 1 to 0 along half a cosine, as `optax.cosine_decay_schedule`.

    The total may be traced: a longer log is the same program.

    >>> half_cosine(jnp.array([0, 5, 10]), 10).round(4)
    Array([1. , 0.5, 0. ], dtype=float32)
    """
    return 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(step, total) / total))


def batch_of(config: StackedConfig, n_rows: int) -> int:
    """Rows of a minibatch, of n in an epoch: as many as `config` says, fewer where steps would be too few."""
    blocks = config.row_blocks
    return max(blocks, min(config.batch_size, n_rows // config.min_batches) // blocks * blocks)


def make_stacked_train(network: nn.Module, surrogate: Callable, config: StackedConfig) -> StackedTrain:
    """Training of R networks of one module.

    Args:
      network: a trunk of hidden layers and a head, e.g. `RouterNetwork`.
      surrogate: (output [out], targets of one row, setting) -> scalar loss.
      config: static sizes.

    Returns:
      `StackedTrain`. Rows are `Rows((x [n, d], targets), weight)`; targets and weight have a leading axis
      of replicates where `config` says so. `valid` is the same, or None: then the last epoch is kept.
    """

    def losses(params: Stacked, members: Members, x: Array, targets: Any, weight: Array) -> Array:
        """[R], weighted sum over rows [B]."""
        output = forward(params, x, dtype=config.dtype)
        own = 0 if config.targets_by_replicate else None
        if config.targets_by_replicate:
            targets = jax.tree.map(lambda leaf: leaf[members.replicate], targets)
        each = jax.vmap(jax.vmap(surrogate, in_axes=(0, 0, None)), in_axes=(0, own, 0))
        by_row = each(output, targets, members.setting)
        return (by_row * (weight[members.replicate] if config.weight_by_replicate else weight)).sum(axis=1)

    def pick(rows: Rows, index: Array) -> tuple[Array, Any, Array]:
        """x, targets and weight of the rows at `index` [row_blocks, m], places within each block."""
        x, targets = rows.examples
        by_replicate = jax.vmap(taken, in_axes=(0, None))
        of_targets = by_replicate if config.targets_by_replicate else taken
        of_weight = by_replicate if config.weight_by_replicate else taken
        targets = jax.tree.map(lambda leaf: of_targets(leaf, index), targets)
        return taken(x, index), targets, of_weight(rows.weight, index)

    def validate(params: Stacked, members: Members, valid: Rows | None) -> Array:
        if valid is None:
            return jnp.zeros(members.replicate.shape)
        n = valid.weight.shape[-1] // config.row_blocks
        size = min(n, config.batch_size // config.row_blocks)
        index = jnp.arange(-(-n // size) * size).reshape(-1, 1, size).repeat(config.row_blocks, axis=1)

        def add(total, index):
            x, targets, weight = pick(valid, jnp.minimum(index, n - 1))
            return total + losses(params, members, x, targets, jnp.where(index.reshape(-1) < n, weight, 0.0)), None

        total, _ = jax.lax.scan(add, jnp.zeros(members.replicate.shape), index)
        whole = jnp.maximum(valid.weight.sum(axis=-1), 1e-30)
        return total / (whole[members.replicate] if config.weight_by_replicate else whole)

    def init(members: Members, rows: Rows, valid: Rows | None = None) -> StackedState:
        first = rows.examples[0][0]
        params = stack(jax.vmap(lambda key: network.init(key, first))(members.key))
        zeros = jax.tree.map(jnp.zeros_like, params)
        waited = jnp.zeros(members.replicate.shape, jnp.int32)
        return StackedState(params, zeros, zeros, params, validate(params, members, valid), waited, jnp.int32(0))

    def check_blocks(part: Rows) -> None:
        n_rows, blocks = part.weight.shape[-1], config.row_blocks
        if n_rows % blocks:
            raise ValueError(f"{n_rows} rows are not in {blocks} blocks of equal length: pad them")

    def steps(
        state: StackedState,
        members: Members,
        rows: Rows,
        order: Array,
        first: Array | int,
        mean_weight: Array,
        total_steps: Array | int,
        *,
        batch: int,
    ) -> tuple[StackedState, Array]:
        check_blocks(rows)
        n_rows = rows.weight.shape[-1]
        mean_weight = jnp.maximum(mean_weight, 1e-30)
        scale = batch * (mean_weight[members.replicate] if config.weight_by_replicate else mean_weight)
        x, targets = rows.examples
        # Rounded once, not at every step.
        rows = Rows((x.astype(config.dtype), targets), rows.weight)

        def loss(params, index):
            by_member = losses(params, members, *pick(rows, index)) / scale
            return by_member.sum(), by_member

        def step(carry, index):
            params, mean, square, count = carry
            (_, value), gradient = jax.value_and_grad(loss, has_aux=True)(params, index)
            count = count + 1
            rate = per_network(jnp.asarray(members.hyper.learning_rate * half_cosine(count - 1, total_steps)), params)
            shrink = per_network(jnp.asarray(members.hyper.weight_decay), params)
            mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
            square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, square, gradient)
            one, two = (1.0 - jnp.float32(b) ** count for b in (0.9, 0.999))

            def moved(p, m, v, rate, shrink):
                return p - rate * (m / one / (jnp.sqrt(v / two) + 1e-8) + shrink * p)

            return (jax.tree.map(moved, params, mean, square, rate, shrink), mean, square, count), value

        index = minibatches(order, n_rows, n_rows // batch, batch, config.row_blocks)
        carry = state.params, state.mean, state.square, jnp.asarray(first, jnp.int32)
        (params, mean, square, _), value = jax.lax.scan(step, carry, index)
        return state._replace(params=params, mean=mean, square=square), value.mean(axis=0)

    def end_epoch(state: StackedState, members: Members, valid: Rows | None) -> tuple[StackedState, Array]:
        valid_loss = validate(state.params, members, valid)
        running = state.waited < (NEVER if config.patience is None else config.patience)
        better = running & ((valid_loss < state.best_loss) if valid is not None else True)
        best = jax.tree.map(
            lambda new, old, better: jnp.where(better, new, old),
            state.params,
            state.best,
            per_network(better, state.params),
        )
        best_loss = jnp.where(better, valid_loss, state.best_loss)
        waited = jnp.where(better, 0, state.waited + running)
        return state._replace(best=best, best_loss=best_loss, waited=waited, epoch=state.epoch + 1), valid_loss

    def advance(
        state: StackedState, members: Members, rows: Rows, valid: Rows | None, shuffle: Array, *, epochs: int
    ) -> tuple[StackedState, TrainInfo]:
        if valid is not None:
            check_blocks(valid)
        n_rows = rows.weight.shape[-1]
        batch = batch_of(config, n_rows)
        n_batches = n_rows // batch
        mean_weight = rows.weight.mean(axis=-1)

        def epoch(state: StackedState, _):
            state, loss = steps(
                state,
                members,
                rows,
                jax.random.fold_in(shuffle, state.epoch),
                state.epoch * n_batches,
                mean_weight,
                config.epochs * n_batches,
                batch=batch,
            )
            state, valid_loss = end_epoch(state, members, valid)
            return state, TrainInfo(loss, valid_loss)

        return jax.lax.scan(epoch, state, None, length=epochs)

    return StackedTrain(init, advance, steps, end_epoch)
