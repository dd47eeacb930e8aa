"""What the readers of published benchmarks share: their result, rows without a score, and the download."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jrouter.io.columns import Source, query_groups
from jrouter.io.errors import describe, listed, sentence
from jrouter.io.tables import FINITE_COST, FINITE_SCORE, outcomes, texts
from jrouter.types import BenchmarkTable

Incomplete = Literal["error", "drop"]


class PublishedTable(NamedTuple):
    """A benchmark as it was published, with the texts to embed.

    Attributes:
      table: [n, T] scores and costs; no embeddings.
      texts: [n] the queries.
      tasks: [n] str, the benchmark that each query comes from, or None.
      sample_id: [n] str, or None.
      train: indices of the rows to train on, where a protocol splits them, or None.
      test: indices of the rows to test on, or None.
    """

    table: BenchmarkTable
    texts: list[str]
    tasks: np.ndarray | None
    sample_id: np.ndarray | None
    train: np.ndarray | None = None
    test: np.ndarray | None = None


def check_choice(name: str, value: str, allowed: object) -> None:
    """Raises ValueError where an option is none of a Literal's."""
    if value not in get_args(allowed):
        raise ValueError(f"{name}={value!r} is unknown, expected one of {listed(get_args(allowed))}")


def make_published(source: Source, *, incomplete: Incomplete, keep: np.ndarray | None = None) -> PublishedTable:
    """Returns the rows of a benchmark as one table.

    Args:
      source: columns `query`, `score:<model>`, `cost:<model>` in USD, and optionally `task` and `sample_id`.
      incomplete: what to do with a row that lacks a score or a cost: raise, or leave it out.
      keep: [n] bool, the rows to keep; by default all.

    Raises:
      DataError: a row that lacks a score or a cost, with "error"; no row left; a bad value.
    """
    numbers = [name for name in source.original if name.startswith(("score:", "cost:"))]
    # pandas cannot tell null from NaN: a published NaN is a score that is not there.
    filled = {name: _nan_is_null(source.columns[name]) for name in numbers}
    source = replace(source, columns={**source.columns, **filled})
    models, score, cost = outcomes(source, null=True)
    keep = np.ones(source.rows, bool) if keep is None else keep
    for name in numbers:
        if incomplete == "drop":
            keep = keep & ~source.nulls(name)
        else:
            expected = FINITE_SCORE if name.startswith("score:") else FINITE_COST
            hint = f'{expected} (`incomplete="drop"` leaves such rows out)'
            source.require(name, ~source.nulls(name) | ~keep, hint)
    if not keep.any():
        raise describe(source.files[0], "has no row left, expected at least one with all its scores and costs")
    group = query_groups(source, None)
    text = texts(source, "query")
    labels = {
        name: np.array(texts(source, name), object)[keep] if name in source.columns else None
        for name in ("task", "sample_id")
    }
    return PublishedTable(
        table=BenchmarkTable(
            x=None,
            score=jnp.asarray(score[keep]),
            cost=jnp.asarray(cost[keep]),
            group=None if group is None else jnp.asarray(group[keep]),
            models=models,
        ),
        texts=[text[row] for row in np.flatnonzero(keep)],
        tasks=labels["task"],
        sample_id=labels["sample_id"],
    )


def _nan_is_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(column.type):
        return column
    nan = pc.call_function("is_nan", [column])
    return pc.call_function("if_else", [nan, pa.scalar(None, column.type), column])


def fetch(repository: str, files: Sequence[str], revision: str | None, instead: str) -> Path:
    """Returns a folder of the Hugging Face cache with some files of a dataset, downloaded where they are not there.

    Args:
      repository: id of the dataset.
      files: names or patterns.
      revision: branch, tag or commit; by default main. What is in the cache is used as it is.
      instead: what to do without a network, as the error says it.

    Raises:
      DataError: the files are not in the cache and cannot be downloaded, at the first attempt.
    """
    place = f"{repository} (a dataset on huggingface.co)"
    try:
        import huggingface_hub
    except ImportError:
        raise describe(place, f"needs the package huggingface_hub to be downloaded; {instead}") from None

    def snapshot(local: bool) -> Path:
        # It fails at once without a network, where the download of a single file would retry for half a minute.
        folder = huggingface_hub.snapshot_download(
            repository, repo_type="dataset", revision=revision, allow_patterns=list(files), local_files_only=local
        )
        return Path(str(folder))

    try:
        cached = snapshot(True)
        if all(any(cached.glob(name)) for name in files):
            return cached
    except FileNotFoundError:
        pass  # not in the cache
    try:
        return snapshot(False)
    except Exception as problem:  # the hub's HTTP library has errors of its own, and changes with its version
        wanted = ", ".join(files)
        url = f"https://huggingface.co/datasets/{repository}"
        told = f"cannot be downloaded: {sentence(problem)}; download {wanted} from {url} by other means and {instead}"
        raise describe(place, told) from None
