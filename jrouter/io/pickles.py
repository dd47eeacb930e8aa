"""Tables of pandas in pickle files, read without running anything that the file asks for.

A pickle names functions and says what to call them with. Here every name has to be one of those that pandas and
numpy write a DataFrame with, and even these are not called: a `_Node` keeps the name, the arguments and the state,
and what they mean is worked out here, from numbers, strings and lists alone. Neither pandas nor its version matters.
"""

import gzip
import os
import pickle
import pickletools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from jrouter.io.columns import Choose, Source, chosen_columns, make_source, python_column
from jrouter.io.errors import DataError, describe, sentence
from jrouter.io.files import check_file

PICKLE = (".pkl", ".pickle", ".pkl.gz", ".pickle.gz")

# Written by pandas 1 to 3 with numpy 1 and 2. Protocol 2 says __builtin__, pandas 3 says pandas.DataFrame.
_NAMES = {
    "__builtin__": "bytearray slice",
    "builtins": "bytearray slice",
    "_codecs": "encode",
    "functools": "partial",
    "numpy": "dtype ndarray",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "pandas": "DataFrame Float64Dtype Index Int64Dtype NA RangeIndex StringDtype",
    "pandas.arrays": "ArrowStringArray FloatingArray IntegerArray StringArray",
    "pandas._libs.arrays": "__pyx_unpickle_NDArrayBacked",
    "pandas._libs.internals": "_unpickle_block",
    "pandas._libs.missing": "NA",
    "pandas.core.arrays.floating": "Float64Dtype FloatingArray",
    "pandas.core.arrays.integer": "Int64Dtype IntegerArray",
    "pandas.core.arrays.string_": "StringArray StringDtype",
    "pandas.core.arrays.string_arrow": "ArrowStringArray",
    "pandas.core.frame": "DataFrame",
    "pandas.core.indexes.base": "Index _new_Index",
    "pandas.core.indexes.numeric": "Float64Index Int64Index",
    "pandas.core.indexes.range": "RangeIndex",
    "pandas.core.internals.blocks": "new_block",
    "pandas.core.internals.managers": "BlockManager",
    "pyarrow.lib": "_restore_array chunked_array py_buffer type_for_alias",
}
ALLOWED = frozenset((module, name) for module, names in _NAMES.items() for name in names.split())
"""Pairs of module and name that a pickle may hold."""

_INSTEAD = "if you trust its source, load it with pandas, save it with `to_parquet` and read that file"


def read_pickle(path: str | os.PathLike, choose: Choose) -> Source:
    """Reads the chosen columns of a DataFrame that was pickled with protocol 2 to 5.

    Nothing in the file is run or imported, so a file from anywhere may be read. The whole file is held in memory
    while it is, since a pickle has no columns to choose before.

    Args:
      path: a file that ends in .pkl or .pickle, or one of them and .gz.
      choose: which columns to read.

    Returns:
      The columns.

    Raises:
      DataError: a file that is missing, cut short, no pickle of a DataFrame, or that names what a DataFrame does
        not need; a column of another kind than numbers and text, if it is chosen.
    """
    file = os.fspath(path)
    check_file(file, PICKLE)
    try:
        with gzip.open(file) if file.lower().endswith(".gz") else open(file, "rb") as stream:
            _scan(stream, file)
            stream.seek(0)
            tree = _Reader(stream, file).load()
    except DataError:
        raise
    except (pickle.UnpicklingError, EOFError, OSError) as problem:
        raise describe(file, f"cannot be read: {sentence(problem)}; check that it is whole") from None
    except (AttributeError, LookupError, MemoryError, OverflowError, SystemError, TypeError, ValueError) as problem:
        raise describe(file, f"is no pickle of a table: {sentence(problem)}; check that it is whole") from None
    try:
        names, rows, cells = _frame(tree)
    except _MALFORMED as problem:
        raise describe(file, f"is no pickled DataFrame of plain columns: {sentence(problem)}; {_INSTEAD}") from None
    original = chosen_columns(names, choose, file)
    columns: dict[str, pa.ChunkedArray] = {}
    for name in original.values():
        try:
            column = _column(*cells[name])
            if len(column) != rows:
                raise ValueError(f"it has {len(column)} rows and the table {rows}")
        except _MALFORMED as problem:
            raise describe(file, f"is no plain column: {sentence(problem)}; {_INSTEAD}", column=name) from None
        columns[name] = column if isinstance(column, pa.ChunkedArray) else python_column(column, name, file)
    if rows == 0:
        raise describe(file, "is empty (0 rows), expected at least one row")
    return make_source(pa.table(columns), original, [file])


