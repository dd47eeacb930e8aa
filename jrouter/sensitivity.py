"""What if something that is not in the log drove both the choice and the outcome? Bounds instead of a point.

Under Tan's marginal sensitivity model (see `bounding_scores`) with factor Gamma, the mean over rows of

    sum_t pi(t | x_i) phi_it,   phi_i [T] the row's lower (upper) bounding scores

bounds the value of a policy: sharp where Gamma limits each model's odds given that model's own outcome, as the
models' outcomes are then free of each other; valid for any hidden variable. Gamma = 1 is the doubly robust value.

NOT affine in lambda: score and cost are at their worst at different hidden values. Run it on the utility itself,
at each lambda.

Sources: Tan (2006); Kallus & Zhou (2021), policies; Dorn & Guo (2022), sharp; Dorn, Guo & Kallus (2021), doubly valid.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from jrouter.bounding_scores import corrected, inverse_odds, tilted_scores
from jrouter.chunks import map_rows, rows_at_once
from jrouter.counterfactual import scored_factor
from jrouter.inference import standard_error
from jrouter.metrics import utility
from jrouter.policy import Policy
from jrouter.residual_tails import BINS, make_tails
from jrouter.types import Array, LoggedData, Nuisances
from jrouter.weighted import weighted_mean

GAMMAS = (1.0, 1.1, 1.2, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0)
"""The grid that a report shows, where no other is asked for."""


class Bounds(NamedTuple):
    """Lower and upper bound at each Gamma, with their standard errors: [..., G] each."""

    low: Array
    low_error: Array
    high: Array
    high_error: Array

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Ends of what holds the truth with this confidence: the bounds, each widened by its own error."""
        width = norm.ppf((1.0 + level) / 2.0)
        return self.low - width * self.low_error, self.high + width * self.high_error


class SensitivityBounds(NamedTuple):
    """Bounds of a policy's value, and of its gain over the logging policy, whose value is the mean of what was seen."""

    value: Bounds
    gain: Bounds


class CriticalGamma(NamedTuple):
    """How much hidden confounding it takes for a gain to vanish. Finite numbers only.

    Attributes:
      point: Gamma at which the lower bound reaches 0; the first of the grid (1) where there is no gain even
        there, the last where there is one throughout: then
      point_beyond: is True, and the answer is "more than that".
      confident: the same of the lower end of the bound's confidence interval, and
      confident_beyond: of that.
    """

    point: Array
    point_beyond: Array
    confident: Array
    confident_beyond: Array


def sensitivity_bounds(
    probability: Array,
    observed: Array,
    model: Array,
    propensity: Array,
    outcome: Array,
    fold: Array,
    gammas: Array,
    *,
    n_folds: int,
    row_weight: Array | None = None,
    group: Array | None = None,
    scored: Array | None = None,
    n_bins: int = BINS,
) -> SensitivityBounds:
    """Bounds of a fixed policy's value under hidden confounding up to each Gamma. Pure: jit it, vmap it.

    Of ONE outcome: for a utility, run it on score - lambda * cost, observed and predicted, at each lambda.

    Args:
      probability: [n, T], pi(t | x_i), chosen without looking at the outcomes; or the difference of two
        policies', for bounds of the difference in value (its gain is then no gain over the logging policy).
      observed: [n], y of the logged model; any finite number where not scored.
      model: [n] int, index of the logged model.
      propensity: [n], p of the logged model.
      outcome: [n, T], mu_t(x_i), by outcome models that did not see the row.
      fold: [n] int in 0..n_folds-1, of which `outcome` is the prediction of the others; tails are likewise.
      gammas: [G], each at least 1.
      n_folds: K.
      row_weight: [n], or None for ones.
      group: [n] int in 0..n-1, rows that are not independent.
      scored: [n], whether y was observed over the probability that it would be (`counterfactual.scored_factor`); None
        for all observed.
      n_bins: as of `residual_tails.prediction_bins`.

    Returns:
      `SensitivityBounds` of [G]. Errors are those of means of rows, nuisances as given: right to first order. At Gamma
      1 both bounds are the doubly robust value. Gain is paired row by row.
    """
    weight = jnp.ones(observed.shape) if row_weight is None else row_weight
    scored = jnp.ones(observed.shape) if scored is None else scored
    tails = make_tails(outcome, observed, model, fold, weight * scored, n_folds=n_folds, n_bins=n_bins)
    scores = partial(tilted_scores, tails, observed, model, inverse_odds(propensity), outcome, scored)
    own = jnp.take_along_axis(outcome, model[:, None], axis=1)[:, 0]
    logged = corrected(own, observed, scored)

    def at(gamma):
        low, high = scores(1.0 / gamma), scores(gamma)
        # Where a coefficient is negative, a model's upper bound is what makes the sum small.
        gains, losses = jnp.maximum(probability, 0.0), jnp.minimum(probability, 0.0)
        low, high = gains * low + losses * high, gains * high + losses * low
        low, high = low.sum(axis=1), high.sum(axis=1)
        rows = jnp.stack([low, high, low - logged, high - logged])
        return weighted_mean(rows.T, row_weight), standard_error(rows, row_weight, group=group)

    mean, error = jax.lax.map(at, jnp.asarray(gammas))
    value, gain = (Bounds(mean[:, i], error[:, i], mean[:, i + 1], error[:, i + 1]) for i in (0, 2))
    return SensitivityBounds(value, gain)


