"""Columns of files and their checks: what benchmark tables and logs share.

A `Source` holds the columns a reader chose, under our names, and remembers which file and row each
value came from, so that every complaint can say so. Checks are vectorised; the offending row is
looked for only once something is wrong.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jrouter.io.errors import DataError, describe, listed, sentence, shown

PARQUET, CSV, JSON_LINES = (".parquet", ".pq"), (".csv", ".csv.gz"), (".jsonl", ".ndjson", ".json")
LARGEST = float(np.finfo(np.float32).max)  # public arrays are float32

Embed = Callable[[list[str]], np.ndarray]
"""[n] texts -> [n, d] embeddings, as `Encoder.encode`."""
Choose = Callable[[list[str], str], dict[str, str]]
"""Given the columns of a file and its path, says which to read: our name -> the file's name."""


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type holds numbers; True and False count as 1 and 0."""
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return numeric or pa.types.is_boolean(kind) or pa.types.is_null(kind)


def trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns strings without the white space around them."""
    return pc.call_function("utf8_trim_whitespace", [column])


def places(column: pa.ChunkedArray, names: Sequence[str]) -> pa.ChunkedArray:
    """Returns where each string is in `names`, null where it is not."""
    return pc.call_function("index_in", [column], pc.SetLookupOptions(pa.array(names, pa.large_string())))


