"""Benchmarks run, from the outside and small; what they say is measured elsewhere."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))


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


@dataclass(frozen=True)
class Options:
    """Of a script that takes a folder."""

    folder: Path
    out: Path


def test_a_result_names_folders_without_their_paths(tmp_path):
    from measure import write

    write("one", Options(tmp_path / "logs", tmp_path), {"seconds": 1.0})
    record = json.loads((tmp_path / "one.json").read_text())
    assert record["config"] == {"folder": "logs"} and record["results"] == {"seconds": 1.0}
    assert str(tmp_path) not in (tmp_path / "one.json").read_text()


def test_peak_memory_has_held_what_was_held():
    from peak_memory import peak_bytes

    held = bytearray(b"1" * 200_000_000)
    peak = peak_bytes()
    assert peak > len(held)
    del held
    assert peak_bytes() >= peak


@pytest.mark.slow
def test_sweep(tmp_path):
    found = smoke("sweep", tmp_path, "--peers", "none")["contestants"]
    assert set(found) == {"stacked", "stacked_bfloat16", "stopping", "stopping_bfloat16", "jax_loop"}
    # Equal work from equal starts is equal routers.
    assert found["stacked"]["test_utility"] == pytest.approx(found["jax_loop"]["test_utility"], abs=2e-3)
    assert all(len(one["seconds"]) == 1 and one["median_seconds"] > 0 for one in found.values())


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_off_policy(tmp_path):
    found = smoke("off_policy", tmp_path, "--peers", "none")
    assert set(found["contestants"]) == {"jrouter", "numpy"} and len(found["estimators"]) == 7
    # The script fails where intervals differ by more than their resamples do; it says by how much values do.
    assert found["largest_value_difference"]["numpy"] < 1e-5
    values = found["contestants"]["jrouter"]
    assert all(
        low < value < high for low, value, high in zip(*(values[k] for k in ("low", "value", "high")), strict=True)
    )


@pytest.mark.slow
def test_encode(tmp_path):
    found = smoke("encode", tmp_path, "--peers", "none")
    assert set(found["contestants"]) == {"jrouter_float32", "jrouter_bfloat16", "tokenise"}
    assert found["tokens"] > found["texts"] and found["times_fastest_torch"] == {}
    assert found["contestants"]["jrouter_float32"]["largest_difference"] == 0.0
    assert 0 < found["contestants"]["jrouter_bfloat16"]["largest_difference"] < 0.02


@pytest.mark.slow
def test_encode_beside_torch(tmp_path):
    pytest.importorskip("torch")
    found = smoke("encode", tmp_path)
    # The same weights, tokens and pooling on both sides.
    assert found["reference"] == "torch_float32"
    assert found["contestants"]["jrouter_float32"]["largest_difference"] < 1e-5
    assert found["contestants"]["torch_float32_budget"]["largest_difference"] < 1e-5
    assert set(found["times_fastest_torch"]) == {"float32", "bfloat16"}


@pytest.mark.slow
def test_latency(tmp_path):
    found = smoke("latency", tmp_path, "--peers", "none")["encoders"]
    assert set(found) == {"hashing", "tiny"}
    for one in found.values():
        for kind in ("single", "batched"):
            assert set(one[kind]) == {"route", "encode_then_route"}
            # One program or two: the same decisions.
            assert one[kind]["route"]["as_encode_then_route"] > 0.97
            assert 0 < one[kind]["route"]["p50_ms"] <= one[kind]["route"]["p99_ms"]


@pytest.mark.slow
def test_serving(tmp_path):
    """Nothing is compiled while threads ask, and a reload holds up nobody."""
    found = smoke("serving", tmp_path)
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


def large_log(folder, *more):
    """What --smoke says of large logs: every row is read and nothing is left behind."""
    work = folder / "work"
    work.mkdir()
    found = smoke("large_log", folder, "--folder", str(work), *more)
    assert not list(work.iterdir())
    assert [one["rows"] for one in found["logs"]] == [2_000, 20_000]
    assert all(one["bytes"] > 64 * one["rows"] for one in found["logs"])  # 16 float32 that do not compress
    for step in found["steps"].values():
        assert [one["rows_kept"] for one in step["cells"]] == [2_000, 20_000]
        assert step["bytes_per_row"] < 1e4  # neither fills its buffers
        for one in step["cells"]:
            assert 0 < one["seconds"] < one["process_seconds"] and one["peak_bytes"] > one["peak_bytes_at_start"] > 1e7
            assert one["rows_per_second"] == pytest.approx(one["rows"] / one["seconds"])
    return found["steps"]


def test_reading_large_logs(tmp_path):
    assert set(large_log(tmp_path, "--steps", "ingest")) == {"ingest"}


@pytest.mark.slow
def test_reading_and_diagnosing_large_logs(tmp_path):
    found = large_log(tmp_path)
    assert set(found) == {"ingest", "diagnose"}
    # The short log as it is, of the long one a random sample.
    short, long = found["diagnose"]["cells"]
    assert short["rows_diagnosed"] == 2_000 and 3_600 < long["rows_diagnosed"] < 4_400
    assert {short["verdict"], long["verdict"]} <= {"ok", "caution"} and short["exit_code"] == 0
