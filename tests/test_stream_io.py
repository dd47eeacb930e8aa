"""A log read in chunks holds what `read_log` reads, in every pass, and complains as it does."""

import threading
import time
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jrouter.io.errors import DataError
from jrouter.io.logs import read_log
from jrouter.io.read_ahead import READ_AHEAD, read_ahead
from jrouter.io.stream import _even, open_log
from jrouter.streaming import Roles

N, D = 230, 3


def table(n=N, seed=0, **changed):
    """A log's columns, with all that is optional."""
    rng = np.random.default_rng(seed)
    model = rng.integers(0, 3, n)
    columns = {
        "query": [f"q{i // 2}" for i in range(n)],
        "embedding:mini": rng.normal(size=(n, D)).astype(np.float32).tolist(),
        "model": [("b", "a", "c")[i] for i in model],
        "score": [None if rng.random() < 0.1 else float(rng.random()) for _ in range(n)],
        "cost": rng.random(n).tolist(),
        "propensity": (rng.random(n) * 0.9 + 0.1).tolist(),
        "keep_probability": (rng.random(n) * 0.9 + 0.1).tolist(),
        "allowed_models": [["a", "b", "c"] if i % 3 else [("b", "a", "c")[model[i]]] for i in range(n)],
        "timestamp": list(range(n)),
    }
    return columns | changed


