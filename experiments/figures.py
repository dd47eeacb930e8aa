"""Figures, drawn from result files alone."""

import json
from pathlib import Path

import matplotlib
import numpy as np

from jrouter.metrics import pareto_frontier

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Okabe and Ito's colours, told apart by the colour-blind and in print, where dashes and markers help.
STYLES = {
    "oracle": ("#000000", ":", "", "oracle (hindsight)"),
    "carrot_mlp": ("#999999", "--", "", "CARROT, full feedback"),
    "rm_softmax": ("#D55E00", "-", "o", "RM-Softmax"),
    "rm_interval": ("#E69F00", "-", "s", "RM-Interval"),
    "rm_classification_cost_weighted": ("#CC79A7", "-", "D", "RM-Classification"),
    "regress_and_compare_pooled": ("#0072B2", "-", "^", "R&C, pooled ridge"),
    "regress_and_compare_knn": ("#56B4E9", "-", "v", "R&C, kNN"),
    "baseline_shared": ("#009E73", "--", "x", "Baseline, shared"),
    "best_single": ("#6B6B6B", "-.", "", "best single model"),
    "logging_policy": ("#B8A000", ":", "+", "logging policy"),
    # Last, so on top, and dashed: it often coincides with the rule it chose.
    "rm_auto": ("#000000", "--", "P", "rm_auto, the default"),
}


def _panel_grid(n: int, width: float = 6.4, height: float = 4.4):
    figure, axes = plt.subplots(1, n, figsize=(width * n, height), squeeze=False, layout="constrained")
    return figure, axes[0]


def _drawn(methods: dict) -> list[str]:
    """The methods with a style of their own, or the first ten where others were asked for."""
    return [name for name in STYLES if name in methods] or list(methods)[:10]


def _style(name: str, place: int) -> dict:
    spare = plt.get_cmap("tab10")(place % 10)
    colour, line, marker, label = STYLES.get(name, (spare, "-", ".", name))
    return {"color": colour, "linestyle": line, "marker": marker or None, "label": label, "markersize": 5}


def utility_over_lambda(result: Path, out: Path) -> None:
    """Mean utility of each method at each lambda, with its interval, less that of the best single model."""
    settings = json.loads(result.read_text())["results"]
    figure, axes = _panel_grid(len(settings))
    for axis, setting in zip(axes, settings, strict=True):
        methods, lambdas = setting["methods"], setting["lambdas"]
        places = np.arange(len(lambdas))
        for place, name in enumerate(_drawn(methods)):
            values = {key: 100 * np.array(cell) for key, cell in methods[name]["utility"].items()}
            style = _style(name, place)
            axis.plot(places, values["estimate"], **style, linewidth=1.6)
            axis.fill_between(places, values["low"], values["high"], color=style["color"], alpha=0.15, linewidth=0)
        shown = [100 * np.array(methods[name]["utility"]["estimate"]) for name in _drawn(methods)]
        # A method far below the rest would flatten everything else: it leaves the picture at the bottom.
        low = np.quantile(np.concatenate(shown), 0.06)
        axis.set_ylim(bottom=low - 2)
        axis.set_xticks(places, [f"{value:.3g}" if value < 100 else f"{value:,.0f}" for value in lambdas], rotation=45)
        axis.set_xlabel(f"lambda (score per {setting['cost_unit']}), not to scale")
        axis.set_ylabel("mean test utility x 100")
        axis.set_title(f"{setting['table']}, {setting['logging_policy']} logging", fontsize=10)
        axis.grid(alpha=0.25)
    axes[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    _save(figure, out)


def score_against_cost(result: Path, out: Path) -> None:
    """Where each method's lambdas land in cost and score, single models, and the Pareto frontier of all."""
    settings = json.loads(result.read_text())["results"]
    figure, axes = _panel_grid(len(settings))
    for axis, setting in zip(axes, settings, strict=True):
        methods = setting["methods"]
        names = [name for name in _drawn(methods) if name not in ("oracle", "carrot_mlp")]
        points = []
        for place, name in enumerate(names):
            cost = np.array(methods[name]["cost"]["estimate"])
            score = 100 * np.array(methods[name]["score"]["estimate"])
            points.append(np.stack([cost, score], axis=1))
            # A rule that does not depend on lambda is one point.
            axis.plot(cost, score, **_style(name, place) | {"linewidth": 1.0, "alpha": 0.9})
        single = setting["single_models"]
        axis.scatter(single["cost"], 100 * np.array(single["score"]), marker="*", s=70, color="black", zorder=3)
        axis.scatter([], [], marker="*", s=70, color="black", label="single models")
        points.append(np.stack([single["cost"], 100 * np.array(single["score"])], axis=1))
        joined = np.concatenate(points)
        best = joined[pareto_frontier(joined[:, 0], joined[:, 1])]
        axis.step(best[:, 0], best[:, 1], where="post", color="black", alpha=0.2, linewidth=4, zorder=0)
        axis.plot([], [], color="black", alpha=0.2, linewidth=4, label="Pareto frontier")
        axis.set_xscale("log")
        axis.set_xlabel(f"mean cost per query ({setting['cost_unit']})")
        axis.set_ylabel("mean score x 100")
        axis.set_title(f"{setting['table']}, {setting['logging_policy']} logging", fontsize=10)
        axis.grid(alpha=0.25, which="both")
    axes[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    _save(figure, out)


def interval_figure(result: Path, out: Path) -> None:
    """Utility over lambda of interval routers, less that of routers trained at the very lambda."""
    settings = json.loads(result.read_text())["results"]
    figure, axes = _panel_grid(len(settings))
    colours = {100.0: "#0072B2", 250.0: "#009E73", 1000.0: "#D55E00"}
    for axis, setting in zip(axes, settings, strict=True):
        for router in setting["routers"]:
            lambdas = [point["lambda"] for point in router["points"]]
            estimate, low, high = (100 * np.array(part) for part in router["difference"])
            logits = router["head"] == "logits"
            # Beside each other, so that intervals of the two heads can be told apart.
            places = np.array(lambdas) + (-6 if logits else 6)
            axis.errorbar(
                places,
                estimate,
                yerr=[estimate - low, high - estimate],
                fmt="o" if logits else "s",
                markersize=5,
                markerfacecolor="white" if logits else colours[router["width"]],
                color=colours[router["width"]],
                capsize=2,
                label=f"knots {router['width']:g} apart, {router['head']}",
            )
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xlabel("lambda (at 25, 50, 75% of intervals)")
        axis.set_ylabel("mean test utility x 100, less a router's\ntrained at that lambda")
        axis.set_title(f"{setting['table']}, {setting['logging_policy']} logging", fontsize=10)
        axis.grid(alpha=0.25)
    axes[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    _save(figure, out)


def _save(figure, out: Path) -> None:
    partial = out.with_suffix(".partial.png")
    figure.savefig(partial, dpi=130)
    plt.close(figure)
    partial.replace(out)
