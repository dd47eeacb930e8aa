"""Balancing weights: an oracle, ridge regression where the bound at 0 does not bind, and what they are for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls
from sklearn.linear_model import Ridge

from jrouter.balancing import balancing_weights
from jrouter.features import fit_scaling, scale

N, D, T = 240, 4, 3

solve = jax.jit(partial(balancing_weights, n_models=T))


def drifting(seed=0, pull=1.0):
    """x [n, d], model [n] that depends on x, row weight [n] with a few zeros."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D)) * np.array([3.0, 1.0, 1.0, 0.3]) + 5.0
    log_odds = pull * np.stack([x[:, 0] / 3 - 2, 1 - x[:, 0] / 3, x[:, 1] - 5], axis=1)
    model = (log_odds + rng.gumbel(size=(N, T))).argmax(axis=1)
    row_weight = rng.choice([0.0, 0.5, 1.0, 2.0], size=N, p=[0.1, 0.2, 0.5, 0.2])
    return jnp.asarray(x, jnp.float32), jnp.asarray(model, jnp.int32), jnp.asarray(row_weight, jnp.float32)


def scaled(x, row_weight):
    x, v = np.asarray(x, np.float64), np.asarray(row_weight, np.float64)
    x = x - v @ x / v.sum()
    return x / np.sqrt(v @ (x**2).mean(axis=1) / v.sum()), v


def oracle(x, model, row_weight, penalty):
    """The definition as nonnegative least squares in float64; rows of weight 0 are left out (NaN)."""
    x, v = scaled(x, row_weight)
    weight = np.full(N, np.nan)
    for t in range(T):
        rows = (np.asarray(model) == t) & (v > 0)
        share = v[rows] / v[rows].sum()
        design = [
            np.diag(np.sqrt(share / v[rows].sum())),
            np.sqrt(penalty / D) * (share[:, None] * x[rows]).T,
            1e4 * share[None],  # sums to 1
        ]
        target = np.concatenate([np.zeros(rows.sum() + D), [1e4]])
        weight[rows] = nnls(np.concatenate(design), target)[0] * v.sum() / v[rows].sum()
    return weight


@pytest.mark.parametrize("penalty", [0.1, 10.0, 100.0])
def test_balancing_weights_are_their_definition(penalty):
    x, model, row_weight = drifting(pull=2.0)
    got = np.asarray(solve(x, model, penalty=penalty, row_weight=row_weight))
    expected = oracle(x, model, row_weight, penalty)
    counts = np.asarray(row_weight) > 0
    np.testing.assert_allclose(got[counts], expected[counts], rtol=2e-3, atol=2e-3 * np.nanmax(expected))
    if penalty > 1:
        assert 0.1 < (expected[counts] < 1e-6).mean() < 0.9  # the bound at 0 matters here


def test_without_the_bound_the_weighted_mean_is_ridge_regression_at_the_mean_of_all_rows():
    x, model, row_weight = drifting(pull=0.3)
    penalty = 3.0
    weight = np.asarray(solve(x, model, penalty=penalty, row_weight=row_weight))
    y = np.random.default_rng(1).normal(size=N)
    features, v = scaled(x, row_weight)
    for t in range(T):
        rows = np.asarray(model) == t
        assert weight[rows].min() > 0
        peer = Ridge(alpha=D / penalty).fit(features[rows], y[rows], sample_weight=v[rows])
        estimate = (v * weight * y)[rows].sum() / v.sum()
        np.testing.assert_allclose(estimate, peer.predict(np.zeros((1, D)))[0], rtol=1e-3, atol=1e-4)


def test_totals_signs_and_balance():
    x, model, row_weight = drifting()
    features, v = scaled(x, row_weight)
    imbalance = []
    for penalty in (1e-3, 1.0, 10.0, 100.0):
        weight = np.asarray(solve(x, model, penalty=penalty, row_weight=row_weight), np.float64)
        assert weight.min() >= 0
        total = np.bincount(np.asarray(model), v * weight, minlength=T)
        np.testing.assert_allclose(total, v.sum(), rtol=1e-4)
        means = [((v * weight)[:, None] * features)[np.asarray(model) == t].sum(axis=0) / v.sum() for t in range(T)]
        imbalance.append(np.linalg.norm(means))
    assert (np.diff(imbalance) < 0).all() and imbalance[-1] < 0.1 * imbalance[0]
    # With next to no penalty every row of a model weighs the same.
    flat = np.asarray(solve(x, model, penalty=1e-6, row_weight=row_weight))
    for t in range(T):
        rows = np.asarray(model) == t
        np.testing.assert_allclose(flat[rows], v.sum() / v[rows].sum(), rtol=1e-3)


