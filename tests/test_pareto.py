"""Tails of weights: tails of known shape, the published fit in float64, and weights that have no tail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import genpareto

from jrouter.pareto import NO_TAIL, pareto_k, tail_size

fit = jax.jit(pareto_k)
fit_many = jax.jit(jax.vmap(pareto_k))


def reference(weight):
    """Zhang & Stephens' fit with the shrinkage of Vehtari et al., in float64."""
    ranked = np.sort(weight[weight > 0].astype(np.float64))
    size = int(np.ceil(min(0.2 * ranked.size, 3 * np.sqrt(ranked.size)) - 1e-9))
    cutoff = ranked[-size - 1]
    x = ranked[ranked > cutoff] - cutoff
    n = x.size
    points = 30 + int(np.sqrt(n))
    theta = [
        1 / x[-1] + (1 - np.sqrt(points / (i - 0.5))) / (3 * x[int(n / 4 + 0.5) - 1]) for i in range(1, points + 1)
    ]

    def profile(b):
        k = np.log1p(-b * x).mean()
        return n * (np.log(-b / k) - k - 1)

    likelihood = np.array([profile(b) for b in theta])
    weights = np.exp(likelihood - likelihood.max())
    k = np.log1p(-(theta @ weights / weights.sum()) * x).mean()
    return (n * k + 10 * 0.5) / (n + 10)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3, 0.7, 1.2])
def test_fits_are_the_published_ones(shape):
    rng = np.random.default_rng(0)
    for n in (40, 300, 2000):
        # Not from 0: what is fitted is what weights exceed the tail's beginning by.
        weight = np.float32(0.5 + genpareto.rvs(shape, size=n, random_state=rng))
        np.testing.assert_allclose(fit(weight), reference(weight), atol=2e-3)
        np.testing.assert_allclose(fit(1e3 * weight), fit(weight), atol=2e-3)


@pytest.mark.parametrize("shape", [0.0, 0.5, 0.9])
def test_tails_of_known_shape_are_found(shape):
    n, samples = 4000, 100
    rng = np.random.default_rng(1)
    # Above any threshold, a generalised Pareto distribution's excess has the same shape.
    found = np.asarray(fit_many(np.float32(genpareto.rvs(shape, size=(samples, n), random_state=rng))))
    # Of an efficient fit to m excesses the deviation is (1 + k) / sqrt(m); the mean of 100 is known to a tenth of it.
    deviation = (1 + shape) / np.sqrt(tail_size(n))
    shrunken = (shape * tail_size(n) + 5) / (tail_size(n) + 10)
    assert abs(found.mean() - shrunken) < 4 * deviation / 10
    assert 0.7 * deviation < found.std() < 1.3 * deviation


def test_rows_without_weight_are_as_if_they_were_not_there():
    weight = np.random.default_rng(2).pareto(2.0, 300).astype(np.float32) + 1
    spread = np.zeros(900, np.float32)
    spread[np.random.default_rng(3).choice(900, 300, replace=False)] = weight
    np.testing.assert_allclose(fit(spread), fit(weight), atol=1e-5)


def test_weights_that_tell_nothing_of_a_tail():
    assert float(fit(jnp.full(200, 3.0))) == NO_TAIL
    # A floor: many equal weights at the top.
    assert float(fit(jnp.where(jnp.arange(200) < 60, 10.0, 1.0 + jnp.arange(200) / 200))) == NO_TAIL
    for nothing in (jnp.zeros(200), jnp.zeros(200).at[:20].set(1.0 + jnp.arange(20)), jnp.ones(3)):
        assert np.isposinf(fit(nothing))
    # Four far above all others, which are equal: too few to fit, and by no means no tail.
    assert np.isposinf(fit(jnp.ones(200).at[:4].set(1e3)))
    # Two values only: bounded.
    assert -20 < float(fit(jnp.ones(200).at[:10].set(5.0))) < 0


def test_tail_sizes_are_those_of_the_definition():
    n = np.arange(1, 3000)
    expected = np.ceil(np.minimum(0.2 * n, 3 * np.sqrt(n)) - 1e-9)
    np.testing.assert_array_equal([tail_size(int(one)) for one in n], expected)
