"""Violated assumptions: worlds do what they say, analyses are the package's, and the study runs and resumes."""

import csv
import doctest
import os
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.known_worlds import EDGE, draw_known_queries
from jrouter.metrics import utility
from jrouter.nuisances.crossfit import OUTCOME_MODELS, PROPENSITY_MODELS, NuisanceConfig
from jrouter.off_policy import fixed_policy_value
from jrouter.splits import split_log
from jrouter.types import LoggedData

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

import assumption_page  # noqa: E402 (scripts are no package)
import assumption_programs as programs  # noqa: E402
import assumptions  # noqa: E402
import cells  # noqa: E402
import command_line  # noqa: E402
import sessions  # noqa: E402
import violations  # noqa: E402
from assumption_analyses import Analyses, Found, Learned, Values, summary  # noqa: E402
from assumption_cells import VIOLATIONS  # noqa: E402
from violations import LAM  # noqa: E402

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def light():
    """The study's nuisance models, by name."""
    outcome, propensity = programs.LIGHT["outcome"], programs.LIGHT["propensity"]
    with patch.dict(OUTCOME_MODELS, outcome), patch.dict(PROPENSITY_MODELS, propensity):
        yield NuisanceConfig(*outcome, *propensity)


def within(values, truth, errors=4.0):
    """Whether a mean of values is as near to the truth as its standard error lets one expect."""
    values = np.asarray(values, np.float64)
    return abs(values.mean() - truth) < errors * values.std() / np.sqrt(values.size)


# Affine utility


@pytest.mark.parametrize("family", violations.FAMILIES)
def test_mean_utilities_are_those_of_many_draws(family):
    rng = np.random.default_rng(0)
    score, cost = 0.6, 9e-4
    drawn = (rng.random(1_000_000) < score).astype(float)
    noise = violations.COST_NOISE
    costs = cost * np.exp(noise * rng.normal(size=drawn.size) - noise**2 / 2)
    for strength in (0.0, 0.3, 1.0):
        function = violations.mixed_utility(family)
        values = np.asarray(function(jnp.asarray(drawn), jnp.asarray(costs), strength), float)
        expected = float(violations.mean_utility(family, jnp.float32(score), jnp.float32(cost), strength))
        assert within(values, expected)
    affine = violations.mean_utility(family, jnp.float32(score), jnp.float32(cost), 0.0)
    assert float(affine) == pytest.approx(score - LAM * cost, rel=1e-6)
    # Of means it is another number: what the study is about.
    of_means = float(function(jnp.float32(score), jnp.float32(cost), 1.0))
    assert abs(of_means - expected) > 0.01
    # The programs choose a family by its number.
    number = jnp.int32(list(violations.FAMILIES).index(family))
    found = programs.utility_of(number, jnp.float32(score), jnp.float32(cost), jnp.float32(1.0))
    assert float(found) == pytest.approx(of_means, rel=1e-6)


# Lipschitz scores


def test_scores_jump_and_the_logger_follows_where_it_knows():
    world = violations.make_world(0, half=True)
    x = draw_known_queries(world, KEY, 200)
    plain, jumped = (jax.vmap(means)(x) for means in (violations.means_of(world), violations.jump_means(world, 0.4)))
    sign = np.where(np.arange(4) % 2 == 0, 1, -1)
    side = np.where(np.asarray(x[:, 0]) > 0, 0.5, -0.5)
    np.testing.assert_allclose(jumped[0] - plain[0], 0.4 * side[:, None] * sign, atol=1e-6)
    np.testing.assert_array_equal(jumped[1], plain[1])
    unaware, aware = (violations.draw_jump_log(world, KEY, 200, 0.4, follow) for follow in (0.0, 5.0))
    np.testing.assert_allclose(unaware[1], violations.propensities(world, unaware[0].x), rtol=1e-5)
    odds = np.log(np.asarray(aware[1], float)) - np.log(np.asarray(unaware[1], float))
    followed = np.where(np.asarray(aware[0].x[:, 0]) > 0, 1.0, -1.0)
    np.testing.assert_allclose(odds[:, 0] - odds[:, 1], 2 * followed, atol=1e-4)


def test_bounds_hold_with_the_right_lipschitz_constant_and_break_with_a_small_one():
    rng = np.random.default_rng(0)
    logits, worth = (jnp.asarray(rng.normal(size=(300, 4)), jnp.float32) for _ in range(2))
    half = (worth.max(axis=1) - worth.min(axis=1)) / 2
    right = jax.vmap(programs.bounds_of)(logits, worth, half)
    assert not right["pinsker broken"].any() and not right["exact broken"].any()
    assert (right["exact"] <= right["pinsker"] + 1e-6).all()
    chosen = np.exp(np.asarray(logits, float))
    chosen /= chosen.sum(axis=1, keepdims=True)
    regret = np.asarray(worth).max(axis=1) - (chosen * np.asarray(worth)).sum(axis=1)
    np.testing.assert_allclose(right["regret"], regret, atol=1e-5)
    wrong = jax.vmap(programs.bounds_of)(logits, worth, 0.2 * half)
    assert wrong["pinsker broken"].mean() > 0.5


