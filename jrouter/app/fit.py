"""`jrouter fit`: from a log to a saved router, with what the log says of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jrouter.app.card import router_card
from jrouter.app.diagnose import describe_report, diagnosed, lambdas_of
from jrouter.app.diagnosis_page import diagnosis_page
from jrouter.app.options import Folder, LogPlace, MaybeNumbers, Name
from jrouter.app.read import LogOptions, TeamLog, read_team_log
from jrouter.app.terminal import check_writable, heading
from jrouter.assessment import assess
from jrouter.io.results import plain
from jrouter.large_logs import fit_stream
from jrouter.methods import METHODS, build_method
from jrouter.router import Router

STREAMED = "rm_softmax"
"""The method of logs that are not held in memory."""
ASSESSED_ROWS = 20_000
"""Rows of such a log that its router is assessed on."""


def fit_router(
    team: TeamLog,
    report: dict[str, Any],
    *,
    method: str = "rm_auto",
    lambdas: Sequence[float] | None = None,
    seed: int = 0,
    assess_folds: int = 5,
    progress: bool | None = None,
) -> Router:
    """A router that remembers its log: what was read of it, and its verdict.

    Args:
      team: the log. A sampled one is streamed from its clean copy, by `STREAMED`.
      report: of `diagnose.diagnosed`.
      method: name in `METHODS`.
      lambdas: to serve; None for those where this log's scores and costs trade.
      seed: of splits, initialisation and shuffling.
      assess_folds: as of `Router.fit`.
      progress: whether to show a bar; None for where there is a terminal.

    Raises:
      ValueError: as `Router.fit`; for another method than `STREAMED` on a log that is streamed.
    """
    if team.sampled:
        router = _streamed(team, method, lambdas, seed, assess_folds)
    else:
        router = Router.fit(
            team.log,
            method=method,
            lambdas=lambdas,
            encoder=team.encoder,
            embedding=None if team.encoder is not None else _encoder_named(report["source"]["columns"]),
            seed=seed,
            assess_folds=assess_folds,
            progress=progress,
        )
    source = report["source"]
    data = {name: source[name] for name in ("fingerprint", "files", "time", "adapter")}
    record = {
        **router.record,
        "data": {
            **router.record["data"],
            **data,
            "rows": team.report.rows_kept,
            "propensity": report["propensity"]["kind"],
        },
        "verdict": report["verdict"],
        "price_date": source["time"][1] if source["time"] else None,  # prices are what the log paid
    }
    return replace(router, record=plain(record))


def _encoder_named(columns: dict[str, str]) -> str | None:
    """The encoder that a log's column of embeddings is named after."""
    name = columns.get("embedding", "").partition(":")[2]
    return name or None


def _streamed(team: TeamLog, method: str, lambdas: Any, seed: int, assess_folds: int) -> Router:
    if method not in ("rm_auto", STREAMED):
        raise ValueError(
            f"method {method!r} needs the log in memory, which holds {team.log.model.shape[0]:,} of its "
            f"{team.report.rows_kept:,} rows: raise --rows, or take {STREAMED}, which streams"
        )
    router = fit_stream(team.folder, lambdas=lambdas, models=team.log.models, cost_unit=team.log.cost_unit, seed=seed)
    if team.encoder is not None:
        router = router.with_encoder(team.encoder)
    if not assess_folds:
        return router
    log = jax.tree.map(lambda leaf: leaf[:ASSESSED_ROWS], team.log)
    found = assess(
        jax.random.key(seed),
        log,
        build_method(STREAMED),
        METHODS["best_single"](),
        jnp.asarray(router.lambdas),
        n_folds=assess_folds,
        seed=seed,
    )
    return replace(router, assessment=found)


def check_folder(flag: str, folder: Path) -> None:
    """Before an hour's work: whether a router may be saved there.

    Raises:
      ValueError: for what is there and is no router, and for a place that cannot be written to.
    """
    if folder.exists() and not (folder / "manifest.json").is_file():
        raise ValueError(f"{flag}: {folder} exists and is no router; give another folder")
    check_writable(flag, folder)


def save_with_pages(router: Router, folder: Path, report: dict[str, Any] | None) -> None:
    """Saves a router with its card, and with the diagnosis of its log where there is one: whole, or not at all."""
    files = {"card.html": router_card(router.manifest, report)}
    if report is not None:
        files["diagnosis.json"] = json.dumps(report, indent=1) + "\n"
        files["diagnosis.html"] = diagnosis_page(report)
    router.save(folder, files=files)


@dataclass(frozen=True)
class Fit:
    """Learns a router from a log and saves it, with its card, the log's diagnosis, and its estimated value.

    Exits with 3, saving nothing, where the log's verdict is refuse."""

    log: LogPlace
    """Parquet, CSV or JSON lines, a file, a folder or an s3:// or gs:// address."""
    out: Folder
    """Folder of the router; one that is there already is replaced once the new one is whole."""
    read: LogOptions = LogOptions()
    method: Name = "rm_auto"
    """How it learns: rm_auto takes the simplest of several rules unless this log supports another. Logs of more than
    --rows rows are streamed, by rm_softmax."""
    lambdas: MaybeNumbers = None
    """Cost preferences to serve, comma-separated, "paper" for 0, 100, ..., 1000; by default those where this log's
    scores and costs trade."""
    assess_folds: int = 5
    """The router is fitted so many times more, each time without a part of the log, to say what it is worth; 0 for
    not at all."""
    force: bool = False
    """Fits where the verdict is refuse, too."""
    seed: int = 0
    """Of folds, samples, initialisation and shuffling."""

    def run(self) -> int:
        check_folder("--out", self.out)
        lambdas = lambdas_of(self.lambdas)
        if self.method not in METHODS or METHODS[self.method]().full_feedback:
            known = ", ".join(name for name in METHODS if not METHODS[name]().full_feedback)
            raise ValueError(f"--method: expected one of {known}, got {self.method!r}")
        if self.assess_folds < 0 or self.assess_folds == 1:
            raise ValueError(f"--assess-folds: expected 0, or at least 2, got {self.assess_folds}")
        with read_team_log(self.log, self.read, seed=self.seed) as team:
            report = diagnosed(team, seed=self.seed)
            print(describe_report(report))
            if report["verdict"]["level"] == "refuse" and not self.force:
                print(
                    "\nNothing was fitted: at no lambda does this log support a router. See the reasons above; "
                    "`jrouter plan` says how much more log or exploration would do. --force fits all the same."
                )
                return 3
            router = fit_router(
                team,
                report,
                method=self.method,
                lambdas=lambdas,
                seed=self.seed,
                assess_folds=self.assess_folds,
            )
        save_with_pages(router, self.out, report)
        print(f"\n{heading(f'Router {router.version}')}\n{router.explain()}\n")
        print(f"Saved: {self.out}; its card: {self.out / 'card.html'}")
        return 0
