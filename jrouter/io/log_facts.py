"""What a clean log looks like as a whole, counted while it streams by, and what about it is hard to believe."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from jrouter.io.errors import listed
from jrouter.io.row_checks import OPTIONAL

FEW_ROWS = 20
OFF = 0.2
"""How far an average of 1 may be off, beside four standard errors."""


class LogFacts:
    """Counts of a clean log; memory by the number of models, not of rows."""

    def __init__(self) -> None:
        self.rows = 0
        self.filled: Counter[str] = Counter()
        self.models: Counter[str] = Counter()
        self.allowed: Counter[str] = Counter()
        self.scored, self.outside, self.lowest, self.highest = 0, 0, np.inf, -np.inf
        self.dear, self.very_dear, self.dearest = 0, 0, 0.0
        self.certain = 0
        self.weight = 0.0
        # Of each model: sum of w / p over its rows, its variance, and the weight of rows in which it was allowed.
        self.inverse: Counter[str] = Counter()
        self.variance: Counter[str] = Counter()
        self.available: Counter[str] = Counter()
        self.first, self.last, self.previous, self.backwards = np.inf, -np.inf, -np.inf, 0

    def update(self, rows: pa.Table) -> None:
        """Adds rows of a clean log."""
        if not rows.num_rows:
            return
        self.rows += rows.num_rows
        for name in rows.column_names:
            self.filled[name] += rows.num_rows - rows.column(name).null_count
        coded = rows.column("model").combine_chunks().dictionary_encode()
        coded = coded if isinstance(coded, pa.DictionaryArray) else coded.combine_chunks()
        names, model = coded.dictionary.to_pylist(), coded.indices.to_numpy()
        self._add(self.models, names, np.bincount(model, minlength=len(names)))
        score, cost = rows.column("score").drop_null().to_numpy(), rows.column("cost").to_numpy()
        if len(score):
            self.scored += len(score)
            self.outside += int(((score < 0) | (score > 1)).sum())
            self.lowest, self.highest = min(self.lowest, score.min()), max(self.highest, score.max())
        self.dear, self.very_dear = self.dear + int((cost > 1).sum()), self.very_dear + int((cost > 100).sum())
        self.dearest = max(self.dearest, float(cost.max(initial=0.0)))
        self._add_weights(rows, names, model)
        if "timestamp" in rows.column_names:
            time = rows.column("timestamp").drop_null().to_numpy()
            if len(time):
                self.backwards += int((np.diff(time, prepend=self.previous) < 0).sum())
                self.previous = time[-1]
                self.first, self.last = min(self.first, time.min()), max(self.last, time.max())

    def _add_weights(self, rows: pa.Table, names: Sequence[str], model: np.ndarray) -> None:
        there = rows.column_names
        weight = np.ones(rows.num_rows)
        if "keep_probability" in there:
            weight = 1 / rows.column("keep_probability").fill_null(1.0).to_numpy()
        self.weight += float(weight.sum())
        if "allowed_models" in there:
            lists = rows.column("allowed_models").combine_chunks()
            lengths = lists.value_lengths().fill_null(0).to_numpy()
            coded = lists.flatten().dictionary_encode()
            code, known = coded.indices.to_numpy(), coded.dictionary.to_pylist()
            self._add(self.allowed, known, np.bincount(code, minlength=len(known)))
            row = np.repeat(np.arange(rows.num_rows), lengths)
            self._add(self.available, known, np.bincount(code, weights=weight[row], minlength=len(known)))
        if "propensity" in there:
            p = rows.column("propensity").fill_null(1.0).to_numpy()
            self.certain += int((p == 1).sum()) - rows.column("propensity").null_count
            self._add(self.inverse, names, np.bincount(model, weights=weight / p, minlength=len(names)))
            variance = weight**2 * (1 / p**2 - 1 / p)
            self._add(self.variance, names, np.bincount(model, weights=variance, minlength=len(names)))

    @staticmethod
    def _add(counts: Counter[str], names: Sequence[str], values: np.ndarray) -> None:
        for name, value in zip(names, values.tolist(), strict=True):
            counts[name] += value

    def time(self) -> tuple[str, str] | None:
        """First and last moment, ISO-8601 in UTC."""
        if not np.isfinite(self.first):
            return None
        return moment(self.first), moment(self.last)


def moment(seconds: float) -> str:
    """Returns epoch seconds as ISO-8601 in UTC; the seconds themselves where no calendar has them.

    >>> moment(0.0)
    '1970-01-01T00:00:00Z'
    """
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, OSError, ValueError):
        return f"{seconds:.0f} s after 1970"


def share(part: float, whole: float) -> str:
    """Returns a part as a number with its percentage.

    >>> share(5, 2000)
    '5 of 2,000 (0.25%)'
    """
    return f"{part:,.0f} of {whole:,.0f} ({part / max(whole, 1):.2%})"


def doubts(facts: LogFacts, *, cost_unit: str, models: Sequence[str] | None) -> list[str]:
    """Returns what is hard to believe of a clean log, one sentence each.

    Args:
      facts: of the log.
      cost_unit: of its costs.
      models: those the contract names, or None.
    """
    return [*_of_models(facts, models), *_of_scores(facts), *_of_costs(facts, cost_unit), *_of_weights(facts)]


def _of_models(facts: LogFacts, models: Sequence[str] | None) -> list[str]:
    told = []
    once = sorted(name for name, rows in facts.models.items() if rows == 1)
    few = sorted(name for name, rows in facts.models.items() if 1 < rows < FEW_ROWS)
    if once:
        told.append(f"models that answered once: {some(once)}; nothing can be learned about them, check their names")
    if few:
        told.append(f"models that answered fewer than {FEW_ROWS} times: {some(few)}; little can be learned about them")
    never = sorted(set(models or ()) - set(facts.models))
    if never:
        told.append(f"models that never answered: {some(never)}; nothing can be learned about them")
    if facts.backwards:
        told.append(f"timestamps run backwards at {share(facts.backwards, facts.rows)} rows; rows keep their order")
    return told


def _of_scores(facts: LogFacts) -> list[str]:
    told = []
    if facts.scored and facts.lowest == facts.highest:
        told.append(f"all scores equal {facts.lowest:g}: nothing tells the models' answers apart")
    if facts.outside:
        rows = share(facts.outside, facts.scored)
        told.append(f"scores outside [0, 1] in {rows} rows, from {facts.lowest:g} to {facts.highest:g}; is that right?")
    if facts.scored < facts.rows:
        told.append(
            f"only {share(facts.scored, facts.rows)} rows are scored: fine where these were chosen by the query "
            "and the model, and not by how good the answer was"
        )
    return told


def _of_costs(facts: LogFacts, cost_unit: str) -> list[str]:
    if not facts.dearest:
        return ["all costs are 0: no preference between score and cost can be learned"]
    half = facts.rows / 2
    if cost_unit == "USD" and facts.very_dear > half:
        return [
            "most rows cost more than 100 USD; in millionths of a dollar? use cost_scale=1e-6 (`--cost-scale 1e-6`)"
        ]
    if cost_unit == "USD" and facts.dear > half:
        return ["most rows cost more than 1 USD; in cents? use cost_scale=0.01 (`--cost-scale 0.01`)"]
    return []


def _of_weights(facts: LogFacts) -> list[str]:
    logged = facts.filled["propensity"]
    if not logged:
        return []
    if facts.certain == logged:
        return [
            "all propensities are 1: the logging policy left nothing to chance, so nothing can be learned of the "
            "models it did not choose"
        ]
    restricted = facts.filled["allowed_models"] > 0
    off = []
    for name in sorted(facts.inverse):
        expected = facts.available[name] if restricted else facts.weight
        gap = abs(facts.inverse[name] - expected)
        if gap > OFF * expected and gap > 4 * np.sqrt(facts.variance[name]):
            off.append(f"'{name}' {facts.inverse[name] / expected:.2f}")
    if not off:
        return []
    where = "the rows that allow it" if restricted else "all rows"
    return [
        f"propensities do not average as they must: for each model the sum of 1/propensity over its rows, over the "
        f"number of {where}, should be 1, but is {', '.join(off[:5])}; are they those of the logged model, and could "
        "each model have answered each row (else log allowed_models)?"
    ]


def some(names: Sequence[str]) -> str:
    """Returns the first five names, and how many more there are."""
    return listed(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def incomplete(facts: LogFacts, *, needed: float) -> tuple[list[str], list[str]]:
    """Returns the optional columns that some rows fill in: those that all must have then, and those to ignore.

    Args:
      facts: of the rows so far.
      needed: the share of rows from which on a column is kept, and rows without it rejected.
    """
    there = [name for name in OPTIONAL if facts.filled[name]]
    kept = [name for name in there if facts.filled[name] >= needed * facts.rows]
    return kept, [name for name in there if name not in kept]
