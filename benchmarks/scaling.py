"""How do time and memory of a streamed fit grow with rows, models and cost preferences?

    python benchmarks/scaling.py                       # 10,000 to 10,000,000 rows; needs 2.9 GB of disk
    python benchmarks/scaling.py --largest 1000000     # a tenth of that
    python benchmarks/scaling.py --smoke               # under 1 minute

A log of Parquet files (d = 64) that is made for each measurement in a temporary folder and removed again is
gone through once for a sample, on which the nuisances are fitted, and then once more: every row is scored
and trained on by softmax regret, one network of 200-200 for each cost preference, in minibatches of 512. That
last pass is timed: reading, scoring and training together, with what is compiled already compiled. Three
axes, one at a time: rows (11 models, 3 preferences), models (100,000 rows, 3 preferences), preferences
(10,000 rows, 11 models).

Each measurement is a process of its own, so that its peak resident memory is its own; that includes
Python, JAX and the nuisances of the sample. `growth` is the slope of log seconds on log size between the
largest size and a tenth of it, by least squares: expected at most 1.05 on each axis, and peak memory the
same however many rows. Writes <out>/scaling.json, after every measurement, and <out>/scaling.png; what is
there of the same machine and settings is not measured again, unless --fresh.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from measure import RESULTS, machine, write
from peak_memory import peak_bytes
from tqdm import tqdm

from jrouter.io.stream import open_log
from jrouter.large_logs import prepare, routers_of
from jrouter.methods.rm_softmax import RmSoftmaxConfig
from jrouter.stream_sweep import stream_sweep

FILE_ROWS, GROUP_ROWS = 250_000, 50_000
AT_ONCE = 100  # routers that step together
AXES = {"rows": "rows of the log", "models": "models", "lambdas": "cost preferences"}


@dataclass(frozen=True)
class Cell:
    """One measurement: a log, and what is fitted on it."""

    axis: str
    rows: int = 100_000
    models: int = 11
    lambdas: int = 3
    nuisance_rows: int = 10_000
    valid_rows: int = 2_000

    @property
    def size(self) -> int:
        """What its axis varies."""
        return getattr(self, self.axis)


@dataclass(frozen=True)
class Options:
    """What is measured."""

    largest: int = 10_000_000
    """Rows of the longest log; the others are tenths of it, down to 10,000."""
    dim: int = 64
    """Width of the embeddings."""
    axes: str = "rows,models,lambdas"
    """Which, comma-separated."""
    folder: Path | None = None
    """Where the logs are made; default: the system's temporary folder."""
    fresh: bool = False
    """Measure again what has been measured."""
    smoke: bool = False
    """Small sizes."""
    cell: str = ""
    """One measurement, as JSON with the folder of its log: what the processes are started with."""
    out: Path = RESULTS
    """Folder of the result file."""


