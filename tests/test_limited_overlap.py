"""Policies that the log can judge in part only: other estimands by their truths, bounds by what they hold."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from jrouter.bounds import imbens_manski_critical, utility_range, value_bounds
from jrouter.estimators import doubly_robust, overlap_tilt
from jrouter.inference import standard_error
from jrouter.known_worlds import draw_known_log, draw_known_queries, linear_rule, log_odds, make_known_world
from jrouter.known_worlds import mean_outcomes as true_means
from jrouter.limited_overlap import (
    limited_overlap_value,
    overlap_weighted_value,
    supported,
    supported_terms,
    supported_value,
)
from jrouter.types import Nuisances

N, T, LAM, THRESHOLD = 800, 4, 150.0, 0.05
LOGS = 600
COST_RANGE = (0.0, 0.01)
"""Log-normal costs of 1.6e-3 times 1.2 at the most: e^(8 sigma) leads out of it."""


WORLD = jax.jit(lambda: make_known_world(jax.random.key(0), spread=2.5))()
"""Near-deterministic logging: many of the policy's choices have a propensity below the threshold."""


def policy_of(x):
    """[T], the policy's choice for one query."""
    policy, params = linear_rule(WORLD)
    return policy.probabilities(params, x, LAM)


def drawn_log(key, n=N):
    """A log, its true propensities beside an outcome model that is wrong, and the policy's choices."""
    log, propensity = draw_known_log(WORLD, key, n)
    score, cost = jax.vmap(partial(true_means, WORLD))(log.x)
    chosen = jnp.take_along_axis(propensity, log.model[:, None], axis=1)[:, 0]
    wrong = Nuisances(chosen, 0.2 + 0.3 * score, 0.5 * cost, jnp.zeros_like(log.model), propensity)
    return log, wrong, jax.vmap(policy_of)(log.x)


@cache
def truths():
    """(value over all queries, of supported choices, over the overlap population, share, low, high)."""

    def of_query(x):
        score, cost = true_means(WORLD, x)
        value, probability = score - LAM * cost, policy_of(x)
        propensity = jax.nn.softmax(log_odds(WORLD, x))
        mass = supported(probability, propensity, threshold=THRESHOLD)
        tilt = overlap_tilt(propensity)
        whole = probability @ value
        return jnp.stack([whole, mass @ value, mass.sum(), tilt * whole, tilt])

    def of_chunk(key):
        return jax.vmap(of_query)(draw_known_queries(WORLD, key, 2**14)).mean(axis=0)

    keys = jax.random.split(jax.random.key(1), 64)
    means = np.asarray(jax.jit(lambda: jax.lax.map(of_chunk, keys))(), np.float64).mean(axis=0)
    whole, part, mass, tilted, tilt = means
    lowest, highest = utility_range(LAM, score_range=(0.0, 1.0), cost_range=COST_RANGE)
    return whole, part / mass, tilted / tilt, mass, part + (1 - mass) * lowest, part + (1 - mass) * highest


@cache
def simulated(logged_only=False):
    """`limited_overlap_value` of many logs."""

    @jax.jit
    @jax.vmap
    def of_log(key):
        log, nuisances, probability = drawn_log(key)
        if logged_only:
            nuisances = replace(nuisances, all_propensity=None)
        return limited_overlap_value(log, nuisances, probability, LAM, threshold=THRESHOLD, cost_range=COST_RANGE)

    return jax.tree.map(np.asarray, of_log(jax.random.split(jax.random.key(2), LOGS)))


def within(estimates, truth):
    """Whether the mean of estimates is the truth, by its Monte Carlo error."""
    return abs(estimates.mean() - truth) < 4 * estimates.std() / np.sqrt(estimates.size)


def covered(value, truth):
    return (np.abs(value.value - truth) < 1.96 * value.error).mean()


TOLERANCE = 4 * np.sqrt(0.95 * 0.05 / LOGS)