def write(folder, columns, files=3, row_group=31):
    """The rows over several files of several row groups."""
    folder.mkdir(exist_ok=True)
    whole = pa.table(columns)
    size = -(-whole.num_rows // files)
    for number in range(files):
        part = whole.slice(number * size, size)
        pq.write_table(part, folder / f"part_{number}.parquet", row_group_size=row_group)
    return folder


def rows_in_order(stream, order=None):
    """All rows of a pass, filling taken away, sorted by their number; and the chunks."""
    chunks = list(stream.chunks(order=order))
    row = np.concatenate([chunk.row for chunk in chunks])
    place = np.argsort(row, kind="stable")[(row < 0).sum() :]

    def joined(name):
        parts = [getattr(chunk.log, name) for chunk in chunks]
        return None if parts[0] is None else np.concatenate(parts)[place]

    names = ("x", "model", "score", "cost", "propensity", "row_weight", "allowed", "scored")
    return {name: joined(name) for name in names}, np.concatenate([chunk.key for chunk in chunks])[place], chunks


@pytest.mark.parametrize("order", [None, 0, 1])
def test_chunks_hold_what_read_log_reads(tmp_path, order):
    folder = write(tmp_path / "log", table())
    log, stream = read_log(folder), open_log(folder, chunk_rows=64)
    assert (stream.models, stream.dim, stream.rows, stream.n_chunks) == (log.models, D, N, 4)
    found, key, chunks = rows_in_order(stream, order)
    for name, values in found.items():
        np.testing.assert_array_equal(values, np.asarray(getattr(log, name)), name)
    # The same rows are together as by `read_log`'s groups.
    group = np.asarray(log.group)
    assert len(np.unique(key)) == len(set(zip(key.tolist(), group.tolist(), strict=True))) == len(np.unique(group))
    for chunk in chunks:
        assert len(chunk.row) == 64 and np.isfinite(chunk.log.x).all()
        np.testing.assert_array_equal(chunk.log.row_weight == 0, chunk.row < 0)
    numbers = np.concatenate([chunk.row for chunk in chunks])
    np.testing.assert_array_equal(np.sort(numbers[numbers >= 0]), np.arange(N))
    assert (numbers < 0).sum() == 4 * 64 - N and (numbers[-1] < 0)
    assert (order is None) == bool((np.diff(numbers[numbers >= 0]) == 1).all())


def test_orders_differ_by_seed_and_repeat(tmp_path):
    stream = open_log(write(tmp_path / "log", table()), chunk_rows=64)

    def numbers(order):
        return np.concatenate([chunk.row for chunk in stream.chunks(order=order)])

    np.testing.assert_array_equal(numbers(3), numbers(3))
    assert (numbers(3) != numbers(4)).any()


def test_folds_are_those_of_the_row_in_every_pass_and_of_its_query(tmp_path):
    stream = open_log(write(tmp_path / "log", table()), chunk_rows=50)
    roles = Roles(N, n_folds=5, nuisance_rows=100)
    for rule in (roles.fold, roles.sampled, roles.validates):
        by_row = []
        for order in (None, 5):
            chunks = list(stream.chunks(order=order))
            row, value = (np.concatenate(part) for part in ([c.row for c in chunks], [rule(c) for c in chunks]))
            by_row.append(value[row >= 0][np.argsort(row[row >= 0])])
        np.testing.assert_array_equal(by_row[0], by_row[1])
        if rule != roles.sampled:
            np.testing.assert_array_equal(by_row[0][::2], by_row[0][1::2])  # two rows a query
        assert 0 < (by_row[0] == by_row[0][0]).sum() < N


def test_what_is_together_without_a_query_column(tmp_path):
    same = table()["embedding:mini"]
    same[100] = same[7]
    for columns, alike in (
        ({"query": [None] * N, "embedding:mini": same}, (7, 100)),
        ({"group": [5 if i in (3, 200) else i + 10 for i in range(N)], "query": ["same"] * N}, (3, 200)),
        ({"query": [None if i in (7, 100) else f"q{i}" for i in range(N)], "embedding:mini": same}, (7, 100)),
    ):
        folder = write(tmp_path / f"log{alike}{len(columns)}{columns['query'][0]}", table(**columns))
        _, key, _ = rows_in_order(open_log(folder, chunk_rows=64))
        values, counts = np.unique(key, return_counts=True)
        assert len(values) == N - 1 and counts.max() == 2
        assert key[alike[0]] == key[alike[1]] == values[counts == 2][0]


def test_optional_columns_may_be_missing_or_null_throughout(tmp_path):
    columns = table()
    needed = {name: columns[name] for name in ("embedding:mini", "model", "cost", "score")}
    for number, names in enumerate(((), ("propensity", "keep_probability", "allowed_models", "group", "query"))):
        folder = write(tmp_path / str(number), needed | {name: pa.nulls(N, pa.string()) for name in names})
        found, _, chunks = rows_in_order(open_log(folder, chunk_rows=100))
        assert found["propensity"] is None and found["allowed"] is None
        assert (found["row_weight"] == 1).all() and len(chunks) == 3
    # Null in the first rows is no reason to think that it is null throughout.
    late = [None] * 150 + columns["propensity"][150:]
    stream = open_log(write(tmp_path / "late", table(propensity=late)), chunk_rows=100)
    with pytest.raises(DataError, match=r"part_0.parquet, row 0, column 'propensity': found null.*drop the column"):
        list(stream.chunks())


BAD = [
    ("score", float("nan"), "finite score, or null"),
    ("cost", -1.0, "at least 0"),
    ("cost", None, "at least 0"),
    ("propensity", 1.5, "in (0, 1]"),
    ("keep_probability", None, "drop the column"),
    ("allowed_models", [], "the model that answered"),
    ("embedding:mini", [1.0, 2.0], "numbers, expected 3, as in row 0 of"),
    ("embedding:mini", [1.0, float("inf"), 0.0], "place 1"),
]


@pytest.mark.parametrize("order", [None, 1])
@pytest.mark.parametrize(("column", "value", "expected"), BAD)
def test_bad_values_are_named_by_file_row_and_column_as_by_read_log(tmp_path, column, value, expected, order):
    values = table()[column]
    values[170] = value
    folder = write(tmp_path / "log", table(**{column: values}))  # 77 rows a file: row 16 of the third
    stream = open_log(folder, chunk_rows=64)
    with pytest.raises(DataError) as caught:
        list(stream.chunks(order=order))
    message = str(caught.value)
    assert f"part_2.parquet, row 16, column '{column}'" in message and expected in message
    with pytest.raises(DataError) as whole:
        read_log(folder)
    assert str(whole.value) == message


def fails(source, *parts, **options):
    with pytest.raises(DataError) as caught:
        list(open_log(source, **options).chunks())
    for part in parts:
        assert part in str(caught.value)


def test_bad_files_and_choices(tmp_path):
    fails(tmp_path / "none.parquet", "does not exist")
    (tmp_path / "t.csv").write_text("model,score,cost\n")
    fails(tmp_path / "t.csv", "unknown suffix '.csv'", ".parquet")
    (tmp_path / "t.parquet").write_text("not parquet")
    fails(tmp_path / "t.parquet", "cannot be read")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "folder without files")
    folder = write(tmp_path / "log", table())
    fails(folder, "column 'gone'", columns={"cost": "gone"})
    fails(folder, "no embedding 'huge'", embedding="huge")
    fails(folder, "at least two, each once", models=["a"])
    fails(folder, "row 0, column 'model'", "found", models=["x", "y"])
    pq.write_table(pa.table(table(cost=["1"] * N)), folder / "z.parquet")
    fails(folder, "z.parquet", "other column types", "cost")
    pq.write_table(pa.table(table()).drop_columns("propensity"), folder / "z.parquet")
    fails(folder, "z.parquet", "'propensity'", "the same ones")
    pq.write_table(pa.table(table()).slice(0, 0), folder / "z.parquet")
    fails(folder, "z.parquet: is empty (0 rows)")
    models = table()["model"]
    models[100] = None
    fails(write(tmp_path / "null", table(model=models)), "part_1.parquet, row 23, column 'model'", "name of a model")


