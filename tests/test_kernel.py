"""Pooled kernel ridge: the linear case, its dual in float64, and what random features stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.nuisances import kernel, ridge
from jrouter.nuisances.crossfit_outcome import fit_outcome, held_out_outcome
from jrouter.nuisances.outcome import Outcomes
from jrouter.splits import split_log
from jrouter.types import LoggedData

N, D, T, WAVES = 120, 4, 3, 16


def outcomes(seed=0, weights=1):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D))
    model = rng.choice(T, N, p=[0.6, 0.3, 0.1])
    observed = np.stack([np.sin(2 * x[:, 0]) + 0.3 * model, x[:, 1] * (model == 0)], axis=1)
    observed = observed + 0.1 * rng.normal(size=(N, 2))
    weight = rng.integers(0, 3, size=(N, weights))
    x, observed, weight = (jnp.asarray(part, jnp.float32) for part in (x, observed, weight))
    return Outcomes(x, jnp.asarray(model, jnp.int32), observed, weight)


@jax.jit
def params(rows, strength, key):
    family = kernel.kernel_pooled(n_features=WAVES, bandwidth=0.5)
    statistics = family.prepare(key, rows, T, N)
    return family.assemble(statistics, family.solve(statistics, strength))


def fit(rows, a, b, share, key=0):
    return params(rows, jnp.array([a, b, share]), jax.random.key(key))


@jax.jit
def predictions(fitted, x):
    family = kernel.kernel_pooled(n_features=WAVES)
    return jax.vmap(lambda one: family.predict(fitted, one))(x)


def predict(fitted, x):
    """[m, 2, T]"""
    return np.asarray(predictions(fitted, x), np.float64)


@jax.jit
def ridge_predictions(rows, strength):
    family = ridge.pooled()
    fitted = family.solve(family.prepare(jax.random.key(0), rows, T, N), strength)
    return jax.vmap(lambda one: family.predict(fitted, one))(rows.x)


random_features = jax.jit(kernel.random_features)
median_distance = jax.jit(kernel.median_distance)


@pytest.mark.parametrize("weights", [1, 2])
def test_without_a_gaussian_part_it_is_pooled_ridge(weights):
    rows = outcomes(weights=weights)
    ours = predict(fit(rows, 3.0, 2.0, 0.0), rows.x)
    expected = np.asarray(ridge_predictions(rows, jnp.array([3.0, 2.0])))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(ours - predict(fit(rows, 3.0, 2.0, 0.9), rows.x)).max() > 0.05


@pytest.mark.parametrize("a,b,share", [(0.01, 0.1, 0.9), (0.1, 0.02, 0.5), (0.05, 0.05, 1.0)])
def test_it_solves_the_dual_of_its_kernel(a, b, share):
    """f_t(x) = m_t + covariance with the rows: weighted kernel ridge with a free level per model."""
    rows = outcomes(seed=1)
    fitted = fit(rows, a, b, share)
    z = np.asarray(random_features(fitted, rows.x), np.float64)
    k = (1 - share) * z[:, :D] @ z[:, :D].T / D + share * z[:, D:] @ z[:, D:].T / WAVES
    model, weight = np.asarray(rows.model), np.asarray(rows.weight, np.float64)[:, 0]
    used = weight > 0
    covariance = k[:, used][used] * (1 / a + (model[used, None] == model[used]) / b)
    level = (model[used, None] == np.arange(T)).astype(float)
    # Stationary point of w (y - K alpha - L m)^2 + alpha' K alpha, L' alpha = 0.
    system = np.block([[covariance + np.diag(1 / weight[used]), level], [level.T, np.zeros((T, T))]])
    target = np.concatenate([np.asarray(rows.observed, np.float64)[used], np.zeros((T, 2))])
    solution = np.linalg.solve(system, target)
    alpha, m = solution[:-T], solution[-T:]
    ours = predict(fitted, rows.x)
    for t in range(T):
        expected = m[t] + (k[:, used] * (1 / a + (t == model[used]) / b)) @ alpha
        np.testing.assert_allclose(ours[:, :, t], expected, rtol=2e-3, atol=2e-3)


def test_products_of_random_features_are_the_gaussian_kernel():
    waves, bandwidth = 4096, 1.7
    x = jax.random.normal(jax.random.key(3), (12, D))
    frequencies = jax.random.normal(jax.random.key(4), (D, waves // 2)) / bandwidth
    z = np.asarray(random_features({"frequencies": frequencies, "centre": jnp.zeros(waves)}, x))
    assert z.shape == (12, D + waves)
    np.testing.assert_array_equal(z[:, :D], x)
    squares = np.square(np.asarray(x)[:, None] - np.asarray(x)).sum(axis=-1)
    # A product is a mean of waves / 2 cosines, each of variance at most 1: five standard errors.
    tolerance = 5 / np.sqrt(waves / 2)
    np.testing.assert_allclose(z[:, D:] @ z[:, D:].T / waves, np.exp(-squares / (2 * bandwidth**2)), atol=tolerance)


def test_the_bandwidth_is_the_median_distance_of_rows_that_count():
    x = np.random.default_rng(5).normal(size=(60, D)).astype(np.float32)
    weight = np.arange(60) % 3
    garbage = np.where(weight[:, None] > 0, x, 1e3 * x)
    used = x[weight > 0]
    distance = np.sqrt(np.square(used[:, None] - used).sum(axis=-1))[np.triu_indices(len(used), 1)]
    for rows in (x, garbage):
        ours = median_distance(jax.random.key(0), jnp.asarray(rows), jnp.asarray(weight, jnp.float32))
        np.testing.assert_allclose(ours, np.median(distance), rtol=1e-3)
    assert median_distance(jax.random.key(0), jnp.ones((60, D)), jnp.ones(60)) == 1.0


def test_folds_share_the_projection_and_rows_of_weight_zero_are_absent():
    rows = outcomes(seed=6)
    one, other = (jax.tree.map(np.asarray, fit(rows, 1.0, 2.0, 0.5, key=key)) for key in (0, 1))
    absent = (rows.weight == 0).astype(jnp.float32)
    garbage = rows._replace(x=rows.x + 1e3 * absent, observed=rows.observed - 1e3 * absent)
    assert float(absent.sum()) > 20
    dirty = fit(garbage, 1.0, 2.0, 0.5)
    for name, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[name])
        np.testing.assert_array_equal(leaf, dirty[name])
    subset = fit(rows._replace(weight=rows.weight.at[:40].set(0.0)), 1.0, 2.0, 0.5)
    ratio = subset["frequencies"] / one["frequencies"]  # the bandwidths' ratio, the directions being the same
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


def log(n=400, empty=False):
    """Scores bend with the query; the last model never answers if `empty`."""
    rng = np.random.default_rng(7)
    x, model = rng.normal(size=(n, 2)), rng.integers(0, T - empty, n)
    score = np.sin(2.0 * x[:, 0]) + np.cos(2.0 * x[:, 1]) * (1 + 0.2 * model) + 0.1 * rng.normal(size=n)
    cost = 10.0**model * (2.0 + 0.1 * rng.normal(size=n))
    x, score, cost = (jnp.asarray(part, jnp.float32) for part in (x, score, cost))
    return LoggedData(x, jnp.asarray(model, jnp.int32), score, cost, models=("a", "b", "c"))


def held_out(family, data):
    split = split_log([data], seeds=[0], n_folds=2)[0]
    fit_it = jax.jit(lambda data: held_out_outcome(fit_outcome(jax.random.key(0), family, data, split)))
    return [np.asarray(part, np.float64) for part in fit_it(data)]


def test_it_learns_what_bends_where_ridge_cannot():
    data = log()
    chosen = np.arange(400), np.asarray(data.model)
    variance = np.var(np.asarray(data.score))
    strengths = ((1.0, 1.0, 0.9), (0.01, 0.1, 0.9))  # choosing among two is part of the path
    bent = held_out(kernel.kernel_pooled(strengths, n_features=64, bandwidth=0.5), data)[0]
    straight = held_out(ridge.pooled(((3.0, 3.0),)), data)[0]
    assert np.square(bent[chosen] - np.asarray(data.score)).mean() < 0.2 * variance
    assert np.square(straight[chosen] - np.asarray(data.score)).mean() > 0.6 * variance


def test_a_model_without_rows_predicts_its_level_on_average():
    data = log(empty=True)
    score, cost = held_out(kernel.kernel_pooled(((0.1, 1.0, 0.5),), n_features=64), data)
    assert np.isfinite(score).all() and np.isfinite(cost).all()
    # The level is the mean of all rows; features are centred, so queries only move it up and down.
    standard_error = np.std(np.asarray(data.score)) / np.sqrt(200)
    np.testing.assert_allclose(score[:, -1].mean(), np.asarray(data.score).mean(), atol=4 * standard_error)


def test_an_odd_number_of_features_is_refused():
    with pytest.raises(ValueError, match="even, got 7"):
        kernel.kernel_pooled(n_features=7)
