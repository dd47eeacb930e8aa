"""What benchmarks share: alternating medians, the rate of a large matrix product, and result files."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from tqdm import tqdm

from jrouter.io.replace import replace_whole
from jrouter.io.results import plain

RESULTS = Path(__file__).parent / "results"


class Timed(NamedTuple):
    """Seconds of every repeat, and what the last gave."""

    seconds: list[float]
    value: Any

    @property
    def median(self) -> float:
        """Median of the repeats."""
        return statistics.median(self.seconds)


def alternate(contestants: Mapping[str, Callable[[], Any]], *, repeats: int) -> dict[str, Timed]:
    """Runs all contestants in turn, `repeats` times, so that what else the machine does hits all alike.

    Args:
      contestants: name -> what to time; warmed up by the caller, if it compiles.
      repeats: of each.
    """
    found: dict[str, tuple[list[float], Any]] = {name: ([], None) for name in contestants}
    with tqdm(total=repeats * len(contestants), dynamic_ncols=True) as bar:
        for _ in range(repeats):
            for name, run in contestants.items():
                bar.set_postfix_str(name)
                begun = time.perf_counter()
                value = jax.block_until_ready(run())
                found[name] = [*found[name][0], time.perf_counter() - begun], value
                bar.update()
    return {name: Timed(*one) for name, one in found.items()}


def matrix_rate(dtype: str = "float32", *, size: int = 2048, repeats: int = 7) -> float:
    """Operations per second of a square matrix product, summed in float32: the median of `repeats`."""
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    multiply = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32))
    multiply(a).block_until_ready()
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        multiply(a).block_until_ready()
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / statistics.median(seconds)


def machine() -> dict[str, Any]:
    """What measured: device, cores, processor."""
    first = jax.devices()[0]
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {
        "platform": first.platform,
        "device": first.device_kind,
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": processor,
        "system": platform.system(),
    }


def write(name: str, options: Any, results: Any, packages: tuple[str, ...] = ()) -> None:
    """Writes <out>/<name>.json: command, configuration, machine, versions, results.

    Args:
      name: of the file.
      options: the script's, with `out`; paths are written down by their names alone.
      results: what was measured.
      packages: whose versions matter, beside jrouter, jax and numpy.
    """
    config = {key: plain(value) for key, value in asdict(options).items() if key != "out"}
    versions = {"python": platform.python_version()}
    versions |= {package: metadata.version(package) for package in ("jrouter", "jax", "jaxlib", "numpy", *packages)}
    record = {
        "schema": 1,
        "script": Path(sys.argv[0]).name,
        "config": config,
        "machine": machine(),
        "versions": versions,
        "results": results,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    replace_whole(options.out / f"{name}.json", lambda file: file.write(json.dumps(record, indent=1) + "\n"))