def fixed_policy_bounds(
    log: LoggedData,
    nuisances: Nuisances,
    policy: Policy,
    params: Any,
    lambdas: Array,
    gammas: Array,
    *,
    n_folds: int,
) -> SensitivityBounds:
    """`sensitivity_bounds` of the utility of a policy that was made WITHOUT this log, lambda by lambda. Pure.

    Args:
      log: n rows.
      nuisances: of the same rows, cross-fitted in n_folds folds.
      policy: and
      params: its parameters.
      lambdas: [L].
      gammas: [G], each at least 1.
      n_folds: K.

    Returns:
      `SensitivityBounds` of [L, G].
    """

    def at(lam):
        chunk = rows_at_once(len(log.models))
        return sensitivity_bounds(
            map_rows(lambda x: policy.probabilities(params, x, lam), log.x, chunk=chunk),
            utility(log.score, log.cost, lam),
            log.model,
            nuisances.propensity,
            utility(nuisances.score, nuisances.cost, lam),
            nuisances.fold,
            gammas,
            n_folds=n_folds,
            row_weight=log.row_weight,
            group=log.group,
            scored=scored_factor(log, nuisances),
        )

    return jax.lax.map(at, lambdas)


def crossing(gammas: Array, low: Array) -> tuple[Array, Array]:
    """Where a falling curve on a grid first reaches 0, linearly between its points; and whether it never does.

    Args:
      gammas: [G], ascending.
      low: [G].

    Returns:
      Scalar, the first of the grid where `low` is not positive there, the last where it is everywhere; and bool,
      True in the last case.

    >>> crossing(jnp.array([1., 2., 4.]), jnp.array([.2, .1, -.1]))
    (Array(3., dtype=float32), Array(False, dtype=bool))
    """
    gone = low <= 0
    beyond = ~gone.any()
    after = jnp.argmax(gone)
    before = jnp.maximum(after - 1, 0)
    fall = low[before] - low[after]
    share = jnp.where(fall > 0, low[before] / jnp.where(fall > 0, fall, 1.0), 0.0)
    inside = gammas[before] + share * (gammas[after] - gammas[before])
    return jnp.where(beyond, gammas[-1], inside), beyond


def critical_gamma(gammas: Array, gain: Bounds, *, level: float = 0.95) -> CriticalGamma:
    """The Gamma at which a gain vanishes: what a report says in one number, and one that is safe to say.

    Args:
      gammas: [G], ascending from 1.
      gain: [G] each, e.g. `SensitivityBounds.gain`.
      level: of the interval whose lower end the second number is about.

    Returns:
      `CriticalGamma` of scalars.
    """
    return CriticalGamma(*crossing(gammas, gain.low), *crossing(gammas, gain.interval(level)[0]))
