"""Rows of a log, checked column by column and made into arrays: the first bad value is an error."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from jrouter.io.columns import Embed, Source, embedded, is_text, places, trimmed
from jrouter.io.errors import listed, shown

SMALLEST = float(np.finfo(np.float32).tiny)  # so that a probability and one over it are float32


class Parsed(NamedTuple):
    """Checked rows of a log, as NumPy arrays; None for an optional column that is not there.

    Attributes:
      models: names, in the order of `model`.
      x: [n, d] float32.
      model: [n] int32.
      score: [n] float32, 0 where not scored.
      scored: [n] bool.
      cost: [n] float32.
      propensity: [n].
      row_weight: [n], 1 / keep_probability.
      allowed: [n, T] bool.
      group: [n] text.
    """

    models: tuple[str, ...]
    x: np.ndarray
    model: np.ndarray
    score: np.ndarray
    scored: np.ndarray
    cost: np.ndarray
    propensity: np.ndarray | None
    row_weight: np.ndarray | None
    allowed: np.ndarray | None
    group: pa.ChunkedArray | None


def parse_rows(
    log: Source,
    models: Sequence[str] | None,
    *,
    declared: bool | None = None,
    like: tuple[int, str] | None = None,
    embed: Embed | None = None,
) -> Parsed:
    """Checks and converts the columns of a log, or of some of its rows.

    Args:
      log: its columns; an optional one must not be there if it is null throughout the log.
      models: names in order, or None for those in these rows.
      declared: whether a name that is not in `models` is an error in `allowed_models` too; by default,
        where `models` are given.
      like: width of the embeddings, and the file whose first row has it; by default those of these rows.
      embed: the text of `query` -> embeddings, instead of reading these.

    Raises:
      DataError: as `read_log`.
    """
    scored = ~log.nulls("score")
    score = log.floats("score", "a finite score, or null where the answer was not scored", null=True)
    cost = log.floats("cost", "a finite cost of at least 0", low=0.0)
    names, model = _models(log, models)
    allowed = _allowed(log, names, model, declared=models is not None if declared is None else declared)
    # Last of the checks that may fail for a value: embedding a log can take an hour.
    group = None
    if "group" in log.columns:
        log.require("group", ~log.nulls("group"), "a group in every row, or in none")
        group = log.text("group", "the name or number of a group")
    propensity, keep = _probability(log, "propensity"), _probability(log, "keep_probability")
    score, cost = score.astype(np.float32), cost.astype(np.float32)
    weight = None if keep is None else 1.0 / keep
    x = log.embeddings("embedding", like) if embed is None else embedded(log.columns["query"].to_pylist(), embed)
    return Parsed(names, x, model, score, scored, cost, propensity, weight, allowed, group)


def _models(log: Source, models: Sequence[str] | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the models, and [n] int32, which of them answered."""
    column = log.text("model", "the name of a model")
    log.require("model", ~log.nulls("model"), "the name of a model")
    names = tuple(sorted(column.unique().to_pylist()) if models is None else models)
    if len(set(names)) < max(2, len(names)):
        raise log.error(f"has the models {listed(names)}, expected at least two, each once", "model")
    index = places(column, names)
    log.require("model", ~index.is_null().to_numpy(), f"one of `models` ({listed(names)})")
    return names, index.to_numpy().astype(np.int32)


def _allowed(log: Source, names: tuple[str, ...], model: np.ndarray, *, declared: bool) -> np.ndarray | None:
    """[n, T] bool, which models could have answered."""
    if "allowed_models" not in log.columns:
        return None
    values, lengths = log.lists("allowed_models", pa.large_string(), "a list of model names")
    if not (is_text(values.type) or pa.types.is_null(values.type)):
        raise log.error(f"holds lists of {values.type}, expected lists of model names", "allowed_models")
    index = places(values.cast(pa.large_string()), names)
    known = ~index.is_null().to_numpy()
    row = np.repeat(np.arange(log.rows), lengths)
    if declared and not known.all():
        place = int(np.argmin(known))
        problem = f"found {shown(values[place])}, expected names of `models` only ({listed(names)})"
        raise log.error(problem, "allowed_models", int(row[place]))
    allowed = np.zeros((log.rows, len(names)), bool)
    allowed[row[known], index.drop_null().to_numpy()] = True
    answered = allowed[np.arange(log.rows), model]
    log.require("allowed_models", answered, "a list with the model that answered in it")
    return allowed


def _probability(log: Source, name: str) -> np.ndarray | None:
    """[n] float64 in (0, 1], or None where the log has none."""
    if name not in log.columns:
        return None
    known = ~log.nulls(name)
    log.require(name, known, f"a {name} in every row or in none (fill it in, or drop the column)")
    return log.floats(name, f"a {name} in (0, 1]", low=SMALLEST, high=1.0)


def elapsed(log: Source) -> np.ndarray:
    """[n] float64, seconds since the earliest timestamp."""
    name, expected = "timestamp", "ISO-8601 or epoch seconds, in all rows alike"
    column = log.columns[name]
    log.require(name, ~log.nulls(name), "a timestamp in every row, or in none")
    kinds = [pa.float64(), pa.timestamp("ns"), pa.timestamp("ns", "UTC")]
    if is_text(column.type):
        kind = next((kind for kind in kinds if _fits(column.slice(0, 1), kind)), kinds[1])
    else:
        kind = kinds[1] if pa.types.is_temporal(column.type) else kinds[0]
    if kind == kinds[0]:
        seconds = log.floats(name, "epoch seconds (divide milliseconds by 1,000)", low=-1e11, high=1e11)
        return seconds - seconds.min()
    ticks = log.cast(name, kind, expected).cast(pa.int64()).to_numpy()
    return (ticks - ticks.min()) / 1e9


def _fits(column: pa.ChunkedArray, kind: pa.DataType) -> bool:
    try:
        trimmed(column).cast(kind)
        return True
    except pa.ArrowInvalid:
        return False
