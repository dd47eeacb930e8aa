"""What do the packages that people use today learn from the same logs, how fast, and in how much memory?

    python benchmarks/peers/run.py                            # 3 logs: half an hour on 2 cores, 5 GB of disk
    python benchmarks/peers/run.py --packages jrouter,obp     # some; what is measured already is kept
    python benchmarks/peers/run.py --smoke --packages jrouter # 1 minute, no network

Logs of 20,000 rows, each of a world of its own ("specialists", 64 dimensions, 11 models, 0/1 scores, since some
packages take no others), with the same estimated propensities for all. Each package gets a virtual environment of
its own, which is removed again (--keep: stays in --folder, and is used there next time); each of its learners is a
process of its own, one after the other: seconds from arrays to a fitted policy (imports apart), processor seconds of
the same, peak resident memory. The models that it chooses for 20,000 queries that were never logged are judged by
their true mean scores, which no worker sees. No peer has a cost preference: this is lambda = 0, scores alone.

What cannot be installed, fails or takes longer than its limit is reported with the last line that it wrote; what was
not asked for and not measured before is "not tried"; what was measured of a log is kept. PyTorch is the CPU build;
where pip finds none (torch 2.13.0+cpu), set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. Differences of
a point or so may turn on other logs (--seeds). Expect jrouter's rm_auto and its pooled regression ahead of all peers
in value and behind most of them in time and memory. Writes <out>/peers.json, after every package.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import tyro
from contestants import PACKAGES
from environments import Environment, Failure, make_environment, run_command
from known_log import Truth, judge_choice, write_log
from tqdm import tqdm

from jrouter.io.results import text_table

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from measure import RESULTS, write  # noqa: E402 (scripts are no package)

NOT_TRIED = {"status": "not tried", "learners": {}}
SIZES = ("rows", "test_rows", "dim", "models")
"""Options that make a log what it is, beside its seed."""


@dataclass(frozen=True)
class Options:
    """Which packages, on what log."""

    packages: str = ",".join(PACKAGES)
    """Which, comma-separated."""
    rows: int = 20_000
    """Logged rows."""
    test_rows: int = 20_000
    """Queries to choose for."""
    dim: int = 64
    """Width of the embeddings."""
    models: int = 11
    """Models to choose from."""
    seeds: int = 3
    """Worlds and logs 0..N-1; learners have their own seed, 0."""
    install_limit: float = 900.0
    """Seconds for each call of pip."""
    fit_limit: float = 600.0
    """Seconds for each learner, imports and choices included."""
    folder: Path | None = None
    """Where environments and the log are made; default: a temporary folder."""
    keep: bool = False
    """Leave the environments there."""
    smoke: bool = False
    """Small sizes."""
    out: Path = RESULTS
    """Folder of the result file."""


def run_learner(
    name: str, learner: str, environment: Environment, log: Path, truth: Truth, limit: float
) -> dict[str, Any]:
    """What one learner took and what its choices are worth, or how it failed."""
    out = log.with_name(f"{name}_{learner}.json")
    worker = HERE / f"{name}_worker.py"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    try:
        command = [environment.python, str(worker), str(log), learner, str(out)]
        seconds = run_command(command, limit=limit, failed="failed")
        found = json.loads(out.read_text())
        judged = judge_choice(truth, found.pop("choice"))
    except Failure as failure:
        return {"status": failure.status, "error": failure.error}
    except (OSError, KeyError, ValueError) as error:  # it ended well and wrote something else
        return {"status": "failed", "error": str(error)}
    finally:
        out.unlink(missing_ok=True)
    return {"status": "ok", **judged, **found, "process_seconds": seconds, "load_before": load}


def run_package(
    name: str, folder: Path, logs: Sequence[tuple[Path, Truth]], before: dict[str, Any], options: Options
) -> dict[str, Any]:
    """A package's installation and all of its learners on every log, or what is kept of before.

    Args:
      name: of the package.
      folder: of environments.
      logs: file and truth, in the order of their seeds.
      before: what is known of the package.
      options: limits.
    """
    package = PACKAGES[name]
    try:
        environment = make_environment(folder / name, package, limit=options.install_limit)
    except Failure as failure:
        return {"status": failure.status, "error": failure.error, "learners": {}}
    learners: dict[str, list[dict[str, Any]]] = {learner: [] for learner in package.learners}
    for learner, runs in learners.items():
        kept = {one["seed"]: one for one in before["learners"].get(learner, ()) if one["status"] == "ok"}
        for seed, (log, truth) in enumerate(logs):
            one = kept.pop(seed, None) or run_learner(name, learner, environment, log, truth, options.fit_limit)
            runs.append({"seed": seed, **one})
        runs += kept.values()
    return {
        "status": "ok",
        "install_seconds": environment.install_seconds,
        "installed_bytes": environment.installed_bytes,
        "learners": learners,
    }


def measured_before(path: Path, options: Options) -> dict[str, Any]:
    """Results of an earlier run on logs of the same sizes; packages are "not tried" where there is none."""
    found: dict[str, Any] = {"logs": [], "packages": {}}
    if path.exists():
        record = json.loads(path.read_text())
        if all(record["config"].get(size) == getattr(options, size) for size in SIZES) and "logs" in record["results"]:
            found = record["results"]
    return {"logs": found["logs"], "packages": {name: found["packages"].get(name, NOT_TRIED) for name in PACKAGES}}


def report(results: dict[str, Any]) -> str:
    """The table that is printed: a line for each learner, means over its logs, and each failure's last line."""
    rows, failed = [], []
    for name, package in results["packages"].items():
        if not package["learners"]:
            rows.append([name, "", "", "", "", package["status"]])
            failed += [(name, package["error"])] if "error" in package else []
        for learner, runs in package["learners"].items():
            whole = [one for one in runs if one["status"] == "ok"]
            failed += [(f"{name} {learner}, log {one['seed']}", one["error"]) for one in runs if "error" in one]
            if not whole:
                rows.append([f"{name} {learner}", "", "", "", "", runs[0]["status"]])
                continue
            fit, cpu, peak, value, regret = (
                mean(one[part] for one in whole)
                for part in ("fit_seconds", "cpu_seconds", "peak_bytes", "value", "regret")
            )
            cells = [f"{fit:.1f}", f"{cpu:.1f}", f"{peak / 1e9:.2f}", f"{100 * value:.1f}", f"{100 * regret:.1f}"]
            rows.append([f"{name} {learner}", *cells])
    for name in results["logs"][0]["references"] if results["logs"] else ():
        value = mean(log["references"][name] for log in results["logs"])
        rows.append([name, "", "", "", f"{100 * value:.1f}", ""])
    lines = [text_table(["learner", "fit, s", "cpu, s", "peak, GB", "value x 100", "regret x 100"], rows)]
    return "\n".join([*lines, *(f"{said}: {error}" for said, error in failed)])


