"""Metrics of router papers: cases worked out by hand, definitions by brute force, and what must hold for any curve."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrouter import frontier_metrics, routing_metrics

POINTS = 6
PROPERTY = settings(max_examples=60, derandomize=True, deadline=None)

_on_hull = jax.jit(frontier_metrics.on_hull)
_hull_at = jax.jit(frontier_metrics.hull_at)
_aiq = jax.jit(frontier_metrics.aiq)
_apgr = jax.jit(frontier_metrics.apgr)
_call_threshold = jax.jit(frontier_metrics.call_threshold)
frontier_distance = jax.jit(frontier_metrics.frontier_distance)
cost_saving = jax.jit(routing_metrics.cost_saving)
optimality = jax.jit(routing_metrics.optimality)
arena_score = jax.jit(routing_metrics.arena_score)


def array(*values):
    return np.array(values, np.float32)


def repeated(values, length=POINTS):
    """A curve of `length` points, the last one several times: the same curve."""
    values = np.asarray(values, np.float32)
    return np.concatenate([values, np.repeat(values[-1:], length - len(values))])


# Short curves are repeated to one length, so that each function is compiled once.


def on_hull(cost, score):
    return np.asarray(_on_hull(repeated(cost), repeated(score)))[: len(cost)]


def hull_at(cost, score, at):
    return np.asarray(_hull_at(repeated(cost), repeated(score), repeated(at, 20)))[: len(at)]


def aiq(cost, score, *, low=None, high=None):
    cost = repeated(cost)
    ends = (cost.min() if low is None else low, cost.max() if high is None else high)
    return _aiq(cost, repeated(score), low=np.float32(ends[0]), high=np.float32(ends[1]))


def apgr(share, score, weak, strong):
    return _apgr(repeated(share), repeated(score), np.float32(weak), np.float32(strong))


def call_threshold(share, score, weak, strong, *, recovered):
    ends = np.float32(weak), np.float32(strong)
    return _call_threshold(repeated(share), repeated(score), *ends, recovered=np.float32(recovered))


# Small whole numbers, so that equal costs, ties and lines through three points are common.
curves = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), min_size=1, max_size=POINTS).map(
    lambda points: (repeated([c for c, _ in points]), repeated([s / 8 for _, s in points]))
)


def hull_by_pairs(cost, score, at):
    """The highest of all points no dearer and of all mixes of two that cost `at`; a line from 0 below the cheapest."""
    cost, score = np.asarray(cost, np.float64), np.asarray(score, np.float64)
    if at < cost.min():
        return score[cost == cost.min()].max() * at / cost.min()
    found = score[cost <= at].max()
    for (c1, s1), (c2, s2) in product(zip(cost, score, strict=True), repeat=2):
        if c1 < at < c2:
            found = max(found, s1 + (s2 - s1) * (at - c1) / (c2 - c1))
    return found


def aiq_by_pairs(cost, score, low, high):
    """Mean of `hull_by_pairs`; trapezoids between the points' costs, where it is straight."""
    inside = [float(c) for c in np.asarray(cost) if low < c < high]
    at = np.array(sorted({low, *inside, high}))
    height = np.array([hull_by_pairs(cost, score, c) for c in at])
    if low == high:
        return height[0]
    return float((np.diff(at) * (height[1:] + height[:-1]) / 2).sum() / (high - low))


# Hull and AIQ


def test_hull_by_hand():
    # (2, .2) lies under the line from (1, 0) to (3, 1), (4, .9) under a cheaper point, (6, 1.1) is a corner.
    cost, score = array(3, 1, 4, 2, 6, 5), array(1.0, 0.0, 0.9, 0.2, 1.1, 1.0)
    np.testing.assert_array_equal(on_hull(cost, score), [True, True, False, False, True, False])
    got = hull_at(cost, score, array(0.0, 0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 100.0))
    np.testing.assert_allclose(got, [0.0, 0.0, 0.0, 0.5, 1.0, 1.05, 1.1, 1.1], atol=1e-6)
    # Areas: 1 from cost 1 to 3 (mean .5), 3.15 from 3 to 6 (mean 1.05), over a width of 5.
    np.testing.assert_allclose(aiq(cost, score), (1.0 + 3.15) / 5, rtol=1e-6)
    # A wider range: nothing below cost 1, where the cheapest point scores 0; 1.1 from 6 to 10.
    np.testing.assert_allclose(aiq(cost, score, low=0.0, high=10.0), (1.0 + 3.15 + 4.4) / 10, rtol=1e-6)


