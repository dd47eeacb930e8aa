"""Whatever a log holds: a bad row is rejected with its reason, a bad log refused in one sentence, and that is all."""

import gzip
import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jrouter.io.contract import Contract
from jrouter.io.errors import DataError
from jrouter.io.ingest import ingest
from jrouter.io.logs import read_log

FAST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def row(i, **changed):
    return {
        "request_id": f"r{i}",
        "query": f"q{i}",
        "model": "ab"[i % 2],
        "score": i % 3 / 2,
        "cost": 0.001 * (1 + i % 5),
        "propensity": 0.5,
        "timestamp": 1.7e9 + i,
        "embedding": [1.0, float(i)],
    } | changed


def rows(n=60, **changed):
    return [row(i, **changed) for i in range(n)]


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def reasons(report):
    assert report.rows_read == report.rows_kept + sum(one.rows for one in report.rejected) + sum(
        report.dropped.values()
    )
    return {one.reason: [(first.row, first.found) for first in one.first] for one in report.rejected}


def fails(source, tmp_path, *parts, contract=Contract(), **options):
    """One sentence that names the log and holds all parts; the target stays as it was."""
    target = tmp_path / "clean"
    before = sorted(target.iterdir()) if target.exists() else None
    with pytest.raises(DataError) as caught:
        ingest(source, target, contract, **options)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message, message
    for part in parts:
        assert part in message, message
    assert (sorted(target.iterdir()) if target.exists() else None) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".clean")]


@pytest.mark.parametrize(
    ("column", "value", "reason", "found"),
    [
        ("model", None, "model is missing", "null"),
        ("model", "", "model is missing", "''"),
        ("model", "  ", "model is missing", "'  '"),
        ("model", ["a"], "model is no name", None),
        ("score", "good", "score is no finite number", "'good'"),
        ("score", math.nan, "score is no finite number", "nan"),
        ("score", -math.inf, "score is no finite number", "-inf"),
        ("score", 1e39, "score is no finite number", "1e+39"),
        ("score", {"value": 1}, "score is no finite number", None),
        ("cost", None, "cost is missing", "null"),
        ("cost", -1e-9, "cost is negative", "-1e-09"),
        ("cost", math.inf, "cost is NaN or infinite", "inf"),
        ("cost", math.nan, "cost is NaN or infinite", "nan"),
        ("cost", "$1", "cost is no number", "'$1'"),
        ("propensity", 0, "propensity is 0 or below (0 means unrecorded)", "0.0"),
        ("propensity", -0.5, "propensity is 0 or below (0 means unrecorded)", "-0.5"),
        ("propensity", 1e-50, "propensity is 0 or below (0 means unrecorded)", "1e-50"),
        ("propensity", 1.5, "propensity is above 1", "1.5"),
        ("propensity", math.nan, "propensity is NaN", "nan"),
        ("propensity", "high", "propensity is no number in (0, 1]", "'high'"),
        ("keep_probability", 0.0, "keep_probability is outside (0, 1]", "0.0"),
        ("keep_probability", 2, "keep_probability is outside (0, 1]", "2.0"),
        ("timestamp", "yesterday", "timestamp is neither ISO-8601 nor epoch seconds", "'yesterday'"),
        ("timestamp", math.inf, "timestamp is neither ISO-8601 nor epoch seconds", "inf"),
        ("timestamp", 1e60, "timestamp is neither ISO-8601 nor epoch seconds", "1e+60"),
        ("allowed_models", ["b", "c"], "the model that answered is not in its allowed_models", None),
        ("allowed_models", "a, b", "allowed_models is no list of names", "'a, b'"),
        ("allowed_models", ["a", None], "allowed_models is no list of names", None),
        ("allowed_models", {"a": 1}, "allowed_models is no list of names", None),
        ("embedding", None, "embedding is missing", "null"),
        ("embedding", [], "embedding is missing", "[]"),
        ("embedding", [1.0], "embedding has another width than 2", "1 numbers"),
        ("embedding", [1.0, None], "embedding is no list of finite numbers", "[1.0, None]"),
        ("embedding", [1.0, math.inf], "embedding is no list of finite numbers", "[1.0, inf]"),
        ("embedding", [1.0, 1e300], "embedding is no list of finite numbers", "[1.0, 1e+300]"),
        ("embedding", ["x", "y"], "embedding is no list of finite numbers", None),
        ("embedding", "[1, 2", "embedding is no list of finite numbers", None),
        ("request_id", "r3", "request_id was there before (the first row is kept)", "'r3'"),
    ],
)
def test_a_bad_value_rejects_its_row_alone(tmp_path, column, value, reason, found):
    records = rows(keep_probability=1.0, allowed_models=["a", "b"])
    records[40][column] = value
    report = ingest(lines(tmp_path / "l.jsonl", records), tmp_path / "clean").report
    (got,) = reasons(report).items()
    assert got[0] == reason and got[1][0][0] == 40
    if found is not None:
        assert got[1][0][1] == found
    assert read_log(tmp_path / "clean").model.shape == (59,)


