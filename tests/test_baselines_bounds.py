"""Ridge regressions with bounds, and the rules on them; CARROT's convex combination."""

from dataclasses import replace

import baseline_world as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from baselines import carrot_convex

from jrouter.methods.carrot import CarrotConfig, carrot
from jrouter.methods.linucb import RULES, LinUcbConfig, linucb, probability_best, utility_moments
from jrouter.policy import Problem

X, CLUSTER = world.draw(7, 200)
CONFIG = LinUcbConfig(ratio=1.0)
moments = jax.jit(jax.vmap(utility_moments, in_axes=(None, 0, None)), compiler_options=world.QUICK)


def test_it_is_ridge_regression_with_its_standard_errors():
    """Against float64 NumPy: LinUCB's sums one row after another, on outcomes in each model's units."""
    problem = world.problem_of(n=300)
    params, values = world.fitted(linucb(CONFIG), problem, X[:5])
    log = problem.log
    x = (np.asarray(log.x, float) - params["scaling"]["centre"]) / params["scaling"]["scale"]
    query = np.append((X[0] - np.asarray(params["scaling"]["centre"])) / params["scaling"]["scale"], 1.0)
    own = np.array([np.asarray(log.score)[np.asarray(log.model) == t].mean() for t in range(3)])
    usual = ((np.asarray(log.score) - own[np.asarray(log.model)]) ** 2).mean()
    for t in range(3):
        rows = np.flatnonzero(np.asarray(log.model) == t)
        y = np.asarray(log.score, float)[rows]
        a, b = np.diag([4.0, 4.0, 4.0, 4.0, 1.0]), np.zeros(5)
        for row, target in zip(rows, (y - y.mean()) / y.std(), strict=True):
            one = np.append(x[row], 1.0)
            a += np.outer(one, one)
            b += one * target
        theta = np.linalg.solve(a, b)
        np.testing.assert_allclose(params["theta"][0, t], theta, atol=2e-4)
        assert values[0, 0, t] == pytest.approx(y.mean() + y.std() * theta @ query, abs=1e-3)
        residual = (y - y.mean()) / y.std() - np.c_[x[rows], np.ones(rows.size)] @ theta
        sigma = np.sqrt(((residual**2).sum() + 2 * usual / y.var()) / (rows.size + 2))
        error = y.std() * sigma * np.sqrt(query @ np.linalg.solve(a, query))
        assert moments(params, jnp.asarray(X[:1], jnp.float32), 0.0)[1][0, t] == pytest.approx(error, rel=1e-3)


def test_the_error_of_a_utility_is_that_of_a_regression_on_it():
    """Score and cost go together here, so leaving rho out, or its sign, would fail."""
    rng, lam = np.random.default_rng(0), 0.7
    problem = world.problem_of()
    noise = jnp.asarray(rng.normal(size=1200), jnp.float32)
    log = replace(problem.log, score=problem.log.score + noise, cost=problem.log.cost + noise)
    of_utility = replace(log, score=log.score - lam * log.cost)
    run = world.program(linucb(CONFIG))
    queries = jnp.asarray(X, jnp.float32)
    both, alone = (run(replace(problem, log=one), queries, world.LAMBDAS)[0] for one in (log, of_utility))
    ours, theirs = moments(both, queries, lam), moments(alone, queries, 0.0)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-3)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0.03)


def seldom_logged() -> Problem:
    """The large model has 3 rows, all of which it got right; the others score .6 and .5 everywhere."""
    problem = world.problem_of(n=600)
    model = np.random.default_rng(0).integers(0, 2, 600)
    model[:3] = 2
    score = np.random.default_rng(1).random(600) < np.array([0.6, 0.5, 1.0])[model]
    score, cost = (jnp.asarray(part, jnp.float32) for part in (score, world.PRICE[model]))
    log = replace(problem.log, model=jnp.asarray(model, jnp.int32), score=score, cost=cost)
    return replace(problem, log=log, split=replace(problem.split, model_size=600))


@pytest.mark.parametrize("rule", RULES)
def test_rules_differ_where_little_was_logged(rule):
    method = linucb(LinUcbConfig(rule, width=4.0))
    _, values = world.fitted(method, seldom_logged(), X)
    share = np.bincount(values[:, 0].argmax(axis=1), minlength=3) / len(X)
    if rule == "lower":
        assert share[2] < 0.2
    elif rule == "thompson":
        assert method.policy.stochastic is True
        assert 0.5 < np.exp(values[:, 0, 2]).mean() < 0.999
        np.testing.assert_allclose(np.exp(values).sum(axis=-1), 1.0, rtol=1e-4)
    else:
        assert share[2] > 0.8
    assert (values[:, 2].argmax(axis=1) == 0).mean() > 0.95  # at 100 a unit of cost, the cheapest


def test_thompson_draws_as_often_as_a_model_is_best():
    mean, error = np.array([0.2, 0.0, 0.5, -1.0]), np.array([0.3, 0.8, 0.1, 0.5])
    drawn = np.random.default_rng(0).normal(mean, error, size=(200_000, 4)).argmax(axis=1)
    exact = probability_best(jnp.asarray(mean), jnp.asarray(error))
    np.testing.assert_allclose(exact, np.bincount(drawn, minlength=4) / 200_000, atol=0.005)


def test_in_a_smaller_pool_thompson_is_among_those_left():
    method = linucb(LinUcbConfig("thompson"))
    problem = world.problem_of(n=300)
    pool = jnp.array([True, False, True])

    def run(problem, x):
        params = method.fit(jax.random.key(0), problem)
        return method.policy.probabilities(params, x, 0.0, pool), *utility_moments(params, x, 0.0)

    chosen, mean, error = jax.jit(run, compiler_options=world.QUICK)(problem, jnp.asarray(X[0], jnp.float32))
    gap = (mean[2] - mean[0]) / np.hypot(error[0], error[2])
    expected = float(jax.scipy.stats.norm.cdf(gap))
    np.testing.assert_allclose(chosen, [1.0 - expected, 0.0, expected], atol=0.003)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="expected one of mean, lower, upper, thompson"):
        LinUcbConfig("best")


def test_carrots_convex_combination_decides_as_lambda_does():
    problem, config = world.problem_of(n=300), CarrotConfig("knn")
    ours, theirs = (world.fitted(build(config), problem, X)[1] for build in (carrot_convex.carrot_convex, carrot))
    np.testing.assert_array_equal(ours.argmax(axis=-1), theirs.argmax(axis=-1))
    assert problem.full is not None and carrot_convex.carrot_convex(config).full_feedback
    cost = np.asarray(problem.full.cost)
    spread = cost.max() - cost.min()
    for place, lam in enumerate(world.LAMBDAS):
        mu = lam * spread / (1 + lam * spread)
        assert carrot_convex.mu_of(lam, spread) == pytest.approx(mu, rel=1e-5)
        expected = (1 - mu) * (theirs[:, place] + lam * cost.min())
        np.testing.assert_allclose(ours[:, place], expected, atol=2e-4)


def test_mu_and_lambda_go_back_and_forth():
    mu = jnp.linspace(0.0, 0.99, 12)
    np.testing.assert_allclose(carrot_convex.mu_of(carrot_convex.lambda_of(mu, 0.03), 0.03), mu, atol=1e-5)
