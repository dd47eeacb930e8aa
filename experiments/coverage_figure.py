"""Figures of `coverage.py`: how often each interval holds the truth, and what the verdict says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PANELS = {
    "jackknife": "jackknife: the nuisances' own error held",
    "bootstrap refitted": "bootstrap, nuisances fitted again",
    "as is": "standard error, nuisances as they are",
    "bootstrap as is": "usual bootstrap, nuisances as they are",
    "obp": "Open Bandit Pipeline, the same nuisances",
}
VERDICT_COLOURS = {"ok": "#009E73", "caution": "#E69F00", "refuse": "#D55E00"}


def coverage_figure(covered: Sequence[Any], out: Path) -> None:
    """A panel for each kind of interval: regimes down, estimators across, coverage in %."""
    kinds = [kind for kind in PANELS if any(one.kind == kind for one in covered)]
    regimes = list(dict.fromkeys(one.regime for one in covered))
    columns = 2 if len(kinds) > 1 else 1
    rows = -(-len(kinds) // columns)
    size = (2.6 + 4.6 * columns, 1.0 + rows * (1.1 + 0.3 * len(regimes)))
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    image = None
    for axis, kind in zip(axes.flat, kinds, strict=False):
        mine = [one for one in covered if one.kind == kind]
        names = list(dict.fromkeys(one.estimator for one in mine))
        grid = np.full((len(regimes), len(names)), np.nan)
        for one in mine:
            grid[regimes.index(one.regime), names.index(one.estimator)] = 100 * one.coverage
        image = axis.imshow(grid, cmap="RdYlBu", vmin=70, vmax=100, aspect="auto")
        for (row, column), value in np.ndenumerate(grid):
            if np.isfinite(value):
                far = value < 75
                axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="w" if far else "k")
        axis.set_xticks(range(len(names)), names, fontsize=9)
        axis.set_yticks(range(len(regimes)), regimes, fontsize=9)
        axis.set_title(PANELS[kind], fontsize=10)
    for axis in list(axes.flat)[len(kinds) :]:
        axis.set_visible(False)
    if image is not None:
        bar = figure.colorbar(image, ax=axes, shrink=0.6, extend="min")
        bar.set_label("% of logs whose 95% interval holds the truth")
        bar.ax.axhline(95, color="black")
    figure.savefig(out, dpi=150)
    plt.close(figure)


def verdict_figure(judged: Sequence[Any], out: Path) -> None:
    """Shares of verdicts in each regime, with what the default interval covers beside."""
    figure, axis = plt.subplots(figsize=(9.0, 1.4 + 0.36 * len(judged)), layout="constrained")
    for row, one in enumerate(judged):
        left = 0.0
        for level, colour in VERDICT_COLOURS.items():
            share = 100 * one.verdicts[level]
            axis.barh(row, share, left=left, color=colour, label=level if row == 0 else None, height=0.7)
            left += share
        where_ok = "" if one.ok < 100 else f", where ok {100 * one.covered_where_ok:.1f}%"
        axis.text(102, row, f"holds {100 * one.coverage:.1f}%{where_ok}", va="center", fontsize=9)
    axis.set_yticks(range(len(judged)), [one.regime for one in judged], fontsize=9)
    axis.set_ylim(len(judged) - 0.5, -0.5)
    axis.set_xlim(0, 150)
    axis.set_xticks(range(0, 101, 20))
    axis.set_xlabel("% of logs by verdict; beside: how often the default 95% interval holds the truth")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(out, dpi=150)
    plt.close(figure)