# Ignorability


def test_logging_by_outcomes_raises_scores_and_its_own_probabilities_undo_it():
    world = violations.make_world(0)
    draw = jax.jit(lambda share: violations.draw_outcome_log(world, KEY, 20_000, share))
    x = draw_known_queries(world, jax.random.key(5), 100_000)
    means = np.asarray(jax.vmap(violations.means_of(world))(x)[0]).mean(axis=0)
    for share, least in ((0.0, -0.1), (0.5, 0.1), (1.0, 0.3)):
        log, every = draw(share)
        np.testing.assert_allclose(every.sum(axis=1), 1.0, rtol=1e-5)
        score, model = np.asarray(log.score), np.asarray(log.model)
        assert score.mean() - means.mean() > least
        for t in range(4):
            weight = (model == t) / np.asarray(every, float)[:, t]
            assert within(weight * score, means[t])
            # Weights from x alone (all models are logged about equally often) do not undo it.
            assert share == 0 or score[model == t].mean() > means[t] + 0.05
    np.testing.assert_allclose(draw(0.0)[1], 0.25, rtol=1e-6)


# SUTVA


@pytest.fixture(scope="module")
def drawn():
    world = violations.make_world(0, half=True)
    return world, jax.jit(lambda key: sessions.draw_sessions(world, key, 40_000, 0.2))(KEY)


def test_sessions_remember_who_answered_before(drawn):
    world, found = drawn
    log, turns = found.log, sessions.TURNS
    model, kept = np.asarray(log.model).reshape(-1, turns), np.asarray(found.kept).reshape(-1, turns)
    assert kept[:, 0].all()
    np.testing.assert_array_equal(kept[:, 1:], model[:, 1:] == model[:, :-1])
    before = np.asarray(found.previous).argmax(axis=1).reshape(-1, turns)
    assert (before[:, 0] == 4).all() and (before[:, 1:] == model[:, :-1]).all()
    assert (np.asarray(log.group).reshape(-1, turns) == np.arange(model.shape[0])[:, None]).all()
    x = np.asarray(log.x)
    assert np.abs(x).max() < EDGE and x.mean() == pytest.approx(0, abs=0.05) and x.var() == pytest.approx(1, abs=0.05)
    # What a switch costs, and nothing else: residuals by whether the model was kept.
    mean = jax.vmap(lambda x, kept: sessions.session_means(world, x, kept, 0.0)[0])(log.x, found.kept)
    residual = np.asarray(log.score) - np.take_along_axis(np.asarray(mean), model.reshape(-1, 1), axis=1)[:, 0]
    of_kept, of_lost = residual[kept.reshape(-1)], residual[~kept.reshape(-1)]
    error = residual.std() * np.sqrt(1 / of_kept.size + 1 / of_lost.size)
    assert of_kept.mean() - of_lost.mean() == pytest.approx(0.2, abs=5 * error)
    # Turns of a session share their user.
    by_session = residual.reshape(-1, turns).mean(axis=1)
    assert by_session.var() > 2 * residual.var() / turns


def test_deployed_policies_pay_for_their_switches():
    world, loss = violations.make_world(0, half=True), 0.2

    def worth(apply, loss):
        return float(sessions.deployed_utility(world, KEY, apply, loss, sessions=200))

    def stays(x):
        return jax.nn.one_hot(0, 4)

    def alternates(x):
        # Model 0 at the first turn and after model 1, else model 1.
        return jax.nn.one_hot(jnp.where(x[4] == 1, 1, 0), 4)

    assert worth(stays, loss) - worth(stays, 0.0) == pytest.approx(loss / 2, abs=1e-5)
    turns = sessions.TURNS
    paid = worth(alternates, loss) - worth(alternates, 0.0)
    assert paid == pytest.approx(loss * (0.5 - (turns - 1) * 0.5) / turns, abs=1e-5)


