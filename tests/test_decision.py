"""Decisions: without changes the policy's own; with them, by forecast; limits, dialogues, and exact propensities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrouter.decision import FIRST, Limits, advantage, drawn, explored, feasible, stay
from jrouter.metrics import utility

RNG = np.random.default_rng(0)
T = 5
EVERY = jnp.ones(T, bool)


def numbers(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_without_changes_the_policys_choice_stays_whatever_the_forecast_says():
    for values, score, cost in zip(numbers(200, T), numbers(200, T), jnp.abs(numbers(200, T)), strict=True):
        ahead = advantage(values, score, cost, 0.3, price=jnp.ones(T), mask=EVERY)
        assert int(ahead.argmax()) == int(values.argmax())
        assert float(ahead.max()) == np.float32(FIRST)


def test_of_a_rule_that_takes_the_best_forecast_it_is_that_rule_at_new_prices():
    for score, cost, price in zip(numbers(200, T), jnp.abs(numbers(200, T)), jnp.exp(numbers(200, T)), strict=True):
        values = utility(score, cost, 0.7)
        ahead = advantage(values, score, cost, 0.7, price=price, mask=EVERY)
        assert int(ahead.argmax()) == int(utility(score, price * cost, 0.7).argmax())


def test_an_added_model_is_taken_where_its_forecast_is_above_the_choice():
    values, cost = jnp.array([1.0, 0.0]), jnp.ones(3)
    for new, expected in ((0.4, 0), (0.6, 2)):
        score = jnp.array([0.5, 0.9, new])  # the forecast prefers 1, the policy knows better
        ahead = advantage(values, score, cost, 0.1, price=jnp.ones(3), mask=jnp.ones(3, bool))
        assert int(ahead.argmax()) == expected


def test_a_pool_of_added_models_alone_goes_by_forecast():
    mask = jnp.array([False, False, True, True])
    ahead = advantage(jnp.zeros(2), jnp.array([9.0, 9.0, 0.1, 0.2]), jnp.zeros(4), 1.0, price=jnp.ones(4), mask=mask)
    assert int(ahead.argmax()) == 3


def test_a_dearer_choice_is_left_only_for_more_than_it_was_ahead():
    values, score, cost = jnp.array([1.0, 0.0]), jnp.array([0.8, 0.6]), jnp.array([1.0, 1.0])
    for price, expected in ((1.1, 0), (1.19, 0), (1.21, 1)):  # lambda 1: .2 of utility is .2 of price
        ahead = advantage(values, score, cost, 1.0, price=jnp.array([price, 1.0]), mask=jnp.ones(2, bool))
        assert int(ahead.argmax()) == expected


def test_limits_leave_what_meets_them_and_the_nearest_where_nothing_does():
    score, cost = jnp.array([0.2, 0.5, 0.9]), jnp.array([1.0, 2.0, 8.0])
    cases = [
        (Limits(), [1, 1, 1], [0, 0]),
        (Limits(max_cost=2.0), [1, 1, 0], [0, 0]),
        (Limits(min_score=0.5), [0, 1, 1], [0, 0]),
        (Limits(max_cost=2.0, min_score=0.5), [0, 1, 0], [0, 0]),
        (Limits(max_cost=0.5), [1, 0, 0], [1, 0]),
        (Limits(min_score=0.95), [0, 0, 1], [0, 1]),
        (Limits(max_cost=0.5, min_score=0.95), [1, 0, 0], [1, 1]),
    ]
    for limits, could, unmet in cases:
        found = feasible(score, cost, jnp.ones(3, bool), limits)
        np.testing.assert_array_equal(found[0], np.array(could, bool))
        np.testing.assert_array_equal(found[1], np.array(unmet, bool))


def test_what_is_outside_the_pool_meets_no_limit():
    could, unmet = feasible(
        jnp.array([0.2, 0.9]), jnp.array([1.0, 0.1]), jnp.array([True, False]), Limits(max_cost=0.5, min_score=0.5)
    )
    np.testing.assert_array_equal(could, [True, False])
    np.testing.assert_array_equal(unmet, [True, True])


@pytest.mark.parametrize(("previous", "expected", "kept"), [(-1, 0, False), (0, 0, False), (1, 1, True), (2, 0, False)])
def test_a_dialogue_stays_unless_the_gain_pays(previous, expected, kept):
    ahead = jnp.array([FIRST, -0.1, -0.3])  # lambda * switch cost = .2
    assert jax.tree.map(lambda leaf: leaf.item(), stay(ahead, jnp.array(previous), 100.0, 0.002)) == (expected, kept)


def test_a_dialogues_model_that_may_not_be_chosen_is_left_at_any_cost():
    ahead = advantage(jnp.zeros(2), jnp.zeros(2), jnp.zeros(2), 1.0, price=jnp.ones(2), mask=jnp.array([True, False]))
    assert int(stay(ahead, jnp.array(1), 1.0, 1e6)[0]) == 0


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, T - 1),
    st.lists(st.booleans(), min_size=T, max_size=T),
    st.floats(0, 1, width=32),
    st.floats(0, 1, exclude_max=True, width=32),
)
def test_only_what_has_a_probability_is_drawn(choice, mask, explore, draw):
    mask[choice] = True
    probability = explored(jnp.array(choice), jnp.array(mask), jnp.float32(explore))
    np.testing.assert_allclose(probability.sum(), 1.0, rtol=1e-6)
    assert (np.asarray(probability)[~np.array(mask)] == 0).all()
    assert probability[drawn(probability, jnp.float32(draw))] > 0


def test_draws_have_the_frequencies_that_are_logged():
    probability = explored(jnp.array(2), jnp.array([True, False, True, True, False]), jnp.float32(0.3))
    n = 40_000
    draws = jax.vmap(lambda u: drawn(probability, u))(jax.random.uniform(jax.random.key(0), (n,)))
    found = np.bincount(draws, minlength=T) / n
    error = np.sqrt(np.asarray(probability * (1 - probability)) / n)
    np.testing.assert_array_less(np.abs(found - probability), 4 * error + 1e-9)
