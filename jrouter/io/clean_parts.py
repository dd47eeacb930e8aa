"""A clean log on disk: Parquet parts of one schema, small row groups, and a fingerprint of what is in them."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jrouter.io.columns import is_list, is_text
from jrouter.io.contract import KEPT
from jrouter.io.errors import DataError, describe
from jrouter.io.raw_columns import nulls
from jrouter.io.record_stream import ROWS
from jrouter.io.replace import take_place

PART_ROWS = 64 * ROWS
REPORT = "_report.json"
"""What was read, beside the parts; and the sign that a folder was written here and may be replaced."""
PART = re.compile(r"part_\d{5}\.parquet")

TEXT = pa.large_string()
TYPES = {name: pa.float64() for name in ("score", "cost", "propensity", "timestamp", "keep_probability")} | {
    "allowed_models": pa.large_list(TEXT)
}


class Fingerprint:
    """SHA-256 of rows in their order, the same however they come in pieces, and on any machine.

    A digest of each column (whether each value is there, lengths of texts and lists, values), then of the digests
    by name.

    >>> whole, pieces = Fingerprint(), Fingerprint()
    >>> rows = pa.table({"model": ["a", "b"], "cost": [1.0, None]})
    >>> whole.update(rows), pieces.update(rows.slice(0, 1)), pieces.update(rows.slice(1))
    (None, None, None)
    >>> whole.hexdigest() == pieces.hexdigest()
    True
    """

    def __init__(self) -> None:
        self.digests: defaultdict[str, Any] = defaultdict(hashlib.sha256)

    def update(self, rows: pa.Table) -> None:
        """Adds rows."""
        for name in rows.column_names:
            for chunk in rows.column(name).chunks:
                self._add(name, chunk)

    def _add(self, path: str, column: pa.Array) -> None:
        if not len(column):
            return
        self.digests[f"{path} there"].update(~nulls(column))
        if is_text(column.type):
            column = column.cast(pa.large_string()).fill_null("")
            offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
            self.digests[f"{path} lengths"].update(np.diff(offsets))
            if offsets[-1] > offsets[0]:
                self.digests[path].update(memoryview(column.buffers()[2])[offsets[0] : offsets[-1]])
        elif is_list(column.type):
            lengths = pc.call_function("list_value_length", [column]).fill_null(0)
            self.digests[f"{path} lengths"].update(lengths.to_numpy().astype(np.int64))
            self._add(f"{path} values", column.flatten())
        else:
            self.digests[path].update(np.ascontiguousarray(column.fill_null(0).to_numpy()))

    def hexdigest(self) -> str:
        """Returns 64 hex digits."""
        whole = {path: digest.hexdigest() for path, digest in self.digests.items()}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


class PartWriter:
    """Writes rows as parts `part_00000.parquet`, ... of row groups of at most `ROWS` rows.

    A column that no row so far has filled in is left out; where a later row has it, the parts from there on have it
    too, and `uniform` becomes False. Memory: the rows of one row group.

    Attributes:
      fingerprint: of the rows written.
      uniform: whether all parts have the same columns.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.fingerprint, self.uniform = folder, Fingerprint(), True
        self.columns: list[str] = []
        self.waiting: list[pa.Table] = []
        self.parts = 0
        self._rows_waiting = self._rows_in_part = 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table) -> None:
        """Adds rows, whose columns are among `KEPT` and `embedding`."""
        if not rows.num_rows:
            return
        filled = [name for name in rows.column_names if rows.column(name).null_count < rows.num_rows]
        wider = [name for name in (*KEPT, "embedding") if name in {*self.columns, *filled}]
        if wider != self.columns:
            if self.columns:
                self._flush(0)
                self._close_part()
                self.uniform = False
            self.columns = wider
        self.waiting.append(_with_columns(rows, self.columns))
        self._rows_waiting += rows.num_rows
        if self._rows_waiting >= ROWS:
            self._flush(self._rows_waiting % ROWS)

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, kind: Any, problem: Any, trace: Any) -> None:
        """Writes what waits; after an error, only lets go of the file."""
        try:
            if kind is None:
                self._flush(0)
                self._close_part()
        finally:
            if self._writer is not None:  # else it is closed as it is forgotten, which may fail again, and is printed
                self._writer.is_open = False

    def _flush(self, keep: int) -> None:
        """Writes the rows that wait but for the last `keep`."""
        if not self.waiting:
            return
        rows = pa.concat_tables(self.waiting, promote_options="default")
        ready = rows.slice(0, rows.num_rows - keep)
        for start in range(0, ready.num_rows, ROWS):
            group = ready.slice(start, ROWS)
            with _writing():
                if self._writer is None:
                    path = self.folder / f"part_{self.parts:05d}.parquet"
                    words: Any = _worded(group.schema)
                    self._writer = pq.ParquetWriter(path, group.schema, use_dictionary=words)
                    self.parts += 1
                self._writer.write_table(group, row_group_size=ROWS)
            self.fingerprint.update(group)
            self._rows_in_part += group.num_rows
            if self._rows_in_part >= PART_ROWS:
                self._close_part()
        self.waiting = [rows.slice(rows.num_rows - keep)] if keep else []
        self._rows_waiting = keep

    def _close_part(self) -> None:
        writer, self._writer, self._rows_in_part = self._writer, None, 0
        if writer is not None:
            try:
                with _writing():
                    writer.close()
            finally:
                writer.is_open = False