def test_row_weight_2_is_the_row_twice_and_0_is_absent():
    x, model, _ = drifting()
    row_weight = jnp.where(jnp.arange(N) % 5 == 0, 0.0, jnp.where(jnp.arange(N) % 3 == 0, 2.0, 1.0))
    repeats = np.repeat(np.arange(N), np.asarray(row_weight, int))
    weighted = np.asarray(solve(x, model, penalty=10.0, row_weight=row_weight))
    repeated = np.asarray(solve(x[repeats], model[repeats], penalty=10.0))
    np.testing.assert_allclose(weighted[repeats], repeated, rtol=1e-3, atol=1e-3)
    # A row of weight 0 changes nothing for the others, wherever it is and whoever answered.
    moved = solve(
        jnp.where(row_weight[:, None] > 0, x, 100.0),
        jnp.where(row_weight > 0, model, 0),
        penalty=10.0,
        row_weight=row_weight,
    )
    present = np.asarray(row_weight) > 0
    np.testing.assert_allclose(np.asarray(moved)[present], weighted[present], rtol=1e-3, atol=1e-3)


def test_a_model_without_rows_and_constant_features():
    x, model, row_weight = drifting()
    without = jnp.where(model == 2, 0.0, row_weight)
    weight = np.asarray(solve(x, model, penalty=10.0, row_weight=without))
    assert np.isfinite(weight).all()
    np.testing.assert_array_equal(weight[np.asarray(model) == 2], 0.0)
    constant = np.asarray(solve(jnp.ones((N, D)), model, penalty=10.0))
    np.testing.assert_allclose(constant, N / np.bincount(model)[np.asarray(model)], rtol=1e-4)


def test_units_of_x_do_not_matter():
    x, model, row_weight = drifting()
    before = solve(x, model, penalty=10.0, row_weight=row_weight)
    after = solve(-30.0 * x + 7.0, model, penalty=10.0, row_weight=row_weight)
    np.testing.assert_allclose(before, after, rtol=2e-3, atol=2e-3)


def test_vmap_over_logs_is_one_by_one():
    logs = [drifting(seed) for seed in (0, 1)]
    stacked = [jnp.stack(parts) for parts in zip(*logs, strict=True)]
    of_log = jax.vmap(lambda x, t, v: balancing_weights(x, t, n_models=T, penalty=10.0, row_weight=v))
    together = jax.jit(of_log)(*stacked)
    for got, (x, model, row_weight) in zip(together, logs, strict=True):
        np.testing.assert_allclose(got, solve(x, model, penalty=10.0, row_weight=row_weight), rtol=1e-3, atol=1e-3)


def test_they_remove_the_bias_of_who_was_asked_what():
    # Model 0 is asked the easy queries, model 1 the hard ones, and both do equally well.
    n = 8000
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 6))
    model = (rng.random(n) > 1 / (1 + np.exp(-x[:, 0]))).astype(int)
    y = x[:, 0] + 0.5 * x[:, 1] + rng.normal(size=n)
    weight = np.asarray(solve(jnp.asarray(x, jnp.float32), jnp.asarray(model), penalty=100.0), np.float64)
    for t, sign in ((0, 1), (1, -1)):
        rows = model == t
        assert sign * y[rows].mean() > 0.3
        error = weight[rows] @ y[rows] / n - (x[:, 0] + 0.5 * x[:, 1]).mean()
        noise = np.sqrt((weight[rows] ** 2).sum()) / n
        assert abs(error) < 3 * noise


def test_768_dimensions_and_a_rare_model_stay_finite_and_balance():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(500, 24))
    x = latent @ rng.normal(size=(24, 768)) + 0.5 * rng.normal(size=(500, 768))
    # Model 0 got 15 rows; models 1 and 2 lean to opposite sides.
    model = np.where(np.arange(500) % 33 == 0, 0, np.where(latent[:, 0] + rng.normal(size=500) > 0, 1, 2))
    x, model = jnp.asarray(x, jnp.float32), jnp.asarray(model, jnp.int32)
    weight = np.asarray(solve(x, model, penalty=10.0))
    assert np.isfinite(weight).all() and weight.min() >= 0
    features = np.asarray(scale(fit_scaling(x), x), np.float64)
    for t in range(T):
        rows = np.asarray(model) == t
        raw = np.linalg.norm(features[rows].mean(axis=0))
        balanced = np.linalg.norm((weight[rows, None] * features[rows]).sum(axis=0) / 500)
        assert balanced < 0.8 * raw
