"""Every learner by name on one small problem, and what sets each apart."""

from dataclasses import fields, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.features import scale
from jrouter.methods import METHODS
from jrouter.methods.best_single import best_single
from jrouter.methods.carrot import PREDICTORS
from jrouter.methods.constant import cheapest
from jrouter.methods.regret_training import RouterConfig
from jrouter.methods.rm_auto import RmAutoConfig
from jrouter.methods.rm_classification import RmClassificationConfig
from jrouter.methods.rm_interval import HEADS, RmIntervalConfig, knots_of, rm_interval
from jrouter.methods.rm_softmax import RmSoftmaxConfig, rm_softmax
from jrouter.metrics import utility
from jrouter.networks import RouterNetwork, UtilityNetwork
from jrouter.nuisances import neighbours, outcome, regression, ridge
from jrouter.nuisances.crossfit import OUTCOME_MODELS
from jrouter.nuisances.stacking import Stack
from jrouter.policy import Method, Problem, evaluate
from jrouter.splits import split_log
from jrouter.train import TrainConfig
from jrouter.types import BenchmarkTable, LoggedData, Nuisances

N, D, T, Q = 240, 8, 3, 16
LAMBDAS = jnp.array([0.0, 50.0, 400.0])
ASKED = jnp.array([0.0, 20.0, 50.0, 399.0, 5000.0])  # on the grid, off it, and beyond
MASK = jnp.array([True, False, True])
KNOTS = (0.0, 100.0, 1000.0)  # of rm_interval: not the problem's lambdas
PRICE = np.array([1e-4, 1e-3, 1e-2])
SMALL = {"hidden": (16,), "epochs": 2, "batch_size": 64}
CARELESS = np.arange(N) % 8 == 0  # rows of weight 0


@pytest.fixture(autouse=True, scope="module")
def small_families():
    """Outcome models whose size and strengths are in no configuration."""
    train = TrainConfig(SMALL["epochs"], SMALL["batch_size"])
    with pytest.MonkeyPatch.context() as patch:
        for name, family in (("mlp", outcome.mlp), ("mlp_per_model", outcome.mlp_per_model)):
            patch.setitem(OUTCOME_MODELS, name, lambda family=family: family(SMALL["hidden"], train))
        patch.setitem(OUTCOME_MODELS, "ridge", lambda: ridge.ridge(((float("inf"), 3.0),)))
        patch.setitem(OUTCOME_MODELS, "pooled", lambda: ridge.pooled(((3.0, 10.0),)))
        small = Stack({"pooled": ridge.pooled(((3.0, 10.0),)), "knn": neighbours.knn((3.0, 5.0))})
        patch.setitem(OUTCOME_MODELS, "stacked", lambda: small)
        patch.setitem(PREDICTORS, "mlp", lambda: regression.mlp(SMALL["hidden"], train))
        yield


def method_of(name) -> Method:
    """The method, with small networks where its configuration says how large they are."""
    config = METHODS[name]().config
    if isinstance(config, RouterConfig):
        config = replace(config, **SMALL)
    if isinstance(config, RmAutoConfig):
        config = replace(config, residual=replace(config.residual, **SMALL))
    if isinstance(config, RmIntervalConfig):
        config = replace(config, joint_epochs=1, knots=KNOTS)
    return METHODS[name](config)


@cache
def problem():
    rng = np.random.default_rng(0)
    x, model = rng.normal(size=(N, D)), rng.integers(0, T, N)
    mean_score = 1 / (1 + np.exp(-x[:, :T] - [0.0, 0.3, 0.6]))
    score, cost = rng.random((N, T)) < mean_score, PRICE * np.exp(0.3 * rng.normal(size=(N, T)))
    row = np.arange(N)
    log = LoggedData(
        jnp.asarray(x, jnp.float32),
        jnp.asarray(model, jnp.int32),
        jnp.asarray(score[row, model], jnp.float32),
        jnp.asarray(cost[row, model], jnp.float32),
        row_weight=jnp.asarray(~CARELESS, jnp.float32),
        models=("small", "middle", "large"),
    )
    split = split_log([log], seeds=[0], n_folds=3)[0]
    means = jnp.asarray(np.broadcast_to(score.mean(axis=0), (N, T)), jnp.float32), jnp.broadcast_to(PRICE, (N, T))
    nuisances = Nuisances(jnp.full(N, 1 / T), means[0], jnp.asarray(means[1], jnp.float32), split.fold)
    full = BenchmarkTable(None, jnp.asarray(score, jnp.float32), jnp.asarray(cost, jnp.float32), models=log.models)
    return Problem(log, split, nuisances, LAMBDAS, full)


