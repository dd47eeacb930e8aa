"""Boosted trees: they learn, out of fold, from the rows that count, and say what to install where they cannot."""

import sys
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.nuisances import trees
from jrouter.nuisances.propensity import Clipping
from jrouter.splits import split_log
from jrouter.types import LoggedData, Nuisances

N, D, T, K = 1200, 3, 3, 2
SETTINGS = {"rounds": 30, "learning_rate": 0.3}


def log(seed=0):
    """Steps in x that linear models cannot follow; dear models as well as cheap ones; choice follows x."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D))
    chance = np.column_stack([1 + 8 * (np.abs(x[:, 0]) > 0.7), np.full(N, 4.0), np.ones(N)])
    chance /= chance.sum(axis=1, keepdims=True)
    model = (rng.uniform(size=N)[:, None] > chance.cumsum(axis=1)).sum(axis=1)
    step = np.abs(x[:, 1]) > 0.7
    score = 0.2 + 0.5 * step + 0.1 * model * (x[:, 2] > 0) + 0.05 * rng.normal(size=N)
    cost = 100.0**model * (1.0 + step) * np.exp(0.1 * rng.normal(size=N))
    x, score, cost = (jnp.asarray(part, jnp.float32) for part in (x, score, cost))
    return LoggedData(x, jnp.asarray(model, jnp.int32), score, cost, models=("a", "b", "c")), chance, step


def split_of(data, n_folds=K):
    return split_log([data], seeds=[0], n_folds=n_folds)[0]


@pytest.fixture(scope="module", autouse=True)
def _installed():
    pytest.importorskip("xgboost", reason="needs the extra xgboost")


def test_outcomes_are_learned_for_every_model():
    data, _, step = log()
    score, cost = (np.asarray(part) for part in trees.xgboost_outcome(data, split_of(data), **SETTINGS))
    assert score.shape == cost.shape == (N, T) and score.dtype == np.float32
    for t in range(T):
        gap = score[step, t].mean() - score[~step, t].mean()
        np.testing.assert_allclose(gap, 0.5, atol=0.12)  # its noise alone, over 500 rows, is below 0.01
        ratio = cost[step, t].mean() / cost[~step, t].mean()
        np.testing.assert_allclose(ratio, 2.0, atol=0.4)
        np.testing.assert_allclose(cost[:, t].mean(), 100.0**t * (1 + step.mean()), rtol=0.15)


def test_a_row_does_not_see_its_own_outcome():
    data, _, _ = log()
    split = split_of(data)
    other = replace(data, score=data.score.at[3].add(50.0), cost=data.cost.at[3].add(500.0))
    for before, after in zip(
        trees.xgboost_outcome(data, split, **SETTINGS), trees.xgboost_outcome(other, split, **SETTINGS), strict=True
    ):
        same = np.asarray(split.fold) == int(split.fold[3])
        np.testing.assert_array_equal(np.asarray(before)[same], np.asarray(after)[same])
        assert (np.asarray(before)[~same] != np.asarray(after)[~same]).any()


def test_rows_of_weight_zero_and_unscored_answers_do_not_count():
    data, _, _ = log()
    split = split_of(data)
    absent = jnp.asarray(np.arange(N) % 4 == 0, jnp.float32)
    dirty = replace(data, score=data.score + 9.0 * absent, cost=data.cost * (1.0 + 9.0 * absent))

    def fit(data, **change):
        return [np.asarray(part) for part in trees.xgboost_outcome(replace(data, **change), split, **SETTINGS)]

    weight, scored = {"row_weight": 1.0 - absent}, {"scored": absent == 0}
    for clean, ours in zip(fit(data, **weight), fit(dirty, **weight), strict=True):
        np.testing.assert_array_equal(clean, ours)
    clean, ours = fit(data, **scored), fit(dirty, **scored)
    np.testing.assert_array_equal(clean[0], ours[0])
    assert (ours[1].mean(axis=0) > 1.5 * clean[1].mean(axis=0)).all()  # their costs count
    chosen = replace(data, model=jnp.where(absent > 0, 0, data.model), row_weight=1.0 - absent)
    np.testing.assert_array_equal(
        trees.xgboost_propensity(chosen, split, rounds=5),
        trees.xgboost_propensity(replace(data, **weight), split, rounds=5),
    )


def test_propensities_are_those_of_the_logging_policy():
    data, chance, _ = log()
    ours = np.asarray(trees.xgboost_propensity(data, split_of(data), learning_rate=0.1), np.float64)
    np.testing.assert_allclose(ours.sum(axis=1), 1.0, rtol=1e-5)
    shares = np.bincount(np.asarray(data.model), minlength=T) / N
    # Shares know nothing of x; half of what they miss is far beyond chance on 1,200 rows.
    assert np.square(ours - chance).mean() < 0.5 * np.square(shares - chance).mean()


def test_models_that_were_not_allowed_have_no_chance_and_the_others_keep_their_ratio():
    data, _, _ = log()
    split = split_of(data)
    allowed = np.ones((N, T), bool)
    allowed[(np.arange(N) % 3 == 0) & (np.asarray(data.model) != 2), 2] = False
    free = np.asarray(trees.xgboost_propensity(data, split, rounds=5))
    restricted = replace(data, allowed=jnp.asarray(allowed))
    np.testing.assert_array_equal(trees.xgboost_propensity(restricted, split, rounds=5), free)  # averages over pools
    ours = np.asarray(trees.xgboost_propensity(restricted, split, rounds=5, pool="allowed"))
    assert (ours[~allowed] == 0).all() and (ours[allowed] > 0).all() and (~allowed).sum() > 100
    np.testing.assert_allclose(ours.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(ours[:, 0] / ours[:, 1], free[:, 0] / free[:, 1], rtol=1e-4)


def fallback(split):
    zero = jnp.zeros((N, T))
    return Nuisances(jnp.full(N, 0.25), zero, zero + 1.0, split.fold, zero + 0.25)


def test_nuisances_take_from_the_fallback_what_trees_are_not_asked_for():
    data, _, _ = log()
    split = split_of(data)
    given = fallback(split)
    known = replace(data, propensity=jnp.full(N, 0.01))
    logged = trees.xgboost_nuisances(known, split, outcome=False, fallback=replace(given, propensity=known.propensity))
    np.testing.assert_array_equal(logged.propensity, known.propensity)  # never clipped
    np.testing.assert_array_equal(logged.cost, given.cost)
    ours = trees.xgboost_nuisances(data, split, outcome=False, fallback=given, clipping=Clipping(floor=0.9))
    every = np.asarray(trees.xgboost_propensity(data, split))
    assert (every < 0.3).mean() > 0.2
    np.testing.assert_array_equal(ours.all_propensity, np.maximum(every, np.float32(0.9 / T)))
    chosen = np.take_along_axis(np.asarray(ours.all_propensity), np.asarray(data.model)[:, None], axis=1)[:, 0]
    np.testing.assert_array_equal(ours.propensity, chosen)
    outcomes = trees.xgboost_nuisances(data, split, propensity=False, fallback=given)
    np.testing.assert_array_equal(outcomes.propensity, given.propensity)
    assert np.abs(np.asarray(outcomes.score) - np.asarray(given.score)).mean() > 0.1


def test_one_fold_sees_its_own_rows():
    data, _, _ = log()
    split = split_of(data, n_folds=1)
    score, _ = trees.xgboost_outcome(data, split, rounds=50, learning_rate=0.3, depth=6)
    residual = np.asarray(score)[np.arange(N), np.asarray(data.model)] - np.asarray(data.score)
    assert residual.std() < 0.05  # less than the noise


def test_without_xgboost_the_error_says_what_to_install(monkeypatch):
    data, _, _ = log()
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(ImportError, match=r'pip install "jrouter\[xgboost\]"'):
        trees.xgboost_outcome(data, split_of(data))
