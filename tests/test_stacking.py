"""Stacks of outcome models: their weights, and that one family's stack is that family."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from jrouter.features import scale
from jrouter.methods.plug_in import plug_in_outcome, plug_in_params
from jrouter.nuisances import neighbours, ridge
from jrouter.nuisances.crossfit_outcome import fit_outcome
from jrouter.nuisances.folds import held_out
from jrouter.nuisances.stacking import Stack, project_to_simplex, stacking_weights
from jrouter.splits import split_log
from jrouter.types import LoggedData

N, D, T = 150, 5, 3
POOLED = ridge.pooled(((3.0, 3.0), (3.0, 100.0)))
KNN = neighbours.knn((3.0, 9.0))


@cache
def log() -> LoggedData:
    rng = np.random.default_rng(0)
    x, model = rng.normal(size=(N, D)), rng.integers(0, T, N)
    score = (rng.random(N) < 1 / (1 + np.exp(-2 * x[np.arange(N), model]))).astype(np.float32)
    cost = np.array([1.0, 3.0, 9.0])[model] * np.exp(0.3 * x[:, 3] + 0.1 * rng.normal(size=N))
    as_array = (jnp.asarray(part, jnp.float32) for part in (x, score, cost))
    x, score, cost = as_array
    return LoggedData(x, jnp.asarray(model, jnp.int32), score, cost, models=("a", "b", "c"))


SPLIT = split_log([log()], seeds=[0], n_folds=3)[0]


@cache
def fit(names=("pooled", "knn")):
    families = {"pooled": POOLED, "knn": KNN}
    stack = Stack({name: families[name] for name in names})
    return stack, jax.jit(lambda key, log: fit_outcome(key, stack, log, SPLIT))(jax.random.key(0), log())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=6))
def test_projection_is_the_nearest_point_of_the_simplex(weight):
    w = np.array(weight)
    found = np.asarray(project_to_simplex(jnp.asarray(weight)), np.float64)
    assert (found >= 0).all() and found.sum() <= 1 + 1e-5
    # Optimal: no feasible direction (to a corner or to 0) comes nearer.
    corners = np.concatenate([np.eye(len(w)), np.zeros((1, len(w)))])
    assert ((w - found) @ (corners - found).T <= 1e-4).all()


def test_weights_are_those_of_a_constrained_least_squares_solver():
    rng = np.random.default_rng(1)
    predicted, weight = rng.normal(size=(3, 200)), rng.random(200)
    predicted[1] += 0.9 * predicted[0]  # families agree much of the time
    for truth in ([0.5, 0.2, 0.0], [0.0, 0.9, 0.6], [-0.5, 0.3, 0.1]):
        observed = np.array(truth) @ predicted + 0.5 * rng.normal(size=200)
        ours = stacking_weights(*(jnp.asarray(part, jnp.float32) for part in (predicted, observed, weight)))
        best = minimize(
            lambda beta, y=observed: weight @ (y - beta @ predicted) ** 2 / weight.sum(),
            np.full(3, 0.2),
            bounds=[(0, 1)] * 3,
            constraints={"type": "ineq", "fun": lambda beta: 1 - beta.sum()},
            options={"ftol": 1e-12},
        )
        np.testing.assert_allclose(ours, best.x, atol=2e-3)


def test_rows_of_weight_zero_do_not_count_and_nothing_predicts_nothing():
    predicted, observed = jnp.array([[1.0, -1.0, 1.0]]), jnp.array([1.0, -1.0, -50.0])
    weights = stacking_weights(predicted, observed, jnp.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(weights, [1.0], atol=1e-4)
    for useless in (jnp.zeros((2, 3)), -observed[None]):
        weights = stacking_weights(useless, observed, jnp.ones(3))
        np.testing.assert_allclose(weights @ useless, 0.0, atol=1e-4)
    assert jnp.isfinite(stacking_weights(predicted, observed, jnp.zeros(3))).all()


def test_a_stack_predicts_what_its_parts_do_weighted():
    stack, found = fit()
    held = held_out(
        lambda of_fold, x: of_fold[1].mean + of_fold[1].deviation * stack.predict(of_fold[0], x),
        (found.params, found.units),
        scale(found.scaling, log().x),
        SPLIT,
    )
    np.testing.assert_allclose(found.predicted, held, rtol=1e-4, atol=1e-4)
    weight = np.asarray(found.strength["weight"])
    assert weight.shape == (2, 2) and (weight >= 0).all() and (weight.sum(axis=1) <= 1 + 1e-5).all()
    assert (weight.max(axis=1) > 0.2).all()  # both outcomes can be predicted


def test_the_plug_in_rule_of_a_stack_mixes_those_of_its_parts():
    stack, found = fit()
    x, params = log().x[0], plug_in_params(found)
    whole = plug_in_outcome(stack.predict, params, x)
    mean = params["mean"]
    parts = [
        plug_in_outcome(family.predict, plug_in_params(found.parts[name]), x) - mean
        for name, family in stack.families.items()
    ]
    mixed = mean + jnp.einsum("om,mot->ot", found.strength["weight"], jnp.stack(parts))
    np.testing.assert_allclose(whole, mixed, rtol=1e-4, atol=1e-5)


def test_held_out_error_is_no_worse_than_the_best_part():
    _, found = fit()

    def error(predicted):
        rows = np.arange(N)
        return np.mean((np.asarray(predicted)[rows, 0, np.asarray(log().model)] - np.asarray(log().score)) ** 2)

    assert error(found.predicted) <= min(error(part.predicted) for part in found.parts.values()) + 1e-3


@pytest.mark.parametrize("family", [POOLED, KNN], ids=["pooled", "knn"])
def test_a_given_strength_is_used_and_gives_the_same_fit(family):
    key = jax.random.key(0)
    chosen = jax.jit(lambda log: fit_outcome(key, family, log, SPLIT))(log())
    again = jax.jit(lambda log, strength: fit_outcome(key, family, log, SPLIT, strength=strength))(
        log(), chosen.strength
    )
    np.testing.assert_allclose(again.predicted, chosen.predicted, rtol=1e-4, atol=1e-4)
    other = jax.jit(lambda log: fit_outcome(key, family, log, SPLIT, strength=family.strengths[jnp.array([1, 1])]))(
        log()
    )
    assert (
        np.abs(np.asarray(other.predicted - chosen.predicted)).max() > 1e-3
        or (np.asarray(chosen.strength) == np.asarray(family.strengths[1])).all()
    )


def test_a_given_stack_keeps_its_weights_on_other_rows():
    stack, found = fit()
    rest = replace(log(), row_weight=jnp.where(jnp.arange(N) < 50, 0.0, 1.0))
    again = jax.jit(lambda log: fit_outcome(jax.random.key(0), stack, log, SPLIT, strength=found.strength))(rest)
    np.testing.assert_array_equal(again.strength["weight"], found.strength["weight"])
    assert np.abs(np.asarray(again.predicted - found.predicted)).max() > 1e-3