def test_the_same_values_are_rejected_from_parquet_and_csv(tmp_path):
    records = rows()
    for place, (name, value) in enumerate([("score", math.nan), ("cost", -1.0), ("propensity", 0.0), ("model", None)]):
        records[place][name] = value
    frame = pd.DataFrame(records)
    frame["embedding"] = [json.dumps(one) for one in frame["embedding"]]
    frame["score"] = frame["score"].astype(object).where(frame.index != 0, "NaN")
    frame.to_csv(tmp_path / "l.csv", index=False)
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "l.parquet")
    expected = {
        "score is no finite number": [0],
        "cost is negative": [1],
        "propensity is 0 or below (0 means unrecorded)": [2],
        "model is missing": [3],
    }
    digests = set()
    for source in (tmp_path / "l.csv", tmp_path / "l.parquet"):
        report = ingest(source, tmp_path / "clean").report
        assert {name: [place for place, _ in first] for name, first in reasons(report).items()} == expected
        digests.add(report.fingerprint)
    assert len(digests) == 1


def test_lines_that_are_no_rows(tmp_path):
    good = [json.dumps(one).encode() for one in rows(20)]
    bad = [b"{broken", b"[1, 2]", b'"text"', b"null", b'{"a": "caf\xe9"}', b"[" * 100_000, b'{"model": "a"} trailing']
    path = tmp_path / "l.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join([*good[:3], b"", *bad, *good[3:]]))  # no end of line at the end
    report = ingest(path, tmp_path / "clean").report
    found = {name: [place for place, _ in first] for name, first in reasons(report).items()}
    assert found == {"line is not JSON": [3, 8, 9], "line is not a JSON object": [4, 5, 6], "text is not UTF-8": [7]}
    assert report.rows_kept == 20
    path.write_text(json.dumps(rows(3)))
    fails(path, tmp_path, "l.jsonl", "one JSON array", "jq")
    path.write_bytes("\n".join(map(json.dumps, rows(3))).encode("utf-16"))
    fails(path, tmp_path, "UTF-16")


def test_a_line_without_end_is_one_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr("jrouter.io.record_stream.BLOCK", 4096)
    records = rows(30)
    text = [json.dumps(one) for one in records]
    text[7] = json.dumps(row(7, query="x" * 20_000))
    path = tmp_path / "l.jsonl"
    path.write_text("\n".join(text) + "\n")
    report = ingest(path, tmp_path / "clean").report
    assert reasons(report) == {"line is longer than 16 MiB": [(7, "no end of line")]} and report.rows_kept == 29


def test_ragged_csv(tmp_path):
    text = "query,model,score,cost\n" + "".join(f"q{i},{'ab'[i % 2]},1,0.{i + 1}\n" for i in range(20))
    ragged = "q,a,1\nq,a,1,0.1,extra\n\n"
    path = tmp_path / "l.csv"
    path.write_text(text + ragged + 'last,"a",0,0.5\n')
    report = ingest(path, tmp_path / "clean").report
    expected = [(20, "3 cells, expected 4"), (21, "5 cells, expected 4")]
    assert reasons(report) == {"another number of cells than the header has": expected}
    assert report.rows_kept == 21
    # A quote that never closes takes the rest with it, and is one row.
    path.write_text(text + 'q,"a,1,0.1\nq,b,1,0.1\n')
    report = ingest(path, tmp_path / "clean").report
    assert report.rows_kept == 20 and report.rows_read == 21
    path.write_text("query,model,score,cost\n")
    fails(path, tmp_path, "l.csv", "no rows")