def test_the_world_is_one_of_limited_overlap_where_the_estimands_differ():
    whole, part, tilted, share, low, high = truths()
    assert 0.6 < share < 0.9 and low < whole < high
    assert abs(tilted - whole) > 0.01 and abs(tilted - part) > 0.01


def test_supported_choices_are_valued_right_with_their_errors():
    _, truth, _, share, _, _ = truths()
    for logged_only in (False, True):
        found = simulated(logged_only).supported
        assert within(found.value, truth) or np.abs(found.value.mean() - truth) < 0.1 * found.error.mean()
        assert within(found.share, share)
        assert abs(covered(found, truth) - 0.95) < TOLERANCE + 0.01  # a normal interval of a skewed ratio
        np.testing.assert_allclose(found.error.mean(), found.value.std(), rtol=0.15)
        np.testing.assert_allclose(found.share_error.mean(), found.share.std(), rtol=0.15)
    # What is supported is known with every model's propensity, and estimated with the logged one's.
    assert simulated(False).supported.share.std() < 0.5 * simulated(True).supported.share.std()


def test_the_overlap_population_is_valued_right_with_its_error():
    truth = truths()[2]
    found = simulated().overlap
    assert within(found.value, truth) or np.abs(found.value.mean() - truth) < 0.1 * found.error.mean()
    assert abs(covered(found, truth) - 0.95) < TOLERANCE + 0.01
    assert (0 < found.share).all() and (found.share < 1).all()


def test_bounds_are_right_and_hold_the_value_over_all_queries_where_doubly_robust_ones_do_not():
    whole, _, _, share, low, high = truths()
    for logged_only in (False, True):
        bounds = simulated(logged_only).bounds
        assert within(bounds.low, low) and within(bounds.high, high) and within(bounds.unsupported, 1 - share)
        np.testing.assert_allclose(bounds.low_error.mean(), bounds.low.std(), rtol=0.15)
        inside = (bounds.interval_low < whole) & (whole < bounds.interval_high)
        assert inside.mean() > 0.99  # the truth is inside the identified interval, not at an end
        assert (bounds.interval_low < bounds.low).all() and (bounds.high < bounds.interval_high).all()

    @jax.jit
    @jax.vmap
    def usual(key):
        log, nuisances, probability = drawn_log(key)
        all_of_it = limited_overlap_value(log, nuisances, probability, LAM, threshold=0.0, cost_range=COST_RANGE)
        return all_of_it.supported.value, all_of_it.supported.error

    value, error = usual(jax.random.split(jax.random.key(2), LOGS))
    assert (np.abs(np.asarray(value) - whole) < 1.96 * np.asarray(error)).mean() < 0.92


def test_the_interval_covers_at_its_level_where_the_truth_is_at_an_end_or_the_ends_are_one():
    """Half of the choices (or none) could not have been logged, and are worth the lowest outcome."""
    n, logs = 500, 4000

    @partial(jax.jit, static_argnums=1)
    def inside(keys, share):
        def of_log(key):
            key_x, key_y = jax.random.split(key)
            judged = jax.random.uniform(key_x, (n,)) < share
            score = jnp.where(judged, jax.random.bernoulli(key_y, 0.6, (n,)), 0.0)
            bounds = value_bounds(
                jnp.where(judged, score, 0.0), judged.astype(jnp.float32), lowest=0.0, highest=1.0, level=0.9
            )
            truth = 0.6 * share
            return (bounds.interval_low < truth) & (truth < bounds.interval_high)

        return jax.vmap(of_log)(keys)

    keys = jax.random.split(jax.random.key(3), logs)
    for share in (0.5, 1.0):
        # Scores are lattice-valued: a point of coverage either way beside the Monte Carlo error.
        assert abs(inside(keys, share).mean() - 0.9) < 4 * np.sqrt(0.09 / logs) + 0.01


def test_critical_values_are_those_of_the_equation():
    for width in (0.0, 0.1, 0.7, 2.0, 50.0):
        exact = brentq(lambda c, w=width: norm.cdf(c + w) - norm.cdf(-c) - 0.9, 0.0, 5.0)
        assert float(imbens_manski_critical(width, level=0.9)) == pytest.approx(exact, abs=2e-4)