QUERIES = jnp.asarray(np.random.default_rng(1).normal(size=(Q, D)), jnp.float32)


@cache
def program(name):
    """Jitted: params, and on QUERIES at ASKED: values, probabilities, and probabilities in the pool."""
    method = method_of(name)

    def run(key, problem):
        params = method.fit(key, problem)

        def at(x, lam):
            pools = jnp.stack([jnp.ones(T, bool), MASK])
            chosen = jax.vmap(lambda pool: method.policy.probabilities(params, x, lam, pool))(pools)
            choice = method.policy.choice(params, x, lam, MASK)
            return method.policy.apply(params, x, lam), chosen[0], chosen[1], choice

        return params, jax.vmap(jax.vmap(at, in_axes=(None, 0)), in_axes=(0, None))(QUERIES, ASKED)

    return jax.jit(run)


@cache
def result(name):
    return program(name)(jax.random.key(0), problem())


def test_the_names_are_those_that_were_promised():
    regressors = ("ridge", "pooled", "mlp", "knn")
    assert set(METHODS) >= {
        *("random", "cheapest", "best_single", "logging_policy", "baseline_shared", "baseline_per_model"),
        *(f"regress_and_compare_{name}{suffix}" for name in regressors for suffix in ("", "_ipw")),
        *("carrot_mlp", "carrot_knn", "causal_carrot_mlp", "causal_carrot_knn", "cf_regression"),
        *(f"rm_classification_{labels}" for labels in ("hard_dr", "hard_regressed", "cost_weighted")),
        *("rm_softmax", "rm_interval", "rm_residual", "rm_conditioned", "rm_auto"),
    }


def test_only_carrot_has_full_feedback():
    assert {name for name in METHODS if METHODS[name]().full_feedback} == {"carrot_mlp", "carrot_knn"}


