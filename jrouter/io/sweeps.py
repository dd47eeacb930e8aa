"""A sweep that says how far it is, and that goes on where a killed one stopped."""

import hashlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from jrouter.io import checkpoint
from jrouter.io.checkpoint import CheckpointError
from jrouter.sharding import on_host
from jrouter.stacked import unstack
from jrouter.sweep import Chunk, Progress, Swept, run_sweep
from jrouter.train import Rows
from jrouter.train_stacked import Members, StackedConfig, StackedTrain
from jrouter.types import Array


def kept_sweep(
    folder: str | Path,
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
    save_seconds: float = 60.0,
    quiet: bool = False,
) -> Swept:
    """`run_sweep` with a progress bar, kept in a folder: called again, it resumes with identical results.

    What is kept of each group of routers is all that training carries, so a resumed sweep gives the very
    numbers of one that was not interrupted; one that was finished gives them at once. With several
    processes all see the same folder, and the first writes it.

    Args:
      folder: of this sweep alone; made where needed.
      train: and
      members: and
      rows: and
      valid: and
      shuffle: and
      config: and
      at_once: and
      epochs_at_once: and
      mesh: as of `run_sweep`.
      save_seconds: least time between two writes of a group that is being trained; it is written when it
        is done, whatever the time. A write takes five times the memory of the group's params.
      quiet: without the bar.

    Returns:
      `Swept`.

    Raises:
      CheckpointError: for a folder that keeps another sweep: other rows, routers, sizes or versions.
    """
    folder = Path(folder)
    print_of = {
        "sweep": fingerprint((members, rows, valid, shuffle)),
        "config": asdict(config),
        "at_once": at_once,
        "epochs_at_once": epochs_at_once,
        "devices": None if mesh is None else dict(mesh.shape),
        "device": jax.devices()[0].device_kind,
        "jaxlib": jaxlib.version.__version__,
    }
    structure = chunk_structure(train, members, rows, valid)
    saved: dict[int, float] = {}
    bar = tqdm(
        total=100.0,
        disable=quiet or jax.process_index() > 0,
        dynamic_ncols=True,
        bar_format="{percentage:3.0f}%|{bar}| {postfix} [{elapsed}, {remaining} left]",
    )

    def place_of(group: int) -> Path:
        return folder / f"group_{group}"

    def load_chunk(group: int) -> Chunk | None:
        if not place_of(group).exists():
            return None
        manifest = checkpoint.load_manifest(place_of(group))
        for name, mine in print_of.items():
            if manifest.get(name) != mine:
                raise CheckpointError(
                    f"{place_of(group)}: field {name!r} is {manifest.get(name)!r}, expected {mine!r}: "
                    "another sweep is kept here; give another folder, or delete this one to start again"
                )
        params, _ = checkpoint.load(place_of(group))
        leaves = [np.asarray(params[f"leaf_{place}"]) for place in range(structure.num_leaves)]
        return jax.tree.unflatten(structure, leaves)

    def on_chunk(progress: Progress, chunk: Chunk) -> None:
        bar.set_postfix_str(
            f"group {progress.group + 1} of {progress.groups}, epoch {progress.epoch} of {progress.epochs}, "
            f"{progress.active} routers still training",
            refresh=False,
        )
        bar.n = 100.0 * progress.done
        bar.refresh()
        ended = not progress.active
        if ended or time.monotonic() - saved.get(progress.group, begun) >= save_seconds:
            if jax.process_index() == 0:
                leaves = {f"leaf_{place}": leaf for place, leaf in enumerate(jax.tree.leaves(chunk))}
                checkpoint.save(place_of(progress.group), leaves, print_of)
            saved[progress.group] = time.monotonic()

    begun = time.monotonic()
    with bar:
        return run_sweep(
            train,
            members,
            rows,
            valid,
            shuffle,
            config=config,
            at_once=at_once,
            epochs_at_once=epochs_at_once,
            mesh=mesh,
            on_chunk=on_chunk,
            load_chunk=load_chunk,
        )


def fingerprint(tree: Any) -> str:
    """SHA-256 of a pytree's arrays: shapes, dtypes and values.

    >>> fingerprint(jnp.ones(2)) == fingerprint(jnp.ones(2)), fingerprint(jnp.ones(2)) == fingerprint(jnp.ones(3))
    (True, False)
    """
    digest = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(on_host(leaf))
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.view(np.uint8).data if array.ndim else array.tobytes())
    return digest.hexdigest()


def chunk_structure(train: StackedTrain, members: Members, rows: Rows, valid: Rows | None) -> Any:
    """Tree structure of what `run_sweep` hands to its `on_chunk`."""
    state = jax.eval_shape(train.init, members, rows, valid)
    params = jax.eval_shape(unstack, state.best)
    return jax.tree.structure(Chunk(np.zeros(1), state, Swept(params, np.zeros(1), np.zeros(1))))
