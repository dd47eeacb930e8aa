"""Any file of a log as batches of some thousands of rows, each row with its number: Parquet, CSV, JSON lines, tables.

Nothing is judged here but what has no columns yet: a line that is no JSON, a line with too many cells.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jrouter.io.columns import CSV, JSON_LINES, PARQUET
from jrouter.io.errors import DataError, describe, shown
from jrouter.io.files import unreadable
from jrouter.io.locations import DataFile
from jrouter.io.raw_columns import as_column

ROWS = 16_384
BLOCK = 1 << 24
"""Bytes that a batch is read from, about; and the longest line."""
SUFFIXES = (*PARQUET, *CSV, *JSON_LINES, *(f"{suffix}.gz" for suffix in JSON_LINES))
EMPTY: tuple[Any, ...] = ()

Pick = Callable[[list[str]], Sequence[str]]
"""The columns of a file -> those to read."""


class Broken(NamedTuple):
    """A row that could not be told apart into columns."""

    row: int
    reason: str
    found: str


class Batch(NamedTuple):
    """Some rows of one file.

    Attributes:
      rows: [n] number of each in its file, from 0.
      names: columns that are there.
      columns: name -> values [n], of those that were picked; empty where records were asked for.
      records: [n] the rows as objects, where these were asked for.
      broken: rows between these that are none.
      done: share of the file that has been read.
    """

    rows: np.ndarray
    names: list[str]
    columns: Mapping[str, pa.Array]
    records: Sequence[Mapping[str, Any]]
    broken: Sequence[Broken]
    done: float


def read_batches(file: DataFile, pick: Pick | None) -> Iterator[Batch]:
    """Yields the rows of a file, at most `ROWS` at a time.

    Memory: one batch, or one page of a Parquet file where that is more.

    Args:
      file: whose suffix is one of `SUFFIXES`.
      pick: the columns to read; None for records, as adapters take them.

    Raises:
      DataError: a file that cannot be read, or not to its end.
    """
    read = _parquet if file.ends_with(PARQUET) else _csv if file.ends_with(CSV) else _json_lines
    try:
        yield from read(file, pick)
    except DataError:
        raise
    except (pa.ArrowException, OSError, EOFError, UnicodeError, zlib.error) as problem:
        raise unreadable(file.place, problem) from None


def _parquet(file: DataFile, pick: Pick | None) -> Iterator[Batch]:
    with (
        file.filesystem.open_input_file(file.path) as stream,
        pq.ParquetFile(stream, buffer_size=1 << 20) as parquet,
    ):
        footer, names = parquet.metadata, list(parquet.schema_arrow.names)
        wanted = names if pick is None else list(dict.fromkeys(pick(names)))
        uncompressed = sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
        size = max(64, min(ROWS, 2 * BLOCK * max(footer.num_rows, 1) // max(uncompressed, 1)))
        before = 0
        for part in parquet.iter_batches(size, columns=wanted, use_threads=False):
            yield table_batch(part, before, names, pick is None, (before + part.num_rows) / footer.num_rows)
            before += part.num_rows


def table_batch(part: pa.RecordBatch, before: int, names: list[str], as_records: bool, done: float) -> Batch:
    """Returns rows of a table, of which `before` came before, as a batch of columns or of records."""
    rows = np.arange(before, before + part.num_rows)
    if not as_records:
        columns = {name: part.column(place) for place, name in enumerate(part.schema.names)}
        return Batch(rows, names, columns, EMPTY, EMPTY, done)
    try:
        return Batch(rows, names, {}, part.to_pylist(), EMPTY, done)
    except UnicodeDecodeError:  # look for the rows
        records, broken, fine = [], [], []
        for place, row in enumerate(rows):
            try:
                records.extend(part.slice(place, 1).to_pylist())
                fine.append(row)
            except UnicodeDecodeError:
                broken.append(Broken(int(row), "text is not UTF-8", "text that is not UTF-8"))
        return Batch(np.array(fine, int), names, {}, records, broken, done)


class _Counted(io.RawIOBase):
    """A file as it is stored; knows how far it has been read."""

    def __init__(self, file: DataFile) -> None:
        self.stream, self.done = file.filesystem.open_input_stream(file.path, compression=None), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = self.stream.readinto(buffer)
        self.done += read
        return read

    def close(self) -> None:
        self.stream.close()
        super().close()


def _opened(file: DataFile) -> tuple[_Counted, Any]:
    """The file as it is stored, and its content."""
    raw = _Counted(file)
    stored = io.BufferedReader(raw, 1 << 18)
    zipped = file.ends_with((".gz",))
    reader = io.BufferedReader(gzip.GzipFile(fileobj=stored, mode="rb"), 1 << 18) if zipped else stored  # pyright: ignore[reportArgumentType]
    if reader.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise describe(file.place, "is UTF-16; write it as UTF-8")
    return raw, reader


def _csv(file: DataFile, pick: Pick | None) -> Iterator[Batch]:
    raw, content = _opened(file)
    longest = csv.field_size_limit()
    csv.field_size_limit(max(longest, BLOCK))  # a prompt may be longer than 128 KiB
    try:
        # Bytes that are no UTF-8 are kept, and found where their column is read.
        with raw, io.TextIOWrapper(content, "utf-8-sig", errors="surrogateescape", newline="") as lines:
            reader = csv.reader(lines)
            names = next((row for row in reader if row), [])
            wanted = names if pick is None else list(dict.fromkeys(pick(names)))
            places, number = [names.index(name) for name in wanted], 0
            while True:
                rows, kept, broken, before, ended = [], [], [], raw.done, False
                while len(rows) + len(broken) < ROWS and (number & 255 or raw.done - before < BLOCK):
                    try:
                        row = next(reader)
                    except StopIteration:
                        ended = True
                        break
                    except csv.Error as problem:
                        broken.append(Broken(number, "line cannot be parsed; check its quotes", str(problem)))
                        number += 1
                        continue
                    if len(row) == len(names):
                        rows.append(row)
                        kept.append(number)
                    elif not row:
                        continue
                    else:
                        told = f"{len(row)} cells, expected {len(names)}"
                        broken.append(Broken(number, "another number of cells than the header has", told))
                    number += 1
                done = min(1.0, raw.done / max(file.size, 1))
                if pick is None:
                    records = [dict(zip(names, row, strict=True)) for row in rows]
                    yield Batch(np.array(kept, int), names, {}, records, broken, done)
                else:
                    columns = {
                        name: as_column([row[place] for row in rows])
                        for name, place in zip(wanted, places, strict=True)
                    }
                    yield Batch(np.array(kept, int), names, columns, EMPTY, broken, done)
                if ended:
                    return
    finally:
        csv.field_size_limit(longest)


def _json_lines(file: DataFile, pick: Pick | None) -> Iterator[Batch]:
    raw, content = _opened(file)
    with raw, content:
        number, ended, first = 0, False, True
        while not ended:
            records, kept, broken, size = [], [], [], 0
            while len(records) + len(broken) < ROWS and size < BLOCK:
                line = content.readline(BLOCK + 1)
                if not line:
                    ended = True
                    break
                size += len(line)
                if len(line) > BLOCK:
                    while line and not line.endswith(b"\n"):
                        line = content.readline(BLOCK)
                    broken.append(Broken(number, "line is longer than 16 MiB", "no end of line"))
                    number += 1
                    continue
                line = (line.removeprefix(b"\xef\xbb\xbf") if first else line).strip()
                if not line:
                    continue
                if first and (line == b"[" or line.startswith(b"[{")):
                    told = "is one JSON array, expected one object on each line (jq -c '.[]' makes it so)"
                    raise describe(file.place, told)
                first = False
                try:
                    record = json.loads(line.decode())
                except UnicodeDecodeError:
                    broken.append(Broken(number, "text is not UTF-8", shown(line.decode("latin-1"))))
                except (ValueError, RecursionError):
                    broken.append(Broken(number, "line is not JSON", shown(line.decode())))
                else:
                    if isinstance(record, dict):
                        records.append(record)
                        kept.append(number)
                    else:
                        broken.append(Broken(number, "line is not a JSON object", shown(record)))
                number += 1
            names = list(dict.fromkeys(name for record in records for name in record))
            done = 1.0 if ended else min(1.0, raw.done / max(file.size, 1))
            if pick is None:
                yield Batch(np.array(kept, int), names, {}, records, broken, done)
            elif records or broken:
                wanted = dict.fromkeys(pick(names)) if records else ()
                columns = {name: as_column([record.get(name) for record in records]) for name in wanted}
                yield Batch(np.array(kept, int), names, columns, EMPTY, broken, done)


def memory_batches(data: Any, pick: Pick | None) -> Iterator[Batch]:
    """Yields the rows of a pyarrow Table or a pandas DataFrame as `read_batches` does those of a file."""
    if isinstance(data, pa.Table):
        names, total = list(data.column_names), data.num_rows
        wanted = names if pick is None else list(dict.fromkeys(pick(names)))
        before = 0
        for part in data.select([names.index(one) for one in wanted]).to_batches(ROWS):
            yield table_batch(part, before, names, pick is None, (before + part.num_rows) / total)
            before += part.num_rows
        return
    names, total = [str(column) for column in data.columns], len(data)
    wanted = names if pick is None else list(dict.fromkeys(pick(names)))
    for before in range(0, total, ROWS):
        part = data.iloc[before : before + ROWS]
        columns = {one: _pandas_column(part.iloc[:, names.index(one)]) for one in wanted}
        batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        yield table_batch(batch, before, names, pick is None, (before + len(part)) / total)


def _pandas_column(values: Any) -> pa.Array:
    # NaN in a column of floats stays NaN; in one of objects it is pandas' way to say that nothing is there.
    floats = values.dtype.kind == "f"
    try:
        column = pa.array(values, from_pandas=not floats)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return as_column([None if isinstance(one, float) and one != one else one for one in values.tolist()])
    if pa.types.is_struct(column.type) or pa.types.is_nested(column.type) and values.dtype == object:
        return column
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
