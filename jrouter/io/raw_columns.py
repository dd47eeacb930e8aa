"""Raw columns become numbers, texts, names, times and embeddings, without one bad value failing the others.

Each function takes a column as a file holds it, of any type, and says of each row whether the value is there,
and whether it is what it should be.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jrouter.encoders.texts import SURROGATES
from jrouter.io.columns import is_list, is_number, is_text

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
LATEST = 1e11
"""Epoch seconds beyond this are milliseconds or less: it is the year 5138."""


class Read(NamedTuple):
    """A column as it was understood.

    Attributes:
      values: [n], whatever where `missing` or `wrong`.
      missing: [n] bool, null or empty.
      wrong: [n] bool, something else than expected.
    """

    values: Any
    missing: np.ndarray
    wrong: np.ndarray


def as_column(values: Sequence[Any]) -> pa.Array:
    """Returns Python values as a column: of their type where all have one, else as text (JSON where nested).

    Text may then be no UTF-8, where a lone byte was kept as a surrogate; `texts` finds it.

    >>> as_column([1, "two", None, [3]]).to_pylist()
    ['1', 'two', None, '[3]']
    """
    kinds = {*map(type, values)} - {type(None)}
    try:
        if kinds <= {str}:
            return pa.array(values, pa.large_string())
        if kinds == {int} or kinds == {bool}:
            return pa.array(values)
        if kinds <= {int, float}:
            return pa.array(values, pa.float64())
        if kinds == {list}:
            return _lists(values)
        if not kinds & {dict, list, str}:
            return pa.array(values)  # dates, decimals, arrays of NumPy
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        pass
    raw = pa.array([None if value is None else _bytes(_as_text(value)) for value in values], pa.large_binary())
    return pa.Array.from_buffers(pa.large_string(), len(raw), raw.buffers())  # unchecked, as a file's text is


def _lists(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.large_list(pa.float64()))
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.array(values, pa.large_list(pa.large_string()))


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(int(value))
    return str(value) if isinstance(value, int | float) else json.dumps(value, ensure_ascii=False, default=str)


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair, as of an emoji that was cut in two
        return SURROGATES.sub("\ufffd", text).encode()


def plain(column: pa.Array) -> pa.Array:
    """Returns a column without dictionary or view."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if is_text(column.type) and column.type != pa.large_string():
        column = column.cast(pa.large_string())
    return column


def nulls(column: pa.Array) -> np.ndarray:
    """[n] bool, True where null."""
    return column.is_null().to_numpy(zero_copy_only=False)


def texts(column: pa.Array) -> Read:
    """Reads strings; numbers count as their digits (12.0 as '12', NaN as none): ids are equal however they are stored.

    >>> texts(pa.array([12.0, None, 0.5])).values.to_pylist()
    ['12', None, '0.5']
    """
    column, none = plain(column), np.zeros(len(column), bool)
    kind = column.type
    if pa.types.is_null(kind):
        return Read(column.cast(pa.large_string()), ~none, none)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or is_text(kind):
        column, wrong = _checked(column)
        empty = pc.call_function("equal", [pc.call_function("binary_length", [column]), pa.scalar(0, pa.int64())])
        missing = nulls(column) & ~wrong | empty.fill_null(False).to_numpy(zero_copy_only=False)
        if empty.true_count:
            column = pc.call_function("if_else", [empty, pa.scalar(None, pa.large_string()), column])
        return Read(column, missing, wrong)
    missing = nulls(column)
    if pa.types.is_floating(kind):
        values = column.cast(pa.float64()).fill_null(np.nan).to_numpy()
        whole = np.isfinite(values) & (np.abs(values) < 2**53) & (values == np.floor(values))
        digits = pa.array(np.where(whole, values, 0).astype(np.int64)).cast(pa.large_string())
        given = pc.call_function("if_else", [pa.array(whole), digits, column.cast(pa.large_string())])
        return Read(given, missing | np.isnan(values), none)
    if is_number(kind) or pa.types.is_temporal(kind):
        return Read(column.cast(pa.large_string()), missing, none)
    return Read(pa.nulls(len(column), pa.large_string()), missing, ~missing)


