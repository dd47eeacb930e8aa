"""The largest memory of a process; the standard library alone, since workers import it where there is no JAX."""

import resource
import sys
from pathlib import Path


def peak_bytes() -> int:
    """Largest memory that this process has held so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss counts what the process that started this one held
        return 1024 * int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
