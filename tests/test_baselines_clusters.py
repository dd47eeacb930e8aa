"""Clusters of queries: the means are those of the clusters, and a model that nobody logged can be added."""

from dataclasses import replace

import baseline_world as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from baselines.kmeans import KmeansConfig, k_means, kmeans, squared_distances
from baselines.uniroute import UniRouteConfig, uniroute, with_model

from jrouter.types import LoggedData

X, CLUSTER = world.draw(7, 300)
means = jax.jit(k_means, static_argnames=("clusters", "iterations"))


def assigned(centres, x) -> np.ndarray:
    return np.asarray(squared_distances(jnp.asarray(x, jnp.float32), jnp.asarray(centres, jnp.float32)).argmin(axis=1))


def test_clusters_are_those_that_the_queries_were_drawn_from():
    weight = jnp.asarray(np.arange(300) % 3 > 0, jnp.float32)
    spoilt = jnp.asarray(np.where(np.arange(300)[:, None] % 3 > 0, X, 1e3), jnp.float32)
    centres = np.asarray(means(jax.random.key(0), spoilt, weight, clusters=4))
    own = np.stack([X[(CLUSTER == k) & (np.arange(300) % 3 > 0)].mean(axis=0) for k in range(4)])
    np.testing.assert_allclose(centres[np.argsort(assigned(own, centres))], own, rtol=1e-4, atol=1e-4)


def test_more_clusters_than_distinct_rows_are_no_error():
    centres = means(jax.random.key(1), jnp.ones((6, 2)), jnp.ones(6), clusters=4)
    assert np.isfinite(centres).all() and (np.asarray(centres) == 1.0).all(axis=1).any()


def test_k_means_is_as_good_as_in_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster")
    x = np.random.default_rng(0).normal(size=(300, 4))
    ours = np.asarray(means(jax.random.key(0), jnp.asarray(x, jnp.float32), jnp.ones(300), clusters=6))
    theirs = cluster.KMeans(6, n_init=1, random_state=0).fit(x).inertia_
    assert ((x - ours[assigned(ours, x)]) ** 2).sum() < 1.1 * theirs


@pytest.mark.parametrize("full", [False, True])
def test_kmeans_predicts_the_means_of_clusters_and_chooses_by_them(full):
    problem = world.problem_of()
    if full:  # what is not logged must not matter, what is in the table must
        problem = replace(problem, log=replace(problem.log, score=1.0 - problem.log.score))
    method = kmeans(KmeansConfig(clusters=4, nearest=1, pseudo_rows=(1e-3,), full=full))
    assert method.full_feedback == full
    _, values = world.fitted(method, problem, X)
    cluster = world.draw(0, 1200)[1]
    model, score = np.asarray(problem.log.model), np.asarray(problem.log.score)
    for k in range(4):
        if full:
            assert problem.full is not None
            expected = np.asarray(problem.full.score)[cluster == k].mean(axis=0)
        else:
            expected = [score[(cluster == k) & (model == t)].mean() for t in range(3)]
        np.testing.assert_allclose(values[CLUSTER == k][0, 0], expected, atol=0.02)
    for place, lam in enumerate(world.LAMBDAS):
        assert world.share_right(values[:, place], CLUSTER, lam) > 0.99


def test_an_empty_cell_is_the_models_mean():
    problem = world.problem_of()
    cluster = world.draw(0, 1200)[1]
    never = jnp.asarray((cluster == 0) & (np.asarray(problem.log.model) == 2))
    problem = replace(problem, log=replace(problem.log, row_weight=jnp.where(never, 0.0, 1.0)))
    config = KmeansConfig(clusters=4, nearest=1, pseudo_rows=(1.0,))
    _, values = world.fitted(kmeans(config), problem, X[CLUSTER == 0])
    rest = ~np.asarray(never) & (np.asarray(problem.log.model) == 2)
    np.testing.assert_allclose(values[:, 0, 2], np.asarray(problem.log.score)[rest].mean(), rtol=1e-4)


@pytest.mark.parametrize("learned", [False, True])
def test_uniroute_adds_a_model_that_no_row_saw_by_its_errors(learned):
    """The large model is in no row; 40 scored queries of it are enough to send it what it is best at."""
    problem = world.problem_of(n=3000)
    log = problem.log
    old = np.asarray(log.model) < 2
    before = LoggedData(
        log.x,
        jnp.where(old, log.model, 0),
        log.score,
        log.cost,
        row_weight=jnp.asarray(old, jnp.float32),
        models=world.NAMES[:2],
    )
    config = UniRouteConfig(clusters=8, pseudo_rows=1.0, learned=learned)
    method = uniroute(config)
    params, values = world.fitted(method, replace(problem, log=before), X)
    assert values.shape[-1] == 2
    right = (world.MEAN[:, :2])[CLUSTER].argmax(axis=1)
    clear = np.isin(CLUSTER, [0, 1, 2])
    assert (values[:, 0].argmax(axis=1) == right)[clear].mean() > 0.95
    x, cluster = world.draw(11, 40)
    score = world.MEAN[cluster, 2] + np.random.default_rng(0).choice([-0.1, 0.1], 40)
    given = (jnp.asarray(part, jnp.float32) for part in (x, score, np.full(40, world.PRICE[2])))
    more = with_model(params, *given)
    apply = jax.jit(jax.vmap(jax.vmap(method.policy.apply, in_axes=(None, None, 0)), in_axes=(None, 0, None)))
    after = np.asarray(apply(more, jnp.asarray(X, jnp.float32), jnp.asarray(world.LAMBDAS)))
    np.testing.assert_allclose(after[..., :2], values, rtol=1e-5, atol=1e-5)  # the others are as they were
    for place, lam in enumerate(world.LAMBDAS):
        assert world.share_right(after[:, place], CLUSTER, lam) > 0.95


def test_uniroutes_errors_are_those_of_the_rows():
    problem = world.problem_of()
    params, values = world.fitted(uniroute(UniRouteConfig(clusters=4, pseudo_rows=0.5)), problem, X[:4])
    log = problem.log
    mine = assigned(params["centres"], (log.x - params["scaling"]["centre"]) / params["scaling"]["scale"])
    for k in range(4):
        for t in range(3):
            error = 1.0 - np.asarray(log.score)[np.asarray(log.model) == t]
            here = error[mine[np.asarray(log.model) == t] == k]
            expected = (here.sum() + 0.5 * error.mean()) / (here.size + 0.5)
            assert params["error"][k, t] == pytest.approx(expected, rel=1e-4)
    priced = np.broadcast_to(-0.1 * np.asarray(params["cost"]), (4, 3))
    np.testing.assert_allclose(values[:, 1] - values[:, 0], priced, rtol=1e-4)
