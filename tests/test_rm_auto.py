"""rm_residual and rm_auto: where they start, what makes them leave it, and what they may look at."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.methods import METHODS
from jrouter.methods.plug_in import plug_in_policy
from jrouter.methods.rm_auto import RmAutoConfig, choose, observed_utility, rm_auto
from jrouter.methods.rm_residual import RmResidualConfig, mean_margin, rm_residual, training_set
from jrouter.nuisances import ridge
from jrouter.nuisances.crossfit import OUTCOME_MODELS
from jrouter.nuisances.crossfit_outcome import fit_outcome
from jrouter.policy import Problem
from jrouter.splits import split_log
from jrouter.types import LoggedData, Nuisances

D, T = 4, 3
LAMBDAS = jnp.array([0.0, 100.0])
RESIDUAL = RmResidualConfig(hidden=(8,), epochs=2, batch_size=64, outcome="pooled")
AUTO = RmAutoConfig(candidates=("logging_policy", "best_single", "pooled", "rm_residual"), residual=RESIDUAL)


@pytest.fixture(autouse=True, scope="module")
def one_strength():
    """With one strength to choose from, nothing at all is taken from all rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OUTCOME_MODELS, "pooled", lambda: ridge.pooled(((3.0, 3.0),)))
        yield


def problem(*, signal: float, n: int = 400, seed: int = 0) -> Problem:
    """Uniform logs of three models at three prices; with signal, each has queries of its own."""
    rng = np.random.default_rng(seed)
    x, model = rng.normal(size=(n, D)), rng.integers(0, T, n)
    mean = np.clip([0.4, 0.5, 0.6] + signal * x[:, :T], 0.02, 0.98)
    score = (rng.random(n) < mean[np.arange(n), model]).astype(np.float32)
    cost = np.array([1e-4, 5e-4, 2e-3])[model] * np.exp(0.1 * rng.normal(size=n))
    x, score, cost = (jnp.asarray(part, jnp.float32) for part in (x, score, cost))
    log = LoggedData(x, jnp.asarray(model, jnp.int32), score, cost, models=("small", "middle", "large"))
    split = split_log([log], seeds=[0], n_folds=3)[0]
    means = jnp.full((n, T), 0.5), jnp.full((n, T), 1e-3)
    return Problem(log, split, Nuisances(jnp.full(n, 1 / T), *means, split.fold), LAMBDAS)


@cache
def auto_program():
    return jax.jit(rm_auto(AUTO).fit)


def test_the_first_stays_unless_another_is_better_by_more_than_the_support():
    rng = np.random.default_rng(0)
    first = rng.normal(size=100)
    better, noisy = first + 0.5 + 0.1 * rng.normal(size=100), first + 0.5 + 10 * rng.normal(size=100)

    def chosen(*rows, support=1.0):
        return int(choose(jnp.asarray(rows, jnp.float32), jnp.ones(100), None, support=support)["chosen"])

    assert chosen(first, better) == 1
    assert chosen(better, first) == 0  # a wrong sign would take it
    assert chosen(first, first) == 0  # no gain, no error
    assert chosen(first, noisy, support=3.0) == 0
    assert chosen(first, better, noisy, support=3.0) == 1


def test_evidence_is_the_paired_mean_and_its_error_and_says_against_whom():
    rng = np.random.default_rng(1)
    rows, weight = rng.normal(size=(3, 50)) + [[0.0], [5.0], [1.0]], rng.random(50)
    found = choose(jnp.asarray(rows, jnp.float32), jnp.asarray(weight, jnp.float32), None, support=1.0)
    np.testing.assert_array_equal(found["incumbent"], [0, 0, 1])
    difference = rows[2] - rows[1]
    mean = weight @ difference / weight.sum()
    np.testing.assert_allclose(found["gain"][2], mean, rtol=1e-4)
    error = np.sqrt(((weight * (difference - mean)) ** 2).sum()) / weight.sum()
    np.testing.assert_allclose(found["gain_error"][2], error, rtol=1e-4)
    np.testing.assert_allclose(found["value"], rows @ weight / weight.sum(), rtol=1e-3, atol=1e-4)


