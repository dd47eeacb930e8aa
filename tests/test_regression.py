"""Regression of every model's target, against scikit-learn; and two methods that it makes one."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from jrouter.counterfactual import counterfactual_scores
from jrouter.features import fit_scaling, scale
from jrouter.methods import carrot
from jrouter.methods.carrot import CarrotConfig, causal_carrot
from jrouter.methods.cf_regression import CfRegressionConfig, cf_regression
from jrouter.nuisances import regression
from jrouter.policy import Problem, evaluate
from jrouter.splits import split_log
from jrouter.types import BenchmarkTable, LoggedData, Nuisances

N, D, T = 160, 6, 3
RATIO = 3.0
LAMBDAS = jnp.array([0.0, 50.0, 400.0])


def problem(seed=0):
    rng = np.random.default_rng(seed)
    x, model = rng.normal(size=(N, D)) * 2.0 + 1.0, rng.integers(0, T, N)
    mean_score = 0.5 + 0.1 * x @ rng.normal(size=(D, T))
    mean_cost = 1e-3 * np.array([1.0, 3.0, 10.0]) * np.exp(0.1 * x[:, :T])
    score = (mean_score + 0.2 * rng.normal(size=(N, T)))[np.arange(N), model]
    cost = mean_cost[np.arange(N), model] * np.exp(0.2 * rng.normal(size=N))
    weight = rng.integers(0, 3, N)
    f32 = (jnp.asarray(part, jnp.float32) for part in (x, score, cost, weight, mean_score, mean_cost))
    x, score, cost, weight, mean_score, mean_cost = f32
    log = LoggedData(x, jnp.asarray(model, jnp.int32), score, cost, row_weight=weight, models=("a", "b", "c"))
    split = split_log([log], seeds=[seed], n_folds=3)[0]
    nuisances = Nuisances(jnp.full(N, 1 / T), 0.9 * mean_score, 1.1 * mean_cost, split.fold)
    return Problem(log, split, nuisances, LAMBDAS)


def targets(seed=0):
    """[N, T] score and cost."""
    scores = counterfactual_scores(problem(seed).log, problem(seed).nuisances)
    return scores.score, scores.cost


def scaled(log):
    return np.asarray(scale(fit_scaling(log.x, log.row_weight), log.x), np.float64)


def fitted(family):
    """Jitted: predictions [n, 2, T] of the fit on all rows, held-out ones, and the chosen strength."""

    @jax.jit
    def run(log, split, score, cost):
        fit = regression.fit_targets(jax.random.key(0), family, log, split, score, cost)
        last = jax.tree.map(lambda leaf: leaf[-1], fit.params)
        standard = jax.vmap(lambda x: family.predict(last, x))(scale(fit.scaling, log.x))
        held_out = regression.held_out_targets(family, fit, log, split)
        return fit.mean + fit.deviation * standard, held_out, fit.strength

    return run


RIDGE = fitted(regression.ridge((RATIO,)))


@cache
def ridge_of_base():
    return RIDGE(problem().log, problem().split, *targets())


def test_ridge_is_scikit_learns_with_many_outputs():
    everywhere, held_out, _ = ridge_of_base()
    log, fold = problem().log, np.asarray(problem().split.fold)
    x, weight = scaled(log), np.asarray(log.row_weight, np.float64)
    both = np.stack(targets(), axis=1).astype(np.float64)
    unit = np.abs(both).mean(axis=(0, 2))[:, None]
    flat = both.reshape(N, -1)
    peer = Ridge(alpha=RATIO * D).fit(x, flat, weight)
    np.testing.assert_allclose(everywhere / unit, peer.predict(x).reshape(N, 2, T) / unit, atol=2e-4)
    for number in range(3):
        peer = Ridge(alpha=RATIO * D).fit(x[fold != number], flat[fold != number], weight[fold != number])
        expected = peer.predict(x[fold == number]).reshape(-1, 2, T) / unit
        np.testing.assert_allclose(np.asarray(held_out)[fold == number] / unit, expected, atol=2e-4)


def test_held_out_predictions_ignore_the_rows_own_target():
    score, cost = targets()
    row = int(np.flatnonzero(np.asarray(problem().log.row_weight) == 2)[0])
    changed = RIDGE(problem().log, problem().split, score.at[row].add(5.0), cost.at[row].add(5e-2))
    fold = np.asarray(problem().split.fold)
    same = fold == fold[row]
    unit = np.array([1.0, 1e-2])[:, None]
    difference = np.abs(np.asarray(changed[1]) - np.asarray(ridge_of_base()[1])) / unit
    # Up to rounding: targets are standardised by all rows, which ridge regression undoes.
    assert difference[same].max() < 1e-4
    assert difference[~same].max() > 1e-2
    assert np.abs(np.asarray(changed[0]) - np.asarray(ridge_of_base()[0]))[row].max() > 1e-2


def test_rows_of_weight_zero_are_absent():
    score, cost = targets()
    absent = (problem().log.row_weight == 0)[:, None]
    changed = RIDGE(problem().log, problem().split, jnp.where(absent, 1e5, score), jnp.where(absent, -1e5, cost))
    np.testing.assert_array_equal(changed[0], ridge_of_base()[0])


def test_the_strength_is_that_of_least_held_out_error():
    log, split = problem().log, problem().split
    rng = np.random.default_rng(3)
    noise = jnp.asarray(rng.normal(size=(N, T)), jnp.float32)
    signal = log.x[:, :T]
    run = fitted(regression.ridge((1.0, 1000.0)))
    assert float(run(log, split, noise, noise)[2]) == 1000.0
    assert float(run(log, split, signal, signal)[2]) == 1.0


def test_nearest_neighbours_are_scikit_learns():
    plain = replace(problem().log, row_weight=jnp.ones(N))
    everywhere, held_out, _ = fitted(regression.knn((4.0,)))(plain, problem().split, *targets())
    x, fold = scaled(plain), np.asarray(problem().split.fold)
    both = np.stack(targets(), axis=1).astype(np.float64).reshape(N, -1)
    unit = np.abs(both).mean(axis=0)
    predicted = KNeighborsRegressor(4).fit(x, both).predict(x)
    np.testing.assert_allclose(np.asarray(everywhere).reshape(N, -1) / unit, predicted / unit, atol=1e-4)
    peer = KNeighborsRegressor(4).fit(x[fold != 1], both[fold != 1])
    ours = np.asarray(held_out).reshape(N, -1)[fold == 1]
    np.testing.assert_allclose(ours / unit, peer.predict(x[fold == 1]) / unit, atol=1e-4)


def test_cf_regression_and_causal_carrot_coincide_for_a_fixed_linear_smoother(monkeypatch):
    monkeypatch.setitem(carrot.PREDICTORS, "ridge", lambda: regression.ridge((RATIO,)))
    base = problem()
    regressed = cf_regression(CfRegressionConfig(ratios=(RATIO,)))
    plugged_in = causal_carrot(CarrotConfig("ridge"))
    table = BenchmarkTable(base.log.x, base.nuisances.score, base.nuisances.cost, models=base.log.models)

    @jax.jit
    def both(key, problem):
        results = []
        for method in (regressed, plugged_in):
            params = method.fit(key, problem)
            values = jax.vmap(lambda x, m=method, p=params: jax.vmap(lambda lam: m.policy.apply(p, x, lam))(LAMBDAS))(
                problem.log.x
            )
            results.append((values, evaluate(method.policy, params, table, LAMBDAS)[1]))
        return results

    (ours, our_shares), (theirs, their_shares) = both(jax.random.key(0), base)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(our_shares, their_shares)

    # A smoother that is linear in its targets commutes with utility: regress each lambda's utility itself.
    score, cost = (np.asarray(part, np.float64) for part in targets())
    x, weight = scaled(base.log), np.asarray(base.log.row_weight, np.float64)
    for place, lam in enumerate(np.asarray(LAMBDAS)):
        values = score - lam * cost
        direct = Ridge(alpha=RATIO * D).fit(x, values, weight).predict(x)
        np.testing.assert_allclose(ours[:, place], direct, atol=5e-4 * np.abs(direct).max())
        clear = np.sort(direct, axis=1)[:, -1] - np.sort(direct, axis=1)[:, -2] > 1e-2
        assert clear.mean() > 0.8
        np.testing.assert_array_equal(np.asarray(ours)[clear, place].argmax(axis=1), direct[clear].argmax(axis=1))
