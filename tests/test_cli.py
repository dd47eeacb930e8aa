"""Every command, as a newcomer runs them one after the other: what it prints, writes, and exits with."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_cli import MODELS, N, json_lines, little_to_compile, parquet, records, refused, run, truth

from jrouter.app import evaluate, fit
from jrouter.app.cli import main
from jrouter.router import Router

LARGE, MIDDLE, SMALL = MODELS
LAMBDAS = "0,20,100"


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    with little_to_compile(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory, quick):
    """A team's folder: a log that was fitted, the router, a log that it has not seen."""
    folder = tmp_path_factory.mktemp("shop")
    log, new = parquet(folder / "log.parquet", records()), parquet(folder / "new.parquet", records(seed=1))
    fit = run(
        *("fit", log, "--out", folder / "router", "--method", "regress_and_compare_pooled"),
        *("--lambdas", LAMBDAS, "--assess-folds", 0, "--seed", 3),
    )
    return SimpleNamespace(folder=folder, log=log, new=new, router=folder / "router", fit=fit)


@pytest.fixture(scope="module")
def router(shop):
    return Router.load(shop.router)


def queries(n=40, seed=5, **fields):
    return [{"request_id": f"q{at}", "embedding": row, **fields} for at, row in enumerate(truth(n, seed)[0].tolist())]


def route(shop, tmp_path, lines, *flags):
    """What `route` wrote, as records, and what it said."""
    path = tmp_path / "in.jsonl"
    if isinstance(lines, bytes):
        path.write_bytes(lines)
    else:
        json_lines(path, lines)
    flags = flags if "--lambda" in flags else ("--lambda", 20, *flags)
    code, out, err = run("route", shop.router, "--input", path, *flags)
    return code, [json.loads(line) for line in out.splitlines()], err


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


# route


def test_route_decides_as_the_router_does_and_in_order(shop, router, tmp_path):
    asked = queries(user="é", nested={"a": [1]})
    code, lines, err = route(shop, tmp_path, asked)
    assert code == 0 and err == "jrouter: 40 lines decided, 0 skipped\n"
    assert [line["request_id"] for line in lines] == [one["request_id"] for one in asked]
    x = np.array([one["embedding"] for one in asked], np.float32)
    assert [line["model"] for line in lines] == router.route(x, 20.0)
    for line in lines:
        assert line["user"] == "é" and line["nested"] == {"a": [1]} and "embedding" not in line
        assert line["propensity"] == 1.0 and line["lambda"] == 20.0 and line["router"] == router.version
        assert line["allowed_models"] == list(MODELS)


def test_a_lines_own_settings_come_first(shop, router, tmp_path):
    (query,) = queries(1)
    score, cost = router.forecast(np.array(query["embedding"], np.float32))
    asked = [query | one for one in ({"lambda": 0}, {"allowed": [SMALL]}, {"max_cost": 5e-4}, {"min_score": 9}, {})]
    _, lines, _ = route(shop, tmp_path, asked, "--lambda", 100, "--allow", f"{LARGE},{MIDDLE}")
    assert [line["lambda"] for line in lines] == [0.0, *(100.0,) * 4]
    assert lines[1]["model"] == SMALL and lines[4]["model"] == MIDDLE
    assert lines[2]["unmet"] == ["max_cost"] and lines[2]["model"] == MIDDLE  # the cheapest of those allowed
    assert lines[3]["unmet"] == ["min_score"] and lines[3]["model"] == (LARGE, MIDDLE)[int(score[1] > score[0])]
    _, (cheap,), _ = route(shop, tmp_path, [query], "--lambda", 0, "--max-cost", 5e-4)
    assert cheap["model"] == SMALL and cheap["allowed_models"] == [SMALL] and "unmet" not in cheap
    assert cheap["expected_cost"] == pytest.approx(float(cost[2]), rel=1e-5)
    _, (good,), _ = route(shop, tmp_path, [query], "--lambda", 100, "--min-score", float(score.max()) - 1e-4)
    assert good["model"] == MODELS[int(score.argmax())]