def test_pairs_of_turns_value_the_deployment_and_single_turns_do_not(drawn):
    world, found = drawn
    every = violations.propensities(world, found.log.x)
    pairs = sessions.pair_log(found, every)
    params = violations.rule_params(world)
    model, kept, p = np.asarray(found.log.model), np.asarray(found.kept), np.asarray(every)
    assert pairs.propensity is not None
    for row in (0, 1, 7, sessions.TURNS, sessions.TURNS + 3):
        t = model[row]
        stayed = p[row - 1, t] if kept[row] else 1 - p[row - 1, t]
        expected = p[row, t] * (1.0 if row % sessions.TURNS == 0 else stayed)
        assert float(pairs.propensity[row]) == pytest.approx(expected, rel=1e-5)
        assert int(pairs.model[row]) == 2 * t + (not kept[row])
    choice = np.asarray(jax.vmap(lambda x: sessions.PAIR_RULE.probabilities(params, x, LAM))(pairs.x))
    alone = np.asarray(jax.vmap(lambda x: violations.RULE.probabilities(params, x, LAM))(found.log.x))
    # The model of the chosen pair is the one that the rule chooses alone, kept where it was chosen before too.
    np.testing.assert_array_equal(choice.reshape(-1, 4, 2).sum(axis=2), alone)
    same = (alone * np.roll(alone, 1, axis=0)).sum(axis=1) == 1
    same[:: sessions.TURNS] = True
    np.testing.assert_array_equal(choice.reshape(-1, 4, 2)[:, :, 0].sum(axis=1), same)

    worth = np.asarray(utility(found.log.score, found.log.cost, LAM))
    truth = float(
        sessions.deployed_utility(
            world, jax.random.key(3), lambda x: violations.RULE.apply(params, x, LAM), 0.2, sessions=5_000
        )
    )
    rows = np.arange(model.size)
    by_pairs = choice[rows, np.asarray(pairs.model)] / np.asarray(pairs.propensity) * worth
    by_rows = alone[rows, model] / p[rows, model] * worth
    by_session = by_pairs.reshape(-1, sessions.TURNS).mean(axis=1)
    assert within(by_session, truth) and by_session.std() / np.sqrt(by_session.size) < 0.02
    assert by_rows.mean() < truth - 0.05


# The same traffic


def test_density_ratios_turn_the_log_into_later_traffic():
    world = violations.make_world(0)
    x = draw_known_queries(world, KEY, 50_000)
    for tilt in (0.0, 0.5, 2.0):
        later = violations.tilted_queries(world, jax.random.key(1), 50_000, tilt)
        assert np.abs(np.asarray(later)).max() <= EDGE * (1 + 1e-5)
        ratio = np.asarray(jax.vmap(lambda x, tilt=tilt: violations.density_ratio(x, tilt))(x), float)
        assert within(ratio, 1.0) if tilt else (ratio == 1).all()
        # Both means err: what the ratio weighs by more than what it is weighed with.
        assert within(ratio * np.asarray(x[:, 0], float), np.asarray(later[:, 0], float).mean(), errors=6)
    unchanged = violations.tilted_queries(world, KEY, 10, 0.0)
    np.testing.assert_array_equal(unchanged, draw_known_queries(world, KEY, 10))
    estimated = programs.estimated_ratio(x[None, :4_000], later[None, :4_000])[0]
    known = ratio[:4_000] / ratio[:4_000].mean()
    assert np.abs(np.asarray(estimated) / known - 1).mean() < 0.1


def test_one_model_falls_and_blocks_of_time_show_it(light):
    world = violations.make_world(0, half=True, difficulty=violations.DIFFICULTY)
    draw = jax.jit(lambda key, fall, since: violations.draw_falling_log(world, key, 2_000, 1, fall, since))
    never, late = draw(KEY, 0.3, 1.0), draw(KEY, 0.3, 0.75)
    np.testing.assert_array_equal(never.model, late.model)
    differs = np.asarray(never.score != late.score)
    assert (np.asarray(late.time)[differs] >= 0.75).all() and (np.asarray(late.model)[differs] == 1).all()
    assert differs.sum() > 0.1 * (np.asarray(late.model)[1_500:] == 1).sum()

    keys = jax.random.split(KEY, 40)
    split = replace(split_log([never], seeds=[0])[0], model_size=2_000)
    check = jax.jit(lambda logs: programs.block_statistics(logs, split, config=light))
    holds, falls = (
        np.asarray(check(jax.vmap(lambda key, fall=fall: draw(key, fall, 0.75))(keys))) for fall in (0.0, 0.3)
    )
    # Chi^2 of 3 degrees of freedom, of mean 3 and variance 6, where nothing falls; else for one model alone.
    assert within(holds, 3.0) and holds.var() == pytest.approx(6.0, rel=0.6)
    assert falls[:, 1].mean() > 12 and within(falls[:, [0, 2, 3]], 3.0)


# Analyses


