"""Tables of intervals and of what breaks them, from committed results."""

from statistics import median

from cells import current, select
from confounding_table import TABLE_COLUMNS, table_rows
from coverage_logs import REGIMES
from coverage_table import covered_of, judged_of
from data import RESULTS
from power import needed_as_text
from price_of_choosing import summaries
from table_text import hundredfold, load

from jrouter.off_policy import VALUE_ESTIMATORS


def coverage_table() -> str:
    """Coverage of 95% intervals of the doubly robust value, by regime, and the verdict."""
    groups = current(RESULTS / "coverage.json")
    covered = {(one.regime, one.kind, one.estimator): one for one in covered_of(groups)}
    lines = [
        "| regime | logs | default holds | where ok | nuisances as they are | usual bootstrap | of snips | of direct "
        "| ok, caution, refuse |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in judged_of(groups):
        shown = [
            f"{100 * covered[one.regime, kind, name].coverage:.1f}"
            for kind, name in (("as is", "dr"), *(("bootstrap as is", name) for name in ("dr", "snips", "direct")))
        ]
        where_ok = "" if one.covered_where_ok is None else f"{100 * one.covered_where_ok:.1f} ({one.ok})"
        verdicts = ", ".join(f"{100 * share:.1f}" for share in one.verdicts.values())
        name = f"{one.regime} \\*" if REGIMES[one.regime].reported else one.regime
        lines.append(
            f"| {name} | {one.logs} | {100 * one.coverage:.1f} | {where_ok} | {' | '.join(shown)} | {verdicts} |"
        )
    return "\n".join(lines)


def estimator_table() -> str:
    """Least and largest coverage of every estimator's 95% intervals over the regimes with a right nuisance."""
    covered = [one for one in covered_of(current(RESULTS / "coverage.json")) if "both wrong" not in one.regime]
    names = {
        "as is": "standard errors, nuisances as they are",
        "bootstrap as is": "bootstrap, nuisances as they are",
        "obp": "Open Bandit Pipeline's bootstrap",
        "bootstrap refitted": "bootstrap, nuisances fitted again",
        "jackknife": "standard errors through the fits",
    }
    heads = [f"`{name}`" for name in VALUE_ESTIMATORS]
    lines = ["| interval | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for kind, said in names.items():
        cells = []
        for name in VALUE_ESTIMATORS:
            shares = [100 * one.coverage for one in covered if (one.kind, one.estimator) == (kind, name)]
            cells.append(f"{min(shares):.0f} to {max(shares):.0f}" if shares else "")
        if any(cells):
            lines.append(f"| {said} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def peer_table() -> str:
    """Of the doubly robust value on the same logs: coverage, width and time, here and in Open Bandit Pipeline."""
    groups = current(RESULTS / "coverage.json")
    covered = {(one.regime, one.kind, one.estimator): one for one in covered_of(groups)}
    cells = [cell for group in groups for cell in group["cells"]]
    batch = groups[0]["configuration"]["batch"]

    def milliseconds(regime: str, part: str) -> float:
        return 1e3 * median(cell["seconds"] for cell in select(cells, regime=regime, part=part)) / batch

    lines = [
        "| regime | jrouter: % held | width x 100 | ms a log | obp, dr: % held | width x 100 | ms a log | snips | dm |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for regime in [name for name in REGIMES if (name, "obp", "dr") in covered]:
        ours, theirs = covered[regime, "jackknife", "dr"], covered[regime, "obp", "dr"]
        others = [f"{100 * covered[regime, 'obp', name].coverage:.1f}" for name in ("snips", "direct")]
        parts = [
            f"{100 * one.coverage:.1f} | {100 * one.width:.2f} | {milliseconds(regime, part):.0f}"
            for one, part in ((ours, "default"), (theirs, "obp"))
        ]
        lines.append(f"| {regime} | {' | '.join(parts)} | {' | '.join(others)} |")
    return "\n".join(lines)


def price_table() -> str:
    """Naive and honest intervals of what was chosen on the log: bias, coverage, width."""
    lines = [
        "| what was chosen | interval | logs | bias x 100 | 95% intervals that hold | width x 100 |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in summaries(current(RESULTS / "price_of_choosing.json")):
        lines.append(
            f"| {row['way']} | {row['interval']} | {row['logs']} | {100 * row['bias']:+.2f} ± "
            f"{196 * row['bias_error']:.2f} | {100 * row['coverage']:.1f}% ± {196 * row['coverage_error']:.1f} | "
            f"{100 * row['width']:.1f} |"
        )
    return "\n".join(lines)


def power_table() -> str:
    """Rows for a power of 0.8 by gain and exploration, simulated and by the formula, and what exploring costs."""
    (setting,) = load("power")
    shares = setting["gains"][0]["explorations"]
    lines = [
        "| | " + " | ".join(f"{one['exploration']:.0%} explored" for one in shares) + " |",
        "|---|" + "---:|" * len(shares),
    ]
    for gain in setting["gains"]:
        cells = needed_as_text(gain, setting["max_rows"])
        lines.append(f"| rows for a gain of {100 * gain['gain']:g} points | " + " | ".join(cells) + " |")
    prices = " | ".join(hundredfold(one["price"]) for one in shares)
    lines.append(f"| points that exploring costs per query | {prices} |")
    return "\n".join(lines)


def confounding_table() -> str:
    """Bounds under a hidden coin, by its strength."""
    lines = ["| " + " | ".join(TABLE_COLUMNS) + " |", "|" + "---:|" * len(TABLE_COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in table_rows(RESULTS / "confounding.json")]
    return "\n".join(lines)