_MALFORMED = (LookupError, MemoryError, OverflowError, RecursionError, TypeError, ValueError, pa.ArrowException)
_UNUSED = {"EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER", "INST", "OBJ"}
_MOST_COLUMNS = 1 << 20  # a range of labels takes no room in a file, whatever its length


def _scan(stream: Any, file: str) -> None:
    """Checks what a pickle holds, instruction by instruction, before any is followed.

    Every length has to be there in the file, and no number of a place in the memo may be out of proportion, for
    memory is set aside for it. Names from the registry of extensions would come without being asked for by name.
    """
    for opcode, argument, place in pickletools.genops(stream):
        if opcode.name in _UNUSED:
            raise describe(
                file, f"holds {opcode.name}, which a pickled DataFrame does not; nothing was run; {_INSTEAD}"
            )
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= (place or 0):
            raise ValueError(f"{opcode.name} {argument} at byte {place}")


class _Node:
    """What a pickle asks to call, with its arguments and the state to set afterwards; a subclass for every name."""

    name = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> "_Node":
        node = super().__new__(cls)
        node.args, node.state = args, None
        return node

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *args: Any) -> "_Node":
        return type(self)(self, *args)


class _Reader(pickle.Unpickler):
    def __init__(self, stream: Any, file: str):
        super().__init__(stream)
        self.file = file

    def find_class(self, module: str, name: str) -> type[_Node]:
        if (module, name) not in ALLOWED:
            named = f"{module}.{name}"
            problem = f"asks for {named}, which a DataFrame of numbers and text does not need; nothing was run"
            raise describe(self.file, f"{problem}; {_INSTEAD}")
        return type(name, (_Node,), {"name": name})


def _frame(tree: Any) -> tuple[list[str], int, dict[str, tuple[Any, int]]]:
    """Names of the columns, number of rows, and for each name its block and its place in there."""
    match tree:
        case _Node(name="DataFrame", state={"_mgr": manager}) | _Node(name="DataFrame", state={"_data": manager}):
            pass
        case _:
            raise ValueError(f"it holds {_kind(tree)}")
    match manager:
        case _Node(name="BlockManager", args=(blocks, [columns, index])):
            parts = [_block(block) for block in blocks]
        case _Node(name="BlockManager", state=(_, _, _, {"0.14.1": {"axes": [columns, index], "blocks": blocks}})):
            parts = [(block["values"], block["mgr_locs"]) for block in blocks]  # until pandas 1.2
        case _:
            raise ValueError("its blocks are of an unknown form")
    labels = _labels(columns)
    if len(labels) > _MOST_COLUMNS:
        raise ValueError(f"it has {len(labels)} columns")
    names = [str(label) for label in labels]
    cells = {names[place]: (values, row) for values, where in parts for row, place in enumerate(_places(where))}
    if cells.keys() != set(names):
        raise ValueError("its blocks do not make up its columns")
    return names, len(_labels(index)), cells


def _block(block: Any) -> tuple[Any, Any]:
    match block:
        case _Node(name="_unpickle_block" | "new_block", args=(values, where, _)):
            return values, where
        case _Node(name="partial", args=(_Node(name="partial"), values, where)):  # new_block, in pandas 1.3
            return values, where
    raise ValueError(f"a block is {_kind(block)}")


def _places(where: Any) -> Sequence[int]:
    match where:
        case _Node(name="slice", args=(int(start), int(stop), int(step))):
            return range(start, stop, step)
    return _array(where, "i").tolist()


def _labels(index: Any) -> Sequence[Any]:
    match index:
        case _Node(name="_new_Index", args=(_, {"start": int(start), "stop": int(stop), "step": int(step)})):
            return range(start, stop, step)
        case _Node(name="_new_Index", args=(_, {"data": data})):
            labels = _column(data, 0)
            return labels if isinstance(labels, list) else labels.to_pylist()
    raise ValueError(f"an index is {_kind(index)}")