@cache
def one_log():
    return jax.jit(lambda: drawn_log(jax.random.key(4)))()


overlap_of = jax.jit(limited_overlap_value, static_argnames=("score_range", "cost_range"))
"""Compiled once for logs of one shape; a threshold is traced."""


def terms_of(threshold, known=True):
    """(part, mass) of the score of one log, row by row."""
    log, nuisances, probability = one_log()
    every = nuisances.all_propensity if known else None
    terms = jax.jit(jax.vmap(partial(supported_terms, threshold=threshold)))
    return terms(probability, nuisances.score, log.score, log.model, nuisances.propensity, every)


def test_a_threshold_of_zero_is_the_doubly_robust_value_and_both_bounds_are():
    log, nuisances, probability = one_log()
    scores = jax.vmap(doubly_robust)(nuisances.score, log.score, log.model, nuisances.all_propensity)
    rows = (probability * scores).sum(axis=1)
    part, mass = terms_of(0.0)
    np.testing.assert_allclose(part, rows, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mass, 1.0, rtol=1e-6)
    value = supported_value(part, mass)
    bounds = value_bounds(part, mass, lowest=-3.0, highest=5.0)
    for end in (value.value, bounds.low, bounds.high):
        np.testing.assert_allclose(end, rows.mean(), rtol=1e-5)
    error = standard_error(rows)
    np.testing.assert_allclose([value.error, bounds.low_error, bounds.high_error], error, rtol=1e-4)
    np.testing.assert_allclose(bounds.interval_high - bounds.high, 1.96 * error, rtol=1e-3)


def test_with_nothing_supported_nothing_is_known():
    part, mass = terms_of(2.0)
    value, bounds = supported_value(part, mass), value_bounds(part, mass, lowest=0.0, highest=1.0)
    assert float(value.value) == 0.0 and float(value.share) == 0.0 and bool(jnp.isfinite(value.rows).all())
    assert float(bounds.low) == 0.0 and float(bounds.high) == 1.0 and float(bounds.unsupported) == 1.0


def test_terms_are_those_of_a_loop_in_float64():
    log, nuisances, probability = one_log()
    pi, r, p = (np.asarray(a, np.float64) for a in (probability, nuisances.score, nuisances.all_propensity))
    y, t = np.asarray(log.score, np.float64), np.asarray(log.model)
    for known in (True, False):
        part, mass = terms_of(THRESHOLD, known)
        for i in range(50):
            kept = [pi[i, s] if p[i, s] >= THRESHOLD else 0.0 for s in range(T)]
            ratio = kept[t[i]] / p[i, t[i]]
            direct = sum(kept[s] * r[i, s] for s in range(T))
            expected = (direct + ratio * (y[i] - r[i, t[i]]), sum(kept)) if known else (ratio * y[i], ratio)
            np.testing.assert_allclose((part[i], mass[i]), expected, rtol=1e-5, atol=1e-6)


