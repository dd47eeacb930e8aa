"""A diagnosis in words: two tables for people, of what `diagnostics.diagnose` found. On the host."""

from collections.abc import Sequence

import jax
import numpy as np

from jrouter.calibration import OutcomeCalibration, PropensityCalibration
from jrouter.diagnostics import Diagnosis
from jrouter.misfit import Misfit, moment_names
from jrouter.overlap import Support, Weights

_OVERLAP = ("", "rows", "effective", "of rows", "largest w", "mean w", "(z)", "Pareto k", "no support", "SMD", "after")
_FIT = ("", "slope", "(z)", "misfit p", "largest |z|", "of", "along")


def explain_diagnosis(diagnosis: Diagnosis, models: Sequence[str], *, dim: int) -> str:
    """Two aligned tables: what supports each model and the policy, and how the nuisances fit.

    Args:
      diagnosis: of one log (no leading axes).
      models: names of its T models.
      dim: of the embeddings, to name the features.

    Returns:
      Text of several lines, the last without an end.
    """
    found: Diagnosis = jax.tree.map(np.asarray, diagnosis)
    names = moment_names(dim)
    overlap: list[tuple[str, ...]] = [_OVERLAP]
    for number, name in enumerate(models):
        weights, support = (
            jax.tree.map(lambda leaf, t=number: leaf[t], part) for part in (found.model_weights, found.model_support)
        )
        rows = f"{found.model_rows[number]:,.0f}"
        differences = (found.balance.largest_before[number], found.balance.largest_after[number])
        overlap.append((name, rows, *_weights(weights, support), *(f"{value:.2f}" for value in differences)))
    if found.policy_weights is not None and found.policy_support is not None:
        overlap.append(("policy", f"{found.rows:,.0f}", *_weights(found.policy_weights, found.policy_support), "", ""))
    fit: list[tuple[str, ...]] = [
        _FIT,
        ("propensity", *_calibration(found.propensity_calibration), *_misfit(found.propensity_misfit, models, names)),
        ("score", *_calibration(found.score_calibration), *_misfit(found.score_misfit, models, names)),
        ("cost", *_calibration(found.cost_calibration), *_misfit(found.cost_misfit, models, names)),
        ("utility", *_calibration(found.utility_calibration), *_misfit(found.utility_misfit, models, names)),
    ]
    lines = [
        f"{found.rows:,.0f} rows, {100 * found.unscored:.1f}% without a score",
        "",
        "Overlap, of each model as if it were the policy; SMD: largest difference of its queries from all queries, in",
        "standard deviations, and that after weighting.",
        *_aligned(overlap),
        "",
        "Nuisances: slope 1 is calibrated; misfit is of residuals along features of the query.",
        *_aligned(fit),
    ]
    if found.propensity_calibration is not None:
        lines.append(
            f"Expected calibration error of propensities: {found.propensity_calibration.error:.3f}; at the floor: "
            + ", ".join(f"{name} {100 * share:.1f}%" for name, share in zip(models, found.left_out, strict=True))
        )
    return "\n".join(lines)


def _weights(weights: Weights, support: Support) -> tuple[str, ...]:
    return (
        f"{weights.effective_rows:,.0f}",
        f"{100 * weights.effective_share:.1f}%",
        f"{weights.largest:.3g}",
        f"{weights.mean:.3f}",
        f"({weights.mean_z:+.1f})",
        f"{weights.pareto_k:.2f}",
        f"{100 * support.absent:.1f}%",
    )


def _calibration(calibration: PropensityCalibration | OutcomeCalibration | None) -> tuple[str, str]:
    return ("", "") if calibration is None else (f"{calibration.slope:.2f}", f"({calibration.slope_z:+.1f})")


def _misfit(misfit: Misfit, models: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    p_value = f"{misfit.p_value:.2g}" if misfit.p_value > 0 else "<1e-30"
    return p_value, f"{misfit.largest:.1f}", models[int(misfit.model)], names[int(misfit.feature)]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns of equal width, the first to the left, the others to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]

    def line(row):
        first, *others = (f"{cell:{'<' if place == 0 else '>'}{widths[place]}}" for place, cell in enumerate(row))
        return "  ".join([first, *others]).rstrip()

    return [line(row) for row in rows]
