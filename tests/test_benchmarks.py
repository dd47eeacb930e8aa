"""Benchmarks run, from the outside and small; what they say is measured elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def smoke(script, folder, *more):
    """The result of a script at --smoke."""
    subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{script}.py"), "--smoke", "--out", str(folder), *more],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    record = json.loads((folder / f"{script}_smoke.json").read_text())
    assert record["script"] == f"{script}.py" and record["machine"]["cores"] >= 1 and "jax" in record["versions"]
    return record["results"]


def test_sweep(tmp_path):
    found = smoke("sweep", tmp_path, "--peers", "none")["contestants"]
    assert set(found) == {"stacked", "stacked_bfloat16", "stopping", "stopping_bfloat16", "jax_loop"}
    # Equal work from equal starts is equal routers.
    assert found["stacked"]["test_utility"] == pytest.approx(found["jax_loop"]["test_utility"], abs=2e-3)
    assert all(len(one["seconds"]) == 1 and one["median_seconds"] > 0 for one in found.values())


def test_off_policy(tmp_path):
    found = smoke("off_policy", tmp_path, "--peers", "none")
    assert set(found["contestants"]) == {"jrouter", "numpy"} and len(found["estimators"]) == 7
    # The script fails where intervals differ by more than their resamples do; it says by how much values do.
    assert found["largest_value_difference"]["numpy"] < 1e-5
    values = found["contestants"]["jrouter"]
    assert all(
        low < value < high for low, value, high in zip(*(values[k] for k in ("low", "value", "high")), strict=True)
    )
