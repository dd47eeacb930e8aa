"""How many routers fit: what the compiler says, in a line, and never more than asked for."""

import jax
import jax.numpy as jnp
import pytest

from jrouter import budget as budgets
from jrouter.budget import bytes_needed, choose_at_once, fastest, fit_in
from jrouter.losses import softmax_regret
from jrouter.metrics import utility
from jrouter.networks import RouterNetwork, count_parameters
from jrouter.train import Hyper, Rows
from jrouter.train_stacked import StackedConfig, make_stacked_train, members_of, take_members

R, N, D, T = 9, 64, 16, 3
NETWORK = RouterNetwork(T, (32,))
TRAIN = make_stacked_train(
    NETWORK,
    lambda logits, targets, lam: softmax_regret(logits, utility(targets[0], targets[1], lam)),
    StackedConfig(2, 16),
)
KEYS = jax.vmap(jax.random.key)(jnp.arange(R))
MEMBERS = members_of(KEYS, jnp.linspace(0.0, 1.0, R), Hyper())
ROWS = Rows((jnp.ones((N, D)), (jnp.ones((N, T)), jnp.ones((N, T)))), jnp.ones(N))
SHUFFLE = jax.random.key(0)


def needed(size):
    return bytes_needed(TRAIN, take_members(MEMBERS, jnp.zeros(size, jnp.int32)), ROWS, None, SHUFFLE)


def test_memory_grows_in_a_line_by_at_least_what_training_carries():
    two, four, eight = needed(2), needed(4), needed(8)
    carried = 4 * 4 * count_parameters(NETWORK.init(KEYS[0], jnp.zeros(D)))  # params, two moments, the best
    assert (four - two) / 2 >= carried
    assert (eight - four) / 4 == pytest.approx((four - two) / 2, rel=0.25)


def test_what_fits_needs_no_more_than_the_budget_and_one_more_would():
    per_router = (needed(8) - needed(4)) / 4
    for budget in (int(needed(1) + 3.5 * per_router), int(needed(1) + 6.5 * per_router)):
        size = fit_in(budget, TRAIN, MEMBERS, ROWS, None, SHUFFLE)
        assert 1 < size < R
        assert needed(size) <= 1.1 * budget and needed(size + 2) > 0.9 * budget
    assert fit_in(2**40, TRAIN, MEMBERS, ROWS, None, SHUFFLE) == R


def test_a_budget_that_holds_nothing_is_refused_in_words():
    with pytest.raises(ValueError, match="one router and its rows need .* MiB, the budget is 0 MiB: raise it"):
        fit_in(1000, TRAIN, MEMBERS, ROWS, None, SHUFFLE)


def test_sizes_are_timed_per_router():
    found = fastest(TRAIN, take_members(MEMBERS, jnp.arange(2)), ROWS, SHUFFLE, sizes=(1, 3), repeats=1)
    assert list(found) == [1, 3] and all(0 < seconds < 60 for seconds in found.values())


def test_the_fastest_size_within_the_budget_is_chosen(monkeypatch):
    tried = []

    def timed(train, members, rows, shuffle, *, sizes, repeats):
        tried.extend(sizes)
        return {size: abs(size - 3.5) for size in sizes}

    monkeypatch.setattr(budgets, "fastest", timed)
    assert choose_at_once(2**40, TRAIN, MEMBERS, ROWS, None, SHUFFLE) == 3
    assert tried == [9, 3, 1]
    tried.clear()
    room = int(needed(1) + 3.5 * (needed(8) - needed(4)) / 4)
    assert choose_at_once(room, TRAIN, MEMBERS, ROWS, None, SHUFFLE) in tried and max(tried) < R
