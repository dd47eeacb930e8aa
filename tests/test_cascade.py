"""Cascades: what a chain delivers and pays for, the best of all chains, and that studies run it by name."""

import csv
import itertools
from dataclasses import replace
from functools import cache, partial
from typing import Any

import baseline_world as world
import compare_methods
import data
import jax
import jax.numpy as jnp
import leaderboard
import learners
import numpy as np
import pytest
from baselines import BASELINES, cascade
from baselines.cascade import CascadeConfig, Check, ask, chain_outcomes, exact_checks
from baselines.cascade_search import Chain, best_chains

from jrouter.nuisances.regression import knn
from jrouter.policy import evaluate
from jrouter.types import BenchmarkTable, Nuisances

EPSILON = 1e-6
quick = partial(jax.jit, compiler_options=world.QUICK)
search, outcomes_of, ask_one = quick(best_chains), quick(chain_outcomes), quick(ask)
ask_each = quick(
    lambda chain, table: jax.vmap(ask, (None, 0, 0, 0))(chain, exact_checks(table), table.true_score, table.true_cost)
)


def as_array(values) -> jax.Array:
    return jnp.asarray(np.asarray(values, np.float32))


def alike(shape, values) -> jax.Array:
    return as_array(np.broadcast_to(np.asarray(values), shape))


def table_of(n: int = 60, models: int = 4, *, seed: int = 0, graded: bool = False) -> BenchmarkTable:
    rng = np.random.default_rng(seed)
    mean = rng.uniform(0.2, 0.9, (n, models))
    score = mean if graded else rng.random((n, models)) < mean
    return BenchmarkTable(None, as_array(score), as_array(rng.uniform(0.5, 1.5, (n, models)) + 2 * np.arange(models)))


def numbered(chain: Chain) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Models and thresholds of each lambda's chain, without what is never asked."""
    found = []
    for order, threshold in zip(np.asarray(chain.order), np.asarray(chain.threshold), strict=True):
        length = 1 + int(np.isfinite(threshold).cumprod().sum())
        found.append((tuple(order[:length].tolist()), tuple(threshold[: length - 1].tolist())))
    return found


def walked(order, threshold, quality, score, cost) -> tuple[float, float, int]:
    """Score, cost and last model of one query, step by step."""
    paid = 0.0
    for place, model in enumerate(order):
        paid += cost[model]
        if place == len(order) - 1 or quality[model] >= threshold[place]:
            return score[model], paid, model
    raise AssertionError("a chain has a last model")


# One query


def test_two_models_by_hand():
    """The cheap one is right on the first two queries of four, the dear one on the first three."""
    score, cost = as_array([[1, 1], [1, 1], [0, 1], [0, 0]]), alike((4, 2), [1, 4])
    lambdas = as_array([0.0, 0.05, 0.1, 0.2, 1.0])
    chain = search(score, score, cost, alike((2, 2), [0.5, 1.0]), lambdas)
    # The cheap one alone .5 - lam, the dear one alone .75 - 4 lam, the dear one where the cheap one fails .75 - 3 lam.
    assert numbered(chain) == [((1,), ()), *[((0, 1), (0.5,))] * 2, ((0,), ()), ((0,), ())]
    table = BenchmarkTable(None, score, cost)
    outcomes, used = outcomes_of({**chain._asdict(), "lambdas": lambdas}, exact_checks(table), table, lambdas)
    np.testing.assert_allclose(np.mean(outcomes.utility, axis=1), [0.75, 0.6, 0.45, 0.3, -0.5], atol=EPSILON)
    np.testing.assert_allclose(outcomes.cost[1], [1, 1, 5, 5])
    np.testing.assert_allclose(outcomes.score[1], [1, 1, 1, 0])
    # To the best single model: 1 - lam twice, 1 - 4 lam where only the dear one is right, -lam where none is.
    np.testing.assert_allclose(outcomes.regret[1], [0, 0, 0.05, 0.2], atol=EPSILON)
    np.testing.assert_allclose(outcomes.routing_accuracy[1], [1, 1, 1, 0])
    np.testing.assert_allclose(used[1], [0.5, 0.5])


def test_all_that_are_asked_are_paid_for():
    score, cost = as_array([0.2, 0.9, 0.5]), as_array([1.0, 10.0, 100.0])
    check = Check(score[:, None], as_array(np.ones((3, 1))), score[:, None])
    for threshold, paid, last in (([0.5, 0.3], 100.0, 2), ([0.6, 0.2], 101.0, 0), ([0.6, 0.3], 111.0, 1)):
        found = ask_one(Chain(jnp.array([2, 0, 1]), as_array(threshold)), check, score, cost)
        assert float(found.cost) == paid and float(found.score) == float(score[last])
        assert np.asarray(found.used).tolist() == np.eye(3)[last].tolist()


