"""Experiments from the outside: their files, their numbers, and how they refuse to run."""

import csv
import json
import os
import re
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.io import results as report
from jrouter.methods import METHODS
from jrouter.types import Nuisances

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

import compare_methods  # noqa: E402 (scripts are no package)
import comparison_results  # noqa: E402
import data  # noqa: E402
import interval_generalization  # noqa: E402
import known_methods  # noqa: E402

ASKED = ["best_single", "regress_and_compare_ridge", "rm_softmax", "logging_policy", "oracle"]
HEADER = "table,logging_policy,method,lambda,seed,n_train,n_test,utility,regret,routing_accuracy,score,cost,seconds"
PNG = b"\x89PNG\r\n\x1a\n"


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(EXPERIMENTS / "compare_methods.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Result files of one small run."""
    folder = tmp_path_factory.mktemp("results") / "new"
    done = run("--smoke", "--methods", ",".join(ASKED), "--out", str(folder))
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ASKED)
    return folder


@pytest.fixture(scope="module")
def rows(out) -> list[dict[str, Any]]:
    with open(out / "compare_methods.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def record(out):
    return json.loads((out / "compare_methods.json").read_text())


def number(row, column):
    return float(row[column])


def test_csv_has_one_row_per_method_lambda_and_seed(out, rows, record):
    assert (out / "compare_methods.csv").read_text().splitlines()[0] == HEADER
    n_lambdas, n_seeds = len(record["results"][0]["lambdas"]), record["config"]["seeds"]
    assert n_lambdas >= 2 and n_seeds == 2
    assert len(rows) == len(ASKED) * n_lambdas * n_seeds
    cells = Counter((row["method"], row["lambda"], row["seed"]) for row in rows)
    assert set(cells.values()) == {1}
    assert {row["method"] for row in rows} == set(ASKED) and {row["seed"] for row in rows} == {"0", "1"}
    assert {(row["table"], row["logging_policy"]) for row in rows} == {("synthetic:specialists", "confounded")}
    assert {(row["n_train"], row["n_test"]) for row in rows} == {("800", "1000")}


def test_utility_is_score_less_lambda_times_cost(rows):
    assert any(number(row, "lambda") > 0 for row in rows)
    for row in rows:
        worth = number(row, "score") - number(row, "lambda") * number(row, "cost")
        assert number(row, "utility") == pytest.approx(worth, abs=2e-5)
        assert 0 <= number(row, "routing_accuracy") <= 1 and number(row, "cost") > 0 and number(row, "seconds") >= 0


def test_nothing_beats_the_oracle_and_regret_is_the_distance_to_it(rows):
    oracle = {(row["lambda"], row["seed"]): row for row in rows if row["method"] == "oracle"}
    for row in rows:
        best = number(oracle[row["lambda"], row["seed"]], "utility")
        assert number(row, "utility") <= best + 1e-6
        assert number(row, "regret") == pytest.approx(best - number(row, "utility"), abs=2e-5)
        if row["method"] == "oracle":
            assert number(row, "regret") == pytest.approx(0.0, abs=1e-7)
            assert number(row, "routing_accuracy") == pytest.approx(1.0, abs=1e-6)


def test_a_learned_router_beats_the_best_single_model_where_models_are_specialists(rows):
    mean = {name: np.mean([number(row, "utility") for row in rows if row["method"] == name]) for name in ASKED}
    assert mean["rm_softmax"] > mean["best_single"] + 0.03


def test_json_says_what_was_run_and_where_without_saying_where_it_lies(out, record):
    assert set(record) == {"schema", "script", "config", "versions", "device", "results"}
    assert record["schema"] == report.SCHEMA and record["script"] == "compare_methods.py"
    assert record["config"]["smoke"] is True and record["config"]["methods"] == ",".join(ASKED)
    assert set(record["versions"]) == {"python", *report.PACKAGES}
    assert record["device"]["platform"] == "cpu"
    text = (out / "compare_methods.json").read_text()
    assert str(out) not in text and str(EXPERIMENTS) not in text and '"/' not in text


def test_json_agrees_with_the_csv_and_its_intervals_hold_their_estimates(rows, record):
    (setting,) = record["results"]
    assert set(setting["methods"]) == set(ASKED)
    for name, method in setting["methods"].items():
        for metric in ("utility", "regret", "routing_accuracy", "score", "cost"):
            cell = {end: np.array(values) for end, values in method[metric].items()}
            assert (cell["low"] <= cell["estimate"] + 1e-7).all() and (cell["estimate"] <= cell["high"] + 1e-7).all()
            for place, lam in enumerate(setting["lambdas"]):
                mine = [row for row in rows if row["method"] == name and abs(number(row, "lambda") - lam) < 1e-4]
                assert np.mean([number(row, metric) for row in mine]) == pytest.approx(
                    cell["estimate"][place], abs=2e-6
                )
        np.testing.assert_allclose(np.array(method["shares"]).sum(axis=-1), 1.0, atol=1e-5)
        assert method["full_feedback"] == (name == "oracle")


def test_differences_are_those_of_the_methods(record):
    (setting,) = record["results"]
    assert set(setting["differences"]) == {"rm_softmax"}
    utility = {name: np.array(method["utility"]["estimate"]) for name, method in setting["methods"].items()}
    for second, interval in setting["differences"]["rm_softmax"].items():
        np.testing.assert_allclose(interval["estimate"], utility["rm_softmax"] - utility[second], atol=1e-6)
        assert interval["mean_over_lambdas"]["low"] <= interval["mean_over_lambdas"]["high"]
    assert set(setting["differences"]["rm_softmax"]) == set(ASKED) - {"rm_softmax"}


def test_both_figures_are_pictures_and_nothing_else_is_left(out):
    names = [
        "compare_methods.csv",
        "compare_methods.json",
        "compare_methods_frontier.png",
        "compare_methods_utility.png",
    ]
    assert sorted(os.listdir(out)) == names
    for name in names[2:]:
        picture = (out / name).read_bytes()
        assert picture.startswith(PNG) and len(picture) > 5000


def table_without_embeddings(folder):
    path = folder / "texts.csv"
    path.write_text("query,score:a,cost:a,score:b,cost:b\n" + "".join(f"q{i},1,0.1,0,0.2\n" for i in range(20)))
    return path


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--methods", "rm_softmax,magic"], "--methods: unknown 'magic', expected one of random, .*oracle"),
        (["--logging-policy", "uniform,psychic"], "--logging-policy: unknown 'psychic', expected one of uniform"),
        (["--regime", "paradise,linear"], "unknown regime 'paradise': expected one of linear"),
        (["--lambdas", "100,0"], "--lambdas: expected ascending finite numbers of at least 0, got '100,0'"),
        (["--lambdas", "0,inf"], "--lambdas: expected ascending finite numbers"),
        (["--lambdas", "0,nan"], "--lambdas: expected ascending finite numbers"),
        (["--lambdas", "some"], "--lambdas: expected auto, paper or numbers like 0,100,400, got 'some'"),
        (["--seeds", "0"], "--seeds"),
        (["--table", "{folder}/texts.csv"], "texts.csv: .*needs an encoder"),
        (["--table", "{folder}/missing.parquet"], "missing.parquet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_misuse_ends_in_one_line_before_any_work(tmp_path, monkeypatch, arguments, message):
    def too_late(*arguments, **named):
        raise AssertionError("work was begun")

    table_without_embeddings(tmp_path)
    monkeypatch.setattr(data, "simulate", too_late)
    filled = [argument.format(folder=tmp_path) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["compare_methods.py", "--n", "50", "--dim", "4", "--models", "3", *filled])
    monkeypatch.setattr(data, "TEST_ROWS", 50)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EXPERIMENTS / "compare_methods.py"), run_name="__main__")
    # A string is printed to stderr, and the exit code is 1.
    text = stop.value.code
    assert isinstance(text, str) and text.startswith("error: ") and "\n" not in text
    assert re.search(message, text), text


