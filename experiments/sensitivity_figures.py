"""Figures of bounds under hidden confounding: of one log, as a report shows it, and of `confounding.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

BOUND, POINT, TRUTH = "#0072B2", "#D55E00", "#000000"
NORMAL = 1.959964


def gain_by_gamma(
    axis,
    gammas: Sequence[float],
    gain: Mapping[str, Any],
    critical: Mapping[str, Any],
    *,
    scale: float = 100.0,
    true_gain: float | None = None,
) -> None:
    """Bounds of a policy's gain over the logging policy by Gamma, and where the lower one reaches 0.

    Args:
      axis: of matplotlib.
      gammas: [G], ascending from 1.
      gain: "low", "low_error", "high", "high_error", [G] each, as of `sensitivity.Bounds`.
      critical: "point", "point_beyond", "confident", "confident_beyond", as of `sensitivity.CriticalGamma`.
      scale: what utility is multiplied by.
      true_gain: where it is known.
    """
    low, low_error, high, high_error = (
        scale * np.asarray(gain[name]) for name in ("low", "low_error", "high", "high_error")
    )
    ends = low - NORMAL * low_error, high + NORMAL * high_error
    axis.fill_between(gammas, *ends, color=BOUND, alpha=0.15, linewidth=0, label="with 95% confidence")
    axis.fill_between(gammas, low, high, color=BOUND, alpha=0.3, linewidth=0, label="between the bounds")
    axis.plot(gammas, low, color=BOUND, linewidth=1.6)
    axis.plot(gammas, high, color=BOUND, linewidth=1.6)
    axis.axhline(0, color="black", linewidth=0.8)
    if true_gain is not None:
        axis.axhline(scale * true_gain, color=TRUTH, linewidth=1.2, linestyle=":", label="true gain")
    for name, line, said in (("point", "-", "gain vanishes"), ("confident", "--", "lower confidence end vanishes")):
        beyond = critical[f"{name}_beyond"]
        label = f"{said}: Gamma {'> ' if beyond else ''}{critical[name]:.2f}"
        axis.axvline(critical[name], ymax=0.68, color=POINT, linewidth=1.4, linestyle=line, label=label)
    axis.set_xscale("log")
    shown = [gamma for gamma in gammas if f"{gamma:g}" in ("1", "1.25", "1.5", "2", "3", "5", "10")] or list(gammas)
    axis.set_xticks(shown, [f"{gamma:g}" for gamma in shown])
    axis.minorticks_off()
    axis.set_xlim(0.97 * gammas[0], gammas[-1])
    # Room for the legend above.
    axis.set_ylim(ends[0].min() - 2, ends[1].max() + 0.4 * (ends[1].max() - ends[0].min()))
    axis.set_xlabel("Gamma: factor by which something hidden may change odds")
    axis.set_ylabel(f"gain over the logging policy x {scale:g}")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, loc="upper left", frameon=False)


def confounding_figure(strengths: Sequence[Any], out: Path) -> None:
    """Value by strength, coverage by Gamma, and one log's report.

    Args:
      strengths: of `confounding_table.joined`.
      out: PNG.
    """
    figure, axes = plt.subplots(1, 3, figsize=(17.5, 5.2), layout="constrained", width_ratios=[1.0, 1.05, 1.05])
    _values(axes[0], strengths)
    _coverage(axes[1], strengths)
    # The weakest coin that is one: the question that a team has.
    one = next((one for one in strengths if one.strength > 1.0), strengths[0])
    gain_by_gamma(axes[2], one.gammas, one.first_log["gain"], one.first_log["critical"], true_gain=one.true_gain)
    axes[2].set_title(f"what a report shows: one log, hidden Gamma {one.strength:g}", fontsize=10)
    partial = out.with_suffix(".partial.png")
    figure.savefig(partial, dpi=130)
    plt.close(figure)
    partial.replace(out)


def _values(axis, strengths: Sequence[Any]) -> None:
    places = np.arange(len(strengths))
    at = [one.at(one.strength) for one in strengths]
    low, high = (
        100 * np.array([one.value[end][place] for one, place in zip(strengths, at, strict=True)])
        for end in ("low", "high")
    )
    error = [
        100 * NORMAL * np.array([one.value[f"{end}_error"][place] for one, place in zip(strengths, at, strict=True)])
        for end in ("low", "high")
    ]
    axis.bar(places, high - low, 0.5, bottom=low, color=BOUND, alpha=0.35, label="mean bounds at the true Gamma")
    # At Gamma 1 the two bounds are one number.
    axis.hlines(np.concatenate([low, high]), *(np.tile(places, 2) + side for side in (-0.25, 0.25)), color=BOUND)
    axis.vlines(places, low - error[0], high + error[1], color=BOUND, linewidth=1, label="their confidence ends")
    point = 100 * np.array([one.value["low"][0] for one in strengths])
    spread = 100 * NORMAL * np.array([one.spread for one in strengths])
    axis.errorbar(
        places + 0.12, point, yerr=spread, fmt="o", color=POINT, capsize=3, label="doubly robust, 95% of logs"
    )
    truth = [100 * one.truth for one in strengths]
    axis.hlines(truth, places - 0.35, places + 0.35, color=TRUTH, linewidth=2, label="truth")
    logging = [100 * (one.truth - one.true_gain) for one in strengths]
    axis.plot(places, logging, "x", color="#6B6B6B", markersize=8, mew=2, label="logging policy, known from the log")
    axis.set_xticks(places, [f"{one.strength:g}" for one in strengths])
    axis.set_xlabel("Gamma of the hidden coin")
    axis.set_ylabel("value of the policy x 100")
    axis.set_title("the point estimate drifts away, the bounds hold", fontsize=10)
    top = max((high + error[1]).max(), (point + spread).max())
    bottom = min((low - error[0]).min(), min(logging))
    axis.set_ylim(bottom - 2, top + 0.42 * (top - bottom))
    axis.grid(alpha=0.25, axis="y")
    axis.legend(fontsize=8, loc="upper left", frameon=False)


def _coverage(axis, strengths: Sequence[Any]) -> None:
    gammas = strengths[0].gammas
    grid = np.array([100 * one.held for one in strengths])
    image = axis.imshow(grid, cmap="RdYlBu", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        dark = value < 12 or value > 88
        axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    for row, one in enumerate(strengths):
        column = one.at(one.strength)
        axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2))
    axis.set_xticks(np.arange(len(gammas)), [f"{gamma:g}" for gamma in gammas], rotation=45)
    axis.set_yticks(np.arange(len(strengths)), [f"{one.strength:g}" for one in strengths])
    axis.set_xlabel("Gamma of the bounds (1: the doubly robust interval)")
    axis.set_ylabel("Gamma of the hidden coin")
    axis.set_title("% of logs whose bounds hold the truth; framed: the true Gamma", fontsize=10)
    axis.figure.colorbar(image, ax=axis, pad=0.01)
