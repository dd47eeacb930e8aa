"""Check features: their definition in float64, and leading directions against the singular value decomposition."""

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.check_features import check_features, feature_names, leading_directions

features_of, directions_of = (
    jax.jit(function)  # compiles in half the time
    for function in (check_features, leading_directions)
)


def standardised(values, weight):
    centred = values - np.average(values, axis=0, weights=weight)
    return centred / np.sqrt(np.average(centred**2, axis=0, weights=weight))


def test_features_are_coordinates_squares_and_products():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 3)) * np.array([5.0, 1.0, 0.1]) + 10.0).astype(np.float32)
    weight = np.float32(rng.choice([0.0, 1.0, 2.5], size=200))
    linear = standardised(x.astype(np.float64), weight)
    expected = np.stack([linear[:, i] * linear[:, j] for i in range(3) for j in range(i, 3)], axis=1)
    expected = np.concatenate([linear, standardised(expected, weight)], axis=1)
    got = features_of(x, weight)
    np.testing.assert_allclose(got, expected, atol=2e-4)
    assert got.shape[1] == len(feature_names(3)) == 9
    assert feature_names(3)[5] == "x1 x3" and np.allclose(got[:, 5], expected[:, 5], atol=2e-4)
    # What does not vary says nothing.
    flat = features_of(jnp.concatenate([x, jnp.full((x.shape[0], 1), 7.7)], axis=1), weight)
    np.testing.assert_array_equal(flat[:, 3], 0.0)
    assert np.isfinite(flat).all()


def test_leading_directions_are_those_of_the_singular_value_decomposition():
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    deviation = np.concatenate([2.0 ** -np.arange(10), np.full(30, 1e-3)])
    x = rng.normal(size=(500, 40)) * deviation @ basis.T + 3.0
    weight = rng.choice([0.0, 1.0, 2.0], size=500)
    centred = np.sqrt(weight)[:, None] * (x - np.average(x, axis=0, weights=weight))
    directions = np.linalg.svd(centred, full_matrices=False)[2][:8]
    got = np.asarray(directions_of(jnp.asarray(x, jnp.float32), jnp.asarray(weight, jnp.float32)))
    expected = (x - np.average(x, axis=0, weights=weight)) @ directions.T
    for number in range(8):
        assert abs(np.corrcoef(got[:, number], expected[:, number])[0, 1]) > 0.999
    assert features_of(jnp.asarray(x, jnp.float32)).shape[1] == len(feature_names(40)) == 44
    assert np.isfinite(features_of(jnp.ones((20, 12)))).all()