def test_latin_1_rejects_the_rows_that_have_it(tmp_path):
    text = "query,model,score,cost\n" + "".join(f"q{i},{'ab'[i % 2]},1,0.{i + 1}\n" for i in range(20))
    path = tmp_path / "l.csv"
    path.write_bytes(text.encode() + "café,a,1,0.1\nfine,é,1,0.1\n".encode("latin-1") + "café,a,0,0.1\n".encode())
    report = ingest(path, tmp_path / "clean").report
    unread = "text that is not UTF-8"
    assert reasons(report) == {"text is not UTF-8: query": [(20, unread)], "model is no name": [(21, unread)]}
    assert pq.read_table(tmp_path / "clean")["query"].to_pylist()[-1] == "café"
    # In a column that nobody reads it does no harm.
    path.write_bytes(
        text.replace("cost", "cost,note").replace("\n", ",\xe9\n").replace("note,\xe9", "note").encode("latin-1")
    )
    assert not ingest(path, tmp_path / "clean").report.rejected
    # Parquet does not check what it writes.
    raw = pa.array([b"caf\xe9", *(f"q{i}".encode() for i in range(9))], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 10, raw.buffers())
    table = pa.table({"query": broken, "model": list("ab") * 5, "score": [0, 1] * 5, "cost": [0.1] * 10})
    pq.write_table(table, tmp_path / "l.parquet")
    assert reasons(ingest(tmp_path / "l.parquet", tmp_path / "clean").report) == {
        "text is not UTF-8: query": [(0, unread)]
    }


def test_half_an_emoji_stays_readable(tmp_path):
    records = rows()
    path = lines(tmp_path / "l.jsonl", records)
    path.write_text(path.read_text().replace('"q5"', '"caf\\ud83d"'))
    report = ingest(path, tmp_path / "clean").report
    assert report.rows_kept == 60 and pq.read_table(tmp_path / "clean")["query"][5].as_py() == "caf\ufffd"


def test_html_is_data(tmp_path):
    evil = "<script>alert(1)</script>"
    records = [row(i, model=evil if i % 2 else "b", query=f"<img src=x onerror=alert({i})>") for i in range(60)]
    report = ingest(lines(tmp_path / "l.jsonl", records), tmp_path / "clean").report
    assert report.models == {evil: 30, "b": 30} and read_log(tmp_path / "clean").models == (evil, "b")
    assert pq.read_table(tmp_path / "clean")["query"][3].as_py() == records[3]["query"]