def test_grouped_rows_count_as_one():
    rows = jnp.array([[0.0] * 8, [1.0, 1.0, 1.0, 1.0, -0.5, -0.5, -0.5, -0.5]])
    group = jnp.repeat(jnp.arange(2), 4)
    alone = choose(rows, jnp.ones(8), None, support=0.8)
    together = choose(rows, jnp.ones(8), group, support=0.8)
    assert int(alone["chosen"]) == 1 and int(together["chosen"]) == 0


@cache
def set_program():
    def made(key, problem, strength):
        family = OUTCOME_MODELS["pooled"]()
        plug_in = fit_outcome(key, family, problem.log, problem.split)
        return training_set(key, problem, plug_in, jnp.int32(1), RESIDUAL, strength=strength)

    return jax.jit(made)


def test_what_a_network_learns_from_has_not_seen_its_fold():
    whole = problem(signal=0.2)
    gone, log = whole.split.fold == 1, whole.log
    other = replace(log, score=jnp.where(gone, 1 - log.score, log.score), cost=log.cost * (1 + 9.0 * gone))
    key, strength = jax.random.key(0), jnp.float32(0.1)
    clean, dirty = (set_program()(key, replace(whole, log=rows), strength) for rows in (log, other))
    np.testing.assert_array_equal(np.asarray(clean.weight) == 0, gone)
    seen = ~np.asarray(gone)
    for name in ("start", "scores"):
        for ours, theirs in zip(
            jax.tree.leaves(getattr(clean, name)), jax.tree.leaves(getattr(dirty, name)), strict=True
        ):
            np.testing.assert_allclose(ours[seen], theirs[seen], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(clean.unit, dirty.unit, rtol=1e-4)
    np.testing.assert_allclose(clean.step, dirty.step, rtol=1e-4)


def test_a_residual_that_never_leaves_is_the_plug_in_rule():
    whole = problem(signal=0.2)
    stays = rm_residual(replace(RESIDUAL, support=float("inf")))
    params = jax.jit(stays.fit)(jax.random.key(0), whole)
    assert int(params["epoch"]) == 0
    rule = plug_in_policy(OUTCOME_MODELS["pooled"]().predict)
    for x in whole.log.x[:5]:
        for lam in (0.0, 100.0, 1000.0):
            ours, theirs = stays.policy.apply(params, x, lam), rule.apply(params["plug_in"], x, lam)
            np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_corrected_utilities_are_affine_in_lambda():
    for plug_in in (True, False):
        method = rm_residual(replace(RESIDUAL, plug_in=plug_in))
        params = jax.jit(method.fit)(jax.random.key(0), problem(signal=0.2))
        x = problem(signal=0.2).log.x[0]
        low, middle, high = (method.policy.apply(params, x, lam) for lam in (0.0, 50.0, 100.0))
        np.testing.assert_allclose(middle, 0.5 * (low + high), rtol=1e-4, atol=1e-6)
        assert np.abs(np.asarray(high - low)).max() > 1e-5  # lambda matters


def test_margins_are_between_the_best_two():
    score = jnp.array([[0.9, 0.5, 0.8], [0.2, 0.2, 0.1]])
    nuisances = Nuisances(jnp.ones(2), score, jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32))
    np.testing.assert_allclose(mean_margin(nuisances, jnp.float32(0.0), jnp.ones(2)), 0.05, rtol=1e-4)
    np.testing.assert_allclose(mean_margin(nuisances, jnp.float32(0.0), jnp.array([1.0, 0.0])), 0.1, rtol=1e-4)


def test_it_learns_where_there_is_something_to_learn_and_keeps_one_model_where_not():
    chosen = {}
    for signal in (0.0, 0.3):
        params = auto_program()(jax.random.key(0), problem(signal=signal, n=1500))
        chosen[signal] = AUTO.candidates[int(params["evidence"]["chosen"])]
    assert chosen[0.0] == "best_single" and chosen[0.3] in ("pooled", "rm_residual")


