"""How strong the weights should be: chosen from the log alone, once for score and cost together.

Large weights have little bias and much variance. Both rules here compare, over candidate strengths, the
estimated mean score AND mean cost of every model (the same weights for both), so one strength serves every
lambda. Neither looks at truth. Scores whose strength was chosen so look at the outcomes through one number.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from jrouter.counterfactual import counterfactual_scores
from jrouter.inference import standard_error
from jrouter.nuisances.outcome import outcomes_of
from jrouter.types import Array, CounterfactualScores, LoggedData, Nuisances
from jrouter.weighted import weighted_mean

TUNABLE = ("switch", "dros", "balancing")
"""Estimators with a strength that trades bias for variance."""


class Info(NamedTuple):
    """What a choice of strength was made from.

    Attributes:
      estimates: [M, 2 T], each candidate's mean score, then mean cost, of every model, in units of the
        standard deviation of that model's logged outcomes.
      errors: [M, 2 T], their standard errors over the draws of the log, its queries given.
      chosen: index into the candidates.
    """

    estimates: Array
    errors: Array
    chosen: Array


def slope(estimate: Array, error: Array, *, width: float | Array = 2.0) -> Array:
    """The most biased candidate that no less biased one contradicts (SLOPE).

    argmax m: the intervals estimate_j +- width * error_j, j = 0..m, have a point in common

    If biases grow and errors shrink along the candidates, its error is within a constant factor of the
    best candidate's.

    Args:
      estimate: [M] or [M, C], of C targets; from the least biased and most variable candidate to the most
        biased.
      error: the same shape, standard errors.
      width: half of an interval, in standard errors. With C targets the intervals of each must meet: widen
        them so that all hold together.

    Returns:
      Scalar int. The units of the targets do not matter.

    Source: Su, Srinath & Krishnamurthy (2020), Adaptive estimator selection, section 3.

    >>> slope(jnp.array([0., 1., 9.]), jnp.array([1., .5, .1]))
    Array(1, dtype=int32)
    """
    chex.assert_equal_shape([estimate, error])
    estimate, error = (values.reshape(values.shape[0], -1) for values in (estimate, error))
    low = jax.lax.cummax(estimate - width * error)
    high = jax.lax.cummin(estimate + width * error)
    # Intervals on a line have a common point if each two of them do; once lost it stays lost.
    return (low <= high).all(axis=1).sum() - 1


def _units(log: LoggedData) -> Array:
    """[2 T], standard deviation of each model's logged scores, then costs."""
    return outcomes_of(log, log.x, log.weight)[1].deviation.reshape(-1)


def _mean_and_error(rows: Array, log: LoggedData) -> tuple[Array, Array]:
    """Mean of `rows` [n, C] and its standard error: [C] each."""
    return weighted_mean(rows, log.weight), standard_error(rows.T, log.weight, group=log.group)


def _corrections(log: LoggedData, nuisances: Nuisances, estimator: str, strength: float | Array = 0.0) -> Array:
    """[n, 2 T], by how much scores, then costs, move the outcome model's, in units.

    The outcome model's mean over the log's queries is common to all strengths, and so is how it varies
    over queries: neither belongs in a comparison of strengths.
    """
    scores = counterfactual_scores(log, nuisances, estimator=estimator, strength=strength)
    return jnp.concatenate([scores.score - nuisances.score, scores.cost - nuisances.cost], axis=1) / _units(log)


def _check(estimator: str) -> None:
    if estimator not in TUNABLE:
        raise ValueError(f"estimator {estimator!r} has no strength to choose: expected one of {', '.join(TUNABLE)}")


def choose_strength(
    log: LoggedData, nuisances: Nuisances, *, estimator: str, strengths: Array, level: float = 0.95
) -> tuple[Array, Info]:
    """The smallest strength that the larger ones do not contradict, on mean scores and costs at once.

    Args:
      log: n rows.
      nuisances: for the same rows, cross-fitted.
      estimator: one of `TUNABLE`.
      strengths: [M], in any order; the largest is taken to have little bias.
      level: that all 2 T intervals of a candidate hold (Bonferroni).

    Returns:
      Index into `strengths`, and `Info`.

    Raises:
      ValueError: for an estimator without a strength.

    Source: `slope`.
    """
    _check(estimator)

    def attempt(strength):
        return _mean_and_error(_corrections(log, nuisances, estimator, strength), log)

    shift, errors = jax.lax.map(attempt, strengths)
    order = jnp.argsort(-strengths)
    width = norm.ppf(1.0 - (1.0 - level) / (2 * shift.shape[1]))
    chosen = order[slope(shift[order], errors[order], width=width)]
    return chosen, _info(log, nuisances, shift, errors, chosen)


