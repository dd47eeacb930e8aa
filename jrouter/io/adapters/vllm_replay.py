"""vLLM semantic-router: records of its replay store, and those of its offline training sets.

Scores and costs of 0 are left out of its JSON (`omitempty`), so that what is absent may have been 0: a score is then
taken from the verdict, and a cost stays unknown, to be filled in from the tokens. No field is a propensity:
`learning.adaptation.sampling` only says that a draw was made, `selection_score` and `all_scores` are forecasts.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from jrouter.io.adapters import fields
from jrouter.io.adapters.adapter import Adapter, Dropped, Row, documented, row

VERDICTS = {"good_fit": 1.0, "overprovisioned": 1.0, "underpowered": 0.0, "failed": 0.0}
"""Score of an answer of which an outcome says no more than its verdict; overprovisioned: good, but too dear."""
FEEDBACK = {"implicit_satisfied": 1.0, "implicit_wrong_answer": 0.0}
"""Score of the kinds of feedback that say whether the answer was right; the others do not."""


def replay_rows(record: Mapping[str, Any]) -> Iterable[Row | Dropped]:
    """Reads one replay record, one OfflineDatasetRecord, or a page of them ({"data": [...]} or {"records": [...]}).

    request_id     <- id; of an OfflineDatasetRecord session_id:turn_index
    query          <- prompt, or request_body (its messages) where the prompt was cut; an OfflineDatasetRecord has none
    model          <- selected_model
    score          <- the last of outcomes on the model: score, else its verdict; outcome.won, tie, feedback_type
    cost           <- actual_cost (absent may mean 0: then unknown) in USD; outcome.actual_cost
    timestamp      <- timestamp
    group          <- session_id
    allowed_models <- keys of learning.adaptation.scores, or candidate_models, where the model is among them
    input_tokens   <- prompt_tokens; outcome.prompt_tokens
    output_tokens  <- completion_tokens; outcome.completion_tokens
    truncated      <- prompt_truncated and request_body_truncated

    Dropped: answers from the cache, and requests that were not completed.
    """
    for page in ("data", "records"):
        if isinstance(record.get(page), list):
            return [found for one in fields.objects(record, page) for found in replay_rows(one)]
    return [_offline(record) if fields.look(record, "outcome") is not None else _replay(record)]


def _replay(record: Mapping[str, Any]) -> Row | Dropped:
    if fields.flag(record, "from_cache"):
        return Dropped("cache hit")
    status = fields.number(record, "response_status") or 0
    if (fields.text(record, "lifecycle_state") or "completed") != "completed" or status >= 400:
        return Dropped("not completed")
    currency = fields.text(record, "currency")
    if currency not in (None, "USD"):
        raise fields.misfit("currency", currency, "USD; convert the costs")
    model = fields.text(record, "selected_model")
    asked, cut = _query(record)
    return row(
        request_id=fields.text(record, "id"),
        query=asked,
        model=model,
        score=_score(record, model),
        cost=fields.cost(record, "actual_cost"),
        timestamp=fields.moment(record, "timestamp"),
        group=fields.text(record, "session_id"),
        allowed_models=_allowed(record, ("learning", "adaptation", "scores"), model),
        input_tokens=fields.tokens(record, "prompt_tokens"),
        output_tokens=fields.tokens(record, "completion_tokens"),
        truncated=cut or None,
    )


def _query(record: Mapping[str, Any]) -> tuple[Any, bool]:
    prompt, cut = fields.text(record, "prompt"), fields.flag(record, "prompt_truncated")
    if prompt is not None and not cut:
        return prompt, False
    if not fields.flag(record, "request_body_truncated"):
        body = fields.query(record, "request_body")
        if body is not None:
            return body, False
    return prompt, prompt is not None


def _score(record: Mapping[str, Any], model: str | None) -> float | None:
    """Of the last outcome that judges the model which answered: the others judge the route, the policy, ..."""
    outcomes = [
        outcome
        for outcome in fields.objects(record, "outcomes")
        if (outcome.get("target") or "model") == "model" and (outcome.get("target_ref") or model) == model
    ]
    if not outcomes:
        return None
    last = sorted(outcomes, key=lambda outcome: str(outcome.get("timestamp") or ""))[-1]
    found = fields.number(last, "score")
    return VERDICTS.get(fields.text(last, "verdict") or "") if found is None else found


def _allowed(record: Mapping[str, Any], path: fields.Path, model: str | None) -> list[str] | None:
    found = fields.names(record, path)
    # A model that was kept for the session's sake need not be among those that were scored.
    return found if found is not None and model in found else None


def _offline(record: Mapping[str, Any]) -> Row | Dropped:
    if (fields.number(record, ("outcome", "response_status")) or 0) >= 400:
        return Dropped("not completed")
    session, turn = fields.text(record, "session_id"), fields.text(record, "turn_index")
    model = fields.text(record, "selected_model")
    return row(
        request_id=None if session is None or turn is None else f"{session}:{turn}",
        model=model,
        score=_offline_score(record),
        cost=fields.cost(record, ("outcome", "actual_cost")),
        timestamp=fields.moment(record, "timestamp"),
        group=session,
        allowed_models=_allowed(record, "candidate_models", model),
        input_tokens=fields.tokens(record, ("outcome", "prompt_tokens")),
        output_tokens=fields.tokens(record, ("outcome", "completion_tokens")),
    )


def _offline_score(record: Mapping[str, Any]) -> float | None:
    if fields.flag(record, ("outcome", "tie")):
        return 0.5
    if fields.look(record, ("outcome", "won")) is not None:
        return float(fields.flag(record, ("outcome", "won")))
    return FEEDBACK.get(fields.text(record, ("outcome", "feedback_type")) or "")


ADAPTER = Adapter(
    name="vllm_replay",
    about="vLLM semantic-router's replay records: no propensity; a score or cost of 0 is left out of its JSON",
    mapping=documented(replay_rows),
    rows=replay_rows,
)
