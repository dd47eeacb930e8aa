"""What the page of a diagnosis and the card of a router have in common."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from jrouter.app.numbers import count, fixed, number
from jrouter.app.page import Markup, bullets, element, figure, join, level, table, with_code
from jrouter.app.plots import gains
from jrouter.app.svg import inline_svg

WORDS = {
    "score": "How good an answer was, as the log says: a judge's mark, a thumb, a passed test. Higher is better.",
    "lambda": "What cost weighs: utility = score − lambda × cost. At lambda = 100 per USD, 0.01 USD more per query "
    "must bring a score higher by 1.",
    "gain": "Mean utility of a policy less that of what the log did, for queries like the log's.",
    "propensity": "The probability with which the logging policy chose the model that it chose.",
    "importance weight": "How much one logged row stands for when another policy is valued: the policy's probability "
    "of the logged model, divided by the propensity.",
    "effective rows": "How many rows of equal weight would tell as much as the weighted rows do.",
    "Pareto k": "How heavy the tail of the weights is. From 0.7 on a few rows decide, and standard errors say little.",
    "no support": "Share of a policy's choices on queries where that model was hardly ever logged.",
    "SMD": "Standardised mean difference: how far one model's queries are from all queries, in standard deviations, at "
    "the worst feature. Above 0.1 after weighting, the weights have not made them alike.",
    "slope": "Of what was observed on what was predicted: 1 is calibrated, below 1 predictions vary too much.",
}


def part(whole: Any, name: str) -> Mapping[str, Any]:
    """A part that is an object, or an empty one."""
    found = whole.get(name) if isinstance(whole, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def sentence(words: Any) -> str:
    """Words with a capital letter first and a full stop.

    >>> sentence("the log has none")
    'The log has none.'
    """
    said = str(words).strip().rstrip(".")
    return f"{said[:1].upper()}{said[1:]}."


def file_names(source: Any) -> str:
    """Names of the files of a log, as a heading has room for."""
    names = [str(file.get("name")) for file in part({"source": source}, "source").get("files") or []]
    if not names:
        return "a log"
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def times(span: Any) -> tuple[str, str | None]:
    """The first day, and until when."""
    if not isinstance(span, Sequence) or isinstance(span, str) or len(span) != 2:
        return "not known", None
    return str(span[0])[:10], f"to {str(span[1])[:10]}"


def verdict_box(verdict: Any, meaning: Mapping[str, tuple[str, Sequence[tuple[str, str]]]], found: str = "") -> Markup:
    """The verdict, what it means, its reasons, what was found, and what to do: (words, command) each."""
    given = part({"verdict": verdict}, "verdict")
    name = str(given.get("level"))
    if name not in meaning:
        heading = element("h2", "Verdict: ", level(given.get("level")))
        return element("div", heading, element("p", "None was given."), class_="verdict unknown")
    says, steps = meaning[name]
    told = given.get("reasons") or []
    reasons = [
        sentence(told[first]) + (f" Likewise {len(others)} more, below." if others else "")
        for first, *others in alike(told)
    ]
    return element(
        "div",
        element("h2", "Verdict: ", level(name)),
        element("p", element("strong", says)),
        bullets(reasons),
        element("p", found) if found else None,
        element("h3", "What to do"),
        bullets(join([words, element("code", command) if command else None]) for words, command in steps),
        class_=f"verdict {name}",
    )


def per_thousand(cost: Any) -> float | None:
    """A cost of 1,000 queries."""
    return None if cost is None else 1000 * cost


def versions_line(versions: Any) -> Markup:
    """Versions of what computed."""
    found = part({"versions": versions}, "versions")
    return element("p", "Made by ", ", ".join(f"{name} {value}" for name, value in found.items()) or "jrouter", ".")


def gains_figure(rows: Sequence[Mapping[str, Any]], unit: str, said: str, *, band: bool = False) -> Markup:
    """The gains at all lambdas, drawn: with the band where there is one; `said` is for who cannot see it, too."""
    names = ("gain", "gain_low", "gain_high", "verdict", *(("band_low", "band_high") if band else ()))
    found = {name: [row[name] for row in rows] for name in names}
    svg = inline_svg(
        partial(gains, lambdas=[row["lam"] for row in rows], found=found, unit=unit),
        f"Gain over the logging policy at {len(rows)} lambdas with 95% intervals{' and a band' * band}. {said}",
        name="gain",
    )
    caption = "Utility × 100 per query; bars are 95% intervals. Circle: verdict ok; triangle: caution; cross: refuse."
    if band:
        caption += " The shaded band holds the gains at all lambdas at once."
    return element("div", figure(svg, "Gain over what the log did", caption), class_="figures")


def gain_cells(row: Mapping[str, Any]) -> list[str]:
    """Of one lambda, for a table: lambda, value, that of the log, and the gain with its interval."""
    value, logged = (fixed(100 * row[name], 1) for name in ("value", "logging_value"))
    return [number(row["lam"], 4), value, logged, interval(row["gain"], row["gain_low"], row["gain_high"])]


def interval(value: Any, low: Any, high: Any) -> str:
    """A gain x 100 with its interval."""
    value, low, high = (fixed(None if one is None else 100 * one, 1, sign=True) for one in (value, low, high))
    return f"{value} [{low}, {high}]"


def alike(reasons: Sequence[Any]) -> list[list[int]]:
    """Places of reasons, those together that differ in their numbers alone.

    >>> alike(["lambda 0: 5 rows", "no scores", "lambda 16, 90: 7 rows"])
    [[0, 2], [1]]
    """
    found: dict[str, list[int]] = {}
    for place, reason in enumerate(reasons):
        kind = re.sub(r"[-+−]?[\d.,]*\d(e[-+]\d+)?", "#", str(reason))
        found.setdefault(re.sub(r"#(, #)+", "#", kind), []).append(place)
    return list(found.values())


def reasons_told(told: Sequence[tuple[str, Any]]) -> Markup:
    """Reasons (of whom, why); those that differ in their numbers alone are told once, with the first one's numbers."""
    if not told:
        return Markup()
    items = []
    for first, *others in alike([reason for _, reason in told]):
        whose, reason = told[first]
        likewise = f". Likewise: {', '.join(told[other][0] for other in others)}." if others else "."
        items.append(join([element("strong", whose), ": ", with_code(str(reason).rstrip(".")), likewise]))
    return join([element("h3", "Reasons"), bullets(items)])


