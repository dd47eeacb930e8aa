"""Benchmarks run, from the outside and small; what they say is measured elsewhere. Slow: `pytest -m slow`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

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


def test_scaling(tmp_path):
    found = smoke("scaling", tmp_path)
    assert [(cell["axis"], cell["rows"], cell["models"], cell["lambdas"]) for cell in found["cells"]] == [
        ("rows", 1_000, 11, 3),
        ("rows", 10_000, 11, 3),
        ("models", 1_000, 30, 3),
        ("lambdas", 1_000, 11, 10),
    ]
    for cell in found["cells"]:
        assert cell["seconds"] > 0 and cell["peak_bytes"] > cell["peak_bytes_at_start"] > 1e7
    # Two sizes of rows: a slope; one of the others: none.
    assert found["growth"]["rows"] > 0 and found["growth"]["models"] is None
    assert (tmp_path / "scaling_smoke.png").stat().st_size > 10_000
    # What has been measured is kept, unless asked for again.
    assert smoke("scaling", tmp_path) == found


def test_inference(tmp_path):
    pytest.importorskip("sklearn")
    found = smoke("inference", tmp_path, "--peers", "sklearn")
    batch = found["large_batch"]["contestants"]
    assert set(batch) == {"jax_float32", "jax_bfloat16", "jax_bfloat16_rounding", "router", "numpy", "sklearn"}
    # One network everywhere: decisions differ where rounding tips them.
    for name, least in (("router", 0.999), ("numpy", 0.999), ("sklearn", 0.999), ("jax_bfloat16", 0.98)):
        assert batch[name]["equal_decisions"] >= least
    assert max(found["large_batch"]["model_shares"]) < 0.9
    assert set(found["single_query"]) == {"as_installed", "cpu_synchronous"}
    for (one,) in found["single_query"].values():
        assert (
            one["equal_decisions"] == 1.0
            and 0 < one["microseconds"]["route"]["p50"] <= one["microseconds"]["route"]["p99"]
        )


def test_off_policy(tmp_path):
    found = smoke("off_policy", tmp_path, "--peers", "none")
    assert set(found["contestants"]) == {"jrouter", "numpy"} and len(found["estimators"]) == 7
    # The script fails where intervals differ by more than their resamples do; it says by how much values do.
    assert found["largest_value_difference"]["numpy"] < 1e-5
    values = found["contestants"]["jrouter"]
    assert all(
        low < value < high for low, value, high in zip(*(values[k] for k in ("low", "value", "high")), strict=True)
    )


def test_encode(tmp_path):
    found = smoke("encode", tmp_path, "--peers", "none")
    assert set(found["contestants"]) == {"jrouter_float32", "jrouter_bfloat16", "tokenise"}
    assert found["tokens"] > found["texts"] and found["times_fastest_torch"] == {}
    assert found["contestants"]["jrouter_float32"]["largest_difference"] == 0.0
    assert 0 < found["contestants"]["jrouter_bfloat16"]["largest_difference"] < 0.02


def test_encode_beside_torch(tmp_path):
    pytest.importorskip("torch")
    found = smoke("encode", tmp_path)
    # The same weights, tokens and pooling on both sides.
    assert found["reference"] == "torch_float32"
    assert found["contestants"]["jrouter_float32"]["largest_difference"] < 1e-5
    assert found["contestants"]["torch_float32_budget"]["largest_difference"] < 1e-5
    assert set(found["times_fastest_torch"]) == {"float32", "bfloat16"}


def test_latency(tmp_path):
    found = smoke("latency", tmp_path, "--peers", "none")["encoders"]
    assert set(found) == {"hashing", "tiny"}
    for one in found.values():
        for kind in ("single", "batched"):
            assert set(one[kind]) == {"route", "encode_then_route"}
            # One program or two: the same decisions.
            assert one[kind]["route"]["as_encode_then_route"] > 0.97
            assert 0 < one[kind]["route"]["p50_ms"] <= one[kind]["route"]["p99_ms"]
