"""Where a curve meets a target: known curves, intervals that hold the crossing, and none where there is none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jrouter.crossing import greatest_meeting, least_meeting

LAMBDAS = np.linspace(0.0, 10.0, 101)


def test_of_a_known_curve_the_crossing_is_found():
    found = least_meeting(LAMBDAS, 10.0 - LAMBDAS, np.full(101, 0.5), 4.05)
    assert found.lam == pytest.approx(6.0)
    assert found.low == pytest.approx(5.0) and found.high == found.sure == pytest.approx(7.0)
    assert found.value == pytest.approx(4.0) and found.error == 0.5


def test_noise_that_dips_below_the_target_once_is_not_taken_for_meeting_it():
    value = 10.0 - LAMBDAS
    value[20] = 0.0
    assert least_meeting(LAMBDAS, value, np.zeros(101), 4.05).lam == pytest.approx(6.0)


def test_no_lambda_meets_what_none_meets_and_the_least_meets_what_all_do():
    none = least_meeting(LAMBDAS, 10.0 - LAMBDAS, np.full(101, 0.01), -1.0)
    assert none[:4] == (None, None, None, None) and np.isnan(none.value)
    every = least_meeting(LAMBDAS, 10.0 - LAMBDAS, np.full(101, 0.01), 20.0)
    assert every[:4] == (0.0, 0.0, 0.0, 0.0)


def test_where_it_is_not_sure_the_interval_ends_with_what_was_tried():
    found = least_meeting(LAMBDAS, 10.0 - LAMBDAS, np.full(101, 2.0), 1.0)
    assert found.lam == pytest.approx(9.0) and found.sure is None and found.high == 10.0


@given(st.integers(0, 2**32 - 1), st.floats(-5, 5))
def test_a_least_quality_is_the_mirror_of_a_budget(seed, target):
    rng = np.random.default_rng(seed)
    value, error = np.sort(rng.normal(size=30))[::-1], rng.random(30)
    lambdas = np.arange(30.0)
    found = greatest_meeting(lambdas, value, error, target)
    places = np.flatnonzero(value >= target)
    assert found.lam == (None if not places.size else float(places.max()))
    sure = value - 1.959964 * error >= target
    first_miss = int(np.argmin(sure)) if not sure.all() else 30
    assert found.sure == (None if first_miss == 0 else float(first_miss - 1))
    if found.lam is not None and found.high is not None:
        assert found.low is None or found.low <= found.lam <= found.high


def test_intervals_hold_the_crossing_as_often_as_they_say():
    rng, held = np.random.default_rng(1), 0
    for _ in range(400):
        common = 0.3 * rng.normal()  # errors at neighbouring lambdas are alike
        found = least_meeting(LAMBDAS, 10.0 - LAMBDAS + common, np.full(101, 0.3), 4.0)
        held += found.low is not None and found.high is not None and found.low - 0.1 <= 6.0 <= found.high
    assert abs(held / 400 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 400)
