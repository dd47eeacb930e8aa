"""What the leaderboard keeps of a method on one log, and how blocks are made of that."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cells import select, values_of
from leaderboard_ranking import Block
from learners import Setting
from query_batches import influence_of
from studies import METRICS

from jrouter.frontier_metrics import aiq, apgr
from jrouter.policy import Outcomes
from jrouter.types import Array

NUMBERS = ("utility", "regret", "aiq", "apgr", "seconds")
"""One each of a method on a log."""


@jax.jit
def frontier(cost: Array, score: Array, single_cost: Array, single_score: Array) -> tuple[Array, Array]:
    """AIQ and APGR of a curve, within what single models cost.

    Args:
      cost: [L], means over test queries at each lambda.
      score: [L].
      single_cost: [T], mean cost of always taking one model.
      single_score: [T].
    """
    weak, strong = jnp.argmin(single_cost), jnp.argmax(single_score)
    way = single_cost[strong] - single_cost[weak]
    share = (cost - single_cost[weak]) / jnp.where(way > 0, way, 1.0)
    # What costs more than the strong model counts as that model: a higher score would not be within the way.
    within = jnp.where(share <= 1, score, single_score[strong])
    recovered = apgr(jnp.clip(share, 0.0, 1.0), within, single_score[weak], single_score[strong])
    return aiq(cost, score, low=single_cost.min(), high=single_cost.max()), recovered


def cell_of(outcomes: Outcomes, seconds: float, setting: Setting) -> dict[str, Any]:
    """What is kept of one method on one log.

    Raises:
      ValueError: if a utility is not finite.
    """
    if not np.isfinite(outcomes.utility).all():
        raise ValueError("its utility is not finite on some test query")
    test = setting.test
    of_query = np.asarray(outcomes.utility, np.float64).mean(axis=0)
    means = {metric: np.asarray(getattr(outcomes, metric)).mean(axis=1) for metric in METRICS}
    of_curve = frontier(means["cost"], means["score"], test.true_cost.mean(axis=0), test.true_score.mean(axis=0))
    found = [float(value) if np.isfinite(value) else None for value in of_curve]
    return {
        "n_train": setting.problem.log.model.shape[0],
        "n_test": of_query.shape[0],
        "lambdas": setting.problem.lambdas,
        **means,
        "influence": influence_of(of_query, test),
        **dict(zip(("aiq", "apgr"), found, strict=True)),
        "seconds": round(seconds, 3),
    }


def blocks_of(groups: Sequence[dict[str, Any]], names: Sequence[str]) -> tuple[list[Block], list[dict[str, Any]]]:
    """The logs from which all these methods learned, and their cells, `table` among the keys."""
    blocks, kept = [], []
    for group in groups:
        for policy in values_of(group["cells"], "logging_policy"):
            for seed in sorted(values_of(select(group["cells"], logging_policy=policy), "seed")):
                here = select(group["cells"], logging_policy=policy, seed=seed)
                by_name = {cell["key"]["method"]: cell for cell in here}
                if not all(name in by_name for name in names):
                    continue
                mine = [by_name[name] for name in names]
                utility = np.array([np.mean(cell["utility"]) for cell in mine])
                influence = np.array([cell["influence"] for cell in mine]).T
                blocks.append(Block(group["table"], policy, seed, utility, influence))
                kept += [{**cell, "key": cell["key"] | {"table": group["table"]}} for cell in mine]
    return blocks, kept


def numbers(cell: dict[str, Any]) -> list[float | None]:
    """`NUMBERS` of a cell; what is by lambda, averaged."""
    return [None if cell[name] is None else float(np.mean(cell[name])) for name in NUMBERS]
