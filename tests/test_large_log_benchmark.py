"""The benchmark of large logs runs, small: every row is read, a sample is diagnosed, nothing is left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "large_log.py"


def smoke(folder, *more):
    """The results at --smoke."""
    work = folder / "work"
    work.mkdir()
    subprocess.run(
        [sys.executable, str(SCRIPT), "--smoke", "--out", str(folder), "--folder", str(work), *more],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert not list(work.iterdir())
    record = json.loads((folder / "large_log_smoke.json").read_text())
    assert record["script"] == "large_log.py" and record["machine"]["cores"] >= 1 and "pyarrow" in record["versions"]
    found = record["results"]
    assert [one["rows"] for one in found["logs"]] == [2_000, 20_000]
    assert all(one["bytes"] > 64 * one["rows"] for one in found["logs"])  # 16 float32 that do not compress
    for step in found["steps"].values():
        assert [one["rows_kept"] for one in step["cells"]] == [2_000, 20_000]
        assert step["bytes_per_row"] < 1e4  # neither fills its buffers
        for one in step["cells"]:
            assert 0 < one["seconds"] < one["process_seconds"] and one["peak_bytes"] > one["peak_bytes_at_start"] > 1e7
            assert one["rows_per_second"] == pytest.approx(one["rows"] / one["seconds"])
    return found["steps"]


def test_reading(tmp_path):
    assert set(smoke(tmp_path, "--steps", "ingest")) == {"ingest"}


@pytest.mark.slow
def test_reading_and_diagnosing(tmp_path):
    found = smoke(tmp_path)
    assert set(found) == {"ingest", "diagnose"}
    # The short log as it is, of the long one a random sample.
    short, long = found["diagnose"]["cells"]
    assert short["rows_diagnosed"] == 2_000 and 3_600 < long["rows_diagnosed"] < 4_400
    assert {short["verdict"], long["verdict"]} <= {"ok", "caution"} and short["exit_code"] == 0
