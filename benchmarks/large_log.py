"""What does a log of ten million rows take: how long, and how much memory?

    python benchmarks/large_log.py                     # 11 minutes on 2 shared cores, 4 GB of disk
    python benchmarks/large_log.py --smoke             # under 1 minute

Logs of 100,000, 1,000,000 and 10,000,000 rows: Parquet files of 250,000 rows with an id, one of 5 models, a score, a
cost and an embedding (16 float32) each, no propensity. They are made in pieces in a temporary folder that is removed.
Of each, once, in a process of its own, so that its peak resident memory is its own:

- ingest: `ingest` alone, from the log to the clean one; rows a second count neither Python's start nor imports.
- diagnose: the whole command `jrouter diagnose LOG --rows 100000`, Python's start and compilation included: reading
  all rows as above, and diagnosing a random sample.

`bytes_per_row` is by how much the peak grows from a tenth of the longest log to all of it, for each row more.
`ingest` states 8 bytes a row, by which duplicates are found, and 24 for a moment while they are merged; the script
fails where it is over that by more than half of it and 32 MB (allocators do not give everything back at once).
Writes <out>/large_log.json.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from measure import RESULTS, write
from peak_memory import peak_bytes
from tqdm import tqdm

from jrouter.app import cli
from jrouter.io.ingest import ingest
from jrouter.io.results import text_table

FILE_ROWS, GROUP_ROWS, MODELS = 250_000, 50_000, 5
STATED = 24
"""Bytes a row that `ingest` states, at its peak."""
SLACK = 32e6
STEPS = ("ingest", "diagnose")


@dataclass(frozen=True)
class Options:
    """What is measured."""

    rows: str = "100000,1000000,10000000"
    """Lengths of logs, comma-separated, ascending."""
    dim: int = 16
    """Width of the embeddings."""
    steps: str = ",".join(STEPS)
    """Which, comma-separated."""
    sample: int = 100_000
    """Rows that are diagnosed: `--rows` of the command."""
    folder: Path | None = None
    """Where the logs are made; default: the system's temporary folder."""
    smoke: bool = False
    """Small sizes."""
    step: str = ""
    """One measurement, as JSON: what the processes are started with."""
    out: Path = RESULTS
    """Folder of the result file."""


def write_rows(folder: Path, rows: int, dim: int) -> int:
    """Writes a log of as many rows, file by file, with something to learn; returns its bytes."""
    names = pa.array([f"model_{number}" for number in range(MODELS)])
    price = 1e-4 * 100.0 ** np.linspace(0, 1, MODELS)
    direction = np.random.default_rng(0).normal(size=(dim, MODELS)).astype(np.float32) / np.sqrt(dim)
    for number, start in enumerate(range(0, rows, FILE_ROWS)):
        rng = np.random.default_rng([1, number])
        n = min(FILE_ROWS, rows - start)
        x = rng.standard_normal((n, dim), np.float32)
        latent = x @ direction
        model = (latent + rng.gumbel(size=latent.shape)).argmax(axis=1)  # a softmax of the query
        own = latent[np.arange(n), model]
        score = rng.random(n) < 0.5 + 0.2 * (model / MODELS - 0.4) + 0.2 * np.tanh(own)
        table = pa.table(
            {
                "request_id": pa.array(np.char.mod("req-%010d", np.arange(start, start + n))),
                "model": names.take(pa.array(model)),
                "score": score.astype(np.float32),
                "cost": (price[model] * np.exp(0.3 * latent[:, 0])).astype(np.float32),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), dim),
            }
        )
        words: Any = ["model"]
        file = folder / f"part_{number:05d}.parquet"
        pq.write_table(table, file, row_group_size=GROUP_ROWS, use_dictionary=words)
    return sum(file.stat().st_size for file in folder.iterdir())


def run_step(spec: dict[str, Any]) -> dict[str, Any]:
    """One measurement, in this process."""
    before, begun = peak_bytes(), time.perf_counter()
    found: dict[str, Any] = {}
    if spec["step"] == "ingest":
        made = ingest(spec["log"], spec["work"] + "/clean")
        found["rows_kept"] = made.report.rows_kept
        found["clean_bytes"] = sum(file.stat().st_size for file in made.folder.iterdir())
    else:
        command = ["diagnose", spec["log"], "--rows", str(spec["sample"]), "--work", spec["work"]]
        command += ["--json", spec["work"] + "/report.json"]
        with contextlib.redirect_stdout(io.StringIO()):
            code = cli.main(command)
        report = json.loads(Path(spec["work"], "report.json").read_text())
        found |= {"exit_code": code, "verdict": report["verdict"]["level"], "rows_kept": report["source"]["rows_kept"]}
        found["rows_diagnosed"] = report["log"]["rows"]
    return {
        "seconds": time.perf_counter() - begun,
        "peak_bytes": peak_bytes(),
        "peak_bytes_at_start": before,
        **found,
    }


