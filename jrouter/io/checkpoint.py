"""Saving a pytree with its manifest: whole or not at all, and refused where it does not fit.

A checkpoint is a folder: `manifest.json` and Orbax's `params/`. It is written beside its place and
renamed into it, so a run that dies never leaves a half-written one where a whole one was.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from jrouter.io.replace import take_place

FORMAT = 2
READABLE = (1, 2)
"""Formats that this version reads."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the folder, the field and what to do."""


def _shapes(tree: Any) -> Any:
    """Nested dict of {"shape", "dtype"} of a nested dict of arrays."""
    if isinstance(tree, Mapping):
        return {name: _shapes(child) for name, child in tree.items()}
    return {"shape": list(tree.shape), "dtype": str(tree.dtype)}


def _abstract(shapes: Any) -> Any:
    if set(shapes) == {"shape", "dtype"}:
        # Placed explicitly: a checkpoint written on an accelerator loads on a machine without one.
        where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return jax.ShapeDtypeStruct(tuple(shapes["shape"]), jnp.dtype(shapes["dtype"]), sharding=where)
    return {name: _abstract(child) for name, child in shapes.items()}


def save(
    folder: str | Path, params: Any, manifest: Mapping[str, Any], *, files: Mapping[str, str] | None = None
) -> None:
    """Writes a nested dict of arrays and what they mean.

    Args:
      folder: where; an existing checkpoint there is replaced once the new one is whole.
      params: nested dict of arrays.
      manifest: JSON values.
      files: name -> text, of further files in the folder.

    Raises:
      CheckpointError: if `folder` exists and is not a checkpoint.
    """
    folder = Path(folder).absolute()  # Orbax takes absolute paths only
    if folder.exists() and not (folder / "manifest.json").is_file():
        raise CheckpointError(f"{folder}: exists and is not a checkpoint (no manifest.json); give another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    params = jax.tree.map(jnp.asarray, params)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        ocp.save(str(partial / "params"), params)
        record = {"format": FORMAT, **manifest, "params": _shapes(params)}
        for name, text in (files or {}).items():
            (partial / name).write_text(text, encoding="utf-8")
        (partial / "manifest.json").write_text(json.dumps(record, indent=1) + "\n")
        partial.chmod(0o755)
        take_place(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def load_manifest(folder: str | Path) -> dict[str, Any]:
    """Reads what a checkpoint holds, without its arrays.

    Raises:
      CheckpointError: for a missing folder, a folder that is none, or one of a newer format.
    """
    path = Path(folder).absolute() / "manifest.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no checkpoint here (manifest.json is missing); give a folder that `jrouter fit` or `save` wrote"
        )
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); save the router again") from error
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(manifest).__name__}; save the router again")
    if manifest.get("format") not in READABLE:
        wrote = (manifest.get("versions") or {}).get("jrouter", "of unknown number")
        raise CheckpointError(
            f"{path}: field 'format' is {manifest.get('format')!r}, this version reads "
            f"{' and '.join(map(str, READABLE))}; "
            f"load it with the version of jrouter that wrote it ({wrote})"
        )
    return manifest


def load(folder: str | Path) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint: params and manifest.

    Raises:
      CheckpointError: as `load_manifest`, or if the arrays are missing or differ from the manifest.
    """
    manifest = load_manifest(folder)
    try:
        abstract = _abstract(manifest["params"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{Path(folder) / 'manifest.json'}: field 'params' does not describe arrays; save the router again"
        ) from error
    try:
        params = ocp.load(str(Path(folder).absolute() / "params"), abstract)
    except (ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{folder}: params do not match manifest.json ({reason}); save again") from error
    return params, manifest
