"""How files become tables of pyarrow columns: Parquet, CSV, JSON lines, or a folder of one of these.

Only the chosen columns are kept; whatever a file holds that cannot be read is told by file and row.
"""

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from jrouter.io.columns import CSV, PARQUET, Choose, Source, chosen_columns, make_source, python_column
from jrouter.io.errors import DataError, describe, listed, sentence, shown

BLOCK = 1 << 24  # bytes that pyarrow parses at a time; a row has to fit in one


def read_files(path: str | os.PathLike, choose: Choose, suffixes: Sequence[str], *, folder: bool = False) -> Source:
    """Reads the chosen columns of a file, or of every file of a folder by name.

    Args:
      path: a file, or a folder; names that start with a dot or an underscore are no part of it.
      choose: which columns to read.
      suffixes: those allowed.
      folder: whether a folder is allowed.

    Returns:
      The columns, with the rows of one file after those of the other.

    Raises:
      DataError: a missing, empty, malformed or unknown file, or files that differ in their columns.
    """
    files = list_files(path, suffixes, folder=folder)
    parts = [_read_file(file, choose, suffixes) for file in files]
    same_columns(files, [original for _, original in parts], [table.schema for table, _ in parts])
    first, original = parts[0]
    tables = [table for table, _ in parts]
    starts = np.cumsum([0, *(table.num_rows for table in tables)])[:-1].tolist()
    whole = pa.concat_tables(tables, promote_options="permissive")
    return make_source(whole, original, files, starts, first.schema.metadata)


def list_files(path: str | os.PathLike, suffixes: Sequence[str], *, folder: bool = False) -> list[str]:
    """Returns a file's path, or those of a folder's files by name, as `read_files` reads them."""
    name = os.fspath(path)
    if not (folder and os.path.isdir(name)):
        return [name]
    files = [os.path.join(name, file) for file in sorted(os.listdir(name)) if not file.startswith((".", "_"))]
    if not files:
        raise describe(name, f"is a folder without files, expected files that end in {listed(suffixes)}")
    return files


def check_file(file: str, suffixes: Sequence[str]) -> None:
    """Raises DataError for a file that is missing, empty or of another kind."""
    if not os.path.exists(file):
        raise describe(file, "does not exist; check the path")
    if os.path.isdir(file):
        raise describe(file, "is a folder, expected a file")
    if not file.lower().endswith(tuple(suffixes)):
        raise describe(file, f"has an unknown suffix '{Path(file).suffix}', expected one of {', '.join(suffixes)}")
    if os.path.getsize(file) == 0:
        raise describe(file, "is empty (0 bytes), expected columns and rows")


def same_columns(files: Sequence[str], chosen: Sequence[Mapping[str, str]], schemas: Sequence[pa.Schema]) -> None:
    """Raises DataError where the chosen columns of several files differ in name or kind."""
    original, schema = chosen[0], schemas[0]
    for file, here, types in zip(files, chosen, schemas, strict=True):
        if here != original:
            names, there = listed(sorted(here.values())), listed(sorted(original.values()))
            raise describe(file, f"has the columns {names}, but {files[0]} has {there}; give all files the same ones")
        try:
            schema = pa.unify_schemas([schema, types], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as problem:
            raise describe(file, f"has other column types than {files[0]}: {sentence(problem)}") from None


def unreadable(file: str, problem: Exception) -> DataError:
    """Returns the error for a file that another library could not read."""
    return describe(file, f"cannot be read: {sentence(problem)}; check that it is whole")


def _read_file(file: str, choose: Choose, suffixes: Sequence[str]) -> tuple[pa.Table, dict[str, str]]:
    check_file(file, suffixes)
    lower = file.lower()
    read = _read_parquet if lower.endswith(PARQUET) else _read_csv if lower.endswith(CSV) else _read_json_lines
    try:
        table, original = read(file, choose)
    except DataError:
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError, csv.Error) as problem:
        raise unreadable(file, problem) from None
    if table.num_rows == 0:
        raise describe(file, "is empty (0 rows), expected at least one row")
    return table.select(list(dict.fromkeys(original.values()))), original


def _read_parquet(file: str, choose: Choose) -> tuple[pa.Table, dict[str, str]]:
    with pyarrow.parquet.ParquetFile(file) as parquet:
        original = chosen_columns(parquet.schema_arrow.names, choose, file)
        return parquet.read(columns=list(dict.fromkeys(original.values()))), original


def _read_csv(file: str, choose: Choose) -> tuple[pa.Table, dict[str, str]]:
    with io.TextIOWrapper(pa.input_stream(file), "utf-8-sig", errors="replace", newline="") as lines:
        names = next((row for row in csv.reader(lines) if row), [])
    original = chosen_columns(names, choose, file)
    wanted = list(dict.fromkeys(original.values()))
    try:
        # All as text: a type guessed from the first rows would fail on a later one without naming it,
        # and a query or a model called "1" or "NA" is no number. One thread, so that rows are counted.
        table = pyarrow.csv.read_csv(
            file,
            pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK),
            pyarrow.csv.ParseOptions(newlines_in_values=True),
            pyarrow.csv.ConvertOptions(
                include_columns=wanted,
                column_types=dict.fromkeys(wanted, pa.large_string()),
                strings_can_be_null=False,
                check_utf8=False,  # later, by row
            ),
        )
    except pa.ArrowInvalid as problem:
        # From the message: the handler of invalid rows prints a traceback where one is not UTF-8.
        wrong = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(problem))
        if wrong is None:
            raise
        row, expected, found = (int(number) for number in wrong.groups())
        told = f"has {found} cells, expected {expected}; check its quotes and commas"
        raise describe(file, told, row - 2) from None  # pyarrow counts the header, and from 1
    return table, original


def _read_json_lines(file: str, choose: Choose) -> tuple[pa.Table, dict[str, str]]:
    try:
        options = pyarrow.json.ReadOptions(block_size=BLOCK)
        table = pyarrow.json.read_json(file, options)
        dates = [
            name
            for name, kind in zip(table.column_names, table.schema.types, strict=True)
            if pa.types.is_temporal(kind)
        ]
        if dates:  # text that pyarrow took for dates, in this file and maybe not in the next; the zone is lost
            schema = pa.schema([(name, pa.large_string()) for name in dates])
            table = pyarrow.json.read_json(file, options, pyarrow.json.ParseOptions(explicit_schema=schema))
    except pa.ArrowException:
        return _read_json_slowly(file, choose)
    return table, chosen_columns(table.column_names, choose, file)


def _read_json_slowly(file: str, choose: Choose) -> tuple[pa.Table, dict[str, str]]:
    """Reads what pyarrow refuses: to name the bad row, or since only a column nobody chose changes its type."""
    records: list[dict[str, Any]] = []
    with open(file, encoding="utf-8-sig") as lines:
        for row, line in enumerate(line for line in lines if line.strip()):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as problem:
                raise describe(file, f"is not JSON: {sentence(problem)}; correct or drop the line", row) from None
            if not isinstance(record, dict):
                raise describe(file, f"found {shown(record)}, expected one JSON object on each line", row)
            records.append(record)
    original = chosen_columns(list(dict.fromkeys(name for record in records for name in record)), choose, file)
    return pa.table(
        {name: python_column([r.get(name) for r in records], name, file) for name in original.values()}
    ), original
