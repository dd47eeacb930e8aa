"""The lambda axis: what lies between two lambdas, where a lambda lies, and where models change places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrouter.interval import PAPER_LAMBDAS, interpolate, lambda_grid, locate, nearest, regret_scale
from jrouter.metrics import utility
from jrouter.types import CounterfactualScores, LoggedData

PROPERTY = settings(max_examples=50, derandomize=True, deadline=None)
SCORE, COST = jnp.array([0.2, 0.9, 0.5]), jnp.array([1e-4, 3e-3, 1e-3])
KNOTS = jnp.array([0.0, 100.0, 300.0, 400.0])


@PROPERTY
@given(st.floats(0, 500, width=32), st.floats(1, 500, width=32), st.floats(-1, 2, width=32))
def test_interpolation_is_exact_for_utilities(low, width, place):
    high, lam = low + width, low + place * width
    ends = utility(SCORE, COST, low), utility(SCORE, COST, high)
    got = interpolate(*ends, lam, lam_low=low, lam_high=high)
    np.testing.assert_allclose(got, utility(SCORE, COST, lam), rtol=1e-4, atol=1e-5)


def test_interpolation_at_the_ends():
    low, high = jnp.array([1.0, 2.0]), jnp.array([5.0, -1.0])
    for lam, expected in [(100.0, low), (200.0, high), (125.0, 0.75 * low + 0.25 * high)]:
        np.testing.assert_allclose(interpolate(low, high, lam, lam_low=100.0, lam_high=200.0), expected, rtol=1e-6)
    np.testing.assert_array_equal(interpolate(low, high, 100.0, lam_low=100.0, lam_high=100.0), low)


def test_gradient_of_interpolation():
    low, high = jnp.array([1.0, 2.0]), jnp.array([5.0, -1.0])

    def first(lam, lam_low, lam_high):
        return interpolate(low, high, lam, lam_low=lam_low, lam_high=lam_high)[0]

    slope = jax.grad(first, argnums=(0, 1, 2))
    # value = 1 + 4 (lam - a) / (b - a), at lam = 125, a = 100, b = 200
    expected = (4 / 100, -4 * (200 - 125) / 100**2, -4 * (125 - 100) / 100**2)
    np.testing.assert_allclose(slope(125.0, 100.0, 200.0), expected, rtol=1e-5)
    assert jnp.isfinite(jnp.array(slope(100.0, 100.0, 100.0))).all()


@pytest.mark.parametrize(
    "lam, low, clipped",
    [(-5.0, 0, 0.0), (0.0, 0, 0.0), (99.0, 0, 99.0), (100.0, 1, 100.0), (250.0, 1, 250.0), (300.0, 2, 300.0)]
    + [(400.0, 2, 400.0), (1e9, 2, 400.0)],
)
def test_locate(lam, low, clipped):
    interval = locate(KNOTS, lam)
    assert (interval.low, interval.high, interval.lam) == (low, low + 1, clipped)
    assert KNOTS[interval.low] <= interval.lam <= KNOTS[interval.high]


def test_locate_many():
    interval = jax.vmap(locate, in_axes=(None, 0))(KNOTS, jnp.array([350.0, 50.0]))
    np.testing.assert_array_equal(interval.low, [2, 0])


def test_nearest():
    got = [int(nearest(KNOTS, lam)) for lam in (-9.0, 49.0, 51.0, 199.0, 201.0, 999.0)]
    assert got == [0, 0, 1, 1, 2, 3]


def log(score, cost, **optional):
    """Two rows a model, whose mean score and cost are as given."""
    spread = jnp.array([-0.5, 0.5])
    return LoggedData(
        x=jnp.zeros((2 * len(score), 1)),
        model=jnp.repeat(jnp.arange(len(score)), 2),
        score=(jnp.asarray(score)[:, None] + 0.1 * spread).ravel(),
        cost=(jnp.asarray(cost)[:, None] * (1 + spread)).ravel(),
        models=tuple("abcdef"[: len(score)]),
        **optional,
    )


def test_grid_is_where_pairs_of_models_tie():
    # a-b ties at .3 / 1, a-c at .4 / 3, b-c at .1 / 2; d is dearest and worst, and trades with nobody.
    score, cost = [0.2, 0.5, 0.6, 0.1], [1.0, 2.0, 4.0, 5.0]
    ties = [0.3, 0.4 / 3, 0.05]
    grid = lambda_grid(log(score, cost), size=5)
    expected = np.quantile([*ties, 0.05 / 2, 2 * 0.3], [0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(grid, [0, *expected], rtol=1e-5)
    assert grid.shape == (5,) and grid[0] == 0 and (jnp.diff(grid) > 0).all()
    # Two models: a range around their one tie.
    pair = lambda_grid(log([0.2, 0.5], [1.0, 2.0]), size=3)
    np.testing.assert_allclose(pair, [0, 0.15 + 0.15 * 2 / 3, 0.3 + 0.3 / 3], rtol=1e-5)


@pytest.mark.parametrize("score", [[0.2, 0.5, 0.6], [0.6, 0.5, 0.2]])
def test_grid_has_the_unit_of_score_over_cost(score):
    cost = np.array([1.0, 2.0, 4.0])
    grid = lambda_grid(log(score, cost))
    np.testing.assert_allclose(lambda_grid(log(score, 1e-4 * cost)), 1e4 * grid, rtol=1e-4)
    assert grid.shape == (11,) and grid[0] == 0 and (jnp.diff(grid) >= 0).all() and grid[-1] > 0


def test_grid_where_no_pair_trades():
    # The cheaper one is better: any lambda would do, and the scale is score range / cost range.
    np.testing.assert_allclose(lambda_grid(log([0.9, 0.1], [1.0, 5.0]), size=5), 0.2 * np.linspace(0, 2, 5), rtol=1e-5)


def test_grid_without_rows_of_a_model():
    whole = log([0.2, 0.5, 0.9], [1.0, 2.0, 4.0], row_weight=jnp.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0]))
    np.testing.assert_allclose(lambda_grid(whole), lambda_grid(log([0.2, 0.5], [1.0, 2.0])), rtol=1e-6)
    # Nor a score that was not scored.
    unscored = log([0.2, 0.5, 0.9], [1.0, 2.0, 4.0], scored=jnp.array([True, True, True, True, False, False]))
    np.testing.assert_allclose(lambda_grid(unscored), lambda_grid(log([0.2, 0.5], [1.0, 2.0])), rtol=1e-6)


def test_grid_counts_row_weights():
    # Of model b the first row alone counts, of score .45 and cost 1.5: the tie with a is at .25 / .5.
    weighted = log([0.2, 0.5], [1.0, 3.0], row_weight=jnp.array([1.0, 1.0, 1.0, 0.0]))
    np.testing.assert_allclose(lambda_grid(weighted, size=2)[1], 0.25 / 0.5, rtol=1e-5)  # the median


def test_grid_needs_costs_that_differ():
    with pytest.raises(ValueError, match="every model of this log costs the same; pass lambdas"):
        lambda_grid(log([0.2, 0.5], [2.0, 2.0]))


def test_grid_needs_a_score():
    with pytest.raises(ValueError):
        lambda_grid(log([0.2, 0.5], [1.0, 2.0], scored=jnp.zeros(4, bool)))


def test_paper_lambdas():
    assert PAPER_LAMBDAS == (0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)


def test_regret_scale():
    score, cost = np.random.default_rng(0).random((2, 6, 3)).astype(np.float32)
    weight = np.array([1.0, 2.0, 0.0, 0.0, 1.0, 3.0], np.float32)
    scores = CounterfactualScores(jnp.asarray(score), jnp.asarray(cost))
    spreads = [np.std(score[i].astype(float) - 7.0 * cost[i]) for i in range(6)]
    np.testing.assert_allclose(regret_scale(scores, 7.0, jnp.asarray(weight)), weight @ spreads / 7, rtol=1e-5)
    np.testing.assert_allclose(regret_scale(scores, 7.0), np.mean(spreads), rtol=1e-5)
    # All models alike: still something to divide by.
    assert regret_scale(CounterfactualScores(jnp.ones((4, 3)), jnp.ones((4, 3))), 7.0) > 0
