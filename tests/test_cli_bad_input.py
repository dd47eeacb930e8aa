"""What may be wrong with files and flags: one message that names it and what to do, an exit code, no stack trace."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_cli import MODELS, json_lines, parquet, records, refused, run, truth
from small_router import fitted

from jrouter.app import cli, diagnose
from jrouter.app.log_report import ESTIMATED
from jrouter.router import Router

FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
REPORT = {
    "log": {
        **{"rows": 0, "queries": 0, "models": 0, "scored_share": 1.0, "mean_score": 0.5, "mean_cost": 0.01},
        **{"cost_unit": "USD", "time": None},
    },
    "models": [],
    "propensity": {"kind": "estimated", "statement": ESTIMATED, "calibration": None},
    "by_lambda": [],
    "verdict": {"level": "ok", "reasons": []},
}
"""Of a log that was read; what it supports is not asked here."""


@pytest.fixture(autouse=True)
def read_only(monkeypatch):
    monkeypatch.setattr(diagnose, "diagnose_log", lambda log, **_: json.loads(json.dumps(REPORT)))


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad") / "router"
    fitted().save(folder)
    return folder


@pytest.fixture
def log(tmp_path):
    return parquet(tmp_path / "log.parquet", records(60))


def test_a_truncated_parquet_file(log):
    log.write_bytes(log.read_bytes()[:-100])
    refused("diagnose", log, says=("log.parquet", "cannot be read", "check that it is whole"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.parquet", ("does not exist; check the path",)),
        ("empty", ("is a folder without files that end in .parquet",)),
        ("zero.parquet", ("zero.parquet",)),
        ("log.xlsx", ("log.xlsx",)),
    ],
)
def test_what_is_no_log(tmp_path, name, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero.parquet").touch()
    (tmp_path / "log.xlsx").write_bytes(b"PK\3\4")
    for command in (("diagnose",), ("fit", "--out", tmp_path / "r"), ("plan", "--gain", 0.1)):
        refused(command[0], tmp_path / name, *command[1:], says=says)
    assert not (tmp_path / "r").exists()


def test_one_model_only(tmp_path):
    log = parquet(tmp_path / "one.parquet", [row | {"model": "gpt"} for row in records(60)])
    refused("diagnose", log, says=("one.parquet", "one model only, 'gpt'", "at least two"))


def test_all_scores_equal_and_costs_in_cents_are_warned_of(tmp_path):
    rows = [row | {"score": 1.0, "cost": 5000 * row["cost"]} for row in records(60)]
    code, out, _ = run("diagnose", parquet(tmp_path / "l.parquet", rows))
    assert code == 0 and "! all scores equal 1: nothing tells the models' answers apart" in out
    assert "in cents? use cost_scale=0.01 (`--cost-scale 0.01`)" in out


def test_ragged_csv_latin_1_and_html_are_told_row_by_row(tmp_path):
    lines = ["request_id,query,model,score,cost,embedding"]
    lines += [f'r{at},q <b>{at}</b>,{"ab"[at % 2]},0.5,0.01,"[1, {at}]"' for at in range(30)]
    lines[7] += ",one,too,many"
    (tmp_path / "l.csv").write_bytes("\n".join(lines).replace("q <b>9<", "caf\xe9 <b>9<").encode("latin-1"))
    code, out, err = run("diagnose", tmp_path / "l.csv")
    told = out + err
    assert code in (0, 2) and "l.csv" in told and ("row" in told or "line" in told), told


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--lambdas", "cheap"), ("--lambdas", "'cheap'")),
        (("--lambdas", ""), ("--lambdas",)),
        (("--lambdas", "3,2"), ("--lambdas", "ascending")),
        (("--lambdas", "-1,2"), ("--lambdas", "at least 0")),
        (("--lambdas", "nan"), ("--lambdas",)),
        (("--rows", 0), ("--rows: expected at least 1",)),
        (("--max-rejected", 2), ("--max-rejected: expected a share",)),
        (("--work", "nowhere"), ("--work: nowhere is no folder",)),
        (("--seed", -1), ("--seed: expected at least 0",)),
        (("--map", "model"), ("--map: expected name=value, got 'model'",)),
        (("--map", "model=llm"), ("has no column 'llm' to read 'model' from", "the columns there are")),
        (("--map", "modell=llm"), ("cannot map 'modell'",)),
        (("--cost-scale", 0), ("cost_scale", "above 0")),
        (("--contract", "nowhere.toml"), ("nowhere.toml",)),
        (("--adapter", "portkey"), ("adapter: found 'portkey', expected one of",)),
        (("--scores", "nowhere.csv"), ("nowhere.csv: does not exist",)),
        (("--scores", "nowhere.csv", "--on", "time"), ("on: found 'time', expected one of",)),
        (("--embedding", "bert"), ("has no embedding 'bert'; pass one of those there",)),
    ],
)
def test_a_flag_that_makes_no_sense(log, flags, says):
    refused("diagnose", log, *flags, says=says)


def test_where_nothing_can_be_written_is_told_before_reading(tmp_path, router, monkeypatch):
    for module in (diagnose, cli):
        monkeypatch.setattr(module, "read_team_log", None, raising=False)
    file = tmp_path / "file"
    file.touch()
    refused("diagnose", "log", "--json", tmp_path, says=("--json", "is a folder; give the name of a file"))
    refused("diagnose", "log", "--html", file / "r.html", says=("--html: cannot write to", "give another place"))
    refused("calibrate", router, "log", "--budget", 1, "--json", file / "r.json", says=("--json: cannot write to",))
    refused("export", router, "--out", file, says=("--out", "is no folder"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fit", "LOG", "--out", "r", "--method", "linucb"), ("--method: expected one of", "rm_auto", "'linucb'")),
        (("fit", "LOG", "--out", "r", "--assess-folds", 1), ("--assess-folds: expected 0, or at least 2",)),
        (("calibrate", "ROUTER", "LOG", "--budget", "nan"), ("budget: expected a finite number",)),
        (("calibrate", "ROUTER", "LOG", "--min-score", "inf"), ("least score: expected a finite number",)),
        (("plan", "LOG", "--gain", 0), ("expected a gain above 0",)),
        (("plan", "LOG", "--gain", 0.1, "--power", 1), ("power between 0 and 1",)),
        (("plan", "LOG", "--gain", 0.1, "--lambda", "nan"), ("lambda: expected a finite number",)),
        (("route", "ROUTER", "--lambda", -1), ("--lambda: expected a finite number of at least 0",)),
        (("route", "ROUTER", "--lambda", 1, "--explore", 2), ("--explore: expected a share from 0 to 1",)),
        (("route", "ROUTER", "--lambda", 1, "--max-cost", "nan"), ("max_cost",)),
        (("route", "ROUTER", "--lambda", 1, "--switch-cost", -1), ("--switch-cost",)),
        (("route", "ROUTER", "--lambda", 1, "--seed", -1), ("--seed",)),
        (("route", "ROUTER", "--lambda", 1, "--allow", "gpt"), ("--allow: unknown model 'gpt', expected some of",)),
        (("route", "ROUTER", "--lambda", 1, "--allow", ""), ("--allow: unknown model ''",)),
        (("route", "ROUTER", "--lambda", 1, "--previous", "gpt"), ("--previous: unknown model 'gpt'",)),
        (("route", "ROUTER", "--lambda", 1, "--input", "nowhere"), ("nowhere: No such file",)),
        (("route", "nowhere", "--lambda", 1), ("nowhere: no checkpoint here", "`jrouter fit`")),
        (("export", "ROUTER", "--batch", 0), ("--batch: expected at least 1",)),
        (("export", "ROUTER", "--platforms", "abacus"), ("--platforms: expected some of cpu, cuda, tpu",)),
    ],
)
def test_what_another_command_cannot_do(arguments, says, router, log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = {"ROUTER": router, "LOG": log}
    refused(*(named.get(one, one) for one in arguments), says=says)
    assert os.listdir(tmp_path) == ["log.parquet"]


def test_a_log_of_other_embeddings_is_refused_by_every_command_with_a_router(router, tmp_path):
    rows = [row | {"embedding": [*row["embedding"], 1.0]} for row in records(60)]
    wide = parquet(tmp_path / "wide.parquet", rows)
    says = ("wide.parquet: its embeddings have 7 numbers, the router reads 6",)
    refused("evaluate", router, wide, says=says)
    refused("calibrate", router, wide, "--budget", 1, says=says)
    refused("plan", wide, "--gain", 0.1, "--router", router, says=says)
    refused("pool", router, "--drop", "small", "--log", wide, says=says)


def test_a_fault_of_our_own_is_said_to_be_one_and_shown_on_demand(log, monkeypatch, capsys):
    def breaks(*_, **__):
        raise TypeError("no")

    monkeypatch.setattr(diagnose, "diagnosed", breaks)
    assert cli.main(["diagnose", str(log)]) == 70
    said = capsys.readouterr().err
    assert "a fault of jrouter's own (TypeError: no)" in said and cli.TRACEBACK in said and said.count("\n") == 1
    monkeypatch.setenv(cli.TRACEBACK, "1")
    with pytest.raises(TypeError):
        cli.main(["diagnose", str(log)])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
COLUMNS = ("request_id", "model", "score", "cost", "propensity", "embedding", "timestamp", "allowed_models", "group")


@FEW
@given(st.lists(st.tuples(st.integers(0, 39), st.sampled_from(COLUMNS), JSON), max_size=25))
def test_whatever_is_in_a_log_it_is_read_or_refused(tmp_path, changes):
    rows = records(40)
    for at, column, value in changes:
        rows[at][column] = value
    code, out, err = run("diagnose", json_lines(tmp_path / "l.jsonl", rows), "--html", tmp_path / "r.html")
    if code == 2:
        assert err.startswith("jrouter: ") and "l.jsonl" in err and err.count("\n") == 1, err
    else:
        assert code == 0 and "40 read" in out


@FEW
@given(st.binary(max_size=300), st.integers(0, 4000))
def test_whatever_the_bytes_of_a_file_it_is_read_or_refused(tmp_path, noise, place):
    for log in (parquet(tmp_path / "l.parquet", records(40)), json_lines(tmp_path / "l.jsonl", records(40))):
        content = log.read_bytes()
        log.write_bytes(content[:place] + noise + content[place + len(noise) :])
        code, _, err = run("diagnose", log)
        assert code == 0 or (code == 2 and log.name in err and err.count("\n") == 1), err


LINES = st.one_of(
    st.binary(max_size=60).filter(lambda one: b"\n" not in one),
    JSON.map(lambda one: json.dumps(one).encode()),
    st.dictionaries(
        st.sampled_from(["query", "embedding", "lambda", "allowed", "previous", "max_cost", "min_score"]), JSON
    ).map(lambda one: json.dumps(one).encode()),
)
GOOD = json.dumps({"embedding": truth(1, 5)[0][0].tolist()}).encode()


@pytest.fixture
def loaded_once(router, monkeypatch):
    """The router is read and compiled once, as lines are what differs."""
    once = Router.load(router)
    monkeypatch.setattr(Router, "load", lambda folder: once)
    return router


@FEW
@given(st.lists(LINES | st.just(GOOD), max_size=8))
def test_whatever_a_line_is_it_is_decided_or_skipped(loaded_once, tmp_path, lines):
    (tmp_path / "q.jsonl").write_bytes(b"\n".join([*lines, GOOD]))
    code, out, err = run("route", loaded_once, "--lambda", 20, "--input", tmp_path / "q.jsonl")
    decided = [json.loads(line) for line in out.splitlines()]
    asked = sum(bool(line.decode("utf-8", "replace").strip()) for line in lines) + 1
    skipped = err.count(" skipped: ")
    assert code == 0 and len(decided) + skipped == asked and len(decided) >= lines.count(GOOD) + 1
    assert f"{len(decided):,} lines decided, {skipped:,} skipped" in err
    assert {line["model"] for line in decided} <= set(fitted().models) and len(MODELS) == 3
