"""Logs larger than memory: a folder of Parquet files, read in chunks of equal size, again and again.

The columns, checks and complaints are those of `logs.read_log`. What cannot be told without the whole log is
told otherwise: which rows belong together by a hash (`LogChunk.key`), not by numbers from 0.
"""

import os
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from jrouter.hashing import mix, row_keys
from jrouter.io.columns import PARQUET, Source, chosen_columns, make_source
from jrouter.io.errors import describe, listed
from jrouter.io.files import check_file, list_files, same_columns, unreadable
from jrouter.io.log_rows import Parsed, parse_rows
from jrouter.io.logs import chooser
from jrouter.io.read_ahead import read_ahead
from jrouter.streaming import LogChunk
from jrouter.types import LoggedData

CHUNK_ROWS = 65_536
CHUNK_NUMBERS = 2**25
BATCH = 16_384
COMPLETE = ("propensity", "group", "allowed_models", "keep_probability")
"""Optional columns that are filled in every row or in none."""


class RowGroup(NamedTuple):
    """A part of a file that is read at a time: file and group by number, rows, and the rows before it."""

    file: int
    group: int
    rows: int
    before_in_file: int
    before_in_log: int


@dataclass(frozen=True)
class LogStream:
    """A log on disk that can be gone through any number of times; from `open_log`.

    Attributes:
      files: path of each Parquet file.
      footers: metadata of each, read once.
      original: our name of a column -> the files' name, of the columns that are read.
      groups: all row groups, in order.
      models: names of the T models.
      declared: whether they were given, and not found in the log.
      dim: d, width of the embeddings.
      rows: n, of all files.
      chunk_rows: rows of each chunk.
      cost_unit: unit of `cost`.
    """

    files: tuple[str, ...]
    footers: tuple[Any, ...]
    original: Mapping[str, str]
    groups: tuple[RowGroup, ...]
    models: tuple[str, ...]
    declared: bool
    dim: int
    rows: int
    chunk_rows: int
    cost_unit: str

    @property
    def n_chunks(self) -> int:
        """Chunks in a pass."""
        return -(-self.rows // self.chunk_rows)

    def chunk_bytes(self) -> int:
        """Bytes of a chunk: chunk_rows * (4 d + 41, and T where models are restricted)."""
        return self.chunk_rows * (4 * self.dim + 41 + len(self.models) * ("allowed_models" in self.original))

    def chunks(self, *, order: int | None = None, label: str | None = None) -> Generator[LogChunk, None, None]:
        """One pass over the log, read in a background thread while the caller works.

        At most `READ_AHEAD` chunks wait, one is being made and one is the caller's, so that the peak memory of
        a pass is about (READ_AHEAD + 2) * `chunk_bytes()`, and the pages of one row group that is decoded:
        it does not depend on the number of rows.

        Args:
          order: seed of the order of row groups; None for the order of the files. A row keeps its key and
            its number. Rows within a row group are not shuffled here.
          label: shown with a progress bar where a pass takes longer than a few seconds; None for no bar.

        Yields:
          `n_chunks` chunks of `chunk_rows` rows, the last filled with repeats of a row, at weight 0.

        Raises:
          DataError: as `read_log`, for the rows where they come.
        """
        chunks = read_ahead(self._chunks(order))
        if label is None:
            yield from chunks
            return
        bar = tqdm(total=self.n_chunks, desc=label, unit="chunk", delay=3, disable=None, dynamic_ncols=True)
        with bar, closing(chunks):
            for chunk in chunks:
                yield chunk
                bar.update()

    def _chunks(self, order: int | None) -> Generator[LogChunk, None, None]:
        groups = range(len(self.groups))
        if order is not None:
            groups = np.random.default_rng(order).permutation(len(self.groups))
        chunk, used = None, 0
        for number in groups:
            for part in self._parts(self.groups[number]):
                start = 0
                while start < len(part.row):
                    if chunk is None:
                        chunk, used = _empty_like(part, self.chunk_rows), 0
                    taken = min(len(part.row) - start, self.chunk_rows - used)
                    _copy(part, slice(start, start + taken), chunk, slice(used, used + taken))
                    start, used = start + taken, used + taken
                    if used == self.chunk_rows:
                        yield chunk
                        chunk = None
        if chunk is not None:
            _fill(chunk, used)
            yield chunk

    def _parts(self, group: RowGroup) -> Iterator[LogChunk]:
        """Rows of a row group, some thousands at a time."""
        before = 0
        for table in self._tables(group, list(self.original)):
            source = _source(table, self.original, self.files[group.file], group.before_in_file + before)
            rows = parse_rows(source, self.models, declared=self.declared, like=(self.dim, self.files[0]))
            yield self._part(source, rows, group.before_in_log + before)
            before += table.num_rows

    def _tables(self, group: RowGroup, names: Sequence[str]) -> Generator[pa.Table, None, None]:
        file = self.files[group.file]
        columns = list(dict.fromkeys(self.original[name] for name in names))
        try:
            # Buffered: pages are read as they are needed, not a column of the row group at once.
            with pq.ParquetFile(file, metadata=self.footers[group.file], buffer_size=1 << 20) as parquet:
                for batch in parquet.iter_batches(
                    min(BATCH, self.chunk_rows), row_groups=[group.group], columns=columns
                ):
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as problem:
            raise unreadable(file, problem) from None

    def _part(self, source: Source, rows: Parsed, before: int) -> LogChunk:
        n = source.rows
        weight = np.ones(n) if rows.row_weight is None else rows.row_weight
        # NumPy arrays, not yet on a device: the columns of LoggedData all the same.
        columns: dict[str, Any] = {
            "x": rows.x,
            "model": rows.model,
            "score": rows.score,
            "cost": rows.cost,
            "row_weight": weight.astype(np.float32),
            "scored": rows.scored,
            "allowed": rows.allowed,
            "propensity": None if rows.propensity is None else rows.propensity.astype(np.float32),
        }
        log = LoggedData(**columns, models=self.models, cost_unit=self.cost_unit)
        return LogChunk(log, _keys(source, rows), np.arange(before, before + n))


def open_log(
    path: str | os.PathLike,
    *,
    embedding: str | None = None,
    columns: Mapping[str, str] | None = None,
    models: Sequence[str] | None = None,
    cost_unit: str = "USD",
    chunk_rows: int | None = None,
    multiple: int = 512,
) -> LogStream:
    """Opens a Parquet log that need not fit in memory.

    Where `models` are not given, the `model` column is gone through once to find them; so are the beginnings
    of the optional columns, to see which hold anything. `timestamp` is not read: nothing that streams needs it.

    Args:
      path: a Parquet file, or a folder of Parquet files with the same columns. Row groups are what `chunks`
        shuffles, so write them no larger than a chunk, and rows that are alike not all in one of them.
      embedding: as of `read_log`.
      columns: as of `read_log`.
      models: as of `read_log`.
      cost_unit: as of `read_log`.
      chunk_rows: rows of a chunk, at most; None for what keeps a chunk and its scores at about 2^25 numbers,
        at most 65,536. Chunks are made equal, so that the last one is full but for a few rows.
      multiple: a chunk has a multiple of so many rows, where there are several.

    Raises:
      DataError: as `read_log`, for what can be seen without reading all rows; other suffixes than Parquet's.
    """
    files = tuple(list_files(path, PARQUET, folder=True))
    choose, footers, chosen, schemas = chooser(columns, embedding), [], [], []
    for file in files:
        check_file(file, PARQUET)
        try:
            with pq.ParquetFile(file) as parquet:
                original = chosen_columns(parquet.schema_arrow.names, choose, file)
                footers.append(parquet.metadata)
                schemas.append(
                    pa.schema([parquet.schema_arrow.field(name) for name in dict.fromkeys(original.values())])
                )
        except (pa.ArrowException, OSError) as problem:
            raise unreadable(file, problem) from None
        if footers[-1].num_rows == 0:
            raise describe(file, "is empty (0 rows), expected at least one row")
        original.pop("timestamp", None)
        if "group" in original:
            original.pop("query", None)
        chosen.append(original)
    same_columns(files, chosen, schemas)
    groups = _row_groups(footers)
    rows = sum(footer.num_rows for footer in footers)
    stream = LogStream(files, tuple(footers), chosen[0], groups, (), models is not None, 0, rows, rows, cost_unit)
    with closing(stream._tables(groups[0], ["embedding"])) as tables:
        first = _source(next(tables).slice(0, 1), {"embedding": stream.original["embedding"]}, files[0], 0)
    stream = replace(stream, dim=first.embeddings("embedding").shape[1])
    stream = _surveyed(stream, models)
    most = chunk_rows or min(CHUNK_ROWS, max(1, CHUNK_NUMBERS // (stream.dim + 6 * len(stream.models))))
    return replace(stream, chunk_rows=_even(rows, most, multiple))


def _even(rows: int, most: int, multiple: int) -> int:
    """Rows of a chunk: chunks equal but for what a multiple asks for.

    >>> _even(1000, 2000, 512), _even(100_000, 65_536, 512), _even(100_000, 300, 512)
    (1000, 50176, 300)
    """
    if most >= rows or most < multiple:
        return min(most, rows)
    most = most // multiple * multiple
    size = -(-rows // -(-rows // most))
    return -(-size // multiple) * multiple


def _row_groups(footers: Sequence[Any]) -> tuple[RowGroup, ...]:
    found, in_log = [], 0
    for file, footer in enumerate(footers):
        in_file = 0
        for group in range(footer.num_row_groups):
            rows = footer.row_group(group).num_rows
            if rows:
                found.append(RowGroup(file, group, rows, in_file, in_log))
            in_file, in_log = in_file + rows, in_log + rows
    return tuple(found)


def _surveyed(stream: LogStream, models: Sequence[str] | None) -> LogStream:
    """The stream with its models, and without optional columns that are null throughout."""
    unseen = [name for name in COMPLETE if name in stream.original]
    found: set[str] = set()
    for group in stream.groups:
        wanted = [*(["model"] if models is None else []), *unseen]
        if not wanted:
            break
        before = 0
        for table in stream._tables(group, wanted):
            here = {name: stream.original[name] for name in wanted if stream.original[name] in table.column_names}
            source = _source(table, here, stream.files[group.file], group.before_in_file + before)
            if models is None:
                source.require("model", ~source.nulls("model"), "the name of a model")
                found.update(source.text("model", "the name of a model").unique().to_pylist())
            unseen = [name for name in unseen if not source.has(name)]
            before += table.num_rows
    names = tuple(sorted(found) if models is None else models)
    if len(set(names)) < max(2, len(names)):
        problem = f"has the models {listed(names)}, expected at least two, each once"
        raise describe(stream.files[0], problem, column=stream.original["model"])
    kept = {name: theirs for name, theirs in stream.original.items() if name not in unseen}
    return replace(stream, models=names, original=kept)


def _source(table: pa.Table, original: Mapping[str, str], file: str, before: int) -> Source:
    """Rows of one file from number `before` on."""
    return make_source(table, original, [file], [-before])


def _keys(source: Source, rows: Parsed) -> np.ndarray:
    """[n] uint64, equal for rows of one group, else for equal queries, else for equal embeddings."""
    if rows.group is not None:
        return _text_keys(rows.group)
    by_embedding = row_keys(rows.x)
    if "query" not in source.columns:
        return by_embedding
    return np.where(source.nulls("query"), by_embedding, _text_keys(source.text("query", "text")))


def _text_keys(column: pa.ChunkedArray) -> np.ndarray:
    values = column.cast(pa.large_binary()).to_pylist()
    return mix(np.fromiter((zlib.crc32(value or b"") for value in values), np.uint64, len(values)))


def _empty_like(part: LogChunk, rows: int) -> LogChunk:
    return jax.tree.map(lambda leaf: np.empty((rows, *leaf.shape[1:]), leaf.dtype), part)


def _copy(part: LogChunk, rows: slice, chunk: LogChunk, places: slice) -> None:
    for source, target in zip(jax.tree.leaves(part), jax.tree.leaves(chunk), strict=True):
        target[places] = source[rows]


def _fill(chunk: LogChunk, used: int) -> None:
    """Repeats the first row, as what is there must be finite, and gives it no weight and no number."""
    for leaf in jax.tree.leaves(chunk):
        leaf[used:] = leaf[0]
    chunk.log.row_weight[used:], chunk.row[used:] = 0.0, -1  # pyright: ignore[reportOptionalSubscript, reportIndexIssue]
