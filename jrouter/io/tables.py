"""Benchmark tables: every model's score and cost on every query, from Parquet or CSV.

Wide columns are `query`, `score:<model>`, `cost:<model>` and, where there are embeddings,
`embedding:<encoder>`; RouterBench's own columns are read as they are published.
"""

import hashlib
import json
import os
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jrouter.io.columns import CSV, JSON_LINES, PARQUET, Embed, Source, embedded, pick_embedding, query_groups
from jrouter.io.errors import DataError, describe, listed
from jrouter.io.files import read_files
from jrouter.types import BenchmarkTable

TOTAL_COST = "|total_cost"
TEXT = ("query", "prompt")
FINITE_SCORE = "a finite score in every row of a benchmark table"
FINITE_COST = "a finite cost of at least 0 in every row"
# What RouterBench's files hold beside the models, and what a pandas index leaves behind.
NO_MODEL = {"sample_id", "prompt", "query", "question", "task", "eval_name", "oracle_model_to_route_to", "index", ""}


def read_table(
    path: str | os.PathLike,
    *,
    embedding: str | None = None,
    cost_unit: str | None = None,
    embed: Embed | None = None,
    query: str | None = None,
) -> BenchmarkTable:
    """Reads a benchmark table in wide columns, or in RouterBench's own.

    Wide columns: `query`, `score:<model>`, `cost:<model>`, optional `embedding:<encoder>` (in CSV a JSON
    array); others are ignored. RouterBench's: `prompt`, one score column named after each model and
    `<model>|total_cost`. Models come in the order in which they first appear in the columns.

    Args:
      path: a file that ends in .parquet, .pq, .csv or .csv.gz.
      embedding: the encoder, with or without `embedding:` before it; needed where there are several.
      cost_unit: unit of the costs; by default what the Parquet metadata `jrouter` says, else USD.
      embed: texts -> [n, d] embeddings, as `Encoder.encode`: the text of each query is then embedded, and no
        embedding is read.
      query: name of the column of texts, as `question`; by default `query`, or `prompt` where there is none.

    Returns:
      The table: score [n, T] and cost [n, T]; x [n, d], or None without embeddings; group [n], equal for
      queries of the same text, or of the same embedding where there is no text.

    Raises:
      DataError: a file that is missing, empty or malformed; a missing or repeated column; fewer than two
        models; a score or cost that is no finite number or null, a negative cost; a bad embedding; with `embed`, a
        row without text.
      ValueError: for an `embedding` beside `embed`.
    """
    if embed is not None and embedding is not None:
        raise ValueError(
            f"embedding: {embedding!r} is a column to read, but `embed` embeds the texts; give one of both"
        )

    def choose(names: list[str], file: str) -> dict[str, str]:
        return choose_table(names, file, embedding, query=query, by_text=embed is not None)

    source = read_files(path, choose, (*PARQUET, *CSV))
    models, score, cost = outcomes(source)
    if embed is not None:
        x = embedded(texts(source, "query"), embed)
    else:
        x = source.embeddings("embedding") if "embedding" in source.original else None
    group = query_groups(source, x)
    return BenchmarkTable(
        x=None if x is None else jnp.asarray(x),
        score=jnp.asarray(score),
        cost=jnp.asarray(cost),
        group=None if group is None else jnp.asarray(group),
        models=models,
        cost_unit=_cost_unit(source) if cost_unit is None else cost_unit,
    )


