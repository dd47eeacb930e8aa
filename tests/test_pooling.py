"""Pooling: what padding holds never shows, empty texts are zeros, and gradients are finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.encoders.pooling import POOLINGS, cls_pool, last_token_pool, mean_pool, unit_norm

RNG = np.random.default_rng(0)
HIDDEN = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
MASKS = {
    "right": jnp.array([True, True, True, True, False, False]),
    "left": jnp.array([False, False, True, True, True, True]),
    "whole": jnp.ones(6, bool),
    "one": jnp.array([False, False, False, True, False, False]),
}


@pytest.mark.parametrize("side", sorted(MASKS))
def test_pooling_is_that_of_the_tokens_alone(side):
    mask = MASKS[side]
    kept = HIDDEN[mask]
    np.testing.assert_allclose(mean_pool(HIDDEN, mask), kept.mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(cls_pool(HIDDEN, mask), kept[0])
    np.testing.assert_array_equal(last_token_pool(HIDDEN, mask), kept[-1])


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_padding_may_hold_anything(name):
    mask = MASKS["right"]
    spoiled = jnp.where(mask[:, None], HIDDEN, jnp.nan)
    np.testing.assert_array_equal(POOLINGS[name](spoiled, mask), POOLINGS[name](HIDDEN, mask))


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_empty_text_is_zeros(name):
    def pool(hidden):
        return unit_norm(POOLINGS[name](hidden, jnp.zeros(6, bool)))

    np.testing.assert_array_equal(pool(HIDDEN), np.zeros(3))
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda hidden: pool(hidden).sum()))(HIDDEN), np.zeros((6, 3)))


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_batches_are_vmapped_and_pooled_in_float32(name):
    masks = jnp.stack(list(MASKS.values()))
    hidden = jnp.asarray(RNG.normal(size=(4, 6, 3)), jnp.float32)
    together = jax.vmap(POOLINGS[name])(hidden, masks)
    for i in range(4):
        np.testing.assert_allclose(together[i], POOLINGS[name](hidden[i], masks[i]), rtol=1e-6)
    assert POOLINGS[name](jnp.asarray(HIDDEN, jnp.bfloat16), masks[0]).dtype == jnp.float32


def test_a_long_mean_keeps_its_precision_in_bfloat16():
    hidden = jnp.full((2000, 1), 1.0, jnp.bfloat16)
    assert mean_pool(hidden, jnp.ones(2000, bool))[0] == 1.0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_unit_norm_at_any_scale(scale):
    x = jnp.array([3.0, -4.0, 0.0]) * scale
    np.testing.assert_allclose(unit_norm(x), [0.6, -0.8, 0.0], rtol=1e-6)
    assert np.isfinite(jax.jit(jax.grad(lambda x: unit_norm(x)[0]))(x)).all()


def test_shapes_are_checked():
    with pytest.raises(AssertionError):
        mean_pool(HIDDEN, jnp.ones(5, bool))
    with pytest.raises(AssertionError):
        unit_norm(HIDDEN)
