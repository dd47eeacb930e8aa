"""`jrouter route`: decisions of the router, line by line, whatever a line is."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from small_cli import (
    MODELS,
    N,
    json_lines,
    little_to_compile,
    queries,
    route,
    run,
    truth,
)

LARGE, MIDDLE, SMALL = MODELS


@pytest.fixture(scope="module", autouse=True)
def quick(compiled):
    with little_to_compile(compiled):
        yield


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
