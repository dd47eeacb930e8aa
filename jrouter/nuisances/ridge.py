"""Ridge outcome models: one regression per model, or a part shared by all plus a shrunken part of each.

    f_t(x) = m_t + (w_0 + A z_t + v_t) . (x - xbar_t),  penalty a (|w_0|^2 + |A|^2) + b sum_t |v_t|^2

a = infinity leaves one ridge regression per model. With a finite, what makes a query hard for all
models is learned from all rows, and a model with few rows falls back on it; with features z_t [f] of the
models, it falls back on its relatives. Solved in closed form: eliminating v_t leaves one system of
(1 + f) d unknowns. In a kernel's terms this is x.x' B[t, s], B = (1 + z_t.z_s) / a + (t = s) / b, so
`kernel.py` uses the same algebra on other features of x.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jrouter.linalg import spd_inverse
from jrouter.nuisances.outcome import PSEUDO_ROWS, ModelFeatures, OutcomeModel, Outcomes, choose
from jrouter.splits import rows_by_label
from jrouter.types import Array

PER_MODEL_STRENGTHS = tuple((float("inf"), ratio) for ratio in (1.0, 3.0, 10.0, 30.0, 100.0, 300.0))
POOLED_STRENGTHS = tuple((a, b) for a in (3.0, 30.0) for b in (3.0, 10.0, 30.0, 100.0, 1000.0))


class Moments(NamedTuple):
    """Weighted moments of each model's rows around their means, per set of weights W (1 or 2).

    Attributes:
      gram: [W, T, d, d], sum of w (x - xbar)(x - xbar)'.
      moment: [2, T, d], sum of w (x - xbar)(y - ybar).
      x_mean: [2, T, d], where f_t(x) is y_mean.
      y_mean: [2, T].
      basis: [T, 1 + f], (1, z_t): what multiplies the shared coefficients of model t.
    """

    gram: Array
    moment: Array
    x_mean: Array
    y_mean: Array
    basis: Array


def moments_of(outcomes: Outcomes, n_models: int, model_size: int, features: Callable = lambda x: x) -> Moments:
    """Moments of `features(x)`, of each model's rows.

    Args:
      outcomes: n rows.
      n_models: T.
      model_size: room for the rows of the most logged model.
      features: of a block of rows, [m, d] -> [m, D].
    """
    rows, present = rows_by_label(outcomes.model, n_labels=n_models, size=model_size)

    def of_model(rows_and_present):
        rows, present = rows_and_present
        x, y = features(outcomes.x[rows]), outcomes.observed[rows]
        weights = outcomes.weight[rows] * present[:, None]

        def centred(weight):
            total = weight.sum()
            # 1 for a model without rows: over almost 0, derivatives in the weights would not be finite.
            divisor = jnp.where(total > 0, total, 1.0)
            x_mean, y_mean = weight @ x / divisor, weight @ y / divisor
            weighted = (x - x_mean) * weight[:, None]
            return weighted.T @ (x - x_mean), weighted.T @ (y - y_mean), x_mean, y_mean, total

        gram, moment, x_mean, y_mean, total = jax.vmap(centred, in_axes=1)(weights)
        # Of both outcomes under each set of weights, keep each outcome under its own.
        own = [(0, 0), (weights.shape[1] - 1, 1)]
        moment = jnp.stack([moment[w, :, output] for w, output in own])
        x_mean, y_mean = jnp.stack([x_mean[w] for w, _ in own]), jnp.stack([y_mean[w, output] for w, output in own])
        if outcomes.features is not None:
            # The units hold a level that leans on relatives: the mean of a few rows must not replace it.
            total = jnp.stack([total[w] for w, _ in own])
            share = total / (total + jnp.array(PSEUDO_ROWS))
            x_mean, y_mean = x_mean * share[:, None], jnp.zeros_like(y_mean)
        return gram, moment, x_mean, y_mean

    # One model after another: a block of rows times their weights is all that is held at once.
    by_model = jax.lax.map(of_model, (rows, present))
    ones = jnp.ones((n_models, 1))
    basis = ones if outcomes.features is None else jnp.concatenate([ones, outcomes.features], axis=1)
    return Moments(*(jnp.swapaxes(leaf, 0, 1) for leaf in by_model), basis=basis)


def solve_pooled(moments: Moments, strength: Array) -> dict[str, Array]:
    """Coefficients [2, T, d] and intercepts [2, T] that minimise the penalised squares.

    Args:
      moments: from `moments_of`.
      strength: penalties (a, b) per coordinate: multiplied by d, they are (1 - R2) / R2 at best.
    """
    dim, basis = moments.gram.shape[-1], moments.basis
    shared, own = 1.0 / (strength[0] * dim), strength[1] * dim
    eye = jnp.eye(dim)
    unknowns = basis.shape[1] * dim

    def solved(gram, moment):
        """gram [T, d, d], moment [O, T, d] -> coefficients [O, T, d]."""
        inverse = jax.vmap(lambda g: spd_inverse(g + own * eye))(gram)
        alone = jnp.einsum("tde,ote->otd", inverse, moment)
        shrink = eye - own * inverse  # (G + b)^-1 G, without forming the product
        # shared = 0 gives w_0 = 0 exactly, so per-model ridge is the same code.
        pairs = basis[:, :, None] * basis[:, None]
        system = jnp.tensordot(pairs, shrink, axes=(0, 0)).transpose(0, 2, 1, 3).reshape(unknowns, unknowns)
        system = jnp.eye(unknowns) + shared * own * system
        target = shared * own * jnp.einsum("tj,otd->ojd", basis, alone).reshape(-1, unknowns)
        common = (target @ spd_inverse(system)).reshape(-1, basis.shape[1], dim)
        common = jnp.einsum("tj,ojd->otd", basis, common)
        return common + alone - jnp.einsum("tde,ote->otd", shrink, common)

    if moments.gram.shape[0] == 1:
        coefficients = solved(moments.gram[0], moments.moment)
    else:
        coefficients = jax.vmap(solved)(moments.gram, moments.moment[:, None])[:, 0]
    return {"coefficients": coefficients, "intercept": moments.y_mean - (coefficients * moments.x_mean).sum(axis=-1)}


def _prepare(key, outcomes: Outcomes, n_models: int, model_size: int) -> Moments:
    del key
    return moments_of(outcomes, n_models, model_size)


def _predict(params: dict[str, Array], x: Array) -> Array:
    return params["coefficients"] @ x + params["intercept"]


def ridge(strengths=PER_MODEL_STRENGTHS) -> OutcomeModel:
    """Ridge regression, one per model and outcome, on the rows that model received.

    Args:
      strengths: pairs (inf, b); the penalty is b * d on scaled embeddings. Chosen by
        cross-validation where there are several.
    """
    return OutcomeModel(_prepare, solve_pooled, _predict, jnp.array(strengths), choose)


def pooled(strengths=POOLED_STRENGTHS, *, features: ModelFeatures = None) -> OutcomeModel:
    """Ridge regression with a part shared by all models and a shrunken part of each.

    Args:
      strengths: pairs (a, b) of penalties on the shared part and on each model's own, times d.
        Chosen by cross-validation where there are several.
      features: of the models, [T, f] or a function of the training rows, as `outcome.model_features`; None
        for one shared part only.
    """
    return OutcomeModel(_prepare, solve_pooled, _predict, jnp.array(strengths), choose, features=features)