def test_a_dialogue_stays_where_the_gain_does_not_pay_for_the_cache(shop, tmp_path):
    (query,) = queries(1)
    _, (best,), _ = route(shop, tmp_path, [query], "--lambda", 100)
    other = next(name for name in MODELS if name != best["model"])
    _, kept, _ = route(
        shop,
        tmp_path,
        [query, query | {"previous": best["model"]}],
        *("--lambda", 100, "--previous", other),
        *("--switch-cost", 1),
    )
    assert [line["model"] for line in kept] == [other, best["model"]] and kept[0]["kept"] and "kept" not in kept[1]
    _, (left,), _ = route(shop, tmp_path, [query], "--lambda", 100, "--previous", other, "--switch-cost", 0)
    assert left["model"] == best["model"]


def test_exploration_has_its_exact_propensity_and_a_seed_repeats_it(shop, router, tmp_path):
    asked = queries(600)
    explored = [route(shop, tmp_path, asked, "--explore", 0.3, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert explored[0] == explored[1] != explored[2]
    x = np.array([one["embedding"] for one in asked], np.float32)
    greedy = router.route(x, 20.0)
    moved = 0
    for line, best in zip(explored[0], greedy, strict=True):
        assert line["propensity"] == pytest.approx(0.7 + 0.1 if line["model"] == best else 0.1, abs=1e-12)
        moved += line["model"] != best
    assert abs(moved / 600 - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 600)


BAD = [
    (b"{", "is not JSON"),
    (b"\xe9t\xe9", "is not JSON"),
    (b"[" * 100_000, "is nested too deep"),
    (b"17", "expected an object with either 'query' or 'embedding'"),
    (b"null", "expected an object"),
    (b"{}", "expected an object"),
    (b'{"query": "a", "embedding": [1]}', "either 'query' or 'embedding'"),
    (b'{"query": ""}', "'query': expected text"),
    (b'{"query": 3}', "'query': expected text"),
    (b'{"query": "hello"}', "this router reads embeddings, no texts"),
    (b'"hello"', "this router reads embeddings, no texts"),
    (b'{"embedding": [1, 2]}', "expected 6 finite numbers"),
    (b'{"embedding": [1, 2, 3, 4, 5, NaN]}', "expected 6 finite numbers"),
    (b'{"embedding": [1, 2, 3, 4, 5, 1e999]}', "expected 6 finite numbers"),
    (b'{"embedding": [1, 2, 3, 4, 5, "6"]}', "expected 6 finite numbers"),
    (b'{"embedding": [1, 2, 3, 4, 5, ' + b"9" * 400 + b"]}", "too large"),
    (b'{"embedding": [1,2,3,4,5,6], "lambda": -1}', "lam"),
    (b'{"embedding": [1,2,3,4,5,6], "lambda": true}', "'lambda': expected a number"),
    (b'{"embedding": [1,2,3,4,5,6], "lambda": ' + b"9" * 400 + b"}", "too large"),
    (b'{"embedding": [1,2,3,4,5,6], "max_cost": NaN}', "max_cost"),
    (b'{"embedding": [1,2,3,4,5,6], "allowed": "small"}', "expected a list of model names"),
    (b'{"embedding": [1,2,3,4,5,6], "allowed": []}', "name at least one"),
    (b'{"embedding": [1,2,3,4,5,6], "allowed": ["gpt-9"]}', "unknown model 'gpt-9'"),
    (b'{"embedding": [1,2,3,4,5,6], "previous": 3}', "'previous': expected the name of a model"),
]


def test_bad_lines_are_told_and_skipped_and_the_others_decided(shop, tmp_path):
    good = json.dumps(queries(1)[0]).encode()
    lines = b"\n".join(part for bad, _ in BAD for part in (good, bad, b"  "))
    code, decided, err = route(shop, tmp_path, lines)
    assert code == 0 and len(decided) == len(BAD)
    said = err.splitlines()
    assert said[-1] == f"jrouter: {len(BAD)} lines decided, {len(BAD)} skipped" and len(said) == len(BAD) + 1
    told = {int(re.match(r"jrouter: line (\d+) skipped: ", line)[1]): line for line in said[:-1]}  # type: ignore[index]
    for at, (_, reason) in enumerate(BAD):
        line = told[3 * at + 2]
        assert reason in line, line
        assert len(line) < 400, line[:400]


def test_nothing_decided_of_something_is_an_exit_code_and_nothing_of_nothing_is_none(shop, tmp_path):
    assert route(shop, tmp_path, b"{\n")[0] == 1
    for empty in (b"", b"\n \n"):
        assert route(shop, tmp_path, empty) == (0, [], "jrouter: 0 lines decided, 0 skipped\n")


def test_a_line_of_10_mb_is_decided_and_a_latin_1_one_too(shop, tmp_path):
    (query,) = queries(1)
    long = json.dumps(query | {"note": "x" * 10_000_000}).encode()
    latin = json.dumps(query | {"note": "caf@"}).encode().replace(b"@", b"\xe9")
    code, lines, _ = route(shop, tmp_path, long + b"\n" + latin + b"\n" + json.dumps(query).encode())
    assert code == 0 and len(lines) == 3 and len(lines[0]["note"]) == 10_000_000 and lines[1]["note"] == "caf\ufffd"


def test_lambda_beyond_what_was_fitted_is_said(shop, tmp_path):
    code, lines, err = route(shop, tmp_path, queries(1), "--lambda", 1e6)
    assert code == 0 and "lambda 1e+06 is taken as the nearest fitted one, of 0 to 100" in err
    assert lines[0]["lambda"] == 100.0


def test_an_answer_comes_before_the_next_question_and_a_closed_pipe_is_no_fault(shop):
    command = [sys.executable, "-m", "jrouter.app.cli", "route", str(shop.router), "--lambda", "20"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as it:
        assert it.stdin and it.stdout and it.stderr
        for query in queries(2):
            it.stdin.write(json.dumps(query).encode() + b"\n")
            assert json.loads(it.stdout.readline())["request_id"] == query["request_id"]  # stdin is open still
        it.stdout.close()  # as `| head` does
        it.stdin.write(json.dumps(queries(1)[0]).encode() + b"\n")
        it.stdin.close()
        err = it.stderr.read().decode()
        assert it.wait(60) == 0 and "Traceback" not in err and "Exception" not in err, err


def test_what_was_decided_is_a_log_that_diagnose_reads_with_its_scores(shop, tmp_path):
    """The circle: propensities that `route` wrote are those that `diagnose` trusts."""
    x, score, cost = truth(N, 9)
    asked = [{"request_id": f"q{at}", "embedding": row} for at, row in enumerate(x.tolist())]
    _, decided, _ = route(shop, tmp_path, asked, "--explore", 0.5, "--seed", 4)
    log = [
        line | {"embedding": x[at].tolist(), "cost": float(cost[at, MODELS.index(line["model"])])}
        for at, line in enumerate(decided)
    ]
    thumbs = [
        {"request_id": line["request_id"], "score": float(score[at, MODELS.index(line["model"])])}
        for at, line in enumerate(decided)
    ]
    code, out, _ = run(
        *("diagnose", json_lines(tmp_path / "next.jsonl", log), "--json", tmp_path / "r.json"),
        *("--scores", json_lines(tmp_path / "thumbs.jsonl", thumbs[::-1]), "--on", "request_id"),
    )
    report = json.loads((tmp_path / "r.json").read_text())
    assert code == 0 and "Propensities are the log's own" in out and "scores joined: 600 of 600" in out
    assert report["propensity"]["kind"] == "logged" and report["log"]["scored_share"] == 1.0
    shares = {row["name"]: row["share"] for row in report["models"]}
    for name in MODELS:
        assert shares[name] == pytest.approx(np.mean([line["model"] == name for line in decided]), abs=1e-6)


# pool and export


def test_pool_lists_and_writes_nothing_unless_told(shop, tmp_path):
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
