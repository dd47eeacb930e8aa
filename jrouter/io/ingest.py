"""From a team's log as it is to a clean log on disk: read in pieces, judged row by row, written whole or not at all."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs

from jrouter.io.clean_parts import PartWriter, check_target, folder_replaced, read_parts, write_report
from jrouter.io.columns import Embed, describe, embedded, listed, shown
from jrouter.io.contract import Contract
from jrouter.io.join_scores import Scores, read_scores
from jrouter.io.log_facts import LogFacts, doubts, incomplete, share
from jrouter.io.log_pieces import LogSource, Piece, find_source
from jrouter.io.prices import read_prices
from jrouter.io.read_report import Example, Ingested, ReadReport, Rejections
from jrouter.io.record_stream import ROWS
from jrouter.io.row_checks import OPTIONAL, Rules, judge
from jrouter.io.seen_rows import SeenKeys, repeats
from jrouter.io.texts_of_queries import text_of

NEEDED = 0.95
"""Share of rows from which on an optional column is kept, and the rows without it rejected."""
EMBEDDED = 1024
"""Texts that are embedded at a time."""
FEW_JOINED = 0.1
"""A share of rows with a joined score below this is worth a warning."""

Progress = Callable[[str, float], None]
"""Told what is being done ("read", then maybe "write" or "embed"), and which share of it is done."""


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
    replaced once the new one is whole; where anything fails, or the process is killed, it stays as it was.

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
        rows = partial / ".rows"
        rows.mkdir()
        facts, writer = LogFacts(), PartWriter(rows)
        for table in reading.clean(progress):
            facts.update(table)
            writer.write(table)
        writer.close()
        reading.check(facts, max_rejected)
        whole, ignored = incomplete(facts, needed=NEEDED)
        if embed is None and facts.filled["embedding"]:
            whole.append("embedding")
        for name in ignored:
            reading.warnings.append(
                f"'{name}' is filled in in {share(facts.filled[name], facts.rows)} rows only: ignored"
            )
        if embed is None and writer.uniform and not ignored and all(facts.filled[name] == facts.rows for name in whole):
            for path in rows.iterdir():
                path.rename(partial / path.name)
        else:
            total, facts, writer = facts.rows, LogFacts(), PartWriter(partial)
            for table, done in reading.completed(read_parts(rows, drop=True), whole, ignored):
                for start in range(0, table.num_rows, ROWS if embed is None else EMBEDDED):
                    part = table.slice(start, ROWS if embed is None else EMBEDDED)
                    part = part if embed is None else _with_embeddings(part, embed, text)
                    facts.update(part)
                    writer.write(part)
                if progress is not None:
                    progress("write" if embed is None else "embed", done / total)
            writer.close()
            reading.check(facts, max_rejected)
        rows.rmdir()
        partly = "partial, ignored" if "propensity" in ignored else "absent"
        propensity = "logged" if facts.filled["propensity"] else partly
        report = reading.report(facts, writer.fingerprint.hexdigest(), propensity)
        write_report(partial, report.to_dict())
    return Ingested(folder, report)


class Reading:
    """One pass over a log: what is read, rejected, dropped and noticed."""

    def __init__(self, log: LogSource, contract: Contract, text: Callable[[Any], str] | None, *, by_text: bool) -> None:
        self.log, self.contract, self.by_text = log, contract, by_text
        self.scores = None if contract.scores is None else read_scores(contract.scores, contract)
        prices = None if contract.prices is None else read_prices(contract.prices)
        self.rules = Rules(by_text, contract.models, contract.cost_scale, prices, self.scores, contract.on, text)
        self.rejections, self.dropped, self.rows_of = Rejections(), Counter(), Counter()
        self.missing: dict[str, list[Example]] = {name: [] for name in (*OPTIONAL, "embedding")}
        self.width: int | None = None
        self.seen = SeenKeys()
        self.alike = self.outside = self.truncated = 0
        self.milliseconds = False
        self.warnings: list[str] = []
        if log.other:
            self.warnings.append(f"files that are empty or of another kind were left out: {listed(log.other[:5])}")

    def clean(self, progress: Progress | None) -> Iterator[pa.Table]:
        """Yields the rows that can be used, typed, in order."""
        for piece in self.log.pieces(self.contract, by_text=self.by_text):
            for reason in dict.fromkeys(one.reason for one in piece.broken):
                there = [one for one in piece.broken if one.reason == reason]
                self.rejections.add(
                    reason, piece.file, np.array([one.row for one in there]), [one.found for one in there]
                )
            self.dropped += piece.dropped
            self.truncated += piece.truncated
            self.rows_of[piece.file] += len(piece.rows) + len(piece.broken) + piece.dropped.total()
            if len(piece.rows):
                yield self._judged(piece)
            if progress is not None:
                progress("read", piece.done)

    def _judged(self, piece: Piece) -> pa.Table:
        judged = judge(piece.columns, len(piece.rows), self.rules, width=self.width)
        for hit in judged.hits:
            self.rejections.add(hit.reason, piece.file, piece.rows[hit.rows], hit.found)
        self.milliseconds |= judged.milliseconds
        self.outside += judged.outside
        table, rows = judged.table, piece.rows[judged.rows]
        if table.num_rows and "embedding" in table.column_names:
            self.width = table.schema.field("embedding").type.list_size
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        again = repeats(columns, table.num_rows, self.seen)
        for where, reason, name in (
            (again.by_id, "request_id was there before (the first row is kept)", "request_id"),
            (again.in_all, "row is equal in all columns to one before (which is kept)", "timestamp"),
        ):
            hits = np.flatnonzero(where)
            self.rejections.add(
                reason, piece.file, rows[hits], [shown(columns[name][hit]) for hit in hits[:5].tolist()]
            )
        self.alike += int(again.alike.sum())
        again = again.by_id | again.in_all
        if again.any():
            table, rows = table.filter(pa.array(~again)), rows[~again]
        for name, lacking in self.missing.items():
            if len(lacking) < 5:
                there = name in table.column_names
                none = np.flatnonzero(table.column(name).is_null().to_numpy()) if there else np.arange(len(rows))
                lacking.extend(Example(piece.file, int(row), "null") for row in rows[none[: 5 - len(lacking)]])
        return table

    def completed(
        self, tables: Iterable[pa.Table], whole: Sequence[str], ignored: Sequence[str]
    ) -> Iterator[tuple[pa.Table, int]]:
        """Yields clean rows again, without the optional columns that are ignored and the rows that lack another.

        Args:
          tables: the rows.
          whole: columns that every row must have now.
          ignored: columns that go.

        Yields:
          The rows that stay of each table; and how many rows have been read.
        """
        read = 0
        for table in tables:
            read += table.num_rows
            table = table.drop_columns([name for name in ignored if name in table.column_names])
            for name in whole:
                there = name in table.column_names
                lacks = table.column(name).is_null().to_numpy() if there else np.ones(table.num_rows, bool)
                if lacks.any():
                    count = int(lacks.sum())
                    reason = f"{name} is missing, which most rows have"
                    self.rejections.count(reason, count, self.missing[name])
                    table = table.filter(pa.array(~lacks))
            yield table, read

    def check(self, facts: LogFacts, max_rejected: float) -> None:
        """Raises DataError where too little is left."""
        read, lost = self.rows_of.total(), self.rejections.total
        name, told = self.log.name, self._top_reason()
        if not read:
            raise describe(name, "has no rows, expected at least one")
        if not facts.rows:
            gone = f"; {self.dropped.total():,} rows were dropped ({listed(list(self.dropped)[:5])})"
            raise describe(name, f"has no row that can be used{told}{gone if self.dropped else ''}")
        if lost > max_rejected * read:
            raise describe(
                name,
                f"{share(lost, read)} rows cannot be used{told}; at most {max_rejected:.0%} may be rejected "
                "(`max_rejected`): correct the log or the contract",
            )
        if len(facts.models) < 2:
            raise describe(name, f"has answers of one model only, {listed(list(facts.models))}; expected at least two")
        if not facts.scored:
            how = "join the scores (`scores`)" if self.scores is None else "check the ids of the scores"
            raise describe(name, f"has no scored row; {how}")

    def _top_reason(self) -> str:
        summary = self.rejections.summary()
        if not summary:
            return ""
        top = summary[0]
        where = f", first in {top.first[0].file}, row {top.first[0].row}: found {top.first[0].found}"
        return f"; {top.rows:,} because: {top.reason}{where if top.first else ''}"

    def report(self, facts: LogFacts, fingerprint: str, propensity: str) -> ReadReport:
        """Returns what reading found, given the facts of the clean log."""
        warnings = [*self.warnings, *self._noticed(facts)]
        warnings += doubts(facts, cost_unit=self.contract.cost_unit, models=self.contract.models)
        names = self.contract.models or sorted(facts.models)
        files = [(file.name, file.size) for file in self.log.files] or [(self.log.name, int(self.log.bytes))]
        return ReadReport(
            files=tuple({"name": name, "bytes": size, "rows": self.rows_of[name]} for name, size in files),
            fingerprint=fingerprint,
            rows_read=self.rows_of.total(),
            rows_kept=facts.rows,
            rejected=self.rejections.summary(),
            dropped=dict(self.dropped),
            unscored=facts.rows - facts.scored,
            joined=None if self.scores is None else self.scores.counts(),
            columns=dict(self.log.original),
            adapter=self.contract.adapter,
            warnings=tuple(warnings),
            models={name: facts.models[name] for name in names},
            propensity=propensity,
            time=facts.time(),
        )

    def _noticed(self, facts: LogFacts) -> Iterator[str]:
        for ours, theirs in self.contract.columns.items():
            if self.contract.adapter is None and ours not in self.log.original and not ours.startswith("embedding"):
                yield f"no row has '{theirs}', from which '{ours}' should be read"
        if self.milliseconds:
            yield "timestamps are too large for seconds: by their size they were read as milliseconds or less"
        if self.alike:
            yield (
                f"{share(self.alike, facts.rows)} rows are equal in all columns to one before; they have "
                "neither an id nor a time, and were kept: duplicates?"
            )
        if self.truncated:
            yield f"{share(self.truncated, facts.rows)} queries were cut short by the gateway"
        if self.outside:
            yield f"names in allowed_models that are none of `models` were left out ({self.outside:,} times)"
        if self.scores is not None:
            yield from self._of_scores(self.scores, facts)

    def _of_scores(self, scores: Scores, facts: LogFacts) -> Iterator[str]:
        counts = scores.counts()
        if scores.repeated:
            yield f"{scores.name}: {scores.repeated:,} scores were replaced by a later one of the same id"
        if scores.unusable:
            yield f"{scores.name}: {scores.unusable:,} rows have an id or a score that cannot be used"
        if counts["unmatched"]:
            yield f"{scores.name}: {share(counts['unmatched'], counts['scores'])} scores have no row in the log"
        if counts["matched"] < FEW_JOINED * facts.rows:
            yield f"{scores.name} has a score for {share(counts['matched'], facts.rows)} rows only; check `on`"


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
