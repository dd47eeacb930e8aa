"""Logs of a gateway: one row a query, with the one model that answered, its score and its cost."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from jrouter.io.columns import (
    CSV,
    JSON_LINES,
    PARQUET,
    Choose,
    Embed,
    Source,
    chosen_columns,
    equal_ids,
    make_source,
    pick_embedding,
    python_column,
    query_groups,
)
from jrouter.io.errors import describe, listed, shown
from jrouter.io.files import read_files
from jrouter.io.log_rows import elapsed, parse_rows
from jrouter.types import LoggedData

REQUIRED = ("model", "score", "cost")
NUMBERS = ("score", "cost", "propensity", "keep_probability")
OPTIONAL = ("query", "propensity", "timestamp", "group", "allowed_models", "keep_probability")
COLUMNS = (*REQUIRED, *OPTIONAL)


def read_log(
    source: Any,
    *,
    embedding: str | None = None,
    columns: Mapping[str, str] | None = None,
    models: Sequence[str] | None = None,
    cost_unit: str = "USD",
    embed: Embed | None = None,
    text: Callable[[Any], str] | None = None,
) -> LoggedData:
    """Reads a log: `model`, `score`, `cost` and an embedding of each query, or its text.

    Optional columns, left out of the result where they are missing or null throughout:
    `query` (text, tells which rows are the same query), `propensity` (of the logged model, in (0, 1]; among the
    row's `allowed_models` where there are any), `timestamp` (ISO-8601 or epoch seconds), `group` (rows that stay on
    one side of a split), `allowed_models` (list of names that the logging policy could choose from, the one that
    answered among them; in CSV a JSON array), `keep_probability` (in (0, 1], of the row having been kept; the row
    counts as one over it in everything).
    A null or empty score means that the answer was not scored, for reasons that do not depend on what the score
    would have been; NaN is an error, also in a pandas float column, where it cannot be told from null: use
    `astype("Float64")` for such a column.

    Args:
      source: a Parquet, CSV or JSON lines file, a folder of such files with the same columns, a pandas
        DataFrame or a pyarrow Table.
      embedding: the encoder, with or without `embedding:` before it; needed where there are several.
      columns: our name of a column -> the file's name.
      models: names of the models, in order; by default those that answered, sorted, and an allowed model
        that never answered is left out, for nothing can be learned about it.
      cost_unit: unit of `cost`.
      embed: texts -> [n, d] embeddings, as `Encoder.encode`: the text in `query` is then embedded, and no embedding
        is read.
      text: what `query` holds in a row (text, or chat messages as a list or JSON) -> the text to embed, as
        `last_turns` or `last_question`; None where it is that text. Needs `embed`.

    Returns:
      The log. `time` counts from the earliest timestamp; `row_weight` is 1 / keep_probability;
      `group` is the column, else equal for equal queries, else for equal embeddings.

    Raises:
      DataError: a file that is missing, empty or malformed, a missing or repeated column, no embedding,
        a value that is out of range or null in some rows only, an unknown model, fewer than two models.
      ValueError: for `text` or `embedding` that `embed` leaves no use for.
    """
    if embed is None and text is not None:
        raise ValueError("text: needs `embed`, which embeds what it makes of a query")
    if embed is not None and embedding is not None:
        raise ValueError(
            f"embedding: {embedding!r} is a column to read, but `embed` embeds the queries; give one of both"
        )
    choose = chooser(columns, embedding, by_text=embed is not None)
    if isinstance(source, str | os.PathLike):
        log = read_files(source, choose, (*PARQUET, *CSV, *JSON_LINES), folder=True)
    else:
        log = _from_memory(source, choose)

    log = keep_columns(log, [name for name in OPTIONAL if log.has(name)])
    if embed is not None:
        log = with_texts(log, text)
    rows = parse_rows(log, models, embed=embed)
    if not rows.scored.any():
        raise log.error("is null in every row, expected a score in some; join the scores first", "score")
    group = query_groups(log, rows.x) if rows.group is None else equal_ids(rows.group)
    time = elapsed(log) if "timestamp" in log.columns else None

    def optional(values: np.ndarray | None, dtype: Any = np.float32) -> Any:
        return None if values is None else jnp.asarray(values.astype(dtype))

    return LoggedData(
        x=jnp.asarray(rows.x),
        model=jnp.asarray(rows.model),
        score=jnp.asarray(rows.score),
        cost=jnp.asarray(rows.cost),
        propensity=optional(rows.propensity),
        row_weight=optional(rows.row_weight),
        allowed=optional(rows.allowed, bool),
        scored=None if rows.scored.all() else jnp.asarray(rows.scored),
        group=optional(group, np.int32),
        time=optional(time),
        models=rows.models,
        cost_unit=cost_unit,
    )


def keep_columns(log: Source, optional: Sequence[str]) -> Source:
    """Returns a log with its required columns and some of the optional ones."""
    kept = {*REQUIRED, "embedding", *optional}
    return replace(log, columns={name: column for name, column in log.columns.items() if name in kept})


def chooser(columns: Mapping[str, str] | None, embedding: str | None, *, by_text: bool = False) -> Choose:
    """Returns what picks a log's columns from those of a file; arguments as of `read_log`, `by_text` with `embed`."""
    return lambda names, file: _choose(names, file, dict(columns or {}), embedding, by_text)