def test_duplicates(tmp_path):
    records = rows()
    path = lines(tmp_path / "l.jsonl", [*records, records[3], records[3] | {"cost": 9.0}])
    report = ingest(path, tmp_path / "clean").report
    assert reasons(report) == {"request_id was there before (the first row is kept)": [(60, "'r3'"), (61, "'r3'")]}
    # A row that was rejected is no first one.
    path = lines(tmp_path / "l.jsonl", [records[3] | {"cost": -1}, *records])
    assert list(reasons(ingest(path, tmp_path / "clean").report)) == ["cost is negative"]
    for one in records:
        del one["request_id"]
    path = lines(tmp_path / "l.jsonl", [*records, records[3], records[4] | {"timestamp": 0}])
    report = ingest(path, tmp_path / "clean").report
    assert {name: [place for place, _ in first] for name, first in reasons(report).items()} == {
        "row is equal in all columns to one before (which is kept)": [60]
    }
    for one in records:
        del one["timestamp"]
    report = ingest(lines(tmp_path / "l.jsonl", [*records, records[3], records[3]]), tmp_path / "clean").report
    assert not report.rejected and any("2 of 62" in one and "duplicates?" in one for one in report.warnings)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda one, i: {"model": "ab"[i % 2] if i else "c"}, ["answered once", "'c'", "names"]),
        (lambda one, i: {"model": "ab"[i % 2] if i > 5 else "c"}, ["fewer than 20", "'c'"]),
        (lambda one, i: {"score": 0.5}, ["all scores equal 0.5"]),
        (lambda one, i: {"score": i}, ["outside [0, 1]", "58 of 60", "to 59"]),
        (lambda one, i: {"score": None if i % 4 else 1}, ["only 15 of 60 (25.00%)", "scored"]),
        (lambda one, i: {"cost": 0}, ["all costs are 0"]),
        (lambda one, i: {"cost": 1.5 + i}, ["more than 1 USD", "cost_scale=0.01"]),
        (lambda one, i: {"cost": 1500 + i}, ["more than 100 USD", "cost_scale=1e-6"]),
        (lambda one, i: {"propensity": 1}, ["all propensities are 1"]),
        (lambda one, i: {"timestamp": -i}, ["backwards", "59 of 60"]),
        (lambda one, i: {"timestamp": 1.7e12 + i}, ["milliseconds"]),
        (lambda one, i: {"allowed_models": ["a", "b", "c"]}, ["never answered: 'c'"]),
        (lambda one, i: {"propensity": None if i % 10 == 0 else 0.5}, ["'propensity'", "54 of 60", "ignored"]),
    ],
)
def test_what_is_hard_to_believe_is_kept_and_told(tmp_path, change, parts):
    records = [row(i) | change(None, i) for i in range(60)]
    report = ingest(lines(tmp_path / "l.jsonl", records), tmp_path / "clean").report
    assert report.rows_kept == 60
    told = [one for one in report.warnings if all(part in one for part in parts)]
    assert len(told) == 1, report.warnings
    read_log(tmp_path / "clean")


def test_a_good_log_raises_no_doubt(tmp_path):
    assert ingest(lines(tmp_path / "l.jsonl", rows()), tmp_path / "clean").report.warnings == ()


def test_propensities_of_another_model_are_doubted(tmp_path):
    """Each model's sum of 1/p over its rows must be about n; of the rows that allow it, where that is logged."""
    rng = np.random.default_rng(0)
    n = 4000
    chance = rng.choice([0.1, 0.9], n)  # of model a
    is_a = rng.random(n) < chance

    def doubts(propensity, **more):
        table = pa.table(
            {"query": [f"q{i}" for i in range(n)], "model": np.where(is_a, "a", "b"), "score": rng.random(n)}
            | {"cost": rng.random(n), "propensity": propensity, "timestamp": np.arange(n)}
            | more
        )
        told = ingest(table, tmp_path / "clean").report.warnings
        return [one for one in told if "do not average" in one]

    right = np.where(is_a, chance, 1 - chance)
    assert not doubts(right)
    assert "'a'" in doubts(1 - right)[0] and "'b'" in doubts(1 - right)[0]  # of the model that did not answer
    assert doubts(np.full(n, 0.2))
    # Where only half of the rows allow a second model, the sums run over these.
    free = np.arange(n) % 2 == 0
    allowed = [["a", "b"] if one else [name] for one, name in zip(free, np.where(is_a, "a", "b"), strict=True)]
    assert not doubts(np.where(free, right, 1.0), allowed_models=allowed)
    # A kept row stands for 1 / keep_probability rows.
    keep = np.where(is_a, 0.5, 1.0)
    assert not doubts(right, keep_probability=np.full(n, 0.5))
    assert doubts(right, keep_probability=keep)  # a is then kept less often than it seems


