"""SPROUT (CARROT, Somerstep et al. 2025, arXiv 2502.03261) as it is published: 13 models on 44,241 queries.

Parquet files of the splits train, validation and test: a column prompt, and for each model a struct with score,
num_input_tokens and num_output_tokens, whose cost is tokens times price. The responses beside them are not read.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from jrouter.io.columns import PARQUET, Source, make_source
from jrouter.io.errors import describe, listed
from jrouter.io.files import check_file, same_columns, unreadable
from jrouter.io.prices import Price, priced, read_prices
from jrouter.io.published import Incomplete, PublishedTable, check_choice, fetch, make_published

REPOSITORY = "CARROT-LLM-Routing/SPROUT"
SPLITS = ("train", "validation", "test")
FIELDS = {"score": "score", "input": "num_input_tokens", "output": "num_output_tokens"}
_PLAIN = {"query": "prompt", "task": "dataset", "sample_id": "key"}
_PART = re.compile(r"(?P<split>.+?)-(?P<part>\d{5})-of-(?P<parts>\d{5})")
_TOKENS = "a number of tokens of at least 0"

Paths = str | os.PathLike | Sequence[str | os.PathLike]


def read_sprout(
    folder_or_files: Paths,
    *,
    prices: Mapping[str, Price] | str | os.PathLike | None = None,
    incomplete: Incomplete = "error",
) -> dict[str, PublishedTable]:
    """Reads SPROUT's splits: scores, costs in USD, and prompts. CARROT trains on train and validation together.

    Args:
      folder_or_files: a folder of Parquet files, as the hub has them (data/train-00000-of-00003.parquet, ...; `data`
        is found by itself), one such file, or several. A file belongs to the split that its name starts with.
      prices: of each model, or a CSV file as `read_prices` reads it; by default those that jrouter ships.
      incomplete: whether a row that lacks a score or a number of tokens is an error or left out.

    Returns:
      Name of the split -> its table, with the column `dataset` as `tasks` and `key` as `sample_id` where there are
      such columns; train, validation and test first.

    Raises:
      DataError: no file, or a part of a split missing; a column or field missing, or other models than in the first
        split; a score that is null or NaN; negative tokens; models without a price, all of them named.
    """
    check_choice("incomplete", incomplete, Incomplete)
    splits = _splits(folder_or_files)
    sources = {split: _read(files) for split, files in splits.items()}
    first = next(iter(sources.values()))
    for source in sources.values():
        if _models(source) != _models(first):
            told = f"has the models {listed(_models(source))}, but {first.files[0]} has {listed(_models(first))}"
            raise describe(source.files[0], f"{told}; give all splits the same ones")
    if prices is None or isinstance(prices, str | os.PathLike):
        prices = read_prices(prices)
    price = priced(_models(first), prices)
    return {
        split: make_published(_with_costs(source, price, null=incomplete == "drop"), incomplete=incomplete)
        for split, source in sources.items()
    }


def fetch_sprout(revision: str | None = None) -> Path:
    """Returns the folder of SPROUT in the Hugging Face cache, downloaded where it is not there yet (about 600 MB).

    Args:
      revision: commit of the dataset; by default its main branch, or what the cache has of it.

    Raises:
      DataError: the files are neither in the cache nor can they be downloaded; it says what to do.
    """
    names = [f"data/{split}-*.parquet" for split in SPLITS]
    return fetch(REPOSITORY, names, revision, "pass their folder to `read_sprout`")


def _splits(paths: Paths) -> dict[str, list[str]]:
    """Files of each split, in the order of their parts."""
    if isinstance(paths, str | os.PathLike):
        folder = Path(paths)
        if folder.is_dir():
            folder = folder / "data" if (folder / "data").is_dir() else folder
            paths = sorted(file for file in folder.iterdir() if file.suffix in PARQUET and file.name[0] not in "._")
            if not paths:
                raise describe(str(folder), "holds no Parquet file, expected train-00000-of-00003.parquet and so on")
        else:
            paths = [folder]
    found: dict[str, list[tuple[int, int, str]]] = {}
    for path in paths:
        name = _PART.fullmatch(Path(path).stem)
        split, place = (Path(path).stem, (0, 1)) if name is None else (name["split"], (int(name[2]), int(name[3])))
        found.setdefault(split, []).append((*place, os.fspath(path)))
    splits = {}
    for split in sorted(found, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)):
        files = sorted(found[split])
        if [part for part, _, _ in files] != list(range(files[0][1])):
            have = listed([os.path.basename(file) for _, _, file in files])
            told = f"is part of the split '{split}', of which there are {have}, expected {files[0][1]} parts"
            raise describe(files[0][2], f"{told}; download the others")
        splits[split] = [file for _, _, file in files]
    return splits


def _read(files: Sequence[str]) -> Source:
    """The scores and tokens of a split, as columns of their own."""
    parts = [_read_part(file) for file in files]
    tables = [table for table, _ in parts]
    same_columns(files, [original for _, original in parts], [table.schema for table in tables])
    starts = np.cumsum([0, *(table.num_rows for table in tables)])[:-1].tolist()
    source = make_source(pa.concat_tables(tables, promote_options="permissive"), parts[0][1], files, starts)
    if source.rows == 0:
        raise describe(files[0], "is empty (0 rows), expected at least one row")
    return source


def _read_part(file: str) -> tuple[pa.Table, dict[str, str]]:
    check_file(file, PARQUET)
    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            original = _choose(parquet.schema_arrow, file)
            table = parquet.read(columns=list(original.values()))  # of a struct, only these fields
    except (pa.ArrowException, OSError) as problem:
        raise unreadable(file, problem) from None
    columns = {}
    for ours, theirs in original.items():
        columns[theirs] = table[theirs] if ours in _PLAIN else _field(table, *theirs.rsplit(".", 1))
    return pa.table(columns), original


def _field(table: pa.Table, model: str, field: str) -> pa.ChunkedArray:
    return pc.call_function("struct_field", [table[model]], pc.StructFieldOptions([field]))  # null in a null struct


def _choose(schema: pa.Schema, file: str) -> dict[str, str]:
    """Our name -> the file's, `<model>.<field>` for a field."""
    if "prompt" not in schema.names:
        raise describe(file, f"has no column 'prompt'; its columns are {listed(schema.names)}", column="prompt")
    original = {ours: name for ours, name in _PLAIN.items() if name in schema.names}
    for column in schema:
        if not pa.types.is_struct(column.type):
            continue
        fields = {column.type.field(i).name for i in range(column.type.num_fields)}
        lacking = [field for field in FIELDS.values() if field not in fields]
        if len(lacking) == len(FIELDS):
            continue  # some other struct
        if lacking:
            told = f"has no field {listed(lacking)}, expected a struct with {listed(list(FIELDS.values()))}"
            raise describe(file, f"{told}; correct or drop the column", column=column.name)
        original |= {f"{ours}:{column.name}": f"{column.name}.{field}" for ours, field in FIELDS.items()}
    if sum(name.startswith("score:") for name in original) < 2:
        told = f"expected a struct with {listed(list(FIELDS.values()))} for each of at least two models"
        raise describe(file, f"{told}; its columns are {listed(schema.names)}")
    return original


def _models(source: Source) -> tuple[str, ...]:
    return tuple(name.removeprefix("score:") for name in source.original if name.startswith("score:"))


def _with_costs(source: Source, prices: Sequence[Price], *, null: bool) -> Source:
    columns, original = dict(source.columns), dict(source.original)
    for model, price in zip(_models(source), prices, strict=True):
        names = (f"input:{model}", f"output:{model}")
        tokens = [source.floats(name, _TOKENS, low=0.0, null=null) for name in names]
        missing = source.nulls(names[0]) | source.nulls(names[1])
        columns[f"cost:{model}"] = pa.chunked_array([pa.array(price.cost(*tokens), mask=missing)])
        original[f"cost:{model}"] = original[names[0]]
    return replace(source, columns=columns, original=original)
