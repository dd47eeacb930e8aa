"""What every worker is given and what it gives back; numpy alone, since it runs in each package's environment.

    python obp_worker.py LOG.npz LEARNER OUT.json

A worker fits one learner on the log and writes what it chose, what that took and how it was set. It never sees the
truth, which stays with `run.py`.
"""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Last, so that nothing there stands before a module of the environment.
sys.path.append(str(Path(__file__).parents[1]))
from peak_memory import peak_bytes

SEED = 0
"""Of every learner that draws."""


class Log(NamedTuple):
    """One model per query, and the queries to choose for; arrays over n rows.

    Attributes:
      x: [n, d] float32, embeddings.
      model: [n] int64, that answered, 0 to T - 1.
      score: [n] float64, 0 or 1.
      cost: [n] float64, which no peer has a use for.
      propensity: [n] float64, estimated, of the model that answered.
      names: [T], of the models.
    """

    x: np.ndarray
    model: np.ndarray
    score: np.ndarray
    cost: np.ndarray
    propensity: np.ndarray
    names: np.ndarray

    @property
    def n_models(self) -> int:
        """T."""
        return len(self.names)


class Learner(NamedTuple):
    """fit(log) -> decide, decide([m, d]) -> [m] models; and its settings, in words."""

    fit: Callable[[Log], Callable[[np.ndarray], np.ndarray]]
    settings: str


def work(learners: Mapping[str, Learner], packages: tuple[str, ...]) -> None:
    """Does what the command line asks, and writes it whole or not at all.

    Args:
      learners: of this package, by name.
      packages: whose versions matter.
    """
    path, name, out = sys.argv[1:]
    learner = learners[name]
    with np.load(path) as file:
        log, queries = Log(*(file[field] for field in Log._fields)), file["queries"]
    held = peak_bytes()
    begun, spent = time.perf_counter(), time.process_time()
    decide = learner.fit(log)
    fit_seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - spent
    begun = time.perf_counter()
    choice = np.asarray(decide(queries))
    found: dict[str, Any] = {
        "settings": learner.settings,
        "fit_seconds": fit_seconds,
        "cpu_seconds": cpu_seconds,
        "decide_seconds": time.perf_counter() - begun,
        "peak_bytes": peak_bytes(),
        "peak_bytes_at_start": held,
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "choice": choice.astype(int).tolist(),
    }
    part = Path(out + ".part")
    part.write_text(json.dumps(found))
    os.replace(part, out)
