"""What `confounding.py` shows of its cells: strength by strength, from the result file alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cells import current, select
from confounding_logs import ENDS

COLUMNS = (
    "strength,median_gamma,gamma,logs,truth,true_gain,low,high,low_error,high_error,held,gain_low,gain_high,announced"
).split(",")
"""Of the CSV."""


@dataclass(frozen=True)
class Strength:
    """All cells of one strength, joined."""

    strength: float
    gamma: float
    median_gamma: float
    truth: float
    true_gain: float
    logs: int
    gammas: list[float]
    held: np.ndarray
    announced: np.ndarray
    value: dict[str, np.ndarray]
    gain: dict[str, np.ndarray]
    spread: float
    critical: dict[str, float]
    first_log: dict[str, Any]

    def at(self, gamma: float) -> int:
        """Place of a Gamma in the grid."""
        return self.gammas.index(gamma)


def joined(path: Path) -> list[Strength]:
    """Results by strength, from the file alone."""
    found = []
    cells = [cell for group in current(path) for cell in group["cells"]]
    for strength in sorted({cell["key"]["strength"] for cell in cells}):
        mine = sorted(select(cells, strength=strength), key=lambda cell: cell["key"]["first"])
        logs = sum(cell["logs"] for cell in mine)

        def total(name, mine=mine):
            return np.sum([np.asarray(cell[name], float) for cell in mine], axis=0)

        def mean(name, mine=mine, logs=logs):
            parts = {end: [np.array(cell[name][end]) * cell["logs"] for cell in mine] for end in ENDS}
            return {end: np.sum(part, axis=0) / logs for end, part in parts.items()}

        value = mean("value")
        squares = sum(cell["squares"] * cell["logs"] for cell in mine) / logs
        bias = value["low"][0] - mine[0]["truth"]
        known = ("gamma", "median_gamma", "truth", "true_gain", "gammas", "first_log")
        found.append(
            Strength(
                strength=strength,
                logs=logs,
                held=total("held") / logs,
                announced=total("announced") / logs,
                value=value,
                gain=mean("gain"),
                spread=float(max(squares - bias**2, 0.0) ** 0.5),
                critical={name: float(total(name)) / logs for name in mine[0]["first_log"]["critical"]},
                **{name: mine[0][name] for name in known},
            )
        )
    return found


SHOWN = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
"""Gammas whose bounds the table is about; all are in the CSV."""
TABLE_COLUMNS = (
    "Gamma of the coin",
    "median query",
    "true gain",
    "bias at 1",
    *(f"holds at {gamma:g}" for gamma in SHOWN),
    "width at the true Gamma",
    "gain announced at 1",
    "gain announced at the true Gamma",
    "gain vanishes at",
    "its lower end at",
)


def table_rows(path: Path) -> list[list[str]]:
    """A row for each strength, under `TABLE_COLUMNS`: values x 100, shares of logs in %."""
    rows = []
    for one in joined(path):
        here = one.at(one.strength)
        rows.append(
            [
                f"{one.strength:g}",
                f"{one.median_gamma:.2f}",
                f"{100 * one.true_gain:+.1f}",
                f"{100 * (one.value['low'][0] - one.truth):+.1f}",
                *(f"{100 * one.held[one.at(gamma)]:.1f}" for gamma in SHOWN),
                f"{100 * (one.value['high'] - one.value['low'])[here]:.1f}",
                f"{100 * one.announced[0]:.1f}",
                f"{100 * one.announced[here]:.1f}",
                f"{one.critical['point']:.2f}",
                f"{one.critical['confident']:.2f}",
            ]
        )
    return rows


def csv_rows(path: Path) -> list[list[Any]]:
    """A row for each strength and Gamma."""
    return [
        [one.strength, one.median_gamma, gamma, one.logs, one.truth, one.true_gain]
        + [float(one.value[end][place]) for end in ("low", "high", "low_error", "high_error")]
        + [float(one.held[place])]
        + [float(one.gain[end][place]) for end in ("low", "high")]
        + [float(one.announced[place])]
        for one in joined(path)
        for place, gamma in enumerate(one.gammas)
    ]
