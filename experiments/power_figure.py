"""The figure of power against rows, drawn from its result file alone."""

import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

COLOURS = ("#000000", "#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#56B4E9")


def power_figure(result: Path, out: Path) -> None:
    """Power over rows, a line per share of exploration: simulated, with Monte Carlo errors, and by the formula."""
    settings = json.loads(result.read_text())["results"]
    panels = [(setting, gain) for setting in settings for gain in setting["gains"]]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 4.4), squeeze=False, layout="constrained")
    axes = axes[0]
    for axis, (setting, gain) in zip(axes, panels, strict=True):
        for place, one in enumerate(gain["explorations"]):
            colour = COLOURS[place % len(COLOURS)]
            rows, power = np.array(gain["rows"]), np.array(one["power"])
            trusted = np.array(one["trusted"], bool)
            axis.plot(rows, one["by_formula"], color=colour, linewidth=1.2, alpha=0.7)
            axis.errorbar(
                rows[trusted],
                power[trusted],
                yerr=1.96 * np.array(one["error"])[trusted],
                fmt="o",
                markersize=4,
                color=colour,
                elinewidth=1,
                label=f"exploration {one['exploration']:g}",
            )
            # What should not be trusted is shown as such.
            axis.plot(rows[~trusted], power[~trusted], "x", color=colour, markersize=5)
        axis.axhline(setting["target"], color="black", linewidth=0.8, linestyle=":")
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_ylim(-0.02, 1.02)
        axis.set_xlabel("logged rows")
        axis.set_title(f"{setting['table']}, a gain of {100 * gain['gain']:g} points", fontsize=10)
        axis.grid(alpha=0.25, which="both")
    axes[0].set_ylabel("power of a 95% interval")
    handles, labels = axes[-1].get_legend_handles_labels()
    handles += axes[-1].plot([], [], color="gray", linewidth=1.2)
    handles += axes[-1].plot([], [], "x", color="gray", markersize=5)
    labels += ["by the formula", "errors understated: not to be trusted"]
    axes[-1].legend(handles, labels, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    partial = out.with_suffix(".partial.png")
    figure.savefig(partial, dpi=130)
    plt.close(figure)
    partial.replace(out)
