"""LiteLLM: rows of the database table LiteLLM_SpendLogs, and StandardLoggingPayload objects of a CustomLogger.

Neither holds a score: join one by `request_id`. What the routing strategy knew (propensity, allowed models) is there
only where it wrote it into `metadata["spend_logs_metadata"]`, under the names below; both kinds of log carry that.
`metadata.routing_decision.score` of LiteLLM's own routers is a classifier's, and no score of the answer.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from jrouter.io.adapters import fields
from jrouter.io.adapters.adapter import Adapter, Dropped, Row, documented, row

# What jrouter's routing strategy writes into spend_logs_metadata.
LAMBDA = "jrouter_lambda"
PROPENSITY = "jrouter_propensity"
ROUTER = "jrouter_router"
ALLOWED_MODELS = "jrouter_allowed_models"
MODEL = "jrouter_model"
"""The model drawn, under the router's name for it."""

WRITTEN = ("metadata", "spend_logs_metadata")
NO_CHAT = ("embedding", "image", "transcription", "speech", "moderation", "rerank")
REDACTED = "redacted-by-litellm"
_CUT = re.compile(r"\.\.\. \(litellm_truncated.*?\)(?: \.\.\.|$)", re.DOTALL)


def spend_rows(record: Mapping[str, Any]) -> Iterable[Row | Dropped]:
    """Reads one row of LiteLLM_SpendLogs (or a page of them, {"data": [...]}).

    request_id     <- request_id
    query          <- proxy_server_request (its messages), else messages ("{}" but for realtime calls)
    model          <- spend_logs_metadata: jrouter_model; else model, or model_id or model_group if one is allowed
    cost           <- spend; 0 is missing (models without a price log 0) unless metadata.cost_breakdown confirms it
    propensity     <- metadata.spend_logs_metadata: jrouter_propensity, or propensity
    timestamp      <- startTime
    group          <- session_id
    allowed_models <- metadata.spend_logs_metadata: jrouter_allowed_models, or allowed_models
    input_tokens   <- prompt_tokens
    output_tokens  <- completion_tokens
    lam            <- metadata.spend_logs_metadata: jrouter_lambda
    router         <- metadata.spend_logs_metadata: jrouter_router
    truncated      <- a mark that LiteLLM left where it cut the query (by default strings above 2,048 characters)

    Dropped: failures, cache hits, calls that are no chat, and answers after a fallback, whose model was not drawn.
    """
    if isinstance(record.get("data"), list):
        return [found for one in fields.objects(record, "data") for found in spend_rows(one)]
    return [_read(record, "request_id", "proxy_server_request", "spend", ("metadata", "cost_breakdown"), "session_id")]


def payload_rows(record: Mapping[str, Any]) -> Iterable[Row | Dropped]:
    """Reads one StandardLoggingPayload, as a CustomLogger gets it in kwargs["standard_logging_object"].

    request_id     <- id, else litellm_call_id
    query          <- messages
    model          <- spend_logs_metadata: jrouter_model; else model, or model_id or model_group if one is allowed
    cost           <- response_cost; 0 is missing (models without a price log 0) unless cost_breakdown confirms it
    propensity     <- metadata.spend_logs_metadata: jrouter_propensity, or propensity
    timestamp      <- startTime
    group          <- trace_id
    allowed_models <- metadata.spend_logs_metadata: jrouter_allowed_models, or allowed_models
    input_tokens   <- prompt_tokens
    output_tokens  <- completion_tokens
    lam            <- metadata.spend_logs_metadata: jrouter_lambda
    router         <- metadata.spend_logs_metadata: jrouter_router
    truncated      <- a mark that LiteLLM left where it cut the query (by default strings above 2,048 characters)

    Dropped: failures, cache hits, calls that are no chat, and answers after a fallback, whose model was not drawn.
    """
    return [_read(record, "id", "messages", "response_cost", "cost_breakdown", "trace_id")]


