"""Result files: what was run, on what, with which versions, as JSON, CSV or a table of text."""

import csv
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jrouter.io.replace import replace_whole

SCHEMA = 1
PACKAGES = ("jrouter", "jax", "jaxlib", "flax", "optax", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def device() -> dict[str, Any]:
    """What computed: the device's name, and how many cores the host has."""
    first = jax.devices()[0]
    return {"platform": first.platform, "kind": first.device_kind, "count": jax.device_count(), "cores": os.cpu_count()}


def plain(value: Any) -> Any:
    """Numbers, lists and dicts as JSON holds them; a path by its name alone."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return value.name
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return np.round(np.asarray(value, np.float64), 8).tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def write_json(path: Path, *, options: Any, results: Any) -> None:
    """Writes a result file: schema version, command, configuration, versions, device, results."""
    config = plain(asdict(options))
    del config["out"]
    record = {
        "schema": SCHEMA,
        "script": Path(sys.argv[0]).name,
        "config": config,
        "versions": versions(),
        "device": device(),
        "results": plain(results),
    }
    replace_whole(path, lambda file: file.write(json.dumps(record, indent=1) + "\n"))


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Writes a table with a header."""

    def write(file):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([[f"{cell:.8g}" if isinstance(cell, float) else cell for cell in row] for row in rows])

    replace_whole(path, write)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left and the others to the right.

    >>> print(text_table(["a", "bb"], [["x", "1"]]))
    a  bb
    x   1
    """
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return "\n".join(lines)
