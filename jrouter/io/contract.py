"""What a team's log calls things: its columns, its adapter, its scores, as flags or a small TOML file say it."""

import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from jrouter.io.columns import pick_embedding
from jrouter.io.errors import DataError, describe, listed
from jrouter.io.locations import is_address

KEPT = (
    "request_id",
    "query",
    "model",
    "score",
    "cost",
    "propensity",
    "timestamp",
    "group",
    "allowed_models",
    "keep_probability",
)
"""Columns of a clean log, and `embedding`."""
TOKENS = ("input_tokens", "output_tokens")
OURS = (*KEPT, *TOKENS, "lam", "router")
"""Columns that a log may have; of the last four, tokens become costs and the others are not read yet."""


@dataclass(frozen=True)
class Contract:
    """How to read a log.

    Attributes:
      columns: our name of a column -> the file's name; a column of our name needs no entry.
      adapter: name of a gateway's format in `jrouter.io.adapters.ADAPTERS`, whose records are no plain columns.
        `columns` then names top-level fields of its records that fill, or replace, what the adapter finds.
      scores: path or address of a file of scores, joined to the log.
      on: our name of the column that the log and the scores share.
      scores_columns: our name -> the name in the file of scores, of `on` and `score`, where it is neither ours nor the
        log's.
      prices: path of a CSV file of prices (`jrouter.io.prices`): a cost that is missing is filled in from
        `input_tokens` and `output_tokens`.
      embedding: the encoder whose column is read, with or without `embedding:` before it.
      models: names of the models, in order; rows of others are rejected.
      cost_unit: unit of the costs.
      cost_scale: multiplies the file's costs (0.01 where it has cents), not those from `prices`.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    adapter: str | None = None
    scores: str | None = None
    on: str = "request_id"
    scores_columns: Mapping[str, str] = field(default_factory=dict)
    prices: str | None = None
    embedding: str | None = None
    models: tuple[str, ...] | None = None
    cost_unit: str = "USD"
    cost_scale: float = 1.0

    def __post_init__(self) -> None:
        for ours in self.columns:
            if ours not in (*OURS, "embedding") and not ours.startswith("embedding:"):
                raise DataError(f"columns: cannot map '{ours}'; it is none of {listed((*OURS, 'embedding'))}.")
        if self.on not in ("request_id", "group", "query"):
            raise DataError(f"on: found {self.on!r}, expected one of our columns 'request_id', 'group', 'query'.")
        for ours in self.scores_columns:
            if ours not in (self.on, "score"):
                raise DataError(f"scores_columns: cannot map '{ours}'; a file of scores has '{self.on}' and 'score'.")
        if not (math.isfinite(self.cost_scale) and self.cost_scale > 0):
            raise DataError(f"cost_scale: found {self.cost_scale}, expected a number above 0.")
        if self.models is not None and (len(set(self.models)) < max(2, len(self.models)) or not all(self.models)):
            raise DataError(f"models: found {listed(self.models)}, expected at least two names, each once.")
        if self.prices is not None and self.cost_unit != "USD":
            raise DataError(f"cost_unit: found {self.cost_unit!r}, but prices are in USD; leave one of both out.")

    def changed(self, **flags: Any) -> "Contract":
        """Returns the contract with each flag that is not None in place of what it said; `columns` are added.

        >>> Contract(adapter="weave").changed(adapter=None, cost_scale=0.01).cost_scale
        0.01
        """
        given = {name: value for name, value in flags.items() if value is not None}
        for name in ("columns", "scores_columns"):
            if name in given:
                given[name] = {**getattr(self, name), **given[name]}
        if "models" in given:
            given["models"] = tuple(given["models"])
        return replace(self, **given)

    def theirs(self, ours: str) -> str:
        """Returns the file's name of one of our columns."""
        return self.columns.get(ours, ours)


def read_contract(path: str | os.PathLike) -> Contract:
    """Reads a contract from TOML: tables [columns] and [scores_columns], the other names of `Contract` at the top.

    A path in it that is not absolute starts at the folder of the TOML file.

    Raises:
      DataError: a file that is missing or no TOML; an unknown key; a value of another type.
    """
    file = os.fspath(path)
    try:
        with open(file, "rb") as stream:
            found = tomllib.load(stream)
    except FileNotFoundError:
        raise describe(file, "does not exist; check the path") from None
    except OSError as problem:
        raise describe(file, f"cannot be read: {problem.strerror or problem}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise describe(file, f"is not TOML: {problem}") from None
    names = [one.name for one in fields(Contract)]
    for key, value in found.items():
        if key not in names:
            raise describe(file, f"has an unknown key '{key}'; the keys are {listed(names)}")
        if not _fits(key, value):
            raise describe(file, f"key '{key}': found {value!r}, expected {_EXPECTED.get(key, 'a string')}")
    if "models" in found:
        found["models"] = tuple(found["models"])
    for key in ("scores", "prices"):
        if key in found and not is_address(found[key]):
            found[key] = str(Path(file).parent / found[key])
    try:
        return Contract(**found)
    except DataError as problem:
        raise describe(file, str(problem).rstrip(".")) from None


_EXPECTED = {
    "columns": "a table of strings (our name = their name)",
    "scores_columns": "a table of strings (our name = their name)",
    "models": "a list of strings",
    "cost_scale": "a number",
}


def _fits(key: str, value: Any) -> bool:
    if key in ("columns", "scores_columns"):
        return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
    if key == "models":
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if key == "cost_scale":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)


def choose_columns(names: Sequence[str], contract: Contract, file: str, *, by_text: bool) -> dict[str, str]:
    """Returns our name -> the file's name of the columns that are read; what is not there is left out.

    Args:
      names: columns of a file.
      contract: its names, and the encoder.
      file: its path, for errors.
      by_text: whether the text is embedded, so that no embedding is read.

    Raises:
      DataError: a column that is there twice, several embeddings to choose from.
    """
    original = {ours: contract.theirs(ours) for ours in (*KEPT, *TOKENS) if contract.theirs(ours) in names}
    if not by_text:
        known = {*names, *(ours for ours, theirs in contract.columns.items() if theirs in names)}
        wanted = contract.embedding or ("embedding" if "embedding" in contract.columns else None)
        encoder = pick_embedding(sorted(known), wanted, file)
        if encoder is not None:
            original["embedding"] = contract.theirs(encoder)
    for ours, theirs in original.items():
        if list(names).count(theirs) > 1:
            raise describe(file, f"appears {list(names).count(theirs)} times; keep one", column=ours)
    return original