def written(record: Mapping[str, Any], path: fields.Path) -> Row:
    """Returns what a routing strategy wrote beside a request: jrouter's keys, else a user's own.

    Args:
      record: of any gateway that keeps a request's metadata.
      path: of that metadata.

    >>> written({"metadata": {"propensity": 0.5, "jrouter_lambda": 100}}, "metadata")
    {'propensity': 0.5, 'lam': 100.0}
    """
    at = (path,) if isinstance(path, str) else path

    def here(*keys: str) -> tuple[str, ...]:
        return (*at, next((key for key in keys if fields.look(record, (*at, key)) is not None), keys[0]))

    return row(
        propensity=fields.probability(record, here(PROPENSITY, "propensity")),
        allowed_models=fields.names(record, here(ALLOWED_MODELS, "allowed_models")),
        lam=fields.number(record, here(LAMBDA)),
        router=fields.text(record, here(ROUTER)),
    )


def _read(
    record: Mapping[str, Any], request_id: str, request: str, cost: str, breakdown: fields.Path, group: str
) -> Row | Dropped:
    reason = _why_dropped(record)
    if reason is not None:
        return Dropped(reason)
    known = written(record, WRITTEN)
    asked, cut = _whole(fields.query(record, request) or fields.query(record, "messages"))
    return known | row(
        request_id=fields.text(record, request_id) or fields.text(record, "litellm_call_id"),
        query=asked,
        model=_model(record, known.get("allowed_models")),
        cost=_cost(record, cost, breakdown),
        timestamp=fields.moment(record, "startTime"),
        group=fields.text(record, group),
        input_tokens=fields.tokens(record, "prompt_tokens"),
        output_tokens=fields.tokens(record, "completion_tokens"),
        truncated=cut or None,
    )


def _why_dropped(record: Mapping[str, Any]) -> str | None:
    if str(fields.look(record, "status") or "success").lower() == "failure":
        return "failed call"
    if fields.flag(record, "cache_hit"):
        return "cache hit"
    if (fields.number(record, ("metadata", "attempted_fallbacks")) or 0) > 0:
        return "answered after a fallback"
    call = fields.text(record, "call_type") or ""
    return "no chat call" if any(word in call for word in NO_CHAT) else None


def _model(record: Mapping[str, Any], allowed: list[str] | None) -> str | None:
    """The name under which the strategy knew the model; without one, that of the provider."""
    drawn = fields.text(record, (*WRITTEN, MODEL))
    if drawn is not None:
        return drawn
    model, provider = fields.text(record, "model"), fields.text(record, "custom_llm_provider")
    prefixed = None if model is None or provider is None else f"{provider}/{model}"
    known = [model, prefixed, fields.text(record, "model_id"), fields.text(record, "model_group")]
    return next((name for name in known if name is not None and name in (allowed or ())), model or known[2])


def _cost(record: Mapping[str, Any], path: str, breakdown: fields.Path) -> float | None:
    at = (breakdown,) if isinstance(breakdown, str) else breakdown
    total = fields.cost(record, (*at, "total_cost"))
    logged = fields.cost(record, path)
    return total if not logged else logged


def _whole(query: Any) -> tuple[Any, bool]:
    """The query without LiteLLM's marks of a cut, and whether there were any; None where it was redacted."""
    if not isinstance(query, list):
        return (None, False) if query == REDACTED else (_mended(query), _is_cut(query))
    contents = [message["content"] for message in query]
    if REDACTED in contents:
        return None, False
    parts = [part for content in contents for part in (content if isinstance(content, list) else [content])]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    return [message | {"content": _mended(message["content"])} for message in query], any(map(_is_cut, texts))


def _is_cut(text: Any) -> TypeGuard[str]:
    return isinstance(text, str) and "litellm_truncated" in text


def _mended(content: Any) -> Any:
    if isinstance(content, list):
        return [_mended(part) if isinstance(part, str | Mapping) else part for part in content]
    if isinstance(content, Mapping) and _is_cut(content.get("text")):
        return {**content, "text": _mended(content["text"])}
    return _CUT.sub(" ... ", content) if _is_cut(content) else content


_SAID = "no scores (join them by request_id); propensities only where the strategy wrote them; failures are dropped"

SPEND = Adapter(
    name="litellm_spend",
    about=f"LiteLLM's spend logs (LiteLLM_SpendLogs, with store_prompts_in_spend_logs): {_SAID}",
    mapping=documented(spend_rows),
    rows=spend_rows,
)
PAYLOAD = Adapter(
    name="litellm_payload",
    about=f"LiteLLM's StandardLoggingPayload, as a CustomLogger gets it: {_SAID}",
    mapping=documented(payload_rows),
    rows=payload_rows,
)
