"""One pass over a team's log: the rows that can be used, and everything noticed on the way."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from jrouter.io.contract import Contract
from jrouter.io.errors import describe, listed, shown
from jrouter.io.join_scores import Scores, read_scores
from jrouter.io.log_facts import LogFacts, doubts, incomplete, share, some
from jrouter.io.log_pieces import LogSource, Piece
from jrouter.io.prices import read_prices
from jrouter.io.raw_lists import without_names
from jrouter.io.read_report import Example, ReadReport, Rejections
from jrouter.io.row_checks import OPTIONAL, Rules, judge
from jrouter.io.seen_rows import SeenKeys, repeats

NEEDED = 0.95
"""Share of rows from which on an optional column is kept, and the rows without it rejected."""
FEW_JOINED = 0.1
"""A share of rows with a joined score below this is worth a warning."""

Progress = Callable[[str, float], None]
"""Told what is being done ("read", then maybe "write" or "embed"), and which share of it is done."""


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
        self.whole: list[str] = []
        self.ignored: list[str] = []
        self.strange: list[str] = []
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

    def settle(self, facts: LogFacts, *, by_text: bool) -> bool:
        """Decides, given all rows, what every row must have and what is ignored.

        Args:
          facts: of the rows.
          by_text: whether the text is embedded.

        Returns:
          Whether any row changes by that, so that `completed` has to go through them.
        """
        self.whole, self.ignored = incomplete(facts, needed=NEEDED)
        if facts.filled["embedding"] and not by_text:
            self.whole.append("embedding")
        for name in self.ignored:
            rows = share(facts.filled[name], facts.rows)
            self.warnings.append(f"'{name}' is filled in in {rows} rows only: ignored")
        strange = sorted(set(facts.allowed) - set(facts.models) - set(self.contract.models or ()))
        if strange and "allowed_models" in self.whole:
            self.strange = strange
            self.warnings.append(
                f"models in allowed_models that never answered: {some(strange)}; nothing can be learned about them, "
                "and they are left out"
            )
        lacking = any(facts.filled[name] < facts.rows for name in self.whole)
        return bool(self.ignored or self.strange or lacking)

    def completed(self, tables: Iterable[pa.Table]) -> Iterator[tuple[pa.Table, int]]:
        """Yields clean rows again, as `settle` decided.

        Args:
          tables: the rows.

        Yields:
          The rows that stay of each table; and how many rows have been read.
        """
        read = 0
        for table in tables:
            read += table.num_rows
            table = table.drop_columns([name for name in self.ignored if name in table.column_names])
            for name in self.whole:
                there = name in table.column_names
                lacks = table.column(name).is_null().to_numpy() if there else np.ones(table.num_rows, bool)
                if lacks.any():
                    reason = f"{name} is missing, which other rows have"
                    self.rejections.count(reason, int(lacks.sum()), self.missing[name])
                    table = table.filter(pa.array(~lacks))
            if self.strange and table.num_rows:
                lists, _ = without_names(table.column("allowed_models").combine_chunks(), drop=self.strange)
                table = table.set_column(table.column_names.index("allowed_models"), "allowed_models", lists)
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
        priced = self.contract.prices is None and top.reason == "cost is missing"
        hint = " (`prices` turn tokens into costs)" if priced else ""
        return f"; {top.rows:,} because: {top.reason}{where}{hint}"

    def report(self, facts: LogFacts, fingerprint: str) -> ReadReport:
        """Returns what reading found, given the facts of the clean log."""
        propensity = "partial, ignored" if "propensity" in self.ignored else "absent"
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
            propensity="logged" if facts.filled["propensity"] else propensity,
            time=facts.time(),
        )

    def _noticed(self, facts: LogFacts) -> Iterator[str]:
        for ours, theirs in self.contract.columns.items():
            joined = ours == "score" and self.scores is not None
            unread = ours not in self.log.original and not ours.startswith("embedding") and not joined
            if self.contract.adapter is None and unread:
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