def test_a_check_by_chance_is_the_mean_over_its_draws():
    p, cost = np.array([0.3, 0.6, 0.8]), np.array([1.0, 2.0, 5.0])
    table = BenchmarkTable(None, as_array([[1, 1, 0]]), as_array([cost]), as_array([p]), as_array([cost]))
    for order in ([1, 0, 2], [2, 1, 0]):
        found = ask_each(Chain(jnp.array(order), as_array([0.5, 1.0])), table)
        score = paid = 0.0
        used = np.zeros(3)
        for drawn in itertools.product([0.0, 1.0], repeat=3):
            chance = np.prod(np.where(drawn, p, 1 - p))
            one, price, last = walked(order, [0.5, 1.0], drawn, drawn, cost)
            score, paid, used[last] = score + chance * one, paid + chance * price, used[last] + chance
        np.testing.assert_allclose([found.score[0], found.cost[0]], [score, paid], rtol=1e-6)
        np.testing.assert_allclose(found.used[0], used, rtol=1e-6)


def test_a_certain_mean_is_what_was_seen_and_grades_are_those_drawn():
    table, chain = table_of(), Chain(jnp.array([0, 1, 2]), as_array([0.5, 0.5]))
    certain = ask_each(chain, replace(table, mean_score=table.score, mean_cost=table.cost))
    for ours, theirs in zip(certain, ask_each(chain, table), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=EPSILON)
    graded = table_of(graded=True)
    found = ask_each(chain, replace(graded, mean_score=alike((60, 4), 0.55), mean_cost=graded.cost))
    for row in range(10):
        score, cost = np.asarray(graded.score[row]), np.asarray(graded.cost[row])
        # The last is not checked: its mean counts.
        expected = walked([0, 1, 2], [0.5, 0.5], score, [*score[:2], 0.55], cost)[:2]
        np.testing.assert_allclose([found.score[row], found.cost[row]], expected, rtol=1e-6)


# All chains


def mean_of(order, threshold, quality, score, cost, weight) -> np.ndarray:
    """Mean score and cost, in float64."""
    rows = (np.asarray(part, np.float64) for part in (quality, score, cost))
    return np.average([walked(order, threshold, *row)[:2] for row in zip(*rows, strict=True)], axis=0, weights=weight)


@pytest.mark.parametrize("models", [4, 2, 1])
def test_the_best_of_all_chains(models):
    table = table_of(30, models, graded=True, seed=3)
    rng = np.random.default_rng(1)
    quality = as_array(0.5 * np.asarray(table.score) + rng.uniform(0, 0.5, table.score.shape))
    grid = np.quantile(quality, [0.3, 0.7], axis=0).T.astype(np.float32)
    lambdas, weight = np.array([0.0, 0.02, 0.05, 0.1, 1.0], np.float32), rng.integers(0, 3, 30)
    found = numbered(search(quality, table.score, table.cost, as_array(grid), as_array(lambdas), as_array(weight)))
    means = {
        (order, threshold): mean_of(order, threshold, quality, table.score, table.cost, weight)
        for length in range(1, min(3, models) + 1)
        for order in itertools.permutations(range(models), length)
        for threshold in itertools.product(*[grid[model].tolist() for model in order[:-1]])
    }
    for chosen, lam in zip(found, lambdas.astype(np.float64), strict=True):
        worth = {chain: score - lam * cost for chain, (score, cost) in means.items()}
        assert worth[chosen] == pytest.approx(max(worth.values()), abs=1e-6)
        shortest = min(len(order) for (order, _), value in worth.items() if value > max(worth.values()) - 1e-9)
        assert len(chosen[0]) == shortest
    if models == 4:
        assert {len(order) for order, _ in found} == {1, 2, 3}


def test_no_chain_where_nothing_fails_and_the_cheapest_at_a_high_price():
    table, lambdas, grid = table_of(models=5), as_array([0.0, 0.1, 1e4]), alike((5, 2), [0.5, 1.0])
    score = np.array(table.score)
    found = numbered(search(table.score, table.score, table.cost, grid, lambdas))
    assert found[-1] == ((0,), ()) and len(found[0][0]) == 3
    score[:, 0] = 1.0
    assert numbered(search(as_array(score), as_array(score), table.cost, grid, lambdas)) == [((0,), ())] * 3


