"""The benchmark of serving runs, small: nothing is compiled while threads ask, and a reload holds up nobody."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "serving.py"


@pytest.mark.slow
def test_serving(tmp_path):
    subprocess.run(
        [sys.executable, str(SCRIPT), "--smoke", "--out", str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    record = json.loads((tmp_path / "serving_smoke.json").read_text())
    assert record["script"] == "serving.py" and record["machine"]["cores"] >= 1 and "jax" in record["versions"]
    found = record["results"]
    assert set(found["kinds"]) == set(found["reload"]) == {"embeddings", "texts"}
    for one in found["kinds"].values():
        assert one["compilations"] == 0 and set(one["threads"]) == {"1", "8"}
        for timed in one["threads"].values():
            assert 0 < timed["p50_ms"] <= timed["p99_ms"] and timed["calls"] == 800 and timed["per_second"] > 0
    for one in found["reload"].values():
        assert one["compilations_by_asking_threads"] == 0 < one["compilations"]
        assert one["calls"] == one["calls_of_the_old"] + one["calls_of_the_new"] >= 400
        assert one["calls_of_the_old"] > 0 and one["calls_of_the_new"] > 0
        assert 0 < one["p50_ms"] <= one["p99_ms"] <= one["slowest_ms"]
