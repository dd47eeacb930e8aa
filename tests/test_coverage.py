"""What the coverage study reads from its cells."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

import coverage  # noqa: E402 (scripts are no package)
import coverage_table  # noqa: E402
from cells import current  # noqa: E402
from coverage_logs import REGIMES  # noqa: E402

from jrouter.verdict import Thresholds  # noqa: E402


def cell(first, covers, misfit):
    width = {"covered": [sum(covers)], "width": [0.1]}
    seven = {"covered": [2] * 7, "width": [0.2] * 7}
    numbers = {
        "rows": [2000.0] * 4,
        "effective_rows": [900.0] * 4,
        "largest_share": [0.01] * 4,
        "pareto_k": [0.3] * 4,
        "mean_z": [0.0] * 4,
        "unsupported": [0.0] * 4,
        "propensity_p": misfit,
        "outcome_p": misfit,
    }
    kinds = {"jackknife": width, "as is": width, "bootstrap as is": seven}
    return {
        "key": {"part": "default", "regime": "both right", "first": first},
        "covers": covers,
        "numbers": numbers,
    } | kinds


GROUPS = [
    {
        "configuration": {"batch": 4},
        "cells": [cell(0, [1, 1, 1, 0], [0.5, 0.5, 0.5, 0.01]), cell(4, [1, 1, 0, 0], [0.5, 0.5, 0.01, 0.0])],
    }
]


def test_coverage_is_counted_over_cells():
    found = {(one.kind, one.estimator): one for one in coverage_table.covered_of(GROUPS)}
    default = found["jackknife", "dr"]
    assert (default.logs, default.coverage, default.width) == (8, 5 / 8, 0.1)
    assert found["bootstrap as is", "snips"].coverage == 4 / 8
    # Agresti and Coull: two more of each.
    np.testing.assert_allclose(default.error, np.sqrt((7 / 12) * (5 / 12) / 12))


def test_verdicts_are_made_anew_and_split_the_logs():
    (found,) = coverage_table.judged_of(GROUPS)
    assert found.verdicts == {"ok": 5 / 8, "caution": 2 / 8, "refuse": 1 / 8}
    assert (found.ok, found.covered_where_ok, found.warned) == (5, 1.0, 3 / 8)
    (lax,) = coverage_table.judged_of(GROUPS, Thresholds(misfit=(0.0, 0.0)))
    assert lax.ok == 8 and lax.covered_where_ok == 5 / 8


def test_short_logs_and_default_intervals_come_first_and_long_ones_are_not_resampled():
    keys = coverage.keys_of(coverage.Options(logs=100))
    rows = [REGIMES[key["regime"]].rows for key in keys]
    assert rows == sorted(rows)
    assert {key["part"] for key in keys if REGIMES[key["regime"]].rows > 2000} == {"default", "estimators"}
    with pytest.raises(ValueError, match="unknown regime 'x'"):
        coverage.keys_of(coverage.Options(regimes="x"))
    with pytest.raises(ValueError, match="unknown part 'y'"):
        coverage.keys_of(coverage.Options(parts="y"))


def test_the_committed_result_meets_its_targets_where_it_was_measured():
    groups = current(EXPERIMENTS / "results" / "coverage.json")
    good = ("both right", "outcome wrong", "propensity wrong", "known propensities + outcome wrong")
    good += ("both right + fair overlap",)
    judged = {one.regime: one for one in coverage_table.judged_of(groups)}
    for name in good:
        one = judged[name]
        assert one.covered_where_ok is not None and 0.93 <= one.covered_where_ok <= 0.97 and one.warned <= 0.1
    for name in ("both wrong", "both wrong + other world"):
        assert judged[name].coverage < 0.9 and judged[name].warned >= 0.95
    assert json.loads((EXPERIMENTS / "results" / "coverage.json").read_text())["config"]["smoke"] is False