def main(options: Options) -> None:
    """Measures the packages that are asked for, one after the other, and writes after each."""
    if options.smoke:
        options = replace(options, rows=2_000, test_rows=1_000, dim=16, models=5, seeds=1)
    asked = options.packages.split(",")
    unknown = [name for name in asked if name not in PACKAGES]
    if unknown:
        raise SystemExit(f"error: unknown package {unknown[0]!r}, expected some of {', '.join(PACKAGES)}")
    if options.seeds < 1:
        raise SystemExit(f"error: --seeds: expected at least 1, got {options.seeds}")
    if options.keep and options.folder is None:
        raise SystemExit("error: --keep leaves the environments in --folder, and none is given")
    result = "peers_smoke" if options.smoke else "peers"
    results = measured_before(options.out / f"{result}.json", options)
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="peers_") as work:
        sizes = {size: getattr(options, size) for size in SIZES}
        paths = [Path(work) / f"log_{seed}.npz" for seed in range(options.seeds)]
        logs = [(path, write_log(path, **sizes, seed=seed)) for seed, path in enumerate(paths)]
        said = [
            {"seed": seed, "references": truth.references, "least_propensity": truth.least_propensity}
            for seed, (_, truth) in enumerate(logs)
        ]
        results["logs"] = [*said, *(log for log in results["logs"] if log["seed"] >= options.seeds)]
        kept = options.folder if options.keep else None
        for name in (bar := tqdm(asked, dynamic_ncols=True)):
            bar.set_postfix_str(name)
            before = results["packages"][name]
            results["packages"][name] = run_package(name, kept or Path(work), logs, before, options)
            if kept is None:
                shutil.rmtree(Path(work) / name, ignore_errors=True)
            # Which and where are no part of what was measured.
            write(result, replace(options, packages=",".join(PACKAGES), folder=None, keep=False), results)
    print(report(results))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
