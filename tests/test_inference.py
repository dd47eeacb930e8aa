"""Bootstrap and standard errors against what theory says, within their Monte Carlo error."""

import itertools
from functools import partial
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.inference import percentile_interval, standard_error
from jrouter.resampling import (
    COUNT_SHARES,
    bootstrap_means,
    bootstrap_sums,
    paired_bootstrap,
    poisson_counts,
    resample_counts,
)

B = 4000
bootstrap = jax.jit(paired_bootstrap, static_argnames="n_resamples")
means = jax.jit(bootstrap_means, static_argnames=("n_resamples", "at_once"))


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def relative_error_of_deviation(n_resamples):
    """Standard error of a standard deviation from B normal draws, as a share of it."""
    return 1 / np.sqrt(2 * n_resamples)


def test_counts_are_draws_with_replacement():
    counts = np.asarray(resample_counts(jax.random.key(0), 20, B))
    assert (counts.sum(axis=1) == 20).all() and (counts >= 0).all() and (counts % 1 == 0).all()
    # Binomial(20, 1/20): mean 1, variance .95.
    np.testing.assert_allclose(counts.mean(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(counts.var(), 0.95, rtol=0.05)


def test_one_seed_gives_the_usual_standard_error_of_a_mean():
    n = 300
    values = 2.0 + jnp.array([1.0, 10.0]) * normal(0, 1, n, 2)
    resamples = np.asarray(bootstrap(jax.random.key(1), values, n_resamples=B), np.float64)
    assert resamples.shape == (B, 2)
    mean = np.asarray(values, np.float64)[0].mean(axis=0)
    error = np.asarray(values, np.float64)[0].std(axis=0) / np.sqrt(n)
    assert (np.abs(resamples.mean(axis=0) - mean) < 4 * error / np.sqrt(B)).all()
    assert (np.abs(resamples.std(axis=0) / error - 1) < 4 * relative_error_of_deviation(B)).all()


@pytest.mark.parametrize("n_seeds", [2, 5])
def test_seeds_count_as_much_as_their_variance_divided_by_their_number(n_seeds):
    # Columns are many repetitions of the experiment: seeds differ, queries do not.
    effect = normal(2, n_seeds, 1, 2000)
    resamples = np.asarray(bootstrap(jax.random.key(3), jnp.tile(effect, (1, 4, 1)), n_resamples=1000))
    of_seeds = np.asarray(effect)[:, 0].var(axis=0, ddof=1) / n_seeds
    variance = resamples.var(axis=0)
    # For each experiment the unbiased estimate; without the stretch it would be (S - 1) / S of it.
    np.testing.assert_allclose(variance / of_seeds, 1.0, atol=0.25)
    np.testing.assert_allclose(variance.mean(), 1 / n_seeds, rtol=0.1)
    assert np.abs(resamples.mean(axis=0) - np.asarray(effect)[:, 0].mean(axis=0)).max() < 0.2


def test_effects_of_seeds_and_of_queries_add_up():
    n_seeds, n = 4, 200
    seed_effect, query_effect = normal(4, n_seeds, 1, 1), 6.0 * normal(5, 1, n, 1)
    resamples = np.asarray(bootstrap(jax.random.key(6), seed_effect + query_effect, n_resamples=B))
    expected = np.var(seed_effect, ddof=1) / n_seeds + np.var(query_effect) / n
    np.testing.assert_allclose(resamples.var(), expected, rtol=4 * 2 * relative_error_of_deviation(B))


def test_noise_of_every_cell_is_counted_up_to_three_times_never_less_than_once():
    # Owen (2007): a pigeonhole bootstrap errs on the side of caution where nothing but cells vary.
    n_seeds, n = 5, 200
    resamples = np.asarray(bootstrap(jax.random.key(7), normal(8, n_seeds, n, 300), n_resamples=1000))
    ratio = resamples.var(axis=0).mean() * n_seeds * n
    assert 1.0 < ratio < 3.2


def test_differences_are_paired():
    shared, own = 10.0 * normal(9, 3, 200, 1), normal(10, 3, 200, 1)
    values = jnp.concatenate([shared, shared, shared + own], axis=2)
    resamples = np.asarray(bootstrap(jax.random.key(11), values, n_resamples=B))
    np.testing.assert_array_equal(resamples[:, 0], resamples[:, 1])
    difference = (resamples[:, 2] - resamples[:, 0]).std()
    alone = np.asarray(bootstrap(jax.random.key(11), own, n_resamples=B)).std()
    np.testing.assert_allclose(difference, alone, rtol=1e-2)
    assert difference < 0.2 * resamples[:, 0].std()


def test_a_constant_has_no_error():
    resamples = bootstrap(jax.random.key(12), jnp.full((3, 50, 1), 0.25), n_resamples=100)
    # Seeds' counts sum to S and queries' to n, stretched or not.
    np.testing.assert_allclose(resamples, 0.25, rtol=1e-5)


def test_percentile_interval_is_numpys():
    resamples = normal(13, 500, 2, 3)
    estimate = jnp.zeros((2, 3))
    interval = percentile_interval(estimate, resamples, level=0.8)
    np.testing.assert_array_equal(interval.estimate, estimate)
    low, high = np.percentile(np.asarray(resamples, np.float64), [10, 90], axis=0)
    np.testing.assert_allclose(interval.low, low, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(interval.high, high, rtol=1e-4, atol=1e-5)


def test_standard_error_is_numpys():
    values = normal(14, 2, 3, 80)
    expected = np.asarray(values, np.float64).std(axis=-1) / np.sqrt(80)
    np.testing.assert_allclose(standard_error(values), expected, rtol=1e-4)


def test_weighted_standard_error_is_that_of_a_ratio():
    values, weight = np.asarray(normal(15, 80), np.float64), np.random.default_rng(16).exponential(size=80)
    mean = np.average(values, weights=weight)
    expected = np.sqrt((weight**2 * (values - mean) ** 2).sum()) / weight.sum()
    ours = standard_error(jnp.asarray(values, jnp.float32), jnp.asarray(weight, jnp.float32))
    np.testing.assert_allclose(ours, expected, rtol=1e-4)
    # Unchanged by the unit of weights, and by rows that weigh nothing.
    padded = jnp.concatenate([jnp.asarray(values, jnp.float32), jnp.full(5, 1e3)])
    doubled = 2.0 * jnp.concatenate([jnp.asarray(weight, jnp.float32), jnp.zeros(5)])
    np.testing.assert_allclose(standard_error(padded, doubled), expected, rtol=1e-4)


def test_rows_of_a_group_are_one_observation():
    values = normal(17, 2, 60)
    single = standard_error(values)
    twice = jnp.repeat(values, 2, axis=-1)
    grouped = standard_error(twice, group=jnp.repeat(jnp.arange(60), 2))
    np.testing.assert_allclose(grouped, single, rtol=1e-4)
    # Taken for independent, they would promise sqrt(2) too much.
    np.testing.assert_allclose(standard_error(twice), single / np.sqrt(2), rtol=1e-4)
    # Every row its own group is no group.
    np.testing.assert_allclose(standard_error(values, group=jnp.arange(60)[::-1]), single, rtol=1e-5)


def test_groups_and_weights_together():
    rng = np.random.default_rng(18)
    values, weight, group = rng.normal(size=60), rng.exponential(size=60), rng.integers(0, 10, 60)
    mean = np.average(values, weights=weight)
    influence = weight * (values - mean)
    expected = np.sqrt(sum(influence[group == g].sum() ** 2 for g in range(10))) / weight.sum()
    arrays = (jnp.asarray(part, jnp.float32) for part in (values, weight))
    np.testing.assert_allclose(standard_error(*arrays, group=jnp.asarray(group)), expected, rtol=1e-4)


def moment(shares, power):
    """Of counts around 1, in 256ths: an integer."""
    return sum(share * (count - 1) ** power for count, share in enumerate(shares))


def test_counts_have_poissons_first_two_moments_exactly_and_nearly_its_third():
    assert sum(COUNT_SHARES) == 256
    assert [moment(COUNT_SHARES, power) for power in (1, 2)] == [0, 256]
    assert abs(moment(COUNT_SHARES, 3) / 256 - 1) < 0.01 and abs(moment(COUNT_SHARES, 4) / 256 - 4) < 0.05
    # 256 is no multiple of 6, so none is exact; and none with these moments is nearer, whatever its tail.
    nearest = min(
        abs(moment(shares, 3) - 256)
        for tail in itertools.product(range(25), range(8), range(3), range(2), range(2))
        if min(shares := with_two_moments(tail)) >= 0
    )
    assert nearest == moment(COUNT_SHARES, 3) - 256 == 2


def with_two_moments(tail):
    """Shares of 0, 1, 2 that give those of 3, 4, ... mean 1 and variance 1; or a negative one."""
    mean = 256 - sum(count * share for count, share in enumerate(tail, 3))
    square = 512 - sum(count**2 * share for count, share in enumerate(tail, 3))
    twice = square - mean
    if twice % 2:
        return (-1,)
    return 256 - mean + twice // 2 - sum(tail), mean - twice, twice // 2, *tail


def test_poisson_counts_have_their_distribution():
    counts = np.asarray(poisson_counts(jax.random.key(0), (1000, 1001)))[:, :1000]
    share = np.bincount(counts.ravel(), minlength=len(COUNT_SHARES)) / counts.size
    expected = np.array(COUNT_SHARES) / 256
    assert (np.abs(share - expected) < 4 * np.sqrt(expected / counts.size)).all()
    # Rows and columns are independent: means vary as those of independent counts do.
    assert counts.mean(axis=0).std() == pytest.approx(1000**-0.5, rel=0.1)
    assert counts.mean(axis=1).std() == pytest.approx(1000**-0.5, rel=0.1)
    other = np.asarray(poisson_counts(jax.random.key(1), (1000, 1001)))
    assert abs(np.corrcoef(counts.ravel(), other[:, :1000].ravel())[0, 1]) < 4e-3
    # Nor do the four bytes of a word know of each other: they are the quarters of a row.
    quarters = counts.reshape(1000, 4, 250).transpose(1, 0, 2).reshape(4, -1)
    assert (np.abs(np.corrcoef(quarters) - np.eye(4)) < 4 / np.sqrt(250_000)).all()


@pytest.mark.parametrize("n_resamples,at_once", [(4000, 64), (4001, 4001)])
def test_resampled_means_vary_as_the_mean_does(n_resamples, at_once):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, 2)) * [1.0, 3.0] + [0.0, 2.0]
    weight = rng.uniform(0.5, 2.0, 500)
    given = jnp.asarray(values, jnp.float32), jnp.asarray(weight, jnp.float32)
    got = np.asarray(means(jax.random.key(1), *given, n_resamples=n_resamples, at_once=at_once))
    assert got.shape == (n_resamples, 2)
    mean = weight @ values / weight.sum()
    error = np.sqrt(((weight[:, None] * (values - mean)) ** 2).sum(axis=0)) / weight.sum()
    np.testing.assert_allclose(got.mean(axis=0), mean, atol=4 * error.max() / np.sqrt(n_resamples))
    np.testing.assert_allclose(got.std(axis=0), error, rtol=0.06)
    # Differences of columns are paired.
    paired = (values[:, 0] - values[:, 1]).std() / np.sqrt(500)
    assert (got[:, 0] - got[:, 1]).std() == pytest.approx(paired, rel=0.12)


def test_rows_of_a_group_are_drawn_together():
    values = jnp.repeat(jax.random.normal(jax.random.key(0), (100, 1)), 5, axis=0)
    group = jnp.repeat(jnp.arange(100), 5)
    alone = means(jax.random.key(1), values, n_resamples=2000)
    together = means(jax.random.key(1), values, group=group, n_resamples=2000)
    assert float(together.std() / alone.std()) == pytest.approx(5**0.5, rel=0.08)


def test_sums_are_products_with_the_counts_of_the_same_key():
    n, n_resamples = 1001, 70
    values = np.random.default_rng(0).normal(size=(n, 3)) + [0.0, 5.0, 1000.0]
    run = jax.jit(partial(bootstrap_sums, n_resamples=n_resamples, at_once=7))
    got = run(jax.random.key(1), jnp.asarray(values, jnp.float32))
    keys = jax.random.split(jax.random.key(1), 10)
    counts = jax.jit(jax.vmap(lambda key: poisson_counts(key, (7, n))))(keys).reshape(-1, n)
    counts = np.asarray(counts, np.float64)
    np.testing.assert_allclose(got, counts @ values.astype(np.float32).astype(np.float64), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_errors_and_percentiles_are_those_of_a_float64_bootstrap(offset):
    """Skewed values far from 0 too, where float32 sums would be rounded more than they vary."""
    rng = np.random.default_rng(3)
    n, n_resamples = 800, 8000
    values = offset + rng.exponential(size=n) ** 2
    got = np.asarray(
        bootstrap_means(jax.random.key(2), jnp.asarray(values[:, None], jnp.float32), n_resamples=n_resamples)
    )
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples) @ (values - offset) / n
    got = got[:, 0].astype(np.float64) - offset
    error = drawn.std()
    assert abs(got.mean() - drawn.mean()) < 4 * error * np.sqrt(2 / n_resamples) + 1e-7 * offset
    # Counts of a free total vary as those of n draws but for O(1 / n).
    assert abs(got.std() / error - 1) < 4 * np.sqrt(2) * relative_error_of_deviation(n_resamples)
    for level in (2.5, 16, 50, 84, 97.5):
        # Standard error of a percentile, by the normal density there.
        density = np.exp(-0.5 * NormalDist().inv_cdf(level / 100) ** 2) / np.sqrt(2 * np.pi)
        tolerance = 4 * error * np.sqrt(2 * level / 100 * (1 - level / 100) / n_resamples) / density
        assert abs(np.percentile(got, level) - np.percentile(drawn, level)) < tolerance


def test_resampled_means_are_finite_where_no_row_is_drawn():
    values = jnp.array([[1.5], [2.5]])
    got = np.asarray(means(jax.random.key(0), values, jnp.array([0.3, 0.7]), n_resamples=500))
    # Both rows are left out in (94 / 256)^2 of the resamples: then the mean of all rows stands.
    assert (got >= 1.5 - 1e-6).all() and (got <= 2.5 + 1e-6).all()
    assert 0.05 < np.isclose(got, 2.2).mean() < 0.35