class WriteError(OSError):
    """The clean log could not be written."""


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise WriteError(problem.errno, problem.strerror or str(problem)) from None


def _worded(schema: pa.Schema) -> list[str]:
    """Columns of few different values."""
    return [name for name in ("model", "group", "propensity", "keep_probability", "score") if name in schema.names] + (
        ["allowed_models.list.element"] if "allowed_models" in schema.names else []
    )


def _with_columns(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    columns = {
        name: rows.column(name) if name in rows.column_names else pa.nulls(rows.num_rows, TYPES.get(name, TEXT))
        for name in names
    }
    return pa.table(columns)


def read_parts(folder: Path, *, drop: bool = False) -> Iterator[pa.Table]:
    """Yields the rows of all parts, a row group at a time; where `drop`, each part is deleted once read."""
    for path in sorted(folder.iterdir()):
        if PART.fullmatch(path.name):
            with pq.ParquetFile(path, buffer_size=1 << 20) as parquet:
                for batch in parquet.iter_batches(ROWS, use_threads=False):
                    yield pa.Table.from_batches([batch])
            if drop:
                path.unlink()


@contextmanager
def folder_replaced(folder: Path) -> Iterator[Path]:
    """Gives an empty folder beside `folder` to write to, which takes its place at the end, or disappears.

    Raises:
      DataError: `folder` holds something that was not written here; the disk is full, or the place not to be written.
    """
    folder = folder.resolve()
    check_target(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as problem:
        raise cannot_write(folder, problem) from None
    try:
        yield partial
        with _writing():
            _take_place(partial, folder)
    except WriteError as problem:
        raise cannot_write(folder, problem) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _take_place(partial: Path, folder: Path) -> None:
    partial.chmod(0o755)
    take_place(partial, folder)


def check_target(folder: Path) -> None:
    """Raises DataError where `folder` must not be replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise describe(str(folder), "is a file, expected a folder to write the clean log to")
    names = os.listdir(folder)
    other = [name for name in names if name != REPORT and not PART.fullmatch(name)]
    if other or (names and REPORT not in names):
        raise describe(str(folder), "is not empty, and no clean log that may be replaced; give another folder")


def cannot_write(folder: Path, problem: OSError) -> DataError:
    """Returns the error for a folder that could not be written."""
    told = problem.strerror or str(problem)
    return describe(str(folder), f"cannot be written: {told}; what was there before is as it was")


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Writes what was read beside the parts."""
    with _writing():
        (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