def _checked(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Valid text, null where it is no UTF-8; and [n] where that is."""
    raw = column.cast(pa.large_binary())
    try:
        return raw.cast(pa.large_string()), np.zeros(len(column), bool)
    except pa.ArrowInvalid:
        values: list[str | None] = []
        wrong = np.zeros(len(column), bool)
        for row, value in enumerate(raw.to_pylist()):
            try:
                values.append(None if value is None else value.decode())
            except UnicodeDecodeError:
                wrong[row] = True
                values.append(None)
        return pa.array(values, pa.large_string()), wrong


def queries(column: pa.Array) -> Read:
    """Reads texts, and chat messages as JSON text."""
    column = plain(column)
    if not (is_list(column.type) or pa.types.is_struct(column.type)):
        return texts(column)
    values, wrong = [], np.zeros(len(column), bool)
    for row in range(len(column)):
        try:
            value = _filled(column[row].as_py())
            values.append(json.dumps(value, ensure_ascii=False) if value else None)
        except (UnicodeDecodeError, TypeError, ValueError):
            wrong[row] = True
            values.append(None)
    read = texts(as_column(values))
    return read._replace(missing=read.missing & ~wrong, wrong=read.wrong | wrong)


def _filled(value: Any) -> Any:
    """A value without the fields that are null: a column of objects gives each all fields of any."""
    if isinstance(value, dict):
        return {name: _filled(one) for name, one in value.items() if one is not None}
    return [_filled(one) for one in value] if isinstance(value, list) else value


def numbers(column: pa.Array) -> Read:
    """Reads [n] float64, also from text; True and False count as 1 and 0. NaN is a number here.

    >>> numbers(pa.array(["1e-3", "", "cheap"])).wrong.tolist()
    [False, False, True]
    """
    column = plain(column)
    if is_text(column.type):
        column, missing, wrong = texts(column)
        column = pc.call_function("utf8_trim_whitespace", [column])
        try:
            values = pc.cast(column, pa.float64())
        except pa.ArrowInvalid:
            fits = pc.call_function("match_substring_regex", [column], pc.MatchSubstringOptions(NUMBER))
            values = pc.cast(
                pc.call_function("if_else", [fits, column, pa.scalar(None, pa.large_string())]), pa.float64()
            )
            wrong = wrong | ~(missing | fits.fill_null(False).to_numpy(zero_copy_only=False))
        return Read(values.fill_null(0.0).to_numpy(), missing, wrong)
    missing = nulls(column)
    if is_number(column.type):
        kind = pa.float64()
        values = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
        return Read(values.cast(kind, safe=False).fill_null(0.0).to_numpy(), missing, np.zeros(len(column), bool))
    return Read(np.zeros(len(column)), missing, ~missing)


def seconds(column: pa.Array) -> tuple[Read, bool]:
    """Reads times as epoch seconds: ISO-8601 (UTC where no zone is given), dates, numbers.

    Returns:
      Float64 seconds; and whether some numbers were beyond `LATEST`, so that they were taken for milliseconds,
      microseconds or nanoseconds by their size.

    >>> seconds(pa.array(["1970-01-01T00:01:00Z", "1970-01-01 01:01:00.5+01:00", "90"]))[0].values.tolist()
    [60.0, 60.5, 90.0]
    """
    column = plain(column)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        missing, none = nulls(column), np.zeros(len(column), bool)
        zone = getattr(column.type, "tz", None)
        ticks = column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64()).fill_null(0)
        return Read(ticks.to_numpy() / 1e6, missing, none), False
    read = numbers(column)
    values, wrong = read.values.copy(), read.wrong
    if is_text(column.type) and wrong.any():
        column = texts(column).values
        for row, value in zip(np.flatnonzero(wrong), column.filter(pa.array(wrong)).to_pylist(), strict=True):
            moment = _moment(value)
            if moment is not None:
                values[row], wrong[row] = moment, False
    with np.errstate(invalid="ignore"):
        large = ~read.missing & ~wrong & (np.abs(values) > LATEST)
        while large.any() and np.nanmax(np.abs(values[large])) < 1e20:
            values[large] /= 1e3
            large &= np.abs(values) > LATEST
            if not large.any():
                return Read(values, read.missing, wrong | ~np.isfinite(values)), True
    return Read(values, read.missing, wrong | ~(np.abs(values) <= LATEST)), False


def _moment(text: str | None) -> float | None:
    try:
        moment = datetime.fromisoformat((text or "").strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
