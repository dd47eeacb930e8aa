"""OpenTelemetry GenAI: spans in OTLP's JSON, or flat, with the attributes of the semantic conventions.

There is no cost: tokens are read, so that prices can fill it in. A score is the event gen_ai.evaluation.result, on the
span itself or as a log record of its own, which `evaluation_rows` reads for a join by `request_id`. A label without
a value is no score. Prompts are there only where the instrumentation was told to record them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jrouter.io.adapters import fields
from jrouter.io.adapters.adapter import Adapter, Dropped, Row, documented, row
from jrouter.io.adapters.litellm import written

EVALUATION = "gen_ai.evaluation.result"
DETAILS = "gen_ai.client.inference.operation.details"
MESSAGES = "gen_ai.input.messages"
OPERATIONS = ("chat", "text_completion", "generate_content")
DEEPEST = 32  # of nested attribute values


def otel_rows(record: Mapping[str, Any]) -> Iterable[Row | Dropped]:
    """Reads one line of an OTLP/JSON export (resourceSpans), one span, or one object with the attributes as its keys.

    request_id     <- spanId
    query          <- gen_ai.input.messages, of the span or of its event gen_ai.client.inference.operation.details
    model          <- gen_ai.request.model, else gen_ai.response.model
    score          <- gen_ai.evaluation.score.value, of the span's events gen_ai.evaluation.result
    propensity     <- jrouter_propensity, or propensity
    timestamp      <- startTimeUnixNano, else timestamp
    group          <- gen_ai.conversation.id, else traceId
    allowed_models <- jrouter_allowed_models, or allowed_models
    input_tokens   <- gen_ai.usage.input_tokens
    output_tokens  <- gen_ai.usage.output_tokens
    lam            <- jrouter_lambda
    router         <- jrouter_router

    Dropped: spans that call no model or do something else than generate, failed ones, and log records.
    """
    if fields.look(record, "resourceLogs") is not None:
        return [Dropped("log record: join it as a score") for _ in _nested(record, "Logs", "logRecords")]
    if fields.look(record, "resourceSpans") is None:
        return [_span(record)]
    return [_span(span) for span in _nested(record, "Spans", "spans")]


def evaluation_rows(record: Mapping[str, Any]) -> Iterable[Row | Dropped]:
    """Reads one line of an OTLP/JSON export (resourceLogs), or one log record: the score, with the span it judges."""
    nested = fields.look(record, "resourceLogs") is not None
    events = _nested(record, "Logs", "logRecords") if nested else [record]
    return [_evaluation(event) for event in events]


def _evaluation(event: Mapping[str, Any]) -> Row | Dropped:
    keys = _attributes(event)
    if EVALUATION not in (event.get("eventName"), event.get("name"), keys.get("event.name")):
        return Dropped("no evaluation")
    value = fields.number(keys, "gen_ai.evaluation.score.value")
    if value is None:
        return Dropped("score without a number")
    return row(request_id=_span_id(event), group=_trace_id(event), score=value)


def _span(span: Mapping[str, Any]) -> Row | Dropped:
    keys = _attributes(span)
    model = fields.text(keys, "gen_ai.request.model") or fields.text(keys, "gen_ai.response.model")
    operation = fields.text(keys, "gen_ai.operation.name")
    if model is None:
        return Dropped("no call of a model")
    if operation is not None and operation not in OPERATIONS:
        return Dropped("no generation")
    status = span.get("status")
    code = status.get("code") if isinstance(status, Mapping) else status
    if code in (2, "2", "STATUS_CODE_ERROR", "ERROR") or fields.look(keys, "error.type") is not None:
        return Dropped("failed call")
    events = [(event.get("name"), _attributes(event)) for event in fields.objects(span, "events")]
    details = next((found for name, found in events if name == DETAILS), {})
    scores = [
        (fields.text(found, "gen_ai.evaluation.name") or "", fields.number(found, "gen_ai.evaluation.score.value"))
        for name, found in events
        if name == EVALUATION
    ]
    return written({"attributes": keys}, "attributes") | row(
        request_id=_span_id(span),
        query=fields.query(keys, MESSAGES) or fields.query(details, MESSAGES),
        model=model,
        score=fields.only_score((name, value) for name, value in scores if value is not None),
        timestamp=_start(span),
        group=fields.text(keys, "gen_ai.conversation.id") or _trace_id(span),
        input_tokens=fields.tokens(keys, "gen_ai.usage.input_tokens"),
        output_tokens=fields.tokens(keys, "gen_ai.usage.output_tokens"),
    )


def _span_id(found: Mapping[str, Any]) -> str | None:
    return fields.text(found, "spanId") or fields.text(found, "span_id")


def _trace_id(found: Mapping[str, Any]) -> str | None:
    return fields.text(found, "traceId") or fields.text(found, "trace_id")


def _start(span: Mapping[str, Any]) -> str | float | None:
    nanoseconds = fields.number(span, "startTimeUnixNano")
    return fields.moment(span, "timestamp") if nanoseconds is None else nanoseconds / 1e9


def _nested(record: Mapping[str, Any], kind: str, leaf: str) -> Iterator[Mapping[str, Any]]:
    """OTLP: {"resourceSpans": [{"scopeSpans": [{"spans": [...]}]}]}, and the same of logs."""
    for resource in fields.objects(record, f"resource{kind}"):
        for scope in fields.objects(resource, f"scope{kind}"):
            yield from fields.objects(scope, leaf)


def _attributes(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """As an object: OTLP lists {"key", "value"}, other exports have an object, or the keys beside the span's."""
    attributes = fields.opened(found, "attributes")
    if isinstance(attributes, list):
        pairs = fields.objects(found, "attributes")
        return {str(pair.get("key")): _plain(pair.get("value"), DEEPEST) for pair in pairs}
    return found if attributes is None else fields.part(found, "attributes") or {}


def _plain(value: Any, deepest: int) -> Any:
    """An OTLP AnyValue, {"stringValue": "a"} and so on, as a plain value; 64-bit integers are text there."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return value
    if deepest == 0:
        raise ValueError(f"attributes: found values nested more than {DEEPEST} deep, expected messages")
    ((kind, inner),) = value.items()
    if not str(kind).endswith("Value"):
        return value
    if kind == "arrayValue":
        return [_plain(item, deepest - 1) for item in _values(inner)]
    if kind == "kvlistValue":
        pairs = (pair for pair in _values(inner) if isinstance(pair, Mapping))
        return {str(pair.get("key")): _plain(pair.get("value"), deepest - 1) for pair in pairs}
    return inner


def _values(inner: Any) -> list[Any]:
    found = inner.get("values") if isinstance(inner, Mapping) else None
    return found if isinstance(found, list) else []


ADAPTER = Adapter(
    name="otel_genai",
    about="OpenTelemetry GenAI spans: no costs (give prices), no propensity but your own; most scores are log records",
    mapping=documented(otel_rows),
    rows=otel_rows,
    scores=evaluation_rows,
)
