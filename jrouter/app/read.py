"""A team's log, as every command reads it: made clean in a folder, then held, or a random sample of it."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from tqdm import tqdm

from jrouter.app.options import MaybeAddress, MaybeFile, MaybeFolder, MaybeInt, MaybeName, MaybeNumber
from jrouter.encoders.encode import Encoder
from jrouter.encoders.load import load_encoder
from jrouter.hashing import uniform
from jrouter.io.contract import Contract, read_contract
from jrouter.io.ingest import ingest
from jrouter.io.logs import read_log
from jrouter.io.read_report import Ingested, ReadReport
from jrouter.router import Router
from jrouter.types import LoggedData

BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


@dataclass(frozen=True)
class LogOptions:
    """How to read a log."""

    contract: MaybeFile = None
    """TOML file that says how to read the log: the flags below, and a table [columns]; flags come before it."""
    adapter: MaybeName = None
    """Format of a gateway: litellm_spend, litellm_payload, vllm_replay, weave, hydra, langfuse, otel_genai."""
    map: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OURS=THEIRS", help_behavior_hint="")] = ()
    """Columns of other names: model=llm cost=usd."""
    scores: MaybeAddress = None
    """File of scores that live apart, joined to the log."""
    map_scores: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OURS=THEIRS", help_behavior_hint="")] = ()
    """Columns of the scores' file, where they have other names than the log's: request_id=id score=reward."""
    on: MaybeName = None
    """Column that the log and the scores share: request_id (the default), query or group."""
    prices: MaybeAddress = None
    """CSV file of prices, for rows with tokens and without a cost."""
    cost_unit: MaybeName = None
    """Unit of the costs; USD by default. Lambda is score per unit of cost."""
    cost_scale: MaybeNumber = None
    """Multiplies the costs of the log: 0.01 where they are cents."""
    embedding: MaybeName = None
    """Encoder whose embedding column is read; needed where there are several."""
    encoder: MaybeName = None
    """Encoder of the text in `query`: "hashing" (n-grams, no download), a folder, or a Hugging Face id. By default
    the log's embedding column is read, and where it has none, its text by "hashing"."""
    window: MaybeInt = None
    """Of chats: how many of the last turns are embedded."""
    question: bool = False
    """Embeds the last question of few-shot prompts."""
    rows: int = 200_000
    """Rows that are held in memory at once; of a longer log, a random sample of about so many."""
    max_rejected: float = 0.5
    """Largest share of rejected rows."""
    work: MaybeFolder = None
    """Folder for the clean copy of the log while the command runs; by default the system's temporary one."""

    def as_contract(self) -> Contract:
        """The contract of the file, with the flags in place of what it says.

        Raises:
          ValueError: for a `map` without an equals sign, and for flags out of range.
        """
        if self.rows < 1:
            raise ValueError(f"--rows: expected at least 1, got {self.rows}")
        if not 0.0 <= self.max_rejected <= 1.0:
            raise ValueError(f"--max-rejected: expected a share from 0 to 1, got {self.max_rejected:g}")
        if self.work is not None and not self.work.is_dir():
            raise ValueError(f"--work: {self.work} is no folder; make it, or give another")
        contract = Contract() if self.contract is None else read_contract(self.contract)
        return contract.changed(
            columns=pairs_of("--map", self.map) or None,
            scores_columns=pairs_of("--map-scores", self.map_scores) or None,
            adapter=self.adapter,
            scores=self.scores,
            on=self.on,
            prices=self.prices,
            cost_unit=self.cost_unit,
            cost_scale=self.cost_scale,
            embedding=self.embedding,
        )


def pairs_of(flag: str, given: tuple[str, ...]) -> dict[str, str]:
    """What a flag of pairs says.

    Raises:
      ValueError: something without an equals sign.

    >>> pairs_of("--map", ("model=llm", "cost=usd"))
    {'model': 'llm', 'cost': 'usd'}
    """
    pairs = [one.partition("=") for one in given]
    for ours, sign, theirs in pairs:
        if not (sign and ours and theirs):
            raise ValueError(f"{flag}: expected name=value, got {ours + sign + theirs!r}")
    return {ours: theirs for ours, _, theirs in pairs}