def choose_strength_by_error(
    log: LoggedData, nuisances: Nuisances, *, estimator: str, strengths: Array
) -> tuple[Array, Info]:
    """The strength of least estimated squared error, summed over mean scores and costs in units.

    sum over targets of max(0, (estimate - doubly robust estimate)^2 - its variance) + variance

    The square of a difference exceeds the squared bias by the variance of the difference, which is taken
    off. Right where the propensities are, as the doubly robust estimate must be unbiased.

    Args:
      log: n rows.
      nuisances: for the same rows, cross-fitted.
      estimator: one of `TUNABLE`.
      strengths: [M].

    Returns:
      Index into `strengths`, and `Info`.

    Raises:
      ValueError: for an estimator without a strength.

    Source: Su, Dimakopoulou, Krishnamurthy & Dudik (2020), section 5, model selection.
    """
    _check(estimator)
    unbiased = _corrections(log, nuisances, "dr")

    def attempt(strength):
        correction = _corrections(log, nuisances, estimator, strength)
        return _mean_and_error(correction, log), _mean_and_error(correction - unbiased, log)

    (shift, errors), (bias, bias_error) = jax.lax.map(attempt, strengths)
    chosen = jnp.argmin((jnp.maximum(bias**2 - bias_error**2, 0.0) + errors**2).sum(axis=1))
    return chosen, _info(log, nuisances, shift, errors, chosen)


RULES = {"slope": choose_strength, "error": choose_strength_by_error}
"""Names by which a method's config may ask for a strength chosen from the log."""
STRENGTHS = tuple(10.0 ** (step / 2) for step in range(-2, 9))
"""0.1 to 10,000, two per decade: what is chosen from."""


def tuned_scores(
    log: LoggedData, nuisances: Nuisances, *, estimator: str, strength: float | str | Array
) -> CounterfactualScores:
    """Counterfactual scores at a given strength, or at one that a rule chooses from this log.

    Args:
      log: n rows.
      nuisances: for the same rows, cross-fitted.
      estimator: one of `counterfactual.WEIGHTS`.
      strength: a number, or the name of one of `RULES`, which takes one of `STRENGTHS`.

    Returns:
      As of `counterfactual.counterfactual_scores`.

    Raises:
      ValueError: for an unknown rule or estimator, or a rule for an estimator without a strength.

    >>> one = LoggedData(jnp.zeros((2, 1)), jnp.array([0, 1]), jnp.ones(2), jnp.ones(2), models=("a", "b"))
    >>> known = Nuisances(jnp.full(2, .5), jnp.zeros((2, 2)), jnp.zeros((2, 2)), jnp.zeros(2, jnp.int32))
    >>> tuned_scores(one, known, estimator="dr", strength=10.).score
    Array([[2., 0.],
           [0., 2.]], dtype=float32)
    """
    strength = as_number(log, nuisances, estimator=estimator, strength=strength)
    return counterfactual_scores(log, nuisances, estimator=estimator, strength=strength)


def as_number(log: LoggedData, nuisances: Nuisances, *, estimator: str, strength: float | str | Array) -> float | Array:
    """The strength itself, or the one that the rule of this name chooses; arguments as of `tuned_scores`."""
    if not isinstance(strength, str):
        return strength
    if strength not in RULES:
        raise ValueError(f"unknown rule {strength!r}: expected a number or one of {', '.join(RULES)}")
    candidates = jnp.array(STRENGTHS)
    return candidates[RULES[strength](log, nuisances, estimator=estimator, strengths=candidates)[0]]


def _info(log: LoggedData, nuisances: Nuisances, shift: Array, errors: Array, chosen: Array) -> Info:
    outcome = jnp.concatenate([nuisances.score, nuisances.cost], axis=1) / _units(log)
    return Info(weighted_mean(outcome, log.weight) + shift, errors, chosen)
