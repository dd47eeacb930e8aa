"""RouterBench (Hu et al. 2024, arXiv 2403.12031) as it is published: 11 models on 36,497 zero-shot queries.

The hub's routerbench_0shot.pkl and routerbench_5shot.pkl, or the same columns in Parquet or CSV: sample_id, prompt,
eval_name, one score column named after each model, `<model>|model_response`, `<model>|total_cost` in USD, and
oracle_model_to_route_to. In the five-shot file, 28 rows of arc-challenge lack scores.
"""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc

from jrouter.io.columns import CSV, PARQUET
from jrouter.io.errors import describe, listed
from jrouter.io.files import check_file, read_files
from jrouter.io.pickles import PICKLE, read_pickle
from jrouter.io.published import Incomplete, PublishedTable, check_choice, fetch, make_published
from jrouter.io.tables import TOTAL_COST, choose_table, texts

REPOSITORY = "withmartian/routerbench"
Protocol = Literal["published", "carrot"]
_OURS = {"query": "prompt", "task": "eval_name", "sample_id": "sample_id"}


def read_routerbench(
    path: str | os.PathLike, *, protocol: Protocol = "published", incomplete: Incomplete = "error"
) -> PublishedTable:
    """Reads RouterBench's scores, costs and prompts; the models' responses stay in the file.

    A pickle is read without running anything in it (`jrouter.io.pickles`), but as a whole.

    Args:
      path: a file that ends in .pkl, .parquet, .pq, .csv, or .csv.gz or .pkl.gz.
      protocol: "published" keeps rows and prompts as they are, a prompt being the text of a Python list,
        ['...']. "carrot" is CARROT's (Somerstep et al. 2025, their gen_routerbench): rows whose eval_name starts with
        "chinese", in any case, are dropped, two characters are cut from both ends of each prompt, and a fifth of the
        rows is for testing (`carrot_split`).
      incomplete: whether a row that lacks a score or cost is an error or left out (before the split).

    Returns:
      The table, with eval_name as `tasks`; `train` and `test` with "carrot".

    Raises:
      DataError: a file that is missing, malformed or in other columns; a score that is null or NaN; a cost that is
        negative, null or NaN; a row without prompt, eval_name or sample_id.
    """
    check_choice("protocol", protocol, Protocol)
    check_choice("incomplete", incomplete, Incomplete)
    file = os.fspath(path)
    check_file(file, (*PICKLE, *PARQUET, *CSV))
    if file.lower().endswith(PICKLE):
        source = read_pickle(file, _choose)
    else:
        source = read_files(file, _choose, (*PARQUET, *CSV))
    if protocol == "published":
        return make_published(source, incomplete=incomplete)
    prompt = source.text("query", "a prompt")
    inner = pc.call_function("utf8_slice_codeunits", [prompt], pc.SliceOptions(2, -2))
    keep = np.array([not task.lower().startswith("chinese") for task in texts(source, "task")])
    source = replace(source, columns={**source.columns, "query": inner})
    found = make_published(source, incomplete=incomplete, keep=keep)
    train, test = carrot_split(len(found.texts))
    return found._replace(train=train, test=test)


def carrot_split(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows CARROT trains and tests on: scikit-learn's train_test_split(test_size=.2, random_state=42).

    Args:
      rows: number of rows, at least two.

    Returns:
      Indices, in scikit-learn's order: of four fifths of the rows, and of the rest, rounded up.

    >>> carrot_split(5)
    (array([4, 2, 0, 3]), array([1]))
    """
    if rows < 2:
        raise ValueError(f"found {rows} rows, expected at least two to split")
    order = np.random.RandomState(42).permutation(rows)
    tested = math.ceil(0.2 * rows)
    return order[tested:], order[:tested]


def fetch_routerbench(revision: str | None = None, *, shots: Literal[0, 5] = 0) -> Path:
    """Returns the path of RouterBench's file in the Hugging Face cache, downloaded where it is not there yet.

    Args:
      revision: commit of the dataset; by default its main branch, or what the cache has of it.
      shots: 0 (about 100 MB) or 5, solved examples in each prompt.

    Raises:
      DataError: the file is neither in the cache nor can it be downloaded; it says what to do.
    """
    name = f"routerbench_{shots}shot.pkl"
    return fetch(REPOSITORY, [name], revision, "pass its path to `read_routerbench`") / name


def _choose(names: list[str], file: str) -> dict[str, str]:
    lacking = [name for name in _OURS.values() if name not in names]
    if lacking or not any(name.endswith(TOTAL_COST) for name in names):
        lack = listed(lacking) if lacking else f"'<model>{TOTAL_COST}'"
        raise describe(
            file,
            f"has no column {lack} of RouterBench's; read a table in columns of your own with `read_table` "
            f"(the columns there are {listed(names[:12])}{' and more' if len(names) > 12 else ''})",
        )
    chosen = choose_table(names, file)
    return {name: theirs for name, theirs in chosen.items() if name.startswith(("score:", "cost:"))} | _OURS
