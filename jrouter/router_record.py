"""Where a router comes from, for people and for its card: the log, what it chose there, and what was done since.

A record is a dict of JSON values, kept as `Router.record` and saved with the router's manifest.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from jrouter.types import LoggedData
from jrouter.weighted import model_means

RECORDED = ("created", "seed", "data", "mix", "price_date", "history", "verdict", "command", "fitted_with")
"""Fields of a manifest that are the record."""
MIX_ROWS = 20_000
"""Rows of the log that choices are counted on, the first."""


def now() -> str:
    """The time in UTC, ISO-8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def log_record(log: LoggedData, choices: Sequence[np.ndarray], *, n_models: int) -> dict[str, Any]:
    """The fields `data` and `mix` of a record: of how much a router was learned, and what it chooses there.

    Args:
      log: that it was learned from.
      choices: at each fitted lambda, the index of the choice on the log's first `MIX_ROWS` rows.
      n_models: that may be chosen.
    """
    mix = [np.bincount(one, minlength=n_models) / len(one) for one in choices]
    return {
        "data": {"rows": int(log.model.shape[0]), "models": log_summary(log)},
        "mix": [[round(float(share), 4) for share in one] for one in mix],
    }


def log_summary(log: LoggedData) -> list[dict[str, Any]]:
    """Of each model of a log: its name, rows, mean score and mean cost (None without rows)."""
    n_models = len(log.models)
    rows = np.bincount(np.asarray(log.model), minlength=n_models)
    score = model_means(log.score, log.model, log.score_weight, n_models=n_models)
    cost = model_means(log.cost, log.model, log.weight, n_models=n_models)

    def number(value):
        return float(value) if np.isfinite(value) else None

    return [
        {"name": name, "rows": int(rows[place]), "mean_score": number(score[place]), "mean_cost": number(cost[place])}
        for place, name in enumerate(log.models)
    ]


def with_entry(record: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A record with a line more in its history.

    >>> with_entry({"seed": 0}, "pool: without a")["history"][0]["what"]
    'pool: without a'
    """
    return {**record, "history": [*record.get("history", []), {"created": now(), "what": what}]}
