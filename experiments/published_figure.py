"""The figure of `reproduce_paper`, drawn from its result file alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cells import Estimate, current, over_seeds, select, values_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Okabe and Ito's colours, as in `figures`.
COLOURS = ("#0072B2", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#999999", "#D55E00", "#009E73", "#CC79A7")
OVERVIEW = {
    "oracle": ("#000000", ":"),
    "carrot_mlp": ("#009E73", "--"),
    "rm_softmax": ("#D55E00", "-"),
    "cf_regression": ("#0072B2", "-"),
    "baseline_shared": ("#CC79A7", "-"),
    "best_single": ("#6B6B6B", "-."),
    "logging_policy": ("#B8A000", ":"),
}
"""Of each kind one, in the panel of utilities: colour and dashes, in the other panels too."""
LABELS = {
    "oracle": "oracle (hindsight)",
    "random": "random",
    "logging_policy": "logging policy",
    "best_single": "best single model",
    "baseline_shared": "Baseline, shared",
    "baseline_per_model": "Baseline, per model",
    "carrot_mlp": "CARROT, MLP *",
    "carrot_knn": "CARROT, kNN *",
    "causal_carrot_mlp": "Causal-CARROT, MLP",
    "causal_carrot_knn": "Causal-CARROT, kNN",
    "cf_regression": "CF-Regression",
    "rm_classification_hard_dr": "RM-Classification, hard DR",
    "rm_classification_hard_regressed": "RM-Classification, regressed",
    "rm_classification_cost_weighted": "RM-Classification, weighted",
    "rm_softmax": "RM-Softmax",
    "rm_interval": "RM-Interval",
}
FAMILIES = {
    "Baseline, R&C (dashed: weighted)": ("baseline_", "regress_and_compare_"),
    "CARROT, CF-Regression (* full feedback)": ("carrot_", "causal_carrot_", "cf_"),
    "regret training": ("rm_",),
}
"""Panels by beginnings of names."""


def at_lambdas(cells: Sequence[dict[str, Any]], to: str | None = None) -> list[Estimate]:
    """[L], mean utility over seeds at each lambda, or its paired difference to the reference `to`."""

    def of(cell: dict[str, Any]) -> tuple[list[float], list[float]]:
        if to is None:
            return cell["utility"], cell["error"]["utility_by_lambda"]
        return cell["differences"][to]["estimate"], cell["differences"][to]["error"]

    means, errors = zip(*(of(cell) for cell in cells), strict=True)
    return [
        over_seeds(list(m), list(e)) for m, e in zip(zip(*means, strict=True), zip(*errors, strict=True), strict=True)
    ]


def draw(path: Path, out: Path) -> None:
    """Utility over lambda, and by family what each method gains on the best single model; a row per logging policy."""
    (group,) = current(path)
    methods, policies = values_of(group["cells"], "method"), values_of(group["cells"], "logging_policy")
    families = {title: [name for name in methods if name.startswith(begins)] for title, begins in FAMILIES.items()}
    families = {title: names for title, names in families.items() if names and "best_single" in methods}
    overview = [name for name in OVERVIEW if name in methods] or methods[:7]
    columns = 1 + len(families)
    figure, axes = plt.subplots(
        len(policies), columns, figsize=(4.4 * columns, 0.9 + 3.7 * len(policies)), squeeze=False, layout="constrained"
    )
    for row, policy in zip(axes, policies, strict=True):
        here = select(group["cells"], logging_policy=policy)
        ends = _panel(row[0], here, overview)
        _set_scale(row[0], [end for name, end in ends.items() if name != "logging_policy"] or list(ends.values()))
        row[0].set_ylabel(f"{policy} logging\n\nmean test utility x 100")
        ends = []
        for axis, (title, names) in zip(row[1:], families.items(), strict=True):
            ends += _panel(axis, here, names, to="best_single").values()
            axis.axhline(0, color="black", linewidth=0.8)
            axis.set_title(title, fontsize=10)
        for axis in row[1:]:
            _set_scale(axis, ends)
        if families:
            row[1].set_ylabel("less that of the best single model, x 100")
    axes[0][0].set_title(f"{group['table']}, {group['configuration']['encoder']['name']}", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("lambda (score per USD)")
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False)
    partial = out.with_suffix(".partial.png")
    figure.savefig(partial, dpi=130)
    plt.close(figure)
    partial.replace(out)


def _set_scale(axis, ends: Sequence[np.ndarray]) -> None:
    """One scale for what is compared; a method far below the rest leaves the picture at the bottom."""
    if ends:
        low, high = np.quantile([low for low, _ in ends], 0.05), np.max([high for _, high in ends])
        room = 0.05 * (high - low) + 0.2
        axis.set_ylim(low - room, high + room)


def _panel(axis, cells: list[dict[str, Any]], names: Sequence[str], to: str | None = None) -> dict[str, np.ndarray]:
    """Draws lines with bands; of each method the lower and upper ends of its band [2, L], x 100."""
    ends: dict[str, np.ndarray] = {}
    styles = _styles(names)
    for name in names:
        mine = select(cells, method=name)
        if not mine:  # not computed yet
            continue
        found = at_lambdas(mine, to)
        lambdas = mine[0]["lambdas"]
        low, mean, high = (100 * np.array([getattr(one, end) for one in found]) for end in ("low", "mean", "high"))
        label = LABELS.get(name, name.replace("regress_and_compare_", "R&C, ").replace("_ipw", ", weighted"))
        colour, dashes = styles[name]
        axis.plot(lambdas, mean, color=colour, linestyle=dashes, marker="o", markersize=3, linewidth=1.4, label=label)
        axis.fill_between(lambdas, low, high, color=colour, alpha=0.12, linewidth=0)
        ends[name] = np.stack([low, high])
    axis.grid(alpha=0.25)
    return ends


def _styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and dashes of each method of a panel; what is weighted has the colour of what is not."""
    spare = [colour for colour in COLOURS if colour not in {OVERVIEW[name][0] for name in names if name in OVERVIEW}]
    styles: dict[str, tuple[str, str]] = {}
    kinds: list[str] = []
    for name in names:
        kind = name.removesuffix("_ipw")
        if name in OVERVIEW:
            styles[name] = OVERVIEW[name]
            continue
        if kind not in kinds:
            kinds.append(kind)
        styles[name] = spare[kinds.index(kind) % len(spare)], "-" if name == kind else "--"
    return styles
