"""Scores from elsewhere find their rows by id, however ids are stored; what finds none is counted."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrouter.io.contract import Contract
from jrouter.io.errors import DataError
from jrouter.io.ingest import ingest
from jrouter.io.join_scores import read_scores
from jrouter.io.logs import read_log
from jrouter.io.raw_columns import numbers, texts


def log(n=40, **columns):
    i = np.arange(n)
    return pa.table(
        {"request_id": i, "query": [f"q{j}" for j in i], "model": np.where(i % 2, "a", "b"), "cost": np.full(n, 0.1)}
        | columns
    )


def scores(tmp_path, text, name="scores.csv"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def joined(tmp_path, table, path, **contract):
    report = ingest(table, tmp_path / "clean", Contract(scores=path, **contract)).report
    return pq.read_table(tmp_path / "clean").to_pylist(), report


def test_unscored_rows_are_kept_and_counted(tmp_path):
    path = scores(tmp_path, "request_id,score\n" + "".join(f"{i},{i / 10}\n" for i in range(10)) + "77,1\n")
    rows, report = joined(tmp_path, log(), path)
    assert [row["score"] for row in rows] == [*(i / 10 for i in range(10)), *[None] * 30]
    assert report.joined == {"scores": 11, "matched": 10, "unmatched": 1} and report.unscored == 30
    assert any("only 10 of 40" in one for one in report.warnings)
    assert any("1 of 11 (9.09%) scores have no row" in one for one in report.warnings)
    read = read_log(tmp_path / "clean", embed=lambda texts: np.ones((len(texts), 1)))
    assert read.scored is not None and int(read.scored.sum()) == 10


@pytest.mark.parametrize("kind", ["int", "float", "text", "json"])
@pytest.mark.parametrize("ids", [np.arange(40), np.arange(40.0), [str(i) for i in range(40)]])
def test_ids_are_the_same_as_numbers_and_as_text(tmp_path, kind, ids):
    given = {"int": np.arange(40), "float": np.arange(40.0), "text": [str(i) for i in range(40)]}
    path = tmp_path / ("scores.jsonl" if kind == "json" else "scores.parquet")
    if kind == "json":
        path.write_text(
            "".join(json.dumps({"request_id": i if i % 2 else str(i), "score": i}) + "\n" for i in range(40))
        )
    else:
        pq.write_table(pa.table({"request_id": given[kind], "score": np.arange(40.0)}), path)
    rows, report = joined(tmp_path, log(request_id=ids), str(path))
    assert [row["score"] for row in rows] == list(range(40))
    assert report.joined == {"scores": 40, "matched": 40, "unmatched": 0}
    assert rows[3]["request_id"] == "3"


def test_the_last_score_of_an_id_counts(tmp_path):
    path = scores(tmp_path, "request_id,score\n1,0.1\n2,0.2\n1,0.9\n1,\n3,nan\n4,good\n,1\n2,0.2\n")
    rows, report = joined(tmp_path, log(), path)
    assert [row["score"] for row in rows[:5]] == [None, 0.9, 0.2, None, None]
    assert report.joined == {"scores": 2, "matched": 2, "unmatched": 0}
    told = "\n".join(report.warnings)
    assert "2 scores were replaced by a later one" in told and "3 rows have an id or a score that cannot" in told
    assert "has a score for 2 of 40" in told  # few


def test_names_go_by_the_contract(tmp_path):
    table = log().rename_columns(["id", "query", "model", "cost"])
    columns = {"request_id": "id", "score": "thumb"}
    for header in ("id,thumb", "request_id,score", "score,id", "thumb,x,request_id"):
        line = {"id": "5", "request_id": "5", "thumb": "1", "score": "1", "x": ""}
        path = scores(tmp_path, header + "\n" + ",".join(line[name] for name in header.split(",")) + "\n")
        rows, report = joined(tmp_path, table, path, columns=columns)
        assert [row["request_id"] for row in rows if row["score"] == 1] == ["5"]
        assert not any("no row has" in one for one in report.warnings)
    # By another column, which several rows share.
    path = scores(tmp_path, "group,score\ng1,0.5\n")
    rows, report = joined(tmp_path, log(group=[f"g{i % 4}" for i in range(40)]), path, on="group")
    assert [row["score"] for row in rows] == [0.5 if i % 4 == 1 else None for i in range(40)]
    assert report.joined == {"scores": 1, "matched": 1, "unmatched": 0}


def test_a_joined_score_comes_before_the_logs_own(tmp_path):
    own = pa.array([None if i == 3 else 0.0 for i in range(40)])
    path = scores(tmp_path, "request_id,score\n2,1\n3,1\n")
    rows, _ = joined(tmp_path, log(score=own), path)
    assert [row["score"] for row in rows[:5]] == [0.0, 0.0, 1.0, 1.0, 0.0]
    # Also where the log's own is no number: the row is saved.
    rows, report = joined(tmp_path, log(score=["bad" if i == 2 else "0" for i in range(40)]), path)
    assert rows[2]["score"] == 1.0 and not report.rejected


def test_scores_that_cannot_be_joined(tmp_path):
    def fails(path, *parts, table=None, **contract):
        with pytest.raises(DataError) as caught:
            joined(tmp_path, log() if table is None else table, path, **contract)
        message = str(caught.value)
        assert "\n" not in message and message.endswith("."), message
        for part in parts:
            assert part in message, message

    fails(str(tmp_path / "none.csv"), "none.csv", "does not exist")
    fails(scores(tmp_path, "id,score\n1,1\n"), "scores.csv", "no column 'request_id'", "'id'")
    fails(scores(tmp_path, "request_id,thumb\n1,1\n"), "no column 'score'")
    fails(scores(tmp_path, "request_id,score\n1,\n"), "no row with 'request_id' and a finite score")
    fails(scores(tmp_path, "request_id,score\n99,1\n"), "no scored row", "check the ids")
    fails(scores(tmp_path, "request_id,score\n1,1\n"), "'request_id'", "joined", table=log().drop_columns("request_id"))


def test_scores_as_a_gateway_has_them(tmp_path):
    """Langfuse's score objects, of observations; and plain rows among them."""
    objects = [
        {"id": "s1", "traceId": "t", "observationId": "5", "name": "judge", "value": 0.75, "dataType": "NUMERIC"},
        {"id": "s2", "traceId": "t", "observationId": "6", "name": "judge", "value": None, "dataType": "NUMERIC"},
        {"request_id": "7", "score": 0.25},
    ]
    path = scores(tmp_path, "".join(json.dumps(one) + "\n" for one in objects), "scores.jsonl")
    found = read_scores(path, Contract(adapter="langfuse"))
    assert sorted(found.values.tolist()) == [0.25, 0.75]
    ids, none = texts(pa.array(["7", "5", "6", None])), numbers(pa.nulls(4))
    read = found.join(ids, none)
    assert read.values[:2].tolist() == [0.25, 0.75] and read.missing.tolist() == [False, False, True, True]


