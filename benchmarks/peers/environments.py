"""A virtual environment for each package, and commands in it that end in time; failures keep their last line."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from contestants import Package

INSTALLED = "installed.json"
"""Beside an environment that is whole: what it was made of."""


class Failure(Exception):
    """A step that did not come to its end: what became of it, and the last line that it wrote."""

    def __init__(self, status: str, error: str):
        super().__init__(f"{status}: {error}")
        self.status, self.error = status, error


class Environment(NamedTuple):
    """Where a worker runs.

    Attributes:
      python: the interpreter.
      install_seconds: None where nothing was installed.
      installed_bytes: likewise.
    """

    python: str
    install_seconds: float | None = None
    installed_bytes: int | None = None


def last_line(text: str) -> str:
    """The last line that says something; pip's advice to upgrade itself does not."""
    lines = [line.strip() for line in text.splitlines()]
    said = [line for line in lines if line and not line.startswith(("[notice]", "WARNING:", "hint:"))]
    return said[-1] if said else "nothing was written"


def run_command(command: Sequence[str], *, limit: float, failed: str) -> float:
    """Runs a command to its end, and returns its seconds.

    Args:
      command: and its arguments.
      limit: seconds after which it is ended, with all that it has started.
      failed: status where it fails.

    Raises:
      Failure: with the last line of its error, or where it took longer.
    """
    # What is set for this process's packages is not meant for others'.
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env, start_new_session=True
        )
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"{failed}: out of time", f"no end after {limit:g} s") from error
        finally:
            # Also where this script is interrupted.
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        written = output.read()
    if code < 0:
        raise Failure(failed, f"ended by {signal.Signals(-code).name}; last line: {last_line(written)}")
    if code:
        raise Failure(failed, last_line(written))
    return time.perf_counter() - begun


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def make_environment(folder: Path, package: Package, *, limit: float) -> Environment:
    """An environment with a package, made now, or found where it was made before of the same.

    Args:
      folder: of this environment alone; replaced where it is not whole.
      package: to install; one that installs nothing runs in this script's own environment.
      limit: seconds for each call of pip.

    Raises:
      Failure: where there is too little disk, or a step fails.
    """
    if not package.installs:
        return Environment(sys.executable)
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    asked = [list(one) for one in package.installs]
    stamp = folder / INSTALLED
    if stamp.exists():
        found = json.loads(stamp.read_text())
        if found["installs"] == asked:
            return Environment(python, found["install_seconds"], found["installed_bytes"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    free = shutil.disk_usage(folder).free / 1e9
    if free < package.gigabytes:
        raise Failure("no room", f"{package.gigabytes:g} GB are needed, {free:.1f} GB are free in {folder.parent}")
    run_command([sys.executable, "-m", "venv", str(folder)], limit=limit, failed="no environment")
    empty = size_of(folder)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    seconds = sum(run_command([*pip, *one], limit=limit, failed="not installed") for one in package.installs)
    made = Environment(python, seconds, size_of(folder) - empty)
    said = {"installs": asked, "install_seconds": seconds, "installed_bytes": made.installed_bytes}
    stamp.write_text(json.dumps(said))
    return made
