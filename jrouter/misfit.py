"""Misfit of nuisances: residuals that should be unrelated to the query, against features of the query.

    z_tj = sum_i v_i e_it g_j(x_i) / sqrt(sum_i (v_i e_it g_j(x_i))^2)

with residuals e of mean 0 given x where the nuisance is right, row weights v, and features g_j: a constant, and the
check features of `check_features`. Of a cross-fitted regression that has g_j among its own features the sum is 0 to
first order, so what such a fit can follow cannot be found here; what it leaves out can.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jrouter.check_features import feature_names
from jrouter.estimators import inverse_propensity_weight
from jrouter.nuisances.propensity import Choices, logistic
from jrouter.types import Array

_INSTRUMENT_PENALTY = 0.03


class Misfit(NamedTuple):
    """Whether residuals of T models are related to the query: to a constant and J check features.

    Attributes:
      z: [T, 1 + J], about standard normal, or nearer to 0, where the nuisance is right; 0 where nothing is summed.
      correlation: [T, 1 + J], of the residuals with the features: how large what was found is, whatever n.
      p_value: scalar, of both tests below: twice the lesser of their two, at most 1.
      largest: scalar, max |z|: misfit of one model.
      model: scalar int32, and
      feature: scalar int32, where that was; `moment_names` names it.
      largest_p_value: scalar, of `largest` among all T x (1 + J) (Bonferroni).
      pooled: scalar, the largest sum over models of z^2: misfit of several models to one feature.
      pooled_feature: scalar int32, which.
      pooled_p_value: scalar, of `pooled` among all 1 + J (Bonferroni).
    """

    z: Array
    correlation: Array
    p_value: Array
    largest: Array
    model: Array
    feature: Array
    largest_p_value: Array
    pooled: Array
    pooled_feature: Array
    pooled_p_value: Array


def moment_names(dim: int) -> list[str]:
    """Names of the columns of `Misfit.z`: the mean residual, then those along check features.

    >>> moment_names(1)
    ['mean', 'x1', 'x1^2']
    """
    return ["mean", *feature_names(dim)]


def moments(residual: Array, features: Array, *, group: Array | None = None) -> Array:
    """z statistics of the sums of residual x feature: 0 is expected, 1 the standard deviation.

    Args:
      residual: [n, T], of each row and model, by row weight; 0 where a model has none.
      features: [n, J].
      group: [n] int in 0..n-1, rows that are not independent of each other; each is its own without it.

    Returns:
      [T, J]; 0 where all products are 0. At most the square root of the number of rows (groups) that have any.

    >>> moments(jnp.array([[1.], [1.], [-1.]]), jnp.array([[2.], [2.], [1.]]))
    Array([[1.]], dtype=float32)
    """
    chex.assert_rank([residual, features], 2)
    residual = _in_units(residual)
    total = jnp.matmul(residual.T, features, precision="highest")
    if group is None:
        square = jnp.matmul(jnp.square(residual).T, jnp.square(features), precision="highest")
    else:

        def of_model(residual):
            products = residual[:, None] * features
            return jnp.square(jnp.zeros_like(products).at[group].add(products)).sum(axis=0)

        square = jax.lax.map(of_model, residual.T)  # one model's [n, J] at a time
    return jnp.where(square > 0, total / jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def misfit(residual: Array, features: Array, row_weight: Array | None = None, *, group: Array | None = None) -> Misfit:
    """Relates the residuals of a nuisance to a constant and to check features, and finds the worst.

    Args:
      residual: [n, T], without row weights; 0 where a model has none on a row.
      features: [n, J], from `check_features`.
      row_weight: [n], or None for ones.
      group: [n] int in 0..n-1, rows that are not independent of each other.

    Returns:
      `Misfit`.

    Source: Newey (1985), tests of conditional moments; Bonferroni over T x (1 + J) of them.
    """
    weight = jnp.ones(residual.shape[0]) if row_weight is None else row_weight
    residual = residual * weight[:, None]
    features = jnp.concatenate([jnp.ones_like(features[:, :1]), features], axis=1)
    z = moments(residual, features, group=group)
    largest, place = _largest(jnp.abs(z).reshape(-1))
    pooled = jnp.square(z).sum(axis=0)
    scale, freedom = _pooled_scale(residual)
    most, pooled_place = _largest(pooled)
    n_features = features.shape[1]
    of_largest = jnp.minimum(1.0, z.size * jax.scipy.special.erfc(largest / 2**0.5))
    of_pooled = jnp.minimum(1.0, n_features * jax.scipy.special.gammaincc(freedom / 2, most / (2 * scale)))
    return Misfit(
        z=z,
        correlation=_correlation(residual, features),
        p_value=jnp.minimum(1.0, 2.0 * jnp.minimum(of_largest, of_pooled)),
        largest=largest,
        model=place // n_features,
        feature=place % n_features,
        largest_p_value=of_largest,
        pooled=most,
        pooled_feature=pooled_place,
        pooled_p_value=of_pooled,
    )


def _largest(values: Array) -> tuple[Array, Array]:
    place = jnp.argmax(values).astype(jnp.int32)
    return values[place], place


def _in_units(residual: Array) -> Array:
    """Each model's residuals [n, T] in units of their largest: outcomes in dollars have squares that underflow."""
    unit = jnp.abs(residual).max(axis=0)
    return residual / jnp.where(unit > 0, unit, 1.0)


