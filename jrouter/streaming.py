"""A log in chunks, never held as a whole: which rows do what, what is drawn from it, and its scores.

Nuisances are fitted on a sample of the rows, and the doubly robust corrections come from all rows: each row,
in the sample or not, is scored by the fit that left its fold out. A fold is told by a hash of the row's query,
so it is the same in every pass, and rows of one query share it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.counterfactual import WEIGHTS, counterfactual_scores
from jrouter.features import scale
from jrouter.hashing import hashed_fold, row_keys, uniform
from jrouter.nuisances.crossfit import NuisanceConfig
from jrouter.nuisances.sampled import SampledNuisances, predict_sampled
from jrouter.train import Rows
from jrouter.types import Array, LoggedData


class LogChunk(NamedTuple):
    """Some rows of a log, on the host (NumPy arrays); all chunks have as many, the last is filled up.

    Attributes:
      log: m rows; `row_weight` and `scored` are always there. Filling weighs 0.
      key: [m] uint64, equal for rows that stay together: of one group, or one query.
      row: [m] int64, number of the row in the log, -1 for filling.
    """

    log: LoggedData
    key: np.ndarray
    row: np.ndarray


def log_chunk(log: LoggedData, start: int = 0) -> LogChunk:
    """A log in memory as one chunk, e.g. for tests, or to stream what is made and not read.

    Args:
      log: m rows; rows are of one query where `group` says so, else where embeddings are equal.
      start: number of its first row.
    """
    log = jax.tree.map(np.asarray, log)
    n = log.model.shape[0]
    keys = row_keys(np.asarray(log.x)) if log.group is None else row_keys(np.asarray(log.group)[:, None])
    columns = {name: getattr(log, name) for name in ("x", "model", "score", "cost", "propensity", "allowed")}
    columns["row_weight"] = np.ones(n, np.float32) if log.row_weight is None else log.row_weight
    columns["scored"] = np.ones(n, bool) if log.scored is None else log.scored
    return LogChunk(
        LoggedData(**columns, models=log.models, cost_unit=log.cost_unit), keys, np.arange(start, start + n)
    )


@dataclass(frozen=True)
class Roles:
    """What each row is used for, told by hashes alone.

    Attributes:
      n_rows: of the log.
      n_folds: K, for cross-fitting.
      nuisance_rows: about how many rows the nuisances are fitted on, drawn uniformly; the memory of that fit
        grows with it, times T.
      valid_rows: about how many rows choose a router's epoch, at most; they are not trained on.
      valid_share: share of the rows that do, at most.
      seed: of the hashes.
    """

    n_rows: int
    n_folds: int = 5
    nuisance_rows: int = 100_000
    valid_rows: int = 20_000
    valid_share: float = 0.2
    seed: int = 0

    def fold(self, chunk: LogChunk) -> np.ndarray:
        """[m] int32, below `n_folds`."""
        return hashed_fold(chunk.key, n_folds=self.n_folds, salt=3 * self.seed)

    def validates(self, chunk: LogChunk) -> np.ndarray:
        """[m] bool: rows that no gradient may see, all or none of a query."""
        share = min(self.valid_share, self.valid_rows / self.n_rows)
        return (uniform(chunk.key, salt=3 * self.seed + 1) < share) & (chunk.row >= 0)

    def sampled(self, chunk: LogChunk) -> np.ndarray:
        """[m] bool: rows that the nuisances are fitted on; each by its number, so a long group is no lump."""
        drawn = uniform(chunk.row.astype(np.uint64), salt=3 * self.seed + 2)
        return (drawn < self.nuisance_rows / self.n_rows) & (chunk.row >= 0)


class Sample(NamedTuple):
    """What one pass over a log keeps of it.

    Attributes:
      log: rows for the nuisances, and
      fold: [a] int32 of them.
      valid: held-out rows, and
      valid_fold: [b] int32 of them.
      scored_share: [T] float32, share of each model's answers that was scored, in all rows.
      all_scored: whether all rows of any weight were.
      mean_weight: mean weight of training rows over all places of all chunks (filling and held-out rows
        weigh 0).
      rows: how many there were.
    """

    log: LoggedData
    fold: np.ndarray
    valid: LoggedData
    valid_fold: np.ndarray
    scored_share: np.ndarray
    all_scored: bool
    mean_weight: float
    rows: int


def draw_sample(chunks: Iterable[LogChunk], roles: Roles) -> Sample:
    """Goes through a log once; holds one chunk and what it draws.

    Args:
      chunks: of one pass, all of equal length.
      roles: which rows to keep. Of held-out rows no more than twice those asked for are, in the order of
        the pass (one query may have many).

    Raises:
      ValueError: if nothing was drawn, or no row was scored.
    """
    drawn: list[tuple[LoggedData, np.ndarray]] = []
    held: list[tuple[LoggedData, np.ndarray]] = []
    answers = scored = None
    weight, places, rows, n_held = 0.0, 0, 0, 0
    for chunk in chunks:
        n_models = len(chunk.log.models)
        row_weight = np.asarray(chunk.log.weight, np.float64)
        by_model = np.bincount(chunk.log.model, row_weight, n_models)
        with_score = np.bincount(chunk.log.model, row_weight * np.asarray(chunk.log.scored), n_models)
        answers = by_model if answers is None else answers + by_model
        scored = with_score if scored is None else scored + with_score
        validates, fold = roles.validates(chunk), roles.fold(chunk)
        weight += float(row_weight[~validates].sum())
        places, rows = places + len(chunk.row), rows + int((chunk.row >= 0).sum())
        drawn.append(_taken(chunk, fold, np.flatnonzero(roles.sampled(chunk))))
        kept = np.flatnonzero(validates)[: 2 * roles.valid_rows - n_held]
        n_held += kept.size
        held.append(_taken(chunk, fold, kept))
    if answers is None or scored is None or not rows:
        raise ValueError("the stream has no rows")
    if not (scored > 0).any():
        raise ValueError("no row of this log was scored: nothing says which model is better")
    log, fold = _joined(drawn)
    valid, valid_fold = _joined(held)
    if not len(fold) or not len(valid_fold):
        raise ValueError(
            f"of {rows} rows {len(fold)} were drawn for the nuisances and {len(valid_fold)} for validation: "
            "expected some of each; ask for more rows, or use a finer group"
        )
    share = np.divide(scored, answers, out=np.zeros_like(answers), where=answers > 0)
    all_scored = bool((scored == answers).all())
    return Sample(log, fold, valid, valid_fold, share.astype(np.float32), all_scored, weight / places, rows)


def _taken(chunk: LogChunk, fold: np.ndarray, index: np.ndarray) -> tuple[LoggedData, np.ndarray]:
    return jax.tree.map(lambda leaf: leaf[index], (chunk.log, fold))


def _joined(parts: list[tuple[LoggedData, np.ndarray]]) -> tuple[LoggedData, np.ndarray]:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def make_scorer(
    *, estimator: str = "dros", strength: float | Array = 10.0, config: NuisanceConfig = NuisanceConfig()
) -> Callable:
    """Makes the function that turns rows of a log into rows of training; pure, to be jitted once.

    Args:
      estimator: of the counterfactual scores, one whose weights do not need all rows of the log.
      strength: of it.
      config: of the nuisances.

    Returns:
      score(nuisances, scaling, scored_share [T], log, fold [m], weight [m]) -> `Rows` of
      (scaled x [m, d], (score [m, T], cost [m, T])) and weight: nothing larger than a chunk's scores is made.

    Raises:
      ValueError: for an estimator that needs the whole log.
    """
    if estimator in WEIGHTS and WEIGHTS[estimator].whole_log:
        raise ValueError(
            f"estimator {estimator!r} needs all rows of a log at once; stream with one that does not, e.g. 'dros'"
        )

    def score(nuisances: SampledNuisances, scaling: Any, scored_share: Array, log: LoggedData, fold: Array, weight):
        predicted = predict_sampled(nuisances, log, fold, config)
        scores = counterfactual_scores(
            log, predicted, estimator=estimator, strength=strength, scored_share=jnp.asarray(scored_share)
        )
        return Rows((scale(scaling, log.x), (scores.score, scores.cost)), jnp.asarray(weight))

    return score


def training_rows(score: Callable, chunk: LogChunk, roles: Roles) -> Rows:
    """A chunk's rows of training: scored on the device, not waited for.

    Args:
      score: (log, fold, weight) -> `Rows`: a jitted `make_scorer` with its first three arguments given.
      chunk: of the log.
      roles: held-out rows get weight 0.
    """
    weight = np.where(roles.validates(chunk), 0.0, np.asarray(chunk.log.weight)).astype(np.float32)
    return score(chunk.log, roles.fold(chunk), weight)
