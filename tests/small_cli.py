"""The command line in process, on files of the small world, with little to compile."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jax.experimental.compilation_cache import compilation_cache
from small_router import world

from jrouter.app import calibrate, evaluate
from jrouter.app.cli import main
from jrouter.nuisances import propensity, ridge
from jrouter.nuisances.crossfit import OUTCOME_MODELS, PROPENSITY_MODELS

MODELS = ("<script>alert(1)</script>", "middle", "small")
"""Sorted, as a log's are; the large one's name must not run in a page."""
N = 600
LAMBDAS = "0,20,100"


class Ran(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


def run(*arguments: object) -> Ran:
    """Runs a command; whatever it says, there is no stack trace and no fault of jrouter's own."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(one) for one in arguments])
    said = err.getvalue()
    assert code in (0, 1, 2, 3, 130) and "Traceback" not in said, said
    return Ran(code, out.getvalue(), said)


def refused(*arguments: object, says: tuple[str, ...]) -> str:
    """The one message of a command that could not do what was asked, which says all these."""
    code, out, err = run(*arguments)
    assert code == 2 and err.startswith("jrouter: ") and err.count("\n") == 1, (code, err)
    for part in says:
        assert part in err, err
    return out


def truth(n: int = N, seed: int = 0):
    """Queries, expected score and cost of each of `MODELS`."""
    x, score, cost = world(n, seed)
    return x, score[:, ::-1], cost[:, ::-1]


def records(n: int = N, seed: int = 0) -> list[dict]:
    """Rows of a log with uniform logging and its propensity."""
    x, score, cost = truth(n, seed)
    rng = np.random.default_rng(seed + 1000)
    model, noise = rng.integers(0, 3, n), 0.05 * rng.normal(size=n)
    return [
        {
            "request_id": f"r{at}",
            "model": MODELS[model[at]],
            "score": float(score[at, model[at]] + noise[at]),
            "cost": float(cost[at, model[at]]),
            "propensity": 1 / 3,
            "embedding": x[at].tolist(),
        }
        for at in range(n)
    ]


def parquet(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def json_lines(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Shop(NamedTuple):
    """A team's folder: a log that was fitted, a log that it has not seen, the router, and what `fit` said."""

    folder: Path
    log: Path
    new: Path
    router: Path
    fit: Ran


def make_shop(folder: Path) -> Shop:
    """Fits a log, or says what an earlier call has fitted there."""
    log, new, said = (folder / name for name in ("log.parquet", "new.parquet", "fit.json"))
    if not said.exists():
        folder.mkdir()
        parquet(log, records())
        parquet(new, records(seed=1))
        fit = run(
            *("fit", log, "--out", folder / "router", "--method", "regress_and_compare_pooled"),
            *("--lambdas", LAMBDAS, "--assess-folds", 0, "--seed", 3),
        )
        said.write_text(json.dumps(fit))
    return Shop(folder, log, new, folder / "router", Ran(*json.loads(said.read_text())))


def queries(n: int = 40, seed: int = 5, **fields) -> list[dict]:
    """Lines that ask for decisions."""
    return [{"request_id": f"q{at}", "embedding": row, **fields} for at, row in enumerate(truth(n, seed)[0].tolist())]


def route(shop: Shop, tmp_path: Path, lines: list | bytes, *flags: object) -> tuple[int, list[dict], str]:
    """What `route` wrote, as records, and what it said."""
    path = tmp_path / "in.jsonl"
    if isinstance(lines, bytes):
        path.write_bytes(lines)
    else:
        json_lines(path, lines)
    flags = flags if "--lambda" in flags else ("--lambda", 20, *flags)
    code, out, err = run("route", shop.router, "--input", path, *flags)
    return code, [json.loads(line) for line in out.splitlines()], err


@contextmanager
def little_to_compile(folder: Path) -> Iterator[None]:
    """Linear nuisances of one strength, errors with the nuisances as they are; a program that was compiled is kept."""
    wanted = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: jax.config.values[name] for name in wanted}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OUTCOME_MODELS, "pooled", lambda: ridge.ridge(((float("inf"), 3.0),)))
        patch.setitem(PROPENSITY_MODELS, "logistic", lambda: propensity.logistic((0.1,)))
        patch.setattr(evaluate, "REFIT_ROWS", 0)
        patch.setattr(calibrate, "REFIT_ROWS", 0)
        for name, value in wanted.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
