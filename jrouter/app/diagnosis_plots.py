"""Panels of a diagnosis: balance, weights, calibration of both nuisances and misfit; drawn from results alone.

Each draws on one axis and returns its title.
"""

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from jrouter.app.plots import BLUE, GREEN, GREY, RED
from jrouter.app.svg import label
from jrouter.diagnostics import Diagnosis
from jrouter.io.results import plain
from jrouter.misfit import moment_names
from jrouter.overlap import WEIGHT_EDGES

NUISANCES = {"propensity": RED, "score": BLUE, "cost": GREEN}
BEFORE, AFTER = GREY, BLUE
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


def balance_panel(axis, balance: Mapping[str, Any], names: Sequence[str]) -> str:
    """Of each feature, the model whose queries differ most from all, before and after; the worst on top."""
    before, after = (np.abs(balance[part]).max(axis=0) for part in ("before", "after"))
    order = np.argsort(before)[::-1][:SHOWN_FEATURES]
    places = np.arange(order.size)
    axis.hlines(places, before[order], after[order], color="black", alpha=0.15, linewidth=1)
    axis.plot(before[order], places, "o", markerfacecolor="white", color=BEFORE, label="before")
    axis.plot(after[order], places, "o", color=AFTER, label="weighted by 1 / p")
    axis.axvline(0.1, color="black", linestyle=":", linewidth=0.8)
    axis.set_yticks(places, [label(names[number]) for number in order], fontsize=8)
    axis.set_ylim(order.size - 0.5, -0.5)
    axis.set_xlim(left=0)
    axis.set_xlabel("largest |standardised mean difference| among models")
    axis.legend(fontsize=8, frameon=False)
    axis.grid(axis="x", alpha=0.25)
    shown = "" if order.size == before.size else f", {order.size} of {before.size} features"
    return f"balance of queries{shown}"


def weights_panel(axis, found: Mapping[str, Any], models: Sequence[str]) -> str:
    """Rows by importance weight, in bins that double: of the policy, or of each model without one."""
    ends = [f"{edge:g}" for edge in WEIGHT_EDGES] + ["more"]
    places = np.arange(len(ends))
    policy = found["policy_weights"]
    if policy is not None:
        counts = np.array(policy["histogram"])
        axis.bar(places, counts[1:], width=0.9, color=AFTER)
        title = (
            f"policy: {policy['effective_rows']:,.0f} effective rows of {found['rows']:,.0f} "
            f"({counts[0]:,.0f} of weight 0)\nlargest {policy['largest']:.3g}, mean {policy['mean']:.3f}, "
            f"Pareto k {policy['pareto_k']:.2f}"
        )
        shown = counts[1:]
    else:
        shown = np.array(found["model_weights"]["histogram"])[:, 1:]
        for name, counts in zip(models, shown, strict=True):
            axis.step(places, counts, where="mid", label=label(name))
        axis.legend(fontsize=8, frameon=False)
        title = "each model as if it were the policy"
        shown = shown.max(axis=0)
    axis.set_xticks(places, ends, rotation=45)
    used = np.flatnonzero(shown)
    if used.size:
        axis.set_xlim(used[0] - 1.6, used[-1] + 1.6)
    axis.set_axisbelow(True)
    axis.set_yscale("symlog", linthresh=1)
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("importance weight, up to")
    axis.set_ylabel("rows")
    axis.grid(axis="y", alpha=0.25)
    return title


def misfit_panel(axis, found: Mapping[str, Any]) -> str:
    """|z| of every model and feature against what as many standard normals would be."""
    longest = 0.0
    for name, colour in NUISANCES.items():
        part = found[f"{name}_misfit"]
        z = np.sort(np.abs(part["z"]).reshape(-1))
        shares = (np.arange(z.size) + 0.5) / z.size
        expected = [NormalDist().inv_cdf(0.5 + share / 2) for share in shares]
        axis.plot(expected, z, ".", color=colour, label=f"{name}, p {p_value(part['p_value'])}")
        longest = max(longest, expected[-1])
    axis.plot([0, longest], [0, longest], color="black", linewidth=0.8)
    axis.set_xlabel("|z| expected of right nuisances")
    axis.set_ylabel("|z| of residuals along\nfeatures of the query")
    axis.legend(fontsize=8, frameon=False)
    axis.grid(alpha=0.25)
    return "misfit (below the line: fitted features)"


def p_value(value: float) -> str:
    """A p value with its sign of relation; results are rounded to 8 digits.

    >>> p_value(.0123), p_value(0.)
    ('= 0.012', '< 1e-8')
    """
    return f"= {value:.2g}" if value >= 1e-8 else "< 1e-8"


def calibration_panel(axis, found: Mapping[str, Any], name: str) -> str:
    """What was observed against what the nuisance of that name predicted, in bins of equal weight."""
    part = found[f"{name}_calibration"]
    if part is None:
        axis.text(0.5, 0.5, "the log's own propensities,\nof logged models alone:\nno curve", ha="center")
        axis.set_axis_off()
        return ""
    curve = part["curve"]
    live = np.array(curve["weight"]) > 0
    predicted, observed = (np.array(curve[one])[live] for one in ("predicted", "observed"))
    if live.any():
        ends = [min(predicted.min(), observed.min()), max(predicted.max(), observed.max())]
        axis.plot(ends, ends, color="black", linewidth=0.8)
    axis.plot(predicted, observed, "o-", color=NUISANCES[name], markersize=5)
    axis.locator_params(nbins=6)
    axis.ticklabel_format(style="sci", scilimits=(-2, 3))
    of_choice = name == "propensity"
    axis.set_xlabel(f"{'estimated propensity' if of_choice else f'predicted {name}'} (bins of equal weight)")
    axis.set_ylabel("share logged" if of_choice else f"mean observed {name}")
    axis.grid(alpha=0.25)
    if of_choice:
        return f"propensity: slope {part['slope']:.2f}, calibration error {part['error']:.3f}"
    return f"{name}: slope within models {part['slope']:.2f}"
