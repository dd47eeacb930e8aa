"""Logs: every source that is read, the round trip, and an error for each way a log can be wrong."""

import json

import jax.numpy as jnp
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jrouter.io.errors import DataError
from jrouter.io.logs import read_log
from jrouter.io.write_log import write_log
from jrouter.types import LoggedData

LOG = {
    "query": ["two\nlines", 'say "hi", twice', "two\nlines", " 1"],
    "embedding:mini": [[0.1, 0.2], [1.0, -1.0], [0.3, 0.4], [0.0, 1e-8]],
    "model": ["b", "a", "b", "10"],
    "score": [0.1, None, 1 / 3, 1.0],
    "cost": [1e-5, 0.0, 2.0, 0.5],
    "propensity": [0.5, 0.25, 1.0, 1e-3],
    "timestamp": ["2024-03-01T00:00:01", "2024-03-01T00:00:00.5", "2024-03-02T00:00:00", "2024-03-01"],
    "allowed_models": [["a", "b"], ["a"], ["b", "10"], ["10", "a", "b"]],
    "keep_probability": [1.0, 0.5, 1 / 3, 0.1],
}


def f32(values):
    return np.asarray(values, np.float32)


def change(column, row, value):
    """LOG with one value changed."""
    values = list(LOG[column])
    values[row] = value
    return LOG | {column: values}


def drop(*names):
    return {name: values for name, values in LOG.items() if name not in names}


def parquet(path, columns):
    pq.write_table(pa.table(columns), path)
    return path


def csv(path, columns):
    def cell(value):
        text = json.dumps(value) if isinstance(value, list) else "" if value is None else str(value)
        return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n') else text

    rows = [list(columns), *zip(*columns.values(), strict=True)]
    path.write_text("".join(",".join(cell(value) for value in row) + "\n" for row in rows))
    return path


def jsonl(path, columns):
    rows = zip(*columns.values(), strict=True)
    path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    return path


WRITERS = {"t.parquet": parquet, "t.csv": csv, "t.jsonl": jsonl}
ARRAYS = ("x", "model", "score", "cost", "propensity", "row_weight", "allowed", "scored", "group", "time")


def assert_same(a, b):
    assert (a.models, a.cost_unit) == (b.models, b.cost_unit)
    for name in ARRAYS:
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        if left is not None:
            assert left.dtype == right.dtype, name
            np.testing.assert_array_equal(left, right, name)


def fails(source, *parts, label=None, **options):
    """The error names the file, or what else was read, and holds all parts, in one sentence."""
    with pytest.raises(DataError) as caught:
        read_log(source, **options)
    message = str(caught.value)
    assert message.startswith(label or str(source)) and message.endswith(".") and "\n" not in message, message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("name", WRITERS)
def test_reads_every_column(tmp_path, name):
    log = read_log(WRITERS[name](tmp_path / name, LOG))
    assert log.models == ("10", "a", "b") and log.cost_unit == "USD"
    np.testing.assert_array_equal(log.x, f32(LOG["embedding:mini"]))
    np.testing.assert_array_equal(log.model, np.array([2, 1, 2, 0]))
    np.testing.assert_array_equal(log.score, f32([0.1, 0, 1 / 3, 1]))
    np.testing.assert_array_equal(log.scored, [True, False, True, True])
    np.testing.assert_array_equal(log.cost, f32(LOG["cost"]))
    np.testing.assert_array_equal(log.propensity, f32(LOG["propensity"]))
    np.testing.assert_array_equal(log.row_weight, f32([1, 2, 3, 10]))
    np.testing.assert_array_equal(log.time, f32([1, 0.5, 86400, 0]))
    np.testing.assert_array_equal(log.group, np.array([0, 1, 0, 2]))
    np.testing.assert_array_equal(log.allowed, [[0, 1, 1], [0, 1, 0], [1, 0, 1], [1, 1, 1]])
    kinds = {array: getattr(log, array).dtype for array in ARRAYS}
    assert {kinds.pop("model"), kinds.pop("group")} == {jnp.dtype("int32")}
    assert {kinds.pop("scored"), kinds.pop("allowed")} == {jnp.dtype("bool")}
    assert set(kinds.values()) == {jnp.dtype("float32")}


def test_all_sources_agree(tmp_path):
    expected = read_log(parquet(tmp_path / "t.pq", LOG))
    for name, write in {"t.csv": csv, "t.ndjson": jsonl, "t.json": jsonl}.items():
        assert_same(read_log(str(write(tmp_path / name, LOG))), expected)
    assert_same(read_log(pa.table(LOG)), expected)
    frame = pandas.DataFrame(LOG, index=[5, 5, 6, 7]).astype({"model": "category", "score": "Float64"})
    assert_same(read_log(frame), expected)
    assert_same(read_log(frame.assign(timestamp=pandas.to_datetime(frame["timestamp"], format="ISO8601"))), expected)


