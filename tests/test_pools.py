"""Large pools: relatives of few models, logs with a model less or more, what pruning keeps, and the study itself."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.synthetic import draw_queries, make_world
from jrouter.types import LoggedData

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

import pool_logs  # noqa: E402 (scripts are no package)
import pool_runs  # noqa: E402
import pools  # noqa: E402

BASE = jax.jit(lambda: make_world("nonlinear", dim=6, n_models=4))()


def small_log(rows=60, models=3):
    """A log whose model, score and cost are known row by row."""
    rng = np.random.default_rng(0)
    probability = rng.dirichlet(np.ones(models), rows).astype(np.float32)
    model = (np.arange(rows) % models).astype(np.int32)
    log = LoggedData(
        x=jnp.asarray(rng.normal(size=(rows, 4)), jnp.float32),
        model=jnp.asarray(model),
        score=jnp.asarray(rng.random(rows), jnp.float32),
        cost=jnp.asarray(rng.random(rows), jnp.float32),
        propensity=jnp.asarray(probability[np.arange(rows), model]),
        models=tuple("abcdefgh"[:models]),
    )
    return pool_logs.PoolLog(log, jnp.asarray(probability))


def test_relatives_are_near_their_models_which_are_among_them():
    world = pool_logs.relatives(BASE, jax.random.key(1), n_models=40)
    price, quality = np.asarray(world.price), np.asarray(world.quality)
    assert (np.diff(price) >= 0).all()
    for known_price, known_quality in zip(np.asarray(BASE.price), np.asarray(BASE.quality), strict=True):
        there = np.isclose(price, known_price, rtol=1e-6) & np.isclose(quality, known_quality, rtol=1e-6)
        assert there.any()
    assert price.max() <= 2.001 * float(BASE.price.max()) and price.min() >= 0.499 * float(BASE.price.min())
    np.testing.assert_allclose(np.linalg.norm(world.own, axis=1), 1.0, rtol=1e-5)
    table = draw_queries(world, jax.random.key(2), 50)
    assert table.score.shape == (50, 40) and len(set(table.models)) == 40
    # As many as there are: the world itself.
    same = pool_logs.relatives(BASE, jax.random.key(1), n_models=4)
    for part in ("price", "quality", "own", "mix"):
        np.testing.assert_allclose(getattr(same, part), getattr(BASE, part), rtol=1e-5)


@pytest.mark.parametrize(
    "regime,n_models,words",
    [
        ("specialists", 5, "expected a linear or nonlinear world"),
        ("nonlinear", 3, "expected at least the 4 models of the base, got 3"),
    ],
)
def test_worlds_without_relatives(regime, n_models, words):
    base = BASE if regime == "nonlinear" else jax.jit(lambda: make_world(regime, dim=6, n_models=4))()
    with pytest.raises(ValueError, match=words):
        pool_logs.relatives(base, jax.random.key(0), n_models=n_models)


def test_a_log_without_a_model():
    one = small_log()
    kept = np.array([True, False, True])
    log, probability = pool_logs.only(one, kept)
    rows = np.flatnonzero(np.asarray(one.log.model) != 1)
    assert log.models == ("a", "c") and log.model.shape == (40,)
    np.testing.assert_array_equal(log.score, one.log.score[rows])
    np.testing.assert_array_equal(log.model, np.where(np.asarray(one.log.model)[rows] == 2, 1, 0))
    # Given that one of the two was drawn.
    assert log.propensity is not None
    np.testing.assert_allclose(probability.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(log.propensity, probability[jnp.arange(40), log.model], rtol=1e-5)
    assert pool_logs.only(one, np.ones(3, bool)) is one


def test_a_log_with_a_model_more_weighs_means_right():
    one = small_log()
    x, score, cost = jnp.ones((30, 4)), jnp.full(30, 0.7), jnp.full(30, 2.0)
    log = pool_logs.with_model(one.log, "new", x, score, cost)
    assert log.models == ("a", "b", "c", "new") and log.model.shape == (90,) and log.propensity is not None
    new = np.asarray(log.model) == 3
    np.testing.assert_allclose(log.propensity[new], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(log.propensity[~new], np.asarray(one.log.propensity) * 2 / 3, rtol=1e-6)
    # Weighted by 1 / propensity the k rows speak for all n + k.
    assert float((log.score / log.propensity)[new].sum() / 90) == pytest.approx(0.7, rel=1e-5)


def test_what_pruning_keeps():
    rows = 300
    rng = np.random.default_rng(1)
    model = np.arange(rows) % 4
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    # Model 1 is dearer and worse than 0 everywhere; 3 is the best and dearest; 2 is good where x_0 is.
    score = np.select([model == 0, model == 1, model == 2], [0.5, 0.2, 0.5 + 0.2 * x[:, 0]], 0.9).astype(np.float32)
    cost = np.array([1.0, 2.0, 1.5, 3.0], np.float32)[model]
    log = LoggedData(
        x=jnp.asarray(x),
        model=jnp.asarray(model, jnp.int32),
        score=jnp.asarray(score),
        cost=jnp.asarray(cost),
        propensity=jnp.full(rows, 0.25),
        models=("a", "b", "c", "d"),
    )
    one = pool_logs.PoolLog(log, jnp.full((rows, 4), 0.25))
    lambdas = jnp.array([0.0, 1.0])
    assert pool_runs.kept_by("all", one, lambdas).all()
    assert pool_runs.kept_by("dominated", one, lambdas).tolist() == [True, False, True, True]
    assert pool_runs.kept_by("never best", one, lambdas)[[1, 3]].tolist() == [False, True]
    frontier = pool_runs.kept_by("off the mean frontier", one, lambdas)
    assert frontier[[0, 1, 3]].tolist() == [True, False, True]
    # A router needs two: at lambda 0 the last is always best.
    assert pool_runs.kept_by("never best", one, jnp.array([0.0])).sum() == 2
    with pytest.raises(ValueError, match="unknown variant 'x'"):
        pool_runs.kept_by("x", one, lambdas)


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"sizes": "5"}, "--sizes: expected ascending whole numbers of at least 10, got '5'"),
        ({"sizes": "30,10"}, "--sizes"),
        ({"scored": "1,10"}, "--scored: expected ascending whole numbers of at least 2"),
        ({"questions": "prune,x"}, "--questions: unknown 'x'"),
    ],
)
def test_flags_that_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        pools.keys_of(pools.Options(**changes))


def test_cells_are_all_and_distinct():
    keys = pools.keys_of(pools.Options(sizes="10,30", seeds=2, scored="10,30"))
    assert len({tuple(key.items()) for key in keys}) == len(keys)
    # Per pool and seed: 4 prunings and 2 x 2 restrictions and 2 + 2 x 2 additions of two methods, 2 masks of the third.
    assert len(keys) == 2 * 2 * (2 * (4 + 4 + 6) + 2)


@pytest.mark.slow
def test_the_study_runs_and_resumes(tmp_path):
    command = [sys.executable, str(EXPERIMENTS / "pools.py"), "--smoke", "--out", str(tmp_path)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "pools.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["question"] for row in rows} == set(pools.QUESTIONS) and len(rows) == 17
    assert (tmp_path / "pools.png").stat().st_size > 10_000
    # A router of the pool without a model has as many rows less.
    by_way = {row["way"]: row for row in rows if row["question"] == "add" and row["method"] == "plug_in"}
    assert int(float(by_way["retrain"]["rows"])) == int(float(by_way["without"]["rows"])) + 20
    before = (tmp_path / "pools.json").read_text()
    subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=True)
    assert (tmp_path / "pools.json").read_text() == before
