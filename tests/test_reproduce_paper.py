"""The paper's grid on published files: from small files of their schema to table and figure, and how it refuses."""

import csv
import json
import runpy
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pyarrow.parquet
import pytest

from jrouter.encoders.errors import EncoderError
from jrouter.encoders.load import load_encoder
from jrouter.io.errors import DataError
from jrouter.io.tables import file_digest
from jrouter.types import Nuisances

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
REAL = Path(__file__).parents[2] / "shared" / "data" / "routerbench_original_columns.parquet"
sys.path.insert(0, str(EXPERIMENTS))

import cells  # noqa: E402 (scripts are no package)
import learners  # noqa: E402
import paper_claims  # noqa: E402
import published  # noqa: E402
import published_figure  # noqa: E402
import published_samples  # noqa: E402
import reproduce_paper  # noqa: E402
from reproduce_paper import Options  # noqa: E402

CHEAP = "best_single,regress_and_compare_ridge,oracle"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def simple_nuisances(monkeypatch):
    """Uniform propensities and mean outcomes, as nothing has to be compiled for them."""

    def estimate(seed, log, split, config, *, fast):
        n, models = log.model.shape[0], len(log.models)
        score, cost = (jnp.full((n, models), y.mean()) for y in (log.score, log.cost))
        even = jnp.full((n, models), 1 / models)
        return Nuisances(even[:, 0], score, cost, split.fold, even)

    monkeypatch.setattr(learners, "estimate_nuisances", estimate)


def rows_of(half):
    return half.texts, np.asarray(half.table.cost).tolist()


def result(folder, name):
    return json.loads((folder / f"reproduce_paper_{name}.json").read_text())


# From files to results