# The methods


@cache
def program(config: CascadeConfig):
    method = cascade.cascade(config)

    def run(problem, table):
        params = method.fit(jax.random.key(0), problem)
        return params, *method.outcomes(params, table, problem.lambdas)

    return quick(run)


def test_a_chain_of_one_is_that_model_as_any_policy_is_judged():
    table = replace(table_of(), mean_score=table_of(graded=True).score)
    lambdas = as_array([0.0, 0.3])
    alone = {"order": jnp.full((2, 3), 2), "threshold": jnp.full((2, 2), -jnp.inf), "lambdas": lambdas}
    found, used = outcomes_of(alone, exact_checks(table), table, lambdas)
    always = learners.NAMED["best_single"]().policy
    always = replace(always, apply=lambda params, x, lam: as_array(np.eye(4)[2]))
    expected, share = quick(lambda table: evaluate(always, {}, table, lambdas))(replace(table, x=table.score))
    for ours, theirs in zip([*found, used], [*expected, share], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=EPSILON)


@pytest.mark.parametrize("binary", [True, False])
def test_the_checked_one_is_never_below_the_best_model_on_its_own_rows(binary):
    problem = world.problem_of(binary=binary)
    assert problem.full is not None
    _, outcomes, used = program(CascadeConfig(checked=True))(problem, problem.full)
    utility = np.mean(outcomes.utility, axis=1)
    alone = np.mean(problem.full.score, axis=0) - world.LAMBDAS[:, None] * np.mean(problem.full.cost, axis=0)
    assert (utility >= alone.max(axis=1) - 1e-5).all() and utility[0] > alone[0].max() + 0.05
    # The cheapest alone at the highest lambda; one answer a query; and hindsight is not beaten where all is known.
    np.testing.assert_allclose(utility[2], alone[2, 0], rtol=1e-5)
    np.testing.assert_allclose(np.sum(used, axis=1), 1.0, rtol=1e-5)
    assert np.min(outcomes.regret) > -1e-4


def judging(*, drawn: bool) -> tuple[BenchmarkTable, np.ndarray]:
    """400 queries of the world, and their mean scores."""
    x, cluster = world.draw(5, 400)
    mean, cost = world.MEAN[cluster], alike((400, 3), world.PRICE)
    score = np.random.default_rng(6).random((400, 3)) < mean
    table = BenchmarkTable(as_array(x), as_array(score if drawn else mean), cost, models=world.NAMES)
    return replace(table, mean_score=as_array(mean), mean_cost=cost) if drawn else table, mean


def test_a_check_beats_what_is_known_beforehand():
    """Where means judge, no policy has less regret than 0; a check of drawn answers does."""
    (test, _), run = judging(drawn=True), program(CascadeConfig(checked=True))
    outcomes = run(world.problem_of(), test)[1]
    assert np.mean(outcomes.regret[0]) < -0.05
    # The draws that judge are not looked at, but for whether they are 0 or 1.
    other = run(world.problem_of(), replace(test, score=1.0 - test.score))[1]
    np.testing.assert_array_equal(outcomes.utility, other.utility)


def test_what_is_predicted_can_only_waste():
    problem, (test, mean) = world.problem_of(), judging(drawn=False)
    params, outcomes, used = program(CascadeConfig())(problem, test)
    score, cost, utility = (np.asarray(part) for part in outcomes[:3])
    lengths = [len(order) for order, _ in numbered(Chain(params["order"], params["threshold"]))]
    assert max(lengths) > 1 and lengths[-1] == 1
    for place, lam in enumerate(world.LAMBDAS):
        # Whose answer it is, asked alone, costs at most as much.
        owner = np.abs(mean - score[place, :, None]) < EPSILON
        assert owner.any(axis=1).all()
        assert (cost[place] >= np.where(owner, world.PRICE, np.inf).min(axis=1) - EPSILON).all()
        np.testing.assert_allclose(utility[place], score[place] - lam * cost[place], rtol=1e-5, atol=1e-5)
        assert np.min(outcomes.regret[place]) > -1e-4
    # It tells clusters apart: better than the best model alone.
    assert utility[0].mean() > mean.mean(axis=0).max() + 0.05
    np.testing.assert_allclose(np.sum(used, axis=1), 1.0, rtol=1e-5)