def test_aiq_charges_for_what_is_not_offered_cheaply():
    dear = array(4, 4), array(0.8, 0.8)
    # The line from (0, 0) to (4, .8) from 2 to 4, mean .6; then .8 from 4 to 6.
    np.testing.assert_allclose(aiq(*dear, low=2.0, high=6.0), 0.7, rtol=1e-6)
    # A router that is dearer than every single model is worth its height only as far as it reaches into the range.
    np.testing.assert_allclose(aiq(*dear, low=0.0, high=2.0), 0.2, rtol=1e-6)


def test_hull_of_one_point_and_of_equal_costs():
    np.testing.assert_array_equal(on_hull(array(2), array(0.5)), [True])
    np.testing.assert_array_equal(on_hull(array(2, 2, 2), array(0.3, 0.7, 0.7)), [False, True, False])
    np.testing.assert_allclose(hull_at(array(2), array(0.5), array(1, 2, 3)), [0.25, 0.5, 0.5])
    assert aiq(array(2), array(0.5)) == 0.5
    np.testing.assert_allclose(aiq(array(2, 2, 2), array(0.3, 0.7, 0.5)), 0.7)
    # Free points: nothing is below them.
    np.testing.assert_allclose(hull_at(array(0, 2), array(0.5, 0.9), array(0, 1)), [0.5, 0.7])
    assert jnp.isnan(aiq(array(1, 2), array(0.5, 0.6), low=2.0, high=1.0))
    assert jnp.isfinite(aiq(array(1, 2), array(0.5, 0.6), low=5.0, high=6.0))


@PROPERTY
@given(curves, st.integers(0, 10), st.integers(0, 10))
def test_hull_and_aiq_are_what_pairs_of_points_say(curve, one, other):
    low, high = float(min(one, other)), float(max(one, other))
    at = np.arange(0.0, 10.0, 0.5)
    cost, score = curve
    wanted = [hull_by_pairs(cost, score, float(c)) for c in at]
    np.testing.assert_allclose(hull_at(cost, score, at), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        aiq(cost, score, low=low, high=high), aiq_by_pairs(cost, score, low, high), rtol=1e-5, atol=1e-6
    )
    own = [float(end) for end in (curve[0].min(), curve[0].max())]
    np.testing.assert_allclose(_aiq(cost, score), aiq_by_pairs(cost, score, own[0], own[1]), rtol=1e-5, atol=1e-6)