def test_the_exit_code_of_misuse_is_one(tmp_path):
    done = run("--table", str(tmp_path / "missing.parquet"))
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "missing.parquet" in line


def test_methods_are_chosen_by_name_in_the_order_of_the_table():
    assert known_methods.chosen_methods("oracle, rm_softmax,random") == ["random", "rm_softmax", "oracle"]
    everything = known_methods.chosen_methods("all")
    assert set(everything) == {*METHODS, "oracle"} and len(everything) == len(set(everything))
    assert comparison_results.COLUMNS == HEADER.split(",")


def test_lambdas_are_parsed():
    assert data.parse_lambdas("auto") is None
    np.testing.assert_array_equal(data.parse_lambdas("paper"), np.arange(0, 1001, 100))
    np.testing.assert_array_equal(data.parse_lambdas("0, 1.5,1e3"), [0.0, 1.5, 1000.0])


def test_same_seed_same_log_other_seed_other_log(monkeypatch):
    def no_nuisances(key, log, split, config):
        noise = jax.random.uniform(key, (log.model.shape[0], len(log.models)))
        return Nuisances(noise[:, 0], noise, noise, split.fold)

    monkeypatch.setattr(data, "fit_nuisances", no_nuisances)
    monkeypatch.setattr(data, "TEST_ROWS", 30)
    options = data.DataOptions(n=60, dim=4, models=3, seeds=2, regime="linear", lambdas="0,10")
    (source,) = data.sources(options)
    first, second = (data.simulate(source, "model_accuracy", options) for _ in range(2))
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    log = first.problems.log
    assert np.abs(np.asarray(log.x[0] - log.x[1])).max() > 0.1
    # What is judged was never logged.
    assert not {tuple(x) for x in np.asarray(source.test.x)} & {tuple(x) for x in np.asarray(log.x).reshape(-1, 4)}
    assert first.true_propensity.shape == (2, 60, 3) and first.logging_test.shape == (2, 30, 3)


