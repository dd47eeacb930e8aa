"""Peers on one log: what a worker gives, how choices are judged, and that a failure is reported as what it is."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

PEERS = Path(__file__).parents[1] / "benchmarks" / "peers"
sys.path.insert(0, str(PEERS))
# By name, as scripts are no package that types could be looked up in.
run, contestants, environments, known_log, protocol = (
    importlib.import_module(name) for name in ("run", "contestants", "environments", "known_log", "protocol")
)
PACKAGES, Package, Truth = contestants.PACKAGES, contestants.Package, known_log.Truth
Environment, Failure = environments.Environment, environments.Failure

MEANS = np.array([[0.1, 0.4], [0.9, 0.2], [0.5, 0.5]])
TRUTH = Truth(MEANS, {"uniform": float(MEANS.mean())}, {})


def fails(command, *, limit=20.0):
    """The failure of a command."""
    with pytest.raises(Failure) as caught:
        environments.run_command(command, limit=limit, failed="failed")
    return caught.value


def small_log(path):
    """A log in which each of three models is the best where one number of the query is largest, and its truth."""
    rng = np.random.default_rng(0)
    x, queries = (rng.normal(size=(n, 3)).astype(np.float32) for n in (1_200, 300))
    means, truth = (0.5 + 0.4 * np.tanh(one) for one in (x, queries))
    model = rng.integers(0, 3, len(x))
    score = (rng.random(len(x)) < means[np.arange(len(x)), model]).astype(float)
    given = {"x": x, "model": model, "score": score, "queries": queries, "names": np.array(["a", "b", "c"])}
    np.savez(path, **given, cost=np.ones(len(x)), propensity=np.full(len(x), 1 / 3))
    return Truth(truth, {}, {})


def test_jrouters_worker(tmp_path, monkeypatch):
    """From the log's file to choices and what they took; here most of what can be gained is easy to learn."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    log = tmp_path / "log.npz"
    truth = small_log(log)
    here = Environment(sys.executable)
    found = run.run_learner("jrouter", "regress_and_compare_pooled", here, log, truth, 120.0)
    assert found["status"] == "ok", found
    best, single = truth.mean_score.max(axis=1).mean(), truth.mean_score.mean(axis=0).max()
    assert best - found["value"] < 0.25 * (best - single)
    assert found["value"] + found["regret"] == pytest.approx(best)
    assert sum(found["shares"]) == pytest.approx(1.0) and found["value"] > found["standard_error"] > 0
    assert found["peak_bytes"] > found["peak_bytes_at_start"] > 1e7
    assert 0 < found["fit_seconds"] < found["process_seconds"] and found["cpu_seconds"] > 0
    assert set(found["versions"]) == {"jrouter", "jax"} and "choice" not in found
    assert [path.name for path in tmp_path.iterdir()] == ["log.npz"]


def test_choices_are_judged_by_the_truth():
    found = known_log.judge_choice(TRUTH, [1, 0, 1])
    assert found["value"] == pytest.approx(0.6) and found["regret"] == pytest.approx(0.0, abs=1e-7)
    assert found["shares"] == pytest.approx([1 / 3, 2 / 3])
    found = known_log.judge_choice(TRUTH, [0, 0, 0])
    assert (found["value"], found["regret"]) == pytest.approx((0.5, 0.1))
    assert found["standard_error"] == pytest.approx(np.std([0.1, 0.9, 0.5]) / np.sqrt(3), rel=1e-3)
    for wrong in ([0, 1], [0, 1, 2], [-1, 0, 0]):
        with pytest.raises(ValueError, match=r"expected \(3,\) from 0 to 1"):
            known_log.judge_choice(TRUTH, wrong)


def test_what_cannot_be_installed_says_why(tmp_path, monkeypatch):
    nothing = Package(("one",), (("--no-index", "jrouter-no-such-package==1.0"),))
    monkeypatch.setitem(run.PACKAGES, "nothing", nothing)
    found = run.run_package("nothing", tmp_path, [(tmp_path / "log.npz", TRUTH)], run.NOT_TRIED, run.Options())
    assert found["status"] == "not installed" and found["learners"] == {}
    assert "No matching distribution found for jrouter-no-such-package==1.0" in found["error"]
    assert not (tmp_path / "nothing" / "installed.json").exists()
    printed = run.report({"packages": {"nothing": found}, "logs": []})
    assert "not installed" in printed and printed.splitlines()[-1].startswith("nothing: ERROR: No matching")
    with pytest.raises(Failure, match="no room: 1e.06 GB are needed"):
        environments.make_environment(tmp_path / "large", nothing._replace(gigabytes=1e6), limit=1.0)


def test_a_whole_environment_is_used_again(tmp_path):
    package = Package(("one",), (("something",),))
    made = {"installs": [["something"]], "install_seconds": 3.0, "installed_bytes": 5}
    (tmp_path / "installed.json").write_text(json.dumps(made))
    found = environments.make_environment(tmp_path, package, limit=1.0)
    assert found.python.startswith(str(tmp_path)) and found[1:] == (3.0, 5)
    assert environments.make_environment(tmp_path, Package(("one",)), limit=1.0) == Environment(sys.executable)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise RuntimeError('no such\\n  setting')", "setting"),
        ("import json, sys; json.dump({'choice': [0, 1, 2]}, open(sys.argv[3], 'w'))", "expected (3,) from 0 to 1"),
        ("print('done, but nothing written')", "No such file"),
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL"),
    ],
)
def test_what_fails_says_how(tmp_path, monkeypatch, code, error):
    (tmp_path / "broken_worker.py").write_text(code)
    monkeypatch.setattr(run, "HERE", tmp_path)
    found = run.run_learner("broken", "one", Environment(sys.executable), tmp_path / "log.npz", TRUTH, 20.0)
    assert found["status"] == "failed" and error in found["error"], found
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc, as Linux has them")
def test_what_takes_too_long_ends_with_all_that_it_started(tmp_path):
    code = (
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "child.wait()"
    )
    failure = fails([sys.executable, "-c", code], limit=2.0)
    assert (failure.status, failure.error) == ("failed: out of time", "no end after 2 s")
    child = Path("/proc", (tmp_path / "child").read_text(), "stat")
    for _ in range(50):
        if not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail(f"what it had started is still there: {child.read_text()}")


