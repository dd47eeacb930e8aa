"""Training of one network: what it converges to, what a row counts, and which epoch is kept."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.losses import softmax_regret
from jrouter.networks import RouterNetwork
from jrouter.train import Hyper, Rows, TrainConfig, make_train, train_keys

FULL_BATCH = 1000  # more than there are rows


def squared_error(params, example, target_scale):
    x, y = example
    return (x @ params - target_scale * y) ** 2


def regression(n=60, seed=0):
    """x [n, 3] and y [n], a linear function of x and noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    return x, (x @ np.array([1.0, -2.0, 0.5]) + 0.3 * rng.normal(size=n)).astype(np.float32)


@cache
def trainer(epochs, batch_size):
    return jax.jit(make_train(lambda key: jnp.zeros(3), squared_error, TrainConfig(epochs, batch_size)))


def fit(rows, valid=None, *, epochs=100, batch_size=FULL_BATCH, seed=0, scale=1.0):
    return trainer(epochs, batch_size)(train_keys(jax.random.key(seed)), rows, scale, Hyper(0.1, 0.0), valid)


def test_weighted_regression_approaches_least_squares():
    x, y = regression()
    weight = np.linspace(0.0, 3.0, 60)
    # Rows of different weight want different params, or the weights would not be seen.
    y[:30] += x[:30, 0]
    params, info = fit(Rows((x, y), jnp.asarray(weight, jnp.float32)), batch_size=16)
    root = np.sqrt(weight)
    expected = np.linalg.lstsq(root[:, None] * x, root * y)[0]
    unweighted = np.linalg.lstsq(x, y)[0]
    np.testing.assert_allclose(params, expected, atol=0.03)
    assert np.abs(unweighted - expected).max() > 0.1
    assert info.train_loss.shape == (100,) and info.train_loss[-1] < info.train_loss[0] / 5


def test_setting_reaches_the_loss():
    x, y = regression()
    rows = Rows((x, y), jnp.ones(60))
    halved, _ = fit(rows, scale=0.5)
    np.testing.assert_allclose(halved, 0.5 * np.linalg.lstsq(x, y)[0], atol=0.01)