def test_given_models_fix_the_order_and_are_binding(tmp_path):
    folder = write(tmp_path / "log", table())
    models = ["c", "never", "a", "b"]
    found, _, _ = rows_in_order(open_log(folder, models=models, chunk_rows=64))
    log = read_log(folder, models=models)
    np.testing.assert_array_equal(found["model"], log.model)
    np.testing.assert_array_equal(found["allowed"], log.allowed)


def test_chunks_are_equal_and_full():
    for rows, most, multiple in (
        (10_000_000, 65_536, 512),
        (130_000, 65_536, 512),
        (513, 512, 512),
        (70_001, 70_000, 1),
    ):
        size = _even(rows, most, multiple)
        assert size <= most and size % multiple == 0
        assert size * -(-rows // size) - rows <= multiple * -(-rows // size)


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "jrouter read ahead"]


def test_the_thread_reads_no_further_than_it_may_and_ends_early():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    source = items()
    ahead = read_ahead(source)
    assert next(ahead) == 0
    deadline = time.monotonic() + 10
    while len(made) < READ_AHEAD + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    # One taken, those that wait, and one that waits for room.
    assert len(made) == READ_AHEAD + 2
    assert len(readers()) == 1
    ahead.close()
    assert not readers() and len(made) <= READ_AHEAD + 3
    assert next(source, "closed") == "closed"


def test_what_goes_wrong_in_the_thread_is_raised_where_it_would_have_come():
    def items():
        yield from range(3)
        raise KeyError("fourth")

    seen = []
    with pytest.raises(KeyError, match="fourth"):
        for item in read_ahead(items()):
            seen.append(item)
    assert seen == [0, 1, 2] and not readers()


def test_a_pass_that_is_left_leaves_no_thread_and_no_bar(tmp_path):
    stream = open_log(write(tmp_path / "log", table()), chunk_rows=20)
    for label in (None, "reading"):
        chunks = stream.chunks(label=label)
        assert len(list(islice(chunks, 2))) == 2
        chunks.close()
        assert not readers()
    assert len(list(stream.chunks(label="reading"))) == 12
