"""The figure of a diagnosis: balance, weights, calibration of both nuisances and misfit; drawn from results alone."""

from pathlib import Path
from typing import Any

import matplotlib
from figures import _save

from jrouter.app.diagnosis_plots import balance_panel, calibration_panel, misfit_panel, weights_panel

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def diagnosis_figure(results: dict[str, Any], out: Path) -> None:
    """Six panels: love plot, importance weights, calibration of propensity, score and cost, and all misfit z.

    Args:
      results: from `jrouter.app.diagnosis_plots.as_results`, or read from the JSON that it was written to.
      out: PNG file.
    """
    found = results["diagnosis"]
    figure, axes = plt.subplots(2, 3, figsize=(16, 9), layout="constrained")
    titles = [
        balance_panel(axes[0, 0], found["balance"], results["features"][1:]),
        weights_panel(axes[0, 1], found, results["models"]),
        misfit_panel(axes[0, 2], found),
        *(calibration_panel(axes[1, place], found, name) for place, name in enumerate(("propensity", "score", "cost"))),
    ]
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.set_title(title, fontsize=10)
    _save(figure, out)
