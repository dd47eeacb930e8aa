"""Balancing weights: instead of 1 / p, weights that make each model's rows look like all rows.

Of model t, with row weights v, m = sum_t v, features x scaled over all rows (so that their mean is 0):

    min over u >= 0, sum_t v u = m:   sum_t v u^2 / m^2 + penalty / d * |sum_t v u x / m|^2
    w_i = u_i * sum v / m             (in units of 1 / p)

It is the squared error of a weighted mean of y = beta . x + noise: variance, and bias where each of the
d coefficients has variance penalty / d in units of the noise. No propensity is estimated, and no outcome
looked at: scores stay linear in y.
"""

import chex
import jax
import jax.numpy as jnp

from jrouter.features import fit_scaling, scale
from jrouter.linalg import spd_inverse
from jrouter.types import Array


def balancing_weights(
    x: Array,
    model: Array,
    *,
    n_models: int,
    penalty: float | Array,
    row_weight: Array | None = None,
    iterations: int = 100,
) -> Array:
    """Nonnegative weights of least variance under which each model's mean features are near those of all rows.

    The solution is u(x) = max(0, a + g . x) for each model, with (a, g) the minimum of a smooth convex
    function (the dual): accelerated gradient steps from u = 1, preconditioned by a bound of each
    model's Hessian. Without the bound at 0, the weighted mean of y is the prediction of the model's
    ridge regression, penalty d / `penalty`, at the mean of all rows.

    Args:
      x: [n, d] embeddings, scaled here.
      model: [n] int, index of the logged model.
      n_models: T.
      penalty: how much balance counts, above 0: the ratio of what x explains of the outcomes' variance to
        what it does not. Towards 0, each model's rows weigh the same (sum v / m); large values balance
        best and vary most.
      row_weight: [n], or None for ones. Rows of weight 0 have no say, and get the weight that the
        solution of the others gives at their x.
      iterations: of gradient steps; 100 do for penalties up to 100. Fewer balance less.

    Returns:
      [n], in units of 1 / p: sum over a model's rows of row weight * weight is the sum of all row
      weights. 0 for a model whose rows weigh nothing.

    Source: Zubizarreta (2015), stable balancing weights; its penalised form and dual: Ben-Michael,
    Feller, Hirshberg & Zubizarreta (2021), The balancing act in causal inference.

    >>> x = jnp.array([[0.], [0.], [1.], [1.], [1.], [0.]])
    >>> balancing_weights(x, jnp.array([0, 0, 0, 1, 1, 1]), n_models=2, penalty=1e4).round(1)
    Array([1.5, 1.5, 3. , 1.5, 1.5, 3. ], dtype=float32)
    """
    chex.assert_rank([x, model], [2, 1])
    row_weight = jnp.ones_like(x[:, 0]) if row_weight is None else row_weight
    dim = x.shape[1]
    logged = jax.nn.one_hot(model, n_models, dtype=x.dtype)
    mass = row_weight @ logged  # m, [T]
    present = mass > 0
    part = logged * row_weight[:, None] / jnp.where(present, mass, 1.0)  # v / m in the column of the logged model
    x = scale(fit_scaling(x, row_weight), x)
    mean = part.T @ x

    # The dual of model t, in c = x - mean_t: sum v/m max(0, a + g.c)^2 / 2 - a + g.mean_t + shrink |g|^2 / 2.
    # Its Hessian is at most 1 in a, and the covariance of the model's rows + shrink in g.
    shrink = dim / (penalty * jnp.where(present, mass, 1.0))

    def precondition_of(model_part_and_rest):
        part, mean, shrink = model_part_and_rest
        bound = (x * part[:, None]).T @ x - jnp.outer(mean, mean) + shrink * jnp.eye(dim)
        return spd_inverse(bound + 1e-5 * jnp.trace(bound) * jnp.eye(dim))  # for float32

    # One model after another: a copy of x is all that is held at once.
    precondition = jax.lax.map(precondition_of, (part.T, mean, shrink))

    def weights(level, slope):
        return jax.nn.relu(((x @ slope.T + level - (slope * mean).sum(axis=1)) * logged).sum(axis=1))

    def step(carry, _):
        (level, slope), (old_level, old_slope), momentum = carry
        push = momentum / (momentum + 3.0)
        level_ahead = level + push * (level - old_level)
        slope_ahead = slope + push[:, None] * (slope - old_slope)
        used = part * weights(level_ahead, slope_ahead)[:, None]
        by_level = used.sum(axis=0) - 1.0
        by_slope = used.T @ x - mean * by_level[:, None] + shrink[:, None] * slope_ahead
        new_level = level_ahead - by_level
        new_slope = slope_ahead - jnp.einsum("td,tde->te", by_slope, precondition)
        # Each model's momentum starts again where it climbs (O'Donoghue & Candes 2015).
        climb = by_level * (new_level - level) + (by_slope * (new_slope - slope)).sum(axis=1)
        return ((new_level, new_slope), (level, slope), jnp.where(climb > 0, 0.0, momentum + 1.0)), None

    start = jnp.ones(n_models), jnp.zeros((n_models, dim))
    (solution, _, _), _ = jax.lax.scan(step, (start, start, jnp.zeros(n_models)), None, length=iterations)
    found = weights(*solution)
    total = part.T @ found  # 1 but for what the steps left
    factor = jnp.where(total > 0, row_weight.sum() / jnp.where(total > 0, mass * total, 1.0), 0.0)
    return found * factor[model]
