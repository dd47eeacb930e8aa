"""Table and figure of `pools`, from its cells alone."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cells import select, values_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = (
    "question",
    "models",
    "method",
    "variant",
    "way",
    "k",
    "seeds",
    "utility",
    "kept",
    "rows",
    "seconds",
    "compile",
)
_COLOURS = {"plug_in": "#0072B2", "rm_softmax": "#D55E00", "rm_softmax_masks": "#009E73"}
_LINES = ("-", "--", ":", "-.")


def summaries(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds."""
    cells = [cell for group in groups for cell in group["cells"]]
    found: dict[tuple, list] = {}
    for cell in cells:
        name = tuple(cell["key"][part] for part in ("question", "models", "method", "variant", "way", "k"))
        found.setdefault(name, []).append(cell)
    rows = []
    for name, mine in found.items():
        mean = {part: float(np.mean([cell[part] for cell in mine])) for part in ("utility", "kept", "rows", "seconds")}
        compile_seconds = float(np.max([cell["compile_seconds"] for cell in mine]))
        rows.append(dict(zip(COLUMNS, (*name, len(mine), *mean.values(), compile_seconds), strict=True)))
    return rows


def figure_of(groups: list[dict[str, Any]], out: Path) -> None:
    """What pruning changes; what retraining gains over a mask; utility over k of the largest pool."""
    cells = [cell for group in groups for cell in group["cells"]]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")

    def mean(**place):
        return [100 * cell["utility"] for cell in select(cells, **place)]

    def difference(first, second, models):
        of = [[mean(**one, models=models, seed=seed) for one in (first, second)] for seed in values_of(cells, "seed")]
        pairs = [a[0] - b[0] for a, b in of if a and b]
        return float(np.mean(pairs)) if pairs else float("nan")

    sizes = values_of(cells, "models")
    pruned, pools = (values_of(select(cells, question=name), "variant") for name in ("prune", "restrict"))
    pruned = [name for name in pruned if name != "all"]
    for method, colour in _COLOURS.items():
        for variant, line in zip(pruned, _LINES, strict=False):
            of = {"question": "prune", "method": method}
            y = [difference(of | {"variant": variant}, of | {"variant": "all"}, models) for models in sizes]
            if np.isfinite(y).any():
                axes[0].plot(sizes, y, line, color=colour, marker="o", label=f"{method}, without {variant}")
        for pool, line in zip(pools, _LINES, strict=False):
            of = {"question": "restrict", "variant": pool}
            again = "rm_softmax" if method == "rm_softmax_masks" else method
            first, second = of | {"method": again, "way": "retrain"}, of | {"method": method, "way": "mask"}
            y = [difference(first, second, models) for models in sizes]
            if np.isfinite(y).any():
                axes[1].plot(sizes, y, line, color=colour, marker="o", label=f"{method}, {pool}")
        for way, line in (("extend", "-"), ("retrain", "--")):
            of = {"question": "add", "method": method, "models": sizes[-1], "way": way}
            ks = [k for k in values_of(cells, "k") if mean(**of, k=k)]
            if ks:
                axes[2].plot(
                    ks, [np.mean(mean(**of, k=k)) for k in ks], line, color=colour, marker="o", label=f"{method}, {way}"
                )
        for way, line in (("without", ":"), ("whole log", "-.")):
            level = mean(question="add", method=method, models=sizes[-1], way=way)
            if level:
                axes[2].axhline(np.mean(level), linestyle=line, color=colour, label=f"{method}, {way}", linewidth=1)
    for axis, label in zip(
        axes,
        ("utility x 100: pruned less all", "utility x 100: retrained less masked", "utility x 100"),
        strict=True,
    ):
        axis.set_xscale("log")
        axis.set_ylabel(label)
        axis.set_xlabel("models of the pool")
        axis.grid(alpha=0.25)
        if axis.lines:
            axis.legend(fontsize=7, frameon=False)
    for axis in axes[:2]:
        axis.axhline(0, color="black", linewidth=0.8)
    axes[2].set_xlabel(f"scored queries of the model added to {sizes[-1] - 1}")
    figure.savefig(out, dpi=150)
    plt.close(figure)
