"""From a team's log as it is to a clean log on disk: read in pieces, judged row by row, written whole or not at all."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from jrouter.io.clean_parts import PartWriter, check_target, folder_replaced, read_parts, write_report
from jrouter.io.columns import Embed, embedded
from jrouter.io.contract import Contract
from jrouter.io.errors import describe
from jrouter.io.log_facts import LogFacts
from jrouter.io.log_pieces import LogSource, find_source
from jrouter.io.log_reading import Progress, Reading
from jrouter.io.read_report import Ingested
from jrouter.io.record_stream import ROWS
from jrouter.io.texts_of_queries import text_of

EMBEDDED = 1024
"""Texts that are embedded at a time."""


def ingest(
    source: Any,
    folder: str | os.PathLike,
    contract: Contract = Contract(),
    *,
    embed: Embed | None = None,
    text: Callable[[Any], str] | None = None,
    max_rejected: float = 0.5,
    progress: Progress | None = None,
) -> Ingested:
    """Reads a log, rejects the rows that cannot be used, says why, and writes the others as clean Parquet.

    `jrouter.read_log(folder)` and `jrouter.open_log(folder)` read what is written, `read_log(folder, embed=...)`
    where neither the log has embeddings nor `embed` is given. Columns: `request_id`, `query`, `model`, `score`,
    `cost`, `propensity`, `timestamp` (epoch seconds), `group`, `allowed_models`, `keep_probability`, `embedding`;
    of the optional ones those that are filled in. `propensity`, `timestamp`, `group`, `allowed_models` and
    `keep_probability` are for all rows or none: filled in in 95% of rows or more, the others are rejected; in fewer,
    the column is ignored, with a warning. Files and row numbers (from 0, empty lines not counted) of rejected rows
    are in the report.

    The log is read once, at most 16,384 rows at a time. Memory beyond that does not grow with the log but for
    8 bytes a row, by which duplicates are found (24 for a moment, while they are merged), and 17 bytes for each
    score that is joined. The disk holds the clean log up to twice while it is written. An existing folder is
    replaced once the new one is whole; where anything fails, or the process is killed, it stays as it was (a killed
    process leaves its unfinished folder beside it, `.<name>.` and some letters, which may be deleted).

    Args:
      source: a Parquet, CSV or JSON lines file (.gz too), a folder of such files, its path or its address
        (s3://, gs://, file://); a pandas DataFrame or a pyarrow Table.
      folder: where the clean log goes; missing, empty, or written by this function before.
      contract: names of columns, adapter, scores, prices.
      embed: texts [n] -> embeddings [n, d]; then no embedding is read.
      text: what `query` holds (text, or the messages of a chat) -> the text to embed; by default the text itself,
        and of a chat its last turn.
      max_rejected: share of rows that may be rejected.
      progress: called now and then.

    Raises:
      DataError: what is wrong with the whole: no file, one that cannot be read, no column `model`, all rows or more
        than `max_rejected` of them rejected, fewer than two models, no score, no place to write.
      ValueError: for `text` without `embed`, or an `embedding` that `embed` leaves no use for.
    """
    if embed is None and text is not None:
        raise ValueError("text: needs `embed`, which embeds what it makes of a query")
    if embed is not None and contract.embedding is not None:
        raise ValueError(
            f"embedding: {contract.embedding!r} is a column to read, but `embed` embeds the queries; give one of both"
        )
    folder = Path(folder)
    check_target(folder)  # before an hour of reading
    log = find_source(source)
    _check_apart(log, folder)
    reading = Reading(log, contract, text, by_text=embed is not None)
    with folder_replaced(folder) as partial:
        spool = partial / ".rows"
        spool.mkdir()
        facts, writer = _write(reading.clean(progress), spool)
        reading.check(facts, max_rejected)
        again = reading.settle(facts, by_text=embed is not None)
        if again or embed is not None or not writer.uniform:
            total = facts.rows

            def completed() -> Iterator[pa.Table]:
                size = ROWS if embed is None else EMBEDDED
                for table, done in reading.completed(read_parts(spool, drop=True)):
                    for start in range(0, table.num_rows, size):
                        part = table.slice(start, size)
                        yield part if embed is None else _with_embeddings(part, embed, text)
                    if progress is not None:
                        progress("write" if embed is None else "embed", done / total)

            facts, writer = _write(completed(), partial)
            reading.check(facts, max_rejected)
        else:
            for path in spool.iterdir():
                path.rename(partial / path.name)
        spool.rmdir()
        report = reading.report(facts, writer.fingerprint.hexdigest())
        write_report(partial, report.to_dict())
    return Ingested(folder, report)


def _write(tables: Iterator[pa.Table], folder: Path) -> tuple[LogFacts, PartWriter]:
    """Writes rows as parts of `folder`; returns what they look like, and who wrote them."""
    facts = LogFacts()
    with PartWriter(folder) as writer:
        for table in tables:
            facts.update(table)
            writer.write(table)
    return facts, writer


def _with_embeddings(rows: pa.Table, embed: Embed, text: Callable[[Any], str] | None) -> pa.Table:
    x = embedded([text_of(query, text) for query in rows.column("query").to_pylist()], embed)
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    return rows.append_column("embedding", column)


def _check_apart(log: LogSource, folder: Path) -> None:
    """Raises DataError where the clean log would replace what it is read from."""
    target = os.path.realpath(folder)
    for file in log.files:
        if isinstance(file.filesystem, fs.LocalFileSystem):
            if os.path.realpath(file.path).startswith(target + os.sep):
                raise describe(str(folder), "holds the log that is read; give another folder to write to")