@settings(max_examples=30, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 12), st.none() | st.floats(-1, 1)), min_size=1, max_size=30),
    ids=st.lists(st.none() | st.integers(0, 14), min_size=1, max_size=20),
)
def test_a_join_is_a_dictionary(tmp_path_factory, pairs, ids):
    path = tmp_path_factory.mktemp("join") / "s.parquet"
    pq.write_table(
        pa.table(
            {"request_id": pa.array([i for i, _ in pairs]), "score": pa.array([s for _, s in pairs], pa.float64())}
        ),
        path,
    )
    expected = {str(i): score for i, score in pairs if score is not None}
    if not expected:
        with pytest.raises(DataError):
            read_scores(str(path), Contract())
        return
    found = read_scores(str(path), Contract())
    read = found.join(texts(pa.array(ids, pa.float64())), numbers(pa.nulls(len(ids))))
    got = [None if missing else value for value, missing in zip(read.values, read.missing, strict=True)]
    assert got == [expected.get(str(i)) for i in ids]
    matched = {str(i) for i in ids} & set(expected)
    assert found.counts() == {
        "scores": len(expected),
        "matched": len(matched),
        "unmatched": len(expected) - len(matched),
    }


def test_a_file_of_scores_may_have_names_of_its_own(tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text("id,reward\na,0.5\nb,1\n")
    with pytest.raises(DataError, match="no column 'request_id'.*--map-scores request_id=.*'id', 'reward'"):
        read_scores(str(file), Contract())
    named = Contract(scores_columns={"request_id": "id", "score": "reward"})
    assert read_scores(str(file), named).counts()["scores"] == 2
    with pytest.raises(DataError, match="cannot map 'cost'"):
        Contract(scores_columns={"cost": "usd"})