def test_smoke_needs_no_files_and_gives_table_and_figure(tmp_path, capsys):
    out = tmp_path / "out"
    reproduce_paper.main(Options(smoke=True, methods=CHEAP, out=out))
    name = "reproduce_paper_routerbench_hashing_smoke"
    assert sorted(path.name for path in out.iterdir()) == [f"{name}.csv", f"{name}.json", f"{name}.png"]
    assert (out / f"{name}.png").read_bytes().startswith(PNG)
    with open(out / f"{name}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["method"] for row in rows) == dict.fromkeys(CHEAP.split(","), 11)
    assert sorted({float(row["lambda"]) for row in rows}) == list(range(0, 1001, 100))
    assert {row["logging_policy"] for row in rows} == {"predicted_accuracy"}
    for row in rows:
        worth = float(row["score"]) - float(row["lambda"]) * float(row["cost"])
        assert float(row["utility"]) == pytest.approx(worth, abs=2e-5)
    printed = capsys.readouterr().out
    assert "oracle *" in printed and "best_single *" not in printed and "279 different" in printed
    # Every subject has a model that is cheap and good at it, and the words of a text say its subject.
    mean = {name: np.mean([float(r["utility"]) for r in rows if r["method"] == name]) for name in CHEAP.split(",")}
    assert mean["best_single"] + 0.03 < mean["regress_and_compare_ridge"] < mean["oracle"]


def test_results_name_files_and_encoder_and_no_place(tmp_path, simple_nuisances):
    path = published_samples.write_routerbench(tmp_path)
    options = Options(benchmark_path=(path,), encoder="hashing", methods="best_single,oracle", seeds=2, out=tmp_path)
    reproduce_paper.main(options)
    record = result(tmp_path, "routerbench_hashing")
    (group,) = record["results"]
    told = group["configuration"]
    assert group["table"] == path.name and told["files"] == {path.name: file_digest(path)}
    assert group["sha256"] == file_digest(path)
    assert told["encoder"] == load_encoder().spec.to_dict() and told["prices"] is None
    assert "CARROT" in told["protocol"] and told["cost_unit"] == "USD"
    keys = [cell["key"] for cell in group["cells"]]
    asked = {(p, s, m) for p in ("predicted_accuracy", "realised_accuracy") for s in (0, 1) for m in CHEAP.split(",")}
    assert {(k["logging_policy"], k["seed"], k["method"]) for k in keys} == {
        one for one in asked if one[2] != "regress_and_compare_ridge"
    }
    assert record["config"]["methods"] == "best_single,oracle" and str(tmp_path) not in json.dumps(record)
    # Embedded once: another run takes all from the cache.
    assert any((tmp_path / "cache" / "jrouter" / "embeddings").rglob("*.npz"))


def test_sprout_is_logged_and_judged_by_its_own_splits(tmp_path, simple_nuisances):
    options = Options(benchmark="sprout", smoke=True, methods="best_single,oracle", logging_policy="uniform")
    reproduce_paper.main(replace(options, out=tmp_path))
    (group,) = result(tmp_path, "sprout_hashing_smoke")["results"]
    assert group["table"] == "SPROUT" and len(group["configuration"]["files"]) == 3
    assert {(cell["n_train"], cell["n_test"]) for cell in group["cells"]} == {(240, 60)}
    assert group["configuration"]["models"] == list(published_samples.SPROUT)


def test_a_later_run_does_only_what_is_missing_and_another_encoder_is_apart(tmp_path, monkeypatch, simple_nuisances):
    ran = []
    run = learners.Learners.run

    def counted(self, name, seed, setting):
        ran.append(name)
        return run(self, name, seed, setting)

    monkeypatch.setattr(learners.Learners, "run", counted)
    path = published_samples.write_routerbench(tmp_path)
    options = Options(benchmark_path=(path,), encoder="hashing", methods="oracle", logging_policy="uniform", seeds=1)
    options = replace(options, out=tmp_path)
    reproduce_paper.main(replace(options, budget_minutes=0.0))
    assert ran == [] and not (tmp_path / "reproduce_paper_routerbench_hashing.png").exists()
    reproduce_paper.main(options)
    assert ran == ["oracle"]
    reproduce_paper.main(replace(options, methods="oracle,random", seeds=2))
    assert sorted(ran) == ["oracle", "oracle", "random", "random"]
    reproduce_paper.main(replace(options, query="last_question"))
    assert len(ran) == 5
    groups = result(tmp_path, "routerbench_hashing")["results"]
    assert [(g["configuration"]["encoder"]["question"], len(g["cells"])) for g in groups] == [(True, 1), (False, 4)]


def test_the_claims_can_be_read_from_the_results(tmp_path, monkeypatch, simple_nuisances):
    run = learners.Learners.run
    monkeypatch.setattr(learners.Learners, "run", lambda self, name, *given: run(self, "oracle", *given))
    monkeypatch.setattr(learners.Learners, "compile", lambda *given: None)
    methods = "baseline_shared,cf_regression"
    reproduce_paper.main(Options(smoke=True, methods=methods, logging_policy="uniform", out=tmp_path))
    (pair,) = paper_claims.pairs_of(tmp_path / "reproduce_paper_routerbench_hashing_smoke.json")
    assert (pair.claim, pair.first, pair.second) == ("bias", *reversed(methods.split(",")))


# Benchmarks


def test_routerbench_has_the_protocol_of_carrot(tmp_path):
    path = published_samples.write_routerbench(tmp_path)
    columns = pyarrow.parquet.read_table(path).to_pydict()
    benchmark = published.read_benchmark("routerbench", [path])
    kept = [row for row, name in enumerate(columns["eval_name"]) if not name.startswith("chinese")]
    logged, test = benchmark.logged.texts, benchmark.test.texts
    assert 0 < len(kept) < 300 and len(test) == -(-len(kept) // 5)
    # Each row is on one side, its text without the brackets of a list, its outcomes beside it.
    prompts = {columns["prompt"][row][2:-2]: row for row in kept}
    assert sorted(logged + test) == sorted(columns["prompt"][row][2:-2] for row in kept)
    for half in (benchmark.logged, benchmark.test):
        assert half.table.x is None and half.table.models == tuple(published_samples.ROUTERBENCH)
        unique = [place for place, text in enumerate(half.texts) if "Q: What" in text]
        for t, model in enumerate(half.table.models):
            expected = [columns[f"{model}|total_cost"][prompts[half.texts[place]]] for place in unique]
            repeated = Counter(logged + test)
            same = [repeated[half.texts[place]] == 1 for place in unique]
            got = np.asarray(half.table.cost)[unique, t]
            np.testing.assert_allclose(got[same], np.array(expected)[same], rtol=1e-6)


def test_sprout_joins_train_and_validation(tmp_path):
    folder = published_samples.write_sprout(tmp_path)
    benchmark = published.read_benchmark("sprout", [folder])
    files = {path.name: path for path in (folder / "data").iterdir()}
    texts = {name.split("-")[0]: pyarrow.parquet.read_table(path)["prompt"].to_pylist() for name, path in files.items()}
    assert benchmark.logged.texts == texts["train"] + texts["validation"] and benchmark.test.texts == texts["test"]
    assert benchmark.files == {name: file_digest(path) for name, path in files.items()}
    assert benchmark.logged.table.score.shape == (240, 4) and benchmark.test.table.cost.shape == (60, 4)
    assert benchmark.prices is not None and benchmark.prices["openai-gpt-4o"] == (2.5, 10.0)
    # Prices of one's own change the costs of their model alone, and what the results say.
    (tmp_path / "mine.csv").write_text("model,input_usd_per_1m,output_usd_per_1m\nopenai-gpt-4o,5,20\n")
    dearer = published.read_benchmark("sprout", [folder], prices=tmp_path / "mine.csv")
    ratio = np.asarray(dearer.test.table.cost / benchmark.test.table.cost)
    np.testing.assert_allclose(ratio, np.tile([2.0, 1.0, 1.0, 1.0], (60, 1)), rtol=1e-6)
    assert dearer.prices == benchmark.prices | {"openai-gpt-4o": (5.0, 20.0)} and dearer.files == benchmark.files


def test_what_the_hub_gives_is_read_like_a_file(tmp_path, monkeypatch):
    asked = []

    def fetch(revision=None):
        asked.append(revision)
        return published_samples.write_routerbench(tmp_path)

    monkeypatch.setattr(published, "fetch_routerbench", fetch)
    fetched = published.read_benchmark("routerbench", revision="abc")
    given = published.read_benchmark("routerbench", [tmp_path / "routerbench_0shot.parquet"])
    assert asked == ["abc"] and fetched.files == given.files and fetched.test.texts == given.test.texts


def test_where_the_hub_is_out_of_reach_the_flag_is_named(monkeypatch):
    def refuse(revision=None):
        raise DataError("the hub is out of reach")

    monkeypatch.setattr(published, "fetch_sprout", refuse)
    with pytest.raises(DataError, match="the hub is out of reach .*--benchmark-path"):
        published.read_benchmark("sprout")


def test_fewer_rows_are_drawn_from_all_of_them(tmp_path):
    whole = published.read_benchmark("routerbench", [published_samples.write_routerbench(tmp_path)])
    small = published.fewer(whole, 50)
    where = {(text, *cost): row for row, (text, cost) in enumerate(zip(*rows_of(whole.logged), strict=True))}
    places = [where[text, *cost] for text, cost in zip(*rows_of(small.logged), strict=True)]
    assert places == sorted(set(places)) and len(places) == 50 and places[-1] > 100
    np.testing.assert_array_equal(small.logged.table.score, np.asarray(whole.logged.table.score)[places])


@pytest.mark.skipif(not REAL.exists(), reason="needs a sample of RouterBench, which is not shipped")
def test_a_sample_of_routerbench_is_read():
    benchmark = published.read_benchmark("routerbench", [REAL])
    assert (len(benchmark.logged.texts), len(benchmark.test.texts)) == (480, 120)
    assert len(benchmark.logged.table.models) == 11
    assert not any(text.startswith(("['", '["')) for text in benchmark.logged.texts)
    embedded = published.embed(benchmark, load_encoder(question=True), None)
    texts = embedded.facts["texts"]
    assert texts["distinct_texts_encoded"] == texts["distinct_embeddings"] == texts["distinct_queries"]


# Embeddings


def test_embeddings_groups_and_counts_are_those_of_the_texts(tmp_path):
    benchmark = published.read_benchmark("routerbench", [published_samples.write_routerbench(tmp_path, n=60)])
    again = benchmark.test.texts[0]
    texts = [*benchmark.logged.texts]
    texts[3] = texts[5] = again
    benchmark = benchmark._replace(logged=benchmark.logged._replace(texts=texts))
    encoder = load_encoder(dim=16)
    source, facts = published.embed(benchmark, encoder, None, progress=False)
    logged = source.draw(0)
    assert logged is source.draw(7) and logged.x is not None and logged.group is not None
    np.testing.assert_array_equal(logged.x, encoder.encode(texts))
    np.testing.assert_array_equal(source.test.x, encoder.encode(benchmark.test.texts))
    group = np.asarray(logged.group)
    for first in range(len(texts)):
        np.testing.assert_array_equal(group == group[first], [text == texts[first] for text in texts])
    counts = facts["texts"]
    assert counts["logged"] == len(texts) and counts["test"] == len(benchmark.test.texts)
    assert counts["test_also_logged"] == sum(text in texts for text in benchmark.test.texts) >= 1
    assert counts["distinct_queries"] == len({*texts, *benchmark.test.texts}) == counts["distinct_embeddings"]
    assert source.confounded == (1.0, 0.1) and facts["encoder"]["dim"] == 16


def test_prompts_with_the_same_question_are_counted(tmp_path):
    benchmark = published.read_benchmark("routerbench", [published_samples.write_routerbench(tmp_path, n=40)])
    texts = [f"Q: 1+1?\nA: {row}\n\nQ: 2+2?\nA: 4\n\nQ: the same?\nA:" for row in range(len(benchmark.logged.texts))]
    benchmark = benchmark._replace(logged=benchmark.logged._replace(texts=texts))
    counts = published.embed(benchmark, load_encoder(question=True), None).facts["texts"]
    assert counts["distinct_queries"] > counts["distinct_texts_encoded"] == counts["distinct_embeddings"]


def test_a_folder_is_named_by_its_last_part(tmp_path, monkeypatch):
    folder = tmp_path / "My_Encoder"
    folder.mkdir()
    asked = {}

    def load(name, **settings):
        asked.update(settings, name=name)
        encoder = load_encoder(dim=8)
        return replace(encoder, spec=replace(encoder.spec, name=str(name), revision="sha256:0123456789abcdef"))

    monkeypatch.setattr(published, "load_encoder", load)
    options = Options(smoke=True, encoder=str(folder), pooling="mean", max_length=64, truncation="left")
    options = reproduce_paper.settled(options)
    embedded = reproduce_paper.prepared(options)
    expected = {"revision": None, "pooling": "mean", "max_length": 64, "truncation": "left", "question": False}
    assert asked == expected | {"name": folder}
    assert embedded.facts["encoder"]["name"] == "My_Encoder" == options.encoder
    assert published.encoder_name("My_Encoder") == "my_encoder"
    assert published.encoder_name("org/Some Model:2") == "some-model-2"


@pytest.mark.parametrize(
    "name,told",
    [
        ("bert", "cannot be had. A folder of its files is taken by --encoder-path FOLDER.$"),
        ("llama-3.2-1b", "It is gated: accept its licence at https://huggingface.co/meta-llama/Llama-3.2-1B, then"),
        ("org/model", "org/model cannot be had.$"),
    ],
)
def test_an_encoder_that_cannot_be_had_says_what_to_do(monkeypatch, name, told):
    def refuse(place, **settings):
        raise EncoderError(f"{place} cannot be had.")

    monkeypatch.setattr(published, "load_encoder", refuse)
    with pytest.raises(EncoderError, match=f"^{published.ENCODERS.get(name, name)} cannot be had.") as caught:
        published.open_encoder(name)
    assert caught.match(told)


# What is shown


def test_the_figure_has_the_intervals_of_the_cells():
    kept = [
        {"utility": [0.5, 0.3], "error": {"utility_by_lambda": [0.01, 0.02]}, "differences": {"b": d}}
        for d in ({"estimate": [0.1, 0.2], "error": [0.3, 0.4]}, {"estimate": [0.3, 0.6], "error": [0.1, 0.2]})
    ]
    assert published_figure.at_lambdas(kept) == [
        cells.over_seeds([0.5, 0.5], [0.01, 0.01]),
        cells.over_seeds([0.3, 0.3], [0.02, 0.02]),
    ]
    assert published_figure.at_lambdas(kept, "b")[1] == cells.over_seeds([0.2, 0.6], [0.4, 0.2])


def test_methods_of_a_panel_are_told_apart():
    for begins in published_figure.FAMILIES.values():
        names = [name for name in reproduce_paper.PAPER if name.startswith(begins)]
        assert len(set(published_figure._styles(names).values())) == len(names) > 1
    shown = {name for name in reproduce_paper.PAPER for b in published_figure.FAMILIES.values() if name.startswith(b)}
    assert shown | {*published_figure.OVERVIEW, "random"} == set(reproduce_paper.PAPER)


# How it refuses


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--methods", "magic"], "--methods: unknown 'magic'"),
        (["--logging-policy", "psychic"], "--logging-policy: unknown 'psychic'"),
        (["--seeds", "0"], "--seeds: expected at least 1, got 0"),
        (["--lambdas", "100,0"], "--lambdas: expected ascending"),
        (["--budget-minutes", "-1"], "--budget-minutes"),
        (["--encoder-path", "nowhere"], "--encoder-path: nowhere is no folder"),
        (["--benchmark-path", "nowhere.parquet"], "nowhere.parquet"),
        (["--benchmark-path", ".", "."], "--benchmark-path: RouterBench is one file, got 2"),
        (["--benchmark-path", "a.parquet", "--benchmark-revision", "abc"], "--benchmark-revision"),
        (["--benchmark-path", ".", "--prices", "."], "--prices: RouterBench is published with its costs"),
        (["--smoke", "--benchmark-path", "x.csv"], "x.csv: does not exist"),
        (["--smoke", "--truncation", "left"], "truncation: 'hashing' has none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_misuse_ends_in_one_line_before_any_work(tmp_path, monkeypatch, arguments, message):
    def too_late(*arguments, **named):
        raise AssertionError("work was begun")

    for name in ("fetch_routerbench", "fetch_sprout", "embed"):
        monkeypatch.setattr(published, name, too_late)
    monkeypatch.chdir(tmp_path)
    given = ["--encoder", "hashing", "--out", str(tmp_path / "out"), *arguments]
    monkeypatch.setattr(sys, "argv", ["reproduce_paper.py", *given])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EXPERIMENTS / "reproduce_paper.py"), run_name="__main__")
    text = stop.value.code
    assert isinstance(text, str) and text.startswith("error: ") and message in text, text
    assert not (tmp_path / "out").exists()


def test_a_split_of_sprout_that_is_missing_is_named(tmp_path):
    folder = published_samples.write_sprout(tmp_path)
    (folder / "data" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"split 'test' \(but of train, validation\)"):
        published.read_benchmark("sprout", [folder])
