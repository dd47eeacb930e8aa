"""`jrouter pool` and `jrouter export`: other models or prices in a router, and the router in a process without it."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from small_cli import (
    MODELS,
    little_to_compile,
    parquet,
    records,
    refused,
    run,
    truth,
)

from jrouter.router import Router

LARGE, MIDDLE, SMALL = MODELS


@pytest.fixture(scope="module", autouse=True)
def quick(compiled):
    with little_to_compile(compiled):
        yield


def test_pool_lists_and_writes_nothing_unless_told(shop):
    before = {path: path.stat().st_mtime_ns for path in shop.router.rglob("*")}
    code, out, _ = run("pool", shop.router)
    assert code == 0 and all(name in out for name in MODELS) and "at 100" in out
    code, out, _ = run("pool", shop.router, "--keep", f"{MIDDLE}, {SMALL}")
    assert code == 0 and f"pool: without {LARGE}" in out and "queries that must move" in out
    assert "Nothing was written: --write FOLDER saves it." in out
    assert before == {path: path.stat().st_mtime_ns for path in shop.router.rglob("*")}


def test_pool_says_the_effect_on_a_log_and_writes_a_new_version(shop, router, tmp_path):
    flags = ("--drop", LARGE, "--log", shop.new, "--write", tmp_path / "new")
    code, out, _ = run("pool", shop.router, *flags)
    assert code == 0 and out.index("doubly robust") < out.index("Saved:")
    written = Router.load(tmp_path / "new")
    assert (
        written.pool == (MIDDLE, SMALL)
        and written.version != router.version
        and Router.load(shop.router).pool == MODELS
    )
    assert f"becomes {written.version}" in out and (tmp_path / "new" / "card.html").is_file()
    # Without the best model, at lambda 0, queries lose score: by the truth as much as it says.
    said = re.search(r"\n  0 .*%  ([-+][\d.]+) ± ([\d.]+)  ", out)
    assert said, out
    x, score, _ = truth(20_000, 79)
    every = np.arange(len(x))
    lost = [score[every, [MODELS.index(name) for name in one.route(x, 0.0)]].mean() for one in (written, router)]
    assert abs(float(said[1]) - 100 * (lost[0] - lost[1])) < float(said[2])


def test_pool_changes_prices_and_prunes_without_training(shop, tmp_path):
    code, out, _ = run(
        "pool", shop.router, "--price", f"{LARGE}=0.01", "--prune", "--json", "--write", tmp_path / "new"
    )
    assert code == 0 and set(json.loads(out)) == {"from", "to", "effect"}
    cheap = Router.load(tmp_path / "new")
    assert cheap.prices == (0.01, 1.0, 1.0)
    x = truth(200, 80)[0]
    assert np.mean([name == LARGE for name in cheap.route(x, 100.0)]) > np.mean(
        [name == LARGE for name in Router.load(shop.router).route(x, 100.0)]
    )


def test_pool_adds_a_model_from_scored_rows(shop, tmp_path):
    rows = records(120, seed=3)
    x, score, cost = truth(120, 3)
    for at, row in enumerate(rows[:40]):
        row |= {"model": "newcomer", "score": float(score[at, 1] + 0.4), "cost": float(cost[at, 1])}
        rows[at] = row
    log = parquet(tmp_path / "k.parquet", rows)
    code, out, _ = run("pool", shop.router, "--add", "newcomer", "--log", log, "--write", tmp_path / "new")
    assert code == 0 and "newcomer: its score after middle's, +39" in out and "by the router's forecasts" in out
    added = Router.load(tmp_path / "new")
    assert added.models == (*MODELS, "newcomer") and "newcomer" in added.route(truth(200, 81)[0], 20.0)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--keep", ""), "--keep: unknown model ''"),
        (("--keep", "gpt-9"), "--keep: unknown model 'gpt-9', expected some of"),
        (("--drop", "gpt-9"), "--drop: unknown model 'gpt-9'"),
        (("--drop", ",".join(MODELS)), "--drop: no model would be left"),
        (("--price", "small"), "--price: expected name=value"),
        (("--price", "small=cheap"), "could not convert string to float: 'cheap'"),
        (("--price", "small=nan"), "a multiple above 0"),
        (("--price", "gpt-9=2"), "unknown model 'gpt-9'"),
        (("--add", "new"), "--add needs --log"),
    ],
)
def test_pool_refuses_what_makes_no_sense(shop, flags, says):
    refused("pool", shop.router, *flags, says=(says,))


def test_export_decides_as_the_router_in_a_process_without_it(shop, router, tmp_path):
    pytest.importorskip("flatbuffers", reason="`pip install jrouter[export]`: jax.export writes files with flatbuffers")
    code, out, _ = run("export", shop.router, "--out", tmp_path / "x", "--batch", 3)
    found = json.loads(out)["files"]
    assert code == 0 and {one["batch"] for one in found.values()} == {3, None}
    assert all(one["same_choice"] == 1.0 and one["largest_difference"] < 1e-5 for one in found.values())
    x = truth(3, 82)[0]
    np.save(tmp_path / "x.npy", x)
    script = f"""
import sys, json, numpy as np, jax
from jax import export
x = np.load({str(tmp_path / "x.npy")!r})
for name, n in (("router_static", 3), ("router_any_batch", 2)):
    with open(f"{tmp_path}/x/{{name}}.stablehlo", "rb") as file:
        call = export.deserialize(bytearray(file.read())).call
    print(json.dumps(np.asarray(call(x[:n], np.float32(20.0))[0]).tolist()))
assert "jrouter" not in sys.modules
"""
    lines = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    named = json.loads((tmp_path / "x" / "export.json").read_text())["models"]
    assert named == list(MODELS)
    for line, n in zip(lines, (3, 2), strict=True):
        assert [MODELS[at] for at in json.loads(line)] == router.route(x[:n], 20.0)


def test_export_without_flatbuffers_says_what_to_install(shop, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    from jax import export

    def serialize(self):
        raise ImportError("flatbuffers")

    monkeypatch.setattr(export.Exported, "serialize", serialize)
    refused("export", shop.router, "--out", tmp_path / "x", says=("pip install 'jrouter[export]'",))
    assert not list(tmp_path.rglob("*.stablehlo"))
