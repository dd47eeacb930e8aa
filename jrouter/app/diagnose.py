"""`jrouter diagnose`: may this log be trusted, and where? In the terminal, as JSON, and as a page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jrouter.app.diagnosis_page import diagnosis_page
from jrouter.app.log_report import diagnose_log
from jrouter.app.options import LogPlace, MaybeFile, MaybeNumbers
from jrouter.app.read import LogOptions, TeamLog, read_team_log
from jrouter.app.terminal import bullets, check_file, heading
from jrouter.interval import PAPER_LAMBDAS
from jrouter.io.replace import replace_whole
from jrouter.io.results import text_table


def diagnosed(team: TeamLog, *, lambdas: Sequence[float] | None = None, seed: int = 0) -> dict[str, Any]:
    """The report of a log that was read: `diagnose_log`, and what was read and rejected."""
    report = {"source": team.report.to_dict(), **diagnose_log(team.log, lambdas=lambdas, seed=seed)}
    report["log"]["time"] = team.report.time
    sampled = {"rows": int(team.log.model.shape[0]), "of": team.report.rows_kept}
    return {**report, "sample": sampled if team.sampled else None}


def describe_report(report: dict[str, Any]) -> str:
    """A report as text for a terminal."""
    source, log = report.get("source"), report["log"]
    verdict = report["verdict"]
    said = {
        "ok": "ok: what is estimated from this log may be trusted",
        "caution": "caution: trust it at some lambdas, for some models, within limits; see why",
        "refuse": "refuse: at no lambda can a value estimated from this log be trusted",
    }
    lines = [heading(f"Verdict: {said[verdict['level']]}"), *bullets(verdict["reasons"])]
    if source is not None:
        lines += ["", heading("Rows"), *_rows_read(source)]
    if report.get("sample"):
        lines.append(f"  diagnosed on a random sample of {report['sample']['rows']:,} of these rows")
    unit = log["cost_unit"]
    lines += [
        "",
        heading("Log"),
        f"  {log['rows']:,} rows, {log['queries']:,} queries, {log['models']} models; "
        f"{100 * log['scored_share']:.1f}% scored; mean score {log['mean_score']:.3f}, "
        f"mean cost {log['mean_cost']:.4g} {unit}",
        *bullets([report["propensity"]["statement"]]),
        "",
        heading("Models (as if each were the policy)"),
    ]
    table = [
        [
            row["name"],
            f"{row['rows']:,}",
            "" if row["mean_score"] is None else f"{row['mean_score']:.3f}",
            "" if row["mean_cost"] is None else f"{row['mean_cost']:.3g}",
            f"{row['effective_rows']:,.0f}",
            f"{row['pareto_k']:.2f}",
            f"{100 * row['no_support']:.0f}%",
            f"{row['smd_before']:.2f}",
            f"{row['smd_after']:.2f}",
            row["verdict"],
        ]
        for row in report["models"]
    ]
    header = [
        "model",
        "rows",
        "score",
        f"cost {unit}",
        "effective",
        "Pareto k",
        "no support",
        "SMD",
        "after",
        "verdict",
    ]
    lines += ["  " + line for line in text_table(header, table).splitlines()]
    lines += ["", heading("The rule that takes the best held-out estimate, at each lambda (utility x 100)")]
    table = [
        [
            f"{row['lam']:.4g}",
            f"{100 * row['value']:.1f}",
            f"{100 * row['gain']:+.1f} [{100 * row['gain_low']:+.1f}, {100 * row['gain_high']:+.1f}]",
            f"{row['effective_rows']:,.0f}",
            f"{100 * row['no_support']:.0f}%",
            row["verdict"],
        ]
        for row in report["by_lambda"]
    ]
    header = ["lambda", "value", "gain over logging", "effective rows", "no support", "verdict"]
    lines += ["  " + line for line in text_table(header, table).splitlines()]
    calibration = report["propensity"]["calibration"]
    if calibration is not None:
        lines += ["", f"  propensities: calibration error {calibration['error']:.3f}, slope {calibration['slope']:.2f}"]
    return "\n".join(lines)


def _rows_read(source: dict[str, Any]) -> list[str]:
    rejected = sum(one["rows"] for one in source["rejected"])
    dropped = sum(source["dropped"].values())
    lines = [
        f"  {source['rows_read']:,} read, {source['rows_kept']:,} kept, {rejected:,} rejected, {dropped:,} left out"
    ]
    for one in source["rejected"]:
        first = ", ".join(f"{row['file']} row {row['row']}" for row in one["first"][:3])
        lines.append(f"  - {one['rows']:,} rejected: {one['reason']} ({first}{', ...' if one['rows'] > 3 else ''})")
    lines += [f"  - {count:,} left out: {reason}" for reason, count in source["dropped"].items()]
    if source["unscored"]:
        lines.append(f"  {source['unscored']:,} of those kept have no score: they inform cost and propensities only")
    if source.get("joined"):
        joined = source["joined"]
        lines.append(f"  scores joined: {joined['matched']:,} of {joined['scores']:,} matched a row of the log")
    return lines + [f"  ! {warning}" for warning in source["warnings"]]


@dataclass(frozen=True)
class Diagnose:
    """Reads and checks a log, and says what it supports: ok, caution or refuse, by model and by lambda.

    Exits with 0 for ok and caution, 3 for refuse."""

    log: LogPlace
    """Parquet, CSV or JSON lines, a file, a folder or an s3:// or gs:// address."""
    read: LogOptions = LogOptions()
    lambdas: MaybeNumbers = None
    """Comma-separated; by default five where this log's scores and costs trade."""
    json: MaybeFile = None
    """Also writes the report there."""
    html: MaybeFile = None
    """Also writes it as one page, with plots."""
    seed: int = 0
    """Of folds and samples."""

    def run(self) -> int:
        lambdas = lambdas_of(self.lambdas)
        check_file("--json", self.json)
        check_file("--html", self.html)
        with read_team_log(self.log, self.read, seed=self.seed) as team:
            report = diagnosed(team, lambdas=lambdas, seed=self.seed)
        print(describe_report(report))
        if self.json is not None:
            replace_whole(self.json, lambda file: file.write(json.dumps(report, indent=1) + "\n"))
        if self.html is not None:
            replace_whole(self.html, lambda file: file.write(diagnosis_page(report)))
        return 3 if report["verdict"]["level"] == "refuse" else 0


def lambdas_of(given: str | None) -> list[float] | None:
    """Comma-separated lambdas; None and "auto" for None.

    Raises:
      ValueError: something else than ascending numbers of at least 0.

    >>> lambdas_of("0,300"), lambdas_of("auto")
    ([0.0, 300.0], None)
    """
    if given is None or given == "auto":
        return None
    if given == "paper":
        return list(PAPER_LAMBDAS)
    try:
        found = [float(one) for one in given.split(",")]
    except ValueError:
        found = []
    if not found or not np.isfinite(found).all() or found[0] < 0 or (np.diff(found) <= 0).any():
        raise ValueError(
            "--lambdas: expected auto, paper, or ascending numbers of at least 0 with commas between them, "
            f"got {given!r}"
        )
    return found