@pytest.mark.parametrize("name", list(METHODS))
def test_a_name_and_its_configuration_rebuild_the_method(name):
    config = METHODS[name]().config
    again = METHODS[name](type(config)(**{field.name: getattr(config, field.name) for field in fields(config)}))
    assert again.config == config and callable(again.policy.stochastic) == (name == "rm_auto")


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_fits_and_chooses_from_the_pool_at_any_lambda(name):
    params, (values, whole, pool, choice) = result(name)
    assert values.shape == (Q, len(ASKED), T)
    for leaf in jax.tree.leaves((params, values, whole, pool)):
        assert np.isfinite(np.asarray(leaf)).all()
    np.testing.assert_allclose(whole.sum(axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(pool.sum(axis=-1), 1.0, rtol=1e-5)
    assert (np.asarray(pool)[..., ~np.asarray(MASK)] == 0).all()
    of_choice = np.take_along_axis(np.asarray(pool), np.asarray(choice)[..., None], axis=-1)[..., 0]
    np.testing.assert_array_equal(of_choice, np.asarray(pool).max(axis=-1))
    if METHODS[name]().policy.stochastic is False:
        best = np.where(MASK, values, -np.inf).argmax(axis=-1)
        np.testing.assert_array_equal(np.asarray(pool).argmax(axis=-1), best)
        assert set(np.unique(whole)) == {0.0, 1.0}


@pytest.mark.parametrize("name", list(METHODS))
def test_a_row_of_weight_zero_may_hold_any_outcome(name):
    log = problem().log
    careless = jnp.asarray(CARELESS)
    garbage = replace(log, score=jnp.where(careless, -1e3, log.score), cost=jnp.where(careless, 1e3, log.cost))
    dirty = program(name)(jax.random.key(0), replace(problem(), log=garbage))
    for ours, theirs in zip(jax.tree.leaves(dirty[1]), jax.tree.leaves(result(name)[1]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["best_single", "regress_and_compare_ridge", "cf_regression", "rm_softmax"])
def test_a_row_that_counts_matters(name):
    log = problem().log
    other = program(name)(jax.random.key(0), replace(problem(), log=replace(log, score=1.0 - log.score)))
    assert np.abs(np.asarray(other[1][0]) - np.asarray(result(name)[1][0])).max() > 1e-3


def test_two_names_of_one_estimator_are_one():
    ours, theirs = result("baseline_per_model"), result("regress_and_compare_mlp")
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_inverse_propensities_weigh_rows():
    plain = result("regress_and_compare_ridge")[1][0]
    certain = replace(problem().nuisances, propensity=jnp.ones(N))
    weighted = program("regress_and_compare_ridge_ipw")(jax.random.key(0), replace(problem(), nuisances=certain))
    np.testing.assert_allclose(weighted[1][0], plain, rtol=1e-4, atol=1e-5)
    skewed = replace(problem().nuisances, propensity=jnp.where(problem().log.x[:, 0] > 0, 0.9, 0.1))
    weighted = program("regress_and_compare_ridge_ipw")(jax.random.key(0), replace(problem(), nuisances=skewed))
    assert np.abs(np.asarray(weighted[1][0]) - np.asarray(plain)).max() > 1e-2


def large_uniform_log(n=6000):
    """Three models of known mean score and cost, uniformly logged; nuisances that know nothing."""
    rng = np.random.default_rng(2)
    model = rng.integers(0, 3, n)
    score = rng.random(n) < np.array([0.4, 0.7, 0.6])[model]
    cost = np.array([1e-3, 4e-3, 2e-3])[model] * np.exp(0.3 * rng.normal(size=n))
    score, cost = jnp.asarray(score, jnp.float32), jnp.asarray(cost, jnp.float32)
    log = LoggedData(jnp.zeros((n, 2)), jnp.asarray(model, jnp.int32), score, cost, models=("a", "b", "c"))
    nuisances = Nuisances(jnp.full(n, 1 / 3), jnp.full((n, 3), 0.5), jnp.full((n, 3), 2e-3), jnp.zeros(n, jnp.int32))
    return Problem(log, split_log([log], seeds=[0])[0], nuisances, jnp.array([0.0]))


def test_best_single_finds_the_best_model_of_each_lambda_and_cheapest_the_cheapest():
    large = large_uniform_log()
    method = best_single()
    params = method.fit(jax.random.key(0), large)
    np.testing.assert_allclose(params["score"], [0.4, 0.7, 0.6], atol=0.05)
    # True utilities at 0: .4, .7, .6; at 100: .3, .3, .4; at 1e4: -9.6, -39.3, -19.4.
    for lam, best in ((0.0, 1), (100.0, 2), (1e4, 0)):
        assert int(method.policy.probabilities(params, jnp.zeros(2), lam).argmax()) == best
    method = cheapest()
    params = method.fit(jax.random.key(0), large)
    assert int(method.policy.probabilities(params, jnp.zeros(2), 0.0).argmax()) == 0


def test_random_ignores_the_log_and_the_logging_policy_follows_it():
    np.testing.assert_allclose(result("random")[1][1], 1 / T, rtol=1e-6)
    log = problem().log
    skewed = replace(log, model=jnp.where(log.x[:, 0] > 0, 2, 0), row_weight=jnp.ones(N))
    params = jax.jit(method_of("logging_policy").fit)(jax.random.key(0), replace(problem(), log=skewed))
    policy = METHODS["logging_policy"]().policy
    chosen = jax.vmap(lambda x: policy.probabilities(params, x, 0.0))(log.x)
    agrees = np.asarray(chosen)[np.arange(N), np.asarray(skewed.model)]
    assert agrees.mean() > 0.7 and float(chosen[:, 1].max()) < 0.1


def test_rm_softmax_beats_every_single_model_where_models_have_their_own_queries():
    rng = np.random.default_rng(3)
    n = 600
    x = rng.normal(size=(2 * n, D))
    mean = np.stack([0.9 * (x[:, 0] > 0), 0.9 * (x[:, 0] <= 0), np.full(2 * n, 0.5)], axis=1)
    cost = np.broadcast_to(PRICE, mean.shape)
    model = rng.integers(0, T, n)
    score = rng.random(n) < mean[np.arange(n), model]
    x, mean, score, cost = (jnp.asarray(part, jnp.float32) for part in (x, mean, score, cost))
    log = LoggedData(x[:n], jnp.asarray(model, jnp.int32), score, cost[:n][np.arange(n), model], models=("a", "b", "c"))
    nuisances = Nuisances(jnp.full(n, 1 / T), jnp.full((n, T), 0.5), cost[:n], jnp.zeros(n, jnp.int32))
    lambdas = jnp.array([0.0, 10.0])
    given = Problem(log, split_log([log], seeds=[0])[0], nuisances, lambdas)
    method = rm_softmax(RmSoftmaxConfig(hidden=(32,), epochs=15, batch_size=32))
    test = BenchmarkTable(x[n:], mean[n:], cost[n:], models=log.models)
    params = jax.jit(method.fit)(jax.random.key(0), given)
    outcomes, _ = evaluate(method.policy, params, test, lambdas)
    for place, lam in enumerate(lambdas):
        singles = utility(test.score, test.cost, lam).mean(axis=0)
        # At best .9 against .5; a wrong sign would give 0.
        assert float(outcomes.utility[place].mean()) > float(singles.max()) + 0.2


@cache
def interval(head):
    """An interval router: (config, params, policy)."""
    if head == "utility":
        method = method_of("rm_interval")
        return method.config, result("rm_interval")[0], method.policy
    config = RmIntervalConfig(**SMALL, joint_epochs=1, head=head, knots=KNOTS)
    method = rm_interval(config)
    params = jax.jit(method.fit)(jax.random.key(0), problem())
    return config, params, method.policy


def values_at(head, lam):
    _, params, policy = interval(head)
    return np.asarray(jax.vmap(lambda x: policy.apply(params, x, lam))(QUERIES))


@pytest.mark.parametrize("head", HEADS)
def test_configured_knots_are_honoured_and_a_knot_has_its_own_network(head):
    config, params, _ = interval(head)
    np.testing.assert_array_equal(params["knots"], KNOTS)
    for place, knot in enumerate(KNOTS):
        network = jax.tree.map(lambda leaf, place=place: leaf[place], params["networks"])
        module = (RouterNetwork if head == "logits" else UtilityNetwork)(T, config.hidden)
        run: Any = jax.vmap(lambda x, m=module, p=network: m.apply(p, scale(params["scaling"], x)))
        outputs = run(QUERIES)
        if head == "utility":
            # In units in which the last knot is 1.
            outputs = outputs[:, 0] - knot / KNOTS[-1] * outputs[:, 1]
        np.testing.assert_allclose(values_at(head, knot), outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_interval_routers_are_affine_between_knots_and_continuous_across_them(head):
    at = {lam: values_at(head, lam) for lam in (*KNOTS, 25.0, 99.99, 100.01, 550.0, 2000.0)}
    np.testing.assert_allclose(at[25.0], 0.75 * at[0.0] + 0.25 * at[100.0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(at[550.0], 0.5 * at[100.0] + 0.5 * at[1000.0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(at[99.99], at[100.01], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(at[2000.0], at[1000.0])  # beyond the last knot
    # The knots' networks differ, or all of this would hold for one network, too.
    assert np.abs(at[100.0] - at[0.0]).max() > 1e-2 and np.abs(at[1000.0] - at[100.0]).max() > 1e-2


def test_knots_are_every_other_lambda_with_both_ends():
    config = RmIntervalConfig()
    np.testing.assert_array_equal(knots_of(config, jnp.arange(5.0)), [0, 2, 4])
    np.testing.assert_array_equal(knots_of(config, jnp.arange(4.0)), [0, 2, 3])
    np.testing.assert_array_equal(knots_of(config, jnp.arange(2.0)), [0, 1])
    np.testing.assert_array_equal(knots_of(replace(config, knots=KNOTS), jnp.arange(5.0)), KNOTS)


@pytest.mark.parametrize("knots", [(), (0.0,), (100.0, 0.0), (0.0, 0.0, 1.0)])
def test_bad_knots_are_refused(knots):
    with pytest.raises(ValueError, match="knots must be two or more ascending lambdas"):
        RmIntervalConfig(knots=knots)


def test_bad_heads_and_labels_are_refused():
    with pytest.raises(ValueError, match="unknown head 'linear': expected one of logits, utility"):
        RmIntervalConfig(head="linear")
    with pytest.raises(ValueError, match="unknown labels 'soft': expected one of hard_dr, .*cost_weighted"):
        RmClassificationConfig(labels="soft")