def cells_of(options: Options) -> list[Cell]:
    """All measurements, small ones first."""
    sizes = [options.largest]
    while sizes[0] >= 100_000 and not options.smoke:
        sizes.insert(0, sizes[0] // 10)
    found = {
        "rows": [Cell("rows", rows=rows) for rows in sizes],
        # Propensities of the sample are fitted for several strengths and folds at once: fewer rows of more models.
        "models": [Cell("models", models=n, nuisance_rows=2_000) for n in (10, 30, 100, 300, 1000)],
        "lambdas": [Cell("lambdas", rows=10_000, lambdas=n) for n in (1, 10, 100, 1000)],
    }
    if options.smoke:
        small = {"nuisance_rows": 500, "valid_rows": 200}
        found = {
            "rows": [Cell("rows", rows=rows, **small) for rows in (1_000, 10_000)],
            "models": [Cell("models", rows=1_000, models=30, **small)],
            "lambdas": [Cell("lambdas", rows=1_000, lambdas=10, **small)],
        }
    return [cell for axis in options.axes.split(",") for cell in found[axis]]


def write_rows(folder: Path, rows: int, models: int, dim: int) -> None:
    """A log of as many rows, file by file; cheap to make, and with something to learn."""
    names = pa.array([f"model_{number:04d}" for number in range(models)])
    price = 1e-4 * 100.0 ** np.linspace(0, 1, models)
    direction = np.random.default_rng(0).normal(size=(dim, 8)).astype(np.float32) / np.sqrt(dim)
    for number, start in enumerate(range(0, rows, FILE_ROWS)):
        rng = np.random.default_rng([1, number])
        n = min(FILE_ROWS, rows - start)
        x = rng.standard_normal((n, dim), np.float32)
        latent = x @ direction
        # The logging policy leans to a part of the models that depends on the query.
        model = (rng.integers(0, models, n) + (latent[:, 0] > 0) * rng.integers(0, 1 + models // 2, n)) % models
        place = model / models
        score = rng.random(n) < 0.5 + 0.3 * (place - 0.5) + 0.2 * np.tanh(latent[np.arange(n), model % 8])
        table = pa.table(
            {
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), dim),
                "model": names.take(pa.array(model)),
                "score": score.astype(np.float32),
                "cost": (price[model] * np.exp(0.3 * latent[:, 1])).astype(np.float32),
            }
        )
        file = folder / f"part_{number:05d}.parquet"
        coded: Any = ["model"]
        pq.write_table(table, file, row_group_size=GROUP_ROWS, compression="none", use_dictionary=coded)


def measure_cell(cell: Cell, folder: Path) -> dict[str, Any]:
    """One streamed fit; times in seconds, memory in bytes."""
    jax.block_until_ready(jnp.zeros(1))
    before = peak_bytes()
    method = RmSoftmaxConfig(epochs=1, min_batches=1)
    stream = open_log(folder, multiple=method.batch_size)
    begun = time.perf_counter()
    for _ in stream.chunks():
        pass
    read = time.perf_counter() - begun
    # From below what any cost preference changes to above it; the values do not matter to the time.
    lambdas = jnp.linspace(0.0, 100.0, cell.lambdas)
    task = prepare(stream, method, lambdas=lambdas, nuisance_rows=cell.nuisance_rows, valid_rows=cell.valid_rows)
    jax.block_until_ready((task.nuisances, task.valid))
    prepared = time.perf_counter()
    config, train, members, shuffle = routers_of(task, method)
    at_once = min(cell.lambdas, AT_ONCE)

    def fit(chunks, n_chunks):
        return stream_sweep(
            train,
            members,
            chunks,
            task.valid,
            shuffle,
            config=config,
            n_chunks=n_chunks,
            chunk_rows=stream.chunk_rows,
            mean_weight=task.sample.mean_weight,
            at_once=at_once,
        )

    def one_chunk(epoch):
        chunks = task.rows(epoch)
        yield next(chunks)

    # The same programs as for all chunks: nothing about a chunk depends on how many there are.
    fit(one_chunk, 1)
    compiled, peak = time.perf_counter(), peak_bytes()
    swept = fit(task.rows, stream.n_chunks)
    done = time.perf_counter()
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(swept.params)):
        raise SystemExit("error: the trained networks are not finite")
    memory = jax.devices()[0].memory_stats() or {}
    return {
        "seconds": done - compiled,
        "rows_per_second": stream.rows / (done - compiled),
        "read_alone_seconds": read,
        "sample_and_nuisance_seconds": prepared - begun - read,
        "first_chunk_and_compile_seconds": compiled - prepared,
        "peak_bytes": peak_bytes(),
        "peak_bytes_at_start": before,
        "peak_bytes_before_timed_pass": peak,
        "device_peak_bytes": memory.get("peak_bytes_in_use"),
        "chunk_rows": stream.chunk_rows,
        "chunks": stream.n_chunks,
        "chunk_bytes": stream.chunk_bytes(),
    }


