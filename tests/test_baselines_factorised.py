"""Factorisations of queries x models (x outcomes): what they find is of the rank that it was made of."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from baseline_world import fitted, problem_of
from baselines.matrix_factorisation import FactorisationConfig, matrix_factorisation, predicted, start

from jrouter.methods.regress_and_compare import RegressConfig, regress_and_compare
from jrouter.policy import Problem
from jrouter.splits import split_log
from jrouter.types import LoggedData

N, D, T, RANK = 900, 6, 8, 2


@cache
def factored(seed: int = 0) -> tuple[Problem, np.ndarray, np.ndarray, np.ndarray]:
    """A log of outcomes of rank 2 and noise; then queries [100, D], their true scores and their true costs [100, T].

    Costs are the scores' products with other weights, as a tensor's are.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N + 100, D))
    query, model = x @ rng.normal(size=(D, RANK)) / np.sqrt(D), rng.normal(size=(T, RANK))
    score, cost = query @ model.T, 9.0 + (query * [1.0, 0.2]) @ model.T
    chosen, row = rng.integers(0, T, N), np.arange(N)
    observed = (
        jnp.asarray(part[row, chosen] + 0.5 * rng.normal(size=N), jnp.float32) for part in (score[:N], cost[:N])
    )
    names = tuple(f"model_{number}" for number in range(T))
    log = LoggedData(jnp.asarray(x[:N], jnp.float32), jnp.asarray(chosen, jnp.int32), *observed, models=names)
    return replace(problem_of(), log=log, split=split_log([log], seeds=[0], n_folds=3)[0]), x[N:], score[N:], cost[N:]


def explained(values: np.ndarray, truth: np.ndarray) -> float:
    return 1.0 - ((values - truth) ** 2).mean() / truth.var()


@pytest.mark.parametrize("tensor", [False, True])
def test_a_factorisation_finds_outcomes_of_its_rank(tensor):
    problem, x, score, cost = factored()
    method = matrix_factorisation(FactorisationConfig(rank=RANK, tensor=tensor, weight_decays=(0.1,)))
    params, values = fitted(method, problem, x, np.array([0.0, 0.3], np.float32))
    shared = explained(values[:, 0], score)
    assert shared > 0.85
    assert explained((values[:, 0] - values[:, 1]) / 0.3, cost) > 0.8
    assert len(params["model"]) == (4 if tensor else 3)
    if not tensor:
        alone = fitted(regress_and_compare(RegressConfig("ridge")), problem, x, np.array([0.0], np.float32))[1]
        assert 1.0 - shared < 0.7 * (1.0 - explained(alone[:, 0], score))  # T regressions of D numbers know less


def test_the_tensor_is_the_matrix_whose_parts_are_shared():
    keys = jax.random.split(jax.random.key(0), 3)
    tensor = start(keys[0], FactorisationConfig(rank=3, tensor=True), D, T)
    tensor |= {"outcomes": jax.random.normal(keys[1], (2, 3))}
    by_outcome = tensor["outcomes"][:, :, None] * tensor["projection"]
    matrix = {"projection": by_outcome, "models": jnp.repeat(tensor["models"], 2, axis=0), "bias": tensor["bias"]}
    x = jax.random.normal(keys[2], (D,))
    np.testing.assert_allclose(predicted(tensor, x), predicted(matrix, x), rtol=1e-5)


@pytest.mark.slow
def test_rows_of_weight_0_are_as_good_as_absent():
    problem, x, _, _ = factored()
    spoilt = jnp.arange(N) % 5 == 0
    log = replace(problem.log, row_weight=jnp.where(spoilt, 0.0, 1.0))
    changed = replace(log, score=jnp.where(spoilt, 1e3, log.score), cost=jnp.where(spoilt, 1e3, log.cost))
    method = matrix_factorisation(FactorisationConfig(rank=1, epochs=1, weight_decays=(0.1,)))
    ours, theirs = (fitted(method, replace(problem, log=one), x[:4])[1] for one in (log, changed))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
