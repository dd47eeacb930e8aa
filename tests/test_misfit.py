"""Misfit: its sums in float64, its null where nuisances are right, and what it finds where they are not."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, norm

from jrouter.check_features import check_features
from jrouter.known_worlds import draw_known_log, make_known_world
from jrouter.misfit import (
    choice_instrument,
    logged_propensity_residual,
    misfit,
    moment_names,
    moments,
    outcome_residual,
    propensity_residual,
)
from jrouter.nuisances import propensity, ridge
from jrouter.nuisances.crossfit import OUTCOME_MODELS, PROPENSITY_MODELS, NuisanceConfig, fit_nuisances
from jrouter.splits import split_log
from jrouter.types import LoggedData

T, D, N = 4, 6, 2000
features_of, misfit_of, moments_of = (jax.jit(function) for function in (check_features, misfit, moments))


def rows(seed=0, n=200, dim=3):
    """(x, residual [n, T], row weight with zeros)"""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim)) * np.array([5.0, 1.0, 0.1])[:dim] + 10.0
    weight = rng.choice([0.0, 1.0, 2.5], size=n, p=[0.2, 0.5, 0.3])
    return x.astype(np.float32), rng.normal(size=(n, T)).astype(np.float32), weight.astype(np.float32)


@pytest.mark.parametrize("grouped", [False, True])
def test_moments_are_their_definition(grouped):
    x, residual, weight = rows()
    features = np.asarray(features_of(x, weight))
    group = np.arange(200) // 3 if grouped else np.arange(200)
    products = (residual * weight[:, None])[:, :, None].astype(np.float64) * features[:, None]
    of_group = np.stack([products[group == one].sum(axis=0) for one in np.unique(group)])
    expected = of_group.sum(axis=0) / np.sqrt((of_group**2).sum(axis=0))
    weighted = residual * weight[:, None]
    got = moments_of(weighted, features, group=jnp.asarray(group) if grouped else None)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    # In any unit, dollars too.
    np.testing.assert_allclose(moments_of(1e-25 * weighted, features, group=jnp.asarray(group)), expected, atol=1e-4)
    np.testing.assert_array_equal(moments_of(0.0 * weighted, features), 0.0)


def test_the_worst_is_found_with_its_p_value():
    x, residual, weight = rows(n=400)
    features = np.asarray(features_of(x, weight))
    residual[:, 2] += 0.4 * features[:, 4]
    found = misfit_of(residual, features, weight)
    z = np.asarray(found.z, np.float64)
    with_constant = np.concatenate([np.ones((400, 1), np.float32), features], axis=1)
    np.testing.assert_allclose(z, moments_of(residual * weight[:, None], with_constant), atol=1e-5)
    assert (int(found.model), moment_names(3)[int(found.feature)]) == (2, "x1 x2")
    np.testing.assert_allclose(found.largest, np.abs(z).max(), rtol=1e-6)
    np.testing.assert_allclose(found.largest_p_value, 40 * 2 * norm.sf(np.abs(z).max()), rtol=1e-2)
    # Independent residuals: nearly a chi-square of T degrees of freedom.
    squares = (z**2).sum(axis=0)
    assert int(found.pooled_feature) == int(squares.argmax())
    np.testing.assert_allclose(np.log(found.pooled_p_value), np.log(10 * chi2.sf(squares.max(), T)), rtol=0.1)
    both = 2 * min(found.largest_p_value, found.pooled_p_value)
    np.testing.assert_allclose(found.p_value, min(1.0, both), rtol=1e-5)
    error, feature, over = residual[:, 2] * weight, features[:, 4], weight > 0
    expected = (error * feature).sum() / np.sqrt((error**2).sum() * (feature[over] ** 2).sum())
    np.testing.assert_allclose(found.correlation[2, 5], expected, rtol=1e-4)
    assert expected > 0.2 and z[2, 5] > 4
    # Nothing to sum, nothing found; and rows without weight have no say, whatever they hold.
    nothing = misfit_of(0.0 * residual, features)
    assert float(nothing.p_value) == 1.0 and np.isfinite(nothing.z).all()
    odd = misfit_of(np.where(weight[:, None] > 0, residual, 1e6), features, weight)
    np.testing.assert_allclose(odd.z, found.z, atol=1e-4)


def test_one_models_residuals_counted_twice_are_one_finding_when_pooled():
    # Two models: what one is not, the other is. Both z are the same number, and so is the p-value.
    x, residual, _ = rows(n=400)
    features = np.asarray(features_of(x))
    mirrored = np.stack([residual[:, 0], -residual[:, 0]], axis=1)
    most = float(np.square(np.asarray(misfit_of(mirrored, features).z)[0]).max())
    np.testing.assert_allclose(misfit_of(mirrored, features).pooled_p_value, min(1, 10 * chi2.sf(most, 1)), rtol=1e-2)


def test_residuals_of_rounding_are_none():
    price = jnp.float32(0.0123)
    outcome = jnp.array([price * 1.000001, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(outcome_residual(outcome, price, jnp.int32(0)), 0.0)
    assert float(outcome_residual(outcome, price * 1.001, jnp.int32(0))[0]) > 0


@pytest.fixture(autouse=True, scope="module")
def fewer_strengths():
    """The families are those of the default; fewer candidates compile and run in less time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OUTCOME_MODELS, "ridge", lambda: ridge.ridge(((float("inf"), 10.0), (float("inf"), 100.0))))
        patch.setitem(PROPENSITY_MODELS, "logistic", lambda: propensity.logistic((3e-3, 1e-2), iterations=30))
        yield