@PROPERTY
@given(curves, curves, st.sampled_from([1e-6, 3e-3, 1e4]), st.permutations(range(POINTS)))
def test_what_holds_for_any_hull(curve, other, unit, order):
    cost, score = curve
    # It is over every point, concave and never falls.
    assert (hull_at(cost, score, cost) >= score - 1e-6).all()
    height = hull_at(cost, score, np.linspace(cost.min(), 10.0, 20))
    assert (np.diff(height) >= -1e-6).all() and (np.diff(height, n=2) <= 1e-5).all()
    # Of the corners alone it is the same; so it is in any order and any unit of cost.
    corner = np.flatnonzero(on_hull(cost, score))
    again = repeated(np.asarray(cost)[corner]), repeated(np.asarray(score)[corner])
    whole = aiq(cost, score, low=1.0, high=9.0)
    np.testing.assert_allclose(aiq(*again, low=1.0, high=9.0), whole, rtol=1e-5, atol=1e-6)
    places = np.array(order)
    np.testing.assert_allclose(aiq(cost[places], score[places], low=1.0, high=9.0), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(aiq(cost * unit, score, low=unit, high=9 * unit), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(_aiq(cost * np.float32(unit), score), _aiq(cost, score), rtol=1e-4, atol=1e-5)
    # One that dominates is worth no less: each point cheaper or as dear, as good or better.
    better = np.maximum(cost - 1, 1), np.minimum(score + other[1] / 8, 1)
    assert aiq(*better, low=1.0, high=9.0) >= whole - 1e-6


def test_resamples_are_vmapped_and_gradients_are_finite():
    cost, score = array(1, 2, 4), array(0.2, 0.5, 0.6)
    many = jax.jit(jax.vmap(frontier_metrics.aiq))(np.stack([cost, 2 * cost]), np.stack([score, score]))
    np.testing.assert_allclose(many, [aiq(cost, score)] * 2, rtol=1e-6)
    # d AIQ / d score of the middle point: half of the width of the two parts beside it, over the width.
    np.testing.assert_allclose(jax.jit(jax.grad(frontier_metrics.aiq, argnums=1))(cost, score)[1], 0.5, rtol=1e-5)


# APGR and CPT


def test_apgr_and_cpt_by_hand():
    share, score = array(0.2, 0.5, 0.8), array(0.6, 0.9, 0.8)
    # Recovered of .5 to .9: 0 at 0, .25, 1, .75, 1 at 1. Areas .025 + .1875 + .2625 + .175.
    np.testing.assert_allclose(apgr(share, score, 0.5, 0.9), 0.65, rtol=1e-5)
    for wanted, recovered in [(0.16, 0.2), (0.3, 0.5), (0.42, 0.8), (0.5, 1.0)]:
        np.testing.assert_allclose(call_threshold(share, score, 0.5, 0.9, recovered=recovered), wanted, rtol=1e-4)


def test_apgr_of_the_ends():
    share = np.linspace(0.0, 1.0, 5)
    np.testing.assert_allclose(apgr(share, np.full(5, 0.9), 0.5, 0.9), 1.0, rtol=1e-5)
    np.testing.assert_allclose(apgr(share, np.full(5, 0.5), 0.5, 0.9), 0.0, atol=1e-6)
    np.testing.assert_allclose(apgr(share, 0.5 + 0.4 * share, 0.5, 0.9), 0.5, rtol=1e-5)
    # One point is completed by the two models; worse than the weak one is below 0, better than the strong above 1.
    np.testing.assert_allclose(apgr(array(0.0), array(0.5), 0.5, 0.9), 0.5, rtol=1e-5)
    assert apgr(share, np.full(5, 0.4), 0.5, 0.9) < 0 and apgr(share, np.full(5, 1.0), 0.5, 0.9) > 1
    # Several thresholds at one share: the best of them, in any order.
    for scores in [(0.6, 0.7), (0.7, 0.6)]:
        np.testing.assert_allclose(
            apgr(array(0.5, 0.5), array(*scores), 0.5, 0.9), apgr(array(0.5), array(0.7), 0.5, 0.9), rtol=1e-5
        )


def test_cpt_is_the_first_crossing_or_infinite():
    # Rises, falls and rises: share as a function of score, as RouteLLM's script has it, is another share.
    share = np.linspace(0.0, 1.0, 11)
    score = np.array([0.0, 0.3, 0.4, 0.3, 0.9, 1.0, 0.4, 0.1, 0.9, 0.45, 1.0])
    ends = np.float32(0.0), np.float32(1.0)
    found = _call_threshold(*(part.astype(np.float32) for part in (share, score)), *ends, recovered=0.5)
    np.testing.assert_allclose(found, 0.3 + 0.1 * 0.2 / 0.6, rtol=1e-4)
    assert np.interp(0.5, score, share) > 0.7
    # A curve that ends at share 1 below what is asked for; and one that starts with it.
    assert call_threshold(array(0.0, 1.0), array(0.5, 0.6), 0.5, 0.9, recovered=0.5) == jnp.inf
    assert call_threshold(array(0.0, 1.0), array(0.8, 0.9), 0.5, 0.9, recovered=0.5) == 0.0


def test_no_gap_is_not_a_number():
    for strong in (0.5, 0.4):
        assert jnp.isnan(apgr(array(0.5), array(0.6), 0.5, strong))
        assert jnp.isnan(call_threshold(array(0.5), array(0.6), 0.5, strong, recovered=0.5))


shares = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=POINTS).map(
    lambda points: (repeated([c / 8 for c, _ in points]), repeated([s / 8 for _, s in points]))
)


@PROPERTY
@given(shares, st.sampled_from([0.2, 0.5, 1.0]), st.permutations(range(POINTS)))
def test_apgr_and_cpt_are_what_their_definitions_say(curve, recovered, order):
    weak, strong = 0.25, 0.75
    best = {}
    for c, s in zip(np.asarray(curve[0], np.float64), np.asarray(curve[1], np.float64), strict=True):
        best[c] = max(best.get(c, -np.inf), s)
    best = {0.0: weak, 1.0: strong} | best
    x = np.array(sorted(best))
    y = (np.array([best[c] for c in x]) - weak) / (strong - weak)
    area = float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())
    share, score = curve
    np.testing.assert_allclose(apgr(share, score, weak, strong), area, rtol=1e-4, atol=1e-5)
    # By a fine grid: at the threshold the curve is there, before it is not.
    found = float(call_threshold(share, score, weak, strong, recovered=recovered))
    fine = np.linspace(0, 1, 20001)
    above = np.flatnonzero(np.interp(fine, x, y) >= recovered - 1e-6)
    assert found == np.inf if above.size == 0 else abs(found - fine[above[0]]) < 2e-4
    places = np.array(order)
    np.testing.assert_allclose(apgr(curve[0][places], curve[1][places], weak, strong), area, rtol=1e-4, atol=1e-5)
    # Units and level of the score do not matter, and the models exchanged for chance give a half.
    np.testing.assert_allclose(
        apgr(curve[0], 100 * curve[1] + 7, 100 * weak + 7, 100 * strong + 7), area, rtol=1e-3, atol=1e-4
    )


