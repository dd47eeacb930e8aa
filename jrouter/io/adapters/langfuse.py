"""Langfuse: exported observations, or traces with their observations and scores.

Scores are objects of their own, tied to an observation or to a whole trace; they may come years later. Where a trace
is exported with its scores they are joined here; otherwise `score_rows` reads them for a join: by `request_id` those of
observations, by `group` those of traces.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jrouter.io.adapters import fields
from jrouter.io.adapters.adapter import Adapter, Dropped, Row, documented, row
from jrouter.io.adapters.litellm import written

NO_SCORE = Dropped("score without a number")


def langfuse_rows(record: Mapping[str, Any]) -> Iterable[Row | Dropped]:
    """Reads one observation, one trace with its observations, or a page of either ({"data": [...]}).

    request_id     <- id of the observation
    query          <- input
    model          <- model, else providedModelName
    score          <- value of the trace's scores with that observationId, or, with one generation, with none
    cost           <- costDetails.total, else calculatedTotalCost (0 is missing: a model without a price)
    propensity     <- metadata: jrouter_propensity, or propensity
    timestamp      <- startTime
    group          <- traceId
    allowed_models <- metadata: jrouter_allowed_models, or allowed_models
    input_tokens   <- usageDetails.input, else promptTokens
    output_tokens  <- usageDetails.output, else completionTokens
    lam            <- metadata: jrouter_lambda
    router         <- metadata: jrouter_router

    Dropped: observations that are no generation, failed ones, and scores, which are for `--scores`.
    """
    if isinstance(record.get("data"), list):
        return [found for one in fields.objects(record, "data") for found in langfuse_rows(one)]
    if fields.look(record, "observations") is None:
        return [_observation(record, ())]
    observations = fields.objects(record, "observations")
    scores = sorted(fields.objects(record, "scores"), key=lambda score: str(score.get("timestamp") or ""))
    alone = sum(fields.text(one, "type") == "GENERATION" for one in observations) == 1
    return [_observation(one, scores, alone) for one in observations]


def score_rows(record: Mapping[str, Any]) -> Iterable[Row | Dropped]:
    """Reads one Score, or a page of them: its value, with the observation and trace that it judges.

    A boolean is 0 or 1; a category counts where a score config gives it a number. Scores of several names want one
    of them picked first.
    """
    if isinstance(record.get("data"), list):
        return [found for one in fields.objects(record, "data") for found in score_rows(one)]
    answer, trace = fields.text(record, "observationId"), fields.text(record, "traceId")
    if answer is None and trace is None:
        return [Dropped("score of a session")]
    value = _value(record)
    return [NO_SCORE if value is None else row(request_id=answer, group=trace, score=value)]


def _value(score: Mapping[str, Any]) -> float | None:
    kind = (fields.text(score, "dataType") or "NUMERIC").upper()
    value = fields.look(score, "value")
    if kind == "BOOLEAN" and isinstance(value, bool | str):
        return float(fields.flag(score, "value"))
    if kind not in ("NUMERIC", "BOOLEAN") and isinstance(value, str):
        return None
    return fields.number(score, "value")


def _observation(record: Mapping[str, Any], scores: Sequence[Mapping[str, Any]], alone: bool = False) -> Row | Dropped:
    kind = fields.text(record, "type")
    if kind is None and fields.look(record, "value") is not None:
        return Dropped("score: join it as one")
    if kind != "GENERATION":
        return Dropped("no generation")
    if fields.text(record, "level") == "ERROR":
        return Dropped("failed call")
    name = fields.text(record, "id")
    judged = [score for score in scores if fields.text(score, "observationId") in ((name, None) if alone else (name,))]
    values = [(fields.text(score, "name") or "", _value(score)) for score in judged]
    return written(record, "metadata") | row(
        request_id=name,
        query=fields.query(record, "input"),
        model=fields.text(record, "model") or fields.text(record, "providedModelName"),
        score=fields.only_score((name, value) for name, value in values if value is not None),
        cost=_first(fields.cost(record, ("costDetails", "total")), fields.cost(record, "calculatedTotalCost") or None),
        timestamp=fields.moment(record, "startTime"),
        group=fields.text(record, "traceId"),
        input_tokens=_first(fields.tokens(record, ("usageDetails", "input")), fields.tokens(record, "promptTokens")),
        output_tokens=_first(
            fields.tokens(record, ("usageDetails", "output")), fields.tokens(record, "completionTokens")
        ),
    )


def _first(*found: Any) -> Any:
    return next((value for value in found if value is not None), None)


ADAPTER = Adapter(
    name="langfuse",
    about="Langfuse's observations or whole traces: scores are objects of their own (join them, or export traces)",
    mapping=documented(langfuse_rows),
    rows=langfuse_rows,
    scores=score_rows,
)