@dataclass(frozen=True)
class TeamLog:
    """A log that was read.

    Attributes:
      log: its rows, or a sample of them.
      report: what was read, rejected and warned of.
      folder: of the clean copy, all rows; there as long as `read_team_log` is open.
      encoder: that made its embeddings of texts, or None.
      sampled: whether `log` is a sample.
    """

    log: LoggedData
    report: ReadReport
    folder: Path
    encoder: Encoder | None
    sampled: bool


@contextmanager
def read_team_log(
    source: Any,
    options: LogOptions = LogOptions(),
    *,
    models: tuple[str, ...] | None = None,
    encoder: Encoder | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Iterator[TeamLog]:
    """Reads a log for a command: rows are checked one by one, and made clean in a folder that is then removed.

    Args:
      source: path or address of the log, or a pandas or pyarrow table.
      options: how.
      models: names that come first, in this order, others of the log after them; by default the log's, sorted.
      encoder: of its texts, in place of `options.encoder`: that of a router.
      seed: of the sample.
      progress: whether to show a bar; None for where there is a terminal.

    Raises:
      DataError: as `ingest`.
      EncoderError: for an encoder that cannot be loaded.
      ValueError: for options that contradict each other.
    """
    contract = options.as_contract()
    if seed < 0:
        raise ValueError(f"--seed: expected at least 0, got {seed}")
    chosen = encoder
    if chosen is None and (options.encoder is not None or options.window or options.question):
        chosen = load_encoder(options.encoder or "hashing", window=options.window, question=options.question)
    with tempfile.TemporaryDirectory(prefix="jrouter-", dir=options.work) as temporary:
        folder = Path(temporary) / "log"
        with told(progress) as tell:
            made = ingest(
                source, folder, contract, max_rejected=options.max_rejected, progress=tell, **embedding_of(chosen)
            )
            if chosen is None and "embedding" not in made.report.columns:
                chosen = load_encoder()
                again = ingest(folder, Path(temporary) / "embedded", progress=tell, **embedding_of(chosen))
                made = Ingested(again.folder, made.report)
        found = sorted(set(made.report.models) - set(models or ()))
        names = tuple([*(models or ()), *found])
        sampled = made.report.rows_kept > options.rows
        rows = sample_rows(made.folder, options.rows / made.report.rows_kept, seed=seed) if sampled else made.folder
        log = read_log(rows, models=names, cost_unit=contract.cost_unit)
        yield TeamLog(log, made.report, made.folder, chosen, sampled)


@contextmanager
def read_traffic(router: Router, source: Any, options: LogOptions, *, seed: int = 0) -> Iterator[TeamLog]:
    """Reads a log for a router: its models come first, in its order, and its encoder embeds the log's texts.

    Raises:
      ValueError: as `read_team_log`, and for embeddings of another width than the router's.
    """
    encoder = None if router.encoder_spec is None else router.encoder
    with read_team_log(source, options, models=router.models, encoder=encoder, seed=seed) as team:
        width = team.log.x.shape[1]
        if width != router.dim:
            by = f" of '{router.embedding}'" if router.embedding else ""
            raise ValueError(
                f"{source}: its embeddings have {width} numbers, the router reads {router.dim}{by}; give a log "
                "embedded as the one it was fitted on was (--embedding takes one of several columns)"
            )
        yield team


def embedding_of(encoder: Encoder | None) -> dict[str, Any]:
    """What `ingest` is told of an encoder."""
    if encoder is None:
        return {}
    return {"embed": lambda texts: encoder.encode(texts, progress=False), "text": encoder.text}


@contextmanager
def told(progress: bool | None) -> Iterator[Callable[[str, float], None]]:
    """A bar of what `ingest` does, on a terminal or where asked for, from the third second on."""
    bars: dict[str, tqdm] = {}

    def tell(what: str, done: float) -> None:
        if what not in bars:
            hidden = None if progress is None else not progress
            bars[what] = tqdm(total=1.0, desc=what, delay=3, disable=hidden, bar_format=BAR)
        bars[what].update(done - bars[what].n)

    try:
        yield tell
    finally:
        for bar in bars.values():
            bar.close()


def sample_rows(folder: Path, share: float, *, seed: int) -> pa.Table:
    """A random share of the rows of a folder of Parquet files, each drawn by the hash of its number."""
    kept, before = [], 0
    for file in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches():
                number = np.arange(before, before + batch.num_rows, dtype=np.uint64)
                kept.append(batch.filter(pa.array(uniform(number, salt=seed) < share)))
                before += batch.num_rows
    return pa.Table.from_batches(kept)