@pytest.mark.parametrize("name", WRITERS)
def test_folder_of_files(tmp_path, name):
    write, suffix = WRITERS[name], name[1:]
    (tmp_path / "log").mkdir()
    for part, rows in {"b": slice(1, 4), "a": slice(0, 1)}.items():
        write(tmp_path / "log" / f"{part}{suffix}", {key: values[rows] for key, values in LOG.items()})
    (tmp_path / "log" / "_SUCCESS").touch()
    assert_same(read_log(tmp_path / "log"), read_log(write(tmp_path / name, LOG)))

    bad = write(tmp_path / "log" / f"b{suffix}", {k: v[1:] for k, v in change("cost", 2, -1.0).items()})
    fails(tmp_path / "log", "row 1, column 'cost'", label=str(bad))  # the row within that file
    write(bad, {k: v[1:] for k, v in drop("propensity").items()})
    fails(tmp_path / "log", "'propensity'", f"a{suffix}", "the same ones", label=str(bad))
    bad.write_text("")
    fails(tmp_path / "log", "0 bytes", label=str(bad))


def test_folder_errors(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    fails(folder, "folder without files")
    parquet(folder / "a.parquet", LOG)
    parquet(folder / "b.parquet", LOG | {"cost": ["1", "2", "3", "4"]})
    fails(folder, "other column types", "cost", label=str(folder / "b.parquet"))
    (folder / "b.parquet").rename(folder / "b.txt")
    fails(folder, "unknown suffix '.txt'", label=str(folder / "b.txt"))
    (folder / "b.txt").unlink()
    (folder / "deeper").mkdir()
    fails(folder, "is a folder", label=str(folder / "deeper"))


def test_optional_columns_may_be_missing_or_null_throughout(tmp_path):
    needed = {name: LOG[name] for name in ("embedding:mini", "model", "cost")} | {"score": [0.0, 1.0, 0.5, 0.0]}
    empty = {name: [None] * 4 for name in LOG if name not in needed} | {"group": [None] * 4}
    for name, write in WRITERS.items():
        for columns in (needed, needed | empty):
            log = read_log(write(tmp_path / name, columns))
            optional = (log.propensity, log.row_weight, log.allowed, log.scored, log.time)
            assert optional == (None,) * 5
            np.testing.assert_array_equal(log.group, [0, 1, 2, 3])


def test_group():
    np.testing.assert_array_equal(read_log(pa.table(LOG | {"group": [7, 7, 3, 7]})).group, [0, 0, 1, 0])
    repeated = drop("query") | {"embedding:mini": [[1.0], [2.0], [1.0], [3.0]]}
    np.testing.assert_array_equal(read_log(pa.table(repeated)).group, [0, 1, 0, 2])


def test_column_mapping(tmp_path):
    names = {"model": "model_group", "cost": "spend", "embedding": "vector", "propensity": "p", "query": "prompt"}
    renamed = {names.get(name.split(":")[0], name): values for name, values in LOG.items()}
    expected = read_log(pa.table(LOG))
    path = tmp_path
    for name, write in WRITERS.items():
        path = write(tmp_path / name, renamed | {"model": ["not", "this", "one", "!"], "embedding:x": [[1.0]] * 4})
        assert_same(read_log(path, columns=names), expected)
    assert_same(read_log(pandas.DataFrame(renamed).astype({"score": "Float64"}), columns=names), expected)
    # One column may serve twice, and errors name the file's own column.
    np.testing.assert_array_equal(read_log(path, columns=names | {"group": "prompt"}).group, [0, 1, 0, 2])
    path = parquet(tmp_path / "t.parquet", renamed | {"spend": [1, 1, -1, 1]})
    fails(path, "row 2, column 'spend'", columns=names)
    fails(path, "column 'gone'", "'spend'", columns=names | {"cost": "gone"})
    fails(path, "cannot map 'price'", "'keep_probability'", columns={"price": "spend"})


def test_choice_of_embedding():
    table = pa.table(LOG | {"embedding:big": [[1.0, 2.0, 3.0]] * 4})
    fails(table, "'embedding:mini', 'embedding:big'", "`embedding=`", label="pyarrow table")
    assert read_log(table, embedding="big").x.shape == read_log(table, embedding="embedding:big").x.shape == (4, 3)
    fails(table, "no embedding 'huge'", "'embedding:big'", label="pyarrow table", embedding="huge")


def test_models_fix_the_order():
    log = read_log(pa.table(LOG), models=["b", "z", "10", "a"])
    assert log.models == ("b", "z", "10", "a")
    np.testing.assert_array_equal(log.model, [0, 3, 0, 2])
    assert log.allowed is not None and log.allowed.shape == (4, 4) and not log.allowed[:, 1].any()
    fails(pa.table(LOG), "row 1, column 'model'", "'a'", "`models`", label="pyarrow table", models=["b", "10"])
    fails(pa.table(LOG), "at least two, each once", label="pyarrow table", models=["a", "b", "10", "a"])
    table = pa.table(change("allowed_models", 2, ["b", "never"]))
    assert read_log(table).models == ("10", "a", "b")  # nothing can be learned about a model that never answered
    fails(table, "row 2, column 'allowed_models'", "'never'", label="pyarrow table", models=["a", "b", "10"])


TIMES = {
    "zone": ["2024-03-01T02:00:01+02:00", "2024-03-01T00:00:00.5Z", "2024-03-02T00:00:00Z", "2024-03-01 00:00Z"],
    "number": [1.7e9 + 1, 1.7e9 + 0.5, 1.7e9 + 86400, 1.7e9],
    "text": ["1700000001", "1700000000.5", "1700086400", "1.7e9"],
}


@pytest.mark.parametrize("kind", TIMES)
def test_timestamps(tmp_path, kind):
    for name, write in WRITERS.items():
        log = read_log(write(tmp_path / name, LOG | {"timestamp": TIMES[kind]}))
        np.testing.assert_array_equal(log.time, f32([1, 0.5, 86400, 0]))


def test_parquet_timestamps():
    days = pa.array([1, 0, 3, 2], pa.date32())
    np.testing.assert_array_equal(read_log(pa.table(LOG | {"timestamp": days})).time, f32([1, 0, 3, 2]) * 86400)
    ticks = pa.array([1_700_000_000_001, 1_700_000_000_000] * 2, pa.timestamp("ms", "Europe/Berlin"))
    np.testing.assert_array_equal(read_log(pa.table(LOG | {"timestamp": ticks})).time, f32([1e-3, 0, 1e-3, 0]))


BAD_VALUES = [
    ("score", 2, float("nan"), "finite score, or null"),
    ("score", 2, float("inf"), "finite score, or null"),
    ("cost", 1, None, "at least 0"),
    ("cost", 1, float("nan"), "at least 0"),
    ("cost", 3, float("inf"), "at least 0"),
    ("cost", 3, -1e-9, "at least 0"),
    ("propensity", 0, 0.0, "in (0, 1]"),
    ("propensity", 0, 1.5, "in (0, 1]"),
    ("propensity", 1, -0.5, "in (0, 1]"),
    ("propensity", 1, 1e-50, "in (0, 1]"),
    ("propensity", 1, float("nan"), "in (0, 1]"),
    ("propensity", 3, None, "drop the column"),
    ("keep_probability", 3, 0.0, "in (0, 1]"),
    ("keep_probability", 3, 2.0, "in (0, 1]"),
    ("keep_probability", 3, None, "drop the column"),
    ("model", 2, None, "name of a model"),
    ("timestamp", 2, None, "in every row, or in none"),
    ("timestamp", 2, "yesterday", "ISO-8601 or epoch seconds"),
    ("timestamp", 3, "2024-03-01T00:00:00Z", "all rows alike"),
    ("allowed_models", 0, ["a", "10"], "the model that answered"),
    ("allowed_models", 3, [], "the model that answered"),
    ("allowed_models", 1, None, "list of model names"),
    ("embedding:mini", 2, [1.0, 2.0, 3.0], "expected 2"),
    ("embedding:mini", 3, [1.0, float("inf")], "place 1"),
    ("embedding:mini", 1, None, "list of numbers"),
]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(("column", "row", "value", "expected"), BAD_VALUES)
def test_bad_values_are_named(tmp_path, name, column, row, value, expected):
    path = WRITERS[name](tmp_path / name, change(column, row, value))
    fails(path, f"row {row}, column '{column}'", expected)


def test_other_bad_values(tmp_path):
    fails(csv(tmp_path / "t.csv", change("score", 2, "good")), "row 2, column 'score'", "found 'good'", "finite score")
    fails(jsonl(tmp_path / "t.jsonl", change("score", 2, "good")), "row 2, column 'score'", "found 'good'")
    group = LOG | {"group": [1, None, 1, 1]}
    fails(parquet(tmp_path / "t.parquet", group), "row 1, column 'group'", "in every row, or in none")
    millis = LOG | {"timestamp": [1.7e12] * 4}
    fails(parquet(tmp_path / "t.parquet", millis), "row 0, column 'timestamp'", "divide milliseconds by 1,000")
    fails(parquet(tmp_path / "t.parquet", LOG | {"score": [None] * 4}), "column 'score'", "null in every row")
    fails(parquet(tmp_path / "t.parquet", LOG | {"model": ["a"] * 4}), "column 'model'", "'a'", "at least two")
    fails(parquet(tmp_path / "t.parquet", LOG | {"model": [["a"]] * 4}), "column 'model'", "list<")
    fails(parquet(tmp_path / "t.parquet", LOG | {"allowed_models": [[1]] * 4}), "column 'allowed_models'", "int64")
    fails(parquet(tmp_path / "t.parquet", LOG | {"timestamp": [[1]] * 4}), "column 'timestamp'", "list<")
    fails(parquet(tmp_path / "t.parquet", LOG | {"query": [{"a": 1}] * 4}), "column 'query'", "struct<")


@pytest.mark.parametrize("name", WRITERS)
def test_missing_columns(tmp_path, name):
    write, path = WRITERS[name], tmp_path / name
    for column in ("model", "score", "cost"):
        fails(write(path, drop(column)), f"column '{column}': is missing", "columns=", "'query', 'embedding:mini'")
    fails(write(path, drop("embedding:mini")), "only text", "'embedding:<encoder>'", "embed the queries")
    fails(write(path, drop("embedding:mini", "query")), "neither 'query' nor an embedding")


def test_bad_files(tmp_path):
    fails(tmp_path / "none.csv", "does not exist")
    (tmp_path / "t.txt").write_text("x")
    fails(tmp_path / "t.txt", "unknown suffix '.txt'", ".parquet", ".jsonl")
    (tmp_path / "t.parquet").write_text("not parquet")
    fails(tmp_path / "t.parquet", "cannot be read")
    good = jsonl(tmp_path / "t.jsonl", LOG).read_text()
    for text, parts in {
        "": ("0 bytes",),
        "\n": ("is missing",),
        good + '\n{"cost": \n': ("row 4", "not JSON"),
        good + "[1]\n": ("row 4", "[1]", "one JSON object on each line"),
        "[" + good.replace("\n", ",\n", 3) + "]": ("row 0", "not JSON"),
    }.items():
        (tmp_path / "t.jsonl").write_text(text)
        fails(tmp_path / "t.jsonl", *parts)
    (tmp_path / "t.jsonl").write_bytes(good.encode() + b'{"cost": "\xe9"}\n')
    fails(tmp_path / "t.jsonl", "cannot be read")
    fails(pa.table(LOG).slice(0, 0), "0 rows", label="pyarrow table")
    fails({"a": 1}, "is no log", label="dict")


def test_json_column_that_nobody_needs_may_change_its_type(tmp_path):
    mixed = LOG | {"metadata": [1, "x", {"a": 1}, [2]]}
    assert_same(read_log(jsonl(tmp_path / "t.jsonl", mixed)), read_log(pa.table(LOG)))


def test_pandas():
    frame = pandas.DataFrame(LOG)  # the null score is NaN here, which cannot be told from one that was logged
    fails(frame, "row 1, column 'score'", "found nan", "or null", label="DataFrame")
    assert read_log(frame.astype({"score": "Float64"})).scored is not None
    assert read_log(frame.assign(score=[1, 0, 1, 0], query=["q", np.nan, "q", "r"])).scored is None
    mixed = frame.assign(cost=[1, 2, "x", 3])
    fails(mixed.set_index(pandas.Index([3, 2, 1, 0])), "row 2, column 'cost'", "found 'x'", label="DataFrame")
    frame = pandas.concat([frame.assign(score=1.0), frame[["cost"]]], axis=1)
    fails(frame, "column 'cost'", "2 times", label="DataFrame")


def full_log(rows=500, width=7):
    """A log with every field, of float32 that no short decimal holds."""
    rng = np.random.default_rng(0)
    model = rng.integers(0, 3, rows)
    allowed = rng.random((rows, 4)) < 0.5
    allowed[np.arange(rows), model] = True
    scored = rng.random(rows) < 0.8
    real = [rng.random(rows, np.float32) + np.float32(1e-3) for _ in range(5)]
    return LoggedData(
        x=jnp.asarray(rng.normal(size=(rows, width)).astype(np.float32)),
        model=jnp.asarray(model.astype(np.int32)),
        score=jnp.asarray(np.where(scored, real[0], 0).astype(np.float32)),
        cost=jnp.asarray(real[1] * np.float32(1e-6)),
        propensity=jnp.asarray(np.minimum(real[2], 1)),
        row_weight=jnp.asarray(1 / np.minimum(real[3], 1)),
        allowed=jnp.asarray(allowed),
        scored=jnp.asarray(scored),
        group=jnp.asarray(np.arange(rows, dtype=np.int32) // 2),
        time=jnp.asarray(np.sort(real[4] - real[4].min()) * np.float32(1e5)),
        models=("m/1", "gpt, 4", "null", "never"),
        cost_unit="joules",
    )


@pytest.mark.parametrize("suffix", ["parquet", "pq", "csv", "csv.gz"])
def test_round_trip_is_exact(tmp_path, suffix):
    path = tmp_path / "new" / f"log.{suffix}"
    log = full_log()
    write_log(log, path)
    assert_same(read_log(path, models=log.models, cost_unit="joules"), log)
    few = LoggedData(log.x, log.model, log.score, log.cost, group=log.group, models=log.models)
    write_log(few, str(path))  # over the other one
    assert_same(read_log(path, models=log.models), few)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_write_log_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "log.parquet"
    write_log(full_log(), path)
    before = path.read_bytes()

    def broken(table, file):
        file.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", broken)
    with pytest.raises(DataError, match="log.parquet: cannot be written: No space left on device"):
        write_log(full_log(rows=3), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_write_log_errors(tmp_path):
    log = full_log(rows=3)
    with pytest.raises(DataError, match=r"log.jsonl: has an unknown suffix '.jsonl'"):
        write_log(log, tmp_path / "log.jsonl")
    with pytest.raises(DataError, match="no names"):
        write_log(LoggedData(log.x, log.model, log.score, log.cost), tmp_path / "log.csv")
    counts = LoggedData(log.x, log.model, log.score, log.cost, row_weight=jnp.array([1.0, 0.0, 2]), models=log.models)
    with pytest.raises(DataError, match=r"log.csv, row 1: has the row weight 0.0"):
        write_log(counts, tmp_path / "log.csv")
    assert list(tmp_path.iterdir()) == []


CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}, {"role": "user", "content": "sum"}]


def lengths(texts):
    """An encoder: how long a text is, and how many times it has an s."""
    return np.array([[len(text), text.count("s")] for text in texts], np.float32)


@pytest.mark.parametrize("name", WRITERS)
def test_texts_are_embedded_where_asked(tmp_path, name):
    log = read_log(WRITERS[name](tmp_path / name, LOG), embed=lengths)
    np.testing.assert_array_equal(log.x, lengths(LOG["query"]))
    assert log.group is not None and log.group[0] == log.group[2] != log.group[1]
    only_text = read_log(WRITERS[name](tmp_path / name, drop("embedding:mini")), embed=lengths)
    np.testing.assert_array_equal(only_text.x, log.x)


@pytest.mark.parametrize("messages", [[CHAT] * 4, [json.dumps(CHAT)] * 4], ids=["lists", "json"])
def test_a_query_of_another_form_is_made_text(tmp_path, messages):
    def last(value):
        return (json.loads(value) if isinstance(value, str) else value)[-1]["content"]

    path = parquet(tmp_path / "t.parquet", drop("query", "embedding:mini") | {"messages": messages})
    log = read_log(path, columns={"query": "messages"}, embed=lengths, text=last)
    np.testing.assert_array_equal(log.x, [[3, 1]] * 4)


def test_texts_that_cannot_be_embedded(tmp_path):
    path = parquet(tmp_path / "t.parquet", change("query", 2, None))
    with pytest.raises(DataError, match=r"row 2, column 'query': found null, expected the text of a query"):
        read_log(path, embed=lengths)
    path = parquet(tmp_path / "t.parquet", LOG)
    with pytest.raises(DataError, match="row 0, column 'query'.*no text could be made: no chat"):

        def refuse(value):
            raise ValueError("no chat")

        read_log(path, embed=lengths, text=refuse)
    with pytest.raises(DataError, match="column 'query': is missing; map the column of texts"):
        read_log(parquet(tmp_path / "t.parquet", drop("query")), embed=lengths)
    with pytest.raises(ValueError, match=r"a row for each of 4 texts, got shape \(3, 2\)"):
        read_log(parquet(tmp_path / "t.parquet", LOG), embed=lambda texts: lengths(texts[1:]))
    with pytest.raises(ValueError, match="give one of both"):
        read_log(path, embed=lengths, embedding="mini")
    with pytest.raises(ValueError, match="needs `embed`"):
        read_log(path, text=str)
