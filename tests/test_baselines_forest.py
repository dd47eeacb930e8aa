"""A random forest beside scikit-learn's, and RoRF's four outcomes."""

import baseline_world as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from baselines.forest import ForestConfig, fit_forest, predict_forest
from baselines.rorf import RorfConfig, four_outcomes, rorf

SMALL = ForestConfig(trees=20, depth=4)
fit = jax.jit(fit_forest, static_argnames="config", compiler_options=world.QUICK)
predict = jax.jit(jax.vmap(predict_forest, in_axes=(None, 0)), compiler_options=world.QUICK)


def crossed(seed: int, n: int) -> tuple[jax.Array, np.ndarray]:
    """Queries [n, 4] and a class that only two features together tell."""
    x = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    return jnp.asarray(x), (x[:, 0] > 0) ^ (x[:, 1] > 0.3)


def test_a_forest_finds_what_one_cut_cannot_as_scikit_learns_does():
    ensemble = pytest.importorskip("sklearn.ensemble")
    (x, label), (queries, truth) = crossed(0, 800), crossed(1, 500)
    weight = jnp.asarray(np.arange(800) % 4 > 0, jnp.float32)
    soft = jnp.asarray(np.where(np.arange(800)[:, None] % 4 > 0, np.c_[~label, label], 0.5), jnp.float32)
    forest = fit(jax.random.key(0), x, soft, weight, config=SMALL)
    ours = np.asarray(predict(forest, queries))
    used = np.asarray(weight) > 0
    theirs = ensemble.RandomForestClassifier(20, max_depth=4, random_state=0).fit(np.asarray(x)[used], label[used])
    np.testing.assert_allclose(ours.sum(axis=1), 1.0, rtol=1e-5)
    right = ((ours[:, 1] > 0.5) == truth).mean()
    assert right > 0.85
    assert right > (theirs.predict(np.asarray(queries)) == truth).mean() - 0.04


def test_rows_of_weight_0_change_nothing():
    x, label = crossed(0, 800)
    weight = jnp.asarray(np.arange(800) % 4 > 0, jnp.float32)
    labels = jnp.asarray(np.c_[~label, label], jnp.float32)
    lies = jnp.where(weight[:, None] > 0, labels, 1.0 - labels)
    away = jnp.where(weight[:, None] > 0, x, 1e3)
    forests = (fit(jax.random.key(0), *rows, weight, config=SMALL) for rows in ((x, labels), (away, lies)))
    for ours, theirs in zip(*map(jax.tree.leaves, forests), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_labels_are_the_four_outcomes_of_a_pair():
    score = jnp.array([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    np.testing.assert_array_equal(four_outcomes(score, hard=True)[:, 0], np.eye(4))
    np.testing.assert_array_equal(four_outcomes(score, hard=False)[:, 0], np.eye(4))
    guessed = four_outcomes(jnp.array([[0.3, 0.9]]), hard=False)[0, 0]
    assert guessed[:2].sum() == pytest.approx(0.7)  # whether the weak one fails, whatever the strong one does


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rorf_sends_each_query_to_the_model_that_is_best_for_it(full):
    x, cluster = world.draw(7, 300)
    method = rorf(RorfConfig(full=full, forest=ForestConfig(trees=20, depth=3)))
    assert method.full_feedback == full
    _, values = world.fitted(method, world.problem_of(), x)
    # Of the third cluster the weak model fails often, and the middle one too: climbed to the top. The first stays.
    assert world.share_right(values[:, 0], cluster, 0.0) > 0.9
    assert world.share_right(values[:, 2], cluster, 100.0) > 0.99
