"""Bounds under hidden confounding: identities, a float64 reference, closed forms, and worlds whose Gamma is known."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import linprog

from jrouter.bounding_scores import corrected, doubly_valid, inverse_odds, pessimistic_scores, tilted_outcome
from jrouter.counterfactual import counterfactual_scores
from jrouter.estimators import doubly_robust
from jrouter.inference import standard_error
from jrouter.known_worlds import (
    draw_known_log,
    draw_known_queries,
    hidden_gamma,
    hidden_propensities,
    linear_rule,
    log_odds,
    make_known_world,
    mean_outcomes,
    true_value,
)
from jrouter.large_logs import prepare
from jrouter.methods import build_method, rm_classification, rm_interval, rm_softmax
from jrouter.methods.regret_training import RouterConfig, router_scores
from jrouter.methods.rm_classification import VARIANTS, RmClassificationConfig
from jrouter.methods.rm_interval import RmIntervalConfig
from jrouter.methods.rm_residual import RmResidualConfig
from jrouter.methods.rm_softmax import RmSoftmaxConfig
from jrouter.metrics import utility
from jrouter.policy import Problem
from jrouter.query_bounds import query_intervals, ratio_bounds
from jrouter.residual_tails import BINS, ROWS_PER_BIN, make_tails, prediction_bins
from jrouter.sensitivity import Bounds, critical_gamma, crossing, fixed_policy_bounds, sensitivity_bounds
from jrouter.splits import split_log
from jrouter.tuning import tuned_scores
from jrouter.types import Nuisances, take_rows

T, K = 3, 4
BINS_HERE = 3  # odd, so that no row is just between two bins
# Not such that a quantile falls between two rows, where rounding would choose one.
GAMMAS = jnp.array([1.0, math.sqrt(2), math.pi])


def draw(seed=0, n=600):
    """Rows of a log by NumPy: what `sensitivity_bounds` takes, in its order, of continuous outcomes."""
    rng = np.random.default_rng(seed)
    propensity = rng.dirichlet([2.0] * T, n)
    model = (rng.random(n)[:, None] > propensity.cumsum(axis=1)).sum(axis=1)
    outcome = rng.normal(size=(n, T))
    observed = outcome[np.arange(n), model] + rng.gumbel(size=n) * (1 + model)
    probability = rng.dirichlet([1.0] * T, n)
    fold = rng.integers(0, K, n)
    arrays = probability, observed, model, propensity[np.arange(n), model], outcome, fold
    return tuple(jnp.asarray(a, jnp.int32 if a.dtype.kind == "i" else jnp.float32) for a in arrays)


ROWS = draw()
ONES, APART = jnp.ones(600), jnp.arange(600)
MORE = {"row_weight": jnp.asarray(np.random.default_rng(1).integers(1, 4, 600), jnp.float32)}
MORE["group"] = jnp.asarray(np.random.default_rng(2).integers(0, 200, 600), jnp.int32)
compiled = jax.jit(partial(sensitivity_bounds, n_folds=K, n_bins=BINS_HERE))


def of_rows(*rows, row_weight=ONES, group=APART, scored=ONES):
    """Bounds of 600 rows, by one compiled program."""
    return compiled(*rows, row_weight=row_weight, group=group, scored=scored)


# One row


def test_at_gamma_one_scores_are_doubly_robust():
    rng = np.random.default_rng(0)
    for _ in range(20):
        outcome, propensity = jnp.asarray(rng.normal(size=T), jnp.float32), jnp.asarray(rng.dirichlet([1.0] * T))
        y, model, quantile = jnp.float32(rng.normal()), int(rng.integers(T)), jnp.float32(rng.normal())
        tilted = tilted_outcome(y, quantile, tilt=1.0)
        np.testing.assert_allclose(tilted, y, rtol=1e-6, atol=1e-6)
        got = doubly_valid(outcome, y, tilted, jnp.int32(model), inverse_odds(propensity[model]))
        np.testing.assert_allclose(got, doubly_robust(outcome, y, jnp.int32(model), propensity), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gamma", [1.3, 2.0, 6.0])
@pytest.mark.parametrize("mean", [0.05, 0.4, 0.5, 0.9])
def test_binary_outcomes_have_the_bounds_of_the_closed_form(mean, gamma):
    """E H with the right quantile, and that no other quantile gives a smaller upper bound."""
    closed = min(gamma * mean, 1 - (1 - mean) / gamma), max(mean / gamma, 1 - gamma * (1 - mean))

    def expected(quantile, tilt):
        zero, one = tilted_outcome(jnp.array([0.0, 1.0]), jnp.full(2, quantile), tilt=tilt)
        return (1 - mean) * float(zero) + mean * float(one)

    for bound, tilt, sign in zip(closed, (gamma, 1 / gamma), (1, -1), strict=True):
        right = float(1 - mean <= tilt / (1 + tilt))
        # 0 where the zeros alone are tau of the outcomes.
        quantile = 0.0 if 1 - mean >= tilt / (1 + tilt) else 1.0
        assert expected(quantile, tilt) == pytest.approx(bound, abs=1e-6), right
        for other in np.linspace(-0.5, 1.5, 9):
            assert sign * (expected(other, tilt) - bound) > -1e-6


def test_scores_have_the_bound_as_their_mean_if_propensity_or_tilted_mean_is_right():
    """Exact expectation over model and outcome: two models, 0/1 outcome of model 0."""
    p, mu, gamma = 0.3, 0.6, 2.0
    quantile, rho = 1.0, 1 - (1 - mu) / gamma
    bound = p * mu + (1 - p) * rho

    def mean(p_used, rho_used):
        total = 0.0
        for model, chance in ((0, p), (1, 1 - p)):
            for y, likely in ((1.0, mu), (0.0, 1 - mu)):
                tilted = tilted_outcome(jnp.float32(y), jnp.float32(quantile), tilt=gamma)
                odds = inverse_odds(jnp.float32(p_used if model == 0 else 1 - p_used))
                phi = doubly_valid(jnp.array([rho_used, 0.0]), jnp.float32(y), tilted, jnp.int32(model), odds)
                total += chance * likely * float(phi[0])
        return total

    assert mean(p, rho) == pytest.approx(bound, abs=1e-6)
    assert mean(p, 0.1) == pytest.approx(bound, abs=1e-6)
    assert mean(0.55, rho) == pytest.approx(bound, abs=1e-6)
    assert abs(mean(0.55, 0.1) - bound) > 0.05
    # No weight on the correction trusts rho alone.
    assert mean(1.0, rho) == pytest.approx(bound, abs=1e-6)


# Tails


def loop_tails(outcome, observed, model, fold, weight, tilt, n_bins):
    """Float64, row by row: quantile of the logged model, tilted mean's shift of every model."""
    outcome, observed, weight = (np.asarray(a, np.float64) for a in (outcome, observed, weight))
    model, fold = np.asarray(model), np.asarray(fold)
    n, n_models = outcome.shape
    bins = np.zeros((n, n_models), int)
    for t in range(n_models):
        own = (model == t) & (weight > 0)
        total = weight[own].sum()
        used = min(max(own.sum() // ROWS_PER_BIN, 1), n_bins)
        for i in range(n):
            below = weight[own & (outcome[:, t] < outcome[i, t])].sum()
            up_to = weight[own & (outcome[:, t] <= outcome[i, t])].sum()
            bins[i, t] = min(int((below + up_to) / 2 / total * used), used - 1)
    residual = observed - outcome[np.arange(n), model]
    tau = tilt / (1 + tilt)
    quantile, shift = np.zeros(n), np.zeros((n, n_models))
    for i in range(n):
        for t in range(n_models):
            others = (model == t) & (fold != fold[i]) & (weight > 0)
            here = others & (bins[np.arange(n), model] == bins[i, t])
            here = here if here.any() else others
            order = np.flatnonzero(here)[np.argsort(residual[here])]
            w, e = weight[order] / weight[order].sum(), residual[order]
            q = e[np.searchsorted(w.cumsum(), tau)]
            tilted = q + np.where(e > q, tilt, 1 / tilt) * (e - q)
            shift[i, t] = w @ (tilted - e)
            if t == model[i]:
                quantile[i] = q
    return quantile, shift


@jax.jit
def tails_of(*rows_and_tilt):
    return make_tails(*rows_and_tilt[:-1], n_folds=K, n_bins=BINS_HERE)(rows_and_tilt[-1])


@pytest.mark.parametrize("tilt", [math.pi, 1 / math.sqrt(3)])
def test_tails_are_those_of_a_loop(tilt):
    _, observed, model, _, outcome, fold = ROWS
    weight = MORE["row_weight"].at[::7].set(0.0)
    got = tails_of(outcome, observed, model, fold, weight, tilt)
    quantile, shift = loop_tails(outcome, observed, model, fold, weight, tilt, BINS_HERE)
    np.testing.assert_allclose(got.quantile, quantile, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.shift, shift, rtol=2e-4, atol=2e-5)
    assert np.unique(np.round(shift[:, 0], 6)).size == BINS_HERE * K


def test_a_weight_of_two_is_a_row_twice_and_no_weight_is_no_row():
    weight = np.random.default_rng(3).permutation(np.repeat([0, 1, 2], [60, 480, 60]))
    rows = np.repeat(np.arange(600), weight)
    whole = of_rows(*ROWS, GAMMAS, row_weight=jnp.asarray(weight, jnp.float32))
    repeated = of_rows(*take_rows(ROWS, rows), GAMMAS)
    # Errors differ: repeated rows are taken as independent.
    for name in ("low", "high"):
        for part in (0, 1):
            np.testing.assert_allclose(getattr(whole[part], name), getattr(repeated[part], name), rtol=2e-4, atol=2e-4)


def test_bins_hold_equal_shares_and_rows_without_any_fall_back_to_their_model():
    n = 8 * ROWS_PER_BIN
    rng = np.random.default_rng(0)
    outcome = jnp.asarray(rng.normal(size=(n, 2)), jnp.float32)
    model = jnp.asarray(np.arange(n) % 2, jnp.int32)
    bins_of = jax.jit(prediction_bins)
    bins = np.asarray(bins_of(outcome, model, jnp.ones(n)))
    assert bins.max() == 3 and (np.bincount(bins[::2, 0]) == n // 8).all()
    # Few rows, few bins; ties in one.
    few = bins_of(outcome, model, (jnp.arange(n) < ROWS_PER_BIN).astype(jnp.float32))
    assert (few == 0).all()
    tied = bins_of(jnp.zeros((n, 2)), model, jnp.ones(n))
    assert (tied == 2).all()
    # A prediction of one number a fold: bins hold one fold each, whose complement is empty.
    fold = jnp.asarray(rng.integers(0, 2, n), jnp.int32)
    constant = jnp.broadcast_to(fold[:, None].astype(jnp.float32), (n, 2))
    observed = jnp.asarray(rng.normal(size=n), jnp.float32)
    run = jax.jit(lambda model: make_tails(constant, observed, model, fold, jnp.ones(n), n_folds=2)(jnp.float32(2.0)))
    got = run(model)
    e = np.asarray(observed - constant[:, 0], float)[(np.arange(n) % 2 == 1) & (np.asarray(fold) == 1)]
    e.sort()
    q = e[math.ceil(2 / 3 * e.size) - 1]
    expected = (q + np.where(e > q, 2, 0.5) * (e - q) - e).mean()
    np.testing.assert_allclose(got.shift[np.asarray(fold) == 0, 1], expected, rtol=1e-4)
    # A model without rows elsewhere takes the tails of all.
    lone = run(jnp.zeros_like(model))
    np.testing.assert_allclose(lone.shift[:, 1], lone.shift[:, 0], rtol=1e-5)
    assert (lone.shift > 0).all() and BINS > 3


# Values


def test_at_gamma_one_both_bounds_are_the_doubly_robust_value():
    probability, observed, model, propensity, outcome, _ = ROWS
    got = of_rows(*ROWS, GAMMAS, **MORE)
    every = jnp.zeros_like(outcome).at[jnp.arange(600), model].set(propensity)
    rows = (probability * jax.vmap(doubly_robust)(outcome, observed, model, every)).sum(axis=1)
    for part, values in ((got.value, rows), (got.gain, rows - observed)):
        mean = np.average(values, weights=MORE["row_weight"])
        error = standard_error(values, MORE["row_weight"], group=MORE["group"])
        for name, expected in (("low", mean), ("high", mean), ("low_error", error), ("high_error", error)):
            np.testing.assert_allclose(getattr(part, name)[0], expected, rtol=1e-4, atol=1e-5)


def test_bounds_widen_with_gamma_and_turn_around_with_the_outcome():
    got = of_rows(*ROWS, GAMMAS)
    assert (np.diff(got.value.low) < -0.01).all() and (np.diff(got.value.high) > 0.01).all()
    probability, observed, model, propensity, outcome, fold = ROWS
    turned = of_rows(probability, -observed, model, propensity, -outcome, fold, GAMMAS)
    for ours, theirs in zip(got, turned, strict=True):
        np.testing.assert_allclose(ours.high, -theirs.low, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(ours.low_error, theirs.high_error, rtol=1e-3)


def test_bounds_of_a_log_are_those_of_a_loop():
    probability, observed, model, propensity, outcome, fold = (np.asarray(a, np.float64) for a in ROWS)
    model, n = model.astype(int), 600
    got = of_rows(*ROWS, GAMMAS)
    for number, gamma in enumerate(np.asarray(GAMMAS, np.float64)):
        for name, tilt in (("low", 1 / gamma), ("high", gamma)):
            quantile, shift = loop_tails(ROWS[4], ROWS[1], ROWS[2], ROWS[5], np.ones(n), tilt, BINS_HERE)
            rows = np.zeros(n)
            for i, t in enumerate(model):
                q = outcome[i, t] + quantile[i]
                tilted = q + (tilt if observed[i] > q else 1 / tilt) * (observed[i] - q)
                phi = outcome[i] + shift[i]
                phi[t] = observed[i] + (1 - propensity[i]) / propensity[i] * (tilted - phi[t])
                rows[i] = probability[i] @ phi
            assert getattr(got.value, name)[number] == pytest.approx(rows.mean(), abs=1e-3)
            assert getattr(got.gain, name)[number] == pytest.approx((rows - observed).mean(), abs=1e-3)
            error = (rows - observed).std() / n**0.5
            assert getattr(got.gain, f"{name}_error")[number] == pytest.approx(error, rel=1e-3)


def test_a_difference_of_two_policies_is_bounded_by_the_worst_of_both():
    first, *rest = ROWS
    second = jax.nn.one_hot(jnp.zeros(600, jnp.int32), T)
    got = of_rows(first - second, *rest, GAMMAS).value
    apart = of_rows(first, *rest, GAMMAS).value, of_rows(second, *rest, GAMMAS).value
    assert float(got.low[0]) == pytest.approx(float(apart[0].low[0] - apart[1].low[0]), abs=1e-4)
    # What both choose has no part in the difference, so it is better known than both apart.
    assert (got.low[1:] > apart[0].low[1:] - apart[1].high[1:] + 0.01).all()
    assert (got.high[1:] < apart[0].high[1:] - apart[1].low[1:] - 0.01).all()
    same = of_rows(second - second, *rest, GAMMAS).value
    np.testing.assert_allclose(jnp.stack(same), 0.0, atol=1e-6)


def test_answers_that_were_not_scored_are_stood_for_by_the_others():
    probability, observed, model, propensity, outcome, fold = draw(5)
    # Half of the answers are scored, more often where x[0] is large.
    chance = jax.nn.sigmoid(outcome[:, 0])
    scored = jax.random.bernoulli(jax.random.key(0), chance)
    factor = jnp.where(scored, 1.0 / chance, 0.0)
    hidden = jnp.where(scored, observed, 1e3)
    got = of_rows(probability, hidden, model, propensity, outcome, fold, GAMMAS, scored=factor)
    whole = of_rows(probability, observed, model, propensity, outcome, fold, GAMMAS)
    for part, reference in zip(got, whole, strict=True):
        for name in ("low", "high"):
            difference = np.abs(getattr(part, name) - getattr(reference, name))
            assert (difference < 4 * getattr(part, f"{name}_error")).all()
            assert (getattr(part, f"{name}_error") > getattr(reference, f"{name}_error")).all()
    np.testing.assert_allclose(corrected(jnp.zeros(2), jnp.array([9.0, 1.0]), jnp.array([0.0, 2.0])), [0.0, 2.0])


def test_one_program_serves_logs_and_lambdas_and_gradients_are_finite():
    bounds: Any = partial(sensitivity_bounds, gammas=GAMMAS, n_folds=K, n_bins=BINS_HERE)
    once: Any = chex.assert_max_traces(lambda *rows: bounds(*rows), n=1)
    run = jax.jit(jax.vmap(once))
    logs = [draw(seed) for seed in (7, 8)]
    both = run(*(jnp.stack(leaves) for leaves in zip(*logs, strict=True)))
    again = run(*(jnp.stack(leaves) for leaves in zip(*logs[::-1], strict=True)))
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[::-1], again), both)
    for place, rows in enumerate(logs):
        for ours, theirs in zip(jax.tree.leaves(both), jax.tree.leaves(of_rows(*rows, GAMMAS)), strict=True):
            np.testing.assert_allclose(ours[place], theirs, rtol=1e-3, atol=1e-4)

    def low(propensity, outcome, weight):
        probability, observed, model, _, _, fold = logs[0]
        found = sensitivity_bounds(
            probability, observed, model, propensity, outcome, fold, GAMMAS, n_folds=K, row_weight=weight
        )
        return found.value.low.sum() + found.gain.high_error.sum()

    propensity = logs[0][3].at[0].set(0.0).at[1].set(1.0)
    gradients = jax.jit(jax.grad(low, argnums=(0, 1, 2)))(propensity, logs[0][4], ONES.at[2].set(0.0))
    assert all(np.isfinite(part).all() for part in gradients)


def test_where_a_gain_vanishes():
    gammas = jnp.array([1.0, 2.0, 4.0])
    assert crossing(gammas, jnp.array([0.3, 0.1, -0.3])) == (2.5, False)
    assert crossing(gammas, jnp.array([-0.1, -0.2, -0.3])) == (1.0, False)
    assert crossing(gammas, jnp.array([0.0, 0.2, 0.3])) == (1.0, False)
    assert crossing(gammas, jnp.array([0.3, 0.2, 0.1])) == (4.0, True)
    gain = Bounds(jnp.array([0.3, 0.1, -0.3]), jnp.full(3, 0.1), jnp.ones(3), jnp.ones(3))
    found = critical_gamma(gammas, gain)
    assert float(found.point) == 2.5 and not found.point_beyond and not found.confident_beyond
    z = stats.norm.ppf(0.975)
    assert float(found.confident) == pytest.approx(1 + (0.3 - 0.1 * z) / 0.2, abs=1e-5)
    assert float(critical_gamma(gammas, gain, level=0.5).confident) > float(found.confident)
    np.testing.assert_allclose(gain.interval()[0], gain.low - 0.1 * z, rtol=1e-5)
    np.testing.assert_allclose(gain.interval()[1], 1 + z, rtol=1e-5)


# Worlds whose Gamma is known


def test_a_hidden_coin_changes_what_it_says_and_nothing_else():
    known = jax.jit(partial(make_known_world, jax.random.key(3), choice_bend=0.3))
    plain, world = known(hidden_choice=0.0, hidden_outcome=0.0), known(hidden_choice=0.6, hidden_outcome=0.8)
    n = 20_000

    @jax.jit
    def draw_all(world, key):
        log, propensity = draw_known_log(world, key, n)
        uncoined = jax.nn.softmax(jax.vmap(partial(log_odds, world))(log.x))
        means = jax.vmap(lambda x: mean_outcomes(world, x)[0])(log.x)
        given = jax.vmap(partial(hidden_propensities, world))(log.x)
        return log, propensity, uncoined, means, given, jax.vmap(partial(hidden_gamma, world))(log.x)

    none = replace(plain, hidden_choice=jnp.zeros(4), hidden_outcome=jnp.zeros(4))
    log, propensity, uncoined, *_, gamma = draw_all(none, jax.random.key(1))
    np.testing.assert_allclose(propensity, uncoined, rtol=1e-5)
    np.testing.assert_allclose(gamma, 1.0, atol=1e-4)
    # A coin that drives the choice alone, or the score alone, is another log with the same means.
    for part in ({"hidden_choice": world.hidden_choice}, {"hidden_outcome": world.hidden_outcome}):
        other, propensity, _, means, _, _ = draw_all(replace(none, **part), jax.random.key(1))
        difference = np.asarray(other.score) - np.asarray(means)[np.arange(n), np.asarray(other.model)]
        for t in range(4):
            of_model = difference[np.asarray(other.model) == t]
            assert abs(of_model.mean()) < 4 * 0.5 / of_model.size**0.5
    # With both: choices by the averaged propensities, and every model looks better than it is.
    log, propensity, uncoined, means, given, gamma = draw_all(world, jax.random.key(2))
    chosen = np.eye(4)[np.asarray(log.model)]
    np.testing.assert_allclose((chosen - propensity).mean(axis=0), 0.0, atol=4 * 0.5 / n**0.5)
    assert np.abs(np.asarray(propensity - uncoined)).max() > 0.01
    for t in range(4):
        of_model = np.asarray(log.model) == t
        assert np.asarray(log.score)[of_model].mean() > np.asarray(means)[of_model, t].mean() + 0.1
    given = np.asarray(given, np.float64)
    odds, average = given / (1 - given), given.mean(axis=1) / (1 - given.mean(axis=1))
    expected = np.maximum(odds / average[:, None], average[:, None] / odds).max(axis=(1, 2))
    np.testing.assert_allclose(gamma, expected, rtol=1e-3)


@pytest.fixture(scope="module")
def confounded():
    """Bounds of 40 logs of one world by true propensities and means given x, at the world's Gamma and others."""
    world = make_known_world(jax.random.key(0), hidden_choice=0.3, hidden_outcome=0.9)
    policy, params = linear_rule(world)
    lam = jnp.array([50.0])

    @jax.jit
    def known(key):
        largest = jax.vmap(partial(hidden_gamma, world))(draw_known_queries(world, key, 2**14)).max()
        score, cost = true_value(world, policy, params, lam, key, n=2**17)
        return utility(score, cost, lam)[0], jnp.stack([jnp.float32(1.0), largest, 2 * largest])

    value, gammas = known(jax.random.key(5))
    truth = float(value)

    def of_log(key):
        log, propensity = draw_known_log(world, key, 2000)
        means, costs = jax.vmap(partial(mean_outcomes, world))(log.x)
        # What the log shows of a model given x: the coin is better where the model is chosen.
        given = jax.vmap(partial(hidden_propensities, world))(log.x)
        tilt = (given[:, 1] - given[:, 0]) / given.sum(axis=1)
        shown = means + tilt * world.hidden_outcome * jnp.minimum(means, 1 - means)
        chosen = jnp.take_along_axis(propensity, log.model[:, None], axis=1)[:, 0]
        nuisances = Nuisances(chosen, shown, costs, jnp.arange(2000) % 5)
        return fixed_policy_bounds(log, nuisances, policy, params, lam, gammas, n_folds=5)

    keys = jax.random.split(jax.random.key(7), 40)
    return truth, jax.jit(lambda keys: jax.lax.map(of_log, keys))(keys)


def test_bounds_at_the_true_gamma_hold_and_the_point_estimate_misses(confounded):
    truth, found = confounded
    low, high = (np.asarray(part)[:, 0] for part in (found.value.low, found.value.high))
    ends = [np.asarray(part)[:, 0] for part in found.value.interval()]
    covered = ((ends[0] <= truth) & (truth <= ends[1])).mean(axis=0)
    assert covered[0] < 0.2 and covered[1] == 1.0 and covered[2] == 1.0
    # The point is wrong by far more than its error, on average over logs.
    assert low[:, 0].mean() - truth > 0.05
    # Not because bounds say nothing: at the true Gamma the truth is in the lower half, near the end.
    assert (high - low)[:, 1].mean() < 0.45 and low[:, 1].mean() < truth < (low + high)[:, 1].mean() / 2


def test_standard_errors_are_the_spread_of_logs(confounded):
    _, found = confounded
    for part in found:
        for name in ("low", "high"):
            values, errors = np.asarray(getattr(part, name))[:, 0], np.asarray(getattr(part, f"{name}_error"))[:, 0]
            # The spread of 40 logs is known to 11%.
            np.testing.assert_allclose(values.std(axis=0, ddof=1) / errors.mean(axis=0), 1.0, atol=0.4)


# Scores to train on


WORLD = jax.jit(lambda: make_known_world(jax.random.key(0), hidden_choice=0.3, hidden_outcome=0.5))()


@jax.jit
def known_nuisances(key):
    """A log of 600 rows, and its true propensities and means."""
    log, propensity = draw_known_log(WORLD, key, 600)
    score, cost = jax.vmap(partial(mean_outcomes, WORLD))(log.x)
    chosen = jnp.take_along_axis(propensity, log.model[:, None], axis=1)[:, 0]
    return log, Nuisances(chosen, score, cost, jnp.arange(600) % 5)


GAMMA = math.e - 0.5
LOG, NUISANCES = known_nuisances(jax.random.key(1))
pessimistic = jax.jit(partial(pessimistic_scores, n_folds=5))


def test_pessimistic_scores_bound_utility_at_every_lambda():
    gamma = GAMMA
    scores, one = pessimistic(LOG, NUISANCES, gamma=gamma), pessimistic(LOG, NUISANCES, gamma=1.0)
    plain = counterfactual_scores(LOG, NUISANCES)
    np.testing.assert_allclose(one.score, plain.score, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one.cost, plain.cost, rtol=1e-4, atol=1e-6)
    assert (scores.score.mean(axis=0) < plain.score.mean(axis=0) - 0.05).all()
    assert (scores.cost.mean(axis=0) > 1.02 * plain.cost.mean(axis=0)).all()

    @jax.jit
    def sharp(lam, always):
        observed, outcome = utility(LOG.score, LOG.cost, lam), utility(NUISANCES.score, NUISANCES.cost, lam)
        rows = always, observed, LOG.model, NUISANCES.propensity, outcome, NUISANCES.fold
        return sensitivity_bounds(*rows, jnp.array([gamma]), n_folds=5).value.low[0]

    for lam in (0.0, 50.0, 400.0):
        for t in range(4):
            ours = float(utility(scores.score, scores.cost, lam)[:, t].mean())
            best = float(sharp(lam, jax.nn.one_hot(jnp.full(600, t), 4)))
            # The same at lambda 0; for others the worst of two hidden variables is worse than the worst of one.
            assert ours == pytest.approx(best, abs=1e-4) if lam == 0 else ours < best + 0.005


def test_weights_of_the_corrections_are_those_of_the_estimator():
    few = take_rows((LOG, NUISANCES), jnp.arange(60))

    @jax.jit
    def run(strength):
        names = ("direct", "dros", "switch", "dr")
        more = {"gamma": GAMMA, "n_folds": 5, "strength": strength}
        return {name: pessimistic_scores(*few, estimator=name, **more).score for name in names}

    spread = {name: float(score.std()) for name, score in run(4.0).items()}
    assert spread["direct"] < spread["dros"] < spread["switch"] < spread["dr"]
    large, none = run(1e9), run(0.0)
    for name in ("dros", "switch"):
        np.testing.assert_allclose(large[name], large["dr"], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(none[name], none["direct"], atol=1e-6)
    with pytest.raises(ValueError, match="'snips' has no bounds: expected one of direct, dr, switch, dros"):
        pessimistic_scores(LOG, NUISANCES, gamma=GAMMA, n_folds=5, estimator="snips")


def test_unscored_answers_move_no_bound():
    scored = jnp.arange(600) % 3 > 0
    log = replace(LOG, scored=scored)
    changed = replace(log, score=jnp.where(scored, log.score, 77.0))
    ours, theirs = (pessimistic(log, NUISANCES, gamma=GAMMA).score for log in (log, changed))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(ours - pessimistic(LOG, NUISANCES, gamma=GAMMA).score)).max() > 0.1


def problem():
    return Problem(LOG, split_log([LOG], seeds=[0])[0], NUISANCES, jnp.array([0.0, 50.0]))


def test_routers_are_trained_on_bounds_only_where_gamma_is_above_one():
    off, on = RmSoftmaxConfig(), RmSoftmaxConfig(gamma=math.pi)
    plain = tuned_scores(LOG, NUISANCES, estimator=off.estimator, strength=off.strength)
    chex.assert_trees_all_equal(router_scores(problem(), off), plain)
    asked = problem()
    wary, expected = jax.jit(
        lambda log, nuisances: (
            router_scores(replace(asked, log=log, nuisances=nuisances), on),
            pessimistic_scores(log, nuisances, gamma=math.pi, n_folds=5, estimator=on.estimator, strength=10.0),
        )
    )(LOG, NUISANCES)
    assert (wary.score.mean(axis=0) < plain.score.mean(axis=0) - 0.05).all()
    chex.assert_trees_all_close(wary, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["rm_softmax", "rm_interval", *VARIANTS])
def test_methods_ask_for_the_scores_of_their_gamma(name, monkeypatch):
    class Asked(Exception):
        pass

    def asked(problem, config):
        raise Asked(config.gamma)

    method = build_method(name, {"gamma": 2.5})
    for module in (rm_softmax, rm_classification, rm_interval):
        monkeypatch.setattr(module, "router_scores", asked)
    with pytest.raises(Asked, match="2.5"):
        method.fit(jax.random.key(0), problem())


@pytest.mark.parametrize("config", [RouterConfig, RmSoftmaxConfig, RmClassificationConfig, RmIntervalConfig])
def test_gammas_that_mean_nothing_are_refused(config):
    for gamma in (0.9, math.inf, math.nan):
        with pytest.raises(ValueError, match="gamma: expected a finite number of at least 1"):
            config(gamma=gamma)
    with pytest.raises(ValueError, match="'balancing' has no bounds for gamma 2"):
        config(gamma=2.0, estimator="balancing")
    assert config(estimator="balancing").gamma == 1.0


def test_what_cannot_be_trained_on_bounds_says_so():
    with pytest.raises(ValueError, match="gamma: rm_residual is not trained on bounds; use rm_softmax"):
        RmResidualConfig(gamma=2.0)
    nothing: Any = None
    with pytest.raises(ValueError, match="gamma 2: bounds need all rows"):
        prepare(nothing, RmSoftmaxConfig(gamma=2.0))


# One query


def test_ratio_bounds_are_the_optimum_of_the_linear_programme():
    rng = np.random.default_rng(0)
    for m in (1, 2, 7, 12):
        outcome, low = rng.normal(size=m), rng.uniform(0.2, 2, m)
        high, weight = low + rng.exponential(1.0, m), rng.uniform(0, 1, m) * (rng.random(m) > 0.2)
        weight[0] = 0.5
        # Charnes and Cooper: w = s * u with sum v w = 1 and s low <= w <= s high.
        bounds = np.block([[np.eye(m), -high[:, None]], [-np.eye(m), low[:, None]]])
        sides = []
        for sign in (1, -1):
            objective = np.append(sign * weight * outcome, 0.0)
            equal = np.append(weight, 0.0)[None]
            sides.append(sign * linprog(objective, bounds, np.zeros(2 * m), equal, [1.0]).fun)
        got = jax.jit(ratio_bounds)(*(jnp.asarray(a, jnp.float32) for a in (outcome, low, high, weight)))
        np.testing.assert_allclose(got, sides, rtol=1e-5, atol=1e-5)


def test_ratio_bounds_where_nothing_is_known_and_far_from_zero():
    ones = jnp.ones(3)
    assert ratio_bounds(ones, ones, ones, jnp.zeros(3)) == (-jnp.inf, jnp.inf)
    outcome = jnp.array([1000.0, 1001.0, 1002.0])
    low, high = ratio_bounds(outcome, ones, ones, ones)
    np.testing.assert_allclose([low, high], 1001.0, rtol=1e-7)
    # All outcomes below 0 or above: an empty side of a threshold is no mean of 0.
    assert ratio_bounds(-outcome, ones, 3 * ones, ones)[1] < -1000 and ratio_bounds(outcome, ones, ones, ones)[0] > 1000


def test_query_bounds_are_those_of_the_nearest_rows():
    rng = np.random.default_rng(0)
    n, most = 90, 5
    x, queries = rng.normal(size=(n, 2)), rng.normal(size=(7, 2))
    observed, model, p = rng.normal(size=n), rng.integers(0, 2, n), rng.uniform(0.1, 0.9, n)
    weight = rng.integers(0, 3, n).astype(float)
    args = tuple(jnp.asarray(a, jnp.float32) for a in (queries, x, observed))
    more = {"n_models": 3, "neighbours": most, "row_weight": jnp.asarray(weight, jnp.float32)}
    run = jax.jit(partial(query_intervals, **more, chunk=3))
    low, high = run(*args, jnp.asarray(model, jnp.int32), jnp.asarray(p, jnp.float32), GAMMAS)
    assert low.shape == high.shape == (7, 3, 3)
    for i, query in enumerate(queries):
        for t in (0, 1):
            own = np.flatnonzero((model == t) & (weight > 0))
            square = ((x[own] - query) ** 2).sum(axis=1)
            order = np.argsort(square)
            near, width = own[order[:most]], square[order[most]]
            kernel = (1 - square[order[:most]] / width) * weight[near]
            for g, gamma in enumerate(np.asarray(GAMMAS)):
                ends = [1 + (1 / p[near] - 1) / gamma, 1 + (1 / p[near] - 1) * gamma]
                rows = (jnp.asarray(a, jnp.float32) for a in (observed[near], *ends, kernel))
                np.testing.assert_allclose((low[i, g, t], high[i, g, t]), ratio_bounds(*rows), rtol=1e-3, atol=1e-3)
    # Gamma 1 is the weighted mean; wider with Gamma; nothing is known of a model without rows.
    np.testing.assert_allclose(low[:, 0, :2], high[:, 0, :2], atol=1e-5)
    assert (np.diff(low[..., :2], axis=1) <= 1e-6).all() and (np.diff(high[..., :2], axis=1) >= -1e-6).all()
    assert (low[..., 2] == -np.inf).all() and (high[..., 2] == np.inf).all()
    with pytest.raises(ValueError, match="neighbours: expected at least 1, got 0"):
        nothing = jnp.zeros((0, 2)), jnp.zeros(0), jnp.zeros(0, jnp.int32), jnp.zeros(0), GAMMAS
        query_intervals(nothing[0], *nothing, n_models=2, neighbours=0)


def test_query_bounds_hold_the_mean_given_the_query_under_a_hidden_coin():
    world = make_known_world(jax.random.key(0), hidden_choice=0.3, hidden_outcome=0.9)

    @jax.jit
    def run(key_log, key_queries):
        log, propensity = draw_known_log(world, key_log, 6000)
        chosen = jnp.take_along_axis(propensity, log.model[:, None], axis=1)[:, 0]
        # In the middle, where there are neighbours on all sides.
        queries = draw_known_queries(world, key_queries, 40) / 2
        gammas = jnp.stack([jnp.float32(1.0), jax.vmap(partial(hidden_gamma, world))(log.x).max()])
        bounds = query_intervals(queries, log.x, log.score, log.model, chosen, gammas, n_models=4, neighbours=150)
        return *bounds, jax.vmap(lambda x: mean_outcomes(world, x)[0])(queries)

    low, high, truth = (np.asarray(part) for part in run(jax.random.key(1), jax.random.key(2)))
    # Two errors of a weighted mean of 0/1 outcomes, of which half count in full.
    error = 2 * 0.5 / (0.5 * 150) ** 0.5
    held = ((low - error <= truth[:, None]) & (truth[:, None] <= high + error)).mean(axis=(0, 2))
    assert held[0] < 0.7 and held[1] > 0.97
    assert np.isfinite(low).all() and (high - low)[:, 1].mean() < 0.6


def test_a_log_is_what_the_bounds_take():
    """`fixed_policy_bounds` is `sensitivity_bounds` of utilities, lambda by lambda, with the log's weights."""
    weight, lambdas = jnp.where(jnp.arange(600) % 4 == 0, 2.0, 1.0), jnp.array([0.0, 50.0])
    log = replace(LOG, row_weight=weight, group=jnp.arange(600) // 2)
    policy, params = linear_rule(WORLD)

    @jax.jit
    def both(log, nuisances):
        lam = lambdas[1]
        probability = jax.vmap(lambda x: policy.probabilities(params, x, lam))(log.x)
        observed, outcome = utility(log.score, log.cost, lam), utility(nuisances.score, nuisances.cost, lam)
        rows = probability, observed, log.model, nuisances.propensity, outcome, nuisances.fold
        alone = sensitivity_bounds(*rows, GAMMAS, n_folds=5, row_weight=log.row_weight, group=log.group)
        return fixed_policy_bounds(log, nuisances, policy, params, lambdas, GAMMAS, n_folds=5), alone

    got, alone = both(log, NUISANCES)
    assert got.value.low.shape == (2, 3)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours[1], theirs, rtol=1e-3, atol=1e-5)
