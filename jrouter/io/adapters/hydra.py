"""Hydra: lines of its cost.jsonl, with the probabilities of choosing a model and of keeping the line.

`act_prob` is that of the model which was tried first (epsilon-greedy: 1 - eps + eps/n or eps/n), so that it says
nothing of a line after a fallback, which the log does not mark: lines of one task share a request_id, and only the
first of them is kept where rows are read into a log.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from jrouter.io.adapters import fields
from jrouter.io.adapters.adapter import Adapter, Dropped, Row, documented, row


def hydra_rows(record: Mapping[str, Any]) -> Iterable[Row | Dropped]:
    """Reads one line.

    request_id       <- task_id
    query            <- query, else prompt, where you added one: Hydra logs none
    model            <- model
    cost             <- est_cost_usd: tokens times price, never what was billed
    propensity       <- act_prob (0 means unrecorded and is an error)
    timestamp        <- ts
    group            <- run_id
    keep_probability <- keep_prob (0 means unrecorded and is an error)
    input_tokens     <- prompt_tokens
    output_tokens    <- response_tokens

    Dropped: swarms, which ask several models at once; lines that are marked as a fallback or a further attempt.
    """
    if fields.text(record, "swarm_mode") is not None:
        return [Dropped("swarm: several models were asked")]
    if fields.flag(record, "fallback") or (fields.number(record, "attempt") or 0) > 1:
        return [Dropped("answered after a fallback")]
    return [
        row(
            request_id=fields.text(record, "task_id"),
            query=fields.query(record, "query") or fields.query(record, "prompt"),
            model=fields.text(record, "model"),
            cost=fields.cost(record, "est_cost_usd"),
            propensity=fields.probability(record, "act_prob"),
            timestamp=fields.moment(record, "ts"),
            group=fields.text(record, "run_id"),
            keep_probability=fields.probability(record, "keep_prob"),
            input_tokens=fields.tokens(record, "prompt_tokens"),
            output_tokens=fields.tokens(record, "response_tokens"),
        )
    ]


ADAPTER = Adapter(
    name="hydra",
    about="Hydra's cost.jsonl, with propensities and keep probabilities: no queries and no scores, join them",
    mapping=documented(hydra_rows),
    rows=hydra_rows,
)