@dataclass(frozen=True)
class Source:
    """The chosen columns of a file, of a folder of files, or of a table in memory.

    Attributes:
      columns: our name -> its values; an empty string is null, so that CSV and Parquet agree.
      original: our name -> the file's name, which errors use.
      files: path of each file.
      starts: index of the first row of each file.
      rows: number of rows.
      metadata: that of a Parquet schema.
    """

    columns: Mapping[str, pa.ChunkedArray]
    original: Mapping[str, str]
    files: Sequence[str]
    starts: Sequence[int]
    rows: int
    metadata: Mapping[bytes, bytes] = field(default_factory=dict)

    def error(self, problem: str, column: str, row: int | None = None) -> DataError:
        """Returns the error for one column (our name), and row of all files together."""
        file = 0 if row is None else int(np.searchsorted(self.starts, row, side="right")) - 1
        within = None if row is None else int(row) - self.starts[file]
        return describe(self.files[file], problem, within, self.original[column])

    def has(self, name: str) -> bool:
        """Whether the column is there and holds anything."""
        return name in self.columns and self.columns[name].null_count < self.rows

    def nulls(self, name: str) -> np.ndarray:
        """Returns [n] bool, True where the column is null or empty."""
        return self.columns[name].is_null().to_numpy()

    def require(self, name: str, fine: np.ndarray, expected: str) -> None:
        """Raises DataError at the first row where `fine` [n] is False."""
        if not fine.all():
            row = int(np.argmin(fine))
            found = shown(self.columns[name][row])
            raise self.error(f"found {found}, expected {expected}; correct or drop the row", name, row)

    def cast(self, name: str, kind: pa.DataType, expected: str) -> pa.ChunkedArray:
        """Returns the column as another type, or raises DataError at the first value that does not fit."""
        column = self.columns[name]
        if is_text(column.type) and not is_text(kind):
            column = trimmed(column)
        exact = not pa.types.is_integer(column.type)  # integers above 2^53 may be rounded
        try:
            return pc.cast(column, kind, safe=exact)
        except pa.ArrowNotImplementedError:
            raise self.error(f"holds {column.type}, expected {expected}", name) from None
        except pa.ArrowInvalid:
            fine = np.ones(self.rows, bool)
            fine[_first_misfit(column, kind)] = False
            self.require(name, fine, expected)
            raise

    def floats(
        self, name: str, expected: str, *, low: float = -LARGEST, high: float = LARGEST, null: bool = False
    ) -> np.ndarray:
        """Returns a column of numbers, each within [low, high].

        Args:
          name: our name of the column.
          expected: what the error says was expected.
          low: smallest value allowed; the default only asks for a finite one.
          high: largest value allowed.
          null: whether null is allowed.

        Returns:
          [n] float64, 0 where null.

        Raises:
          DataError: a value that is no number, NaN, out of range, or null where that is not allowed.
        """
        if not (is_number(self.columns[name].type) or is_text(self.columns[name].type)):
            raise self.error(f"holds {self.columns[name].type}, expected {expected}", name)
        values = self.cast(name, pa.float64(), expected)
        missing = self.nulls(name)
        values = values.fill_null(0.0).to_numpy()
        with np.errstate(invalid="ignore"):
            inside = (values >= low) & (values <= high)  # False for NaN
        self.require(name, np.where(missing, null, inside), expected)
        return values

    def text(self, name: str, expected: str) -> pa.ChunkedArray:
        """Returns a column as strings, null where null or empty."""
        return self.cast(name, pa.large_string(), expected)

    def lists(self, name: str, kind: pa.DataType, expected: str) -> tuple[pa.ChunkedArray, np.ndarray]:
        """Returns the values of a column of lists (or JSON arrays), flat, and [n] the length of each list."""
        column = self.columns[name]
        if is_text(column.type):
            column = self._parsed(name, kind, expected)
        elif not is_list(column.type):
            raise self.error(f"holds {column.type}, expected {expected}", name)
        self.require(name, ~self.nulls(name), expected)
        lengths = pc.call_function("list_value_length", [column]).to_numpy()
        return pa.chunked_array([c.flatten() for c in column.chunks], column.type.value_type), lengths

    def _parsed(self, name: str, kind: pa.DataType, expected: str) -> pa.ChunkedArray:
        rows: list[pa.Array] = []
        for row, text in enumerate(self.columns[name].to_pylist()):
            try:
                value = json.loads(text)
                # A string or an object is a sequence to pyarrow too.
                rows.append(pa.array(value if isinstance(value, list) else None, kind))
            except (ValueError, TypeError, RecursionError, pa.ArrowException):
                problem = f"found {shown(text)}, expected {expected} (a JSON array); correct or drop the row"
                raise self.error(problem, name, row) from None
        offsets = np.cumsum([0, *map(len, rows)])
        return pa.chunked_array([pa.LargeListArray.from_arrays(offsets, pa.concat_arrays(rows))])

    def embeddings(self, name: str, like: tuple[int, str] | None = None) -> np.ndarray:
        """Returns [n, d] float32 embeddings; raises DataError where they differ in width or are not finite.

        Args:
          name: our name of the column.
          like: width, and path of the file whose first row has it; by default those of the first row here.
        """
        values, lengths = self.lists(name, pa.float64(), "an embedding: a list of numbers")
        if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
            raise self.error(f"holds lists of {values.type}, expected lists of numbers", name)
        width, file = (int(lengths[0]), self.files[0]) if like is None else like
        if width == 0 or not (lengths == width).all():
            row = int(np.argmax(lengths != width)) if width else 0
            want = f"{width}, as in row 0 of {file}" if width else "at least one"
            problem = f"has an embedding of {lengths[row]} numbers, expected {want}; embed all rows alike"
            raise self.error(problem, name, row)
        with np.errstate(over="ignore"):
            x = values.to_numpy().astype(np.float32, copy=False).reshape(self.rows, width)  # null becomes NaN
        if not np.isfinite(x).all():
            row, place = (int(i) for i in np.argwhere(~np.isfinite(x))[0])
            found = shown(values[row * width + place])
            problem = f"found {found} at place {place} of the embedding, expected finite numbers; embed the row again"
            raise self.error(problem, name, row)
        return x


def pick_embedding(names: Sequence[str], embedding: str | None, file: str) -> str | None:
    """Returns the column of the encoder that was asked for, or the only one, or None where there is none.

    >>> pick_embedding(["query", "embedding:bert", "embedding:llama"], "llama", "log.csv")
    'embedding:llama'
    """
    found = [name for name in names if name == "embedding" or name.startswith("embedding:")]
    if embedding is not None:
        for name in (embedding, f"embedding:{embedding}"):
            if name in found:
                return name
        raise describe(file, f"has no embedding '{embedding}'; pass one of those there: {listed(found)}")
    if len(found) > 1:
        problem = f"has several embeddings, {listed(found)}; choose one with `embedding=` (`--embedding` in a shell)"
        raise describe(file, problem)
    return found[0] if found else None


