"""Many trainings on a log in chunks: each chunk is loaded once an epoch, and all routers step on it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.sharding import on_host
from jrouter.sweep import Chunk, Progress, Swept, active_places, filled, settled, stack_size
from jrouter.train import Rows
from jrouter.train_stacked import (
    Members,
    StackedConfig,
    StackedState,
    StackedTrain,
    batch_of,
    take_members,
    take_state,
)
from jrouter.types import Array


@dataclass
class _Group:
    """Routers that are trained as one stack: which of them are in it, and where they stand."""

    members: Members
    places: np.ndarray
    state: StackedState
    swept: Swept | None
    active: np.ndarray

    @property
    def crew(self) -> Members:
        return take_members(self.members, self.places)


def stream_sweep(
    train: StackedTrain,
    members: Members,
    chunks: Callable[[int], Iterable[Rows]],
    valid: Rows | None,
    shuffle: Array,
    *,
    config: StackedConfig,
    n_chunks: int,
    chunk_rows: int,
    mean_weight: float | Array,
    at_once: int | None = None,
    on_chunk: Callable[[Progress, Chunk], None] | None = None,
    load_chunk: Callable[[int], Chunk | None] | None = None,
) -> Swept:
    """Trains R routers on rows that come in chunks: `sweep.run_sweep` on a log of any length.

    A step and the choice of an epoch are those of `run_sweep`, and with one chunk so are the numbers. With
    several, minibatches are of one chunk each, whose rows are shuffled, so that which rows can meet in a
    minibatch depends on the chunks. The device works on one chunk while the next is made: two are on it at a
    time, whatever their number.

    Args:
      train: from `make_stacked_train` with the same `config`.
      members: R routers.
      chunks: epoch -> its chunks, `n_chunks` of `chunk_rows` rows each; rows that are not to be trained on
        weigh 0. It should not wait for what it puts on the device.
      valid: rows that choose each router's epoch, in memory; or None.
      shuffle: key of the order of rows within chunks, the same for all.
      config: static sizes.
      n_chunks: in an epoch.
      chunk_rows: rows in each.
      mean_weight: of all rows of all chunks; [S] with `config.weight_by_replicate`.
      at_once: routers that step together; None for all. All are kept on the device, so this bounds what
        a step needs beside them.
      on_chunk: called after each epoch of each group of `at_once` routers, to show progress and keep its
        `Chunk`.
      load_chunk: number of a group -> what `on_chunk` was given last of it, or None. Training goes on from
        there with the numbers of a run that was not interrupted.

    Returns:
      `Swept`.

    Raises:
      ValueError: if an epoch has another number of chunks.
    """
    n_routers = members.replicate.shape[0]
    at_once = min(at_once or n_routers, n_routers)
    batch = min(batch_of(config, n_chunks * chunk_rows), chunk_rows)
    per_chunk = chunk_rows // batch
    total_steps = config.epochs * n_chunks * per_chunk
    mean_weight = jnp.asarray(mean_weight, jnp.float32)
    init, narrow = jax.jit(train.init), jax.jit(take_state)
    steps = jax.jit(train.steps, static_argnames="batch", donate_argnums=0)
    end_epoch = jax.jit(train.end_epoch, donate_argnums=0)

    def begun(number: int, start: int) -> _Group:
        ours = take_members(members, jnp.arange(start, min(start + at_once, n_routers)))
        chunk = load_chunk(number) if load_chunk is not None else None
        if chunk is None:
            places = np.arange(ours.replicate.shape[0])
            # Only the width of a row matters to `init`, and it is the validation rows' too.
            state, swept = init(ours, valid if valid is not None else next(iter(chunks(0))), valid), None
        else:
            state, places, swept = jax.tree.map(jnp.asarray, chunk.state), chunk.places, chunk.swept
        return _Group(ours, places, state, swept, active_places(state, places, config))

    groups = [begun(number, start) for number, start in enumerate(range(0, n_routers, at_once))]
    for epoch in range(config.epochs):
        # Of a run that was interrupted, some groups may be an epoch ahead of others.
        training = [group for group in groups if group.active.size and int(group.state.epoch) == epoch]
        if not training:
            continue
        for group in training:
            _narrowed(group, narrow)
        crews = [group.crew for group in training]
        key = jax.random.fold_in(shuffle, epoch)
        orders = key[None] if n_chunks == 1 else jax.random.split(key, n_chunks)
        before, seen = None, 0
        for number, rows in enumerate(chunks(epoch)):
            seen = number + 1
            if seen > n_chunks or rows.weight.shape[-1] != chunk_rows:
                found = f"chunk {number} of {rows.weight.shape[-1]} rows"
                raise ValueError(f"epoch {epoch}: {found}, expected {n_chunks} chunks of {chunk_rows}")
            first = (epoch * n_chunks + number) * per_chunk
            loss = None
            for group, crew in zip(training, crews, strict=True):
                group.state, loss = steps(
                    group.state, crew, rows, orders[number], first, mean_weight, total_steps, batch=batch
                )
            del rows
            # Wait for the chunk before, not for this one: the next is made while this one is worked on, and no
            # more than these are held.
            jax.block_until_ready(before)
            before = loss
        if seen != n_chunks:
            raise ValueError(f"epoch {epoch} has {seen} chunks, expected {n_chunks}")
        for group, crew in zip(training, crews, strict=True):
            group.state, _ = end_epoch(group.state, crew, valid)
            group.swept = settled(group.swept, group.state, group.places)
            group.active = active_places(group.state, group.places, config)
            if on_chunk is not None:
                on_chunk(_progress(groups, group, config), Chunk(group.places, on_host(group.state), group.swept))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *(group.swept for group in groups))


def _narrowed(group: _Group, narrow: Callable) -> None:
    """Takes routers that have stopped out of the stack, once half of it is idle."""
    size = stack_size(group.active.size, group.members.replicate.shape[0])
    if size < group.places.size:
        kept = filled(group.active, size)
        group.state = narrow(group.state, np.array([int(np.argmax(group.places == place)) for place in kept]))
        group.places = kept


def _progress(groups: list[_Group], group: _Group, config: StackedConfig) -> Progress:
    shares = [int(each.state.epoch) / config.epochs if each.active.size else 1.0 for each in groups]
    number = next(number for number, each in enumerate(groups) if each is group)
    return Progress(
        number, len(groups), int(group.state.epoch), config.epochs, group.active.size, sum(shares) / len(shares)
    )