def test_thresholds_are_chosen_on_held_out_predictions(monkeypatch):
    """Of noise nothing is to be known; but one neighbour knows the score of each query that it was fitted on."""
    problem = world.problem_of(n=300)
    assert problem.full is not None
    noise = as_array(np.random.default_rng(0).random((300, 3)) < 0.5)
    lambdas = as_array([0.1])
    checked = search(noise, noise, problem.full.cost, alike((3, 1), 0.5), lambdas)
    assert len(numbered(checked)[0][0]) > 1
    monkeypatch.setitem(cascade.PREDICTORS, "knn", lambda: knn((1.0,)))
    fit = quick(cascade.cascade(CascadeConfig(predictor="knn")).fit)
    params = fit(jax.random.key(0), replace(problem, full=replace(problem.full, score=noise), lambdas=lambdas))
    assert numbered(Chain(params["order"], params["threshold"])) == [((0,), ())]


def test_another_lambda_is_served_by_the_nearest():
    table, lambdas = table_of(), as_array([0.4, 0.6, 9.0])
    order = jnp.array([[1, 1, 1], [3, 3, 3]])
    params = {"order": order, "threshold": jnp.full((2, 2), -jnp.inf), "lambdas": as_array([0.0, 1.0])}
    used = outcomes_of(params, exact_checks(table), table, lambdas)[1]
    assert np.argmax(used, axis=1).tolist() == [1, 3, 3]


# By name


@pytest.fixture
def named(monkeypatch):
    """Programs that compile fast, 4 models on 200 rows, means of the log for nuisances."""

    def table(n, seed):
        rng = np.random.default_rng(seed)
        return replace(table_of(n, seed=seed), x=as_array(rng.normal(size=(n, 3))), models=tuple("abcd"))

    def means(log, split):
        shape = (log.model.shape[0], 4)
        return Nuisances(alike(shape[0], 0.25), alike(shape, 0.5), alike(shape, 1.0), split.fold)

    test = table(60, 99)
    found = [data.Source("synthetic:mine", None, lambda seed: table(200, seed), test, (1.0, 0.1))]
    monkeypatch.setattr(learners, "compiler_options", lambda fast: data.compiler_options(True))
    monkeypatch.setattr(learners, "estimate_nuisances", lambda seed, log, split, config, *, fast: means(log, split))
    monkeypatch.setattr(leaderboard, "sources", lambda options: found)
    monkeypatch.setattr(data, "fit_nuisances", lambda key, log, split, config: means(log, split))
    monkeypatch.setattr(leaderboard, "critical_difference_figure", lambda *drawn: None)
    for name, build in cascade.VARIANTS.items():
        monkeypatch.setitem(BASELINES, name, build)
        monkeypatch.setitem(learners.NAMED, name, build)
    monkeypatch.setattr(leaderboard, "FULL_FEEDBACK", {*leaderboard.FULL_FEEDBACK, *cascade.VARIANTS})
    return found[0]


def test_the_leaderboard_ranks_them(tmp_path, named, capsys):
    names = ["best_single", *cascade.VARIANTS]
    options: dict[str, Any] = dict(methods=",".join(names), logging_policy="uniform", seeds=1, lambdas="0,0.1")
    leaderboard.main(leaderboard.Options(**options, out=tmp_path))
    assert "cascade_checked_full*" in capsys.readouterr().out
    with open(tmp_path / "leaderboard.csv", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert {name for name in names if rows[name]["full_feedback"] == "True"} == {*cascade.VARIANTS}
    # Nothing can be predicted, all can be checked.
    best = float(rows["best_single"]["utility"])
    assert float(rows["cascade_checked_full"]["utility"]) > best + 0.1 > float(rows["cascade_full"]["utility"])


def test_compare_methods_runs_them_on_several_logs(named):
    options = compare_methods.Options(seeds=2, lambdas="0,0.1", smoke=True)
    simulation = data.simulate(named, "uniform", options)
    assert compare_methods.chosen_methods("cascade_checked_full") == ["cascade_checked_full"]
    judged = compare_methods.run_setting(
        named, simulation, ["best_single", "cascade_checked_full"], fast=True, note=lambda text: None
    )
    one = judged["cascade_checked_full"]
    assert one.full_feedback and one.outcomes.utility.shape == (2, 2, 60) and one.shares.shape == (2, 2, 4)
    assert (one.outcomes.utility[:, 0].mean(axis=1) > judged["best_single"].outcomes.utility[:, 0].mean(axis=1)).all()


def test_it_is_no_policy():
    method = cascade.cascade()
    with pytest.raises(ValueError, match="asks several models a query"):
        method.policy.choice({}, jnp.zeros(3), 0.0)
