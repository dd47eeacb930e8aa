"""Figures of the studies, drawn from their result files alone."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cells import current, select, values_of
from figures import STYLES
from studies import mean_difference, mean_utility

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# What `figures.STYLES` does not name: colour, dashes, marker, label.
MORE_STYLES = {
    "rm_auto": ("#D55E00", "-", "o", "rm_auto"),
    "cf_regression": ("#0072B2", "--", "^", "CF-Regression"),
    "plain": ("#E69F00", "-", "s", "plain recipe (RM-Softmax on DR scores)"),
    "full_feedback": ("#999999", "--", "D", "full feedback, ridge"),
}


def method_style(name: str, place: int) -> dict[str, Any]:
    """Colour, dashes, marker and label of a method; rm_softmax gives way where rm_auto is drawn."""
    spare = (plt.get_cmap("tab10")(place % 10), "-", "P", name)
    colour, line, marker, label = {**STYLES, **MORE_STYLES}.get(name, spare)
    return {"color": colour, "linestyle": line, "marker": marker or "*", "label": label, "markersize": 5}


def _settings(path: Path) -> list[tuple[str, list[dict]]]:
    """(title, cells) per table and logging policy."""
    return [
        (f"{group['table']}, {policy} logging", select(group["cells"], logging_policy=policy))
        for group in current(path)
        for policy in values_of(group["cells"], "logging_policy")
    ]


def _dots(axis, cells: list[dict], rows: Sequence[str], methods: Sequence[str], estimate_of) -> None:
    """One row per variant from the top down, methods side by side in it, intervals as bars."""
    offsets = np.linspace(-0.28, 0.28, len(methods)) if len(methods) > 1 else [0.0]
    for place, (method, offset) in enumerate(zip(methods, offsets, strict=True)):
        points = []
        for number, variant in enumerate(rows):
            found = select(cells, method=method, variant=variant)
            estimate = estimate_of(found) if found else None
            if estimate is not None:
                points.append((number + offset, 100 * estimate.mean, 100 * estimate.half_width))
        if points:
            where, mean, width = np.array(points).T
            style = method_style(method, place) | {"linestyle": "none"}
            axis.errorbar(mean, where, xerr=width, **style, elinewidth=1, capsize=0)
    for number in range(0, len(rows), 2):
        axis.axhspan(number - 0.5, number + 0.5, color="black", alpha=0.04, linewidth=0)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(axis="x", alpha=0.25)


def _legend(figure, axis) -> None:
    handles, labels = axis.get_legend_handles_labels()
    columns = min(len(labels), max(1, int(figure.get_figwidth() / 2.1)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


def nuisance_figure(path: Path, out: Path) -> None:
    """Difference in mean utility to the base of each variant, a panel per table and logging policy."""
    settings = _settings(path)
    rows = [name for name in _union(settings, "variant") if name != "base"]
    methods = _union(settings, "method")
    size = (3.0 + 3.6 * len(settings), 1.6 + 0.32 * len(rows))
    figure, axes = plt.subplots(1, len(settings), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, (title, cells) in zip(axes[0], settings, strict=True):
        _dots(axis, cells, rows, methods, lambda found: mean_difference(found, "base"))
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("mean test utility x 100, less the base's")
        # A variant that ruins a method would flatten all others.
        axis.set_xscale("symlog", linthresh=2.0, linscale=1.5)
        axis.xaxis.set_major_formatter("{x:g}")
    axes[0][0].set_yticks(range(len(rows)), rows)
    _legend(figure, axes[0][0])
    _save(figure, out)


def _union(settings: list[tuple[str, list[dict]]], name: str) -> list[str]:
    return list(dict.fromkeys(value for _, cells in settings for value in values_of(cells, name)))


def stress_figure(path: Path, out: Path) -> None:
    """Mean utility of each method under each kind of logging, a panel per table and logging policy."""
    settings = _settings(path)
    rows, methods = _union(settings, "variant"), _union(settings, "method")
    size = (3.0 + 3.8 * len(settings), 1.6 + 0.42 * len(rows))
    figure, axes = plt.subplots(1, len(settings), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, (title, cells) in zip(axes[0], settings, strict=True):
        _dots(axis, cells, rows, methods, mean_utility)
        _narrow(axis, cells, rows)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("mean test utility x 100")
    axes[0][0].set_yticks(range(len(rows)), [textwrap.fill(row, 30) for row in rows])
    _legend(figure, axes[0][0])
    _save(figure, out)


def _narrow(axis, cells: list[dict], rows: Sequence[str]) -> None:
    """Shows what the learners are worth; a logging policy far below them is named at the edge instead."""
    learned = [method for method in values_of(cells, "method") if method != "logging_policy"]
    if not learned:
        return
    found = [(row, method, select(cells, variant=row, method=method)) for row in rows for method in learned]
    means = [100 * mean_utility(of).mean for _, _, of in found if of]
    room = max(2.0, 0.15 * (max(means) - min(means)))
    low = min(means) - 2 * room
    axis.set_xlim(low, max(means) + room)
    for number, row in enumerate(rows):
        logging = select(cells, variant=row, method="logging_policy")
        if logging and (value := 100 * mean_utility(logging).mean) < low:
            colour = method_style("logging_policy", 0)["color"]
            axis.annotate(f" \u2190 {value:.0f}", (low, number + 0.34), fontsize=8, color=colour, va="center")


def embedding_figure(path: Path, out: Path) -> None:
    """Utility against the dimensions kept and against noise; one row of panels per table and policy."""
    settings = _settings(path)
    size = (10.5, 0.7 + 3.4 * len(settings))
    figure, axes = plt.subplots(len(settings), 2, figsize=size, sharey="row", squeeze=False, layout="constrained")
    for (left, right), (title, cells) in zip(axes, settings, strict=True):
        for place, method in enumerate(values_of(cells, "method")):
            mine, style = select(cells, method=method), method_style(method, place)
            for axis, kind in ((left, "pca "), (right, "noise ")):
                sizes = [name for name in values_of(mine, "variant") if name.startswith(kind)]
                ends = [(float(name.removeprefix(kind)), name) for name in sizes]
                # As given: all dimensions, and no noise.
                given = select(mine, variant="as given")
                if given:
                    ends.append((float(given[0]["dim"]) if kind == "pca " else 0.0, "as given"))
                _curve(axis, sorted(ends), mine, style)
        for name in values_of(cells, "variant"):
            if name.startswith("embedding:"):
                for place, method in enumerate(values_of(cells, "method")):
                    found = select(cells, method=method, variant=name)
                    if found:
                        colour = method_style(method, place)["color"]
                        level = 100 * mean_utility(found).mean
                        left.axhline(level, color=colour, linestyle=":", linewidth=1)
                        left.annotate(name, (0.01, level), xycoords=("axes fraction", "data"), fontsize=7, color=colour)
        left.set_xscale("log", base=2)
        left.xaxis.set_major_formatter("{x:g}")
        left.set_xlabel("dimensions kept (principal components; the last: as given)")
        right.set_xlabel("noise added to each coordinate, in their standard deviations")
        left.set_ylabel("mean test utility x 100")
        left.set_title(title, fontsize=10)
        for axis in (left, right):
            axis.grid(alpha=0.25)
    _legend(figure, axes[0][0])
    _save(figure, out)


def _curve(axis, ends: list[tuple[float, str]], cells: list[dict], style: dict) -> None:
    if not ends:
        return
    found = [mean_utility(select(cells, variant=name)) for _, name in ends]
    where, mean = [at for at, _ in ends], 100 * np.array([estimate.mean for estimate in found])
    width = 100 * np.array([estimate.half_width for estimate in found])
    axis.plot(where, mean, **style, linewidth=1.6)
    axis.fill_between(where, mean - width, mean + width, color=style["color"], alpha=0.12, linewidth=0)


def learning_figure(path: Path, out: Path, slopes: dict) -> None:
    """Regret against rows of the log on logarithmic axes, with fitted slopes; a panel per table and policy.

    Args:
      path: the study's file.
      out: the picture.
      slopes: (table, logging policy, method) -> (slope, its error, intercept), in natural logarithms.
    """
    panels = [
        (group["table"], policy, select(group["cells"], logging_policy=policy))
        for group in current(path)
        for policy in values_of(group["cells"], "logging_policy")
    ]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1.2 + 5.6 * len(panels), 4.9), squeeze=False, layout="constrained"
    )
    for axis, (table, policy, cells) in zip(axes[0], panels, strict=True):
        for place, method in enumerate(values_of(cells, "method")):
            mine, style = select(cells, method=method), method_style(method, place)
            sizes = sorted(values_of(mine, "n"))
            found = [mean_utility(select(mine, n=n), "regret") for n in sizes]
            mean = 100 * np.array([estimate.mean for estimate in found])
            # One standard error: on a logarithmic axis the intervals of two or three seeds would hide the lines.
            width = 100 * np.array([estimate.error for estimate in found])
            fit = slopes.get((table, policy, method))
            label = style.pop("label")
            if fit is not None:
                slope, error, intercept = fit
                label += f": slope {slope:.2f}" + ("" if error is None else f" ± {error:.2f}")
                line = 100 * np.exp(intercept + slope * np.log(sizes))
                axis.plot(sizes, line, color=style["color"], linewidth=0.9, linestyle=":")
            # The lower end of a bar may not be positive.
            low = np.minimum(width, 0.9 * mean)
            axis.errorbar(sizes, mean, yerr=[low, width], **style, label=label, elinewidth=1, linewidth=1.5)
        axis.set_xscale("log")
        axis.set_yscale("log")
        sizes = sorted(values_of(cells, "n"))
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes], rotation=45)
        axis.minorticks_off()
        ticks = [tick for tick in (0.5, 1, 2, 3, 5, 10, 20, 30, 50) if axis.get_ylim()[0] <= tick <= axis.get_ylim()[1]]
        axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_xlabel("rows of the log")
        axis.set_ylabel("mean test regret x 100 (bars: one standard error)")
        axis.set_title(f"{table}, {policy} logging", fontsize=10)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, frameon=False, loc="lower left", title="dotted: least squares", title_fontsize=8)
    _save(figure, out)


JUDGED = ("best_single", "regress_and_compare_pooled", "regress_and_compare_knn", "baseline_shared", "cf_regression")


def judge_figure(cells: Sequence[Any], out: Path) -> None:
    """rm_auto less a few comparators, and less the best of all in hindsight; a row per cell.

    Args:
      cells: of `judge_auto.cells_of`; those of one kind and number of rows follow each other.
      out: the picture.
    """
    names = [name for name in JUDGED if any(name in cell.differences for cell in cells)]
    series = {name: [cell.differences.get(name) for cell in cells] for name in names}
    series["best of all comparators in hindsight"] = [cell.loss._replace(mean=-cell.loss.mean) for cell in cells]
    figure, axis = plt.subplots(figsize=(9.0, 1.8 + 0.42 * max(3, len(cells))), layout="constrained")
    offsets = np.linspace(-0.3, 0.3, len(series)) if len(series) > 1 else [0.0]
    for place, (name, found) in enumerate(series.items()):
        drawn = [(number + offsets[place], one) for number, one in enumerate(found) if one is not None]
        if not drawn:
            continue
        own: dict[str, Any] = {} if name in JUDGED else {"color": "black", "marker": "D"}
        if name == "cf_regression":  # elsewhere told from pooled ridge by its dashes
            own = {"color": "#CC79A7", "marker": "s"}
        style: dict[str, Any] = method_style(name, place) | {"linestyle": "none"} | own
        mean, width = (100 * np.array([getattr(one, part) for _, one in drawn]) for part in ("mean", "half_width"))
        axis.errorbar(mean, [where for where, _ in drawn], xerr=width, **style, elinewidth=1, capsize=0)
    kinds = [(cell.table.startswith("synthetic:"), cell.n) for cell in cells]
    for number in range(len(cells)):
        if number % 2 == 0:
            axis.axhspan(number - 0.5, number + 0.5, color="black", alpha=0.04, linewidth=0)
        if number and kinds[number] != kinds[number - 1]:
            axis.axhline(number - 0.5, color="black", linewidth=0.8)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_ylim(max(1, len(cells)) - 0.5, -0.5)
    labels = [f"{cell.table.removeprefix('synthetic:')}, {cell.policy}\n{cell.n:,} rows" for cell in cells]
    axis.set_yticks(range(len(cells)), labels, fontsize=8)
    axis.set_xlabel("mean test utility x 100: rm_auto less the comparator, 95% intervals", fontsize=9)
    # A comparator that fails somewhere would flatten all others.
    axis.set_xscale("symlog", linthresh=2.0, linscale=1.5)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(axis="x", alpha=0.25)
    _legend(figure, axis)
    _save(figure, out)


def claims_figure(pairs: Sequence[Any], claims: dict[str, tuple[float, float]], out: Path) -> None:
    """Differences between methods and the ranges that are claimed: a row per pair, a dot per setting.

    Args:
      pairs: of `paper_claims.pairs_of`.
      claims: name -> range, shaded.
      out: the picture.
    """
    metrics = {"routing_accuracy": "routing accuracy", "utility": "utility"}
    policies = list(dict.fromkeys(pair.policy for pair in pairs))
    drawn = {}
    for name in claims:
        mine = [pair for pair in pairs if pair.claim == name]
        if mine:
            drawn[name] = mine, list(dict.fromkeys((pair.first, pair.second) for pair in mine))
    heights = [2 + len(rows) for _, rows in drawn.values()]
    figure, axes = plt.subplots(
        len(drawn),
        2,
        figsize=(11.0, 1.2 + 0.17 * sum(heights)),
        squeeze=False,
        sharey="row",
        layout="constrained",
        height_ratios=heights,
    )
    for line, (name, (mine, rows)) in zip(axes, drawn.items(), strict=True):
        for axis, (metric, title) in zip(line, metrics.items(), strict=True):
            for place, policy in enumerate(policies):
                here = [pair for pair in mine if pair.policy == policy]
                mean = [100 * pair.differences[metric].mean for pair in here]
                # An interval over seeds needs two of them.
                width = [100 * pair.differences[metric].half_width if pair.seeds > 1 else 0.0 for pair in here]
                offset = 0.5 * (place + 1) / (len(policies) + 1) - 0.25
                where = [rows.index((pair.first, pair.second)) + offset for pair in here]
                colour = plt.get_cmap("tab10")(place % 10)
                axis.errorbar(
                    mean, where, xerr=width, linestyle="none", marker=".", color=colour, elinewidth=0.6, label=policy
                )
            low, high = claims[name]
            axis.axvspan(100 * low, 100 * high, color="#009E73", alpha=0.2, linewidth=0, label="claimed")
            axis.axvline(0, color="black", linewidth=0.8)
            axis.set_title(f"{name}: {title}", fontsize=10)
            axis.set_yticks(range(len(rows)), [f"{first} less {second}" for first, second in rows], fontsize=6)
            axis.set_ylim(len(rows) - 0.4, -0.6)
            axis.set_xscale("symlog", linthresh=5.0, linscale=1.5)
            ends = axis.get_xlim()
            axis.set_xticks([tick for tick in (-50, -10, -5, -2, 0, 2, 5, 10, 50) if ends[0] < tick < ends[1]])
            axis.xaxis.set_major_formatter("{x:g}")
            axis.grid(axis="x", alpha=0.25)
    for axis in axes[-1]:
        axis.set_xlabel("points; a dot per table, rows and logging policy,\n95% intervals over seeds", fontsize=8)
    _legend(figure, axes[0][0])
    _save(figure, out)


def _save(figure, out: Path) -> None:
    partial = out.with_suffix(".partial.png")
    figure.savefig(partial, dpi=130)
    plt.close(figure)
    partial.replace(out)