def embedded(texts: list[str], embed: Embed) -> np.ndarray:
    """Returns [n, d] float32, what `embed` makes of texts.

    Raises:
      ValueError: it makes something else.
    """
    x = np.asarray(embed(texts), np.float32)
    if x.ndim != 2 or len(x) != len(texts) or not x.shape[1] or not np.isfinite(x).all():
        raise ValueError(f"embed: expected finite numbers, a row for each of {len(texts)} texts, got shape {x.shape}")
    return x


def query_groups(source: Source, x: np.ndarray | None) -> np.ndarray | None:
    """Returns [n] int32 ids, equal for equal `query` text, or for equal embeddings where there is no text."""
    by_embedding = None
    if x is not None:
        # Rows as binary strings, which pyarrow hashes: faster than sorting them, and first come, first numbered.
        offsets = np.arange(len(x) + 1, dtype=np.int64) * x.shape[1] * x.itemsize
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(x))]
        by_embedding = equal_ids(pa.chunked_array([pa.Array.from_buffers(pa.large_binary(), len(x), buffers)]))
    if not source.has("query"):
        return by_embedding
    by_text = equal_ids(source.text("query", "text"))
    rest = np.arange(source.rows) if by_embedding is None else by_embedding
    return np.where(source.nulls("query"), by_text.max() + 1 + rest, by_text).astype(np.int32)


def equal_ids(column: pa.ChunkedArray) -> np.ndarray:
    """Returns [n] int32, equal where the values are, numbered as they first appear; null counts as the first."""
    indices = [chunk.indices.fill_null(0).to_numpy() for chunk in column.dictionary_encode().chunks]
    return np.concatenate(indices).astype(np.int32)


def _first_misfit(column: pa.ChunkedArray, kind: pa.DataType) -> int:
    """Returns the first row that cannot be cast, by halving."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pc.cast(column.slice(low, middle - low), kind)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def make_source(
    table: pa.Table,
    original: Mapping[str, str],
    files: Sequence[str],
    starts: Sequence[int] = (0,),
    metadata: Mapping[bytes, bytes] | None = None,
) -> Source:
    """Returns the Source of a table in memory, its columns renamed and in as few types as needed."""
    columns: dict[str, pa.ChunkedArray] = {}
    source = Source(columns, original, files, starts, table.num_rows, metadata or {})
    for ours, theirs in original.items():
        column = table.column(theirs)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if is_text(column.type):
            column = column.cast(pa.large_binary())
            try:
                column = column.cast(pa.large_string())  # checks the encoding, which reading does not
            except pa.ArrowInvalid:
                row = _first_misfit(column, pa.large_string())
                raise source.error("found text that is not UTF-8; write the file as UTF-8", ours, row) from None
            empty = pc.call_function("equal", [column, pa.scalar("", pa.large_string())])
            column = pc.call_function("if_else", [empty, pa.scalar(None, pa.large_string()), column])
        columns[ours] = column
    return source


def chosen_columns(names: list[str], choose: Choose, file: str) -> dict[str, str]:
    """Returns what `choose` says, once none of it is there twice."""
    original = choose(names, file)
    for name in original.values():
        if names.count(name) > 1:
            raise describe(file, f"appears {names.count(name)} times; keep one", column=name)
    return original


def python_column(values: Sequence[Any], column: str, file: str, from_pandas: bool = False) -> pa.ChunkedArray:
    """Returns Python values as a column, or raises DataError at the first that is of another type than those before."""
    try:
        array = pa.array(values, from_pandas=from_pandas)
        return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as problem:
        values = list(values)  # a Series would be indexed by its labels
        kinds = [float if isinstance(value, int | float) else type(value) for value in values]
        first = next((kind for kind in kinds if kind is not type(None)), None)
        for row, kind in enumerate(kinds):
            if kind not in (first, type(None)):
                text = f"found {shown(values[row])} after values of type {getattr(first, '__name__', first)}"
                raise describe(
                    file, f"{text}, expected one type in all rows; correct or drop the row", row, column
                ) from None
        raise describe(file, f"cannot be read: {sentence(problem)}; correct the column", column=column) from None
