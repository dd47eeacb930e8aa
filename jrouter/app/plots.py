"""Drawings of the pages, each on axes that it is given: gains, choices, and models beside each other."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jrouter.app.page import Markup, element
from jrouter.app.svg import label

# Okabe and Ito's colours, told apart by the colour-blind; on light and on dark pages.
BLUE, ORANGE, GREEN, RED, PINK, SKY, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442"
)  # fmt: skip
GREY = "#808080"
AREAS = (SKY, ORANGE, GREEN, YELLOW, PINK, RED, BLUE)
"""Of areas beside each other, each dark enough beside the next and light enough for black text."""
MARKERS = {"ok": ("o", BLUE), "caution": ("^", ORANGE), "refuse": ("x", RED)}
"""Of points, by verdict: form and colour."""


def gains(axis, lambdas: Sequence[float], found: Mapping[str, Sequence[Any]], *, unit: str) -> None:
    """Gain over the logging policy at each lambda, x 100, with its interval and, where there is one, the band.

    Args:
      axis: to draw on.
      lambdas: L.
      found: `gain`, `gain_low`, `gain_high`, `verdict`, and maybe `band_low` and `band_high`: [L] each.
      unit: of costs.
    """
    places = np.arange(len(lambdas))
    gain, low, high = (100 * _floats(found[name]) for name in ("gain", "gain_low", "gain_high"))
    if "band_low" in found:
        band = [100 * _floats(found[name]) for name in ("band_low", "band_high")]
        axis.fill_between(places, *band, color=SKY, alpha=0.25, linewidth=0, label="band over all lambdas")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.plot(places, gain, color=BLUE, linewidth=1, alpha=0.5)
    for level, (marker, colour) in MARKERS.items():
        which = np.array([one == level for one in found["verdict"]], bool)
        if which.any():
            error = np.stack([gain - low, high - gain])[:, which].clip(0)
            axis.errorbar(places[which], gain[which], error, fmt=marker, color=colour, capsize=3, label=level)
    _lambda_axis(axis, lambdas, unit)
    axis.set_ylabel("gain per query × 100")
    axis.grid(axis="y", alpha=0.25)
    _legend_above(axis)


def mix(axis, lambdas: Sequence[float], shares: np.ndarray, *, unit: str) -> None:
    """Share of queries that each group of models gets, stacked, at each lambda; numbered as `key` is.

    Args:
      axis: to draw on.
      lambdas: L.
      shares: [L, G], of as many groups as there are areas, then maybe others.
      unit: of costs.
    """
    places, floor = np.arange(len(lambdas)), np.zeros(len(lambdas))
    for number, part in enumerate(shares.T):
        axis.bar(places, part, bottom=floor, width=0.94, color=area(number), edgecolor="white", linewidth=0.8)
        for place in places[part >= 0.07]:
            # Nearly black: what is black takes the page's colour, which may be white.
            middle = floor[place] + part[place] / 2
            axis.text(place, middle, sign(number), ha="center", va="center", color="#000001", fontsize=8)
        floor = floor + part
    _lambda_axis(axis, lambdas, unit)
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    axis.set_ylabel("share of queries")
    axis.margins(x=0.01)


def key(names: Sequence[Any]) -> Markup:
    """What the numbers and colours of `mix` stand for."""
    # A colour is one of this file's, so the swatch is made here, not by `element`, which takes no styles.
    swatches = [Markup(f'<b style="background: {area(number)}">{sign(number)}</b>') for number in range(len(names))]
    items = [element("li", swatch, element("span", name)) for swatch, name in zip(swatches, names, strict=True)]
    return element("ul", *items, class_="key")


def area(number: int) -> str:
    """Colour of the number-th area; grey after the last."""
    return AREAS[number] if number < len(AREAS) else "#B8BEC4"


def sign(number: int) -> str:
    return str(number + 1) if number < len(AREAS) else "+"


def grouped(shares: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Shares [L, T] as [L, G] of the models that are chosen: the most chosen few by name, the rest together."""
    most = shares.max(axis=0)
    chosen = [int(number) for number in np.argsort(-most, kind="stable") if most[number] > 0]
    first, rest = sorted(chosen[: len(AREAS)]), chosen[len(AREAS) :]
    parts, kept = shares[:, first], [names[number] for number in first]
    if not rest:
        return parts, kept
    return np.concatenate([parts, shares[:, rest].sum(axis=1, keepdims=True)], axis=1), [*kept, f"{len(rest)} others"]


def models_compared(left, right, names: Sequence[Any], score, error, cost, *, unit: str) -> None:
    """Each model's mean score, with its interval where there is an error, and its cost per 1,000 queries.

    Args:
      left: axis of the scores.
      right: axis of the costs.
      names: of T models.
      score: [T].
      error: [T], standard errors, or None.
      cost: [T], per query.
      unit: of costs.
    """
    places, cost = np.arange(len(names)), 1000 * _floats(cost)
    spread = None if error is None else 1.96 * np.nan_to_num(_floats(error))
    left.errorbar(_floats(score), places, xerr=spread, fmt="o", color=BLUE, capsize=2, markersize=5)
    left.set_yticks(places, [label(name) for name in names])
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set_xlabel("mean score")
    right.plot(cost, places, "s", color=RED, markersize=5)
    positive = cost[np.isfinite(cost) & (cost > 0)]
    if positive.size == cost.size and positive.max() > 20 * positive.min():
        right.set_xscale("log")
        right.xaxis.set_major_formatter("{x:g}")
        right.xaxis.set_minor_formatter("")
    else:
        right.set_xlim(left=0)
        right.locator_params(axis="x", nbins=4)
    right.set_xlabel(f"{label(unit, 10)} per 1,000 queries")
    left.locator_params(axis="x", nbins=4)
    for axis in (left, right):
        axis.grid(alpha=0.25)


def support_of_models(axis, names: Sequence[Any], rows, effective) -> None:
    """Rows of each model in the log, and what they are worth for valuing it on all queries."""
    places = np.arange(len(names))
    for shift, values, colour, about in ((-0.2, rows, GREY, "logged"), (0.2, effective, BLUE, "effective")):
        axis.barh(places + shift, np.nan_to_num(_floats(values)), height=0.38, color=colour, label=about)
    axis.set_yticks(places, [label(name) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel("rows")
    axis.locator_params(axis="x", nbins=5)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.grid(axis="x", alpha=0.25)
    _legend_above(axis)


def height_of(n_models: int) -> float:
    """Inches for a drawing with a line for each model."""
    return max(2.2, 0.9 + 0.3 * n_models)


def _legend_above(axis) -> None:
    """Where it covers nothing."""
    axis.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0)


def _lambda_axis(axis, lambdas: Sequence[float], unit: str) -> None:
    """Lambdas side by side, not to scale, as many labelled as there is room for."""
    step = -(-len(lambdas) // 8)
    named = list(itertools.islice(enumerate(lambdas), 0, None, step))
    axis.set_xticks([place for place, _ in named], [f"{lam:.3g}" if lam < 1000 else f"{lam:,.0f}" for _, lam in named])
    axis.set_xlabel(f"lambda (score per {label(unit, 10)}), not to scale")


def _floats(values: Any) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], float)
