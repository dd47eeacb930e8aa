"""A stack of networks is a loop over them: outputs, gradients, training, stopping, and what interrupts it."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.losses import softmax_regret
from jrouter.metrics import utility
from jrouter.networks import OutcomeNetwork, RouterNetwork, run
from jrouter.stacked import forward, per_network, product, stack, take, unstack
from jrouter.sweep import run_sweep, stack_size
from jrouter.train import Hyper, Rows, TrainConfig, TrainKeys, make_train
from jrouter.train_stacked import StackedConfig, make_stacked_train, members_of, take_members

R, N, D, T = 5, 70, 4, 3
LAMBDAS = jnp.linspace(0.0, 2.0, R)
SHUFFLE = jax.random.key(9)
NETWORK = RouterNetwork(T, (6, 5))


def surrogate(logits, targets, lam):
    return softmax_regret(logits, utility(targets[0], targets[1], lam))


def examples(seed, n=N, *leading):
    x = jax.random.normal(jax.random.key(seed), (n, D))
    noise = 0.3 * jax.random.normal(jax.random.key(seed + 100), (*leading, n, T))
    return x, (x[:, :T] + noise, jnp.abs(x[:, 1:]) + noise)


def rows_of(seed, n=N):
    return Rows(examples(seed, n), jnp.ones(n).at[3].set(2.0))


def members(n=R):
    keys = jax.vmap(jax.random.key)(jnp.arange(n))
    return members_of(keys, jnp.linspace(0.0, 2.0, n), Hyper(jnp.linspace(0.01, 0.05, n), 0.1))


def at(tree, place):
    return jax.tree.map(lambda leaf: leaf[place], tree)


@cache
def networks():
    return jax.vmap(lambda key: NETWORK.init(key, jnp.zeros(D)))(jax.random.split(jax.random.key(1), R))


@pytest.mark.parametrize("network", [NETWORK, RouterNetwork(T, ()), OutcomeNetwork(T, (7,))], ids=["2", "0", "1"])
def test_a_stack_gives_what_each_network_gives(network):
    many = jax.vmap(lambda key: network.init(key, jnp.zeros(D)))(jax.random.split(jax.random.key(1), R))
    x = jax.random.normal(jax.random.key(2), (8, D))
    together = forward(stack(many), x)
    for place in range(R):
        alone = jax.vmap(lambda one, place=place: run(network, at(many, place), one))(x)
        np.testing.assert_allclose(together[place], alone.reshape(8, -1), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(unstack(stack(many)), many)
    chex.assert_trees_all_equal(unstack(take(stack(many), jnp.array([3, 1]))), at(many, jnp.array([3, 1])))


def test_values_of_networks_broadcast_against_their_own_leaves():
    many = stack(networks())
    scaled = jax.tree.map(jnp.multiply, many, per_network(jnp.arange(R, dtype=jnp.float32), many))
    for place in range(R):
        expected = jax.tree.map(partial(jnp.multiply, place), at(networks(), place))
        chex.assert_trees_all_close(at(unstack(scaled), place), expected)


def test_products_of_rounded_numbers_are_summed_in_float32_and_so_are_their_gradients():
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 300, 40), (2, 40, 30)))
    weight = jnp.asarray(rng.normal(size=(2, 300, 30)), jnp.float32)

    def total(multiply, a, b):
        return (multiply(a, b) * weight).sum()

    def rounded(values):
        return np.asarray(values.astype(jnp.bfloat16), np.float64)

    low = product("bfloat16")
    assert low(a, b).dtype == jnp.float32
    np.testing.assert_allclose(low(a, b), rounded(a) @ rounded(b), rtol=1e-4, atol=1e-4)
    got = jax.grad(partial(total, low), argnums=(0, 1))(a, b)
    np.testing.assert_allclose(got[0], rounded(weight) @ rounded(b).swapaxes(1, 2), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[1], rounded(a).swapaxes(1, 2) @ rounded(weight), rtol=1e-4, atol=1e-3)
    exact = jax.grad(partial(total, product("float32")), argnums=(0, 1))(a, b)
    chex.assert_trees_all_close(exact, jax.grad(partial(total, jnp.matmul), argnums=(0, 1))(a, b))


@pytest.mark.parametrize("validated", [True, False])
def test_training_a_stack_is_training_each_alone(validated):
    config = StackedConfig(epochs=4, batch_size=16)
    train = make_stacked_train(NETWORK, surrogate, config)
    rows, valid = rows_of(0), rows_of(1, 33) if validated else None
    state = train.init(members(), rows, valid)
    advance = jax.jit(train.advance, static_argnames="epochs")
    # Two chunks of epochs are one.
    state, _ = advance(state, members(), rows, valid, SHUFFLE, epochs=2)
    state, info = advance(state, members(), rows, valid, SHUFFLE, epochs=2)

    def loss(params, example, lam):
        return surrogate(run(NETWORK, params, example[0]), example[1], lam)

    alone = jax.jit(make_train(lambda key: NETWORK.init(key, jnp.zeros(D)), loss, TrainConfig(4, 16)))
    for place in range(R):
        one = at(members(), place)
        params, found = alone(TrainKeys(one.key, SHUFFLE), rows, one.setting, one.hyper, valid)
        chex.assert_trees_all_close(at(unstack(state.best), place), params, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(info.train_loss[:, place], found.train_loss[2:], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(info.valid_loss[:, place], found.valid_loss[3:], rtol=1e-4, atol=1e-5)


def test_replicates_have_weights_and_targets_of_their_own():
    config = StackedConfig(epochs=2, batch_size=16, weight_by_replicate=True, targets_by_replicate=True)
    x, targets = examples(0, N, 2)
    weight = jax.random.poisson(jax.random.key(5), 1.0, (2, N)).astype(jnp.float32)
    replicate = jnp.array([0, 1, 1, 0, 1])
    crew = members()._replace(replicate=replicate)
    valid_x, valid_targets = examples(1, 33, 2)
    valid = Rows((valid_x, valid_targets), jnp.ones((2, 33)))
    train = make_stacked_train(NETWORK, surrogate, config)
    together = run_sweep(train, crew, Rows((x, targets), weight), valid, SHUFFLE, config=config)
    plain = StackedConfig(epochs=2, batch_size=16)
    single = make_stacked_train(NETWORK, surrogate, plain)
    for place in range(R):
        own = int(replicate[place])
        one = take_members(members(), jnp.array([place]))
        rows = Rows((x, at(targets, own)), weight[own])
        alone = run_sweep(
            single, one, rows, Rows((valid_x, at(valid_targets, own)), jnp.ones(33)), SHUFFLE, config=plain
        )
        chex.assert_trees_all_close(at(together.params, place), at(alone.params, 0), rtol=1e-4, atol=1e-5)


STOPPING = StackedConfig(epochs=24, batch_size=16, patience=2)
MANY = 10
"""Routers: two groups of one size, so that few sizes are compiled."""


@cache
def stopping():
    """Routers of which some stop early, in one group and one chunk."""
    train = make_stacked_train(NETWORK, surrogate, STOPPING)
    return train, partial(run_sweep, train, members(MANY), rows_of(0), rows_of(1, 33), SHUFFLE, config=STOPPING)


def test_stopped_routers_leave_the_stack_and_nothing_changes():
    train, sweep = stopping()
    whole = sweep(epochs_at_once=24)
    seen = []
    parts = sweep(at_once=5, epochs_at_once=3, on_chunk=lambda progress, chunk: seen.append((progress, chunk)))
    chex.assert_trees_all_close(parts.params, whole.params, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-4, atol=1e-5)
    assert parts.epochs.min() < 24 == whole.epochs.min()
    sizes = [chunk.places.size for _, chunk in seen]
    assert max(sizes) == 5 and min(sizes) < 3
    done = [progress.done for progress, _ in seen]
    assert done == sorted(done) and done[-1] == 1.0 and [p.groups for p, _ in seen] == [2] * len(seen)
    # The rule itself: the best of the epochs up to the first two in a row that are no better.
    state = jax.jit(train.init)(members(MANY), rows_of(0), rows_of(1, 33))
    first = np.asarray(state.best_loss)
    # The very program of the sweep: nothing more is compiled.
    advance = jax.jit(train.advance, static_argnames="epochs", donate_argnums=0)
    _, info = advance(state, members(MANY), rows_of(0), rows_of(1, 33), SHUFFLE, epochs=24)
    for place in range(MANY):
        best, waited = float(first[place]), 0
        for loss in np.asarray(info.valid_loss[:, place]):
            best, waited = (loss, 0) if loss < best else (best, waited + 1)
            if waited == 2:
                break
        assert whole.loss[place] == pytest.approx(best, abs=1e-6)


def test_a_killed_sweep_goes_on_to_the_very_same_numbers():
    _, sweep = stopping()
    uninterrupted = sweep(at_once=5, epochs_at_once=3)
    for dies_after in (1, 9):
        kept, calls = {}, []

        def dies(progress, chunk, kept=kept, calls=calls, dies_after=dies_after):
            kept[progress.group] = chunk
            calls.append(progress)
            if len(calls) == dies_after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sweep(at_once=5, epochs_at_once=3, on_chunk=dies)
        resumed = sweep(at_once=5, epochs_at_once=3, load_chunk=kept.get)
        chex.assert_trees_all_equal(resumed, uninterrupted)


def test_sizes_are_halves():
    assert [stack_size(active, 22) for active in (22, 12, 11, 7, 6, 4, 3, 2, 1)] == [22, 22, 11, 11, 6, 6, 3, 2, 1]
    assert stack_size(1, 1) == 1


def test_bfloat16_trains_to_nearly_the_same_loss():
    rows, valid = rows_of(0), rows_of(1, 33)
    losses = {}
    for dtype in ("float32", "bfloat16"):
        config = StackedConfig(epochs=8, batch_size=16, dtype=dtype)
        swept = run_sweep(
            make_stacked_train(NETWORK, surrogate, config), members(), rows, valid, SHUFFLE, config=config
        )
        assert {leaf.dtype for leaf in jax.tree.leaves(swept.params)} == {np.dtype("float32")}
        losses[dtype] = swept.loss
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)
    assert np.abs(losses["bfloat16"] - losses["float32"]).max() > 0


def test_misuse():
    with pytest.raises(ValueError, match="dtype: expected float32 or bfloat16, got 'float16'"):
        StackedConfig(dtype="float16")
    with pytest.raises(ValueError, match="keep_epochs"):
        StackedConfig(keep_epochs=True)
