"""Utility as a function: the affine one must come out as the affine one does."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.counterfactual import counterfactual_scores
from jrouter.metrics import utility
from jrouter.nuisances import ridge
from jrouter.nuisances.crossfit_outcome import fit_outcome, held_out_outcome
from jrouter.preferences import with_utility
from jrouter.splits import split_log
from jrouter.types import LoggedData, Nuisances

N, D, T, LAM = 90, 3, 2, 30.0


def log() -> LoggedData:
    rng = np.random.default_rng(0)
    x, model = rng.normal(size=(N, D)), rng.integers(0, T, N)
    score, cost = rng.random(N), np.array([0.001, 0.01])[model] * np.exp(rng.normal(size=N))
    x, score, cost = (jnp.asarray(part, jnp.float32) for part in (x, score, cost))
    return LoggedData(x, jnp.asarray(model, jnp.int32), score, cost, models=("a", "b"))


def scores(log: LoggedData):
    # A penalty of nothing: the smoother is then the same whatever the outcome's scale.
    family, split = ridge.ridge(((float("inf"), 1e-3),)), split_log([log], seeds=[0], n_folds=3)[0]
    outcome = jax.jit(lambda log: held_out_outcome(fit_outcome(jax.random.key(0), family, log, split)))(log)
    return counterfactual_scores(log, Nuisances(jnp.full(N, 0.5), outcome[0], outcome[1], split.fold))


def test_estimators_on_an_affine_utility_give_the_utility_of_estimators():
    both = scores(log())
    affine = scores(with_utility(log(), lambda score, cost, lam: score - lam * cost, LAM))
    expected = utility(both.score, both.cost, LAM)
    np.testing.assert_allclose(affine.score, expected, rtol=1e-2, atol=2e-3)
    np.testing.assert_allclose(affine.cost, 0.0, atol=1e-6)
    assert np.abs(np.asarray(expected - both.score)).max() > 0.1


def test_a_utility_that_is_not_affine_differs_from_any_that_is():
    logged = with_utility(log(), lambda score, cost, cap: jnp.where(cost > cap, 0.0, score), 0.01)
    dear = np.asarray(log().cost) > 0.01
    np.testing.assert_array_equal(np.asarray(logged.score)[dear], 0.0)
    np.testing.assert_array_equal(np.asarray(logged.score)[~dear], np.asarray(log().score)[~dear])
    assert dear.any() and not dear.all()


def test_what_was_not_scored_has_no_utility():
    scored = jnp.arange(N) > 3
    unscored = replace(log(), scored=scored, score=jnp.where(scored, log().score, 0.0))
    logged = with_utility(unscored, lambda score, cost, p: jnp.log(score), 1.0)  # -inf at a score of 0
    np.testing.assert_array_equal(np.asarray(logged.score)[:4], 0.0)
    np.testing.assert_allclose(np.asarray(logged.score)[4:], np.log(np.asarray(log().score)[4:]), rtol=1e-4)
    np.testing.assert_array_equal(logged.scored, scored)


def test_a_utility_that_is_not_finite_names_its_row():
    zero = replace(log(), cost=log().cost.at[7].set(0.0))
    with pytest.raises(ValueError, match=r"row 7: utility of score .* and cost 0 is not finite"):
        with_utility(zero, lambda score, cost, p: score - p * jnp.log(cost), 1.0)