def test_keys_differ_by_use_and_by_seed_and_not_by_their_number():
    keys = [np.asarray(jax.random.key_data(data.seed_keys(3, use))) for use in ("nuisances", "learners", "interval")]
    assert len({tuple(key) for key in np.concatenate(keys).tolist()}) == 9


def test_a_table_is_divided_and_named_by_file_and_digest(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["query,score:a,cost:a,score:b,cost:b,embedding:mini"]
    for row in range(40):
        x = json.dumps(np.round(rng.normal(size=3), 3).tolist())
        lines.append(f'q{row // 2},{rng.random():.3f},0.1,{rng.random():.3f},0.2,"{x}"')
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(lines) + "\n")
    (source,) = data.sources(data.DataOptions(table=path))
    assert source.name == "mine.csv" and len(source.sha256 or "") == 64
    logged = source.draw(0)
    assert logged.score.shape[0] + source.test.score.shape[0] == 40
    assert source.test.score.shape[0] == pytest.approx(8, abs=2)
    # A query that occurs twice is on one side.
    assert not set(np.asarray(logged.group).tolist()) & set(np.asarray(source.test.group).tolist())


def test_results_hold_names_not_paths_and_replace_old_ones_whole(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "result.json"
    options = compare_methods.Options(table=Path("/home/someone/secret/table.parquet"), out=tmp_path)
    report.write_json(path, options=options, results={"value": jnp.float32(0.5), "path": tmp_path})
    text = path.read_text()
    assert "secret" not in text and str(tmp_path) not in text
    assert json.loads(text)["config"]["table"] == "table.parquet" and "out" not in json.loads(text)["config"]
    assert json.loads(text)["results"]["value"] == 0.5

    monkeypatch.setattr(report, "plain", lambda value: {"not": {"json"}})
    with pytest.raises((TypeError, KeyError)):
        report.write_json(path, options=options, results={})
    rows: Any = [["first"], None]  # dies at the second row
    with pytest.raises(TypeError):
        report.write_csv(path, ["a"], rows)
    assert path.read_text() == text and os.listdir(path.parent) == ["result.json"]


@pytest.mark.parametrize("width", interval_generalization.WIDTHS)
def test_points_lie_at_the_quarters_of_the_first_a_middle_and_the_last_interval(width):
    points = interval_generalization.points(width)
    assert len(points) == len(set(points)) == 3 * min(3, int(interval_generalization.TOP / width))
    for quarter, lam in points:
        assert quarter in (0.25, 0.5, 0.75)
        assert lam % width == pytest.approx(quarter * width) and 0 < lam < interval_generalization.TOP
    assert min(lam for _, lam in points) == width / 4
    assert max(lam for _, lam in points) == interval_generalization.TOP - width / 4


def test_a_jaxlib_without_an_option_is_not_given_it(monkeypatch):
    def refuses(function, compiler_options):
        raise jax.errors.JaxRuntimeError("No such compile option")

    def takes(function, compiler_options):
        return function

    # What is given is what the jaxlib that is here takes, be it one of those that have the option or not.
    jax.jit(lambda x: x, compiler_options=data.compiler_options.__wrapped__(True))(0.0)
    monkeypatch.setattr(data.jax, "jit", takes)
    assert "xla_cpu_use_fusion_emitters" in data.compiler_options.__wrapped__(True)
    monkeypatch.setattr(data.jax, "jit", refuses)
    assert data.compiler_options.__wrapped__(True) == {"xla_backend_optimization_level": "0"}