def measured(step: str, log: Path, rows: int, options: Options) -> dict[str, Any]:
    """One measurement in a process of its own."""
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="large_log_work_") as work:
        spec = {"step": step, "log": str(log), "work": work, "sample": options.sample}
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, __file__, "--step", json.dumps(spec)], capture_output=True, text=True, env=os.environ
        )
        whole = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"error: {step} of {rows:,} rows failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["rows_kept"] != rows:
        raise SystemExit(f"error: {step} kept {found['rows_kept']:,} of {rows:,} rows, expected all")
    return {"rows": rows, **found, "process_seconds": whole, "rows_per_second": rows / found["seconds"]}


def bytes_per_row(cells: list[dict[str, Any]]) -> float | None:
    """How much more memory each row more takes, between the longest log and the next."""
    if len(cells) < 2:
        return None
    last, longest = cells[-2:]
    return (longest["peak_bytes"] - last["peak_bytes"]) / (longest["rows"] - last["rows"])


def main(options: Options) -> None:
    """Measures, checks, prints and writes."""
    if options.step:
        print(json.dumps(run_step(json.loads(options.step))))
        return
    if options.smoke:
        options = replace(options, rows="2000,20000", sample=4_000)
    unknown = [one for one in options.steps.split(",") if one not in STEPS]
    if unknown:
        raise SystemExit(f"error: unknown step {unknown[0]!r}, expected some of {', '.join(STEPS)}")
    sizes = sorted(int(one) for one in options.rows.split(","))
    place = options.folder or Path(tempfile.gettempdir())
    # The log; the clean one, and for a moment once more.
    needed, free = 3 * sizes[-1] * (4 * options.dim + 64), shutil.disk_usage(place).free
    if free < 1.2 * needed:
        raise SystemExit(
            f"error: {sizes[-1]:,} rows need {1.2 * needed / 1e9:.1f} GB, {place} has {free / 1e9:.1f} GB free; "
            "choose another with --folder, or fewer --rows"
        )
    results: dict[str, Any] = {"models": MODELS, "stated_bytes_per_row": STATED, "logs": [], "steps": {}}
    cells: dict[str, list[dict[str, Any]]] = {step: [] for step in options.steps.split(",")}
    with tqdm(total=len(cells) * sum(sizes), bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}") as bar:
        for rows in sizes:
            with tempfile.TemporaryDirectory(dir=options.folder, prefix="large_log_") as folder:
                bar.set_postfix_str(f"{rows:,} rows: writing")
                results["logs"].append({"rows": rows, "bytes": write_rows(Path(folder), rows, options.dim)})
                for step in cells:
                    bar.set_postfix_str(f"{rows:,} rows: {step}")
                    cells[step].append(measured(step, Path(folder), rows, options))
                    bar.update(rows)
    results["steps"] = {step: {"bytes_per_row": bytes_per_row(found), "cells": found} for step, found in cells.items()}
    asked = replace(options, folder=None)  # where is no part of what was measured
    write("large_log_smoke" if options.smoke else "large_log", asked, results, ("pyarrow",))
    table = [
        [step, f"{one['rows']:,}", f"{one['seconds']:.1f}", f"{one['rows_per_second']:,.0f}"]
        + [f"{one['peak_bytes'] / 1e9:.2f}"]
        for step, found in cells.items()
        for one in found
    ]
    print(text_table(["step", "rows", "seconds", "rows/s", "peak, GB"], table))
    for step, found in cells.items():
        grown = bytes_per_row(found)
        if grown is None:
            continue
        print(f"{step}: {grown:.0f} bytes a row more; {STATED} stated")
        # Shorter logs do not fill the buffers.
        if not options.smoke and grown > 1.5 * STATED + SLACK / (found[-1]["rows"] - found[-2]["rows"]):
            raise SystemExit(f"error: {step}: memory grows by {grown:.0f} bytes a row, expected about {STATED}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
