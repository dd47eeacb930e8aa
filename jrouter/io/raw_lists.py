"""Raw columns of lists become names of models, and embeddings: from lists, or JSON arrays as CSV holds them."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jrouter.io.columns import is_list, is_number, is_text, places
from jrouter.io.raw_columns import Read, nulls, plain, texts


def names(column: pa.Array) -> Read:
    """Reads lists of names, also from JSON arrays: `values` is a large_list of large_string, [] where there is none.

    >>> names(pa.array(['["a", "b"]', "a, b"])).wrong.tolist()
    [False, True]
    """
    column = plain(column)
    if is_text(column.type):
        column, missing, wrong = texts(column)
        return _parsed_names(column, missing, wrong)
    missing, none = nulls(column), np.zeros(len(column), bool)
    if pa.types.is_null(column.type) or not is_list(column.type):
        return Read(_no_names(len(column)), missing, ~missing)
    lengths = pc.call_function("list_value_length", [column]).fill_null(0).to_numpy()
    flat = column.flatten()
    if pa.types.is_null(flat.type) and not len(flat):
        return Read(_no_names(len(column)), missing | (lengths == 0), none)
    inner = texts(flat)
    wrong = none.copy()
    wrong[np.repeat(np.arange(len(column)), lengths)[inner.missing | inner.wrong]] = True
    offsets = np.cumsum(np.concatenate([[0], lengths]), dtype=np.int64)
    values = pa.LargeListArray.from_arrays(pa.array(offsets), inner.values)
    return Read(values, missing | (lengths == 0), wrong)


def without_names(
    lists: pa.Array, *, keep: Sequence[str] | None = None, drop: Sequence[str] = ()
) -> tuple[pa.Array, int]:
    """Returns lists without the names in `drop`, or that are not in `keep`; and how many were left out.

    >>> without_names(pa.array([["a", "b"], None, ["b"]], pa.large_list(pa.large_string())), drop=["b"])[0].to_pylist()
    [['a'], None, []]
    """
    lengths = pc.call_function("list_value_length", [lists]).fill_null(0).to_numpy()
    flat = pa.chunked_array([lists.flatten()], pa.large_string())
    inside = places(flat, drop).is_null().to_numpy()
    if keep is not None:
        inside &= ~places(flat, keep).is_null().to_numpy()
    row = np.repeat(np.arange(len(lists)), lengths)[inside]
    offsets = np.cumsum(np.concatenate([[0], np.bincount(row, minlength=len(lists))])).astype(np.int64)
    values = flat.filter(pa.array(inside)).combine_chunks()
    kept = pa.LargeListArray.from_arrays(pa.array(offsets), values, mask=lists.is_null() if lists.null_count else None)
    return kept, int((~inside).sum())


def _no_names(rows: int) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(np.zeros(rows + 1, np.int64)), pa.array([], pa.large_string()))


def _parsed_names(column: pa.Array, missing: np.ndarray, wrong: np.ndarray) -> Read:
    coded = column.dictionary_encode()
    lists, bad = [], []
    for text in coded.dictionary.to_pylist():  # each text once: there are few
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        fine = isinstance(value, list) and all(isinstance(one, str) and one for one in value)
        lists.append(value if fine else [])
        bad.append(not fine)
    lists, bad = [*lists, []], np.array([*bad, False])
    index = coded.indices.fill_null(len(lists) - 1).to_numpy()
    values = pa.array(lists, pa.large_list(pa.large_string())).take(pa.array(index))
    empty = np.array([not one for one in lists])[index]
    return Read(values, missing | empty & ~bad[index] & ~wrong, wrong | bad[index])


class Vectors(NamedTuple):
    """Embeddings as they were understood.

    Attributes:
      x: [n, width] float32, 0 where they are not fine.
      missing: [n] bool.
      wrong: [n] bool, no list of numbers, or numbers that are not finite.
      lengths: [n], width of each.
    """

    x: np.ndarray
    missing: np.ndarray
    wrong: np.ndarray
    lengths: np.ndarray


def vectors(column: pa.Array, width: int | None) -> Vectors:
    """Reads embeddings, also from JSON arrays.

    Args:
      column: lists of numbers.
      width: of an embedding; None for the one that most have.
    """
    column = plain(column)
    missing, wrong = nulls(column), np.zeros(len(column), bool)
    if is_text(column.type):
        given: list[Any] = []
        for row, text in enumerate(texts(column).values.to_pylist()):
            given.append(_numbers_of(text))
            wrong[row] = text is not None and given[-1] is None
        missing = np.array([value is None for value in given], bool) & ~wrong
        column = pa.array(given, pa.large_list(pa.float64()))
    numeric = is_list(column.type) and is_number(column.type.value_type)
    if not numeric:
        return Vectors(np.zeros((len(column), width or 0), np.float32), missing, ~missing, np.zeros(len(column), int))
    lengths = pc.call_function("list_value_length", [column]).fill_null(0).to_numpy().astype(int)
    missing = missing | (lengths == 0) & ~wrong
    if width is None:
        there = lengths[lengths > 0]
        width = int(np.bincount(there).argmax()) if len(there) else 0
    fits = lengths == width
    flat = column.flatten()
    values = flat.cast(pa.float64(), safe=False) if flat.type != pa.float32() else flat
    with np.errstate(over="ignore"):
        values = values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)  # null becomes NaN
    if fits.all():
        x = values.reshape(len(column), width)
    else:
        x = np.zeros((len(column), width), np.float32)
        x[fits] = values[np.repeat(fits, lengths)].reshape(-1, width)
    # A sum is finite where all numbers are, unless it overflows: then look closer.
    sums = x.sum(axis=1, dtype=np.float64)
    return Vectors(x, missing, wrong | fits & ~np.isfinite(sums), lengths)


def _numbers_of(text: str | None) -> list[float] | None:
    try:
        value = None if text is None else json.loads(text)
        fine = isinstance(value, list) and all(type(one) in (int, float) for one in value)
        return [float(one) for one in value] if fine else None  # pyright: ignore[reportOptionalIterable]
    except (ValueError, RecursionError, OverflowError):
        return None
