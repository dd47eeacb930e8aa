"""Propensities against scikit-learn, pools of allowed models, and clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jrouter.nuisances import propensity, ridge
from jrouter.nuisances.crossfit import (
    OUTCOME_MODELS,
    NuisanceConfig,
    fit_nuisances,
)
from jrouter.nuisances.crossfit_propensity import fit_propensity, held_out_propensities
from jrouter.nuisances.propensity import Choices, Clipping, clip
from jrouter.splits import split_log
from jrouter.train import TrainConfig
from jrouter.types import LoggedData

N, D, T = 400, 8, 4
PENALTY = 0.02


def choices(seed=0, shift=0.0, allowed=None, slopes=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D)) + shift
    log_odds = x @ rng.normal(size=(D, T)) * slopes + np.linspace(1, -1, T)
    allowed = np.ones((N, T), bool) if allowed is None else allowed
    model = np.where(allowed, log_odds + rng.gumbel(size=(N, T)), -np.inf).argmax(axis=1)
    return Choices(jnp.asarray(x, jnp.float32), jnp.asarray(model, jnp.int32), jnp.asarray(allowed))


@jax.jit
def logistic(rows, weight, penalty):
    """[n, T] probabilities by logistic regression at one penalty."""
    family = propensity.logistic()
    params = family.fit(jax.random.key(0), rows, weight, penalty)
    return jax.vmap(lambda x, allowed: propensity.probabilities(family, params, x, allowed))(rows.x, rows.allowed)


def scikit_learn(rows, weight, penalty):
    x, model = np.asarray(rows.x, np.float64), np.asarray(rows.model)
    peer = LogisticRegression(C=1 / (weight.sum() * penalty), tol=1e-8, max_iter=2000)
    return peer.fit(x, model, weight).predict_proba(x)


@pytest.mark.parametrize("penalty", [3e-3, PENALTY, 1.0])
def test_logistic_is_scikit_learns(penalty):
    rows, weight = choices(), np.ones(N)
    ours = logistic(rows, jnp.asarray(weight, jnp.float32), penalty)
    np.testing.assert_allclose(ours, scikit_learn(rows, weight, penalty), atol=2e-3)


def test_weights_are_scikit_learns_and_zero_is_absent():
    rows = choices(seed=1)
    weight = np.random.default_rng(9).integers(0, 4, N).astype(np.float64)
    ours = logistic(rows, jnp.asarray(weight, jnp.float32), PENALTY)
    np.testing.assert_allclose(ours, scikit_learn(rows, weight, PENALTY), atol=2e-3)
    # Counted rows carry on as they did, whatever the absent ones say.
    absent = jnp.asarray(weight == 0)
    garbage = Choices(rows.x, jnp.where(absent, 0, rows.model), rows.allowed)
    assert int((garbage.model != rows.model).sum()) > 20
    np.testing.assert_array_equal(ours, logistic(garbage, jnp.asarray(weight, jnp.float32), PENALTY))


@pytest.mark.parametrize("strongest", [1.0, 100.0])
def test_embeddings_with_a_few_strong_directions(strongest):
    # As language models': the spectrum falls over four decades, and one direction may hold half of it.
    rng = np.random.default_rng(2)
    n, d, n_models = 800, 130, 3
    spectrum = np.geomspace(1.0, 1e-4, d)
    spectrum[0] += strongest * spectrum.mean()
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    x = (rng.normal(size=(n, d)) * np.sqrt(spectrum / spectrum.mean())) @ basis.T
    model = (x @ rng.normal(size=(d, n_models)) * 0.3 + rng.gumbel(size=(n, n_models))).argmax(axis=1)
    rows = Choices(jnp.asarray(x, jnp.float32), jnp.asarray(model, jnp.int32), jnp.ones((n, n_models), bool))
    ours = logistic(rows, jnp.ones(n), 3e-3)
    np.testing.assert_allclose(ours, scikit_learn(rows, np.ones(n), 3e-3), atol=0.02)


def test_models_that_are_not_allowed_get_exactly_zero_and_do_not_count_as_refused():
    rng = np.random.default_rng(3)
    allowed = rng.random((N, T)) < 0.6
    allowed[np.arange(N), rng.integers(0, T, N)] = True
    rows = choices(seed=3, allowed=allowed, slopes=0.0)
    # Within its pool the choice is a softmax of one set of log-odds, whatever the pool.
    log_odds = np.linspace(1, -1, T)
    expected = np.where(allowed, np.exp(log_odds), 0.0)
    expected /= expected.sum(axis=1, keepdims=True)
    ours = np.asarray(logistic(rows, jnp.ones(N), 0.3))
    assert (ours[~allowed] == 0).all()
    np.testing.assert_allclose(ours.sum(axis=1), 1.0, rtol=1e-5)
    # N draws tell a share to within about .5 / sqrt(N) = .025; slopes are all but penalised away.
    assert np.abs(ours - expected).mean() < 0.04 and np.abs(ours - expected).max() < 0.2


def as_log(rows, **fields):
    score = jnp.asarray(np.random.default_rng(0).normal(size=N), jnp.float32)
    names = tuple("abcd")
    return LoggedData(rows.x, rows.model, score, jnp.ones(N) + 0.1 * score, models=names, **fields)


def test_cross_fitted_network_beats_the_marginal_shares_and_honours_pools():
    rng = np.random.default_rng(4)
    allowed = rng.random((N, T)) < 0.8
    allowed[:, 0] = True
    rows = choices(seed=4, allowed=allowed, slopes=1.5)
    log = as_log(rows, allowed=rows.allowed)
    split = split_log([log], seeds=[0], n_folds=2)[0]
    family = propensity.mlp((32,), TrainConfig(epochs=20, batch_size=32))

    @jax.jit
    def held_out(log):
        fit = fit_propensity(jax.random.key(0), family, log, split, pool="allowed")
        return held_out_propensities(family, fit, log, split, pool="allowed")

    predicted = np.asarray(held_out(log), np.float64)
    model = np.asarray(rows.model)
    assert (predicted[~allowed] == 0).all()
    share = np.where(allowed, np.bincount(model, minlength=T), 0.0)
    marginal = (share / share.sum(axis=1, keepdims=True))[np.arange(N), model]
    assert -np.log(predicted[np.arange(N), model]).mean() < -np.log(marginal).mean() - 0.15


def test_the_floor_is_a_share_of_uniform():
    values = jnp.array([1e-6, 0.01, 0.2, 0.9])
    clipped = clip(values, Clipping(floor=0.2), n_models=4, training=values, training_weight=jnp.ones(4))
    np.testing.assert_allclose(clipped, [0.05, 0.05, 0.2, 0.9], rtol=1e-6)


def test_percentiles_are_those_of_the_training_rows():
    rng = np.random.default_rng(6)
    values = rng.beta(1, 3, size=1000)
    weight = (np.arange(1000) < 800).astype(float)
    rule = Clipping(percentiles=(5, 95))

    def clipped(values):
        values = jnp.asarray(values, jnp.float32)
        return np.asarray(clip(values, rule, n_models=4, training=values, training_weight=jnp.asarray(weight)))

    low, high = np.percentile(values[:800], [5, 95])
    np.testing.assert_allclose(clipped(values), np.clip(values, low, high), atol=2e-3)
    # Rows of weight 0 are clipped, but have no say in where.
    extreme = np.where(weight > 0, values, 1e-5)
    np.testing.assert_array_equal(clipped(extreme)[:800], clipped(values)[:800])
    np.testing.assert_allclose(clipped(extreme)[800:], low, atol=2e-3)


def test_percentiles_weigh_rows():
    values = jnp.asarray(np.random.default_rng(7).random(200), jnp.float32)
    times = np.random.default_rng(8).integers(0, 4, 200)
    twice = jnp.repeat(values, times)
    rule = Clipping(percentiles=(10, 80))
    weighted = clip(values, rule, n_models=4, training=values, training_weight=jnp.asarray(times, jnp.float32))
    repeated = clip(values, rule, n_models=4, training=twice, training_weight=jnp.ones(twice.shape))
    np.testing.assert_array_equal(weighted, repeated)


def test_logged_propensities_are_never_clipped(monkeypatch):
    monkeypatch.setitem(OUTCOME_MODELS, "ridge", lambda: ridge.ridge(((float("inf"), 3.0),)))
    small = jnp.asarray(np.geomspace(1e-9, 1.0, N), jnp.float32)
    log = as_log(choices(), propensity=small)
    split = split_log([log], seeds=[0], n_folds=2)[0]

    @jax.jit
    def estimate(log):
        rules = Clipping(floor=0.5), Clipping(percentiles=(5, 95))
        configs = [NuisanceConfig("ridge", clipping=rule) for rule in rules]
        return [fit_nuisances(jax.random.key(0), log, split, config).propensity for config in configs]

    for chosen in estimate(log):
        np.testing.assert_array_equal(chosen, small)


def test_estimated_propensities_are_clipped_by_the_other_folds(monkeypatch):
    monkeypatch.setitem(OUTCOME_MODELS, "ridge", lambda: ridge.ridge(((float("inf"), 3.0),)))
    log = as_log(choices(slopes=2.0))
    split = split_log([log], seeds=[0], n_folds=2)[0]

    @jax.jit
    def estimate(log):
        def of(clipping):
            return fit_nuisances(jax.random.key(0), log, split, NuisanceConfig("ridge", clipping=clipping)).propensity

        return of(Clipping(floor=0.0)), of(Clipping(percentiles=(20, 80)))

    raw, clipped = (np.asarray(part) for part in estimate(log))
    for fold in range(2):
        mine = np.asarray(split.fold) == fold
        low, high = np.percentile(raw[~mine], [20, 80], method="inverted_cdf")
        np.testing.assert_allclose(clipped[mine], np.clip(raw[mine], low, high), rtol=1e-5)
        own = np.percentile(raw[mine], [20, 80], method="inverted_cdf")
        assert np.abs(own - [low, high]).max() > 1e-3  # else its own percentiles would pass