def p_values_of_log(key, bends, spread, *, split):
    """P-values of misfit of one log: estimated propensities, true ones as if logged, score, cost, utility."""
    world = make_known_world(key, n_models=T, dim=D, spread=spread, outcome_bend=bends[0], choice_bend=bends[1])
    log, true = draw_known_log(world, key, N)
    estimated = fit_nuisances(key, log, split, NuisanceConfig(outcome="ridge"))
    features = check_features(log.x)
    every = estimated.all_propensity
    assert every is not None
    chosen = jax.vmap(propensity_residual)(log.model, every)
    above_floor = jnp.where(every > 0.1 / T * 1.00001, chosen, 0.0)
    instrument = choice_instrument(features, log.model, n_models=T)
    logged_p, overconfident_p = (
        jnp.take_along_axis(p, log.model[:, None], axis=1)[:, 0] for p in (true, jax.nn.softmax(1.4 * jnp.log(true)))
    )
    logged = jax.vmap(logged_propensity_residual)(log.model, logged_p, instrument)
    overconfident = jax.vmap(logged_propensity_residual)(log.model, overconfident_p, instrument)
    score = jax.vmap(outcome_residual)(estimated.score, log.score, log.model)
    cost = jax.vmap(outcome_residual)(estimated.cost, log.cost, log.model)
    residuals = {
        "estimated": above_floor,
        "logged": logged,
        "overconfident": overconfident,
        "score": score,
        "cost": cost,
        "utility": score - 200.0 * cost,
    }
    return {name: misfit(residual, features).p_value for name, residual in residuals.items()}


@pytest.fixture(scope="module")
def p_values():
    log = LoggedData(
        jnp.zeros((N, D)), jnp.zeros(N, jnp.int32), jnp.zeros(N), jnp.zeros(N), models=("a", "b", "c", "d")
    )
    split = replace(split_log([log], seeds=[0], n_folds=3)[0], model_size=N)
    of_log = partial(p_values_of_log, split=split)

    @jax.jit
    def of_logs(keys, bends, spread):
        return jax.lax.map(lambda key: of_log(key, bends, spread), keys)

    def run(seed, n_logs, bends, spread):
        keys = jax.random.split(jax.random.key(seed), n_logs)
        blocks = [of_logs(some, jnp.array(bends), spread) for some in keys.reshape(-1, 50)]
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    return run


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.7, 2.0])
def test_right_nuisances_are_rejected_no_more_often_than_said(p_values, spread):
    n_logs = 200
    found = p_values(3, n_logs, (0.0, 0.0), spread)
    overconfident = found.pop("overconfident")
    # 5% of 200 logs are 10, give or take 3.1.
    for name, values in found.items():
        assert (values < 0.05).sum() <= 10 + 2.5 * np.sqrt(n_logs * 0.05 * 0.95), name
    assert (overconfident < 0.05).mean() > 0.5


def test_wrong_nuisances_are_found(p_values):
    found = p_values(4, 50, (0.08, 0.6), 0.7)
    for name in ("estimated", "score", "utility"):
        assert (found[name] < 0.05).mean() > 0.7, name
    # What is not bent is not found.
    assert (found["logged"] < 0.05).mean() < 0.2 and (found["cost"] < 0.05).mean() < 0.2
