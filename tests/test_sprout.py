"""SPROUT as published: splits in parts, a struct for each model, costs from tokens and prices."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jrouter.io.errors import DataError
from jrouter.io.prices import Price
from jrouter.io.sprout import fetch_sprout, read_sprout

FIRST = "data/train-00000-of-00002.parquet"
PRICES = {"mini": Price(1.0, 2.0), "llama-3.1": Price(0.0, 4.0)}


def answer(score, n_in, n_out, **more):
    return {"score": score, "num_input_tokens": n_in, "num_output_tokens": n_out, "response": "long text"} | more


def part(*rows):
    """Columns of a file from (prompt, dataset, answer of mini, answer of llama-3.1)."""
    prompts, datasets, mini, llama = zip(*rows, strict=True)
    return {
        "key": list(range(len(rows))),
        "dataset": list(datasets),
        "dataset_level": [None] * len(rows),
        "prompt": list(prompts),
        "golden_answer": ["?"] * len(rows),
        "mini": list(mini),
        "llama-3.1": list(llama),
    }


TRAIN = part(
    ("two\nlines", "math", answer(1.0, 10, 100), answer(0.5, 12, 50)),
    ("b", "math", answer(0.25, 20, 0), answer(0.0, 22, 25)),
)
MORE = part(("two\nlines", "rag", answer(0.0, 30, 300), answer(1.0, 32, 75)))
TEST = part(("d", "math", answer(0.75, 1, 2), answer(0.125, 3, 4)), ("e", "rag", answer(1, 5, 6), answer(1, 7, 8)))


def write(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def hub_layout(folder):
    write(folder / FIRST, TRAIN)
    write(folder / "data" / "train-00001-of-00002.parquet", MORE)
    write(folder / "data" / "validation-00000-of-00001.parquet", MORE)
    write(folder / "data" / "test-00000-of-00001.parquet", TEST)
    return folder


def change(columns, model, row, value):
    values = list(columns[model])
    values[row] = value
    return columns | {model: values}


def fails(path, *parts, prices=PRICES, **options):
    with pytest.raises(DataError) as caught:
        read_sprout(path, prices=prices, **options)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message, message
    for found in parts:
        assert found in message, message


def test_hub_layout(tmp_path):
    splits = read_sprout(hub_layout(tmp_path), prices=PRICES)
    assert list(splits) == ["train", "validation", "test"]
    train = splits["train"]
    assert train.texts == ["two\nlines", "b", "two\nlines"]
    assert train.table.models == ("mini", "llama-3.1") and train.table.cost_unit == "USD" and train.table.x is None
    np.testing.assert_array_equal(train.table.score, [[1.0, 0.5], [0.25, 0.0], [0.0, 1.0]])
    # Tokens times USD per million: 10 * 1 + 100 * 2, 50 * 4, ...
    expected = np.array([[210.0, 200.0], [20.0, 100.0], [630.0, 300.0]]) / 1e6
    np.testing.assert_array_equal(train.table.cost, expected.astype(np.float32))
    np.testing.assert_array_equal(train.table.group, [0, 1, 0])
    assert train.tasks is not None and train.tasks.tolist() == ["math", "math", "rag"]
    assert train.sample_id is not None and train.sample_id.tolist() == ["0", "1", "0"]
    assert train.train is train.test is None
    np.testing.assert_array_equal(splits["test"].table.score, [[0.75, 0.125], [1.0, 1.0]])
    assert splits["validation"].texts == ["two\nlines"]


def test_folder_files_or_one_file(tmp_path):
    expected = read_sprout(hub_layout(tmp_path), prices=PRICES)
    files = sorted((tmp_path / "data").iterdir(), reverse=True)
    for found in (read_sprout(tmp_path / "data", prices=PRICES), read_sprout(files, prices=PRICES)):
        assert list(found) == list(expected)
        for split in expected:
            assert found[split].texts == expected[split].texts
            np.testing.assert_array_equal(found[split].table.cost, expected[split].table.cost)
    one = read_sprout(str(tmp_path / "data" / "test-00000-of-00001.parquet"), prices=PRICES)
    assert list(one) == ["test"] and one["test"].texts == ["d", "e"]
    named = read_sprout(write(tmp_path / "mine.parquet", TEST), prices=PRICES)
    assert list(named) == ["mine"]


def test_without_dataset_and_key(tmp_path):
    columns = {name: TEST[name] for name in ("llama-3.1", "prompt", "mini")}
    found = read_sprout(write(tmp_path / "test.parquet", columns), prices=PRICES)["test"]
    assert found.table.models == ("llama-3.1", "mini")  # in the order of the columns
    assert found.tasks is found.sample_id is None


def test_reads_only_the_fields_it_needs(tmp_path, monkeypatch):
    path = write(tmp_path / "test.parquet", TEST)
    tables, read = [], pq.ParquetFile.read

    def recorded(self, columns):
        tables.append(read(self, columns=columns))
        return tables[-1]

    monkeypatch.setattr(pq.ParquetFile, "read", recorded)
    read_sprout(path, prices=PRICES)
    (table,) = tables
    assert set(table.column_names) == {"prompt", "dataset", "key", "mini", "llama-3.1"}
    for model in PRICES:
        kind = table.schema.field(model).type
        assert sorted(kind.field(i).name for i in range(kind.num_fields)) == sorted(
            ["score", "num_input_tokens", "num_output_tokens"]
        )


def test_prices(tmp_path):
    path = write(tmp_path / "test.parquet", TEST)
    fails(path, "none of 'mini', 'llama-3.1'", "'mini,<input>,<output>,<source>,'", "`prices=`", prices=None)
    fails(path, "none of 'llama-3.1';", prices={"mini": Price(1, 1)})
    csv = tmp_path / "prices.csv"
    csv.write_text("model,input_usd_per_1m,output_usd_per_1m\nmini,1,2\nllama-3.1,0,4\n")
    by_file = read_sprout(path, prices=csv)["test"].table
    np.testing.assert_array_equal(by_file.cost, read_sprout(path, prices=PRICES)["test"].table.cost)
    shipped = {"prompt": ["a"], "openai-gpt-4o": [answer(1.0, 1000, 100)], "openai-gpt-4o-mini": [answer(0.0, 1000, 0)]}
    found = read_sprout(write(path, shipped))["test"].table
    np.testing.assert_allclose(found.cost, [[0.0025 + 0.001, 0.00015]], rtol=1e-6)


def test_bad_values_are_named(tmp_path):
    hub_layout(tmp_path)
    second = tmp_path / "data" / "train-00001-of-00002.parquet"
    cases = [
        (answer(None, 1, 2), "column 'mini.score'", "found null"),
        (answer(float("nan"), 1, 2), "column 'mini.score'", "found null"),
        (answer(float("inf"), 1, 2), "column 'mini.score'", "found inf"),
        (answer(1.0, -1, 2), "column 'mini.num_input_tokens'", "found -1", "at least 0"),
        (answer(1.0, 1, -2), "column 'mini.num_output_tokens'", "found -2", "at least 0"),
        (answer(1.0, None, 2), "column 'mini.num_input_tokens'", "found null"),
        (None, "column 'mini.num_input_tokens'", "found null"),
    ]
    kind = pq.read_schema(tmp_path / FIRST).field("mini").type
    for value, *parts in cases:
        write(second, MORE | {"mini": pa.array([value], kind)})
        fails(tmp_path, f"{second}, row 0", *parts)  # of its own file, though third of the split


def test_incomplete_rows_can_be_dropped(tmp_path):
    columns = change(TEST, "mini", 0, None)
    path = write(tmp_path / "test.parquet", columns)
    found = read_sprout(path, prices=PRICES, incomplete="drop")["test"]
    assert found.texts == ["e"] and found.table.score.shape == (1, 2)
    path = write(tmp_path / "test.parquet", change(TEST, "llama-3.1", 1, answer(1.0, 1, None)))
    assert read_sprout(path, prices=PRICES, incomplete="drop")["test"].texts == ["d"]
    fails(write(path, change(columns, "mini", 1, answer(None, 1, 1))), "no row left", incomplete="drop")
    fails(write(path, change(TEST, "mini", 1, answer(1.0, -1, 1))), "row 1", "found -1", incomplete="drop")


def test_bad_columns(tmp_path):
    path = tmp_path / "test.parquet"
    lacking = [{name: value for name, value in row.items() if name != "num_output_tokens"} for row in TEST["mini"]]
    fails(write(path, TEST | {"mini": lacking}), "column 'mini'", "no field 'num_output_tokens'", "struct with 'score'")
    fails(write(path, {key: TEST[key] for key in TEST if key != "prompt"}), "no column 'prompt'", "'golden_answer'")
    fails(write(path, {key: TEST[key] for key in TEST if key != "mini"}), "at least two models", "'llama-3.1'")
    fails(write(path, TEST | {"prompt": ["a", None]}), "row 1, column 'prompt'", "found null")
    fails(write(path, {key: values[:0] for key, values in TEST.items()} | EMPTY), "0 rows")
    words = [row | {"score": "good"} for row in TEST["mini"]]
    fails(write(path, TEST | {"mini": words}), "row 0, column 'mini.score'", "found 'good'", "finite score")


EMPTY = {name: pa.array([], pa.array(TEST[name]).type) for name in ("mini", "llama-3.1")}


def test_bad_files(tmp_path):
    fails(tmp_path, "holds no Parquet file", "train-00000-of-00003.parquet")
    fails(tmp_path / "none.parquet", "does not exist")
    (tmp_path / "x.csv").write_text("prompt\n")
    fails(tmp_path / "x.csv", "unknown suffix '.csv'")
    hub_layout(tmp_path)
    (tmp_path / FIRST).unlink()
    fails(tmp_path, "part of the split 'train'", "'train-00001-of-00002.parquet'", "expected 2 parts")
    (tmp_path / FIRST).write_bytes(b"PAR1 cut short")
    fails(tmp_path, FIRST, "cannot be read")
    other = {("big" if name == "mini" else name): values for name, values in TRAIN.items()}
    write(tmp_path / FIRST, other)
    fails(tmp_path, "train-00001-of-00002.parquet", "give all files the same ones")
    write(tmp_path / FIRST, TRAIN)
    write(tmp_path / "data" / "test-00000-of-00001.parquet", TEST | {"big": TEST["mini"]})
    fails(tmp_path, "test-00000-of-00001.parquet", "'mini', 'llama-3.1', 'big'", "give all splits the same ones")


def test_fetch(tmp_path, monkeypatch):
    import huggingface_hub

    calls = []

    def snapshot(repository, *, repo_type, revision, allow_patterns, local_files_only):
        calls.append(local_files_only)
        assert (repository, repo_type, revision) == ("CARROT-LLM-Routing/SPROUT", "dataset", "abc")
        if local_files_only and not (tmp_path / "data").exists():
            raise FileNotFoundError("nothing in the cache")
        if not local_files_only:
            hub_layout(tmp_path)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert read_sprout(fetch_sprout("abc"), prices=PRICES)["train"].texts == ["two\nlines", "b", "two\nlines"]
    fetch_sprout("abc")
    assert calls == [True, False, True]
    for file in (tmp_path / "data").glob("validation-*"):
        file.unlink()
    fetch_sprout("abc")  # a split is missing from the cache
    assert calls[3:] == [True, False]

    def offline(repository, *, local_files_only, **rest):
        raise FileNotFoundError("no cache") if local_files_only else ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(DataError) as caught:
        fetch_sprout()
    for part_of in ("CARROT-LLM-Routing/SPROUT", "no network; download data/train-*.parquet", "`read_sprout`"):
        assert part_of in str(caught.value)
