"""Adapters of traces: Langfuse, whose scores are records of their own, and OpenTelemetry."""

import pytest
from gateway_records import dropped, read, records, rows

from jrouter.encoders.texts import last_turns
from jrouter.io.adapters import ADAPTERS, Dropped


def test_langfuse_joins_scores_within_a_trace():
    found = rows("langfuse")
    assert found["o-4b"]["score"] == 0.8  # the later of two of that observation
    assert "score" not in found["o-4a"]  # the trace's own score is of two generations
    assert found["o-5"]["score"] == 1.0  # of one; the category is no score
    assert "score" not in found["o-1"]
    trace = records("langfuse")[2]
    trace["scores"].append({"observationId": "o-4b", "name": "tone", "value": 1, "dataType": "NUMERIC"})
    with pytest.raises(ValueError, match="scores: found 2 names for one answer, 'quality', 'tone', expected one"):
        ADAPTERS["langfuse"].rows(trace)


def test_langfuse_drops_and_costs():
    assert dropped("langfuse") == {"no generation": 2, "failed call": 1, "score: join it as one": 1}
    found = rows("langfuse")
    assert found["o-1"]["cost"] == 0.000004 and found["o-5"]["cost"] == 0.0
    assert "cost" not in found["o-2"] and (found["o-2"]["input_tokens"], found["o-2"]["output_tokens"]) == (2, 5)
    assert found["o-2"]["propensity"] == 0.25 and found["o-1"]["router"] == "0a1b2c3d4e5f"


def scores(name):
    read_one = ADAPTERS[name].scores
    assert read_one is not None
    return [row for record in records(f"{name}_scores") for row in read_one(record)]


def test_langfuse_scores_by_data_type():
    assert scores("langfuse") == [
        {"request_id": "o-1", "group": "t-1", "score": 0.9},
        {"request_id": "o-2", "group": "t-2", "score": 1.0},
        {"group": "t-4", "score": 0.0},  # of a trace: joined on group
        {"request_id": "o-5", "group": "t-5", "score": 2.0},  # a category with a number
        Dropped("score without a number"),
        Dropped("score of a session"),
    ]
    read_one = ADAPTERS["langfuse"].scores
    assert read_one is not None
    with pytest.raises(ValueError, match="value: found 'high', expected a finite number"):
        read_one({"traceId": "t", "dataType": "NUMERIC", "value": "high"})


def test_otel_reads_nested_and_flat_spans():
    found = rows("otel_genai")
    assert list(found) == ["eee19b7ec3c1b174", "sp-2", "sp-3"]
    assert [last_turns(row["query"], 1) for row in found.values()] == ["What is OTLP?", "Hello", "Bye"]
    assert [row["model"] for row in found.values()] == ["gpt-4o-mini", "claude-haiku", "gpt-4o-2024-08-06"]
    assert [row["timestamp"] for row in found.values()] == [1791190801.5, 1791190805.0, "2026-10-05T09:00:06Z"]
    assert found["eee19b7ec3c1b174"]["allowed_models"] == ["gpt-4o", "gpt-4o-mini"]
    assert [row["group"] for row in found.values()] == ["conv-1", "t-2", "t-3"]
    assert all("cost" not in row and row["input_tokens"] and row["output_tokens"] for row in found.values())
    assert dropped("otel_genai") == {
        "no generation": 1,
        "no call of a model": 1,
        "failed call": 1,
        "log record: join it as a score": 1,
    }


def test_otel_evaluations():
    assert rows("otel_genai")["eee19b7ec3c1b174"]["score"] == 0.75  # the label alone is none
    assert scores("otel_genai") == [
        {"request_id": "sp-2", "group": "t-2", "score": 0.5},
        {"request_id": "sp-3", "group": "t-3", "score": 0.0},
        Dropped("score without a number"),
        Dropped("no evaluation"),
        {"request_id": "sp-4", "group": "t-4", "score": 1.0},
    ]


def test_otel_attributes_as_a_list_or_an_object_are_the_same():
    record = records("otel_genai")[0]
    span = record["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    plain = {pair["key"]: next(iter(pair["value"].values())) for pair in span["attributes"]}
    plain["jrouter_allowed_models"] = ["gpt-4o", "gpt-4o-mini"]
    first = read("otel_genai", [record])[0]
    assert read("otel_genai", [span]) == [first]
    assert read("otel_genai", [span | {"attributes": plain}]) == [first]
    assert read("otel_genai", [{key: value for key, value in span.items() if key != "attributes"} | plain]) == [first]
