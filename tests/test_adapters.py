"""Adapters of gateways' logs: each trap of each gateway, on records written by hand from its documented fields."""

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrouter.encoders.texts import last_turns
from jrouter.io.adapters import ADAPTERS, COLUMNS, Dropped, litellm
from jrouter.io.adapters.fields import only_score, query
from jrouter.io.adapters.weave import CORRECTED

FIXTURES = Path(__file__).parent / "fixtures" / "gateways"
NAMES = ("litellm_spend", "litellm_payload", "vllm_replay", "weave", "hydra", "langfuse", "otel_genai")


def records(name):
    return [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def read(name, found):
    return [row for record in found for row in ADAPTERS[name].rows(record)]


def rows(name):
    return {row["request_id"]: row for row in read(name, records(name)) if not isinstance(row, Dropped)}


def dropped(name):
    return Counter(row.reason for row in read(name, records(name)) if isinstance(row, Dropped))


def one(name, **changed) -> Any:
    """The first record of a fixture, changed, as its one row."""
    (row,) = ADAPTERS[name].rows(records(name)[0] | changed)
    return row


def fails(name, told, **changed):
    with pytest.raises(ValueError) as caught:
        one(name, **changed)
    message = str(caught.value)
    assert message.startswith(told) and ", expected " in message and "\n" not in message, message


# What holds for all of them.


def test_adapters_by_name():
    assert tuple(ADAPTERS) == NAMES
    assert all(adapter.name == name and "\n" not in adapter.about for name, adapter in ADAPTERS.items())


@pytest.mark.parametrize("name", NAMES)
def test_the_documented_mapping_is_what_is_read(name):
    mapping = ADAPTERS[name].mapping
    columns = [column for column, _ in mapping]
    assert len(set(columns)) == len(columns) and set(columns) <= set(COLUMNS)
    assert all(f"{column} " in (ADAPTERS[name].rows.__doc__ or "") and f"<- {source}" for column, source in mapping)
    assert set(columns) == {column for row in rows(name).values() for column in row}


@pytest.mark.parametrize("name", NAMES)
def test_objects_may_be_json_text(name):
    found = records(name)
    as_text = [
        {
            key: json.dumps(value) if isinstance(value, dict | list) and key not in ("data", "attributes") else value
            for key, value in record.items()
        }
        for record in found
    ]
    assert as_text != found or name == "hydra"  # whose lines are flat
    assert read(name, as_text) == read(name, found)


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_not_changed(name):
    found = records(name)
    before = copy.deepcopy(found)
    read(name, found)
    assert found == before


@pytest.mark.parametrize("name", NAMES)
def test_a_page_of_records_is_read_as_its_records(name):
    found = records(name)
    if name in ("litellm_spend", "vllm_replay", "langfuse"):
        assert read(name, [{"data": found}]) == read(name, found)
    else:
        assert read(name, found[:1] * 2) == read(name, found[:1]) * 2


@pytest.mark.parametrize("name", NAMES)
def test_null_and_empty_are_absent(name):
    """Columns of CSV and Parquet that other rows fill in."""
    found = records(name)
    filled = {key for record in found for key in record}
    for record in found:
        for nothing in (None, ""):
            wide = dict.fromkeys(filled, nothing) | record
            assert read(name, [wide]) == read(name, [record])


def mutated():
    """Records of the fixtures with some of their fields replaced by any JSON."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    scalars |= st.sampled_from(["{}", "[]", "[{]", '{"messages": 3}', '[{"role": "user"}]', "1e999", "nan"])
    anything = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | KEYS, inner, max_size=3),
        max_leaves=8,
    )

    def replaced(value, draw):
        if draw(st.integers(0, 5)) == 0:
            return draw(anything)
        if isinstance(value, dict):
            return {key: replaced(inner, draw) for key, inner in value.items()}
        return [replaced(inner, draw) for inner in value] if isinstance(value, list) else value

    @st.composite
    def build(draw):
        name = draw(st.sampled_from(NAMES))
        record = draw(st.sampled_from(records(name)))
        return name, {key: replaced(value, draw) for key, value in record.items()}

    return build()


KEYS = st.sampled_from(
    ["role", "content", "parts", "text", "messages", "input", "value", "key", "stringValue", "values"]
)


@settings(max_examples=400, deadline=None)
@given(mutated())
def test_malformed_fields_are_named_or_read_never_more(found):
    name, record = found
    adapter = ADAPTERS[name]
    for reader in filter(None, (adapter.rows, adapter.scores)):
        try:
            made = list(reader(record))
        except ValueError as error:
            assert ", expected " in str(error) and "\n" not in str(error)
            continue
        for row in made:
            assert isinstance(row, Dropped) or (set(row) <= set(COLUMNS) and None not in row.values())


def test_data_nested_too_deep_is_no_stack_trace():
    deep = "[" * 100_000
    assert one("weave", embed_input=deep)["query"] == deep
    assert one("litellm_payload", messages=deep)["query"] == deep
    fails("litellm_payload", "metadata: found", metadata=deep)
    nested = {"stringValue": "end"}
    for _ in range(100):
        nested = {"arrayValue": {"values": [nested]}}
    span = {"attributes": [{"key": "gen_ai.input.messages", "value": nested}]}
    with pytest.raises(ValueError, match="nested more than 32 deep"):
        ADAPTERS["otel_genai"].rows(span)


# LiteLLM.


def test_litellm_drops_what_is_no_row():
    told = {"cache hit": 1, "answered after a fallback": 1, "failed call": 1}
    assert dropped("litellm_spend") == told | {"no chat call": 1}
    assert dropped("litellm_payload") == told


def test_litellm_reads_back_what_the_strategy_wrote():
    known = {
        litellm.LAMBDA: 300.0,
        litellm.PROPENSITY: 0.9,
        litellm.ROUTER: "abc",
        litellm.ALLOWED_MODELS: ["gpt-small", "gpt-large"],
    }
    expected = {"lam": 300.0, "propensity": 0.9, "router": "abc", "allowed_models": ["gpt-small", "gpt-large"]}
    for name in ("litellm_spend", "litellm_payload"):
        for metadata in ({"spend_logs_metadata": known}, json.dumps({"spend_logs_metadata": json.dumps(known)})):
            assert expected.items() <= one(name, metadata=metadata).items()
    # a user's own names, where jrouter's are not there
    assert rows("litellm_spend")["chatcmpl-3"]["propensity"] == 0.25
    assert rows("litellm_spend")["chatcmpl-3"]["allowed_models"] == ["llama-local", "gpt-4o"]
    assert rows("litellm_payload")["chatcmpl-a"]["propensity"] == 1.0  # jrouter's, not the user's 0.5
    assert "propensity" not in rows("litellm_spend")["chatcmpl-2"]  # missing is never 1


def test_litellm_takes_the_name_that_the_strategy_knew():
    assert rows("litellm_payload")["chatcmpl-a"]["model"] == "gpt-small"  # the deployment's
    assert rows("litellm_spend")["chatcmpl-1"]["model"] == "openai/gpt-4o-mini"  # with the provider
    assert one("litellm_spend", metadata="{}")["model"] == "gpt-4o-mini"
    assert one("litellm_spend", metadata="{}", model="")["model"] == "9f2c0e"
    other = {"spend_logs_metadata": {"allowed_models": ["something else"]}}
    assert one("litellm_spend", metadata=other)["model"] == "gpt-4o-mini"  # reading the log will reject the row
    # What the strategy wrote comes before what the gateway calls it.
    drawn = {"spend_logs_metadata": {litellm.MODEL: "best", litellm.ALLOWED_MODELS: ["best", "gpt-4o-mini"]}}
    for name in ("litellm_spend", "litellm_payload"):
        assert one(name, metadata=drawn)["model"] == "best"
        assert (litellm.MODEL in dict(ADAPTERS[name].mapping)["model"]) and one(name, metadata={})["model"] != "best"


def test_litellm_costs_of_0_are_missing_unless_confirmed():
    spend, payload = rows("litellm_spend"), rows("litellm_payload")
    assert "cost" not in spend["chatcmpl-2"] and "cost" not in payload["chatcmpl-b"]
    assert spend["chatcmpl-3"]["cost"] == 0.0 and payload["call-c"]["cost"] == 0.0
    assert (spend["chatcmpl-2"]["input_tokens"], spend["chatcmpl-2"]["output_tokens"]) == (12, 40)  # for prices
    assert one("litellm_payload", response_cost=None)["cost"] == 0.000045  # from the breakdown


def test_litellm_queries():
    spend, payload = rows("litellm_spend"), rows("litellm_payload")
    assert last_turns(spend["chatcmpl-1"]["query"], 1) == "What is a monad?"
    assert "query" not in spend["chatcmpl-3"]  # messages "{}", and no request stored
    assert last_turns(spend["chatcmpl-5"]["query"], 1) == "Hello?"  # realtime
    assert "query" not in spend["chatcmpl-6"]  # redacted
    assert payload["call-c"]["request_id"] == "call-c"


def test_litellm_says_where_it_cut_a_query():
    cut = rows("litellm_spend")["chatcmpl-4"]
    assert cut["truncated"] is True and "truncated" not in rows("litellm_spend")["chatcmpl-1"]
    assert last_turns(cut["query"], 1) == "Summarise: once upon a ... ever after.\n[image_url]"
    assert rows("litellm_payload")["call-c"] | {"query": ""} == {
        "request_id": "call-c",
        "query": "",
        "model": "llama-local",
        "cost": 0.0,
        "timestamp": 1791190804.0,
        "truncated": True,
    }
    assert rows("litellm_payload")["call-c"]["query"] == "Write a haiku about the sea ... "


def test_litellm_classifier_scores_are_no_scores():
    assert records("litellm_spend")[1]["metadata"]["routing_decision"]["score"] == 0.97
    assert all("score" not in row for name in ("litellm_spend", "litellm_payload") for row in rows(name).values())


def test_litellm_malformed():
    fails("litellm_spend", "spend: found -0.1", spend=-0.1)
    fails("litellm_spend", "spend: found 'free'", spend="free")
    fails("litellm_spend", "prompt_tokens: found 1.5", prompt_tokens=1.5)
    fails("litellm_spend", "metadata: found 'x'", metadata="x")
    fails("litellm_spend", "metadata: found [1]", metadata=[1])
    fails("litellm_payload", "messages: found [1, 2]", messages=[1, 2])
    for value in (0, -0.5, 1.5, float("nan"), True, "often"):
        told = "metadata.spend_logs_metadata.jrouter_propensity: found"
        fails("litellm_payload", told, metadata={"spend_logs_metadata": {litellm.PROPENSITY: value}})
    told = "metadata.spend_logs_metadata.allowed_models: found 'a,b'"
    fails("litellm_payload", told, metadata={"spend_logs_metadata": {"allowed_models": "a,b"}})


# vLLM semantic-router.


def test_vllm_keeps_completed_answers_of_models():
    assert dropped("vllm_replay") == {"cache hit": 1, "not completed": 2}
    assert one("vllm_replay", lifecycle_state=None)["model"] == "qwen-72b"  # records older than the field
    assert one("vllm_replay", lifecycle_state="aborted") == Dropped("not completed")
    assert one("vllm_replay", response_status=503) == Dropped("not completed")


def test_vllm_scores_are_of_the_model_and_absent_may_mean_0():
    found = rows("vllm_replay")
    assert found["r-1"]["score"] == 0.9  # the latest on the model: not the route's, not the older one
    assert found["r-2"]["score"] == 0.0 and found["r-3"]["score"] == 1.0  # by verdict alone
    assert "score" not in found["r-4"]  # a verdict that says nothing
    outcome = {"target": "model", "target_ref": "another", "verdict": "good_fit", "score": 1}
    assert "score" not in one("vllm_replay", outcomes=[outcome])


def test_vllm_costs_that_are_absent_are_unknown():
    found = rows("vllm_replay")
    assert found["r-1"]["cost"] == 0.0031 and "cost" not in found["r-2"]
    assert (found["r-2"]["input_tokens"], found["r-2"]["output_tokens"]) == (9, 80)
    assert found["r-3"]["cost"] == 0.0  # said to be so
    fails("vllm_replay", "currency: found 'EUR'", currency="EUR")


def test_vllm_has_no_propensity_and_allowed_models_with_the_model_among_them():
    found = rows("vllm_replay")
    assert all("propensity" not in row for row in found.values())
    assert records("vllm_replay")[0]["learning"]["adaptation"]["sampling"] == {"used": True, "seed": 42}
    assert found["r-1"]["allowed_models"] == ["qwen-72b", "qwen-7b"]
    assert "allowed_models" not in found["r-2"]


def test_vllm_queries_cut_short():
    found = rows("vllm_replay")
    assert last_turns(found["r-3"]["query"], 1) == "Summarise this contract: the whole of it"
    assert found["r-4"]["query"] == "Summarise this" and found["r-4"]["truncated"] is True
    assert "truncated" not in found["r-1"] and "truncated" not in found["r-3"]


def test_vllm_offline_records():
    found = rows("vllm_replay")
    assert [found[f"s-9:{turn}"].get("score") for turn in range(4)] == [0.0, 0.5, 1.0, None]
    assert found["s-9:0"]["cost"] == 0.0007 and "cost" not in found["s-9:1"]
    assert found["s-9:0"]["allowed_models"] == ["gpt-4o", "gpt-4o-mini"]
    assert all("query" not in found[f"s-9:{turn}"] for turn in range(4))


# weave and hydra.


def test_weave_drops_what_is_no_row():
    assert dropped("weave") == {"answered after a failover": 1, "failed call": 1, "span of another kind": 1}


def test_weave_thompson_rows_before_the_correction_have_no_propensity():
    found = rows("weave")
    assert "propensity" not in found["w-2"] and "propensity" not in found["w-4"]  # 1/n: of before, and without a time
    assert found["w-3"]["propensity"] == 0.5  # 1/2 of two, but of after
    assert found["w-1"]["propensity"] == 0.5  # of a band of two among three candidates
    assert found["w-5"]["propensity"] == 1.0 and "propensity" not in found["w-6"]
    two = {"candidate_scores": {"claude-sonnet": 1, "b": 0}, "propensity": 0.5}
    for when, trusted in ((CORRECTED.isoformat(), True), ("2026-06-30T23:59:59+00:00", False), ("soon", False)):
        assert ("propensity" in one("weave", timestamp=when, **two)) is trusted
    assert "propensity" in one("weave", timestamp=CORRECTED.timestamp(), **two)
    assert "propensity" not in one("weave", timestamp=CORRECTED.timestamp() - 1, **two)


def test_weave_candidates_are_an_upper_bound_of_allowed_models():
    found = rows("weave")
    assert found["w-1"]["allowed_models"] == ["claude-sonnet", "gpt-5-mini", "qwen-coder"]
    assert found["w-7"]["allowed_models"] == ["claude-sonnet", "gpt-5-mini"]
    assert "allowed_models" not in found["w-6"]  # a pinned model that was no candidate


def test_weave_costs_in_millionths_or_in_usd():
    found = rows("weave")
    assert found["w-1"]["cost"] == pytest.approx(0.006)  # the table's whole numbers
    assert found["w-3"]["cost"] == pytest.approx(0.000032) and found["w-7"]["cost"] == 0.00001  # the export's USD
    assert found["w-2"]["cost"] == pytest.approx(found["w-3"]["cost"])
    assert "cost" not in found["w-5"]  # a subscription paid: not 0
    assert "cost" not in found["w-6"]  # one part is unknown
    fails("weave", "propensity: found 0.0", propensity=0)
    fails("weave", "candidate_scores: found 'none'", candidate_scores="none")


def test_hydra():
    found = rows("hydra")
    assert dropped("hydra") == {"swarm: several models were asked": 1, "answered after a fallback": 1}
    assert (found["t-2"]["propensity"], found["t-2"]["keep_probability"]) == (0.025, 0.2)
    assert "propensity" not in found["t-3"] and "keep_probability" not in found["t-3"]
    assert "query" not in found["t-1"] and found["t-2"]["query"] == "design the schema"
    fails("hydra", "act_prob: found 0.0", act_prob=0)
    fails("hydra", "keep_prob: found 0.0", keep_prob=0)
    fails("hydra", "act_prob: found 1.01", act_prob=1.01)
    fails("hydra", "ts: found [1]", ts=[1])


# Langfuse and OpenTelemetry.


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


# Fields.


@pytest.mark.parametrize(
    "value,expected",
    [
        ("Hi", "Hi"),
        ("[sic] what is this", "[sic] what is this"),
        ('{"a": 1}', '{"a": 1}'),
        ("[1, 2]", "[1, 2]"),
        ("{}", None),
        ({}, None),
        ([], None),
        (None, None),
        ({"temperature": 1}, None),
        ('{"input": "Hi"}', "Hi"),
        ({"input": [{"role": "user", "content": "Hi"}]}, [{"role": "user", "content": "Hi"}]),
        ({"role": "user", "content": "Hi", "name": "x"}, [{"role": "user", "content": "Hi"}]),
    ],
)
def test_query_is_text_or_messages(value, expected):
    assert query({"q": value}, "q") == expected


def test_only_score_takes_the_last_of_one_name():
    assert only_score([("a", 1.0), ("a", 0.0)]) == 0.0 and only_score([]) is None
