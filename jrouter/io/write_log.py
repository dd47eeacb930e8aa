"""Logs written to files that `read_log` reads back: whole, or not at all."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from jrouter.io.columns import CSV, PARQUET
from jrouter.io.errors import describe
from jrouter.types import LoggedData


def write_log(log: LoggedData, path: str | os.PathLike) -> None:
    """Writes a log as Parquet or CSV; `read_log(path, models=log.models)` gives back the same float32 arrays.

    The file appears whole or not at all. `cost_unit` is not written; time is read back as seconds since its
    earliest row.

    Args:
      log: the log; `models` must be named, and `row_weight` be at least 1, as it is written as `keep_probability`.
      path: a file that ends in .parquet, .pq, .csv or .csv.gz; its folder is made where needed.

    Raises:
      DataError: an unknown suffix, models without names, a row weight below 1, a file that cannot be written.
    """
    file = os.fspath(path)
    if not file.lower().endswith((*PARQUET, *CSV)):
        raise describe(file, f"has an unknown suffix '{Path(file).suffix}', expected one of {', '.join(PARQUET + CSV)}")
    table = _as_table(log, file, text=file.lower().endswith(CSV))
    temporary = Path(file).with_name(f".{os.getpid()}.{Path(file).name}")  # same suffix: it decides on compression
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        if file.lower().endswith(PARQUET):
            pyarrow.parquet.write_table(table, temporary)
        else:
            with pa.output_stream(temporary) as stream:
                pyarrow.csv.write_csv(table, stream)
        os.replace(temporary, file)
    except OSError as problem:
        raise describe(file, f"cannot be written: {problem.strerror or problem}; check the folder") from None
    finally:
        temporary.unlink(missing_ok=True)


def _as_table(log: LoggedData, file: str, text: bool) -> pa.Table:
    if not log.models:
        raise describe(file, "cannot be written from a log whose models have no names; set `models`")
    # A float32 is exact as a float64, whose digits CSV gives in full.
    real = np.float64 if text else np.float32
    x, unscored = np.asarray(log.x, real), None if log.scored is None else ~np.asarray(log.scored)
    columns: dict[str, Any] = {
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1]),
        "model": pa.array(log.models).take(pa.array(np.asarray(log.model))),
        "score": pa.array(np.asarray(log.score, real), mask=unscored),
        "cost": pa.array(np.asarray(log.cost, real)),
    }
    if log.propensity is not None:
        columns["propensity"] = np.asarray(log.propensity, real)
    if log.time is not None:
        columns["timestamp"] = np.asarray(log.time, real)
    if log.group is not None:
        columns["group"] = np.asarray(log.group)
    if log.allowed is not None:
        allowed = np.asarray(log.allowed)
        offsets = np.cumsum([0, *allowed.sum(axis=1)])
        names = pa.array(log.models).take(pa.array(np.nonzero(allowed)[1]))
        columns["allowed_models"] = pa.LargeListArray.from_arrays(offsets, names)
    if log.row_weight is not None:
        weight = np.asarray(log.row_weight, np.float64)
        if not (weight >= 1).all():
            row = int(np.argmin(weight >= 1))
            raise describe(file, f"has the row weight {weight[row]}, expected at least 1 (1 / keep_probability)", row)
        columns["keep_probability"] = 1.0 / weight  # float64, so that one over it is exact again
    if text:
        for name in {"embedding", "allowed_models"} & set(columns):
            columns[name] = [json.dumps(row) for row in columns[name].to_pylist()]
    return pa.table(columns)
