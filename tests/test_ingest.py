"""A log goes in as a team has it and comes out clean: the same rows whatever held them, readable, counted."""

import gzip
import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jrouter.io.clean_parts import Fingerprint
from jrouter.io.contract import Contract
from jrouter.io.errors import DataError
from jrouter.io.ingest import ingest
from jrouter.io.logs import read_log
from jrouter.io.record_stream import ROWS
from jrouter.io.stream import open_log

D = 3


def rows(n=60, seed=0, **changed):
    """Rows of a log with all that is optional; two models that both answer."""
    rng = np.random.default_rng(seed)
    made = [
        {
            "request_id": f"r{i}",
            "query": f"question {i // 2}",
            "model": "ba"[i % 2],
            "score": None if i % 7 == 3 else float(rng.integers(0, 2)),
            "cost": float(rng.random() * 0.01),
            "propensity": 0.5,
            "timestamp": 1.7e9 + i,
            "group": f"user {i % 5}",
            "allowed_models": ["a", "b"],
            "keep_probability": 0.25,
            "embedding:mini": rng.normal(size=D).astype(np.float32).tolist(),
        }
        for i in range(n)
    ]
    return [row | changed for row in made]


def json_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def csv(path, records):
    def cell(value):
        text = json.dumps(value) if isinstance(value, list) else "" if value is None else str(value)
        return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n') else text

    lines = [list(records[0]), *(row.values() for row in records)]
    path.write_text("".join(",".join(cell(value) for value in line) + "\n" for line in lines), encoding="utf-8")
    return path


def parquet(path, records):
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


