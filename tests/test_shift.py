"""Whether traffic has moved: no alarm without a shift, one with it, and the numbers that were meant."""

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.shift import reference_of, shift

D = 24
MIXING = np.random.default_rng(0).normal(size=(D, D)) / 4
run = jax.jit(shift)


def queries(n, seed, moved=0.0):
    x = np.random.default_rng(seed).normal(size=(n, D)) @ MIXING
    x[:, 0] += moved
    return jnp.asarray(x, jnp.float32)


def test_without_a_shift_z_is_about_0():
    z = np.array([run(reference_of(queries(400, seed)), queries(300, 1000 + seed)).z for seed in range(60)])
    # The statistic's distribution is skewed: a weighted sum of chi-squares around their mean.
    assert abs(z.mean()) < 4 / np.sqrt(60) and z.max() < 5 and 0.6 < z.std() < 1.4


def test_a_shift_is_found_and_measured():
    x = queries(2000, 1)
    deviation = float(x[:, 0].std())
    found = run(reference_of(x), queries(2000, 2, moved=0.5 * deviation))
    assert found.z > 20
    # Along one coordinate by half of its deviation; noise in the others adds a little.
    np.testing.assert_allclose(found.distance, 0.5, atol=0.08)


def test_queries_of_weight_0_are_not_there_and_all_weights_may_be_doubled():
    x, reference = queries(200, 3, moved=0.3), reference_of(queries(300, 4))
    weight = jnp.asarray(np.tile([1.0, 0.0], 100), jnp.float32)
    kept = run(reference, x, weight, queries=100.0)
    alone, twice = run(reference, x[::2], queries=100.0), run(reference, x, 2 * weight, queries=100.0)
    np.testing.assert_allclose(kept.distance, alone.distance, rtol=1e-4)
    np.testing.assert_allclose(kept.z, alone.z, rtol=1e-3)
    np.testing.assert_allclose((twice.distance, twice.z), (kept.distance, kept.z), rtol=1e-4)


def test_repeats_of_few_queries_are_no_evidence_of_a_shift():
    few = queries(20, 5)
    repeated = jnp.tile(few, (50, 1))
    reference = reference_of(queries(1000, 6))
    assert run(reference, repeated).z > 4  # taken as 1,000 queries
    assert run(reference, repeated, queries=20.0).z < 4


def test_constant_queries_give_numbers():
    found = run(reference_of(jnp.ones((5, 3))), jnp.ones((4, 3)))
    assert np.isfinite(found.distance) and np.isfinite(found.z) and float(found.distance) == 0.0