@pytest.mark.slow
def test_values_are_those_of_the_package(light):
    world, n = violations.make_world(0), 120
    logs = jax.vmap(lambda key: violations.draw_log(world, key, n))(jax.random.split(KEY, 2))
    analyses = Analyses(n=n, logs=2, learner_logs=2, world_seed=0, truth_queries=64, fast=True)
    found = analyses.values(logs, world, 0.5)
    assert list(found) == list(programs.ESTIMATORS)
    one = jax.tree.map(lambda leaf: leaf[1], logs)
    params = violations.rule_params(world)
    for name in ("dr", "ips"):
        value = jax.jit(
            lambda log, name=name: fixed_policy_value(
                programs.KEY,
                log,
                analyses.split,
                violations.RULE,
                params,
                jnp.array([LAM]),
                nuisances=light,
                estimator=name,
            )[:2]
        )(one)
        # Weights and groups of no effect were added in between.
        assert float(found[name].value[1]) == pytest.approx(float(value[0][0]), rel=1e-4)
        assert float(found[name].error[1]) == pytest.approx(float(value[1][0]), rel=1e-3)


def test_a_summary_counts_what_intervals_hold():
    values = Values(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.2, 0.2, 0.2, 2.0]), 1.5)
    cell = summary(Found({"dr": values}, {"m": Learned(np.array([0.5, 0.7]), np.array([0.2, 0.0]))}, {"flagged": 0.5}))
    one = cell["values"]["dr"]
    assert (one["bias"], one["coverage"], one["logs"]) == (0.0, 0.25, 4)
    assert one["bias_error"] == pytest.approx(np.std([0, 1, 2, 3], ddof=1) / 2)
    assert cell["learned"]["m"]["regret"] == pytest.approx(0.1) and cell["shares"] == {"flagged": 0.5}


# The script


def test_docstrings_are_true():
    found = doctest.testmod(violations)
    assert found.attempted and not found.failed


def test_the_study_runs_resumes_and_agrees_with_itself(tmp_path, capsys, monkeypatch):
    shorter = VIOLATIONS["decline"]._replace(variants=("in the log's last quarter",), strengths=(0.0, 0.2))
    monkeypatch.setitem(VIOLATIONS, "decline", shorter)
    # As in a process of its own: other tests of this file have put them there.
    monkeypatch.delitem(OUTCOME_MODELS, "light_ridge", raising=False)
    monkeypatch.delitem(PROPENSITY_MODELS, "light_logistic", raising=False)
    options = assumptions.Options(violations="decline", smoke=True, out=tmp_path, budget_minutes=0.0)
    assumptions.main(options)
    assert "0 of 2 cells are done" in capsys.readouterr().out
    assumptions.main(replace(options, budget_minutes=None))
    assert "a model becomes worse" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["assumptions.csv", "assumptions.json", "assumptions.png"]
    picture = (tmp_path / "assumptions.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n") and len(picture) > 5000
    path = tmp_path / "assumptions.json"
    (group,) = cells.current(path)
    before, after = (cell["values"]["dr"] for cell in group["cells"])
    # The same queries and noise: only what the fallen model's late rows scored is another.
    assert after["truth"] < before["truth"] and after["logs"] == 4
    with open(path.with_suffix(".csv"), newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == "dr"]
    assert [float(row["bias"]) for row in rows] == pytest.approx([before["bias"], after["bias"]], abs=1e-7)
    table = assumption_page.value_table("decline", path)
    assert f"{100 * after['bias']:+.1f} ± " in table and "dr, last quarter" in table

    def again(*given):
        raise AssertionError("a kept cell was computed again")

    monkeypatch.setitem(VIOLATIONS, "decline", shorter._replace(cell=again))
    assumptions.main(replace(options, budget_minutes=None))
    # What was put in the package's dictionaries is gone.
    assert not {"light_ridge", "light_logistic"} & {*OUTCOME_MODELS, *PROPENSITY_MODELS}


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--violations", "gravity"], "--violations: unknown 'gravity', expected some of affine"),
        (["--n", "130"], "--n: expected a multiple of 20"),
        (["--seeds", "1"], "--seeds: expected at least 2"),
        (["--budget-minutes", "-1"], "--budget-minutes: expected a number of at least 0"),
    ],
)
def test_misuse_ends_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["assumptions.py", "--out", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as stop:
        command_line.script(assumptions.main, assumptions.Options, assumptions.__doc__)
    text = stop.value.code
    assert isinstance(text, str) and text.startswith("error: ") and "\n" not in text and message in text
    assert os.listdir(tmp_path) == []


def test_every_violation_has_its_words():
    assert (
        set(VIOLATIONS) == set(assumption_page.STRENGTHS) == set(assumption_page.TITLES) == set(assumption_page.LINES)
    )
    assert all(strengths[0] == 0 for _, _, strengths in VIOLATIONS.values())
    assert isinstance(violations.draw_log(violations.make_world(0), KEY, 8), LoggedData)
