"""Nearest neighbours against scikit-learn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsRegressor

from jrouter.nuisances.neighbours import knn, nearest_rows, nearness_offset
from jrouter.nuisances.outcome import Outcomes

N, D, T, Q = 120, 5, 3, 40


def logged(seed=0, n_rare=20):
    """Outcomes of N rows of T models, the last of which has `n_rare`; and Q queries."""
    rng = np.random.default_rng(seed)
    model = np.concatenate([np.full(n_rare, T - 1), rng.integers(0, T - 1, N - n_rare)])
    x, queries = rng.normal(size=(N, D)), rng.normal(size=(Q, D))
    observed = np.stack([x[:, 0] + model, -x[:, 1]], axis=1) + 0.1 * rng.normal(size=(N, 2))
    x, observed, queries = (jnp.asarray(part, jnp.float32) for part in (x, observed, queries))
    return Outcomes(x, jnp.asarray(model, jnp.int32), observed, jnp.ones((N, 1))), queries


@partial(jax.jit, static_argnames="k")
def predictions(rows, queries, k):
    """[Q, 2, T] at one k."""
    family = knn((float(k),))
    statistics = family.prepare(jax.random.key(0), rows, T, N)
    params = family.assemble(statistics, family.solve(statistics, family.strengths[0]))
    return jax.vmap(lambda x: family.predict(params, x))(queries)


def peer(rows, queries, k, present, output):
    """[Q, T], scikit-learn on the rows of each model that are present."""
    columns = []
    for t in range(T):
        mine = (np.asarray(rows.model) == t) & present
        regressor = KNeighborsRegressor(min(k, int(mine.sum())))
        regressor.fit(np.asarray(rows.x, np.float64)[mine], np.asarray(rows.observed, np.float64)[mine, output])
        columns.append(regressor.predict(np.asarray(queries, np.float64)))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("k", [1, 5])
def test_means_are_scikit_learns_for_each_model(k):
    rows, queries = logged()
    ours = predictions(rows, queries, k)
    for output in range(2):
        expected = peer(rows, queries, k, np.ones(N, bool), output)
        np.testing.assert_allclose(ours[:, output], expected, rtol=1e-4, atol=1e-5)


def test_rows_of_weight_zero_are_never_neighbours():
    rows, queries = logged(seed=1)
    present = np.arange(N) % 3 > 0
    garbage = jnp.asarray(np.where(present, 0.0, 1e6), jnp.float32)[:, None]
    rows = rows._replace(weight=jnp.asarray(present, jnp.float32)[:, None], observed=rows.observed + garbage)
    ours = predictions(rows, queries, 5)
    for output in range(2):
        np.testing.assert_allclose(ours[:, output], peer(rows, queries, 5, present, output), rtol=1e-4, atol=1e-5)


def test_fewer_rows_than_k_give_the_mean_of_all():
    rows, queries = logged(seed=2, n_rare=3)
    ours = predictions(rows, queries, 5)
    mean = np.asarray(rows.observed)[np.asarray(rows.model) == T - 1].mean(axis=0)
    np.testing.assert_allclose(ours[:, :, T - 1], np.broadcast_to(mean, (Q, 2)), rtol=1e-4, atol=1e-6)


def test_a_model_without_rows_predicts_the_mean_of_standardised_outcomes():
    rows, queries = logged(seed=3)
    rows = rows._replace(model=jnp.minimum(rows.model, T - 2))
    np.testing.assert_array_equal(predictions(rows, queries, 5)[:, :, T - 1], 0.0)


def test_weights_count_in_the_mean():
    rows, queries = logged(seed=4, n_rare=3)
    rows = rows._replace(weight=(1.0 + jnp.arange(N))[:, None])
    expected = np.average(np.asarray(rows.observed)[:3], axis=0, weights=[1.0, 2.0, 3.0])
    ours = predictions(rows, queries, 5)
    np.testing.assert_allclose(ours[:, :, T - 1], np.broadcast_to(expected, (Q, 2)), rtol=1e-4, atol=1e-6)


def test_unscored_rows_are_as_good_as_absent_for_the_score_and_count_for_the_cost():
    rows, queries = logged(seed=5)
    scored = np.arange(N) % 2 > 0
    rows = rows._replace(weight=jnp.stack([jnp.asarray(scored, jnp.float32), jnp.ones(N)], axis=1))
    ours = predictions(rows, queries, 5)
    np.testing.assert_allclose(ours[:, 1], peer(rows, queries, 5, np.ones(N, bool), 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours[:, 0], peer(rows, queries, 5, scored, 0), rtol=1e-4, atol=1e-5)


def test_nearest_come_first_and_no_more_than_there_are():
    stored = jnp.array([[0.0], [5.0], [2.0], [1.0]])
    offset = nearness_offset(stored, jnp.array([1.0, 1.0, 0.0, 2.0]))
    np.testing.assert_array_equal(nearest_rows(jnp.array([0.1]), stored, offset, most=9), [0, 3, 1, 2])
