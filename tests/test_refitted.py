"""The bootstrap that refits: what it resamples, that it has the spread of fresh logs, and what it refuses."""

from dataclasses import replace
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.counterfactual import counterfactual_scores
from jrouter.honest_value import cross_fitted_value
from jrouter.methods import METHODS
from jrouter.nuisances import propensity, ridge
from jrouter.nuisances.crossfit import OUTCOME_MODELS, PROPENSITY_MODELS, NuisanceConfig, fit_nuisances
from jrouter.off_policy import fixed_policy_value, value_of_rows
from jrouter.policy import Method, Policy, choice_outcomes
from jrouter.refitted import bootstrap_log, refitted_bootstrap, refitted_learner_bootstrap
from jrouter.resampling import poisson_counts
from jrouter.splits import split_log
from jrouter.types import LoggedData, take_rows

D, T, K = 2, 3, 2
LAMBDAS = jnp.array([0.0, 2.0])
CONFIG = NuisanceConfig(outcome="ridge")
POLICY = Policy(lambda params, x, lam: params @ x - lam * jnp.array([0.0, 0.1, 0.2]), stochastic=True)
PARAMS = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.5]])


@pytest.fixture(autouse=True, scope="module")
def one_strength():
    """Weak penalties without a choice: less to compile, and less bias to tell apart from spread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OUTCOME_MODELS, "ridge", lambda: ridge.ridge(((float("inf"), 0.1),)))
        patch.setitem(PROPENSITY_MODELS, "logistic", lambda: propensity.logistic((1e-2,), iterations=20))
        yield


def draw(key, n):
    """A log of n rows whose logging policy must be estimated: it prefers the model that x says is good."""
    key_x, key_model, key_score, key_cost = jax.random.split(key, 4)
    x = jax.random.normal(key_x, (n, D))
    signal = x @ jnp.array([[1.0, 0.0, -0.5], [0.0, 1.0, 0.5]])
    model = jax.random.categorical(key_model, 0.7 * signal)
    score = jax.nn.sigmoid(signal[jnp.arange(n), model]) + 0.3 * jax.random.normal(key_score, (n,))
    cost = jnp.array([0.1, 0.2, 0.3])[model] * jnp.exp(0.3 * jax.random.normal(key_cost, (n,)))
    return LoggedData(x, model, score, cost, models=("a", "b", "c"))


def split_of(n, group=None):
    """Folds of n rows, for any log of them."""
    log = LoggedData(jnp.zeros((n, D)), jnp.zeros(n, jnp.int32), jnp.zeros(n), jnp.zeros(n), group=group)
    return replace(split_log([log], seeds=[0], n_folds=K)[0], model_size=n)


def value(log, split):
    return fixed_policy_value(jax.random.key(3), log, split, POLICY, PARAMS, LAMBDAS, nuisances=CONFIG)


def test_each_resample_is_the_estimate_of_a_log_with_these_rows_repeated():
    n, n_resamples = 120, 3
    log = replace(draw(jax.random.key(0), n), row_weight=1.0 + jnp.arange(n) % 2)
    split, key = split_of(n), jax.random.key(3)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(key, log):
        more = {"nuisances": CONFIG, "n_resamples": n_resamples, "at_once": 2}
        return refitted_bootstrap(key, log, split, POLICY, PARAMS, LAMBDAS, **more)

    got = run(key, log)
    assert got.value.shape == (n_resamples, 2)
    np.testing.assert_allclose(got.value, got.score - LAMBDAS * got.cost, rtol=1e-4)
    keys = jax.random.split(jax.random.fold_in(key, 0x626F6F74), (2, 2)).reshape(-1)
    counts = np.asarray(poisson_counts(keys[1], (n,)))
    rows = np.repeat(np.arange(n), counts * np.asarray(log.row_weight).astype(int))
    repeated = replace(take_rows(log, rows), row_weight=None)
    folds = replace(split, fold=split.fold[rows], fold_size=rows.size, model_size=rows.size)
    np.testing.assert_allclose(got.value[1], jax.jit(value)(repeated, folds).value, rtol=2e-3, atol=2e-4)
    # Resamples differ by far more than that.
    assert float(got.value.std(axis=0).min()) > 2e-2
    # Another log and other resamples are the same program.
    other = run(jax.random.key(8), replace(draw(jax.random.key(9), n), row_weight=log.row_weight))
    assert np.isfinite(other.value).all() and not np.allclose(other.value, got.value)


def test_rows_of_a_group_are_resampled_together():
    n = 60
    log = replace(draw(jax.random.key(0), n), group=jnp.arange(n) // 3)
    weights = bootstrap_log(jax.random.key(1), log, lambda log: log.weight, n_resamples=50, at_once=8)
    by_group = np.asarray(weights).reshape(50, n // 3, 3)
    assert (by_group == by_group[..., :1]).all() and by_group.std(axis=1).min() > 0.2
    alone = bootstrap_log(jax.random.key(1), replace(log, group=None), lambda log: log.weight, n_resamples=50)
    assert not (np.asarray(alone).reshape(50, n // 3, 3) == by_group).all()


def direct_and_doubly_robust(log, split):
    """Values and standard errors [2, L] each, by one fit of the nuisances."""
    estimated = fit_nuisances(jax.random.key(3), log, split, CONFIG)
    found = []
    for estimator in ("direct", "dr"):
        scores = counterfactual_scores(log, estimated, estimator=estimator)
        rows = choice_outcomes(POLICY, PARAMS, log.x, scores.score, scores.cost, LAMBDAS)
        found.append(value_of_rows(*rows, LAMBDAS, log.row_weight)[:2])
    return tuple(jnp.stack(part) for part in zip(*found, strict=True))


@pytest.mark.slow
def test_the_spread_of_refitted_values_is_that_of_fresh_logs():
    n, logs, n_resamples = 800, 200, 40
    split = split_of(n)
    drawn = jax.vmap(lambda key: draw(key, n))(jax.random.split(jax.random.key(5), logs))
    of_log = partial(direct_and_doubly_robust, split=split)
    values, fixed = (np.asarray(part) for part in jax.jit(lambda logs: jax.lax.map(of_log, logs))(drawn))
    spread = values.std(axis=0, ddof=1)

    def resampled(log):
        run = partial(bootstrap_log, jax.random.key(4), n_resamples=n_resamples, at_once=20)
        return run(log, of_log)[0]

    some = jax.jit(lambda logs: jax.lax.map(resampled, logs))(take_rows(drawn, np.arange(10)))
    refitted = np.asarray(some).var(axis=1, ddof=1).mean(axis=0) ** 0.5
    # Spread of 200 logs is known to 5%, that of 10 logs' 40 resamples to 4% and as far as these logs are like others.
    # Resamples have fewer distinct rows than logs, so their fits are poorer and they vary some percent more.
    np.testing.assert_allclose(refitted / spread, 1.05, atol=0.2)
    # Nuisances kept as they are: right for doubly robust values, and for direct ones as if the model were the truth.
    fixed = np.sqrt((fixed**2).mean(axis=0))
    assert (fixed[0] < 0.6 * spread[0]).all()
    np.testing.assert_allclose(fixed[1] / spread[1], 1.0, atol=0.2)


def test_a_learner_is_refitted_on_every_resample_and_fold():
    n, n_resamples = 150, 3
    log = replace(draw(jax.random.key(0), n), propensity=jnp.full(n, 1 / T))
    outer, inner = (split_log([log], seeds=[seed], n_folds=K)[0] for seed in (0, 1))

    def fit(key, problem):
        """The mean score of each model, weighted as the learner was told to."""
        logged = jax.nn.one_hot(problem.log.model, T) * problem.log.weight[:, None]
        return (problem.log.score @ logged) / logged.sum(axis=0)

    policy = Policy(lambda params, x, lam: 5.0 * params - lam * jnp.arange(T), stochastic=True)
    once: Any = chex.assert_max_traces(fit, n=1)
    method = Method(once, policy)
    run = partial(refitted_learner_bootstrap, method=method, nuisances=CONFIG, n_resamples=n_resamples)
    key = jax.random.key(3)
    got = jax.jit(lambda *given: run(*given[:4], lambdas=given[4]))(key, log, outer, inner, LAMBDAS)
    keys = jax.random.split(jax.random.fold_in(key, 0x626F6F74), (n_resamples, 1)).reshape(-1)
    weight = poisson_counts(keys[1], (n,)).astype(jnp.float32)
    alone = cross_fitted_value(
        key, replace(log, row_weight=weight), policy, fit, LAMBDAS, nuisances=CONFIG, n_folds=K, seed=0
    )
    np.testing.assert_allclose(got.value[1], alone.value, rtol=1e-4, atol=1e-5)
    assert float(got.value.std(axis=0).min()) > 1e-2


@pytest.mark.parametrize("outcome", ["knn", "stacked"])
def test_nearest_neighbours_are_refused_with_the_reason(outcome):
    log, split = draw(jax.random.key(0), 40), split_of(40)
    config = NuisanceConfig(outcome=outcome)
    with pytest.raises(ValueError, match=rf"{outcome}.*neighbours.*Abadie & Imbens.*pooled"):
        refitted_bootstrap(jax.random.key(0), log, split, POLICY, PARAMS, LAMBDAS, nuisances=config)
    with pytest.raises(ValueError, match="neighbours"):
        fixed_policy_value(jax.random.key(0), log, split, POLICY, PARAMS, LAMBDAS, nuisances=config)
    method = Method(lambda key, problem: PARAMS, POLICY)
    with pytest.raises(ValueError, match="neighbours"):
        refitted_learner_bootstrap(jax.random.key(0), log, split, split, method, LAMBDAS, nuisances=config)


@pytest.mark.parametrize("name", ["rm_auto", "best_single", "rm_residual", "regress_and_compare_knn_ipw"])
def test_learners_that_jump_are_refused_with_what_to_do(name):
    log, split = draw(jax.random.key(0), 40), split_of(40)
    with pytest.raises(ValueError, match="best of several policies.*split the log.*cross_fitted_value"):
        refitted_learner_bootstrap(jax.random.key(0), log, split, split, METHODS[name](), LAMBDAS, nuisances=CONFIG)