def test_what_is_wrong_with_the_whole(tmp_path):
    path = tmp_path / "l.jsonl"
    fails(path, tmp_path, "l.jsonl", "does not exist")
    path.write_text("")
    fails(path, tmp_path, "l.jsonl", "empty")
    path.write_text("\n\n")
    fails(path, tmp_path, "no rows")
    (tmp_path / "l.txt").write_text("x")
    fails(tmp_path / "l.txt", tmp_path, "unknown suffix", ".parquet")
    (tmp_path / "folder").mkdir()
    fails(tmp_path / "folder", tmp_path, "folder without files", ".csv")
    (tmp_path / "folder" / "notes.txt").write_text("x")
    fails(tmp_path / "folder", tmp_path, "folder without files", "'notes.txt'")
    fails(42, tmp_path, "int", "is no log")
    fails(pa.table({"model": []}), tmp_path, "pyarrow table", "empty")

    for name in ("model", "cost"):
        fails(
            lines(path, [{k: v for k, v in one.items() if k != name} for one in rows()]),
            tmp_path,
            f"'{name}'",
            "add it",
        )
    bare = [{k: v for k, v in one.items() if k not in ("query", "embedding")} for one in rows()]
    fails(pa.Table.from_pylist(bare), tmp_path, "text ('query') or an embedding")
    fails(pa.Table.from_pylist(rows()).drop_columns(["score"]), tmp_path, "'score'", "scores")
    fails(lines(path, rows(score=None)), tmp_path, "no scored row", "join the scores")
    fails(lines(path, rows(model="a")), tmp_path, "one model only, 'a'")
    fails(
        lines(path, rows(cost=-1)), tmp_path, "no row that can be used", "60 because: cost is negative", "row 0", "-1"
    )
    fails(lines(path, rows(cost=None)), tmp_path, "cost is missing", "`prices` turn tokens into costs")
    most = [row(i, cost=-1 if i % 3 else 1) for i in range(60)]
    fails(lines(path, most), tmp_path, "40 of 60", "cost is negative", "l.jsonl, row 1", "at most 50%", "max_rejected")
    assert ingest(path, tmp_path / "clean", max_rejected=0.7).report.rows_kept == 20
    parquet = tmp_path / "l.parquet"
    pq.write_table(pa.Table.from_pylist(rows()), parquet)
    fails(parquet, tmp_path, "no column 'thumb' to read 'score' from", contract=Contract({"score": "thumb"}))
    fails(parquet, tmp_path, "no embedding 'x'", contract=Contract(embedding="x"))
    fails(parquet, tmp_path, "'nope'", contract=Contract(adapter="nope"))


