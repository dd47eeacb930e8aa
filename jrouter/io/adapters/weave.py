"""Weave router: its table of request telemetry, and the export of its routing decisions.

The table logs the probability with which the model was chosen. Rows of the Thompson sampler from before its pull
request 566 (July 2026) hold 1/n of n candidates there, which is not that probability: such a value is left out where
the row is older than that, or has no time. The export has neither queries nor propensities.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from jrouter.io.adapters import fields
from jrouter.io.adapters.adapter import Adapter, Dropped, Row, documented, row

CORRECTED = datetime(2026, 7, 1, tzinfo=UTC)
"""Of pull request 566 (https://github.com/weave-os/router/pull/566); a gateway updated later is wrong for longer."""
COSTS = ("actual_input_cost_usd", "actual_output_cost_usd")
MICROS = 1e-6  # the table holds costs as whole millionths of a USD, the export as USD


def weave_rows(record: Mapping[str, Any]) -> Iterable[Row | Dropped]:
    """Reads one row of the telemetry table or of the export.

    request_id     <- request_id
    query          <- embed_input
    model          <- decision_model
    cost           <- actual_input_cost_usd + actual_output_cost_usd; whole numbers are millionths of a USD
    propensity     <- propensity, but for rows of before July 2026 (or without a time) in which it is 1/n
    timestamp      <- timestamp, else requested_at
    group          <- session_id
    allowed_models <- keys of candidate_scores, else candidate_models, where the model is among them: an upper bound
    input_tokens   <- input_tokens
    output_tokens  <- output_tokens

    Dropped: answers after a failover, whose model was not drawn; failures; telemetry of other spans.
    """
    if (fields.text(record, "span_type") or "router.upstream") != "router.upstream":
        return [Dropped("span of another kind")]
    if fields.flag(record, "failover_used"):
        return [Dropped("answered after a failover")]
    if (fields.number(record, "upstream_status_code") or 0) >= 400:
        return [Dropped("failed call")]
    model = fields.text(record, "decision_model")
    candidates = fields.names(record, "candidate_scores") or fields.names(record, "candidate_models")
    when = fields.moment(record, "timestamp") or fields.moment(record, "requested_at")
    return [
        row(
            request_id=fields.text(record, "request_id"),
            query=fields.text(record, "embed_input"),
            model=model,
            cost=_cost(record),
            propensity=_propensity(record, candidates, when),
            timestamp=when,
            group=fields.text(record, "session_id"),
            allowed_models=candidates if candidates is not None and model in candidates else None,
            input_tokens=fields.tokens(record, "input_tokens"),
            output_tokens=fields.tokens(record, "output_tokens"),
        )
    ]


def _propensity(record: Mapping[str, Any], candidates: list[str] | None, when: str | float | None) -> float | None:
    found = fields.probability(record, "propensity")
    uniform = found is not None and candidates is not None and len(candidates) > 1
    if found is None or not uniform or abs(found - 1 / len(candidates or ())) > 1e-6:
        return found
    return found if _corrected(when) else None


def _corrected(when: str | float | None) -> bool:
    if when is None:
        return False
    try:
        time = datetime.fromisoformat(when) if isinstance(when, str) else datetime.fromtimestamp(when, UTC)
    except (ValueError, OverflowError, OSError):
        return False
    return time.replace(tzinfo=time.tzinfo or UTC) >= CORRECTED


def _cost(record: Mapping[str, Any]) -> float | None:
    parts = [fields.cost(record, name) for name in COSTS]
    if fields.flag(record, "subscription_served") or None in parts:
        return None  # a subscription has paid already: the row's 0 is not what the tokens are worth
    total = sum(part for part in parts if part is not None)
    return total * MICROS if all(part is not None and part.is_integer() for part in parts) else total


ADAPTER = Adapter(
    name="weave",
    about="Weave router's telemetry, with propensities (Thompson rows before July 2026 without): no scores, join them",
    mapping=documented(weave_rows),
    rows=weave_rows,
)