def with_texts(log: Source, text: Callable[[Any], str] | None) -> Source:
    """Returns a log whose `query` holds the text to embed, of every row.

    Raises:
      DataError: a query that is missing, or of which `text` makes none.
    """
    expected = "the text of a query"
    if "query" not in log.columns:
        raise log.error(f"is null in every row, expected {expected}", "query")
    log.require("query", ~log.nulls("query"), expected)
    if text is None:
        return replace(log, columns={**log.columns, "query": log.text("query", expected)})
    made = []
    for row, value in enumerate(log.columns["query"].to_pylist()):
        try:
            made.append(text(value))
        except (KeyError, TypeError, ValueError) as problem:
            raise log.error(f"found {shown(value)}, of which no text could be made: {problem}", "query", row) from None
    return replace(log, columns={**log.columns, "query": pa.chunked_array([pa.array(made, pa.large_string())])})


def _choose(
    names: list[str], file: str, mapping: dict[str, str], embedding: str | None, by_text: bool
) -> dict[str, str]:
    """Our name -> the file's name."""
    for ours, theirs in mapping.items():
        if ours not in (*COLUMNS, "embedding") and not ours.startswith("embedding:"):
            raise describe(file, f"cannot map '{ours}': it is none of {listed((*COLUMNS, 'embedding'))}")
        if theirs not in names:
            raise describe(
                file, f"has no column '{theirs}' to read '{ours}' from; it has {listed(names)}", column=theirs
            )
    known = {name: name for name in names} | mapping
    for name in REQUIRED:
        if name not in known:
            how = f"add it, or map it with columns={{'{name}': ...}}"
            raise describe(file, f"is missing; {how}; the columns there are {listed(names)}", column=name)
    if by_text:
        if "query" not in known:
            how = "map the column of texts with columns={'query': ...}"
            raise describe(file, f"is missing; {how}; the columns there are {listed(names)}", column="query")
        return {name: known[name] for name in COLUMNS if name in known}
    if embedding is None and "embedding" in mapping:
        embedding = "embedding"
    encoder = pick_embedding(list(known), embedding, file)
    if encoder is None:
        text = "only text" if "query" in known else "neither 'query' nor an embedding"
        raise describe(
            file,
            f"holds {text}, expected a column 'embedding:<encoder>' of lists of numbers; embed the queries "
            f"(`embed=jrouter.load_encoder().encode`) "
            f"(the columns there are {listed(names)})",
        )
    return {name: known[name] for name in COLUMNS if name in known} | {"embedding": known[encoder]}


def _from_memory(data: Any, choose: Choose) -> Source:
    pandas = sys.modules.get("pandas")  # whoever holds a DataFrame has imported it
    if isinstance(data, pa.Table):
        file, names = "pyarrow table", data.column_names
        original = chosen_columns(names, choose, file)
        table = data
    elif pandas is not None and isinstance(data, pandas.DataFrame):
        file, names = "DataFrame", [str(name) for name in data.columns]
        original = chosen_columns(names, choose, file)
        position = {theirs: names.index(theirs) for theirs in original.values()}
        numbers = {original[name] for name in NUMBERS if name in original}
        table = pa.table(
            {
                name: python_column(data.iloc[:, place], name, file, from_pandas=name not in numbers)
                for name, place in position.items()
            }
        )
    else:
        raise describe(type(data).__name__, "is no log; expected a path, a pandas DataFrame or a pyarrow Table")
    if table.num_rows == 0:
        raise describe(file, "is empty (0 rows), expected at least one row")
    return make_source(table, original, [file])
