"""Three rules on one regression of doubly robust scores: its errors, and where the rules differ."""

from dataclasses import replace

import baseline_world as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from baselines.carl import VARIANTS, CarlConfig, carl, utility_moments

from jrouter.counterfactual import counterfactual_scores
from jrouter.methods.linucb import probability_best
from jrouter.policy import Problem
from jrouter.types import Nuisances, take_rows

X, CLUSTER = world.draw(7, 200)
QUERIES = jnp.asarray(X, jnp.float32)
UNBIASED = CarlConfig(ratio=1.0, estimator="dr")


def fit_and_ask(config: CarlConfig, problem: Problem, x: jax.Array, lam) -> tuple[jax.Array, jax.Array]:
    """Means and errors of utility [m, 3] of queries [m, 4]."""
    params = carl(config).fit(jax.random.key(0), problem)
    return jax.vmap(utility_moments, in_axes=(None, 0, None))(params, x, lam)


program = jax.jit(fit_and_ask, static_argnums=0, compiler_options=world.QUICK)


def moments(problem: Problem, lam: float = 0.0, config: CarlConfig = UNBIASED) -> tuple[np.ndarray, np.ndarray]:
    mean, error = program(config, problem, QUERIES, lam)
    assert np.isfinite(mean).all() and np.isfinite(error).all() and (np.asarray(error) > 0).all()
    return np.asarray(mean), np.asarray(error)


@pytest.mark.parametrize("grouped", [False, True])
def test_errors_are_the_sandwich_of_numpy(grouped):
    rng = np.random.default_rng(0)
    n, lam = 300, 0.4
    group, weight = rng.integers(0, 100, n), rng.uniform(0.5, 2.0, n)
    problem = world.problem_of(n=n, row_weight=jnp.asarray(weight, jnp.float32))
    log = replace(problem.log, group=jnp.asarray(group, jnp.int32) if grouped else None)
    scores = counterfactual_scores(log, problem.nuisances, estimator="dr")
    mean, error = moments(replace(problem, log=log), lam)
    x = np.asarray(log.x, float)
    centre = np.average(x, axis=0, weights=weight)
    spread = np.sqrt(np.average(((x - centre) ** 2).mean(axis=1), weights=weight))
    design = np.c_[(x - centre) / spread, np.ones(n)]
    inverse = np.linalg.inv((design * weight[:, None]).T @ design + np.diag([4.0] * 4 + [0.0]))
    query = np.append((X[0] - centre) / spread, 1.0)
    for t in range(3):
        # Of utility itself: no covariance of score and cost is needed.
        y = np.asarray(scores.score, float)[:, t] - lam * np.asarray(scores.cost, float)[:, t]
        theta = inverse @ design.T @ (weight * y)
        residual = (y - design @ theta) / (1 - np.einsum("nd,de,ne->n", design, inverse, design))
        moved = weight * residual * (design @ inverse @ query)
        total = np.bincount(group, moved) if grouped else moved
        assert mean[0, t] == pytest.approx(theta @ query, abs=2e-4)
        assert error[0, t] == pytest.approx(np.sqrt((total**2).sum()), rel=1e-2)


def test_errors_are_how_far_estimates_move_from_log_to_log():
    """Chosen evenly, propensities 1/3, the outcome model exact: over 300 logs, sd is what one log says."""
    rng, logs, n = np.random.default_rng(1), 300, 300
    problem = world.problem_of(n=n)
    cluster = rng.integers(0, 4, (logs, n))
    x = world.CENTRES[cluster] + 0.5 * rng.normal(size=(logs, n, 4))
    model = rng.integers(0, 3, (logs, n))
    truth = world.MEAN[cluster]
    score = rng.random((logs, n)) < np.take_along_axis(truth, model[..., None], 2)[..., 0]

    def of_log(x, model, score, truth):
        log = replace(problem.log, x=x, model=model, score=score, cost=jnp.ones(n))
        known = Nuisances(jnp.full(n, 1 / 3), truth, jnp.ones((n, 3)), problem.split.fold)
        return fit_and_ask(UNBIASED, replace(problem, log=log, nuisances=known), QUERIES[:8], 0.0)

    arrays = (jnp.asarray(part, jnp.float32) for part in (x, score, truth))
    x, score, truth = arrays
    model = jnp.asarray(model, jnp.int32)
    mean, error = jax.jit(jax.vmap(of_log), compiler_options=world.QUICK)(x, model, score, truth)
    ratio = np.sqrt((np.asarray(error) ** 2).mean(axis=0)) / np.asarray(mean).std(axis=0)
    # An sd of 300 numbers is known to 4%; 24 of them are not independent.
    np.testing.assert_allclose(ratio, 1.0, atol=0.2)
    assert ratio.mean() == pytest.approx(1.0, abs=0.06)