# LLMRouterBench


def test_gain_saving_and_gap_by_hand():
    cost, score = array(1, 3, 5), array(0.7, 0.8, 0.84)
    np.testing.assert_allclose(routing_metrics.performance_gain(jnp.asarray(score), 0.8), 0.05, rtol=1e-5)
    np.testing.assert_allclose(cost_saving(cost, score, 4.0, 0.8), 0.25, rtol=1e-6)
    # Only the dearest matches; none does.
    np.testing.assert_allclose(cost_saving(cost, score, 4.0, 0.82), -0.25, rtol=1e-6)
    assert jnp.isnan(cost_saving(cost, score, 4.0, 0.9))
    np.testing.assert_allclose(routing_metrics.gap_to_oracle(jnp.array([0.6, 0.8]), 0.8), [0.25, 0.0], atol=1e-6)
    assert jnp.isnan(routing_metrics.gap_to_oracle(jnp.zeros(1), 0.0)).all()


def test_distance_by_hand():
    # Log costs from 0 to 1: 0, .5, 1; scores 0, .5, 1. (10, .5) is on the frontier, (100, .5) is .5 from two of it.
    others = array(1, 100, 10), array(0.4, 0.8, 0.6)
    np.testing.assert_allclose(frontier_distance(array(10), array(0.6), *others), 0.0, atol=1e-6)
    np.testing.assert_allclose(frontier_distance(array(100), array(0.6), *others), 0.5, rtol=1e-5)
    np.testing.assert_allclose(frontier_distance(array(10, 100), array(0.6, 0.6), *others), 0.25, rtol=1e-5)
    # Equal costs: only score is left; one point alone is the frontier; a free one has no log cost.
    np.testing.assert_allclose(frontier_distance(array(2), array(0.4), array(2, 2), array(0.2, 0.6)), 0.5, rtol=1e-5)
    assert frontier_distance(array(2), array(0.4), array(), array()) == 0
    assert jnp.isnan(frontier_distance(array(0), array(0.4), *others))


@PROPERTY
@given(curves, curves, st.sampled_from([1e-6, 1e4]))
def test_distance_is_what_its_definition_says(curve, others, unit):
    cost, score = (np.concatenate([a, b]).astype(np.float64) for a, b in zip(curve, others, strict=True))
    points = np.stack([np.log(cost), score], axis=1)
    frontier = [
        p for p in points if not any(q[0] <= p[0] and q[1] >= p[1] and (q[0] < p[0] or q[1] > p[1]) for q in points)
    ]
    span = np.ptp(points, axis=0)
    span[span == 0] = 1.0
    apart = [min(np.abs((p - f) / span).sum() for f in frontier) for p in points[:POINTS]]
    np.testing.assert_allclose(frontier_distance(*curve, *others), np.mean(apart), rtol=1e-4, atol=1e-5)
    in_other_unit = frontier_distance(curve[0] * unit, curve[1], others[0] * unit, others[1])
    np.testing.assert_allclose(in_other_unit, np.mean(apart), rtol=1e-3, atol=1e-4)


# RouterArena

SCORE = jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
COST = jnp.array([[2.0, 1.0, 4.0]] * 4)


def test_optimality_by_hand():
    # The oracle takes models 1, 1, 1 (none is right: the cheapest) and 0: cost 1 + 1 + 1 + 2, score 3.
    chosen = jax.nn.one_hot(jnp.array([1, 2, 0, 1]), 3)
    found = optimality(chosen, SCORE, COST)
    np.testing.assert_allclose(found, [1 / 4, 5 / (1 + 4 + 2 + 1), 2 / 3], rtol=1e-6)
    # The mistake of issue 95: on the queries that the router gets right its accuracy is the oracle's.
    right = (chosen * SCORE).sum(axis=1) > 0
    np.testing.assert_allclose(optimality(chosen, SCORE, COST, counts=right), [1 / 2, 2 / 5, 1.0], rtol=1e-6)
    # Where some model is right, as it has been since.
    solved = SCORE.max(axis=1) > 0
    np.testing.assert_allclose(optimality(chosen, SCORE, COST, counts=solved), [1 / 3, 4 / 6, 2 / 3], rtol=1e-6)


