"""The study of hidden confounding: worlds of the asked Gamma, counts of a loop, figures, and refusals."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

from jrouter.io.results import plain
from jrouter.known_worlds import draw_known_log, hidden_gamma
from jrouter.sensitivity import Bounds, SensitivityBounds

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

import confounding  # noqa: E402 (scripts are no package)
import confounding_logs  # noqa: E402
import confounding_table  # noqa: E402
import sensitivity_figures  # noqa: E402

matplotlib.use("Agg")


def test_the_coin_has_the_gamma_that_was_asked_for():
    world, gamma, median = confounding_logs.hidden_world(0, 2.0, queries=500)
    assert gamma == pytest.approx(2.0, abs=1e-4) and 1.3 < median < 2.0
    x = draw_known_log(world, jax.random.key(3), 500)[0].x
    fresh = np.asarray(jax.vmap(lambda x: hidden_gamma(world, x))(x))
    assert 1.9 < fresh.max() < 2.1
    plain, gamma, median = confounding_logs.hidden_world(0, 1.0, queries=500)
    assert gamma == pytest.approx(1.0, abs=1e-4) and (np.asarray(plain.hidden_choice) == 0).all()
    assert (np.asarray(plain.hidden_outcome) != 0).all()


def test_the_logging_policys_value_is_the_mean_of_what_is_logged():
    world, _, _ = confounding_logs.hidden_world(0, 2.0, queries=500)
    value = float(jax.jit(lambda: confounding_logs.logging_value(world, jax.random.key(1), n=2**16))())
    log, _ = jax.jit(lambda: draw_known_log(world, jax.random.key(2), 2**15))()
    seen = np.asarray(log.score - confounding_logs.LAM * log.cost)
    assert value == pytest.approx(seen.mean(), abs=4 * float(seen.std()) / seen.size**0.5)


def random_bounds(rng, logs):
    size = logs, len(confounding_logs.GAMMAS)
    low, high = -np.sort(-rng.normal(0.5, 0.1, size), axis=1), np.sort(rng.normal(0.6, 0.1, size), axis=1)
    low[:, 0] = high[:, 0]
    value = Bounds(*(jnp.asarray(part) for part in (low, np.full(size, 0.02), high, np.full(size, 0.03))))
    gain = value._replace(low=value.low - 0.5, high=value.high - 0.5)
    return SensitivityBounds(value, gain)


@pytest.fixture
def result(tmp_path):
    """A result file of two batches of random bounds at two strengths, and all bounds of each strength."""
    rng = np.random.default_rng(0)
    cells, whole = [], {}
    critical = {"point": 1.3, "point_beyond": False, "confident": 1.1, "confident_beyond": False}
    for strength in (1.0, 2.0):
        batches = [random_bounds(rng, 3), random_bounds(rng, 3)]
        whole[strength] = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
        for number, bounds in enumerate(batches):
            numbers = confounding_logs.summary(bounds, 0.55)
            first = {end: getattr(bounds.gain, end)[0] for end in confounding_logs.ENDS}
            cells.append(
                {"key": {"strength": strength, "first": 3 * number}, "gamma": strength, "median_gamma": strength}
                | {"truth": 0.55, "true_gain": 0.02, "gammas": confounding_logs.GAMMAS, "logs": 3, **numbers}
                | {name: 3 * value for name, value in critical.items()}
                | {"first_log": {"gain": first, "critical": critical}}
            )
    groups = [{"table": confounding.TABLE, "sha256": None, "configuration": {}, "cells": cells}]
    path = tmp_path / "confounding.json"
    path.write_text(json.dumps({"schema": 1, "results": plain(groups)}))
    return path, whole


def test_batches_are_joined_as_if_they_were_one(result):
    path, whole = result
    for one in confounding_table.joined(path):
        bounds = whole[one.strength]
        low = bounds.value.low - 1.959964 * bounds.value.low_error
        high = bounds.value.high + 1.959964 * bounds.value.high_error
        np.testing.assert_allclose(one.held, ((low <= 0.55) & (high >= 0.55)).mean(axis=0))
        np.testing.assert_allclose(one.announced, (low - 0.5 > 0).mean(axis=0))
        np.testing.assert_allclose(one.value["high"], bounds.value.high.mean(axis=0), atol=1e-6)
        assert one.spread == pytest.approx(bounds.value.low[:, 0].std(), abs=1e-6)
        assert one.logs == 6 and one.critical["point"] == pytest.approx(1.3)
    rows = confounding_table.table_rows(path)
    assert [row[0] for row in rows] == ["1", "2"]
    assert all(len(row) == len(confounding_table.TABLE_COLUMNS) for row in rows)
    assert len(confounding_table.csv_rows(path)) == 2 * len(confounding_logs.GAMMAS)
    assert all(len(row) == len(confounding_table.COLUMNS) for row in confounding_table.csv_rows(path))


def test_figures_are_drawn_from_the_file(result, tmp_path):
    path, _ = result
    out = tmp_path / "figure.png"
    sensitivity_figures.confounding_figure(confounding_table.joined(path), out)
    assert out.read_bytes().startswith(b"\x89PNG") and not (tmp_path / "figure.partial.png").exists()
    figure, axis = sensitivity_figures.plt.subplots()
    one = confounding_table.joined(path)[0]
    beyond = one.first_log["critical"] | {"point": 10.0, "point_beyond": True}
    sensitivity_figures.gain_by_gamma(axis, one.gammas, one.first_log["gain"], beyond)
    legend: Any = axis.get_legend()
    said = [text.get_text() for text in legend.get_texts()]
    assert "gain vanishes: Gamma > 10.00" in said and "lower confidence end vanishes: Gamma 1.10" in said
    sensitivity_figures.plt.close(figure)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--strengths", "2,1"], "ascending finite numbers of at least 1, got '2,1'"),
        (["--strengths", "0.5"], "of at least 1, got '0.5'"),
        (["--strengths", "1,many"], "of at least 1, got '1,many'"),
        (["--strengths", "1.33"], "1.33 is none of 1, 1.05"),
        (["--seeds", "30"], "a multiple of --batch 25, got 30"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_misuse_ends_in_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", ["confounding.py", "--out", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EXPERIMENTS / "confounding.py"), run_name="__main__")
    text = stop.value.code
    assert isinstance(text, str) and text.startswith("error: ") and message in text and "\n" not in text


@pytest.mark.slow
def test_a_small_run_writes_its_files_and_resumes(tmp_path, capsys):
    options = confounding.Options(strengths="1,2", seeds=4, n=200, batch=2, out=tmp_path)
    confounding.main(options)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"confounding.{end}" for end in ("csv", "json", "png")]
    text = (tmp_path / "confounding.json").read_text()
    assert "gain vanishes at" in capsys.readouterr().out
    confounding.main(options)
    # Nothing is computed again.
    assert (tmp_path / "confounding.json").read_text() == text