def _column(values: Any, row: int) -> pa.ChunkedArray | list[Any]:
    """One column of a block: as pyarrow where it has a type, else as Python objects."""
    match values:
        case _Node(name="ArrowStringArray", state={"_pa_array": text} | {"_data": text}):
            return _text(text)
        case _Node(name="FloatingArray" | "IntegerArray", state={"_data": data, "_mask": mask}):
            return pa.chunked_array([pa.array(_array(data, "if"), mask=_array(mask, "b"))])
        case _Node(name="__pyx_unpickle_NDArrayBacked", state=(_, data, *_)):
            array = _array(data, "O")
        case _Node(name="StringArray", state={"_ndarray": data}):
            array = _array(data, "O")
        case _:
            array = _array(values, "biufO")
    if array.ndim == 2:
        array = array[row]
    if array.dtype == object:
        return [_scalar(value) for value in array]
    return pa.chunked_array([pa.array(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))])


def _array(node: Any, kinds: str) -> np.ndarray:
    match node:
        case _Node(name="_frombuffer", args=(data, dtype, tuple(shape), "C" | "F" as order)):
            return np.frombuffer(_bytes(data), _dtype(dtype, kinds.replace("O", ""))).reshape(shape, order=order)
        case _Node(name="_reconstruct", state=(_, tuple(shape), dtype, _, list(items))):
            _dtype(dtype, "O" if "O" in kinds else "")
            return np.fromiter(items, object, len(items)).reshape(shape)
        case _Node(name="_reconstruct", state=(_, tuple(shape), dtype, fortran, data)):
            flat = np.frombuffer(_bytes(data), _dtype(dtype, kinds.replace("O", "")))
            return flat.reshape(shape, order="F" if fortran else "C")
    raise ValueError(f"found {_kind(node)} where an array was expected")


def _dtype(node: Any, kinds: str) -> np.dtype:
    """A plain type, never one with fields: their bytes could stand for objects."""
    match node:
        case _Node(name="dtype", args=(str(code), *_), state=(_, "<" | ">" | "|" | "=" as order, None, None, None, *_)):
            dtype = np.dtype(code)
            if dtype.kind in kinds:
                return dtype.newbyteorder(order)
            raise ValueError(f"its type is {dtype}")
    raise ValueError("its type is of an unknown form")


def _bytes(node: Any) -> bytes:
    match node:
        case bytes() | bytearray():
            return bytes(node)
        case _Node(name="encode", args=(str(text), "latin1")):
            return text.encode("latin1")
        case _Node(name="bytearray" | "py_buffer", args=(data,)):
            return _bytes(data)
        case _Node(name="bytearray", args=()):
            return b""
    raise ValueError(f"found {_kind(node)} where bytes were expected")


def _scalar(value: Any) -> Any:
    match value:
        case _Node(name="scalar", args=(dtype, data)):
            return np.frombuffer(_bytes(data), _dtype(dtype, "biufU"), 1)[0].item()
        case type() if value.__name__ == "NA":
            return None
        case None | bool() | int() | float() | str():
            return value
    raise ValueError(f"found {_kind(value)} in it, expected numbers or text")


def _text(node: Any) -> pa.ChunkedArray:
    match node:
        case _Node(name="chunked_array", args=(list(chunks), *_)):
            return pa.chunked_array([chunk for part in chunks for chunk in _text(part).chunks], pa.large_string())
        case _Node(name="_restore_array", args=((kind, int(length), int(nulls), int(offset), buffers, [], None),)):
            held = [None if buffer is None else pa.py_buffer(_bytes(buffer)) for buffer in buffers]
            if min(length, offset) < 0:
                raise ValueError("a length is negative")
            array = pa.Array.from_buffers(_text_type(kind), length, held, nulls, offset)
            array.validate(full=True)  # offsets that point outside of the text would be followed
            return pa.chunked_array([array.cast(pa.large_string())])
    raise ValueError(f"found {_kind(node)} where text was expected")


def _text_type(node: Any) -> pa.DataType:
    match node:
        case _Node(name="type_for_alias", args=("string",)):
            return pa.string()
        case _Node(name="type_for_alias", args=("large_string",)):
            return pa.large_string()
    raise ValueError("its type is not text")


def _kind(value: Any) -> str:
    return f"a pandas or numpy {type(value).__name__}" if isinstance(value, _Node) else f"a {type(value).__name__}"