def test_a_settled_router_decides_as_the_whole_one_and_says_why():
    method = rm_auto(AUTO)
    params = auto_program()(jax.random.key(0), problem(signal=0.3, n=1500))
    settled = method.settle(params)
    assert set(settled) == {AUTO.candidates[int(params["evidence"]["chosen"])], "evidence"}
    x = jax.random.normal(jax.random.key(1), (50, D))
    for lam in (0.0, 100.0):
        whole, small = (
            jax.vmap(lambda one, p=p, lam=lam: method.policy.probabilities(p, one, lam))(x) for p in (params, settled)
        )
        np.testing.assert_allclose(whole, small, atol=1e-6)
    assert method.explain is not None
    text = method.explain(settled)
    assert all(name in text for name in AUTO.candidates) and "chosen: " in text


def test_a_kept_logging_policy_draws():
    only = replace(AUTO, candidates=("logging_policy",))
    method = rm_auto(only)
    params = jax.jit(method.fit)(jax.random.key(0), problem(signal=0.2))
    chosen = method.policy.probabilities(method.settle(params), jnp.zeros(D), 0.0)
    np.testing.assert_allclose(chosen, 1 / T, atol=0.15)  # uniform, as the log; a decision would be one-hot
    found = params["evidence"]
    log = problem(signal=0.2).log
    np.testing.assert_allclose(found["value"][0], (log.score - LAMBDAS.mean() * log.cost).mean(), rtol=1e-4)


def test_without_shrinkage_the_evaluator_is_doubly_robust():
    whole = problem(signal=0.2)
    plain = replace(AUTO, candidates=("logging_policy", "pooled"), strength_per_row=float("inf"))
    huge = replace(plain, strength_per_row=1e9)
    first, second = (jax.jit(rm_auto(c).fit)(jax.random.key(0), whole) for c in (plain, huge))
    np.testing.assert_allclose(first["evidence"]["value"], second["evidence"]["value"], rtol=1e-4)
    shrunken = jax.jit(rm_auto(replace(plain, strength_per_row=1e-4)).fit)
    small = shrunken(jax.random.key(0), whole)["evidence"]
    assert small["error"][1] < 0.5 * first["evidence"]["error"][1]  # what shrinkage is for


def test_observed_utility_counts_unscored_answers_by_their_prediction():
    whole = problem(signal=0.0)
    scored = jnp.arange(whole.log.model.shape[0]) % 2 == 0
    log = replace(whole.log, scored=scored, score=jnp.where(scored, whole.log.score, 0.0))
    rows = observed_utility(log, whole.nuisances, jnp.zeros(1))
    np.testing.assert_allclose(rows[~scored], 0.5)
    expected = np.asarray(whole.log.score)[np.asarray(scored)].mean()
    np.testing.assert_allclose(rows.mean(), expected, atol=0.05)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="unknown candidate 'magic': expected some of logging_policy, best_single"):
        RmAutoConfig(candidates=("best_single", "magic"))
    with pytest.raises(ValueError, match="no candidates"):
        RmAutoConfig(candidates=())
    whole = problem(signal=0.0)
    with pytest.raises(ValueError, match="two folds or more"):
        rm_auto(AUTO).fit(jax.random.key(0), replace(whole, split=split_log([whole.log], seeds=[0], n_folds=1)[0]))
    with pytest.raises(ValueError, match="3 folds or more, got 2"):
        # Traced alone: outside a program, the plug-in would be fitted operation by operation first.
        jax.eval_shape(
            rm_residual(RESIDUAL).fit,
            jax.random.key(0),
            replace(whole, split=split_log([whole.log], seeds=[0], n_folds=2)[0]),
        )
    assert METHODS["rm_auto"]().config.candidates[:2] == ("logging_policy", "best_single")
