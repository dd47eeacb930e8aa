"""Logs of LLM gateways as rows of a jrouter log: one short file each, by name in `ADAPTERS`.

An adapter reads one record at a time, and says of each whether it is a row, was dropped and why, or is malformed. Its
mapping is the table in the docstring of its reader.

>>> record = {"request_id": "a", "model": "small", "spend": 0.002, "messages": "{}", "cache_hit": "False"}
>>> list(ADAPTERS["litellm_spend"].rows(record))
[{'request_id': 'a', 'model': 'small', 'cost': 0.002}]
>>> list(ADAPTERS["litellm_spend"].rows(record | {"cache_hit": "True"}))
[Dropped(reason='cache hit')]
"""

from jrouter.io.adapters import hydra, langfuse, litellm, otel_genai, vllm_replay, weave
from jrouter.io.adapters.adapter import COLUMNS, Adapter, Dropped, Row

ADAPTERS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        litellm.SPEND,
        litellm.PAYLOAD,
        vllm_replay.ADAPTER,
        weave.ADAPTER,
        hydra.ADAPTER,
        langfuse.ADAPTER,
        otel_genai.ADAPTER,
    )
}

__all__ = ["ADAPTERS", "COLUMNS", "Adapter", "Dropped", "Row"]
