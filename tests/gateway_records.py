"""Records of gateways' logs, written by hand from their documented fields, and what adapters make of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jrouter.io.adapters import ADAPTERS, Dropped

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
