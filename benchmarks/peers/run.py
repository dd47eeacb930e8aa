"""What do the packages that people use today learn from the same log, how fast, and in how much memory?

    python benchmarks/peers/run.py                            # 20 minutes on one shared core, 5 GB of disk
    python benchmarks/peers/run.py --packages jrouter,obp     # some; what is measured already is kept
    python benchmarks/peers/run.py --smoke --packages jrouter # 1 minute, no network

One log of 20,000 rows (world "specialists", 64 dimensions, 11 models, 0/1 scores, since some packages take no
others), with the same estimated propensities for all. Each package gets a virtual environment of its own, which is
removed again (--keep: stays in --folder, and is used there next time); each of its learners is a process of its own,
one after the other: seconds from arrays to a fitted policy (imports apart), processor seconds of the same, peak
resident memory. The models that it chooses for 20,000 queries that were never logged are judged by their true mean
scores, which no worker sees. No peer has a cost preference: this is lambda = 0, scores alone.

What cannot be installed, fails or takes longer than its limit is reported with the last line that it wrote; what was
not asked for and not measured before is "not tried". PyTorch is the CPU build; where pip finds none (torch
2.13.0+cpu), set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. One log and one seed: differences of a
point or so may turn on another (--seed). Expect jrouter's rm_auto and its pooled regression ahead of all peers in
value and behind most of them in time and memory. Writes <out>/peers.json, after every package.
"""

import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
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
SIZES = ("rows", "test_rows", "dim", "models", "seed")
"""Options that make the log what it is."""


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
    seed: int = 0
    """Of the world and the log; learners have their own, 0."""
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


def run_package(name: str, folder: Path, log: Path, truth: Truth, options: Options) -> dict[str, Any]:
    """A package's installation and all of its learners."""
    package = PACKAGES[name]
    try:
        environment = make_environment(folder / name, package, limit=options.install_limit)
    except Failure as failure:
        return {"status": failure.status, "error": failure.error, "learners": {}}
    learners = {
        learner: run_learner(name, learner, environment, log, truth, options.fit_limit) for learner in package.learners
    }
    return {
        "status": "ok",
        "install_seconds": environment.install_seconds,
        "installed_bytes": environment.installed_bytes,
        "learners": learners,
    }


def measured_before(path: Path, options: Options) -> dict[str, Any]:
    """Packages of an earlier result on the same log, "not tried" where there is none."""
    found: dict[str, Any] = {}
    if path.exists():
        record = json.loads(path.read_text())
        if all(record["config"][size] == getattr(options, size) for size in SIZES):
            found = record["results"]["packages"]
    return {name: found.get(name, NOT_TRIED) for name in PACKAGES}


def report(results: dict[str, Any]) -> str:
    """The table that is printed: a line for each learner, and each failure's last line."""
    rows = []
    for name, package in results["packages"].items():
        for learner, one in package["learners"].items():
            if one["status"] == "ok":
                cells = [f"{one['fit_seconds']:.1f}", f"{one['cpu_seconds']:.1f}", f"{one['peak_bytes'] / 1e9:.2f}"]
                cells += [f"{100 * one['value']:.1f}", f"{100 * one['regret']:.1f}"]
            else:
                cells = ["", "", "", "", one["status"]]
            rows.append([f"{name} {learner}", *cells])
        if not package["learners"]:
            rows.append([name, "", "", "", "", package["status"]])
    rows += [[name, "", "", "", f"{100 * value:.1f}", ""] for name, value in results["references"].items()]
    lines = [text_table(["learner", "fit, s", "cpu, s", "peak, GB", "value x 100", "regret x 100"], rows)]
    for name, package in results["packages"].items():
        failed = [(name, package), *((f"{name} {key}", one) for key, one in package["learners"].items())]
        lines += [f"{said}: {one['error']}" for said, one in failed if "error" in one]
    return "\n".join(lines)


def main(options: Options) -> None:
    """Measures the packages that are asked for, one after the other, and writes after each."""
    if options.smoke:
        options = replace(options, rows=2_000, test_rows=1_000, dim=16, models=5)
    asked = options.packages.split(",")
    unknown = [name for name in asked if name not in PACKAGES]
    if unknown:
        raise SystemExit(f"error: unknown package {unknown[0]!r}, expected some of {', '.join(PACKAGES)}")
    if options.keep and options.folder is None:
        raise SystemExit("error: --keep leaves the environments in --folder, and none is given")
    result = "peers_smoke" if options.smoke else "peers"
    packages = measured_before(options.out / f"{result}.json", options)
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="peers_") as work:
        log = Path(work) / "log.npz"
        truth = write_log(log, **{size: value for size, value in asdict(options).items() if size in SIZES})
        results = {"references": truth.references, "least_propensity": truth.least_propensity, "packages": packages}
        kept = options.folder if options.keep else None
        for name in (bar := tqdm(asked, dynamic_ncols=True)):
            bar.set_postfix_str(name)
            packages[name] = run_package(name, kept or Path(work), log, truth, options)
            if kept is None:
                shutil.rmtree(Path(work) / name, ignore_errors=True)
            # Which and where are no part of what was measured.
            said = replace(options, packages=",".join(PACKAGES), folder=None, keep=False)
            write(result, said, results)
    print(report(results))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
