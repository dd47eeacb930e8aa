"""Synthetic benchmarks: realised outcomes have the means they are said to have, and each regime is what it is for."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.metrics import best_utility
from jrouter.synthetic import PRICE_SPAN, REGIMES, draw_queries, make_world, middle_model_world

N = 20_000  # as in the tests of estimators and of logging policies: these shapes are compiled once


@cache
def draw(regime, dim=16, n_models=5, n=N):
    table = draw_queries(make_world(regime, dim=dim, n_models=n_models), jax.random.key(0), n)
    return jax.tree.map(np.asarray, table)


@pytest.mark.parametrize("regime", REGIMES)
def test_realised_outcomes_have_their_means(regime):
    table, sigma = draw(regime), REGIMES[regime].cost_noise
    mean_score, mean_cost = table.mean_score.astype(float), table.mean_cost.astype(float)
    # Known variances, since a sample's says little of a heavy tail: Bernoulli, or Beta of 4 pseudo-counts; log-normal.
    variance = mean_score * (1 - mean_score) / (5 if REGIMES[regime].graded else 1)
    score_error = (table.score - mean_score).sum(axis=0) / np.sqrt(variance.sum(axis=0))
    cost_error = (table.cost - mean_cost).sum(axis=0) / np.sqrt((mean_cost**2).sum(axis=0) * np.expm1(sigma**2))
    assert np.abs(score_error).max() < 3.5 and np.abs(cost_error).max() < 3.5
    # Given the query too: no correlation of the error with the mean.
    slope = ((table.score - mean_score) * (mean_score - 0.5)).sum() / np.sqrt(
        (variance * (mean_score - 0.5) ** 2).sum()
    )
    assert abs(slope) < 3.5
    np.testing.assert_allclose(np.log(table.cost / mean_cost).std(), sigma, rtol=0.02)


@pytest.mark.parametrize("regime", REGIMES)
def test_every_world(regime):
    table, world = draw(regime), make_world(regime, dim=16, n_models=5)
    assert table.x.shape == (N, 16) and table.models == tuple(f"model_{t:02d}" for t in range(5))
    np.testing.assert_allclose(world.price[-1] / world.price[0], PRICE_SPAN, rtol=1e-4)
    # Mean prices keep their order, and two orders of magnitude.
    mean_cost = table.mean_cost.mean(axis=0)
    assert (np.diff(mean_cost) > 0).all() and 80 < mean_cost[-1] / mean_cost[0] < 125
    np.testing.assert_allclose(mean_cost, world.price, rtol=0.05)
    assert table.cost.min() > 0 and table.mean_score.min() >= 0.02 and table.mean_score.max() <= 0.98
    np.testing.assert_allclose(np.square(table.x).mean(), 1.0, atol=0.02)
    graded = REGIMES[regime].graded
    assert table.score.min() >= 0 and table.score.max() <= 1
    assert (np.isin(table.score, (0, 1)).mean() < 0.2) if graded else np.isin(table.score, (0, 1)).all()


def test_dearer_models_are_better():
    quality = draw("linear", 256, 11).mean_score.mean(axis=0)
    assert np.corrcoef(np.arange(11), quality)[0, 1] > 0.8


@pytest.mark.parametrize("regime, dim, n_models", [("specialists", 256, 11), ("graded", 16, 5)])
def test_each_specialist_is_best_somewhere(regime, dim, n_models):
    best = draw(regime, dim, n_models).mean_score.argmax(axis=1)
    assert (np.bincount(best, minlength=n_models) > 0.5 * N / n_models).all()


def test_a_dominated_model_is_never_best():
    table = draw("dominated")
    for lam in (0.0, 1.0, 100.0, 1000.0):
        values = table.mean_score - lam * table.mean_cost
        assert (values[:, -1] < values[:, :-1].max(axis=1)).all()
    assert (table.mean_score[:, -1] <= table.mean_score[:, :-1].min(axis=1)).all()
    assert (table.mean_cost[:, -1] > table.mean_cost[:, :-1].max(axis=1)).all()


@pytest.mark.parametrize("regime", ["linear", "specialists"])
def test_routing_is_worth_three_points(regime):
    table = draw(regime, 256, 11)
    assert table.mean_score.max(axis=1).mean() - table.mean_score.mean(axis=0).max() >= 0.03


def test_x_says_who_is_best():
    # A linear fit on one half of the queries routes the other half better than the best single model.
    table = draw("linear", 256, 11)
    fitted, *_ = np.linalg.lstsq(table.x[: N // 2], table.score[: N // 2] - table.score[: N // 2].mean(axis=0))
    choice = (table.score[: N // 2].mean(axis=0) + table.x[N // 2 :] @ fitted).argmax(axis=1)
    rest = table.mean_score[N // 2 :]
    assert rest[np.arange(len(rest)), choice].mean() > rest.mean(axis=0).max() + 0.02


@pytest.mark.parametrize("regime", ["linear", "nonlinear", "specialists"])
def test_smallest_size(regime):
    table = draw(regime, dim=2, n_models=2, n=1)
    assert table.x.shape == table.score.shape == table.mean_cost.shape == (1, 2)
    for leaf in jax.tree.leaves(table):
        assert np.isfinite(leaf).all()


def test_seeds():
    world = make_world("linear", dim=16, n_models=5)
    again, other = make_world("linear", dim=16, n_models=5), make_world("linear", dim=16, n_models=5, seed=1)
    np.testing.assert_array_equal(world.embed, again.embed)
    assert jnp.abs(world.embed - other.embed).max() > 0.1
    tables = [draw_queries(world, jax.random.key(seed), N) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(tables[0].x, tables[1].x)
    np.testing.assert_array_equal(tables[0].score, tables[1].score)
    assert np.abs(np.asarray(tables[0].cost) / np.asarray(tables[2].cost) - 1).max() > 0.1


def test_errors():
    with pytest.raises(ValueError, match="unknown regime 'easy': expected one of linear, nonlinear"):
        make_world("easy")
    for size in ({"dim": 1}, {"n_models": 1}):
        with pytest.raises(ValueError, match="at least 2 models and 2 dimensions"):
            make_world("linear", **size)


def test_the_middle_model_is_best_only_inside():
    table = draw_queries(middle_model_world(dim=16), jax.random.key(0), N)

    def best(lam):
        values = table.true_score - lam * table.true_cost
        per_query = (values == best_utility(values)[:, None]).mean(axis=0)
        return int(values.mean(axis=0).argmax()), per_query

    for lam, model in [(0, 2), (80, 2), (120, 1), (300, 1), (600, 1), (720, 0), (1000, 0), (2000, 0)]:
        assert best(lam)[0] == model, lam
    # By query it is the favourite inside, and the exception at either end.
    assert best(300)[1][1] > 0.8 and best(0)[1][1] < 0.15 and best(1000)[1][1] < 0.3 and best(2000)[1][1] < 0.05
