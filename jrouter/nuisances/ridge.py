"""Ridge outcome models: one regression per model, or a part shared by all plus a shrunken part of each.

    f_t(x) = m_t + (w_0 + v_t) . (x - xbar_t),  penalty a |w_0|^2 + b sum_t |v_t|^2

a = infinity leaves one ridge regression per model. With a finite, what makes a query hard for all
models is learned from all rows, and a model with few rows falls back on it. Solved in closed form:
eliminating v_t leaves one d x d system for w_0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jrouter.linalg import spd_inverse
from jrouter.nuisances.outcome import OutcomeModel, Outcomes
from jrouter.splits import rows_by_label
from jrouter.types import Array

PER_MODEL_STRENGTHS = tuple((float("inf"), ratio) for ratio in (1.0, 3.0, 10.0, 30.0, 100.0, 300.0))
POOLED_STRENGTHS = tuple((a, b) for a in (3.0, 30.0) for b in (3.0, 10.0, 30.0, 100.0, 1000.0))


class Moments(NamedTuple):
    """Weighted moments of each model's rows around their means, per set of weights W (1 or 2).

    Attributes:
      gram: [W, T, d, d], sum of w (x - xbar)(x - xbar)'.
      moment: [2, T, d], sum of w (x - xbar)(y - ybar).
      x_mean: [W, T, d].
      y_mean: [2, T].
    """

    gram: Array
    moment: Array
    x_mean: Array
    y_mean: Array


def _prepare(key, outcomes: Outcomes, n_models: int, model_size: int) -> Moments:
    del key
    rows, present = rows_by_label(outcomes.model, n_labels=n_models, size=model_size)

    def of_model(rows_and_present):
        rows, present = rows_and_present
        x, y = outcomes.x[rows], outcomes.observed[rows]
        weights = outcomes.weight[rows] * present[:, None]

        def centred(weight):
            total = jnp.maximum(weight.sum(), 1e-30)
            x_mean, y_mean = weight @ x / total, weight @ y / total
            weighted = (x - x_mean) * weight[:, None]
            return weighted.T @ (x - x_mean), weighted.T @ (y - y_mean), x_mean, y_mean

        gram, moment, x_mean, y_mean = jax.vmap(centred, in_axes=1)(weights)
        # Of both outcomes under each set of weights, keep each outcome under its own.
        own = [(0, 0), (weights.shape[1] - 1, 1)]
        moment = jnp.stack([moment[w, :, output] for w, output in own])
        return Moments(gram, moment, x_mean, jnp.stack([y_mean[w, output] for w, output in own]))

    # One model after another: a block of rows times their weights is all that is held at once.
    by_model = jax.lax.map(of_model, (rows, present))
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), by_model)


def _solve(moments: Moments, strength: Array) -> dict[str, Array]:
    """Penalties `strength` = (a, b) are per coordinate: multiplied by d, they are (1 - R2) / R2 at best."""
    dim = moments.gram.shape[-1]
    shared, own = 1.0 / (strength[0] * dim), strength[1] * dim
    eye = jnp.eye(dim)

    def solved(gram, moment):
        """gram [T, d, d], moment [O, T, d] -> coefficients [O, T, d]."""
        inverse = jax.vmap(lambda g: spd_inverse(g + own * eye))(gram)
        alone = jnp.einsum("tde,ote->otd", inverse, moment)
        shrink = eye - own * inverse  # (G + b)^-1 G, without forming the product
        # shared = 0 gives w_0 = 0 exactly, so per-model ridge is the same code.
        system = eye + shared * own * shrink.sum(axis=0)
        common = shared * own * alone.sum(axis=1) @ spd_inverse(system)
        return common[:, None] + alone - jnp.einsum("tde,oe->otd", shrink, common)

    if moments.gram.shape[0] == 1:
        coefficients = solved(moments.gram[0], moments.moment)
    else:
        coefficients = jax.vmap(solved)(moments.gram, moments.moment[:, None])[:, 0]
    x_mean = jnp.broadcast_to(moments.x_mean, coefficients.shape)
    return {"coefficients": coefficients, "intercept": moments.y_mean - (coefficients * x_mean).sum(axis=-1)}


def _predict(params: dict[str, Array], x: Array) -> Array:
    return params["coefficients"] @ x + params["intercept"]


def _choose(for_score, for_cost):
    return jax.tree.map(lambda score, cost: jnp.stack([score[0], cost[1]]), for_score, for_cost)


def ridge(strengths=PER_MODEL_STRENGTHS) -> OutcomeModel:
    """Ridge regression, one per model and outcome, on the rows that model received.

    Args:
      strengths: pairs (inf, b); the penalty is b * d on scaled embeddings. Chosen by
        cross-validation where there are several.
    """
    return OutcomeModel(_prepare, _solve, _predict, jnp.array(strengths), _choose)


def pooled(strengths=POOLED_STRENGTHS) -> OutcomeModel:
    """Ridge regression with a part shared by all models and a shrunken part of each.

    Args:
      strengths: pairs (a, b) of penalties on the shared part and on each model's own, times d.
        Chosen by cross-validation where there are several.
    """
    return OutcomeModel(_prepare, _solve, _predict, jnp.array(strengths), _choose)
