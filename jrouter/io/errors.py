"""What is said of a file that does not hold what it should: one sentence, with its path, row and column."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa


class DataError(ValueError):
    """A file that does not hold what it should: one sentence with its path, row and column."""


def describe(file: str, problem: str, row: int | None = None, column: str | None = None) -> DataError:
    """Returns the error that says `problem` of one file, data row (from 0) and column.

    >>> describe("log.csv", "found -1.0, expected a cost of at least 0", 17, "cost")
    DataError("log.csv, row 17, column 'cost': found -1.0, expected a cost of at least 0.")
    """
    place = file + ("" if row is None else f", row {row}") + ("" if column is None else f", column '{column}'")
    return DataError(f"{place}: {problem}.".replace("\n", "\\n"))


def listed(names: Sequence[str]) -> str:
    """Returns names as an error lists them."""
    return ", ".join(repr(name) for name in names) or "none"


def shown(value: Any) -> str:
    """Returns a value, of Python or pyarrow, as an error shows it: cut short where it is long."""
    try:
        value = value.as_py() if isinstance(value, pa.Scalar) else value
    except UnicodeDecodeError:
        return "text that is not UTF-8"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def sentence(problem: Exception) -> str:
    """Returns the first line of what another library complains of, without its full stop."""
    return (str(problem).splitlines() or [type(problem).__name__])[0].rstrip(". ")