def outcomes(source: Source, *, null: bool = False) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Returns the models of a table in memory, and [n, T] float32 their scores and their costs.

    Args:
      source: columns `score:<model>` and `cost:<model>`, in the order of the models.
      null: whether null is allowed, and read as 0.

    Raises:
      DataError: a score or cost that is no finite number, a negative cost, or null where that is not allowed.
    """
    models = tuple(name.removeprefix("score:") for name in source.original if name.startswith("score:"))
    score = np.empty((source.rows, len(models)), np.float32)
    cost = np.empty_like(score)
    for t, model in enumerate(models):
        score[:, t] = source.floats(f"score:{model}", FINITE_SCORE, null=null)
        cost[:, t] = source.floats(f"cost:{model}", FINITE_COST, low=0.0, null=null)
    return models, score, cost


def read_texts(path: str | os.PathLike, column: str | None = None) -> list[str]:
    """Reads the text of the queries of a table or log, in the order of its rows, so that it can be embedded.

    Args:
      path: a Parquet, CSV or JSON lines file, or a folder of such files, as `read_table` and `read_log` read them.
      column: its name, as `question`; by default `query`, or `prompt` where there is none.

    Returns:
      [n] strings, in full: white space and quotes are kept.

    Raises:
      DataError: a file that is missing, empty or malformed; no such column; a row without text.
    """

    def choose(names: list[str], file: str) -> dict[str, str]:
        wanted = TEXT if column is None else (column,)
        found = next((name for name in wanted if name in names), None)
        if found is None:
            raise no_text(wanted, names, file)
        return {"text": found}

    return texts(read_files(path, choose, (*PARQUET, *CSV, *JSON_LINES), folder=True), "text")


def no_text(wanted: Sequence[str], names: Sequence[str], file: str) -> DataError:
    """Returns the error for a file without a column of texts."""
    what = " or ".join(f"'{name}'" for name in wanted)
    return describe(file, f"has no column {what}; name the column of texts, one of those there: {listed(names)}")


def texts(source: Source, name: str) -> list[str]:
    """Returns [n] the strings of a column (our name); raises DataError at the first row without."""
    column = source.text(name, "a text in every row")
    source.require(name, ~source.nulls(name), "a text in every row")
    return column.to_pylist()


def file_digest(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file in hexadecimal, by which results name a table.

    Args:
      path: any file; it is read in pieces.

    Raises:
      DataError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise describe(os.fspath(path), f"cannot be read: {problem.strerror}; check the path") from None


def choose_table(
    names: list[str], file: str, embedding: str | None = None, *, query: str | None = None, by_text: bool = False
) -> dict[str, str]:
    """Returns our name -> the file's name, in the order of the models, as `read_table` chooses columns."""
    found = {name: name for name in names if name.startswith(("score:", "cost:"))}
    score_name, cost_name = "score:{}", "cost:{}"
    if not found and any(name.endswith(TOTAL_COST) for name in names):
        score_name, cost_name = "{}", "{}" + TOTAL_COST
        found = _routerbench_outcomes(names)
    models = list(dict.fromkeys(name.split(":", 1)[1] for name in found))
    if not models:
        raise describe(
            file, f"has no column 'score:<model>' or 'cost:<model>'; rename its columns, which are {listed(names)}"
        )
    for model in models:
        have, lack = score_name.format(model), cost_name.format(model)
        if f"score:{model}" not in found:
            have, lack = lack, have
        if lack not in names:
            raise describe(file, f"has a column '{have}' but no '{lack}'; add it, or drop '{have}'", column=lack)
    if len(models) == 1:
        raise describe(file, f"has one model, {models[0]!r}, expected at least two; add columns of another model")
    # The order of models is that of their scores here, whichever of score and cost came first in the file.
    original = {key: found[key] for model in models for key in (f"score:{model}", f"cost:{model}")}
    encoder = None if by_text else pick_embedding(names, embedding, file)
    wanted = TEXT if query is None else (query,)
    query = next((name for name in wanted if name in names), None)
    if query is None and (by_text or wanted != TEXT):
        raise no_text(wanted, names, file)
    if query is None and encoder is None:
        raise describe(
            file,
            f"has no column 'query' and no 'embedding:<encoder>'; add one to its columns, which are {listed(names)}",
        )
    return original | ({"query": query} if query else {}) | ({"embedding": encoder} if encoder else {})


def _routerbench_outcomes(names: list[str]) -> dict[str, str]:
    """Our name -> RouterBench's; whatever is not known to be something else counts as a model's score."""
    outcomes = {}
    for name in names:
        if name.endswith(TOTAL_COST):
            outcomes[f"cost:{name.removesuffix(TOTAL_COST)}"] = name
        elif not (
            name in NO_MODEL
            or name.endswith("|model_response")
            or name.startswith(("embedding:", "__index_level_", "Unnamed: "))
        ):
            outcomes[f"score:{name}"] = name
    return outcomes


def _cost_unit(source: Source) -> str:
    text = source.metadata.get(b"jrouter", b"{}")
    try:
        unit = json.loads(text).get("cost_unit", "USD")
    except (ValueError, AttributeError):
        unit = None
    if not isinstance(unit, str):
        problem = "has metadata 'jrouter' that is no JSON object with a 'cost_unit' in words; pass `cost_unit=`"
        raise describe(source.files[0], problem)
    return unit