def reasons_by_lambda(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """The reasons of the verdicts at all lambdas."""
    return reasons_told(
        [(f"lambda {number(row['lam'], 4)}", reason) for row in rows for reason in row.get("reasons") or []]
    )


def source_section(report: Mapping[str, Any]) -> list[Markup]:
    """Files, columns, and what was rejected, dropped, joined and warned of."""
    source = part(report, "source")
    if not source:
        return [element("p", "Not in this report.")]
    joined, rejected = part(source, "joined"), source.get("rejected") or []
    said = [f"{count(source.get('rows_kept'))} of {count(source.get('rows_read'))} rows were kept."]
    said += [
        f"{count(rows)} rows were left out, as the gateway says: {reason}."
        for reason, rows in part(source, "dropped").items()
    ]
    if source.get("unscored"):
        said.append(f"{count(source['unscored'])} kept rows have no score.")
    if joined:
        said.append(
            f"Scores were joined: {count(joined.get('matched'))} of {count(joined.get('scores'))} found their row, "
            f"{count(joined.get('unmatched'))} did not."
        )
    if source.get("adapter"):
        said.append(f"Read as {source['adapter']}.")
    content = [bullets(said)]
    if source.get("warnings"):
        content += [element("h3", "Warnings"), bullets(source["warnings"])]
    content += [element("h3", "Rejected rows")]
    if rejected:
        rows = [
            [one["reason"], count(one["rows"]), join([_place(place) for place in one.get("first") or []], "; ")]
            for one in rejected
        ]
        content.append(
            table(["reason", "rows", "first of them"], rows, caption="Rows left out.", long="first of them")
        )  # fmt: skip
    else:
        content.append(element("p", "None."))
    columns = part(source, "columns")
    if columns:
        rows = [[ours, element("code", theirs)] for ours, theirs in columns.items()]
        content += [
            element("h3", "Columns"),
            table(["column", "taken from"], rows, caption="Where each column comes from.", words=["taken from"]),
        ]
    return [*content, *files_table(source.get("files"), source.get("fingerprint"))]


def _place(place: Mapping[str, Any]) -> Markup:
    where = f"{place.get('file')} row {count(place.get('row'))}"
    return join([where, ": ", element("code", place.get("found"))]) if place.get("found") is not None else join([where])


def files_table(files: Any, fingerprint: Any) -> list[Markup]:
    """The files that a log was read from, and the digest of what was kept of them."""
    content = []
    if files:
        rows = [[file.get("name"), count(file.get("rows")), count(file.get("bytes"))] for file in files]
        content += [element("h3", "Files"), table(["file", "rows", "bytes"], rows, caption="Files read.")]
    if fingerprint:
        content.append(element("p", "Fingerprint of the kept rows (SHA-256): ", element("code", fingerprint)))
    return content
