"""Inverses against NumPy's in float64, and the deadlock that this module exists to avoid."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.linalg import orthonormal, spd_inverse

invert = jax.jit(spd_inverse)
invert_many = jax.jit(jax.vmap(spd_inverse))


def spd(seed, size, condition):
    """Symmetric, eigenvalues evenly spread on a log scale from 1 to `condition`."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    matrix = (basis * np.geomspace(1.0, condition, size)) @ basis.T
    return ((matrix + matrix.T) / 2).astype(np.float32)


def relative_error(inverse, matrix):
    """Against the inverse of the very float32 matrix that was given."""
    exact = np.linalg.inv(matrix.astype(np.float64))
    return np.linalg.norm(np.asarray(inverse) - exact) / np.linalg.norm(exact)


# 64 is the largest that is swept whole, 65 the smallest that is halved, 130 is halved twice, unevenly.
@pytest.mark.parametrize("size", [1, 3, 64, 65, 130])
def test_inverse_is_numpys(size):
    matrix = spd(size, size, 50.0)
    inverse = np.asarray(invert(matrix))
    assert relative_error(inverse, matrix) < 1e-5
    np.testing.assert_array_equal(inverse, inverse.T)


@pytest.mark.parametrize("size", [64, 130])
def test_error_of_ill_conditioned_grows_no_faster_than_the_condition_number(size):
    matrix = spd(size, size, 1e4)
    assert relative_error(invert(matrix), matrix) < 10 * 1e4 * np.finfo(np.float32).eps


def test_vmap_is_a_loop():
    batch = np.stack([spd(seed, 65, 20.0) for seed in range(3)])
    for matrix, inverse in zip(batch, invert_many(batch), strict=True):
        assert relative_error(inverse, matrix) < 1e-5


def test_two_independent_batches_in_one_program_finish():
    # With LAPACK's batched kernels, two at a time on two cores wait for each other for ever.
    first = jnp.stack([jnp.asarray(spd(seed, 130, 20.0)) for seed in range(12)])
    second = 2.0 * first

    done = []

    def both():
        done.append(jax.block_until_ready(jax.jit(lambda a, b: (invert_many(a), invert_many(b)))(first, second)))

    worker = threading.Thread(target=both, daemon=True)
    worker.start()
    worker.join(timeout=120)
    assert not worker.is_alive(), "deadlock"
    np.testing.assert_allclose(done[0][0], 2.0 * done[0][1], rtol=1e-4, atol=1e-6)


def test_columns_become_orthonormal_in_order():
    rng = np.random.default_rng(2)
    columns = rng.normal(size=(50, 5)) @ np.diag([1e3, 1.0, 1e-3, 1.0, 1.0])
    columns[:, 4] = columns[:, 3] + 1e-2 * columns[:, 4]
    got = np.asarray(jax.jit(orthonormal)(jnp.asarray(columns, jnp.float32)))
    np.testing.assert_allclose(got.T @ got, np.eye(5), atol=1e-4)
    expected = np.linalg.qr(columns)[0]
    np.testing.assert_allclose(np.abs((got * expected).sum(axis=0)), 1.0, atol=1e-3)
