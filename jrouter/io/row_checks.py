"""Which rows of a log can be used, and why the others cannot: one bad row never stops the rest."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jrouter.encoders.errors import EncoderError
from jrouter.io.columns import LARGEST, places
from jrouter.io.contract import KEPT, TOKENS
from jrouter.io.errors import shown
from jrouter.io.join_scores import Scores
from jrouter.io.log_rows import SMALLEST
from jrouter.io.prices import Price
from jrouter.io.raw_columns import Read, nulls, numbers, queries, seconds, texts
from jrouter.io.raw_lists import names, vectors, without_names
from jrouter.io.texts_of_queries import text_of

NOT_UTF8 = "text is not UTF-8"
OPTIONAL = ("propensity", "timestamp", "group", "allowed_models", "keep_probability")
"""Columns that are filled in every row of a clean log, or in none."""


@dataclass(frozen=True)
class Rules:
    """What rows are judged by.

    Attributes:
      by_text: whether the text of `query` is embedded.
      models: those that may answer; None for any.
      cost_scale: multiplies costs.
      prices: of tokens, by model, for costs that are missing; or None.
      scores: joined to the rows; or None.
      on: our name of the column that they are joined by.
      text: what `query` holds -> the text to embed; None as of `text_of`.
    """

    by_text: bool = False
    models: tuple[str, ...] | None = None
    cost_scale: float = 1.0
    prices: Mapping[str, Price] | None = None
    scores: Scores | None = None
    on: str = "request_id"
    text: Callable[[Any], str] | None = None


class Hit(NamedTuple):
    """Rows that were rejected for a reason, by their place in the batch; and what the first five of them hold."""

    reason: str
    rows: np.ndarray
    found: list[str]


class Verdicts:
    """Collects the first reason against each of n rows."""

    def __init__(self, rows: int) -> None:
        self.fine = np.ones(rows, bool)
        self.hits: list[Hit] = []

    def reject(self, where: np.ndarray, reason: str, column: pa.Array | Sequence[str]) -> None:
        """Rejects rows, `where` [n] bool, of which nothing was said before; `column` [n] shows what was found."""
        where = where & self.fine
        if where.any():
            rows = np.flatnonzero(where)
            held = [column[row] for row in rows[:5].tolist()]
            found = [one if isinstance(one, str) else shown(one) for one in held]
            self.hits.append(Hit(reason, rows, found))
            self.fine &= ~where


class Judged(NamedTuple):
    """What remains of a batch.

    Attributes:
      table: the columns of `KEPT` that the batch has, and `embedding`, of rows that are fine; typed.
      rows: [m] their place in the batch.
      hits: the others, by reason.
      milliseconds: whether times were taken for milliseconds or less.
      outside: names in `allowed_models` that are none of `Rules.models`.
    """

    table: pa.Table
    rows: np.ndarray
    hits: list[Hit]
    milliseconds: bool
    outside: int


def judge(columns: Mapping[str, pa.Array], rows: int, rules: Rules, *, width: int | None) -> Judged:
    """Judges the rows of a batch.

    Args:
      columns: our name -> values [n], of any type; what the batch lacks is left out.
      rows: n.
      rules: what they are judged by.
      width: of the embeddings; None for that of most of these rows.
    """
    none = pa.nulls(rows)
    raw = {name: columns.get(name, none) for name in (*KEPT, *TOKENS, "embedding")}
    verdicts = Verdicts(rows)
    by_embedding = not rules.by_text and ("embedding" in columns or width is not None)
    needs_text = not by_embedding
    clean: dict[str, Any] = {}

    def take(name: str, read: Read, *, required: bool = False, wrong: str) -> Read:
        """Rejects what is wrong, and what is missing where it must be there."""
        if required:
            verdicts.reject(read.missing, f"{name} is missing", raw[name])
        verdicts.reject(read.wrong, wrong, raw[name])
        return read

    ids = take("request_id", texts(raw["request_id"]), wrong=NOT_UTF8 + ": request_id")
    model = take("model", texts(raw["model"]), required=True, wrong="model is no name")
    _judge_names(verdicts, model, raw["model"], rules)
    query = take("query", queries(raw["query"]), required=needs_text, wrong=NOT_UTF8 + ": query")

    score = numbers(raw["score"])
    if rules.scores is not None:
        shared = {"request_id": ids, "query": query}
        score = rules.scores.join(shared[rules.on] if rules.on in shared else texts(raw[rules.on]), score)
    with np.errstate(invalid="ignore"):
        odd = ~score.missing & ~(np.abs(score.values) <= LARGEST)
    take("score", score._replace(wrong=score.wrong | odd), wrong="score is no finite number")
    clean["score"] = pa.array(score.values, mask=score.missing)
    clean["cost"] = _judge_cost(verdicts, raw, model, rules)

    for name in ("propensity", "keep_probability"):
        read = numbers(raw[name])
        verdicts.reject(read.wrong, f"{name} is no number in (0, 1]", raw[name])
        low = f"{name} is 0 or below (0 means unrecorded)" if name == "propensity" else f"{name} is outside (0, 1]"
        high = "propensity is above 1" if name == "propensity" else low
        with np.errstate(invalid="ignore"):
            verdicts.reject(~read.missing & (read.values < SMALLEST), low, raw[name])
            verdicts.reject(~read.missing & (read.values > 1), high, raw[name])
        verdicts.reject(~read.missing & np.isnan(read.values), f"{name} is NaN", raw[name])
        clean[name] = pa.array(read.values, mask=read.missing)

    moments, milliseconds = seconds(raw["timestamp"])
    take("timestamp", moments, wrong="timestamp is neither ISO-8601 nor epoch seconds")
    clean["timestamp"] = pa.array(moments.values, mask=moments.missing)
    group = take("group", texts(raw["group"]), wrong="group is no text")
    clean["allowed_models"], outside = _judge_allowed(verdicts, raw["allowed_models"], model.values, rules)
    clean |= {"request_id": ids.values, "model": model.values, "query": query.values, "group": group.values}

    if rules.by_text:
        clean["query"] = _judge_texts(verdicts, query.values, rules)
    elif by_embedding:
        clean["embedding"] = _judge_embedding(verdicts, raw["embedding"], width)
    fine = pa.array(verdicts.fine)
    kept = {name: clean[name].filter(fine) for name in (*KEPT, "embedding") if name in clean}
    there = {name: column for name, column in kept.items() if name in columns or name in ("model", "score", "cost")}
    return Judged(pa.table(there), np.flatnonzero(verdicts.fine), verdicts.hits, milliseconds, outside)


def _judge_names(verdicts: Verdicts, model: Read, raw: pa.Array, rules: Rules) -> None:
    coded = model.values.dictionary_encode()
    index = coded.indices.fill_null(0).to_numpy()
    found = coded.dictionary.to_pylist()
    blank = np.array([not name.strip() for name in found] or [False])
    verdicts.reject(blank[index] & ~model.missing, "model is missing", raw)
    nested = np.array([_is_nested(name) for name in found] or [False])
    verdicts.reject(nested[index] & ~model.missing, "model is no name", raw)
    if rules.models is not None:
        known = np.array([name in rules.models for name in found] or [True])
        verdicts.reject(~known[index], "model is none of the contract's `models`", raw)


def _is_nested(name: str) -> bool:
    """Whether a name is a list or an object of JSON."""
    try:
        return name.lstrip()[:1] in ("[", "{") and isinstance(json.loads(name), list | dict)
    except (ValueError, RecursionError):
        return False


def _judge_cost(verdicts: Verdicts, raw: Mapping[str, pa.Array], model: Read, rules: Rules) -> pa.Array:
    """Costs, scaled; those that are missing from the prices of tokens where there are any."""
    cost = numbers(raw["cost"])
    verdicts.reject(cost.wrong, "cost is no number", raw["cost"])
    with np.errstate(invalid="ignore", over="ignore"):
        values = cost.values * rules.cost_scale
    missing = cost.missing
    if rules.prices is not None and missing.any():
        price = places(pa.chunked_array([model.values]), list(rules.prices))
        index = price.fill_null(0).to_numpy()
        rates = np.array([one[:2] for one in rules.prices.values()] or [(0.0, 0.0)])[index]
        tokens = [numbers(raw[name]) for name in TOKENS]
        for name, read in zip(TOKENS, tokens, strict=True):
            with np.errstate(invalid="ignore"):
                odd = read.wrong | ~read.missing & ~((read.values >= 0) & (read.values <= LARGEST))
            verdicts.reject(missing & odd, f"cost is missing, and {name} is no number of at least 0", raw[name])
        gone = tokens[0].missing | tokens[1].missing
        verdicts.reject(missing & gone, "cost is missing, and so are input_tokens or output_tokens", raw["cost"])
        unpriced = price.is_null().to_numpy()
        verdicts.reject(missing & unpriced, "cost is missing, and the prices lack this model", raw["model"])
        filled = Price(rates[:, 0], rates[:, 1]).cost(tokens[0].values, tokens[1].values)  # pyright: ignore[reportArgumentType]
        values = np.where(missing, filled, values)
    else:
        verdicts.reject(missing, "cost is missing", raw["cost"])
    with np.errstate(invalid="ignore"):
        verdicts.reject(values < 0, "cost is negative", raw["cost"])
        verdicts.reject(~(values <= LARGEST), "cost is NaN or infinite", raw["cost"])
    return pa.array(values)


def _judge_allowed(verdicts: Verdicts, raw: pa.Array, model: pa.Array, rules: Rules) -> tuple[pa.Array, int]:
    """Lists of models, null where missing, without names that are none of `Rules.models`; and how many were."""
    read = names(raw)
    verdicts.reject(read.wrong, "allowed_models is no list of names", raw)
    values, offsets = read.values.values, read.values.offsets.to_numpy().astype(np.int64)
    row = np.repeat(np.arange(len(raw)), np.diff(offsets))
    same = pc.call_function("equal", [values, model.take(pa.array(row))]).fill_null(False)
    answered = np.zeros(len(raw), bool)
    answered[row[same.to_numpy(zero_copy_only=False)]] = True
    verdicts.reject(~read.missing & ~answered, "the model that answered is not in its allowed_models", raw)
    mask = pa.array(read.missing | read.wrong) if len(raw) else None
    lists = pa.LargeListArray.from_arrays(read.values.offsets, read.values.values, mask=mask)
    return (lists, 0) if rules.models is None else without_names(lists, keep=rules.models)


def _judge_embedding(verdicts: Verdicts, raw: pa.Array, width: int | None) -> pa.Array:
    read = vectors(raw, width)
    width = read.x.shape[1]
    verdicts.reject(read.missing, "embedding is missing", raw)
    other = ~read.wrong & (read.lengths != width)
    verdicts.reject(other, f"embedding has another width than {width}", [f"{one} numbers" for one in read.lengths])
    verdicts.reject(read.wrong, "embedding is no list of finite numbers", raw)
    return pa.FixedSizeListArray.from_arrays(pa.array(read.x.ravel()), width or 1) if width else pa.nulls(len(raw))


def _judge_texts(verdicts: Verdicts, query: pa.Array, rules: Rules) -> pa.Array:
    """Rejects queries of which no text can be made; `text_of` is asked again when the texts are embedded."""
    wrong, told = np.zeros(len(query), bool), [""] * len(query)
    for row in np.flatnonzero(verdicts.fine & ~nulls(query)):
        try:
            text_of(query[int(row)].as_py(), rules.text)
        except (EncoderError, ValueError, TypeError, KeyError, AttributeError, IndexError) as problem:
            wrong[row], told[row] = True, str(problem)
    verdicts.reject(wrong, "no text can be made of the query", told)
    return query