def test_the_last_line_that_says_something():
    assert (
        environments.last_line("Collecting x\nERROR: it broke\n\n[notice] A new release of pip\n") == "ERROR: it broke"
    )
    assert environments.last_line(" \n") == "nothing was written"
    assert fails([sys.executable, "-c", "import no_such_module"]).error.endswith("No module named 'no_such_module'")


def test_what_was_measured_is_kept_for_logs_of_the_same_sizes_alone(tmp_path):
    options, path = run.Options(), tmp_path / "peers.json"
    nothing = {"logs": [], "packages": dict.fromkeys(PACKAGES, run.NOT_TRIED)}
    assert run.measured_before(path, options) == nothing
    config = {size: getattr(options, size) for size in run.SIZES}
    done = {"status": "ok", "learners": {}}
    results = {"logs": [{"seed": 0}], "packages": {"obp": done}}
    for changed, expected in ((config, done), (config | {"rows": 1}, run.NOT_TRIED)):
        path.write_text(json.dumps({"config": changed, "results": results}))
        found = run.measured_before(path, options)["packages"]
        assert found["obp"] == expected and found["econml"] == run.NOT_TRIED
    # A file of before there were several logs.
    path.write_text(json.dumps({"config": config, "results": {"references": {}, "packages": {"obp": done}}}))
    assert run.measured_before(path, options) == nothing


def test_only_what_is_missing_of_a_package_runs(tmp_path, monkeypatch):
    """A log that went well is kept, one that failed is tried again, others are added; a failure ends no other."""
    monkeypatch.setitem(run.PACKAGES, "one", Package(("a",)))
    ran = []

    def learner(name, learner, environment, log, truth, limit):
        ran.append(log.name)
        if log.name == "2":
            return {"status": "failed", "error": "boom"}
        return {"status": "ok", "value": 0.5, "regret": 0.1, "fit_seconds": 1, "cpu_seconds": 1, "peak_bytes": 1}

    monkeypatch.setattr(run, "run_learner", learner)
    kept = {"seed": 0, **learner("one", "a", None, Path("0"), None, 1.0), "value": 0.9}
    before = {"status": "ok", "learners": {"a": [kept, {"seed": 1, "status": "failed", "error": "before"}]}}
    ran.clear()
    found = run.run_package("one", tmp_path, [(Path(str(seed)), TRUTH) for seed in range(3)], before, run.Options())
    assert ran == ["1", "2"]
    runs = found["learners"]["a"]
    assert [(one["seed"], one["status"]) for one in runs] == [(0, "ok"), (1, "ok"), (2, "failed")]
    printed = run.report({"logs": [{"seed": 0, "references": {"uniform": 0.3}}], "packages": {"one": found}})
    assert "70.0" in printed and "30.0" in printed and printed.splitlines()[-1] == "one a, log 2: boom"


def test_bad_options():
    with pytest.raises(SystemExit, match="unknown package 'nothing', expected some of jrouter, "):
        run.main(run.Options(packages="jrouter,nothing"))
    with pytest.raises(SystemExit, match="--keep leaves the environments in --folder"):
        run.main(run.Options(keep=True))
    with pytest.raises(SystemExit, match="--seeds: expected at least 1, got 0"):
        run.main(run.Options(seeds=0))


def test_every_package_has_its_worker():
    for name, package in PACKAGES.items():
        source = (PEERS / f"{name}_worker.py").read_text()
        assert package.learners and all(f'"{learner}"' in source for learner in package.learners), name


@pytest.mark.slow
def test_workers_never_see_the_truth(tmp_path):
    truth = known_log.write_log(tmp_path / "log.npz", rows=500, test_rows=200, dim=8, models=3, seed=0)
    with np.load(tmp_path / "log.npz") as file:
        assert set(file.files) == {*protocol.Log._fields, "queries"}
        assert set(np.unique(file["score"])) == {0.0, 1.0} and file["queries"].shape == (200, 8)
        assert all(len(file[name]) == 500 for name in ("x", "model", "score", "cost", "propensity"))
        assert truth.least_propensity["estimated"] == pytest.approx(file["propensity"].min())
        assert file["names"].tolist() == ["model_00", "model_01", "model_02"]
    references = truth.references
    assert references["uniform"] < references["best single model"] < references["best model of each query"]
    assert references["uniform"] < references["logging policy"] < references["best model of each query"]


@pytest.mark.slow
def test_smoke(tmp_path):
    command = [sys.executable, str(PEERS / "run.py"), "--smoke", "--packages", "jrouter", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    record = json.loads((tmp_path / "peers_smoke.json").read_text())
    assert record["script"] == "run.py" and record["config"]["rows"] == 2_000
    found = record["results"]["packages"]
    assert {one["status"] for name, one in found.items() if name != "jrouter"} == {"not tried"}
    done = {name: [one["status"] for one in runs] for name, runs in found["jrouter"]["learners"].items()}
    assert done == dict.fromkeys(PACKAGES["jrouter"].learners, ["ok"])
