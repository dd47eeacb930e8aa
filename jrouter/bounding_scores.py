"""Scores of one row that bound what hidden confounding could make of each model's mean outcome.

Tan's marginal sensitivity model: whatever is hidden, it changes the odds that model t was logged by a factor
between 1 / Gamma and Gamma, for every t. Then, given x, the density of t's outcome on the rows where t was not
logged, over that on the rows where it was, lies between 1 / Gamma and Gamma too, and the mean outcome is at most

    p_t(x) mu_t(x) + (1 - p_t(x)) rho_t(x),   rho = E[H | x, t],   H = Q + Gamma^sign(Y - Q) (Y - Q)

with Q the tau-quantile of t's outcomes at x, tau = Gamma / (1 + Gamma). ANY Q gives a valid bound, the right one
the sharp bound. The lower bound is the same with 1 / Gamma for Gamma ("tilt" below): 1 - tau, and Gamma^-sign.

    phi_t = rho_t + 1[t = logged] (y - rho_t + (1 - p) / p (H - rho_t))

has this bound as its mean if the propensity is right OR rho is, and at Gamma = 1 it is the doubly robust score.
Nothing is clipped to the range of outcomes: costs and many scores have none that is known.

Sources: Tan (2006); Dorn & Guo (2022), sharp bounds; Dorn, Guo & Kallus (2021), doubly valid scores.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jrouter.counterfactual import scored_factor
from jrouter.estimators import augmented
from jrouter.residual_tails import Tails, make_tails
from jrouter.types import Array, CounterfactualScores, LoggedData, Nuisances


def inverse_odds(propensity: Array) -> Array:
    """(1 - p) / p, the weight of a row's answer for rows of the other models; 0 where p is 0. Any shape.

    >>> inverse_odds(jnp.array([.25, 1., 0.]))
    Array([3., 0., 0.], dtype=float32)
    """
    propensity = jnp.asarray(propensity)
    positive = propensity > 0
    return jnp.where(positive, (1.0 - propensity) / jnp.where(positive, propensity, 1.0), 0.0)


def tilted_outcome(observed: Array, quantile: Array, *, tilt: float | Array) -> Array:
    """H = Q + tilt^sign(y - Q) (y - Q): an outcome, reweighted as the least favourable hidden variable would.

    Args:
      observed: y, any shape.
      quantile: Q, of y's shape: tilt / (1 + tilt) quantile of outcomes like it; others are valid, not sharp.
      tilt: Gamma for the upper bound, 1 / Gamma for the lower.

    Returns:
      H, of y's shape.

    >>> tilted_outcome(jnp.array([0., 1.]), jnp.array([.5, .5]), tilt=2.)
    Array([0.25, 1.5 ], dtype=float32)
    """
    away = observed - quantile
    return quantile + jnp.where(away > 0, tilt, 1.0 / tilt) * away


def doubly_valid(worst: Array, observed: Array, tilted: Array, model: Array, odds: Array) -> Array:
    """Bounding scores phi of one row; their means bound the models' mean outcomes.

    phi_t = rho_t + 1[t = model] (y - rho_t + odds (H - rho_t))

    Only the logged model's propensity is in it. With rho = mu and H = y it is `doubly_robust`.

    Args:
      worst: [T], rho_t(x), tilted mean outcome of each model, by a fit that did not see the row.
      observed: scalar, y.
      tilted: scalar, H, of the logged model.
      model: scalar int, index of the logged model.
      odds: scalar, `inverse_odds(p)`. With less, down to 0, less variance, and valid if rho is right alone.

    Returns:
      [T], in the unit of y.

    Source: Dorn, Guo & Kallus (2021).

    >>> doubly_valid(jnp.array([.5, .2]), 1., 1., 0, 3.)
    Array([2.5, 0.2], dtype=float32)
    """
    return augmented(worst, observed + odds * (tilted - worst[model]), model, jnp.ones_like(odds))


def tilted_scores(
    tails: Callable[[Array], Tails],
    observed: Array,
    model: Array,
    odds: Array,
    outcome: Array,
    scored: Array,
    tilt: Array,
) -> Array:
    """Scores of `doubly_valid` of all rows at one tilt.

    Args:
      tails: tilt -> `Tails` of these rows, of `residual_tails.make_tails`.
      observed: [n], y.
      model: [n] int, index of the logged model.
      odds: [n], of `doubly_valid`.
      outcome: [n, T], predictions that the tails are about.
      scored: [n], whether y was observed over the probability that it would be.
      tilt: Gamma or 1 / Gamma.

    Returns:
      [n, T].
    """
    found = tails(tilt)
    worst = outcome + found.shift
    own, least = (jnp.take_along_axis(values, model[:, None], axis=1)[:, 0] for values in (outcome, worst))
    tilted = tilted_outcome(observed, own + found.quantile, tilt=tilt)
    observed, tilted = corrected(own, observed, scored), corrected(least, tilted, scored)
    return jax.vmap(doubly_valid)(worst, observed, tilted, model, odds)


def corrected(predicted: Array, observed: Array, scored: Array) -> Array:
    """predicted + scored * (observed - predicted), any shape: what was observed, or stands for it where it was not."""
    return predicted + scored * (observed - predicted)


BOUNDED = ("direct", "dr", "switch", "dros")
"""Estimators whose weights `pessimistic_scores` can take."""


def pessimistic_scores(
    log: LoggedData,
    nuisances: Nuisances,
    *,
    gamma: float | Array,
    n_folds: int,
    estimator: str = "dr",
    strength: float | Array = 10.0,
) -> CounterfactualScores:
    """Lower bound of the score and UPPER bound of the cost of every model on every row: what to train a router on.

    Utilities made of them bound those of every lambda >= 0 from below, and are affine in lambda. Not sharp for
    lambda > 0: the hidden variable that is worst for the score need not be worst for the cost.

    Args:
      log: n rows.
      nuisances: of the same rows, cross-fitted in n_folds folds.
      gamma: at least 1; at 1, doubly robust scores (with the weights of "dr").
      n_folds: K.
      estimator: one of `BOUNDED`, of the weights (1 - p) / p: as they are, 0, 0 above a threshold, or shrunken
        to at most sqrt(strength) / 2. Those other than "dr" trust the tails' fit where they are smaller.
      strength: of the shrinkage, or the threshold.

    Returns:
      `CounterfactualScores`, [n, T] each.

    Raises:
      ValueError: for an estimator without bounds.

    Source: Kallus & Zhou (2021), learning on bounds.
    """
    if estimator not in BOUNDED:
        raise ValueError(f"estimator {estimator!r} has no bounds: expected one of {', '.join(BOUNDED)}")
    odds = inverse_odds(nuisances.propensity)
    if estimator == "direct":
        odds = jnp.zeros_like(odds)
    elif estimator == "switch":
        odds = jnp.where(odds <= strength, odds, 0.0)
    elif estimator == "dros":
        odds = strength * odds / (odds**2 + strength)

    def bound(observed, outcome, scored, tilt):
        tails = make_tails(outcome, observed, log.model, nuisances.fold, log.weight * scored, n_folds=n_folds)
        return tilted_scores(tails, observed, log.model, odds, outcome, scored, jnp.asarray(tilt))

    return CounterfactualScores(
        score=bound(log.score, nuisances.score, scored_factor(log, nuisances), 1.0 / gamma),
        cost=bound(log.cost, nuisances.cost, jnp.ones_like(log.cost), gamma),
    )
