"""What a query would score and cost with each model: the linear forecast that a saved router carries.

    score_t(x) = b_t + w_t . x,  and the same of cost

It is the pooled ridge of `nuisances.ridge`, fitted on all rows of the log. A policy need not be made of it: it is
what limits on cost and score, switching costs, changed prices and added models are worked out with.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jrouter.features import scale
from jrouter.linalg import spd_inverse
from jrouter.nuisances.crossfit import OUTCOME_MODELS
from jrouter.nuisances.crossfit_outcome import fit_outcome
from jrouter.nuisances.folds import at
from jrouter.splits import Split
from jrouter.types import Array, LoggedData

SHRINKAGES = ((1.0, 30.0), (1.0, 300.0), (1.0, float("inf")), (4.0, 300.0), (4.0, float("inf")), (16.0, float("inf")))
"""Penalties (of the level, and of each direction times d) that `add_model` chooses from."""

Forecast = dict[str, Array]
"""{"centre" [d], "scale" scalar, "coefficients" [2, T, d], "intercept" [2, T]}: of score, then of cost."""


def fit_forecast(key: Array, log: LoggedData, split: Split) -> Forecast:
    """Fits the forecast on all rows; the folds choose how much it is shrunken. Pure.

    Args:
      key: unused by ridge, taken as by every fit.
      log: n rows.
      split: its folds.
    """
    fit = fit_outcome(key, OUTCOME_MODELS["pooled"](), log, split)
    params, units = at(fit.params, -1), at(fit.units, -1)
    return {
        **fit.scaling,
        "coefficients": units.deviation[..., None] * params["coefficients"],
        "intercept": units.mean + units.deviation * params["intercept"],
    }


def forecast(params: Forecast, x: Array) -> tuple[Array, Array]:
    """Score [T] and cost [T] of one query x [d], at the prices of the log; costs at least 0."""
    scaled = scale({"centre": params["centre"], "scale": params["scale"]}, x)
    found = jnp.matmul(params["coefficients"], scaled, precision="highest") + params["intercept"]
    return found[0], jnp.maximum(found[1], 0.0)


class Added(NamedTuple):
    """A model added from a few scored queries.

    Attributes:
      forecast: with its head at the end.
      relative: index of the model whose score it was started from,
      cost_relative: and whose cost.
      cost_ratio: of its cost to that one's.
      shift: scalar, how far its mean score is from the relative's on these queries, after shrinking.
      error: root of the mean squared error of its score on these queries, each left out in turn, and
      plain_error: of the relative's own.
    """

    forecast: Forecast
    relative: Array
    cost_relative: Array
    cost_ratio: Array
    shift: Array
    error: Array
    plain_error: Array


def add_model(params: Forecast, x: Array, score: Array, cost: Array) -> Added:
    """A head for a new model: that of the model it is most like, corrected by what these queries show, shrunken. Pure.

        score_new(x) = score_r(x) + d_0 + d . z,    penalty a d_0^2 + b d |d|^2,   z = (x - centre) / scale
        cost_new(x)  = ratio * cost_s(x),           ratio = sum cost / sum cost_s

    Relative r and penalties (a, b) are those of the least error when each query is left out in turn, in closed form;
    b is infinite among them, which leaves the level alone. The relative s is that whose cost, times the ratio, is
    nearest.

    Args:
      params: of T models.
      x: [k, d], k >= 2 queries.
      score: [k], of the new model on these.
      cost: [k].

    Returns:
      `Added`, of T + 1 models.
    """
    chex.assert_equal_shape([score, cost])
    k, dim = x.shape
    z = scale({"centre": params["centre"], "scale": params["scale"]}, x)
    predicted_score, predicted_cost = jax.vmap(lambda one: forecast(params, one))(x)
    residual = score[:, None] - predicted_score
    gram = jnp.matmul(z, z.T, precision="highest") / dim
    tried = jnp.array(SHRINKAGES)

    def left_out(strength):
        """Errors [T] of each relative under one pair of penalties, and the weights [k, T] of its correction."""
        kernel = 1.0 / strength[0] + gram / strength[1]
        inverse = spd_inverse(kernel + jnp.eye(k))
        weights = jnp.matmul(inverse, residual, precision="highest")
        return jnp.square(weights / jnp.diag(inverse)[:, None]).mean(axis=0), weights

    errors, weights = jax.vmap(left_out)(tried)
    place = jnp.argmin(errors)
    chosen, relative = place // errors.shape[1], place % errors.shape[1]
    level, slope = tried[chosen]
    weight = weights[chosen, :, relative]
    shift = weight.sum() / level
    direction = jnp.matmul(weight, z, precision="highest") / (slope * dim)

    ratio = cost.sum() / jnp.maximum(predicted_cost.sum(axis=0), 1e-30)
    off = jnp.square(cost[:, None] - ratio * predicted_cost).mean(axis=0)
    near = jnp.argmin(off)
    heads = params["coefficients"], params["intercept"]
    new = [
        jnp.stack([part[0, relative] + change, part[1, near] * ratio[near]])
        for part, change in zip(heads, (direction, shift), strict=True)
    ]
    coefficients, intercept = (
        jnp.concatenate([part, one[:, None]], axis=1) for part, one in zip(heads, new, strict=True)
    )
    return Added(
        {**params, "coefficients": coefficients, "intercept": intercept},
        relative,
        near,
        ratio[near],
        shift,
        jnp.sqrt(errors.min()),
        jnp.sqrt(jnp.square(residual[:, relative]).mean()),
    )
