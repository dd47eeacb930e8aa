"""May a value estimated from this log be trusted? ok, caution or refuse, with reasons.

Thresholds were fixed on six kinds of simulated logs and are reported on six others: experiments/coverage.py. They
look at the log only. What no log can show (something unobserved that drives choice and outcome) is not in the
verdict: `sensitivity` has it.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from jrouter.diagnostics import Diagnosis
from jrouter.pareto import NO_TAIL
from jrouter.types import Array

LEVELS = ("ok", "caution", "refuse")


class Verdict(NamedTuple):
    """One of `LEVELS`, and why; without reasons where it is ok."""

    level: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Thresholds:
    """From where on a number of a log is a reason: pairs are (caution, refuse).

    Attributes:
      effective_rows: fewer rows of equal weight than this.
      pareto_k: a heavier tail of the policy's weights. From 1 on they have no mean, from 0.7 on means converge too
        slowly for a standard error. Infinity is a tail of fewer than 5 rows, which tells nothing, as where propensities
        have few values: the other numbers then decide.
      largest_share: one row with more of all weight.
      unsupported: more of the policy's choices on models that would hardly have been logged on these queries.
      misfit: p values of the tests of propensities and of the outcome model BOTH below this. One wrong nuisance is
        what doubly robust values are made to stand.
      mean_z: mean weight this many standard errors from 1.
    """

    effective_rows: tuple[float, float] = (200.0, 50.0)
    pareto_k: tuple[float, float] = (0.7, 1.0)
    largest_share: tuple[float, float] = (0.05, 0.2)
    unsupported: tuple[float, float] = (0.05, 0.2)
    misfit: tuple[float, float] = (0.05, 1e-6)
    mean_z: tuple[float, float] = (4.0, 8.0)


def key_numbers(diagnosis: Diagnosis) -> dict[str, Array]:
    """The scalars that a verdict looks at, of a diagnosis with a policy.

    Raises:
      ValueError: for a diagnosis without a policy.
    """
    weights, support = diagnosis.policy_weights, diagnosis.policy_support
    if weights is None or support is None:
        raise ValueError("a verdict is about a policy: diagnose(log, nuisances, probability)")
    return {
        "rows": diagnosis.rows,
        "effective_rows": weights.effective_rows,
        "largest_share": weights.largest_share,
        "pareto_k": weights.pareto_k,
        "mean_z": weights.mean_z,
        # Where it is estimated (logged propensities), what chance leaves of it.
        "unsupported": jnp.maximum(support.absent - 2.0 * support.absent_error, 0.0),
        "propensity_p": diagnosis.propensity_misfit.p_value,
        "outcome_p": diagnosis.utility_misfit.p_value,
        "imbalance": diagnosis.balance.largest_after.max(),
        "least_rows": diagnosis.model_rows.min(),
    }


def judge(diagnosis: Diagnosis, thresholds: Thresholds = Thresholds()) -> Verdict:
    """The verdict on valuing the policy of a diagnosis.

    Args:
      diagnosis: of `diagnostics.diagnose`, with the policy's probabilities.
      thresholds: of each number.
    """
    return judge_numbers({name: float(value) for name, value in key_numbers(diagnosis).items()}, thresholds)


def judge_numbers(numbers: dict[str, float], thresholds: Thresholds = Thresholds()) -> Verdict:
    """The verdict from the numbers of `key_numbers`.

    >>> fine = {"rows": 2000, "effective_rows": 900, "largest_share": .01, "pareto_k": .3, "mean_z": .5}
    >>> fine |= {"unsupported": 0., "propensity_p": .4, "outcome_p": 1e-9, "imbalance": .1, "least_rows": 100}
    >>> judge_numbers(fine).level, judge_numbers(fine | {"pareto_k": .8, "effective_rows": 20.}).level
    ('ok', 'refuse')
    """
    # Each: how bad (larger is worse), (caution, refuse), and what to say.
    both_p = max(numbers["propensity_p"], numbers["outcome_p"])
    checks = [
        (
            -numbers["effective_rows"],
            tuple(-bound for bound in thresholds.effective_rows),
            f"only {numbers['effective_rows']:.0f} of {numbers['rows']:.0f} rows count, in effect, for this policy: it "
            "rarely does what was logged; log more, or explore more",
        ),
        (
            numbers["pareto_k"] if math.isfinite(numbers["pareto_k"]) else NO_TAIL,
            thresholds.pareto_k,
            f"the weights' tail is heavy (Pareto k {numbers['pareto_k']:.2f}): a few rows decide, and a standard error "
            "of so few says little; explore more, or value a policy nearer to the logging policy",
        ),
        (
            numbers["largest_share"],
            thresholds.largest_share,
            f"one row holds {100 * numbers['largest_share']:.0f}% of all weight; explore more",
        ),
        (
            numbers["unsupported"],
            thresholds.unsupported,
            f"{100 * numbers['unsupported']:.0f}% of the policy's choices are models that were hardly ever logged on "
            "such queries: their value there is the outcome model's guess; see limited_overlap for bounds",
        ),
        (
            -both_p,
            tuple(-bound for bound in thresholds.misfit),
            f"both propensities (p = {numbers['propensity_p']:.1g}) and outcome model (p = {numbers['outcome_p']:.1g}) "
            "miss something in the queries, so even doubly robust values are biased; use richer nuisances, or log "
            "propensities",
        ),
        (
            abs(numbers["mean_z"]),
            thresholds.mean_z,
            f"the policy's weights average {numbers['mean_z']:+.1f} standard errors from 1: propensities are wrong, or "
            "0 where they should not be",
        ),
    ]
    level, reasons = 0, []
    for badness, (caution, refuse), reason in checks:
        found = 2 if badness > refuse else 1 if badness > caution else 0
        level = max(level, found)
        if found:
            reasons.append(reason)
    return Verdict(LEVELS[level], tuple(reasons))