def clean(folder):
    """The clean rows."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("part_*.parquet"))]).to_pylist()


def assert_balanced(report):
    lost = sum(one.rows for one in report.rejected) + sum(report.dropped.values())
    assert report.rows_read == report.rows_kept + lost == sum(file["rows"] for file in report.files)


@pytest.mark.parametrize(
    "name", ["l.parquet", "l.csv", "l.jsonl", "l.csv.gz", "l.jsonl.gz", "folder", "table", "pandas"]
)
def test_the_same_rows_come_out_whatever_held_them(tmp_path, name):
    given = rows()
    plain = tmp_path / name.removesuffix(".gz")
    if name == "table":
        source = pa.Table.from_pylist(given)
    elif name == "pandas":
        source = pd.DataFrame(given).astype({"score": "Float64"})
    elif name == "folder":
        (plain / "day=1").mkdir(parents=True)
        parquet(plain / "day=1" / "a.parquet", given[:20])
        csv(plain / "day=1" / "b.csv", given[20:45])
        json_lines(plain / "e.jsonl", given[45:])
        (plain / "_SUCCESS").write_text("")
        source = plain
    else:
        write = parquet if "parquet" in name else csv if "csv" in name else json_lines
        source = write(plain, given)
        if name.endswith(".gz"):
            source = tmp_path / name
            source.write_bytes(gzip.compress(plain.read_bytes()))
    done = ingest(source, tmp_path / "clean")
    report = done.report
    assert (report.rows_read, report.rows_kept, report.rejected, report.dropped) == (60, 60, (), {})
    assert_balanced(report)
    expected = [{**row, "embedding": row["embedding:mini"]} for row in given]
    for row in expected:
        del row["embedding:mini"]
    assert clean(tmp_path / "clean") == expected
    reference = ingest(parquet(tmp_path / "reference.parquet", given), tmp_path / "again").report
    assert report.fingerprint == reference.fingerprint
    assert report.columns["embedding"] == "embedding:mini" and report.propensity == "logged"
    assert report.models == {"a": 30, "b": 30} and report.unscored == sum(row["score"] is None for row in given)
    assert report.time == ("2023-11-14T22:13:20Z", "2023-11-14T22:14:19Z")
    if name == "folder":
        assert [file["name"] for file in report.files] == ["day=1/a.parquet", "day=1/b.csv", "e.jsonl"]


def test_both_readers_read_what_comes_out_as_the_log_itself(tmp_path):
    source = parquet(tmp_path / "log.parquet", rows())
    folder = ingest(source, tmp_path / "clean").folder
    log, raw = read_log(folder), read_log(source)
    assert log.models == raw.models
    for field in ("x", "model", "score", "cost", "propensity", "row_weight", "allowed", "scored", "group", "time"):
        np.testing.assert_array_equal(getattr(log, field), getattr(raw, field), field)
    stream = open_log(folder)
    assert (stream.rows, stream.dim, stream.models) == (60, D, ("a", "b"))
    np.testing.assert_array_equal(next(stream.chunks()).log.score[:60], np.asarray(raw.score))


def test_text_is_embedded_and_only_of_rows_that_are_kept(tmp_path):
    asked = []

    def embed(texts):
        asked.extend(texts)
        return np.array([[len(text), 1.0] for text in texts])

    given = [{name: row[name] for name in ("query", "model", "score", "cost", "propensity")} for row in rows()]
    given[5]["cost"], given[6]["propensity"] = None, None
    given[8]["query"] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "of a chat"}]
    folder = ingest(json_lines(tmp_path / "l.jsonl", given), tmp_path / "clean", embed=embed).folder
    expected = [row["query"] for i, row in enumerate(given) if i not in (5, 6, 8)]
    assert sorted(asked) == sorted([*expected, "of a chat"])
    log = read_log(folder)
    assert log.x.shape == (58, 2) and log.x[0, 0] == len("question 0")
    # The text that is made of a query: of messages, or of the text itself.
    asked.clear()
    text = lambda query: query.upper() if isinstance(query, str) else query[-1]["content"] + "!"  # noqa: E731
    ingest(json_lines(tmp_path / "l.jsonl", given), folder, embed=embed, text=text)
    assert "QUESTION 0" in asked and "of a chat!" in asked
    with pytest.raises(ValueError, match="expected finite numbers"):
        ingest(json_lines(tmp_path / "l.jsonl", given), folder, embed=lambda texts: np.full((len(texts), 2), np.nan))
    assert read_log(folder).x.shape == (58, 2)  # as it was
    with pytest.raises(ValueError, match="text: needs `embed`"):
        ingest(tmp_path / "l.jsonl", folder, text=text)
    with pytest.raises(ValueError, match="embedding: 'mini' is a column"):
        ingest(tmp_path / "l.jsonl", folder, Contract(embedding="mini"), embed=embed)


def test_without_embeddings_text_alone_comes_out(tmp_path):
    given = [{name: row[name] for name in ("query", "model", "score", "cost")} for row in rows()]
    folder = ingest(csv(tmp_path / "l.csv", given), tmp_path / "clean").folder
    log = read_log(folder, embed=lambda texts: np.ones((len(texts), 4)))
    assert log.x.shape == (60, 4) and log.propensity is None
    assert set(clean(folder)[0]) == {"query", "model", "score", "cost"}


def test_columns_go_by_the_contract(tmp_path):
    given = [
        {
            "id": i,
            "llm": "ab"[i % 2],
            "thumb": bool(i % 3),
            "cents": 1.5,
            "emb": [1.0, float(i)],
            "at": f"2026-01-0{1 + i % 9}",
        }
        for i in range(40)
    ]
    columns = {
        "request_id": "id",
        "model": "llm",
        "score": "thumb",
        "cost": "cents",
        "embedding": "emb",
        "timestamp": "at",
    }
    done = ingest(json_lines(tmp_path / "l.jsonl", given), tmp_path / "clean", Contract(columns, cost_scale=0.01))
    first = clean(done.folder)[1]
    assert first == {
        "request_id": "1",
        "model": "b",
        "score": 1.0,
        "cost": pytest.approx(0.015),
        "timestamp": 1767312000.0,
        "embedding": [1.0, 1.0],
    }
    assert done.report.columns == columns
    assert any("backwards" in warning for warning in done.report.warnings)


def test_missing_costs_come_from_tokens_and_prices(tmp_path):
    prices = tmp_path / "prices.csv"
    prices.write_text("model,input_usd_per_1m,output_usd_per_1m\na,1,2\nb,10,20\n")
    given = [
        {"query": f"q{i}", "model": "abc"[i % 3], "score": 1, "cost": None, "input_tokens": 1000, "output_tokens": i}
        for i in range(30)
    ]
    given[0]["cost"], given[3]["input_tokens"], given[6]["output_tokens"] = 0.5, None, -1
    contract = Contract(prices=str(prices), cost_scale=0.1)
    report = ingest(json_lines(tmp_path / "l.jsonl", given), tmp_path / "clean", contract).report
    found = {row["query"]: row["cost"] for row in clean(tmp_path / "clean")}
    expected = {
        f"q{i}": (1000 * rate + i * 2 * rate) / 1e6
        for i in range(30)
        for rate in [{"a": 1, "b": 10}.get("abc"[i % 3])]
        if rate and i not in (3, 6)
    }
    expected["q0"] = 0.05  # scaled, as the file's costs are
    assert found == pytest.approx(expected)
    reasons = {one.reason: one.rows for one in report.rejected}
    assert reasons == {
        "cost is missing, and the prices lack this model": 10,
        "cost is missing, and so are input_tokens or output_tokens": 1,
        "cost is missing, and output_tokens is no number of at least 0": 1,
    }


def test_optional_columns_are_for_all_rows_or_none(tmp_path):
    def ingested(lacking, column="propensity"):
        given = rows(100)
        for row in given[:lacking]:
            row[column] = None
        return ingest(parquet(tmp_path / "l.parquet", given), tmp_path / "clean").report

    for column in ("propensity", "timestamp", "group", "allowed_models", "keep_probability"):
        report = ingested(5, column)
        assert report.rows_kept == 95 and [one.rows for one in report.rejected] == [5]
        assert f"{column} is missing" in report.rejected[0].reason
        assert [one.row for one in report.rejected[0].first] == [0, 1, 2, 3, 4]
        assert all(row[column] is not None for row in clean(tmp_path / "clean"))
        report = ingested(6, column)
        assert report.rows_kept == 100 and not report.rejected
        assert any(f"'{column}' is filled in in 94 of 100" in warning for warning in report.warnings)
        assert column not in clean(tmp_path / "clean")[0]
    assert ingested(6).propensity == "partial, ignored"
    assert ingested(100).propensity == "absent"
    # All by one name.
    report = ingested(0)
    assert not report.rejected and report.propensity == "logged"


def test_a_column_that_comes_late_is_found(tmp_path):
    n = ROWS + 500
    given = [{"query": f"q{i}", "model": "ab"[i % 2], "score": i % 3, "cost": 0.1} for i in range(n)]
    for row in given[-100:]:
        row["propensity"] = 0.5
    report = ingest(json_lines(tmp_path / "l.jsonl", given), tmp_path / "clean").report
    assert report.rows_kept == n and report.propensity == "partial, ignored"
    assert [row["query"] for row in clean(tmp_path / "clean")] == [f"q{i}" for i in range(n)]
    groups = [pq.ParquetFile(path).metadata for path in (tmp_path / "clean").glob("*.parquet")]
    assert max(one.row_group(g).num_rows for one in groups for g in range(one.num_row_groups)) <= ROWS


def test_allowed_models_keep_those_that_answer(tmp_path):
    given = rows(allowed_models=["a", "b", "never"])
    report = ingest(parquet(tmp_path / "l.parquet", given), tmp_path / "clean").report
    assert any("never answered: 'never'" in warning for warning in report.warnings)
    log = read_log(tmp_path / "clean", models=tuple(report.models))
    assert log.models == ("a", "b") and np.asarray(log.allowed).all()
    report = ingest(
        parquet(tmp_path / "l.parquet", given), tmp_path / "clean", Contract(models=("never", "b", "a"))
    ).report
    assert dict(report.models) == {"never": 0, "b": 30, "a": 30}
    log = read_log(tmp_path / "clean", models=tuple(report.models))
    assert log.models == ("never", "b", "a") and np.asarray(log.allowed).all()
    given[0]["model"], given[0]["allowed_models"] = "other", ["other"]
    report = ingest(parquet(tmp_path / "l.parquet", given), tmp_path / "clean", Contract(models=("a", "b"))).report
    assert report.rejected[0].reason == "model is none of the contract's `models`"
    assert any("none of `models` were left out" in warning for warning in report.warnings)
    assert read_log(tmp_path / "clean", models=("a", "b")).model.shape == (59,)


def test_the_fingerprint_is_of_the_rows_in_order(tmp_path):
    given = rows()
    first = ingest(parquet(tmp_path / "l.parquet", given), tmp_path / "clean").report.fingerprint
    assert len(first) == 64
    assert first == ingest(json_lines(tmp_path / "l.jsonl", given), tmp_path / "clean").report.fingerprint
    swapped = [given[1], given[0], *given[2:]]
    changed = [given[0] | {"cost": 0.5}, *given[1:]]
    for other in (swapped, changed, given[:-1]):
        assert ingest(parquet(tmp_path / "l.parquet", other), tmp_path / "clean").report.fingerprint != first
    # Where one value ends and the next begins counts, and what is null.
    texts = [["ab", "c"], ["a", "bc"], ["abc", None], ["abc", ""]]
    digests = set()
    for values in texts:
        one = Fingerprint()
        one.update(pa.table({"query": values}))
        digests.add(one.hexdigest())
    assert len(digests) == 4


def test_the_report_is_plain_json_and_stands_beside_the_parts(tmp_path):
    given = rows()
    given[4]["cost"] = math.nan
    done = ingest(json_lines(tmp_path / "l.jsonl", given), tmp_path / "clean")
    record = done.report.to_dict()
    assert record == json.loads(json.dumps(record, allow_nan=False))
    assert record == json.loads((done.folder / "_report.json").read_text())
    assert record["rejected"] == [
        {"reason": "cost is NaN or infinite", "rows": 1, "first": [{"file": "l.jsonl", "row": 4, "found": "nan"}]}
    ]
    assert str(tmp_path) not in json.dumps(record)  # names, no folders
    assert record["files"] == [{"name": "l.jsonl", "bytes": (tmp_path / "l.jsonl").stat().st_size, "rows": 60}]


def test_progress_is_told_from_0_to_1(tmp_path):
    told = []
    source = json_lines(tmp_path / "l.jsonl", rows(ROWS + 2000))
    ingest(source, tmp_path / "clean", embed=lambda t: np.ones((len(t), 1)), progress=lambda *one: told.append(one))
    for step in ("read", "embed"):
        shares = [done for name, done in told if name == step]
        assert len(shares) > 1 and shares == sorted(shares) and shares[-1] == 1.0 and shares[0] > 0


def test_a_gateways_records_are_read_through_its_adapter(tmp_path, monkeypatch):
    from jrouter.io import adapted_rows
    from jrouter.io.adapters.adapter import Adapter, Dropped

    def read(record):
        if record.get("cached"):
            return [Dropped("cache hit")]
        if not isinstance(record.get("calls"), list):
            raise ValueError("calls: expected a list")
        return [
            {"model": call["m"], "cost": call["usd"], "query": record["q"], "truncated": True}
            for call in record["calls"]
        ]

    fake = Adapter("fake", "for a test", (("model", "calls[].m"), ("cost", "calls[].usd")), read)
    monkeypatch.setattr(adapted_rows, "find_adapter", lambda name: fake)
    monkeypatch.setattr("jrouter.io.log_pieces.find_adapter", lambda name: fake)
    call = {"m": "a", "usd": 0.5}
    records = [
        {"q": [{"role": "user", "content": "Hi"}], "calls": [call, {"m": "b", "usd": 0.1}], "thumb": 1},
        {"q": "x", "cached": True},
        {"q": "x", "calls": 3},
        {"q": "x", "calls": [{}]},
        {"q": "x", "calls": []},
        {"q": "y", "calls": [call], "thumb": 0},
        {"q": "z", "calls": [{"m": "b", "usd": -1}], "thumb": 0},
    ]
    contract = Contract(adapter="fake", columns={"score": "thumb"})
    report = ingest(json_lines(tmp_path / "l.jsonl", records), tmp_path / "clean", contract, max_rejected=0.6).report
    assert clean(tmp_path / "clean") == [
        {"query": '[{"role": "user", "content": "Hi"}]', "model": "a", "score": 1.0, "cost": 0.5},
        {"query": '[{"role": "user", "content": "Hi"}]', "model": "b", "score": 1.0, "cost": 0.1},
        {"query": "y", "model": "a", "score": 0.0, "cost": 0.5},
    ]
    assert report.dropped == {"cache hit": 1, "record without an answer": 1} and report.adapter == "fake"
    found = {one.reason: [(first.row, first.found) for first in one.first] for one in report.rejected}
    assert found == {
        "record is malformed": [(2, "calls: expected a list"), (3, "KeyError: 'm'")],
        "cost is negative": [(6, "-1.0")],
    }
    assert report.columns == {"model": "calls[].m", "cost": "calls[].usd", "score": "thumb"}
    assert any("cut short" in warning for warning in report.warnings)
    assert_balanced(report)


def test_an_adapter_that_is_none(tmp_path):
    with pytest.raises(DataError, match="adapter: found 'nope', expected one of .*'litellm_spend'"):
        ingest(json_lines(tmp_path / "l.jsonl", rows()), tmp_path / "clean", Contract(adapter="nope"))


def test_records_of_parquet_and_csv_go_through_adapters_too(tmp_path):
    given = [
        {
            "request_id": f"i{i}",
            "model": "ab"[i % 2],
            "spend": 0.25,
            "cache_hit": "False",
            "metadata": "{}",
            "thumb": i % 2,
        }
        | {"messages": json.dumps([{"role": "user", "content": f"q{i}"}])}
        for i in range(20)
    ]
    contract = Contract(adapter="litellm_spend", columns={"score": "thumb"})
    expected = None
    for source in (parquet(tmp_path / "l.parquet", given), csv(tmp_path / "l.csv", given), pa.Table.from_pylist(given)):
        report = ingest(source, tmp_path / "clean", contract).report
        assert report.rows_kept == 20 and expected in (None, report.fingerprint)
        expected = report.fingerprint
