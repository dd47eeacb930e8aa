"""Where the arrays of a sweep lie: routers and rows over a mesh of devices, of one process or of many.

A mesh has two axes, "routers" and "rows". Networks of a stack are divided over the first; blocks of rows
over the second, each device taking its share of every minibatch from the rows it holds. The functions that
compute are the same, and so are the numbers, up to the order of sums.

With several processes, `jax.distributed.initialize` comes first; then every process makes the same mesh
and gives `rows_of_process` the rows it has read, and all call the same functions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jrouter.stacked import Stacked
from jrouter.train_stacked import Members, StackedState
from jrouter.types import Array


def make_mesh(*, routers: int = 1, rows: int = 1) -> Mesh:
    """A mesh of routers x rows devices, over all processes; each process has rows of its own.

    Raises:
      ValueError: if there are not as many devices, or rows cannot be divided over the processes.
    """
    if routers * rows != jax.device_count():
        raise ValueError(f"a mesh of {routers} x {rows} needs {routers * rows} devices, there are {jax.device_count()}")
    if rows % jax.process_count():
        raise ValueError(f"rows: expected a multiple of the {jax.process_count()} processes, got {rows}")
    # Devices come process by process: rows are the outer axis, so that no process holds another's.
    devices = np.array(jax.devices()).reshape(rows, routers).T
    return Mesh(devices, ("routers", "rows"), axis_types=(AxisType.Auto, AxisType.Auto))


def place_members(members: Members, mesh: Mesh) -> Members:
    """Members with their leaves [R, ...] divided over the routers axis."""
    return jax.tree.map(lambda leaf: _put(leaf, mesh, P("routers")), members)


def place_state(state: StackedState, mesh: Mesh) -> StackedState:
    """A state with its networks divided over the routers axis."""

    def placed(stacked: Stacked) -> Stacked:
        first, *rest = stacked.kernels
        kernels = _put(first, mesh, P(None, "routers")), *(_put(kernel, mesh, P("routers")) for kernel in rest)
        return Stacked(kernels, tuple(_put(bias, mesh, P("routers")) for bias in stacked.biases))

    return StackedState(
        params=placed(state.params),
        mean=placed(state.mean),
        square=placed(state.square),
        best=placed(state.best),
        best_loss=_put(state.best_loss, mesh, P("routers")),
        waited=_put(state.waited, mesh, P("routers")),
        epoch=_put(state.epoch, mesh, P()),
    )


def place_rows(rows: Any, mesh: Mesh, *, axis: int = 0) -> Any:
    """Rows, all of them in this process, divided over the rows axis; their number must be a multiple of it."""
    return jax.tree.map(lambda leaf: _put(leaf, mesh, P(*[None] * axis, "rows")), rows)


def rows_of_process(rows: Any, mesh: Mesh, *, axis: int = 0) -> Any:
    """Rows of all processes as one array, of which this one holds what it gives.

    Args:
      rows: pytree of arrays, as many rows in every process; in the order of the processes they are the
        blocks of `StackedConfig.row_blocks`.
      mesh: over all processes.
      axis: of the rows.
    """
    sharding = NamedSharding(mesh, P(*[None] * axis, "rows"))

    def whole(leaf):
        shape = list(leaf.shape)
        shape[axis] *= jax.process_count()
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf), tuple(shape))

    return jax.tree.map(whole, rows)


def place_key(key: Array, mesh: Mesh) -> Array:
    """A key that every device has."""
    return _put(key, mesh, P())


def on_host(tree: Any) -> Any:
    """NumPy arrays of a pytree of arrays, whichever processes hold them; to be called by all of these."""

    def fetched(leaf):
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(fetched, tree)


def _put(leaf: Array, mesh: Mesh, spec: P) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), mesh, spec), impl=jax.random.key_impl(leaf))
    sharding = NamedSharding(mesh, spec)
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(lambda array: array, out_shardings=sharding)(leaf)
    # Every process has the whole of it, and gives its devices their parts.
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
