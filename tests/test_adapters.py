"""Adapters of gateways' logs: what holds for all of them, whatever is in a record."""

import copy
import json

import pytest
from gateway_records import NAMES, fails, one, read, records, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from jrouter.io.adapters import ADAPTERS, COLUMNS, Dropped
from jrouter.io.adapters.fields import only_score, query


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