def test_truncated_and_broken_files(tmp_path):
    whole = tmp_path / "l.parquet"
    pq.write_table(pa.Table.from_pylist(rows()), whole)
    content = whole.read_bytes()
    for cut in (1, 4, len(content) // 2, len(content) - 1):
        whole.write_bytes(content[:cut])
        fails(whole, tmp_path, "l.parquet", "cannot be read")
    whole.write_bytes(content[:200] + bytes(100) + content[300:])  # the footer is whole, the pages are not
    fails(whole, tmp_path, "l.parquet", "cannot be read")
    zipped = gzip.compress(lines(tmp_path / "l.jsonl", rows()).read_bytes())
    for name in ("z.jsonl.gz", "z.csv.gz"):
        (tmp_path / name).write_bytes(zipped[:-20])
        fails(tmp_path / name, tmp_path, name, "cannot be read")
        (tmp_path / name).write_bytes(b"no gzip")
        fails(tmp_path / name, tmp_path, name, "cannot be read")
    # One bad file among good ones stops it too, and nothing is left.
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.parquet").write_bytes(content)
    (folder / "b.parquet").write_bytes(content[:-9])
    fails(folder, tmp_path, "b.parquet", "cannot be read")


def test_a_folder_of_mixed_schemas(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()

    def table(start, **changed):
        return pa.table(pa.Table.from_pylist([row(i) for i in range(start, start + 20)]).to_pydict() | changed)

    pq.write_table(table(0), folder / "a.parquet")
    pq.write_table(table(20, cost=[str(i) for i in range(20)], score=[True] * 20), folder / "b.parquet")
    pq.write_table(table(40, cost=["free"] * 20).drop_columns(["propensity"]), folder / "c.parquet")
    pq.write_table(table(60).drop_columns(["model"]), folder / "d.parquet")
    pq.write_table(table(80, embedding=[[1.0]] * 20).append_column("new", [list(range(20))]), folder / "e.parquet")
    pq.write_table(table(100).drop_columns(["embedding"]), folder / "f.parquet")
    pq.write_table(
        table(120, timestamp=pa.array([10**15 + i for i in range(20)], pa.timestamp("us"))), folder / "g.parquet"
    )
    (folder / "readme.txt").write_text("x")
    report = ingest(folder, tmp_path / "clean", max_rejected=0.6).report
    assert {one.reason: (one.first[0].file, one.rows) for one in report.rejected} == {
        "cost is no number": ("c.parquet", 20),
        "model is missing": ("d.parquet", 20),
        "embedding has another width than 2": ("e.parquet", 20),
        "embedding is missing": ("f.parquet", 20),
    }
    assert [file["rows"] for file in report.files] == [20] * 7 and report.rows_kept == 60
    assert any("'readme.txt'" in one for one in report.warnings)
    assert read_log(tmp_path / "clean").x.shape == (60, 2)


def test_pandas_with_odd_columns(tmp_path):
    frame = pd.DataFrame(rows())
    frame["score"] = frame["score"].astype(object)
    frame.loc[3, "score"], frame.loc[4, "score"], frame.loc[5, "score"] = "x", None, np.nan
    frame["model"] = frame["model"].astype("category")
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], unit="s", utc=True)
    frame.loc[9, "query"] = np.nan
    report = ingest(frame, tmp_path / "clean").report
    assert {name: [place for place, _ in first] for name, first in reasons(report).items()} == {
        "score is no finite number": [3]
    }
    assert report.unscored == 2 and report.time == ("2023-11-14T22:13:20Z", "2023-11-14T22:14:19Z")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = ("request_id", "query", "model", "score", "cost", "propensity", "timestamp", "group", "allowed_models")
COLUMNS = st.sampled_from((*NAMES, "keep_probability", "embedding", "other"))


@FAST
@given(junk=st.lists(st.tuples(st.integers(0, 39), COLUMNS, JUNK), max_size=25), embedded=st.booleans())
def test_junk_anywhere_is_rejected_or_kept_and_never_raises(tmp_path_factory, junk, embedded):
    folder = tmp_path_factory.mktemp("junk")
    records = rows(40)
    for place, column, value in junk:
        records[place] = records[place] | {column: value}
    if not embedded:
        for one in records:
            one.pop("embedding", None)
    path = folder / "l.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    report = ingest(path, folder / "clean", max_rejected=1.0).report
    assert report.rows_read == 40 == report.rows_kept + sum(one.rows for one in report.rejected)
    touched = {place for place, _, _ in junk}
    for one in report.rejected:  # nobody else's row, but where a column is now for all rows or its id is taken
        others = "which other rows have" in one.reason or "before" in one.reason
        assert others or {first.row for first in one.first} <= touched, one
    log = read_log(folder / "clean", embed=None if embedded else lambda texts: np.ones((len(texts), 2)))
    assert log.model.shape == (report.rows_kept,)
    # The same log again gives the same rows.
    assert ingest(path, folder / "clean", max_rejected=1.0).report.fingerprint == report.fingerprint


@FAST
@given(
    content=st.binary(max_size=300),
    name=st.sampled_from(["l.csv", "l.jsonl", "l.parquet", "l.csv.gz"]),
    cut=st.integers(0, 400),
)
def test_bytes_of_any_kind_give_a_log_or_one_sentence(tmp_path_factory, content, name, cut):
    folder = tmp_path_factory.mktemp("bytes")
    path = folder / name
    good = b"query,model,score,cost\n" + b"".join(b"q%d,%s,1,0.5\n" % (i, b"ab"[i % 2 :][:1]) for i in range(20))
    path.write_bytes(good[:cut] + content if "csv" in name else content)
    try:
        report = ingest(path, folder / "clean").report
        assert report.rows_kept > 0 and name == "l.csv"
    except DataError as problem:
        assert str(problem).endswith(".") and "\n" not in str(problem) and not (folder / "clean").exists()
