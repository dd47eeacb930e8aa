"""Table and figure of `leaderboard`, from its ranking alone."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from jrouter.io.results import text_table

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Okabe and Ito's colours, and markers for print.
KINDS = {
    "of jrouter": ("#0072B2", "o"),
    "baseline": ("#D55E00", "s"),
    "* full feedback, a reference": ("#000000", "D"),
}


def kind_of(method: dict[str, Any]) -> str:
    """Which of `KINDS` a method of the ranking is."""
    package, baseline, full = KINDS
    return full if method["full_feedback"] else baseline if method["baseline"] else package


def columns_of(runs: list[tuple[int, int]]) -> list[int]:
    """A column for each bar (first, last), the least in which it lies beside no other.

    >>> columns_of([(0, 3), (2, 5), (4, 6)])
    [0, 1, 0]
    """
    ends: list[int] = []
    columns = []
    for first, last in runs:
        free = next((place for place, end in enumerate(ends) if end < first), len(ends))
        ends[free : free + 1] = [last]
        columns.append(free)
    return columns


def critical_difference_figure(ranking: dict[str, Any], out: Path) -> None:
    """Mean ranks from the best down, with intervals, and beside them a bar for each clique.

    Turned by a quarter against Demsar's, so that many names can be read.
    """
    methods = sorted(ranking["methods"], key=lambda one: one["rank"]["estimate"])
    places = {one["method"]: place for place, one in enumerate(methods)}
    runs = [(places[names[0]], places[names[-1]]) for names in ranking["cliques"]]
    columns = columns_of(runs)
    n_columns = 1 + max(columns, default=0)
    figure, (axis, bars) = plt.subplots(
        1,
        2,
        figsize=(8.0 + 0.16 * n_columns, 1.8 + 0.21 * len(methods)),
        sharey=True,
        layout="constrained",
        width_ratios=[5.2, 0.16 * n_columns + 0.1],
    )
    for kind, (colour, marker) in KINDS.items():
        mine = [one for one in methods if kind_of(one) == kind]
        if not mine:
            continue
        rank, low, high = (np.array([one["rank"][end] for one in mine]) for end in ("estimate", "low", "high"))
        where = [places[one["method"]] for one in mine]
        # An interval of a scale that ends need not lie around its estimate.
        width = np.maximum([rank - low, high - rank], 0.0)
        style: dict[str, Any] = {"linestyle": "none", "marker": marker, "markersize": 4.5, "elinewidth": 1}
        axis.errorbar(rank, where, xerr=width, color=colour, label=kind, **style)
    for row in range(0, len(methods), 2):
        for one in (axis, bars):
            one.axhspan(row - 0.5, row + 0.5, color="black", alpha=0.04, linewidth=0)
    for (first, last), column in zip(runs, columns, strict=True):
        bars.plot([column, column], [first - 0.25, last + 0.25], color="black", linewidth=2.4, solid_capstyle="butt")
    start, critical = 1.0, ranking["critical_difference"]
    axis.plot([start, start + critical], [-1.3, -1.3], color="black", linewidth=1.2, marker="|", markersize=7)
    axis.annotate(f"critical difference {critical:.1f}", (start, -1.9), fontsize=8, va="bottom")
    axis.set_ylim(len(methods) - 0.4, -3.2)
    axis.set_xlim(0.5, max(len(methods) + 0.5, start + critical + 0.5))
    names = [one["method"] + "*" * one["full_feedback"] for one in methods]
    axis.set_yticks(range(len(methods)), names, fontsize=8)
    axis.set_xlabel(f"mean rank over {len(ranking['blocks'])} blocks, 95% intervals", fontsize=9)
    axis.grid(axis="x", alpha=0.25)
    bars.set_xlim(-0.7, n_columns - 0.3)
    bars.set_xticks([])
    bars.tick_params(left=False)
    bars.spines[["top", "right", "bottom", "left"]].set_visible(False)
    bars.set_title("a bar: not told apart", fontsize=8)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.savefig(out, dpi=130)
    plt.close(figure)


def print_ranking(ranking: dict[str, Any]) -> None:
    """The ranking as a table, and what the tests over blocks say."""

    def shown(interval: dict[str, float] | None, scale: float) -> str:
        if interval is None:
            return ""
        estimate, low, high = (scale * interval[end] for end in ("estimate", "low", "high"))
        return f"{estimate:.1f} [{low:.1f}, {high:.1f}]"

    lines = [
        [
            one["method"] + "*" * one["full_feedback"],
            shown(one["utility"], 100),
            shown(one["rank"], 1),
            shown(one["less_next"], 100),
            one["against_next"] or "",
        ]
        for one in ranking["methods"]
    ]
    print(f"\n{len(ranking['blocks'])} blocks, 95% intervals over blocks and test queries; * has full feedback")
    print(text_table(["method", "mean utility x 100", "mean rank", "less the next x 100", "against it"], lines))
    test, critical = ranking["friedman"], ranking["critical_difference"]
    print(f"Friedman's test: p = {test['p_value']:.2g}; critical difference of mean ranks: {critical:.1f}")
