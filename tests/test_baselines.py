"""What a classifier of the best logged model learns: of full feedback the best model, of a log the old policy."""

import csv
import json
import sys
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jrouter.methods import METHODS
from jrouter.nuisances.crossfit import Nuisances
from jrouter.policy import Problem
from jrouter.types import LoggedData, take_rows

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

import compare_methods  # noqa: E402 (scripts are no package)
import data  # noqa: E402
import imitation  # noqa: E402
import learners  # noqa: E402
from baselines import BASELINES  # noqa: E402
from baselines import imitation as rule  # noqa: E402
from baselines.imitation import ImitationKnnConfig, ImitationMlpConfig, imitation_knn  # noqa: E402

best_rows, labels, examples = map(jax.jit, (rule.best_rows, rule.labels, rule.examples))
N, D, T = 1600, 3, 4
NAMES = tuple(f"model_{number}" for number in range(T))
QUICK = {"imitation_knn": ImitationKnnConfig(), "imitation_mlp": ImitationMlpConfig(epochs=5, batch_size=64)}


def queries(seed: int, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [n, D], and mean scores [n, T] of which the best changes with the query."""
    x = np.random.default_rng(seed).normal(size=(n, D))
    corners = np.array([[2, 0, 0], [-2, 0, 0], [0, 2, 0], [0, -2, 0]])
    return x, 1 / (1 + np.exp(-x @ corners.T))


def log_of(x, model, score, cost=None, **more) -> LoggedData:
    cost = np.full(len(model), 0.1) if cost is None else cost
    arrays = (jnp.asarray(a, jnp.float32) for a in (score, cost))
    return LoggedData(jnp.asarray(x, jnp.float32), jnp.asarray(model, jnp.int32), *arrays, models=NAMES, **more)


def one_row_a_query(seed: int) -> tuple[LoggedData, np.ndarray]:
    """A log by a policy that prefers the WORST models, and its propensities [n, T]."""
    rng = np.random.default_rng(100 + seed)
    x, mean = queries(seed)
    propensity = np.exp(-4 * mean) / np.exp(-4 * mean).sum(axis=1, keepdims=True)
    model = np.array([rng.choice(T, p=row) for row in propensity])
    score = rng.random(N) < mean[np.arange(N), model]
    return log_of(x, model, score, group=jnp.arange(N)), propensity


def every_model_a_query(seed: int, n: int = N // T) -> tuple[LoggedData, np.ndarray, np.ndarray]:
    """Full feedback as a log of n * T rows in random order; the scores and costs [n, T]."""
    rng = np.random.default_rng(200 + seed)
    x, score = queries(seed, n)
    cost = rng.random((n, T))
    query, model = (part.ravel() for part in np.meshgrid(np.arange(n), np.arange(T), indexing="ij"))
    log = log_of(x[query], model, score[query, model], cost[query, model], group=jnp.asarray(query, jnp.int32))
    return take_rows(log, rng.permutation(n * T)), score, cost


@cache
def program(name: str):
    """Jitted: key, problem, queries [m, D], lambda -> models that the fitted method chooses."""
    method = BASELINES[name](QUICK[name])

    def run(key, problem, x, lam):
        params = method.fit(key, problem)
        return jax.vmap(lambda x: method.policy.choice(params, x, lam))(x)

    return jax.jit(run)


def problem_of(log: LoggedData) -> Problem:
    """Without the split, the nuisances and the lambdas, none of which these methods look at."""
    return Problem(log, *([cast(Any, None)] * 3))


def choices(name: str, log: LoggedData, x, lam: float = 0.0) -> np.ndarray:
    return np.asarray(program(name)(jax.random.key(0), problem_of(log), jnp.asarray(x, jnp.float32), lam))


@pytest.mark.parametrize("name", list(QUICK))
def test_on_one_row_a_query_it_learns_the_old_policy_though_that_prefers_the_worst(name):
    log, _ = one_row_a_query(0)
    np.testing.assert_array_equal(labels(log), log.model)  # 100% of labels are the logged model
    np.testing.assert_array_equal(labels(replace(log, group=None)), log.model)
    np.testing.assert_array_equal(examples(log), np.ones(N))
    x, mean = queries(1)
    most_probable = mean.argmin(axis=1)
    chosen = choices(name, log, x)
    assert (chosen == most_probable).mean() > 0.6  # chance is .25
    assert (chosen == mean.argmax(axis=1)).mean() < 0.1
    value, row = mean.mean(), np.arange(N)
    assert mean[row, chosen].mean() < value - 0.2  # than choosing at random
    assert mean[row, chosen].mean() == pytest.approx(mean[row, most_probable].mean(), abs=0.1)


@pytest.mark.parametrize("name", list(QUICK))
def test_on_full_feedback_it_learns_the_best_model(name):
    log, _, _ = every_model_a_query(0)
    x, mean = queries(1)
    chosen = choices(name, log, x)
    assert (chosen == mean.argmax(axis=1)).mean() > 0.8
    np.testing.assert_array_equal(chosen, choices(name, log, x, lam=1000.0))  # no lambda in it


def test_what_was_scored_does_not_matter_on_one_row_a_query():
    log, _ = one_row_a_query(0)
    worst = replace(log, score=1.0 - log.score, cost=7.0 * log.cost)
    for price in (0.0, 3.0):
        np.testing.assert_array_equal(best_rows(worst, price=price), np.arange(N))
    x, _ = queries(1)
    np.testing.assert_array_equal(choices("imitation_mlp", log, x), choices("imitation_mlp", worst, x))


def test_on_full_feedback_labels_are_the_best_by_score_or_by_utility():
    log, score, cost = every_model_a_query(1)
    query = np.asarray(log.group)
    for price in (0.0, 0.7):
        best = (score - price * cost).argmax(axis=1)
        np.testing.assert_array_equal(labels(log, price=price), best[query])
        weight = np.asarray(examples(log, price=price))
        assert np.bincount(query, weight).tolist() == [1.0] * len(score)  # one example a query
        np.testing.assert_array_equal(np.asarray(log.model)[weight > 0], best[query[weight > 0]])


def test_rows_are_those_of_pandas_idxmax_and_ties_go_to_the_first():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    score, group = rng.integers(0, 3, 300) / 2, rng.integers(0, 10**6, 80)[rng.integers(0, 80, 300)]
    log = log_of(np.zeros((300, D)), rng.integers(0, T, 300), score, group=jnp.asarray(group, jnp.int32))
    best = pandas.DataFrame({"query": group, "performance": score}).groupby("query")["performance"].idxmax()
    np.testing.assert_array_equal(best_rows(log), best.loc[group])


def test_rows_without_a_score_or_weight_label_nothing():
    group, scored = jnp.array([0, 0, 1, 1, 2]), jnp.array([False, True, True, True, False])
    log = log_of(
        np.zeros((5, D)),
        [0, 1, 2, 3, 0],
        [0.9, 0.2, 0.5, 0.8, 0.0],
        group=group,
        scored=scored,
        row_weight=jnp.array([1.0, 2.0, 3.0, 0.0, 1.0]),
    )
    assert labels(log).tolist() == [1, 1, 2, 2, -1]
    assert examples(log).tolist() == [0.0, 2.0, 3.0, 0.0, 0.0]


def test_neighbours_vote_as_in_scikit_learn():
    neighbours = pytest.importorskip("sklearn.neighbors")
    log, _ = one_row_a_query(2)
    x, _ = queries(3)
    theirs = neighbours.KNeighborsClassifier(n_neighbors=5).fit(np.asarray(log.x), np.asarray(log.model)).predict(x)
    # Two neighbours as near as float32 can tell may change places.
    assert (choices("imitation_knn", log, x) == theirs).mean() > 0.998


def test_a_log_of_fewer_rows_than_neighbours_has_a_vote():
    log, _ = one_row_a_query(0)
    few = take_rows(log, [0, 1, 2])
    method = imitation_knn()
    key = jax.random.key(0)
    votes = jax.jit(lambda log: method.policy.apply(method.fit(key, problem_of(log)), log.x[0], 0.0))(few)
    np.testing.assert_allclose(votes, np.bincount(np.asarray(few.model), minlength=T) / 3, rtol=1e-6)


def test_they_are_run_where_named_and_in_no_default():
    assert not set(BASELINES) & set(METHODS)
    assert set(learners.NAMED) == {*METHODS, *BASELINES}
    assert {"carl_mean", "carl_lower", "carl_thompson", "mixllm", "pilot", "llm_bandit"} <= set(BASELINES)
    asked = compare_methods.chosen_methods("logging_policy,imitation_mlp,best_single")
    assert asked == ["best_single", "imitation_mlp", "logging_policy"]
    for usual in ("default", "all"):
        assert not set(BASELINES) & set(compare_methods.chosen_methods(usual))
    for name, build in BASELINES.items():
        config = build().config
        again = build(type(config)(**{field.name: getattr(config, field.name) for field in fields(config)}))
        assert again.config == config, name
        assert not (name in QUICK and again.full_feedback), name


def test_the_experiment_writes_what_it_measures(tmp_path, monkeypatch, capsys):
    def no_nuisances(key, log, split, config):
        flat = jnp.full((log.model.shape[0], len(log.models)), 0.5)
        return Nuisances(flat[:, 0], flat, flat, split.fold)

    monkeypatch.setattr(data, "fit_nuisances", no_nuisances)
    # A table of 120 queries, each of them twice, so that some rows are labelled with the other row's model.
    (x, mean), rng = queries(0, 120), np.random.default_rng(0)
    score = (rng.random((240, T)) < np.repeat(mean, 2, axis=0)).astype(float)
    columns = {"query": [f"query {row // 2}" for row in range(240)], "embedding:x": np.repeat(x, 2, axis=0).tolist()}
    for place, name in enumerate(NAMES):
        columns |= {f"score:{name}": score[:, place].tolist(), f"cost:{name}": [0.01 * (1 + place)] * 240}
    pq.write_table(pa.table(columns), tmp_path / "mine.parquet")
    options = imitation.Options(
        table=tmp_path / "mine.parquet",
        smoke=True,
        out=tmp_path,
        logging_policy="model_accuracy",
        lambdas="0,5",
        methods="imitation_knn",
    )
    imitation.main(options)
    (setting,) = json.loads((tmp_path / "imitation.json").read_text())["results"]
    names = {"imitation_knn", imitation.DRAWS, imitation.MOST_PROBABLE}
    assert set(setting["methods"]) == names == set(setting["beside_logging"])
    assert all(0.5 < share < 1.0 for share in setting["labels_logged"])
    # One model is the most probable of all queries, and is drawn as often as the policy says.
    beside = setting["beside_logging"]
    assert beside[imitation.MOST_PROBABLE]["agreement"] == {"estimate": 1.0, "low": 1.0, "high": 1.0}
    drawn = max(setting["methods"][imitation.DRAWS]["shares"][0])
    assert beside[imitation.DRAWS]["agreement"]["estimate"] == pytest.approx(drawn, abs=1e-4)
    utilities = {name: one["mean_over_lambdas"]["utility"]["estimate"] for name, one in setting["methods"].items()}
    for name in names:
        gain = utilities[name] - utilities[imitation.MOST_PROBABLE]
        assert beside[name]["gain"]["estimate"] == pytest.approx(gain, abs=1e-5)
    with open(tmp_path / "imitation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(names) * 2 * 2
    assert (tmp_path / "imitation.png").read_bytes().startswith(b"\x89PNG")
    assert "training labels that are the logged model: " in capsys.readouterr().out
    with pytest.raises(ValueError, match="learns nothing here"):
        imitation.main(replace(options, methods="oracle"))


def test_the_committed_results_show_it():
    settings = json.loads((EXPERIMENTS / "results" / "imitation.json").read_text())["results"]
    assert [setting["table"] for setting in settings] == ["synthetic:specialists", "synthetic:linear"]
    for setting in settings:
        assert setting["n_train"] == 20_000 and setting["labels_logged"] == [1.0] * 5
        worth = {name: np.array(one["utility"]["estimate"]) for name, one in setting["methods"].items()}
        np.testing.assert_allclose(worth["imitation_mlp"], worth[imitation.DRAWS], atol=0.01)
        chance = 1 / len(setting["model_names"])
        for name in QUICK:
            assert setting["beside_logging"][name]["agreement"]["low"] > 2 * chance
            gain = setting["differences"]["rm_auto"][name]
            assert min(gain["low"]) > 0.08 and gain["mean_over_lambdas"]["low"] > 0.14
