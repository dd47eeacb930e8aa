"""The figure of a diagnosis: balance, weights, calibration of both nuisances and misfit; drawn from results alone."""

from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import matplotlib
import numpy as np
from figures import _save

from jrouter.diagnostics import Diagnosis
from jrouter.io.results import plain
from jrouter.misfit import moment_names
from jrouter.overlap import WEIGHT_EDGES

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Okabe and Ito's colours, as in `figures`.
NUISANCES = {"propensity": "#D55E00", "score": "#0072B2", "cost": "#009E73"}
BEFORE, AFTER = "#999999", "#0072B2"
SHOWN_FEATURES = 16


def as_results(diagnosis: Diagnosis, models: Sequence[str], *, dim: int) -> dict[str, Any]:
    """A diagnosis as a result file holds it: nested dicts of numbers and lists.

    Args:
      diagnosis: of one log (no leading axes).
      models: names of its T models.
      dim: of the embeddings, to name the features.
    """

    def named(part):
        if hasattr(part, "_asdict"):
            return {name: named(value) for name, value in part._asdict().items()}
        return plain(part)

    return {"models": list(models), "features": moment_names(dim), "diagnosis": named(diagnosis)}


def diagnosis_figure(results: dict[str, Any], out: Path) -> None:
    """Six panels: love plot, importance weights, calibration of propensity, score and cost, and all misfit z.

    Args:
      results: from `as_results`, or read from the JSON that it was written to.
      out: PNG file.
    """
    found, models = results["diagnosis"], results["models"]
    figure, axes = plt.subplots(2, 3, figsize=(16, 9), layout="constrained")
    _love_plot(axes[0, 0], found["balance"], results["features"][1:])
    _weights(axes[0, 1], found, models)
    _misfit(axes[0, 2], found)
    propensity = found["propensity_calibration"]
    if propensity is None:
        axes[1, 0].text(0.5, 0.5, "the log's own propensities,\nof logged models alone:\nno curve", ha="center")
        axes[1, 0].set_axis_off()
    else:
        title = f"propensity: slope {propensity['slope']:.2f}, calibration error {propensity['error']:.3f}"
        _curve(axes[1, 0], propensity["curve"], "estimated propensity", "share logged", title, NUISANCES["propensity"])
    for axis, name in zip(axes[1, 1:], ("score", "cost"), strict=True):
        part = found[f"{name}_calibration"]
        title = f"{name}: slope within models {part['slope']:.2f}"
        _curve(axis, part["curve"], f"predicted {name}", f"mean observed {name}", title, NUISANCES[name])
    _save(figure, out)


def _love_plot(axis, balance: dict, names: Sequence[str]) -> None:
    """Of each feature, the model whose queries differ most from all, before and after; the worst on top."""
    before, after = (np.abs(balance[part]).max(axis=0) for part in ("before", "after"))
    order = np.argsort(before)[::-1][:SHOWN_FEATURES]
    places = np.arange(order.size)
    axis.hlines(places, before[order], after[order], color="black", alpha=0.15, linewidth=1)
    axis.plot(before[order], places, "o", markerfacecolor="white", color=BEFORE, label="before")
    axis.plot(after[order], places, "o", color=AFTER, label="weighted by 1 / p")
    axis.axvline(0.1, color="black", linestyle=":", linewidth=0.8)
    axis.set_yticks(places, [names[number] for number in order], fontsize=8)
    axis.set_ylim(order.size - 0.5, -0.5)
    axis.set_xlim(left=0)
    axis.set_xlabel("largest |standardised mean difference| among models")
    shown = "" if order.size == before.size else f", {order.size} of {before.size} features"
    axis.set_title(f"balance of queries{shown}", fontsize=10)
    axis.legend(fontsize=8, frameon=False)
    axis.grid(axis="x", alpha=0.25)


def _weights(axis, found: dict, models: Sequence[str]) -> None:
    """Rows by importance weight, in bins that double: of the policy, or of each model without one."""
    ends = [f"{edge:g}" for edge in WEIGHT_EDGES] + ["more"]
    places = np.arange(len(ends))
    policy = found["policy_weights"]
    if policy is not None:
        counts = np.array(policy["histogram"])
        axis.bar(places, counts[1:], width=0.9, color=AFTER)
        tail = policy["pareto_k"]
        axis.set_title(
            f"policy: {policy['effective_rows']:,.0f} effective rows of {found['rows']:,.0f} "
            f"({counts[0]:,.0f} of weight 0)\nlargest {policy['largest']:.3g}, mean {policy['mean']:.3f}, "
            f"Pareto k {tail:.2f}",
            fontsize=10,
        )
        shown = counts[1:]
    else:
        shown = np.array(found["model_weights"]["histogram"])[:, 1:]
        for name, counts in zip(models, shown, strict=True):
            axis.step(places, counts, where="mid", label=name)
        axis.legend(fontsize=8, frameon=False)
        axis.set_title("each model as if it were the policy", fontsize=10)
        shown = shown.max(axis=0)
    axis.set_xticks(places, ends, rotation=45)
    used = np.flatnonzero(shown)
    if used.size:
        axis.set_xlim(used[0] - 1.6, used[-1] + 1.6)
    axis.set_axisbelow(True)
    axis.set_yscale("symlog", linthresh=1)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("importance weight, up to")
    axis.set_ylabel("rows")
    axis.grid(axis="y", alpha=0.25)


def _misfit(axis, found: dict) -> None:
    """|z| of every model and feature against what as many standard normals would be."""
    longest = 0.0
    for name, colour in NUISANCES.items():
        part = found[f"{name}_misfit"]
        z = np.sort(np.abs(part["z"]).reshape(-1))
        shares = (np.arange(z.size) + 0.5) / z.size
        expected = [NormalDist().inv_cdf(0.5 + share / 2) for share in shares]
        axis.plot(expected, z, ".", color=colour, label=f"{name}, p {_p_value(part['p_value'])}")
        longest = max(longest, expected[-1])
    axis.plot([0, longest], [0, longest], color="black", linewidth=0.8)
    axis.set_xlabel("|z| expected of right nuisances")
    axis.set_ylabel("|z| of residuals along features of the query")
    axis.set_title("misfit (below the line: fitted features)", fontsize=10)
    axis.legend(fontsize=8, frameon=False)
    axis.grid(alpha=0.25)


def _p_value(value: float) -> str:
    return f"= {value:.2g}" if value >= 1e-8 else "< 1e-8"  # to which results are rounded


def _curve(axis, curve: dict, xlabel: str, ylabel: str, title: str, colour: str) -> None:
    live = np.array(curve["weight"]) > 0
    predicted, observed = (np.array(curve[part])[live] for part in ("predicted", "observed"))
    if live.any():
        ends = [min(predicted.min(), observed.min()), max(predicted.max(), observed.max())]
        axis.plot(ends, ends, color="black", linewidth=0.8)
    axis.plot(predicted, observed, "o-", color=colour, markersize=5)
    axis.locator_params(nbins=6)
    axis.ticklabel_format(style="sci", scilimits=(-2, 3))
    axis.set_xlabel(f"{xlabel} (bins of equal weight)")
    axis.set_ylabel(ylabel)
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.25)