def _correlation(residual: Array, features: Array) -> Array:
    residual = _in_units(residual)
    covariance = jnp.matmul(residual.T, features, precision="highest")
    over = jnp.matmul((residual != 0).T.astype(residual.dtype), jnp.square(features), precision="highest")
    variance = jnp.square(residual).sum(axis=0)[:, None] * over
    return jnp.where(variance > 0, covariance / jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)


def _pooled_scale(residual: Array) -> tuple[Array, Array]:
    """The multiple of a chi-square, and its degrees of freedom, with the mean and variance of a sum of T squares.

    Models' residuals are correlated where one model's answer is another's absence (Satterthwaite).
    """
    residual = _in_units(residual)
    products = jnp.matmul(residual.T, residual, precision="highest")
    variance = jnp.diag(products)
    live = variance > 0
    variance = jnp.where(live, variance, 1.0)
    squares = jnp.square(products / jnp.sqrt(variance[:, None] * variance)).sum()
    count = jnp.maximum(live.sum(), 1)
    squares = jnp.maximum(squares, 1.0)
    return squares / count, count**2 / squares


def propensity_residual(model: Array, propensity: Array, *, usable: Array | None = None) -> Array:
    """1[t = model] - p_t of one row, for estimated propensities of every model.

    Args:
      model: scalar int, that was logged.
      propensity: [T].
      usable: [T] bool, False where the estimate is a floor, which is not what the model of the propensities says:
        these residuals are left out. What is left out must not depend on what was logged.

    Returns:
      [T], of mean 0 given x where the propensities are right.

    >>> propensity_residual(0, jnp.array([.25, .75]))
    Array([ 0.75, -0.75], dtype=float32)
    """
    residual = jax.nn.one_hot(model, propensity.shape[0]) - propensity
    return residual if usable is None else jnp.where(usable, residual, 0.0)


def logged_propensity_residual(
    model: Array, propensity: Array, instrument: Array, *, allowed: Array | None = None
) -> Array:
    """a_t (1[t = model] / p - 1) of one row, where the propensity of the logged model alone is known.

    Whatever a_t(x) is, its mean given x is 0 where p is right. With a = 1 its sums are so skewed under poor overlap
    that a test on them finds misfit in half of the logs that have none; with a near p_t it is bounded.

    Args:
      model: scalar int, that was logged.
      propensity: scalar, p, of that model, by the log.
      instrument: [T], a, of `choice_instrument`.
      allowed: [T] bool, models that could have been logged; others have no residual.

    Returns:
      [T].

    >>> logged_propensity_residual(0, .5, jnp.array([.25, .75]))
    Array([ 0.25, -0.75], dtype=float32)
    """
    weight = inverse_propensity_weight(propensity)
    residual = instrument * (jax.nn.one_hot(model, instrument.shape[0]) * weight - 1.0)
    return residual if allowed is None else jnp.where(allowed, residual, 0.0)


def choice_instrument(
    features: Array,
    model: Array,
    *,
    n_models: int,
    row_weight: Array | None = None,
    group: Array | None = None,
    allowed: Array | None = None,
) -> Array:
    """A rough estimate of every model's propensity, each row's from the other half of the rows.

    A logistic regression on check features. It need not be right, only near where p is small: a regression on x
    alone, of choices that bend, leaves residuals whose test finds misfit in a quarter of the logs that have none.

    Args:
      features: [n, J], from `check_features`.
      model: [n] int, that was logged.
      n_models: T.
      row_weight: [n].
      group: [n] int, rows of which are in the same half.
      allowed: [n, T] bool.

    Returns:
      [n, T].
    """
    n = model.shape[0]
    # By parity, not by order: traffic drifts.
    half = (jnp.arange(n) if group is None else group) % 2
    weight = jnp.ones(n) if row_weight is None else row_weight
    allowed = jnp.ones((n, n_models), bool) if allowed is None else allowed
    family = logistic()
    choices = Choices(features, model, allowed)

    def fit(number):
        return family.fit(None, choices, jnp.where(half == number, 0.0, weight), jnp.float32(_INSTRUMENT_PENALTY))

    log_odds = jax.vmap(lambda params: family.log_odds(params, features))(jax.vmap(fit)(jnp.arange(2)))
    return jax.nn.softmax(jnp.where(allowed, log_odds[half, jnp.arange(n)], -1e30))


def outcome_residual(outcome: Array, observed: Array, model: Array) -> Array:
    """1[t = model] * (y - r_t) of one row; what is but rounding counts as 0.

    >>> outcome_residual(jnp.array([.5, .2]), 1., 1)
    Array([0. , 0.8], dtype=float32)
    """
    error = observed - outcome[model]
    rounding = 1e-5 * (jnp.abs(observed) + jnp.abs(outcome[model]))
    return jnp.where(jnp.abs(error) <= rounding, 0.0, error) * jax.nn.one_hot(model, outcome.shape[0])
