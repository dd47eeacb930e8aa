"""Commands that learn and judge, as a newcomer runs them: what they print, write, and exit with."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from small_cli import (
    MODELS,
    N,
    json_lines,
    little_to_compile,
    parquet,
    records,
    refused,
    run,
    truth,
)

from jrouter.app import evaluate, fit
from jrouter.app.cli import main
from jrouter.router import Router

LARGE, MIDDLE, SMALL = MODELS


@pytest.fixture(scope="module", autouse=True)
def quick(compiled):
    with little_to_compile(compiled):
        yield


# fit and diagnose


def test_fit_says_what_the_log_is_and_saves_what_it_made(shop):
    code, out, _ = shop.fit
    assert code == 0 and "Verdict: " in out and "600 read, 600 kept, 0 rejected" in out
    assert "Propensities are the log's own" in out and f"Saved: {shop.router}" in out
    assert sorted(os.listdir(shop.router)) == [
        "card.html",
        "diagnosis.html",
        "diagnosis.json",
        "manifest.json",
        "params",
    ]
    manifest = json.loads((shop.router / "manifest.json").read_text())
    assert manifest["models"] == list(MODELS) and manifest["lambdas"] == [0.0, 20.0, 100.0] and manifest["seed"] == 3
    assert manifest["data"]["rows"] == N and manifest["data"]["propensity"] == "logged"
    assert len(manifest["data"]["fingerprint"]) >= 32 and manifest["data"]["files"][0]["name"].endswith("log.parquet")
    diagnosis = json.loads((shop.router / "diagnosis.json").read_text())
    assert manifest["verdict"] == diagnosis["verdict"] and manifest["verdict"]["level"] in ("ok", "caution")


@pytest.mark.parametrize("page", ["card.html", "diagnosis.html"])
def test_a_models_name_does_not_run_in_a_page(shop, page):
    text = (shop.router / page).read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "<script" not in text


def test_diagnose_prints_and_writes_the_same_report(shop, tmp_path):
    code, out, _ = run("diagnose", shop.log, "--json", tmp_path / "r.json", "--html", tmp_path / "r.html", "--seed", 3)
    assert code == 0 and shop.fit.out.startswith(out)
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report) >= {"source", "log", "models", "propensity", "features", "diagnosis", "by_lambda", "verdict"}
    assert report["log"]["rows"] == N and [row["name"] for row in report["models"]] == list(MODELS)
    assert report["source"]["rows_read"] == N and report["sample"] is None
    expected = np.mean([row["score"] for row in records()])
    assert report["log"]["mean_score"] == pytest.approx(expected, rel=1e-4)
    page = (tmp_path / "r.html").read_text()
    assert (
        page.startswith("<!doctype html>") and "<svg" in page and "http:" not in page.replace("http://www.w3.org", "")
    )


def test_a_contract_and_flags_map_columns_join_scores_and_bad_rows_are_told(shop, tmp_path):
    """The same log under other names, costs in cents, scores apart, and three rows that cannot be used."""
    names = {"request_id": "id", "model": "llm", "cost": "cents", "propensity": "p", "embedding": "embedding"}
    rows = [{theirs: row[ours] for ours, theirs in names.items()} | {"cents": 100 * row["cost"]} for row in records()]
    bad = [rows[0] | {"id": "x", "cents": -1.0}, rows[1] | {"id": "y", "p": 0.0}, rows[2] | {"id": "z", "p": 1.5}]
    json_lines(tmp_path / "gateway.jsonl", rows + bad)
    scores = [{"id": row["request_id"], "thumb": row["score"]} for row in records()] + [{"id": "nobody", "thumb": 1}]
    json_lines(tmp_path / "thumbs.jsonl", scores)
    (tmp_path / "log.toml").write_text(
        'cost_scale = 0.01\nscores = "thumbs.jsonl"\n[columns]\nmodel = "llm"\ncost = "cents"\n'
    )
    code, out, _ = run(
        *(
            "diagnose",
            tmp_path / "gateway.jsonl",
            "--contract",
            tmp_path / "log.toml",
            "--seed",
            3,
            "--on",
            "request_id",
        ),
        *("--map", "propensity=p", "request_id=id", "score=thumb", "--json", tmp_path / "r.json"),
    )
    assert code == 0
    assert "603 read, 600 kept, 3 rejected, 0 left out" in out
    for reason, row in (("cost is negative", 600), ("propensity is 0", 601), ("propensity is above 1", 602)):
        assert re.search(rf"1 rejected: {reason}.*\(gateway.jsonl row {row}\)", out), out
    assert "scores joined: 600 of 601" in out
    report = json.loads((tmp_path / "r.json").read_text())
    told = json.loads((shop.router / "diagnosis.json").read_text())
    np.testing.assert_allclose(report["log"]["mean_cost"], told["log"]["mean_cost"], rtol=1e-4)
    assert report["models"][0]["rows"] == told["models"][0]["rows"]


def test_a_log_whose_policy_is_deterministic_is_refused_and_nothing_saved_but_by_force(tmp_path, monkeypatch):
    x, score, cost = truth()
    at = (x[:, 0] > 0).astype(int) + (x[:, 0] > 1)
    rows = [
        row | {"model": MODELS[at[i]], "score": float(score[i, at[i]]), "cost": float(cost[i, at[i]])}
        for i, row in enumerate(records())
    ]
    for row in rows:
        del row["propensity"]
    log = parquet(tmp_path / "log.parquet", rows)
    code, out, _ = run("diagnose", log, "--json", tmp_path / "r.json")
    assert code == 3 and "Verdict: refuse" in out and "The log has no propensities: they are estimated" in out
    report = json.loads((tmp_path / "r.json").read_text())
    monkeypatch.setattr(fit, "diagnosed", lambda team, **_: report)  # as it would find again
    flags = ("fit", log, "--out", tmp_path / "r", "--method", "cheapest", "--assess-folds", 0, "--lambdas", "0,20")
    code, out, _ = run(*flags)
    assert code == 3 and "Nothing was fitted" in out and "jrouter plan" in out and "--force" in out
    assert not (tmp_path / "r").exists()
    code, out, _ = run(*flags, "--force")
    assert code == 0 and Router.load(tmp_path / "r").record["verdict"]["level"] == "refuse"
    assert "refuse" in (tmp_path / "r" / "card.html").read_text()


# evaluate, calibrate, plan


@pytest.fixture(scope="module")
def evaluated(shop):
    path = shop.folder / "evaluation.json"
    return run("evaluate", shop.router, shop.new, "--json", path), json.loads(path.read_text())


def test_evaluate_is_near_the_true_value(router, evaluated):
    (code, out, _), found = evaluated
    x, score, cost = truth(20_000, 77)
    every = np.arange(len(x))
    for row in found["by_lambda"]:
        chosen = np.array([MODELS.index(name) for name in router.route(x, row["lam"])])
        utility = score - row["lam"] * cost
        true, logging = utility[every, chosen].mean(), utility.mean()
        assert row["value_low"] < true < row["value_high"] and row["value_error"] < 0.03
        assert row["gain_low"] < true - logging < row["gain_high"] and row["gain_low"] > 0.0
        assert row["score_low"] < score[every, chosen].mean() < row["score_high"]
    assert code == 0 and found["warnings"] == [] and "  !" not in out
    assert "over best single" in out and "gain over logging" in out


@pytest.fixture
def known_values(evaluated, monkeypatch):
    """Values that are known already, so that what is said of a log beside them needs no programs."""

    def only_warnings(router, log, **_):
        return evaluated[1] | {"warnings": evaluate._moved(router, log)[1]}

    monkeypatch.setattr(evaluate, "evaluate_router", only_warnings)


def test_evaluate_warns_of_the_log_it_was_fitted_on(shop, known_values):
    code, out, _ = run("evaluate", shop.router, shop.log)
    assert code == 0 and "! this is the log that the router was fitted on: its values are too high" in out
    assert out.count("!") == 1


def test_evaluate_warns_of_other_queries_prices_and_models(shop, known_values, tmp_path):
    rows = [
        row
        | {"embedding": [row["embedding"][0] + 1.5, *row["embedding"][1:]]}
        | ({"cost": 3 * row["cost"]} if row["model"] == MIDDLE else {})
        for row in records(seed=2)
    ]
    for row in rows[:60]:
        row["model"] = "newcomer"
    code, out, _ = run("evaluate", shop.router, parquet(tmp_path / "moved.parquet", rows), "--lambdas", "0,20,100")
    assert code == 0
    assert "! the log has 60 rows of newcomer, which this router does not know" in out
    assert "! these queries are not those of the training log" in out
    ratio = re.search(r"! middle costs ([\d.]+) times what the router expects", out)
    assert ratio and float(ratio[1]) == pytest.approx(3.0, rel=0.15) and "jrouter pool --price middle=" in out


def test_calibrate_meets_a_budget_as_the_truth_has_it(shop, router, tmp_path):
    budget = 0.002
    code, out, _ = run("calibrate", shop.router, shop.new, "--budget", budget, "--json", tmp_path / "c.json")
    found = json.loads((tmp_path / "c.json").read_text())["crossing"]
    assert code == 0 and f"lambda {found['lam']:.4g}: mean cost at most 0.002 USD" in out
    assert found["low"] <= found["lam"] <= found["high"] and found["sure"] >= found["lam"]
    x, _, cost = truth(20_000, 78)

    def spent(lam):
        return cost[np.arange(len(x)), [MODELS.index(name) for name in router.route(x, lam)]].mean()

    assert spent(found["high"]) <= budget <= spent(found["low"])
    code, out, _ = run("calibrate", shop.router, shop.new, "--min-score", 0.7)
    assert code == 0 and "mean score at least 0.7" in out


def test_calibrate_says_no_where_nothing_meets_it(shop):
    code, out, _ = run("calibrate", shop.router, shop.new, "--budget", 1e-7)
    assert code == 3 and "No fitted lambda has a mean cost at most 1e-07 USD" in out and "cost goes from" in out


@pytest.mark.parametrize("flags", [(), ("--budget", 1, "--min-score", 1)])
def test_calibrate_takes_one_target(shop, flags):
    refused("calibrate", shop.router, shop.new, *flags, says=("give --budget or --min-score, one of both",))


def test_plan_asks_for_more_rows_where_a_gain_is_small(shop, tmp_path):
    code, out, _ = run("plan", shop.new, "--gain", 0.005, "--lambda", 20, "--json", tmp_path / "p.json")
    found = json.loads((tmp_path / "p.json").read_text())
    assert code == 0 and "To see a gain of 0.5 (utility x 100)" in out and f"{found['more_rows']:,} more" in out
    assert found["power_now"] < 0.8 and found["more_rows"] == found["rows"] - N > 0
    assert found["rows"] == pytest.approx(found["rows_by_formula"], rel=0.3)


# help


@pytest.mark.parametrize("command", ["diagnose", "fit", "evaluate", "route", "calibrate", "plan", "pool", "export"])
def test_help_says_what_each_flag_is_in_words(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0 and f"usage: jrouter {command}" in text
    assert not re.search(r"\bSTR\b|\bPATH\b|\bNone\b|nuisance", text), text


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for command in ("diagnose", "fit", "evaluate", "route", "calibrate", "plan", "pool", "export"):
        assert f"• {command}" in text
    assert Path(sys.executable).name not in text
