"""A log made into a world of which everything is known: what the power of future logs is simulated in.

Queries are the log's own, by row weight. The estimated propensities, mixed with a share e of uniform exploration,
are the logging policy, the outcome model is the truth, and outcomes vary around it as the log's did:

    q_t(x) = (1 - e) p_t(x) + e / T,   y = u_t(x) + noise_t,   u_t = score_t - lambda * cost_t

The gain of a policy pi over a baseline b is the mean of sum_t (pi_t - b_t) u_t over queries. It is set to what is
to be detected by the least change of the means, in squares: u_t + delta (pi_t - b_t), one delta for all queries.
Noise does not move with it.

What this leaves out: every row of a future log is scored; queries are drawn one by one, so rows of one user or
session are taken for independent (multiply rows by the design effect, the squared ratio of the log's standard errors
with and without groups); and models that the log never chose for a query are as predicted (see `limited_overlap`).
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass

from jrouter.estimators import inverse_propensity_weight
from jrouter.metrics import utility
from jrouter.types import Array, LoggedData, Nuisances
from jrouter.weighted import weighted_mean

NOISES = 2048
"""Equally likely residuals kept of each model."""


@register_dataclass
@dataclass(frozen=True)
class PowerWorld:
    """n queries and T models, in units of utility at one lambda.

    Attributes:
      weight: [n], how often a query is met, relative to others.
      propensity: [n, T], of the logging policy without exploration; rows sum to 1.
      allowed: [n, T] bool, where exploration may go.
      policy: [n, T], pi, what is to be valued.
      baseline: [n, T], b, what its gain is over.
      mean: [n, T], u.
      chance: [n, T], probability of a score of 1, where scores are 0/1; None where they are not.
      noise: [T, R], equally likely residuals of the utility, or where scores are 0/1 of -lambda * cost; mean 0.
      even: whether all weights are equal (static).
    """

    weight: Array
    propensity: Array
    allowed: Array
    policy: Array
    baseline: Array
    mean: Array
    chance: Array | None
    noise: Array
    even: bool = field(metadata={"static": True})

    @property
    def contrast(self) -> Array:
        """[n, T], pi - b: the gain is linear in the means, with these coefficients."""
        return self.policy - self.baseline

    @property
    def direct(self) -> Array:
        """[n], gain on each query."""
        return (self.contrast * self.mean).sum(axis=1)

    @property
    def gain(self) -> Array:
        """Scalar, the true gain."""
        return weighted_mean(self.direct, self.weight)


class DrawnLog(NamedTuple):
    """m rows drawn from a world.

    Attributes:
      row: [m] int, which query.
      model: [m] int, which model answered it.
      observed: [m], its utility.
      noise: [m], of which this is noise.
      propensity: [m], probability with which the model was drawn.
    """

    row: Array
    model: Array
    observed: Array
    noise: Array
    propensity: Array


def make_power_world(
    log: LoggedData,
    nuisances: Nuisances,
    probability: Array,
    lam: float | Array,
    *,
    baseline: Array | None = None,
    binary: bool | None = None,
) -> PowerWorld:
    """Makes a world of a log, on the host: it looks at the values of its arguments. Set the gain by `with_gain`.

    Where all observed scores are 0 or 1, scores are drawn as such, with the predictions, clipped to [0, 1], as their
    means; costs vary by the residuals of the cost model. Otherwise the residuals of the utility are drawn. Residuals
    are those of the rows of the same model, by row weight, around their mean; whether they depend on the query
    beyond that is not asked.

    Args:
      log: n rows; those not scored lend no residuals of the score.
      nuisances: of these rows, cross-fitted, with `all_propensity`.
      probability: [n, T], the policy at `lam`. It may have seen these rows: its gain is set, not estimated.
      lam: lambda, score per unit of cost.
      baseline: [n, T], what the gain is over; None for the logging policy as it is, without exploration.
      binary: whether scores are 0/1; None to look.

    Returns:
      `PowerWorld`, its gain what the outcome model says.

    Raises:
      ValueError: if only the logged models' propensities are known, or the policy is the baseline.
    """
    chex.assert_equal_shape([probability, nuisances.score, nuisances.cost])
    if nuisances.all_propensity is None:
        raise ValueError(
            "power needs the propensity of every model (Nuisances.all_propensity), to draw new logs by: a log that "
            "holds that of its own choice only does not tell it; estimate it, with the log's propensity set to None"
        )
    n, n_models = probability.shape
    allowed = jnp.ones((n, n_models), bool) if log.allowed is None else log.allowed
    # A floor leaves rows that sum to a little more than 1.
    propensity = nuisances.all_propensity / nuisances.all_propensity.sum(axis=1, keepdims=True)
    baseline = propensity if baseline is None else baseline
    scored = jnp.ones(n, bool) if log.scored is None else log.scored
    if not float(weighted_mean(jnp.abs(probability - baseline).sum(axis=1), log.weight)) > 1e-6:
        raise ValueError("the policy chooses as the baseline does on every row: there is no gain to detect")
    if binary is None:
        binary = bool((((log.score == 0) | (log.score == 1)) | ~scored).all())
    chance = jnp.clip(nuisances.score, 0.0, 1.0) if binary else None
    mean = utility(nuisances.score if chance is None else chance, nuisances.cost, lam)
    logged = (jnp.arange(n), log.model)
    if binary:
        residual, weight = -lam * (log.cost - nuisances.cost[logged]), log.weight
    else:
        residual, weight = utility(log.score, log.cost, lam) - mean[logged], log.weight * scored
    return PowerWorld(
        weight=log.weight,
        propensity=propensity,
        allowed=allowed,
        policy=probability,
        baseline=baseline,
        mean=mean,
        chance=chance,
        noise=jax.jit(noise_of_models, static_argnames="n_models")(residual, log.model, weight, n_models=n_models),
        even=bool((log.weight == log.weight[0]).all()),
    )


def noise_of_models(residual: Array, model: Array, weight: Array, *, n_models: int, size: int = NOISES) -> Array:
    """Equally likely residuals of each model: its weighted quantiles, with the mean 0 and the residuals' variance.

    Args:
      residual: [n].
      model: [n] int.
      weight: [n].
      n_models: T.
      size: R.

    Returns:
      [T, R]; of a model without rows, the residuals of all.

    >>> noise_of_models(jnp.array([1., 3.]), jnp.array([0, 0]), jnp.ones(2), n_models=1, size=4)
    Array([[-1., -1.,  1.,  1.]], dtype=float32)
    """
    order = jnp.argsort(residual)
    residual, model, weight = residual[order], model[order], weight[order]
    places = (jnp.arange(size) + 0.5) / size

    def of_model(number):
        mine = jnp.where(model == number, weight, 0.0)
        mine = jnp.where(mine.sum() > 0, mine, weight)
        share = jnp.cumsum(mine) / jnp.maximum(mine.sum(), 1e-30)
        # As a share of the last, so that rounding leaves no quantile beyond it.
        drawn = residual[jnp.searchsorted(share / jnp.maximum(share[-1], 1e-30), places)]
        drawn = drawn - drawn.mean()
        variance = weighted_mean(jnp.square(residual - weighted_mean(residual, mine)), mine)
        scatter = jnp.square(drawn).mean()
        return drawn * jnp.sqrt(jnp.where(scatter > 0, variance / jnp.where(scatter > 0, scatter, 1.0), 0.0))

    return jax.lax.map(of_model, jnp.arange(n_models))


def with_gain(world: PowerWorld, gain: float | Array) -> PowerWorld:
    """The world whose true gain is `gain`, by the least change of its means: u + delta (pi - b).

    delta = (gain - gain of the world) / mean_i sum_t (pi_t - b_t)^2
    """
    room = weighted_mean(jnp.square(world.contrast).sum(axis=1), world.weight)
    positive = room > 0
    delta = jnp.where(positive, (gain - world.gain) / jnp.where(positive, room, 1.0), 0.0)
    return replace(world, mean=world.mean + delta * world.contrast)


def explored(world: PowerWorld, exploration: float | Array) -> Array:
    """[n, T], q: the logging policy, a share `exploration` of it uniform over the allowed models."""
    uniform = world.allowed / jnp.maximum(world.allowed.sum(axis=1, keepdims=True), 1)
    return (1.0 - exploration) * world.propensity + exploration * uniform


def exploration_price(world: PowerWorld, exploration: float | Array) -> Array:
    """Mean utility per query that is lost while the log is written, to a share `exploration` of uniform choices."""
    lost = ((world.propensity - explored(world, exploration)) * world.mean).sum(axis=1)
    return weighted_mean(lost, world.weight)


def draw_rows(key: Array, world: PowerWorld, chosen: Array, *, n_rows: int) -> DrawnLog:
    """Draws a log. Pure.

    Args:
      key: of queries, choices and outcomes.
      world: n queries.
      chosen: [n, T], of `explored`.
      n_rows: m.
    """
    key_row, key_rest = jax.random.split(key)
    n = world.weight.shape[0]
    of_model, of_score, of_noise = jax.random.uniform(key_rest, (3, n_rows))
    if world.even:
        row = jax.random.randint(key_row, (n_rows,), 0, n)
    else:
        total = jnp.cumsum(world.weight)
        row = jnp.searchsorted(total, jax.random.uniform(key_row, (n_rows,)) * total[-1], side="right").clip(max=n - 1)
    # By inverting the distribution of each row: one random number instead of T.
    below = jnp.cumsum(chosen, axis=1)
    model = ((of_model * below[row, -1])[:, None] >= below[row, :-1]).sum(axis=1)
    noise = world.noise[model, (of_noise * world.noise.shape[1]).astype(jnp.int32)]
    if world.chance is not None:
        chance = world.chance[row, model]
        noise = noise + (of_score < chance) - chance
    return DrawnLog(row, model, world.mean[row, model] + noise, noise, chosen[row, model])


def gain_deviation(world: PowerWorld, exploration: float | Array) -> Array:
    """Standard deviation of a row's doubly robust gain, with the nuisances known: what formulas of power need.

    variance = Var_x[sum_t c_t u_t] + E_x[sum_t c_t^2 / q_t Var(y_t | x)],   c = pi - b

    Args:
      world: its gain counts, too.
      exploration: e.
    """
    variance = jnp.square(world.noise).mean(axis=1)
    if world.chance is not None:
        variance = variance + world.chance * (1.0 - world.chance)
    chosen = inverse_propensity_weight(explored(world, exploration))
    rows = jnp.square(world.direct - world.gain) + (jnp.square(world.contrast) * chosen * variance).sum(axis=1)
    return jnp.sqrt(weighted_mean(rows, world.weight))