def run_cell(cell: Cell, options: Options) -> dict[str, Any]:
    """Makes the cell's log, and measures it in a process of its own."""
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="scaling_") as folder:
        write_rows(Path(folder), cell.rows, cell.models, options.dim)
        command = [sys.executable, __file__, "--cell", json.dumps({"folder": folder, **asdict(cell)})]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        if done.returncode:
            raise SystemExit(f"error: {cell} failed:\n{done.stderr[-3000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def growth(found: list[tuple[Cell, dict[str, Any]]], key: str) -> float | None:
    """Least-squares slope of log(value) on log(size), from a tenth of the largest size on."""
    largest = max(cell.size for cell, _ in found)
    top = [(cell.size, one[key]) for cell, one in found if cell.size >= 0.099 * largest]
    if len(top) < 2:
        return None
    size, value = np.log(np.array(top, float)).T
    return float(np.polyfit(size, value, 1)[0])


def summary(found: list[tuple[Cell, dict[str, Any]]]) -> dict[str, Any]:
    """Slopes of each axis that has been measured, and what they were expected to be."""
    axes = {axis: [(cell, one) for cell, one in found if cell.axis == axis] for axis in AXES}
    return {
        "growth": {axis: growth(cells, "seconds") for axis, cells in axes.items() if cells},
        "memory_growth": {axis: growth(cells, "peak_bytes") for axis, cells in axes.items() if cells},
        "targets": {"growth": "at most 1.05 on each axis", "memory_growth": "0 over rows"},
        "cells": [asdict(cell) | one for cell, one in found],
    }


def kept_cells(options: Options) -> dict[Cell, dict[str, Any]]:
    """Measurements that are in the result file, if the same machine made them with the same settings."""
    file = options.out / f"{name_of(options)}.json"
    if options.fresh or not file.exists():
        return {}
    record = json.loads(file.read_text())
    if record["machine"] != machine() or record["config"]["dim"] != options.dim:
        return {}
    fields = set(asdict(Cell("rows")))
    cells = record["results"]["cells"]
    return {
        Cell(**{k: v for k, v in one.items() if k in fields}): {k: v for k, v in one.items() if k not in fields}
        for one in cells
    }


def name_of(options: Options) -> str:
    """Of the result files."""
    return "scaling_smoke" if options.smoke else "scaling"


def draw(path: Path, found: list[tuple[Cell, dict[str, Any]]]) -> None:
    """Seconds above, peak memory below, one column an axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes = [axis for axis in AXES if any(cell.axis == axis for cell, _ in found)]
    figure, panels = plt.subplots(2, len(axes), figsize=(3.6 * len(axes), 5.6), sharex="col", squeeze=False)
    top_of_memory = 1.15 * max(one["peak_bytes"] for _, one in found) / 1e9
    for column, axis in enumerate(axes):
        cells = [(cell, one) for cell, one in found if cell.axis == axis]
        size = np.array([cell.size for cell, _ in cells], float)
        seconds = np.array([one["seconds"] for _, one in cells])
        above, below = panels[:, column]
        slope = growth(cells, "seconds")
        label = "measured" if slope is None else f"measured, growth {slope:.2f}"
        above.loglog(size, seconds, "o-", color="black", label=label)
        above.loglog(size, seconds[-1] * size / size[-1], "--", color="0.6", label="proportional (1.00)")
        above.legend(fontsize=8, frameon=False)
        below.semilogx(size, [one["peak_bytes"] / 1e9 for _, one in cells], "s-", color="black", label="peak")
        start = [one["peak_bytes_at_start"] / 1e9 for _, one in cells]
        below.semilogx(size, start, ":", color="0.5", label="Python and JAX alone")
        below.set(xlabel=AXES[axis], ylim=(0, top_of_memory))
        below.legend(fontsize=8, frameon=False)
        fixed = {"rows": f"{cells[0][0].rows:,} rows", "models": f"{cells[0][0].models} models"}
        fixed["lambdas"] = f"{cells[0][0].lambdas} preferences"
        above.set_title(", ".join(text for name, text in fixed.items() if name != axis), fontsize=9)
        for panel in (above, below):
            panel.grid(color="0.9")
            panel.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("seconds of a streamed epoch")
    panels[1, 0].set_ylabel("peak memory, GB")
    figure.tight_layout()
    save_whole(figure, path)
    plt.close(figure)


def save_whole(figure: Any, path: Path) -> None:
    """A figure under its name once it is whole."""
    beside = path.with_name(f".{path.name}")
    figure.savefig(beside, dpi=150, format="png")
    os.replace(beside, path)


def main(options: Options) -> None:
    """Measures what is not there yet, and writes and draws everything."""
    if options.cell:
        spec = json.loads(options.cell)
        folder = Path(spec.pop("folder"))
        print(json.dumps(measure_cell(Cell(**spec), folder)))
        return
    unknown = [axis for axis in options.axes.split(",") if axis not in AXES]
    if unknown:
        raise SystemExit(f"error: unknown axis {unknown[0]!r}, expected some of {', '.join(AXES)}")
    cells = cells_of(options)
    needed = max(cell.rows for cell in cells) * (4 * options.dim + 32)
    place = options.folder or Path(tempfile.gettempdir())
    free = shutil.disk_usage(place).free
    if free < 1.1 * needed:
        raise SystemExit(
            f"error: the largest log needs {1.1 * needed / 1e9:.1f} GB, {place} has {free / 1e9:.1f} GB free; "
            "choose another with --folder, or a smaller --largest"
        )
    kept = kept_cells(options)
    found = [(cell, kept[cell]) for cell in cells if cell in kept]
    work = {cell: float(cell.rows) * cell.lambdas * (50 + cell.models) for cell in cells if cell not in kept}
    with tqdm(total=sum(work.values()), bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}") as bar:
        for cell in work:
            bar.set_postfix_str(f"{cell.axis}: {cell.size:,}")
            found.append((cell, run_cell(cell, options)))
            found.sort(key=lambda one: cells.index(one[0]))
            write(name_of(options), options, summary(found), ("pyarrow", "flax"))
            bar.update(work[cell])
    draw(options.out / f"{name_of(options)}.png", found)
    for cell, one in found:
        print(
            f"{cell.axis:<8}{cell.size:>12,} {one['seconds']:9.1f} s {one['rows_per_second']:12,.0f} rows/s "
            f"{one['peak_bytes'] / 1e9:6.2f} GB"
        )
    for axis, slope in summary(found)["growth"].items():
        print(f"{axis}: growth {'unknown' if slope is None else f'{slope:.2f}'} in the top decade")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
