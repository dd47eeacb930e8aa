"""Benchmarks as they are published, with text and no embeddings: what is logged, what judges, and its embedding."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from data import Source

from jrouter.encoders.encode import Encoder
from jrouter.encoders.errors import EncoderError
from jrouter.encoders.load import load_encoder
from jrouter.io.columns import PARQUET
from jrouter.io.errors import DataError
from jrouter.io.prices import read_prices
from jrouter.io.published import Incomplete
from jrouter.io.routerbench import fetch_routerbench, read_routerbench
from jrouter.io.sprout import fetch_sprout, read_sprout
from jrouter.io.tables import file_digest
from jrouter.types import BenchmarkTable, take_rows

ENCODERS = {"bert": "google-bert/bert-base-uncased", "llama-3.2-1b": "meta-llama/Llama-3.2-1B"}
"""The paper's encoders, and what is taken for them: which BERT it was is open, and whether Llama's Instruct."""
SMOKE_ROWS = 400


class Half(NamedTuple):
    """Queries with every model's outcome.

    Attributes:
      table: n rows, without embeddings and groups.
      texts: [n].
    """

    table: BenchmarkTable
    texts: list[str]


class Benchmark(NamedTuple):
    """A published benchmark.

    Attributes:
      name: of its file, or of the benchmark where there are several.
      files: name -> SHA-256.
      protocol: which rows are logged and which judge, in words.
      prices: model -> USD per million tokens read and written; None where costs are published.
      logged: queries that are logged.
      test: queries that judge.
    """

    name: str
    files: dict[str, str]
    protocol: str
    prices: dict[str, tuple[float, float]] | None
    logged: Half
    test: Half


class Embedded(NamedTuple):
    """A benchmark as the experiments take it.

    Attributes:
      source: of the queries with their embeddings.
      facts: of the benchmark, its encoder and its texts, as a result file holds them.
    """

    source: Source
    facts: dict[str, Any]


def read_benchmark(
    name: Literal["routerbench", "sprout"],
    paths: Sequence[Path] = (),
    *,
    revision: str | None = None,
    prices: Path | None = None,
    incomplete: Incomplete = "error",
) -> Benchmark:
    """Reads a published benchmark, and fetches it from the hub where no path is given.

    RouterBench by CARROT's protocol (arXiv 2502.03261): tasks whose name starts with "chinese" are dropped, and a
    fifth of the other rows judges. SPROUT by its own splits: train and validation are logged, test judges.

    Args:
      name: of the benchmark.
      paths: RouterBench's file; SPROUT's folder, or its files.
      revision: on the hub.
      prices: file of prices, for SPROUT; None for those that come with the package.
      incomplete: whether a row that lacks an outcome is an error or left out.

    Raises:
      DataError: for a file that is missing or holds something else, and where the hub cannot be reached.
    """
    if paths and revision is not None:
        raise ValueError("--benchmark-revision: files are given by --benchmark-path; leave one of the two out")
    for path in (*paths, *([] if prices is None else [prices])):
        if not path.exists():
            raise DataError(f"{path}: does not exist; check the path")
    if name == "routerbench":
        if prices is not None:
            raise ValueError("--prices: RouterBench is published with its costs; leave it out")
        if len(paths) > 1:
            raise ValueError(f"--benchmark-path: RouterBench is one file, got {len(paths)}")
        return _read_routerbench(paths[0] if paths else _fetched(fetch_routerbench, revision), incomplete)
    return _read_sprout(paths or [_fetched(fetch_sprout, revision)], prices, incomplete)


def _fetched(fetch: Callable[..., Path], revision: str | None) -> Path:
    try:
        return fetch(revision=revision)
    except DataError as problem:
        raise DataError(f"{problem} (here: --benchmark-path PATH)") from None


def _read_routerbench(path: Path, incomplete: Incomplete) -> Benchmark:
    found = read_routerbench(path, protocol="carrot", incomplete=incomplete)
    assert found.train is not None and found.test is not None
    whole = Half(found.table, found.texts)
    return Benchmark(
        path.name,
        {path.name: file_digest(path)},
        "CARROT's: without the Chinese tasks, 80% of the rows logged and 20% judge, seed 42" + _left_out(incomplete),
        None,
        _rows(whole, found.train),
        _rows(whole, found.test),
    )


def _read_sprout(paths: Sequence[Path], prices: Path | None, incomplete: Incomplete) -> Benchmark:
    known = read_prices(prices)
    splits = read_sprout(paths[0] if len(paths) == 1 else paths, prices=known, incomplete=incomplete)
    for split in ("train", "test"):
        if split not in splits:
            raise DataError(
                f"{paths[0]}: holds nothing of SPROUT's split {split!r} (but of {', '.join(splits)}); give its folder, "
                "or the files of all splits"
            )
    names = [name for name in ("train", "validation") if name in splits]
    halves = {name: Half(replace(splits[name].table, group=None), splits[name].texts) for name in (*names, "test")}
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(halves[name].table for name in names))
    return Benchmark(
        "SPROUT",
        {file.name: file_digest(file) for path in paths for file in _parquet_files(path)},
        f"its own splits: {' and '.join(names)} logged, test judges" + _left_out(incomplete),
        {model: known[model][:2] for model in joined.models},
        Half(joined, [text for name in names for text in halves[name].texts]),
        halves["test"],
    )


def _left_out(incomplete: Incomplete) -> str:
    return "; rows that lack an outcome are left out" if incomplete == "drop" else ""


def _parquet_files(path: Path) -> list[Path]:
    """What `read_sprout` reads of a path."""
    if not path.is_dir():
        return [path]
    folder = path / "data" if (path / "data").is_dir() else path
    return sorted(file for file in folder.iterdir() if file.suffix in PARQUET and file.name[0] not in "._")


def _rows(half: Half, rows: np.ndarray) -> Half:
    table = take_rows(replace(half.table, group=None), rows)
    return Half(table, [half.texts[row] for row in rows])


def fewer(benchmark: Benchmark, rows: int = SMOKE_ROWS) -> Benchmark:
    """At most so many rows of each half, drawn with a fixed seed; in their order."""

    def drawn(half: Half) -> Half:
        n = len(half.texts)
        return _rows(half, np.sort(np.random.default_rng(0).permutation(n)[:rows]))

    return benchmark._replace(logged=drawn(benchmark.logged), test=drawn(benchmark.test))


def open_encoder(name: str, *, path: Path | None = None, **settings: Any) -> Encoder:
    """The encoder of --encoder.

    Args:
      name: one of `ENCODERS`, "hashing", a folder or a name on the hub.
      path: folder of its files; the name is then only a name.
      settings: of `load_encoder`.

    Raises:
      EncoderError: where it cannot be loaded, with what to do.
    """
    if path is not None:
        return load_encoder(path, **settings)
    place = ENCODERS.get(name, name)
    try:
        return load_encoder(place, **settings)
    except EncoderError as problem:
        if name not in ENCODERS:
            raise
        gated = ""
        if place.startswith("meta-llama/"):
            gated = f" It is gated: accept its licence at https://huggingface.co/{place}, then log in."
        raise EncoderError(f"{problem}{gated} A folder of its files is taken by --encoder-path FOLDER.") from problem


def encoder_name(name: str) -> str:
    """The encoder's name in names of files: of a folder or of a hub's model its last part.

    >>> encoder_name("sentence-transformers/all-MiniLM-L6-v2")
    'all-minilm-l6-v2'
    """
    last = name.rstrip("/").rpartition("/")[2].lower()
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in last)


def embed(
    benchmark: Benchmark,
    encoder: Encoder,
    cache: Path | None,
    *,
    name: str | None = None,
    progress: bool | None = None,
) -> Embedded:
    """Embeds the queries, each different text once, and says what became of them.

    Groups, which stay on one side of a split, are rows of the same text. Published splits are kept as they are: a
    test query that is logged too is counted, and stays.

    Args:
      benchmark: of texts.
      encoder: texts -> embeddings.
      cache: folder that embeddings are taken from and added to; None for none.
      name: of an encoder from a folder: where that lies is nobody's concern, and its digest says what it is.
      progress: as of `Encoder.encode`.
    """
    n = len(benchmark.logged.texts)
    texts = [encoder.text(text, row) for row, text in enumerate(benchmark.logged.texts + benchmark.test.texts)]
    rows = encoder.encode(benchmark.logged.texts + benchmark.test.texts, cache=cache, progress=progress)
    halves = [
        replace(half.table, x=jnp.asarray(x), group=jnp.asarray(_groups(half.texts)))
        for half, x in ((benchmark.logged, rows[:n]), (benchmark.test, rows[n:]))
    ]
    logged, test = halves
    logged_texts = set(benchmark.logged.texts)
    facts = {
        "files": benchmark.files,
        "protocol": benchmark.protocol,
        "prices": benchmark.prices,
        "encoder": encoder.spec.to_dict() | ({} if name is None else {"name": name}),
        "texts": {
            "logged": n,
            "test": len(benchmark.test.texts),
            "test_also_logged": sum(text in logged_texts for text in benchmark.test.texts),
            "distinct_queries": len({*benchmark.logged.texts, *benchmark.test.texts}),
            "distinct_texts_encoded": len(set(texts)),
            "distinct_embeddings": len({hashlib.sha256(row.tobytes()).digest() for row in rows}),
        },
        "models": list(logged.models),
        "cost_unit": logged.cost_unit,
    }
    draw: Callable[[int], BenchmarkTable] = lambda seed: logged  # noqa: E731 (of a file, the same for every seed)
    return Embedded(Source(benchmark.name, _digest(benchmark.files), draw, test, (1.0, 0.1)), facts)


def _groups(texts: Sequence[str]) -> np.ndarray:
    """[n] int32, equal where texts are."""
    places: dict[str, int] = {}
    return np.array([places.setdefault(text, len(places)) for text in texts], np.int32)


def _digest(files: dict[str, str]) -> str:
    """The SHA-256 of a file; of several, that of the lines "digest  name" in the order of the names."""
    if len(files) == 1:
        return next(iter(files.values()))
    return hashlib.sha256("".join(f"{files[name]}  {name}\n" for name in sorted(files)).encode()).hexdigest()