def test_the_error_of_a_utility_is_that_of_a_regression_on_it():
    lam, problem = 0.7, world.problem_of()
    known = problem.nuisances
    of_utility = replace(
        problem,
        log=replace(problem.log, score=problem.log.score - lam * problem.log.cost),
        nuisances=replace(known, score=known.score - lam * known.cost),
    )
    for ours, theirs in zip(moments(problem, lam), moments(of_utility), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_a_row_of_weight_2_is_a_query_logged_twice_and_one_of_0_is_absent():
    problem = world.problem_of(n=300)
    n = jnp.arange(300)
    double = jnp.where(n < 100, 2.0, 1.0)
    weighted = replace(problem, log=replace(problem.log, row_weight=double, group=n))
    rows = jnp.concatenate([n, n[:100]])
    twice = take_rows(replace(problem.log, group=n), rows)
    repeated = replace(problem, log=twice, nuisances=take_rows(problem.nuisances, rows))
    for ours, theirs in zip(moments(weighted, 0.3), moments(repeated, 0.3), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
    absent = jnp.where(n < 100, 0.0, 1.0)
    either = (
        replace(problem.log, row_weight=absent, group=n, score=jnp.where(n < 100, score, problem.log.score))
        for score in (0.0, 50.0)
    )
    for ours, theirs in zip(*(moments(replace(problem, log=log)) for log in either), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def seldom_logged() -> Problem:
    """The large model has 3 rows of 600, all of which it got right, at propensity .005; others score .6 and .5."""
    problem, rng = world.problem_of(n=600), np.random.default_rng(0)
    model = rng.integers(0, 2, 600)
    model[:3] = 2
    score = rng.random(600) < np.array([0.6, 0.5, 1.0])[model]
    propensity = np.array([0.4975, 0.4975, 0.005])[model]
    arrays = (jnp.asarray(part, jnp.float32) for part in (score, world.PRICE[model], propensity))
    score, cost, propensity = arrays
    log = replace(problem.log, model=jnp.asarray(model, jnp.int32), score=score, cost=cost)
    outcome = jnp.broadcast_to(jnp.array([0.6, 0.5, 0.6]), (600, 3))
    known = Nuisances(propensity, outcome, jnp.broadcast_to(jnp.asarray(world.PRICE), (600, 3)), problem.split.fold)
    return replace(problem, log=log, nuisances=known)


def test_rules_differ_where_little_was_logged():
    problem, config = seldom_logged(), replace(UNBIASED, ratio=300.0, width=4.0)
    mean, error = moments(problem, config=config)
    assert error[:, 2].mean() > 2 * error[:, 1].mean() and error[:, 2].mean() > 2 * error[:, 0].mean()
    assert (mean.argmax(axis=1) == 2).mean() > 0.9
    assert ((mean - 4.0 * error).argmax(axis=1) == 2).mean() < 0.1
    values = {}
    for rule in ("mean", "lower", "thompson"):
        values[rule] = world.fitted(carl(replace(config, rule=rule)), problem, X[:20])[1][:, 0]
    np.testing.assert_allclose(values["mean"], mean[:20], atol=1e-3)
    np.testing.assert_allclose(values["lower"], (mean - 4.0 * error)[:20], atol=5e-3)
    best = jax.vmap(probability_best)(jnp.asarray(mean[:20]), jnp.asarray(error[:20]))
    np.testing.assert_allclose(np.exp(values["thompson"]), best, atol=0.01)


def test_shrinkage_leaves_a_seldom_logged_model_to_the_outcome_model():
    """As the docstring warns: its score is then 0.6 everywhere, and the error says that this is certain."""
    config = CarlConfig(ratio=1.0, strength=1.0)
    mean, error = moments(seldom_logged(), config=config)
    np.testing.assert_allclose(mean[:, 2], 0.6, atol=0.01)
    assert error[:, 2].max() < error[:, 0].min() / 2


@pytest.mark.parametrize("name", list(VARIANTS))
def test_each_rule_sends_queries_to_the_model_that_is_best_for_them(name):
    method = VARIANTS[name](replace(VARIANTS[name]().config, ratio=1.0))
    assert method.policy.stochastic is (name == "carl_thompson")
    pool = jnp.array([True, False, True])

    def run(problem, x, lambdas):
        params = method.fit(jax.random.key(0), problem)
        of_query = jax.vmap(method.policy.values, in_axes=(None, None, 0))
        among = jax.vmap(lambda x: method.policy.probabilities(params, x, 0.0, pool))(x)
        return jax.vmap(of_query, in_axes=(None, 0, None))(params, x, lambdas), among

    # One policy for every lambda, among them some that it was not fitted for.
    lambdas = jnp.array([0.0, 0.1, 3.0, 100.0])
    values, among = jax.jit(run, compiler_options=world.QUICK)(world.problem_of(), QUERIES, lambdas)
    for place, lam in enumerate(np.asarray(lambdas)):
        assert world.share_right(np.asarray(values)[:, place], CLUSTER, lam) > 0.9
    np.testing.assert_allclose(among.sum(axis=1), 1.0, rtol=1e-5)
    assert (among[:, 1] == 0).all()


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="expected one of mean, lower, upper, thompson"):
        CarlConfig("best")
