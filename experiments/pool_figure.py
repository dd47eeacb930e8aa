"""Table and figure of `pools`, from its cells alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cells import Estimate, Key, over_seeds, select, values_of
from query_batches import query_error

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
    "less",
    "difference",
    "low",
    "high",
    "kept",
    "rows",
    "seconds",
    "compile",
)
_NAMED = ("question", "models", "method", "variant", "way", "k")
_COLOURS = {"plug_in": "#0072B2", "rm_softmax": "#D55E00", "rm_softmax_masks": "#009E73"}


def against(key: Key) -> Key | None:
    """The cell that one is compared with: all models, the router trained again, or the one without the new model."""
    if key["question"] == "prune":
        return None if key["variant"] == "all" else {**key, "variant": "all"}
    if key["question"] == "restrict":
        # Masks in training cost nothing later, so they are to make up for training again.
        method = "rm_softmax" if key["method"] == "rm_softmax_masks" else key["method"]
        return None if key["way"] == "retrain" else {**key, "way": "retrain", "method": method}
    return None if key["way"] == "without" else {**key, "way": "without", "k": 0}


def change(cells: Sequence[dict[str, Any]], of: Key, to: Key | None) -> Estimate | None:
    """Paired difference in mean utility over the seeds that have both cells; None where there are none."""
    pairs = []
    for cell in select(cells, **of):
        mine = cell["key"]["seed"]
        if to is not None and (other := select(cells, **to, seed=mine)):
            pairs.append((cell, other[0]))
    if not pairs:
        return None
    apart = [np.subtract(a["influence"], b["influence"]) for a, b in pairs]
    return over_seeds([a["utility"] - b["utility"] for a, b in pairs], [float(query_error(one)) for one in apart])


def summaries(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, and paired differences to `against` with 95% intervals over seeds and test queries."""
    cells = [cell for group in groups for cell in group["cells"]]
    rows = []
    for name in dict.fromkeys(tuple(cell["key"][part] for part in _NAMED) for cell in cells):
        of: Key = dict(zip(_NAMED, name, strict=True))
        mine, to = select(cells, **of), against(of)
        found = change(cells, of, to)
        mean = {part: float(np.mean([cell[part] for cell in mine])) for part in ("utility", "kept", "rows", "seconds")}
        compared = ("", "", "", "")
        if found is not None and to is not None:
            said = next(str(to[part]) for part in ("variant", "way") if to[part] != of[part])
            compared = (said, found.mean, found.low, found.high)
        rest = (mean["kept"], mean["rows"], mean["seconds"], max(cell["compile_seconds"] for cell in mine))
        rows.append(dict(zip(COLUMNS, (*name, len(mine), mean["utility"], *compared, *rest), strict=True)))
    return rows


def figure_of(groups: list[dict[str, Any]], out: Path) -> None:
    """Above, what pruning and masks change and what k queries add; below, the seconds of training that go with it."""
    cells = [cell for group in groups for cell in group["cells"]]
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained", sharex="col")
    sizes = values_of(cells, "models")
    variants = {name: values_of(select(cells, question=name), "variant") for name in ("prune", "restrict")}
    drawn = [0, 0, 0]

    def curve(column: int, places: Sequence[Key], of: Key, label: str, colour: str, line: str) -> None:
        """Differences to `against` above and seconds below, at each place: one field of a key, and its value."""
        keys = [{**of, **place} for place in places]
        estimates = [change(cells, key, against(key)) for key in keys]
        # A mask takes no training; what it saves is the training of the router that it is compared with.
        trained = [against(key) or key if key["way"] == "mask" else key for key in keys]
        seconds = [[cell["seconds"] for cell in select(cells, **key)] for key in trained]
        x = [next(iter(place.values())) for place in places]
        look = {"color": colour, "linestyle": line, "marker": "o", "markersize": 4, "label": label, "linewidth": 1.3}
        there = [(at, one) for at, one in zip(x, estimates, strict=True) if one is not None]
        if there:
            # A little apart, so that intervals can be told from each other.
            at = np.array([place for place, _ in there]) * 1.05 ** drawn[column]
            drawn[column] += 1
            mean, width = ([100 * getattr(one, part) for _, one in there] for part in ("mean", "half_width"))
            axes[0, column].errorbar(at, mean, yerr=width, capsize=2, elinewidth=0.8, **look)
        took = [(at, float(np.mean(one))) for at, one in zip(x, seconds, strict=True) if one]
        if took and of["method"] != "rm_softmax_masks":
            axes[1, column].plot(*zip(*took, strict=True), **look)

    by_size = [{"models": models} for models in sizes]
    by_k = [{"k": k} for k in values_of(select(cells, question="add", way="extend"), "k")]
    for method, colour in _COLOURS.items():
        for variant, line in zip(variants["prune"], ("-", "--", "-.", ":"), strict=False):
            of = {"question": "prune", "method": method, "variant": variant, "way": "", "k": 0}
            named = "all models" if variant == "all" else f"without {variant}"
            curve(0, by_size, of, f"{method}, {named}", colour, line)
        for pool, line in zip(variants["restrict"], ("-", "--"), strict=False):
            of = {"question": "restrict", "method": method, "variant": pool, "way": "mask", "k": 0}
            curve(1, by_size, of, f"{method}, {'half gone' if pool == 'half' else pool}", colour, line)
        of = {"question": "add", "method": method, "variant": "", "models": sizes[-1]}
        for way, line in (("extend", "-"), ("retrain", "--")):
            named = "extended" if way == "extend" else "trained again"
            curve(2, by_k, of | {"way": way}, f"{method}, {named}", colour, line)
        whole = of | {"way": "whole log", "k": 0}
        if (level := change(cells, whole, against(whole))) is not None:
            axes[0, 2].axhline(100 * level.mean, linestyle=":", color=colour, label=f"{method}, all its rows logged")
    titles = ("pruned before training, less all", "masked, less trained again", f"{sizes[-1] - 1} models and a new one")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.axhline(0, color="black", linewidth=0.8)
    axes[0, 0].set_ylabel("change of utility x 100, 95% intervals")
    for axis, label in zip(axes[1], ("seconds of training", "seconds of training again", "seconds"), strict=True):
        axis.set_ylabel(label)
    ticks = (sizes, sizes, [place["k"] for place in by_k])
    names = ("models of the pool", "models of the pool", "scored queries of the new one")
    for column, (axis, at, name) in enumerate(zip(axes[1], ticks, names, strict=True)):
        axis.set_yscale("log")
        axis.set_xscale("log")
        axis.set_xticks(at, [f"{value:,}" for value in at])
        axis.minorticks_off()
        axis.set_xlabel(name)
        entries: dict[str, Any] = {}
        for one in (axis, axes[0, column]):
            entries |= dict(zip(*reversed(one.get_legend_handles_labels()), strict=True))
        if entries:
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17)}
            axis.legend(entries.values(), entries.keys(), fontsize=7, frameon=False, ncols=2, **place)
    for axis in axes.flat:
        axis.grid(alpha=0.25)
    figure.savefig(out, dpi=150)
    plt.close(figure)
