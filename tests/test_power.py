"""Power: simulated worlds are what they say, and their power is that of the formula where overlap is good."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter import power_search
from jrouter.inference import standard_error
from jrouter.known_worlds import draw_known_log, linear_rule, make_known_world, mean_outcomes
from jrouter.power import gain_rows, power_by_formula, power_curve, power_grid, rows_by_formula
from jrouter.power_search import exploration_needed, rows_needed
from jrouter.power_world import (
    draw_rows,
    exploration_price,
    explored,
    gain_deviation,
    make_power_world,
    noise_of_models,
    with_gain,
)
from jrouter.types import Nuisances

N, T, LAM, GAIN, B = 500, 4, 100.0, 0.08, 2000
SIZES = (200, 400, 900)
SHARE = 0.5
"""Of exploration: overlap is good, and estimates are near normal at 200 rows."""


@cache
def parts(spread=0.7):
    """(log, its true nuisances, a policy's choices)."""
    world = jax.jit(lambda: make_known_world(jax.random.key(0), spread=spread))()

    @jax.jit
    def draw():
        log, propensity = draw_known_log(world, jax.random.key(1), N)
        score, cost = jax.vmap(partial(mean_outcomes, world))(log.x)
        chosen = jnp.take_along_axis(propensity, log.model[:, None], axis=1)[:, 0]
        policy, params = linear_rule(world)
        probability = jax.vmap(lambda x: policy.probabilities(params, x, LAM))(log.x)
        return log, Nuisances(chosen, score, cost, jnp.zeros_like(log.model), propensity), probability

    return draw()


@cache
def made(spread=0.7):
    log, nuisances, probability = parts(spread)
    return make_power_world(log, nuisances, probability, LAM)


@cache
def world(spread=0.7, gain=GAIN):
    return jax.jit(with_gain)(made(spread), gain)


deviation_of = jax.jit(gain_deviation)
curve_of = jax.jit(power_curve, static_argnames=("sizes", "n_rows", "n_simulations", "one_sided", "fit", "at_once"))


@cache
def curve(gain=GAIN, one_sided=False):
    found = curve_of(
        jax.random.key(2), world(gain=gain), sizes=SIZES, exploration=SHARE, n_simulations=B, one_sided=one_sided
    )
    return jax.tree.map(np.asarray, found)


def test_the_gain_is_what_it_is_set_to_and_the_means_move_along_the_contrast_only():
    before, after = made(), world()
    contrast, weight = np.asarray(after.contrast, np.float64), np.asarray(after.weight)
    gain = np.average((contrast * np.asarray(after.mean, np.float64)).sum(axis=1), weights=weight)
    assert gain == pytest.approx(GAIN, abs=1e-6) and float(after.gain) == pytest.approx(GAIN, abs=1e-6)
    moved = np.asarray(after.mean - before.mean, np.float64)
    delta = (GAIN - float(before.gain)) / np.average((contrast**2).sum(axis=1), weights=weight)
    np.testing.assert_allclose(moved, delta * contrast, atol=1e-5)
    # The baseline is the logging policy, and the policy's choices are those given.
    np.testing.assert_allclose(after.policy, parts()[2])
    np.testing.assert_allclose(after.baseline, parts()[1].all_propensity, rtol=1e-5)


def test_the_deviation_is_that_of_a_loop_in_float64():
    ours, e = world(), 0.1
    log = replace(ours, weight=1.0 + jnp.arange(N) % 3)
    q = 0.9 * np.asarray(ours.propensity, np.float64) + 0.1 / T
    c, u, p, w = (np.asarray(a, np.float64) for a in (ours.contrast, ours.mean, ours.chance, log.weight))
    noise = np.asarray(ours.noise, np.float64).var(axis=1)
    direct = (c * u).sum(axis=1)
    variance = np.average((direct - np.average(direct, weights=w)) ** 2, weights=w)
    for t in range(T):
        variance += np.average(c[:, t] ** 2 / q[:, t] * (p[:, t] * (1 - p[:, t]) + noise[t]), weights=w)
    assert float(deviation_of(log, e)) == pytest.approx(np.sqrt(variance), rel=1e-4)


def test_drawn_logs_are_of_the_world():
    """Queries by weight, models by the explored policy, outcomes around their means."""
    weight = 1.0 + 2.0 * (jnp.arange(N) < N // 4)
    weighted = replace(world(), weight=weight, even=False)
    chosen, m = explored(weighted, 0.3), 200_000
    drawn = jax.jit(partial(draw_rows, n_rows=m))(jax.random.key(3), weighted, chosen)
    share = np.asarray(weight) / np.asarray(weight).sum()
    counts = np.bincount(drawn.row, minlength=N) / m
    assert (np.abs(counts - share) < 5 * np.sqrt(share / m)).all()
    expected = share @ np.asarray(chosen, np.float64)
    models = np.bincount(drawn.model, minlength=T) / m
    assert (np.abs(models - expected) < 4 * np.sqrt(expected / m)).all()
    # Model by query, through a test function that tells queries apart.
    sign = np.where(np.asarray(weighted.contrast[:, 0]) > 0, 1.0, -1.0)
    for t in range(T):
        mean = (share * sign) @ np.asarray(chosen[:, t], np.float64)
        assert abs((sign[drawn.row] * (np.asarray(drawn.model) == t)).mean() - mean) < 4 / np.sqrt(m)
    np.testing.assert_allclose(drawn.propensity, np.asarray(chosen)[drawn.row, drawn.model])
    np.testing.assert_allclose(
        drawn.observed - drawn.noise, np.asarray(weighted.mean)[drawn.row, drawn.model], atol=1e-5
    )
    noise = np.asarray(drawn.noise, np.float64)
    for sample in (noise, noise * sign[drawn.row], noise * (np.asarray(drawn.model) == 1)):
        assert abs(sample.mean()) < 4 * sample.std() / np.sqrt(m)
    chance = np.asarray(weighted.chance, np.float64)[drawn.row, drawn.model]
    of_model = np.asarray(weighted.noise, np.float64).var(axis=1)[drawn.model]
    assert (noise**2).mean() == pytest.approx((chance * (1 - chance) + of_model).mean(), rel=0.02)


def test_even_weights_draw_as_any_others():
    even = world()
    drawn = jax.jit(partial(draw_rows, n_rows=50_000))(jax.random.key(3), even, explored(even, 0.0))
    counts = np.bincount(drawn.row, minlength=N)
    assert even.even and counts.sum() == 50_000 and abs(counts.std() / np.sqrt(50_000 / N) - 1) < 0.2


def test_contributions_are_doubly_robust_ones_with_the_right_mean_and_error():
    ours = world()
    drawn = jax.jit(partial(draw_rows, n_rows=400))(jax.random.key(4), ours, explored(ours, 0.1))
    rows = np.asarray(gain_rows(ours, drawn), np.float64) + GAIN
    c, u = (np.asarray(a, np.float64) for a in (ours.contrast, ours.mean))
    for i in range(20):
        x, t = int(drawn.row[i]), int(drawn.model[i])
        expected = c[x] @ u[x] + c[x, t] / float(drawn.propensity[i]) * (float(drawn.observed[i]) - u[x, t])
        assert rows[i] == pytest.approx(expected, abs=1e-4)
    # The truth handed in as if it were fitted.
    fitted = ours.mean[drawn.row], drawn.propensity
    np.testing.assert_allclose(gain_rows(ours, drawn, fitted), rows - GAIN, atol=1e-4)
    # What the simulation reports as a standard error is `inference.standard_error`.
    found = curve_of(jax.random.key(5), ours, sizes=(400,), n_simulations=1, at_once=1)
    key = jax.random.split(jax.random.split(jax.random.key(5), (1, 1))[0, 0])[0]
    again = jax.jit(partial(draw_rows, n_rows=400))(key, ours, explored(ours, 0.0))
    assert float(found.standard_error[0]) == pytest.approx(float(standard_error(gain_rows(ours, again))), rel=1e-3)


def test_estimates_have_the_gain_as_their_mean_and_the_errors_they_promise():
    found = curve()
    assert (np.abs(found.gain - GAIN) < 4 * found.spread / np.sqrt(B)).all()
    deviation = float(deviation_of(world(), SHARE))
    for reported in (found.spread, found.standard_error):
        np.testing.assert_allclose(reported, deviation / np.sqrt(SIZES), rtol=4 / np.sqrt(2 * B))
    assert (np.abs(found.coverage - 0.95) < 4 * np.sqrt(0.95 * 0.05 / B)).all()


@pytest.mark.parametrize("one_sided", [False, True])
def test_simulated_power_is_that_of_the_formula_where_overlap_is_good(one_sided):
    found, deviation = curve(one_sided=one_sided), deviation_of(world(), SHARE)
    expected = np.asarray(power_by_formula(deviation, GAIN, jnp.array(SIZES), one_sided=one_sided))
    assert (0.1 < expected).all() and (expected < 0.98).all() and np.ptp(expected) > 0.4  # or it would say little
    # A point for what is not yet normal at 200 rows.
    assert (np.abs(found.power - expected) < 4 * found.error + 0.01).all()
    np.testing.assert_allclose(found.error, np.sqrt(found.power * (1 - found.power) / B), rtol=0.05)


def test_without_a_gain_one_interval_in_twenty_excludes_zero():
    for one_sided in (False, True):
        found = curve(0.0, one_sided)
        assert (np.abs(found.power - 0.05) < 4 * np.sqrt(0.05 * 0.95 / B)).all()
        np.testing.assert_allclose(found.power, 1.0 - found.coverage, atol=1e-6)


def test_power_grows_with_rows_and_with_the_gain():
    found, larger = curve(), curve(1.5 * GAIN)
    assert (np.diff(found.power) > 2 * found.error[1:]).all()
    assert (larger.power[:2] > found.power[:2] + 2 * found.error[:2]).all()


def test_a_grid_is_its_curves_under_common_random_numbers():
    grid = jax.jit(partial(power_grid, sizes=SIZES, n_simulations=B))
    found = grid(jax.random.key(2), world(), explorations=jnp.array([0.0, SHARE]))
    for mine, its in zip(found, curve(), strict=True):
        np.testing.assert_allclose(mine[1], its, rtol=1e-4, atol=1e-6)
    assert (np.asarray(found.gain[0]) != curve().gain).all()


def test_rows_needed_agree_with_the_formula_and_are_found_from_anywhere(monkeypatch):
    find = partial(rows_needed, jax.random.key(7), world(), exploration=SHARE, n_simulations=1000)
    found = find()
    assert found.rows is not None and found.power >= 0.8
    assert found.formula == pytest.approx(float(rows_by_formula(deviation_of(world(), SHARE), GAIN)), rel=1e-5)
    # d power / d log rows is 0.39 at 0.8: an error of power of 0.01 is 2.5% of the rows, and sizes are 5% apart.
    tolerance = 0.05 + 4 * found.error / 0.39
    assert abs(np.log(found.rows / found.formula)) < tolerance
    for wrong in (2.0, 0.4):
        monkeypatch.setattr(power_search, "rows_by_formula", lambda *a, wrong=wrong, **k: wrong * found.formula)
        again = find()
        assert again.rows is not None and again.power >= 0.8
        assert abs(np.log(again.rows / found.formula)) < tolerance
    none = find(max_rows=700)
    assert none.rows is None and none.power < 0.8
    monkeypatch.undo()
    assert find(max_rows=900, target=0.7).rows in range(650, 900)


def test_one_sided_intervals_need_fewer_rows():
    deviation = 1.0
    two, one = (float(rows_by_formula(deviation, 0.1, one_sided=side)) for side in (False, True))
    assert one / two == pytest.approx((1.645 + 0.8416) ** 2 / (1.96 + 0.8416) ** 2, rel=1e-3)
    assert float(power_by_formula(deviation, 0.1, one, one_sided=True)) == pytest.approx(0.8, abs=1e-4)


def test_exploration_needed_is_the_least_that_suffices():
    near_deterministic = world(3.0, 0.12)
    find = partial(exploration_needed, jax.random.key(8), near_deterministic, n_simulations=B)
    found = find(n_rows=800, shares=(0.0, 0.1, 0.4, 1.0))
    assert found.exploration is not None and found.formula is not None and found.power >= 0.8

    def power_at(share):
        return float(power_by_formula(deviation_of(near_deterministic, share), 0.12, 800))

    assert power_at(0.0) < 0.7  # or nothing would have to be explored
    assert power_at(found.formula) >= 0.8 > power_at(0.95 * found.formula)
    assert abs(power_at(found.exploration) - 0.8) < 0.06
    uniform = np.asarray(near_deterministic.mean, np.float64).mean(axis=1)
    logging = np.asarray(near_deterministic.propensity * near_deterministic.mean, np.float64).sum(axis=1)
    assert found.price == pytest.approx(found.exploration * (logging - uniform).mean(), abs=1e-5)
    none = find(n_rows=800, shares=(0.0, 0.1), target=0.99)
    assert none.exploration is None and none.formula is None and none.power < 0.99 and np.isnan(none.price)


def test_power_of_logs_that_promise_too_much_is_shown_and_does_not_count():
    """A few rows of huge weights, mostly not met: logs report smaller errors than they make."""
    poor = world(3.0, 0.12)
    found = curve_of(jax.random.key(9), poor, sizes=(800,), exploration=0.0, n_simulations=B)
    by_formula = power_by_formula(deviation_of(poor, 0.0), 0.12, 800)
    assert float(found.power[0]) > float(by_formula) + 10 * float(found.error[0])
    assert not found.trusted.any() and curve().trusted.all()
    assert power_search.suffices(found, 0.3) == [False]
    assert power_search.suffices(found._replace(trusted=jnp.array([True])), 0.3) == [True]


def test_nuisances_may_be_fitted_on_each_simulated_log():
    ours = world()

    def truth(key, drawn, weight):
        return ours.mean[drawn.row], drawn.propensity

    def nothing(key, drawn, weight):
        return jnp.zeros((drawn.model.shape[0], T)), drawn.propensity

    named = dict(sizes=SIZES[:2], n_simulations=500, exploration=SHARE)
    same = curve_of(jax.random.key(2), ours, fit=truth, **named)
    fixed = curve_of(jax.random.key(2), ours, **named)
    for mine, its in zip(same, fixed, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-3, atol=1e-5)
    poor = curve_of(jax.random.key(2), ours, fit=nothing, **named)
    # No predictions, right propensities: no bias but more noise.
    assert (np.abs(np.asarray(poor.gain) - GAIN) < 4 * np.asarray(poor.spread) / np.sqrt(500)).all()
    assert (np.asarray(poor.spread) > 1.2 * np.asarray(fixed.spread)).all()


def test_noise_has_the_residuals_mean_and_variance_by_model_and_weight():
    rng = np.random.default_rng(0)
    model = rng.integers(0, 2, 400)
    residual = rng.exponential(size=400) * (1 + 3 * model) + 5.0
    weight = rng.integers(0, 4, 400)
    table = noise_of_models(*(jnp.asarray(a, jnp.float32) for a in (residual, model, weight)), n_models=3)
    table = np.asarray(table, np.float64)
    assert table.shape == (3, 2048)
    np.testing.assert_allclose(table.mean(axis=1), 0.0, atol=1e-5)
    for t in range(3):
        mine = np.repeat(residual, weight * (model == t)) if t < 2 else np.repeat(residual, weight)
        assert table[t].std() == pytest.approx(mine.std(), rel=1e-4)
        # Skewed as they are.
        np.testing.assert_allclose(
            np.quantile(table[t], [0.1, 0.5, 0.9]), np.quantile(mine - mine.mean(), [0.1, 0.5, 0.9]), atol=0.1
        )


def test_scores_are_drawn_as_0_or_1_where_all_are_and_residuals_where_not():
    log, nuisances, probability = parts()
    assert make_power_world(log, nuisances, probability, LAM).chance is not None
    graded = replace(log, score=0.2 + 0.5 * log.score)
    ours = make_power_world(graded, nuisances, probability, LAM)
    assert ours.chance is None
    utility = np.asarray(graded.score - LAM * log.cost, np.float64)
    rows = (np.arange(N), np.asarray(log.model))
    residual = utility - np.asarray(nuisances.score - LAM * nuisances.cost, np.float64)[rows]
    for t in range(T):
        assert float(ours.noise[t].std()) == pytest.approx(residual[rows[1] == t].std(), rel=1e-3)
    # A row that was not scored may hold anything, and says nothing.
    hidden = jnp.arange(N) % 5 == 0
    for scored, binary in ((log, True), (graded, False)):
        partly = replace(scored, scored=~hidden, score=jnp.where(hidden, 0.5, scored.score))
        assert (make_power_world(partly, nuisances, probability, LAM).chance is not None) == binary
        other = replace(partly, score=jnp.where(hidden, 77.0, scored.score))
        for world_of in (partly, other):
            np.testing.assert_allclose(
                make_power_world(world_of, nuisances, probability, LAM, binary=binary).noise,
                make_power_world(partly, nuisances, probability, LAM, binary=binary).noise,
                rtol=1e-6,  # rows of weight 0 sort to other places, and sums round otherwise
            )


def test_exploration_stays_among_the_models_that_were_allowed_and_its_price_is_what_it_costs():
    log, nuisances, probability = parts()
    allowed = jnp.arange(T) < 2 + (jnp.arange(N) % 2)[:, None]
    assert nuisances.all_propensity is not None
    some = replace(nuisances, all_propensity=jnp.where(allowed, nuisances.all_propensity, 0.0))
    ours = make_power_world(replace(log, allowed=allowed), some, probability, LAM)
    q = np.asarray(explored(ours, 0.5), np.float64)
    np.testing.assert_allclose(q.sum(axis=1), 1.0, rtol=1e-5)
    assert (q[~np.asarray(allowed)] == 0).all() and (q[np.asarray(allowed)] >= 0.5 / 3 - 1e-6).all()
    lost = ((np.asarray(ours.propensity, np.float64) - q) * np.asarray(ours.mean, np.float64)).sum(axis=1).mean()
    assert float(exploration_price(ours, 0.5)) == pytest.approx(lost, abs=1e-6)


def test_what_cannot_be_simulated_is_refused():
    log, nuisances, probability = parts()
    with pytest.raises(ValueError, match="propensity of every model"):
        make_power_world(log, replace(nuisances, all_propensity=None), probability, LAM)
    with pytest.raises(ValueError, match="no gain to detect"):
        make_power_world(log, nuisances, probability, LAM, baseline=probability)


@pytest.mark.slow
def test_the_experiment_runs(tmp_path):
    script = Path(__file__).parents[1] / "experiments" / "power.py"
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(script), "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    (setting,) = json.loads((tmp_path / "power.json").read_text())["results"]
    assert [gain["gain"] for gain in setting["gains"]] == [0.05, 0.1]
    for gain in setting["gains"]:
        for one in gain["explorations"]:
            assert len(one["power"]) == len(gain["rows"]) == len(one["by_formula"])
            assert one["power"][-1] > one["power"][0]
    lines = (tmp_path / "power.csv").read_text().splitlines()
    assert len(lines) == 1 + sum(len(gain["rows"]) * len(gain["explorations"]) for gain in setting["gains"])
    assert (tmp_path / "power.png").stat().st_size > 10_000
    # A larger gain needs fewer rows.
    needed = [gain["explorations"][0]["needed"]["rows"] for gain in setting["gains"]]
    assert needed[1] < 0.5 * needed[0]
