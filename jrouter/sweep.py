"""Many trainings as one program: vmapped over cost preferences and over seeds."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jrouter.sharding import on_host, place_key, place_members, place_state
from jrouter.stacked import unstack
from jrouter.train import Hyper, Rows, TrainKeys
from jrouter.train_stacked import (
    NEVER,
    Members,
    StackedConfig,
    StackedState,
    StackedTrain,
    take_members,
    take_state,
)
from jrouter.types import Array


def over_settings(train: Callable) -> Callable:
    """One training per setting (e.g. lambda), on the same rows in the same minibatch order.

    Data and keys are not batched, so the first layer of all routers is one matrix product.

    Args:
      train: from `make_train`.

    Returns:
      The same function, with a leading axis [L] on `setting` and on what it returns.
    """

    def trained(keys: TrainKeys, rows: Rows, setting, hyper: Hyper, valid: Rows | None = None):
        return jax.vmap(lambda one: train(keys, rows, one, hyper, valid))(setting)

    return trained


def sweep(train: Callable, *, log_per_seed: bool = False, weight_per_seed: bool = False) -> Callable:
    """Routers over seed x setting: the function to jit, once.

    A seed may set the initialisation alone, the simulated log, or a bootstrap resample of the rows.

    Args:
      train: from `make_train`.
      log_per_seed: examples (of training and validation rows) have a leading axis [S].
      weight_per_seed: row weights have a leading axis [S], e.g. bootstrap counts.

    Returns:
      swept(keys [S], rows, setting [L], hyper, valid=None) -> (params [S, L, ...], info [S, L, ...]).

    >>> import jax.numpy as jnp
    >>> from jrouter.train import TrainConfig, make_train, train_keys
    >>> train = make_train(lambda key: jnp.zeros(()), lambda p, y, lam: (p - lam * y) ** 2, TrainConfig(epochs=1))
    >>> keys = jax.vmap(train_keys)(jax.random.split(jax.random.key(0), 3))
    >>> rows = Rows(jnp.ones(8), jnp.ones(8))
    >>> jax.jit(sweep(train))(keys, rows, jnp.array([0., 1.]), Hyper())[0].shape
    (3, 2)
    """
    examples = 0 if log_per_seed else None
    weight = 0 if weight_per_seed or log_per_seed else None

    def swept(keys: TrainKeys, rows: Rows, setting, hyper: Hyper, valid: Rows | None = None):
        axes: Any = Rows(examples, cast(Any, weight))
        each = jax.vmap(over_settings(train), in_axes=(0, axes, None, None, None if valid is None else axes))
        return each(keys, rows, setting, hyper, valid)

    return swept


def over_seeds(fit: Callable, *, at_once: int = 1) -> Callable:
    """A learner over stacked keys and problems, one program for all seeds.

    Args:
      fit: (key, problem) -> anything; pure.
      at_once: seeds in one vmap. All of them suit an accelerator; one after another needs least
        memory and is as fast on a CPU, where lambdas fill the cores.

    Returns:
      (keys [S], problems [S, ...]) -> results [S, ...].
    """

    def fitted(keys, problems):
        return jax.lax.map(lambda operands: fit(*operands), (keys, problems), batch_size=at_once)

    return fitted


class Progress(NamedTuple):
    """How far a sweep is.

    Attributes:
      group: number of the group of routers that is being trained; groups: of them.
      epoch: that it has done; epochs: that it may do.
      active: routers of the group that have not stopped.
      done: share of all groups and their epochs; a group whose routers have all stopped is done.
    """

    group: int
    groups: int
    epoch: int
    epochs: int
    active: int
    done: float


class Swept(NamedTuple):
    """Trained routers, on the host; each leaf [R, ...].

    Attributes:
      params: of each router's best epoch, as its module takes them.
      loss: [R], its validation loss there.
      epochs: [R], how many epochs it was trained for.
    """

    params: Any
    loss: np.ndarray
    epochs: np.ndarray


class Chunk(NamedTuple):
    """Where a group stands after a chunk of epochs, on the host: all that a later run needs to go on.

    Attributes:
      places: [m], which of the group's routers are in the stack; the first may be repeated at the end.
      state: of their training.
      swept: the group's routers as they are, settled or not.
    """

    places: np.ndarray
    state: StackedState
    swept: Swept


def run_sweep(
    train: StackedTrain,
    members: Members,
    rows: Rows,
    valid: Rows | None,
    shuffle: Array,
    *,
    config: StackedConfig,
    at_once: int | None = None,
    epochs_at_once: int | None = None,
    mesh: Mesh | None = None,
    on_chunk: Callable[[Progress, Chunk], None] | None = None,
    load_chunk: Callable[[int], Chunk | None] | None = None,
) -> Swept:
    """Trains R routers, a group of them at once, a few epochs at a time.

    Routers that have stopped are taken out between chunks of epochs, once half of the stack is idle: sizes
    are halved, so few programs are compiled. What becomes of a router depends neither on its group nor on
    the chunks, up to the rounding of products of another size.

    Args:
      train: from `make_stacked_train` with the same `config`.
      members: R routers.
      rows: shared by all.
      valid: or None.
      shuffle: key of the order of minibatches, the same for all.
      config: static sizes.
      at_once: routers in a group; None for all.
      epochs_at_once: epochs in a chunk; None for `patience`, or for all where no router stops.
      mesh: of `sharding.make_mesh`, over whose devices routers are divided, and rows as they were placed;
        None for the default device.
      on_chunk: called after each chunk, to show progress and to keep the group's `Chunk`.
      load_chunk: number of a group -> what `on_chunk` was given last of it, or None. Training goes on
        from there, with the very numbers of a run that was not interrupted.

    Returns:
      `Swept`.
    """
    n_routers = members.replicate.shape[0]
    at_once = min(at_once or n_routers, n_routers)
    epochs_at_once = epochs_at_once or config.patience or config.epochs
    devices = 1 if mesh is None else mesh.shape["routers"]
    init, narrow = jax.jit(train.init), jax.jit(take_state)
    if mesh is not None:
        shuffle = place_key(shuffle, mesh)
    # The state is the bulk of the memory: it is updated in place.
    advance = jax.jit(train.advance, static_argnames="epochs", donate_argnums=0)
    starts = range(0, n_routers, at_once)
    finished = []
    for group, start in enumerate(starts):
        ours = take_members(members, jnp.arange(start, min(start + at_once, n_routers)))
        chunk = load_chunk(group) if load_chunk is not None else None
        n_ours = ours.replicate.shape[0]
        if chunk is None:
            places, swept = filled(np.arange(n_ours), -(-n_ours // devices) * devices), None
            state = init(placed(take_members(ours, places), mesh), rows, valid)
        else:
            state, places, swept = jax.tree.map(jnp.asarray, chunk.state), chunk.places, chunk.swept
        active = active_places(state, places, config)
        while active.size:
            size = devices * stack_size(-(-active.size // devices), -(-n_ours // devices))
            if size < places.size:
                kept = filled(active, size)
                state = narrow(state, np.array([int(np.argmax(places == place)) for place in kept]))
                places = kept
            epochs = min(epochs_at_once, config.epochs - int(state.epoch))
            crew = placed(take_members(ours, places), mesh)
            state, _ = advance(placed(state, mesh), crew, rows, valid, shuffle, epochs=epochs)
            swept = settled(swept, state, places)
            active = active_places(state, places, config)
            if on_chunk is not None:
                epoch = int(state.epoch)
                done = (group + (epoch / config.epochs if active.size else 1.0)) / len(starts)
                progress = Progress(group, len(starts), epoch, config.epochs, active.size, done)
                on_chunk(progress, Chunk(places, on_host(state), swept))
        finished.append(swept)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *finished)


def placed(part: Any, mesh: Mesh | None) -> Any:
    """Members or a state over the devices of a mesh; as they are without one."""
    if mesh is None:
        return part
    return place_state(part, mesh) if isinstance(part, StackedState) else place_members(part, mesh)


def filled(places: np.ndarray, size: int) -> np.ndarray:
    """Places [size], those given and then the first again and again: what becomes of it is looked at once."""
    return np.concatenate([places, np.full(size - places.size, places[0])])


def active_places(state: StackedState, places: np.ndarray, config: StackedConfig) -> np.ndarray:
    """Which routers of a group are to be trained on, of those in the stack."""
    if int(state.epoch) >= config.epochs:
        return np.zeros(0, int)
    return np.unique(places[on_host(state.waited) < (NEVER if config.patience is None else config.patience)])


def stack_size(active: int, whole: int) -> int:
    """Size of a stack of `active` routers: `whole`, or a half, a quarter, ... of it, rounded up.

    >>> [stack_size(active, 22) for active in (22, 12, 11, 6, 1)]
    [22, 22, 11, 6, 1]
    """
    while (half := -(-whole // 2)) >= active and half < whole:
        whole = half
    return whole


def settled(swept: Swept | None, state: StackedState, places: np.ndarray) -> Swept:
    """The group's routers, those in the stack brought up to date; a copy, as a caller may have kept the last.

    Args:
      swept: as it was, or None.
      state: of the stack.
      places: [m], of its routers within the group.
    """
    params = on_host(unstack(state.best))
    now = Swept(params, on_host(state.best_loss), np.full(places.size, int(state.epoch), np.int32))
    places, first = np.unique(places, return_index=True)
    if swept is None:
        return jax.tree.map(lambda new: new[first], now)

    def updated(old, new):
        whole = old.copy()
        whole[places] = new[first]
        return whole

    return jax.tree.map(updated, swept, now)