def test_row_of_weight_2_is_two_rows_and_of_weight_0_none():
    x, y = regression(20)
    # Weights that sum to 20, so that the repeated rows are 20 too and the program is the same.
    weight = np.array([2.0, 0.0, 3.0, 0.0, 0.0] + [1.0] * 15, np.float32)
    valid = np.array([0.0] * 10 + [1.0, 3.0] * 5, np.float32)

    def rows(targets, weight, repeat):
        index = np.repeat(np.arange(20), weight.astype(int)) if repeat else np.arange(20)
        return Rows((x[index], targets[index]), jnp.ones(20) if repeat else jnp.asarray(weight))

    weighted, info = fit(rows(y, weight, False), rows(0.5 * y, valid, False))
    repeated, repeated_info = fit(rows(y, weight, True), rows(0.5 * y, valid, True))
    np.testing.assert_allclose(weighted, repeated, atol=1e-4)
    np.testing.assert_allclose(info.train_loss, repeated_info.train_loss, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(info.valid_loss, repeated_info.valid_loss, rtol=1e-3, atol=1e-4)
    _, plain = fit(rows(y, np.ones(20), False), rows(0.5 * y, np.ones(20), False))
    assert jnp.abs(plain.train_loss - info.train_loss).max() > 1e-2
    assert jnp.abs(plain.valid_loss - info.valid_loss).max() > 1e-2


def test_a_common_factor_in_the_weights_does_not_matter():
    x, y = regression()
    weight = jnp.linspace(0.5, 2.0, 60)
    once, info = fit(Rows((x, y), weight), batch_size=16)
    scaled, scaled_info = fit(Rows((x, y), 5 * weight), batch_size=16)
    np.testing.assert_allclose(once, scaled, atol=1e-4)
    np.testing.assert_allclose(info.train_loss, scaled_info.train_loss, rtol=1e-3)


def test_no_weight_at_all_is_no_training():
    x, y = regression()
    params, info = fit(Rows((x, y), jnp.zeros(60)))
    np.testing.assert_array_equal(params, 0.0)
    np.testing.assert_array_equal(info.train_loss, 0.0)


def test_a_validation_set_that_only_gets_worse_keeps_the_start():
    x, y = regression()
    rows, against = Rows((x, y), jnp.ones(60)), Rows((x, -y), jnp.ones(60))
    params, info = fit(rows, against)
    np.testing.assert_array_equal(params, 0.0)
    assert info.valid_loss.shape == (101,) and (jnp.diff(info.valid_loss[:10]) > 0).all()
    np.testing.assert_allclose(info.valid_loss[0], np.mean(y.astype(float) ** 2), rtol=1e-5)


def test_the_best_epoch_is_kept():
    x, y = regression()
    # Validation wants to stop half way.
    params, info = fit(Rows((x, y), jnp.ones(60)), Rows((x, 0.5 * y), jnp.ones(60)))
    best = int(info.valid_loss.argmin())
    assert 0 < best < 100 and info.valid_loss[best] < info.valid_loss[-1] / 2
    of_params = np.mean((x @ np.asarray(params, float) - 0.5 * y) ** 2)
    np.testing.assert_allclose(of_params, info.valid_loss[best], rtol=1e-3)
    last, _ = fit(Rows((x, y), jnp.ones(60)))
    np.testing.assert_allclose(last, np.linalg.lstsq(x, y)[0], atol=0.01)


def test_hyper_is_traced():
    x, y = regression()
    rows = Rows((x, y), jnp.ones(60))
    train = make_train(lambda key: jnp.ones(3), squared_error, TrainConfig(epochs=20, batch_size=FULL_BATCH))
    hypers = Hyper(jnp.array([0.0, 0.1, 0.1]), jnp.array([0.0, 0.0, 5.0]))
    params, _ = jax.jit(jax.vmap(train, in_axes=(None, None, None, 0)))(
        train_keys(jax.random.key(0)), rows, 1.0, hypers
    )
    np.testing.assert_array_equal(params[0], 1.0)  # a learning rate of 0
    assert jnp.linalg.norm(params[2]) < 0.9 * jnp.linalg.norm(params[1])  # weight decay


@pytest.mark.parametrize("batch_size", [7, FULL_BATCH])
def test_an_epoch_takes_every_batch_once(batch_size):
    # The loss does the counting: it is the mean of y over the rows that were seen.
    y = jnp.arange(20.0)
    train = make_train(lambda key: jnp.zeros(()), lambda p, y, _: y + 0 * p, TrainConfig(1, batch_size))
    _, info = train(train_keys(jax.random.key(0)), Rows(y, jnp.ones(20)), None, Hyper())
    if batch_size == 7:  # the last 6 rows of the order wait for another epoch
        assert 3 < info.train_loss[0] < 16 and info.train_loss[0] * 14 == round(float(info.train_loss[0]) * 14)
    else:
        np.testing.assert_allclose(info.train_loss[0], 9.5, rtol=1e-6)


@pytest.mark.parametrize(
    "batch_size, min_batches, steps", [(FULL_BATCH, 1, 1), (7, 1, 2), (FULL_BATCH, 4, 4), (2, 4, 10), (7, 50, 20)]
)
def test_steps_of_an_epoch_and_their_length(batch_size, min_batches, steps):
    # With a constant gradient Adam's steps are as long as the learning rate, which falls along half a cosine.
    train = make_train(lambda key: jnp.zeros(()), lambda p, y, _: p, TrainConfig(1, batch_size, min_batches))
    params, _ = train(train_keys(jax.random.key(0)), Rows(jnp.zeros(20), jnp.ones(20)), None, Hyper(0.1, 0.0))
    lengths = [0.1 * (1 + np.cos(np.pi * step / steps)) / 2 for step in range(steps)]
    np.testing.assert_allclose(params, -sum(lengths), rtol=1e-4)


def test_keys():
    x, y = regression()
    rows = Rows((x, y), jnp.ones(60))
    runs = [fit(rows, batch_size=16, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert jnp.abs(runs[0][1].train_loss - runs[2][1].train_loss).max() > 1e-3


def test_a_router_learns():
    # Which of two models is right depends on the sign of x.
    network = RouterNetwork(n_models=2, hidden=(8,))
    apply: Any = network.apply  # else a type checker expects collections of state as well
    x = jax.random.normal(jax.random.key(0), (64, 2))
    utility = jnp.stack([x[:, 0], -x[:, 0]], axis=1)

    def loss(params, example, temperature):
        x, utility = example
        return softmax_regret(apply(params, x), utility, temperature=temperature)

    train = make_train(lambda key: network.init(key, jnp.zeros(2)), loss, TrainConfig(epochs=30, batch_size=16))
    rows = Rows((x, utility), jnp.ones(64))
    params, info = jax.jit(train)(train_keys(jax.random.key(2)), rows, 1.0, Hyper(0.03, 0.0), rows)
    # It starts near the uniform policy, whose regret is the mean of |x|.
    np.testing.assert_allclose(info.valid_loss[0], jnp.abs(x[:, 0]).mean(), rtol=0.05)
    right = jax.vmap(lambda x: apply(params, x))(x).argmax(axis=1) == utility.argmax(axis=1)
    assert right.mean() > 0.9
