"""Tables and figure of `assumptions.py`, from its result file alone."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from cells import current, select, values_of
from data import RESULTS
from scipy import stats

from jrouter.io.results import write_csv

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULT = RESULTS / "assumptions.json"
STRENGTHS = {
    "affine": "how far from affine",
    "lipschitz": "height of the jump",
    "ignorability": "share logged by score",
    "sutva": "loss on a switch",
    "traffic": "tilt of later queries",
    "decline": "fall of one model's score",
}
"""Violation -> what its strength is."""
TITLES = {
    "affine": "utility is not affine",
    "lipschitz": "mean scores jump",
    "ignorability": "logged by outcomes",
    "sutva": "turns interfere",
    "traffic": "later queries differ",
    "decline": "a model becomes worse",
}
COLUMNS = ("violation", "variant", "strength", "kind", "name", "logs", "truth", "bias", "bias_error", "spread", "error")
MORE_COLUMNS = ("coverage", "utility", "utility_error", "regret", "regret_error", "share")


def cells_of(path: Path, violation: str) -> list[dict[str, Any]]:
    """Cells of one violation, by variant and strength."""
    found = [cell for group in current(path) for cell in select(group["cells"], violation=violation)]
    order = values_of(found, "variant")
    return sorted(found, key=lambda cell: (order.index(cell["key"]["variant"]), cell["key"]["strength"]))


def half_width(error: float, logs: int) -> float:
    """Half of the 95% interval of a mean over logs."""
    return float(stats.t.ppf(0.975, logs - 1)) * error


def _table(cells: list[dict], columns: dict[str, Callable[[dict], str]]) -> str:
    """Markdown: variant (where there are several), strength, and the columns."""
    name = STRENGTHS[cells[0]["key"]["violation"]]
    several = len(values_of(cells, "variant")) > 1
    # A bar would end the cell.
    head = [title.replace("|", "\\|") for title in (*["variant"] * several, name, *columns)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * several + "---:|" * (1 + len(columns))]
    for cell in cells:
        key = cell["key"]
        row = [*[key["variant"]] * several, f"{key['strength']:g}", *[of(cell) for of in columns.values()]]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def value_table(violation: str, path: Path = RESULT) -> str:
    """Bias x 100, half of its 95% interval, and the share of intervals that hold the truth."""

    def of(name: str, cell: dict) -> str:
        one = cell["values"].get(name)
        if one is None:
            return ""
        width = 100 * half_width(one["bias_error"], one["logs"])
        return f"{100 * one['bias']:+.1f} ± {width:.1f}, {100 * one['coverage']:.0f}%"

    cells = cells_of(path, violation)
    return _table(cells, {name: partial(of, name) for name in _first(cells[0]["values"])})


def _first(values: dict[str, Any]) -> list[str]:
    """Names of analyses, doubly robust ones first, then as they come."""
    return sorted(values, key=lambda name: not name.startswith("dr"))


def learner_table(violation: str, path: Path = RESULT) -> str:
    """Regret x 100 of learners, or utility where there is no regret, with half of the 95% interval over logs."""

    def of(name: str, cell: dict) -> str:
        one = cell["learned"][name]
        part = "regret" if "regret" in one else "utility"
        return f"{100 * one[part]:.1f} ± {100 * half_width(one[f'{part}_error'], one['logs']):.1f}"

    cells = cells_of(path, violation)
    return _table(cells, {f"`{name}`" if name in _plain(cells) else name: partial(of, name) for name in _names(cells)})


def _names(cells: list[dict]) -> list[str]:
    return list(cells[0]["learned"])


def _plain(cells: list[dict]) -> list[str]:
    return [name for name in _names(cells) if "," not in name]


def share_table(violation: str, path: Path = RESULT) -> str:
    """What else was counted, in percent."""
    cells = cells_of(path, violation)
    return _table(
        cells, {name: lambda cell, name=name: f"{100 * cell['shares'][name]:.1f}%" for name in cells[0]["shares"]}
    )


def bound_table(path: Path = RESULT) -> str:
    """Mean regret x 100 of the randomised router, its bounds, and the share of queries on which they are broken."""

    def of(kind: str, name: str, cell: dict) -> str:
        shares = cell["shares"]
        broken = shares.get(f"{kind}: {name} broken")
        return f"{100 * shares[f'{kind}: {name}']:.1f}" + ("" if broken is None else f", {100 * broken:.1f}%")

    columns = {"regret": ("right L", "regret")}
    for kind in ("right L", "L without the jump"):
        columns |= {f"Pinsker, {kind}": (kind, "pinsker"), f"exact, {kind}": (kind, "exact")}
    columns |= {
        "regret to realised best": ("realised outcomes", "regret"),
        "Pinsker, realised": ("realised outcomes", "pinsker"),
        "exact, realised": ("realised outcomes", "exact"),
    }
    return _table(cells_of(path, "lipschitz"), {name: partial(of, *where) for name, where in columns.items()})


TABLES: dict[str, Callable[[], str]] = {
    **{f"assumption_{name}": partial(value_table, name) for name in STRENGTHS},
    **{f"learned_{name}": partial(learner_table, name) for name in STRENGTHS},
    **{f"shares_{name}": partial(share_table, name) for name in ("ignorability", "sutva", "traffic", "decline")},
    "bounds": bound_table,
}
"""Marker of the page -> table."""


def print_tables(path: Path) -> None:
    """All tables of a result file, those of the page."""
    for violation in (name for name in STRENGTHS if cells_of(path, name)):
        cells = cells_of(path, violation)
        logs = next(iter(cells[0]["values"].values()))["logs"]
        print(f"\n{TITLES[violation]}: bias x 100, coverage of 95% intervals, {logs} logs")
        print(value_table(violation, path))
        print("regret x 100 (utility, where there is no best to compare with)")
        print(learner_table(violation, path))
        if violation == "lipschitz":
            print("regret x 100 of the router that draws, its bounds, share of queries on which they are broken")
            print(bound_table(path))
        elif cells[0]["shares"]:
            print(share_table(violation, path))


def write_rows(path: Path) -> None:
    """The CSV: one row per cell and analysis, learner or share."""
    columns = [*COLUMNS, *MORE_COLUMNS]
    rows = []
    for violation in STRENGTHS:
        for cell in cells_of(path, violation):
            for kind in ("values", "learned", "shares"):
                for name, found in cell[kind].items():
                    numbers = {"share": found} if kind == "shares" else found
                    row = cell["key"] | {"kind": kind, "name": name} | numbers
                    rows.append([row.get(column, "") for column in columns])
    write_csv(path.with_suffix(".csv"), columns, rows)


class Line(NamedTuple):
    """A line of the figure: an analysis, its label and style, and of which variant (None for the only one)."""

    name: str
    label: str
    style: dict[str, Any]
    variant: str | None = None


# Okabe and Ito's colours: what is wrong in warm ones and solid, what is right in blue and dashed.
WRONG = {"color": "#D55E00", "linestyle": "-", "marker": "o"}
ALSO_WRONG = {"color": "#E69F00", "linestyle": "-", "marker": "s"}
RIGHT = {"color": "#0072B2", "linestyle": "--", "marker": "^"}
ALSO_RIGHT = {"color": "#009E73", "linestyle": "--", "marker": "v"}
DIRECT = {"color": "#999999", "linestyle": ":", "marker": "x"}
IPS = {"color": "#CC79A7", "linestyle": ":", "marker": "+"}

LINES: dict[str, Sequence[Line]] = {
    "affine": [
        Line("of predicted score and cost", "budget: of score and cost", WRONG, "budget 0.002"),
        Line("dr on the utility", "budget: dr on the utility", RIGHT, "budget 0.002"),
        Line("of predicted score and cost", "quadratic: of score and cost", ALSO_WRONG, "quadratic penalty"),
        Line("dr on the utility", "quadratic: dr on the utility", ALSO_RIGHT, "quadratic penalty"),
        Line("of predicted score and cost", "logarithm: of score and cost", IPS, "logarithm"),
        Line("dr on the utility", "logarithm: dr on the utility", DIRECT, "logarithm"),
    ],
    "lipschitz": [
        Line("dr", "dr, logger follows the jump", WRONG, "logged by the jump too"),
        Line("direct", "direct, logger follows the jump", DIRECT, "logged by the jump too"),
        Line("dr", "dr, logger does not", RIGHT, "logged smoothly"),
        Line("dr, true propensities", "dr, true p, logger follows", ALSO_RIGHT, "logged by the jump too"),
    ],
    "ignorability": [
        Line("dr", "dr, p estimated from x", WRONG),
        Line("direct", "direct", DIRECT),
        Line("ips", "ips, p estimated from x", IPS),
        Line("dr, true p(t | x, outcomes)", "dr, true p(t | x, outcomes)", RIGHT),
    ],
    "sutva": [
        Line("dr, by rows", "dr, by rows", WRONG),
        Line("dr, by sessions", "dr, clustered by session", ALSO_WRONG),
        Line("dr, turn before in x", "dr, turn before in x", DIRECT),
        Line("dr, by pairs of turns", "dr, by pairs of turns", RIGHT),
    ],
    "traffic": [
        Line("dr", "dr, of later queries", WRONG),
        Line("dr, known ratio", "dr, known ratio", RIGHT),
        Line("dr, estimated ratio", "dr, estimated ratio", ALSO_RIGHT),
        Line("dr, of the log's traffic", "dr, of the log's own", DIRECT),
    ],
    "decline": [
        Line("dr", "dr, fall after the log", WRONG, "after the log"),
        Line("dr", "dr, fall in its last quarter", ALSO_WRONG, "in the log's last quarter"),
        Line("dr, last quarter", "the same, last quarter alone", RIGHT, "in the log's last quarter"),
    ],
}
"""What the figure shows of each violation."""


def assumption_figure(path: Path, out: Path) -> None:
    """Bias (above) and coverage (below) by strength, a column per violation."""
    shown = [name for name in STRENGTHS if cells_of(path, name)]
    figure, axes = plt.subplots(
        2, len(shown), figsize=(0.8 + 3.3 * len(shown), 7.2), squeeze=False, sharex="col", layout="constrained"
    )
    for bias, coverage, name in zip(*axes, shown, strict=True):
        cells = cells_of(path, name)
        for line in LINES[name]:
            mine = cells if line.variant is None else select(cells, variant=line.variant)
            mine = [cell for cell in mine if line.name in cell["values"]]
            if not mine:
                continue
            found = [cell["values"][line.name] for cell in mine]
            where, style = [cell["key"]["strength"] for cell in mine], line.style | {"markersize": 5}
            mean = 100 * np.array([one["bias"] for one in found])
            width = 100 * np.array([half_width(one["bias_error"], one["logs"]) for one in found])
            bias.errorbar(where, mean, yerr=width, label=line.label, elinewidth=1, **style)
            coverage.plot(where, [100 * one["coverage"] for one in found], **style)
        bias.axhline(0, color="black", linewidth=0.8)
        bias.set_title(TITLES[name], fontsize=11)
        bias.legend(fontsize=7.5, frameon=False, loc="best")
        coverage.axhline(95, color="black", linewidth=0.8)
        logs = next(iter(cells[0]["values"].values()))["logs"]
        # What an interval that is right would show, 95 times of 100.
        low, high = stats.binom.ppf([0.025, 0.975], logs, 0.95) / logs
        coverage.axhspan(100 * low, 100 * high, color="black", alpha=0.08, linewidth=0)
        coverage.set_ylim(-4, 104)
        coverage.set_xlabel(STRENGTHS[name])
        coverage.set_xticks(sorted({cell["key"]["strength"] for cell in cells}))
        coverage.xaxis.set_major_formatter("{x:g}")
        for axis in (bias, coverage):
            axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("bias x 100, with 95% interval over logs")
    axes[1][0].set_ylabel("95% intervals that hold the truth, %")
    partial_file = out.with_suffix(".partial.png")
    figure.savefig(partial_file, dpi=110)
    plt.close(figure)
    partial_file.replace(out)