def test_optimality_of_the_oracle_of_chance_and_of_nothing():
    oracle = jax.nn.one_hot(jnp.array([1, 1, 1, 0]), 3)
    np.testing.assert_allclose(optimality(oracle, SCORE, COST), [1.0, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(optimality(jnp.full((4, 3), 1 / 3), SCORE, COST), [1 / 3, 15 / 28, 2 / 3], rtol=1e-5)
    # Cheap and wrong costs less than the oracle.
    cheap = optimality(jax.nn.one_hot(jnp.ones(4, int), 3), SCORE, COST)
    assert cheap.cost > 1 and cheap.accuracy < 1
    nothing = optimality(oracle, jnp.zeros((4, 3)), jnp.zeros((4, 3)))
    assert jnp.isnan(nothing.cost) and jnp.isnan(nothing.accuracy)
    assert all(jnp.isnan(part) for part in optimality(oracle, SCORE, COST, counts=jnp.zeros(4, bool)))
    # A router that is free where the oracle is not.
    free = optimality(jax.nn.one_hot(jnp.full(4, 2), 3), SCORE.at[:, 2].set(0.0), COST.at[:, 2].set(0.0))
    assert free.cost == jnp.inf


@PROPERTY
@given(st.lists(st.lists(st.tuples(st.booleans(), st.integers(1, 4)), min_size=3, max_size=3), min_size=4, max_size=4))
def test_optimality_in_loops_and_in_any_unit(table):
    score, cost = (np.array([[cell[part] for cell in row] for row in table], np.float64) for part in (0, 1))
    choice = np.array([0, 1, 2, 0])
    same, oracle_cost, oracle_score = 0, 0.0, 0.0
    for i, row in enumerate(table):
        best = max(s for s, _ in row)
        cheapest = min(range(3), key=lambda t: (row[t][0] != best, row[t][1], t))
        same += int(cheapest == choice[i])
        oracle_cost, oracle_score = oracle_cost + cost[i, cheapest], oracle_score + best
    spent, got = (values[np.arange(4), choice].sum() for values in (cost, score))
    given = jax.nn.one_hot(choice, 3), jnp.asarray(score, jnp.float32)
    wanted = [same / 4, oracle_cost / spent, got / oracle_score if oracle_score else np.nan]
    for unit in (1.0, 1e-5):
        np.testing.assert_allclose(optimality(*given, jnp.asarray(cost * unit, jnp.float32)), wanted, rtol=1e-5)


def test_arena_score_by_hand():
    # The middle of the log scale: C = 1/2, S = 1.1 A / 2 / (.1 A + .5).
    middle = float(np.sqrt(200 * 0.0044))
    got = arena_score(array(middle, 0.0044, 200.0), array(0.7, 0.7, 0.7))
    np.testing.assert_allclose(got, [1.1 * 0.35 / 0.57, 1.1 * 0.7 / 1.07, 0.0], rtol=1e-5, atol=1e-6)
    # Beyond the ends it stays; unbounded, cost 1,000 at accuracy .8 would be a score of -2.
    np.testing.assert_allclose(
        arena_score(array(1e-9, 0.0, 1e6), array(0.7, 0.7, 0.7)), [got[1], got[1], 0.0], atol=1e-6
    )
    assert arena_score(array(200.0), array(0.0)) == 0.0


def test_arena_score_of_a_published_row():
    # What RouterArena's workflow wrote for accuracy 70.17% and $0.1244 per 1,000 queries (its pull request 90).
    assert float(arena_score(array(0.1244), array(0.7017))[0]) == pytest.approx(0.7005, abs=1e-4)


@PROPERTY
@given(st.floats(0.005, 190), st.floats(0.01, 0.99))
def test_arena_score_is_a_harmonic_mean(cost, accuracy):
    cheapness = np.log(200 / cost) / np.log(200 / 0.0044)
    found = float(arena_score(array(cost), array(accuracy))[0])
    assert found == pytest.approx(1.1 / (1 / accuracy + 0.1 / cheapness), rel=1e-3)
    low, high = sorted([accuracy, cheapness])
    assert low - 1e-4 <= found <= high + 1e-4


# Shapes


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(AssertionError):
        frontier_metrics.on_hull(jnp.ones(2), jnp.ones(1))
    with pytest.raises(AssertionError):
        frontier_metrics.apgr(jnp.ones(2), jnp.ones(1), 0.0, 1.0)
    with pytest.raises(AssertionError):
        optimality(jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones((2, 2)))