def test_weight_two_is_a_row_twice_and_rows_of_a_group_are_one():
    log, nuisances, probability = one_log()
    twice = jnp.concatenate([jnp.arange(N), jnp.arange(N // 2)])
    weight = 1.0 + (jnp.arange(N) < N // 2)

    def of(data, group, weight=None):
        log, nuisances, probability = data
        log = replace(log, row_weight=weight, group=group)
        return overlap_of(log, nuisances, probability, LAM, threshold=THRESHOLD)

    repeated = jax.tree.map(lambda leaf: leaf[twice], (log, nuisances, probability))
    once, double = of((log, nuisances, probability), None, weight), of(repeated, twice)
    for ours, theirs in (
        (once.supported, double.supported),
        (once.overlap, double.overlap),
        (once.bounds, double.bounds),
    ):
        ours, theirs = (jax.tree.leaves(replace(v, rows=v.value) if hasattr(v, "rows") else v) for v in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-5)
    # Contributions have the value as their mean and its error as theirs, for both estimands.
    for value in (once.supported, once.overlap):
        np.testing.assert_allclose(np.average(value.rows, weights=weight), value.value, rtol=1e-4)
        np.testing.assert_allclose(standard_error(value.rows, weight), value.error, rtol=1e-4)
    # Rows of weight 0 do not count, whatever they cost.
    absent = jnp.where(jnp.arange(N) == 3, 0.0, 1.0)
    dear = replace(log, cost=log.cost.at[3].set(1e3))
    np.testing.assert_allclose(
        of((dear, nuisances, probability), None, absent).bounds.low,
        of((log, nuisances, probability), None, absent).bounds.low,
        rtol=1e-5,
    )


def test_the_range_of_utilities_is_that_of_the_worst_score_at_the_largest_logged_cost_unless_told():
    log, nuisances, probability = one_log()
    part, mass = (jnp.zeros(N), jnp.zeros(N))
    ours = overlap_of(log, nuisances, probability, LAM, threshold=2.0).bounds
    lowest = 0.0 - LAM * float(log.cost.max())
    np.testing.assert_allclose((ours.low, ours.high), (lowest, 1.0), rtol=1e-5)
    told = overlap_of(
        log, nuisances, probability, LAM, threshold=2.0, score_range=(-1.0, 2.0), cost_range=(1e-4, 2e-3)
    ).bounds
    expected = value_bounds(part, mass, lowest=-1.0 - LAM * 2e-3, highest=2.0 - LAM * 1e-4)
    np.testing.assert_allclose((told.low, told.high), (expected.low, expected.high), rtol=1e-5)


def test_unscored_rows_keep_the_direct_term_and_the_others_count_for_them():
    log, nuisances, probability = one_log()
    scored = jax.random.uniform(jax.random.key(5), (N,)) < 0.5
    hidden = replace(log, scored=scored, score=jnp.where(scored, log.score, 0.0))

    def of(log, **named):
        return overlap_of(log, nuisances, probability, LAM, threshold=THRESHOLD, **named).supported

    share = np.array([np.asarray(scored)[np.asarray(log.model) == t].mean() for t in range(T)])[np.asarray(log.model)]
    told = of(hidden, observed_weight=jnp.where(scored, 1.0 / jnp.asarray(share, jnp.float32), 0.0))
    np.testing.assert_allclose(of(hidden).value, told.value, rtol=1e-5)
    assert abs(float(told.value - of(log).value)) < 4 * float(jnp.hypot(told.error, of(log).error))
    # What is not scored may hold anything.
    np.testing.assert_array_equal(of(replace(hidden, score=jnp.where(scored, log.score, 99.0))).rows, of(hidden).rows)


def test_results_say_that_they_are_other_estimands():
    log, nuisances, probability = one_log()
    found = overlap_of(log, nuisances, probability, LAM, threshold=THRESHOLD)
    assert found.overlap is not None
    assert "supported choices alone" in found.supported.estimand and "overlap population" in found.overlap.estimand


def test_overlap_weights_need_every_models_propensity():
    log, nuisances, probability = one_log()
    logged_only = replace(nuisances, all_propensity=None)
    assert overlap_of(log, logged_only, probability, LAM, threshold=THRESHOLD).overlap is None
    with pytest.raises(ValueError, match="propensity of every model"):
        overlap_weighted_value(jnp.zeros(N), logged_only)


def test_lambdas_and_policies_are_a_vmap():
    log, nuisances, probability = one_log()
    lambdas = jnp.array([0.0, LAM])
    each = jax.vmap(lambda lam: overlap_of(log, nuisances, probability, lam, threshold=THRESHOLD))(lambdas)
    one = overlap_of(log, nuisances, probability, LAM, threshold=THRESHOLD)
    np.testing.assert_allclose(each.supported.value[1], one.supported.value, rtol=1e-5)
    np.testing.assert_allclose(each.bounds.interval_low[1], one.bounds.interval_low, rtol=1e-5)
