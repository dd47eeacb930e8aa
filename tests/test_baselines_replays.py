"""Bandits replayed on a log: what they use of it, and what they find."""

from dataclasses import replace

import baseline_world as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from baselines.barp import BarpConfig, barp, row_objective
from baselines.ucb_replay import UcbReplayConfig, replay, ucb_replay

X, CLUSTER = world.draw(7, 200)
run = jax.jit(replay, static_argnames=("n_models", "width"))


def ucb_by_hand(model, score, cost, keep, lam, width) -> tuple[np.ndarray, np.ndarray]:
    """Means [2, 3] and rows used [3], in a loop."""
    value = score - lam * cost
    used = {t: [] for t in range(3)}
    for i in range(len(model)):
        total = sum(map(len, used.values()))
        index = [
            np.mean(value[used[t]]) + width * np.ptp(value) * np.sqrt(2 * np.log1p(total) / len(used[t]))
            if used[t]
            else np.inf
            for t in range(3)
        ]
        if keep[i] and model[i] == int(np.argmax(index)):
            used[model[i]].append(i)
    return np.array([[part[used[t]].mean() for t in range(3)] for part in (score, cost)]), np.array(
        [*map(len, used.values())]
    )


def test_a_replay_is_ucb_on_the_rows_that_match():
    rng = np.random.default_rng(0)
    model, score, cost = rng.integers(0, 3, 200), rng.random(200).astype(np.float32), rng.random(200).astype(np.float32)
    keep = rng.random(200) < 0.8
    mean, rows = run(*map(jnp.asarray, (model, score, cost, keep)), 0.5, n_models=3, width=0.3)
    means, counts = ucb_by_hand(model, score, cost, keep, 0.5, 0.3)
    np.testing.assert_array_equal(rows, counts)
    np.testing.assert_allclose(mean, means, rtol=1e-4)


def chosen_by_difficulty(n: int = 4000):
    """Model 0 got easy queries, model 1 hard ones, on both of which model 1 is better by .1; the third is poor."""
    problem = world.problem_of(n=n)
    rng = np.random.default_rng(0)
    easy = rng.random(n) < 0.5
    propensity = np.where(easy[:, None], [0.6, 0.2, 0.2], [0.2, 0.6, 0.2])
    model = (rng.random((n, 1)) > propensity.cumsum(axis=1)).sum(axis=1)
    mean = np.where(easy[:, None], [0.8, 0.9, 0.1], [0.1, 0.2, 0.0])[np.arange(n), model]
    as_array = (jnp.asarray(part, jnp.float32) for part in (mean, np.full(n, 1.0)))
    score, cost = as_array
    log = replace(problem.log, model=jnp.asarray(model, jnp.int32), score=score, cost=cost)
    known = jnp.asarray(propensity[np.arange(n), model], jnp.float32)
    return replace(problem, log=log, nuisances=replace(problem.nuisances, propensity=known)), known


def test_thinning_by_propensity_finds_the_better_model_and_uses_few_rows():
    problem, propensity = chosen_by_difficulty()
    thinned, naive = (
        world.fitted(ucb_replay(UcbReplayConfig(quantile=quantile)), problem, X[:1]) for quantile in (0.05, 0.0)
    )
    assert thinned[1][0, 0].argmax() == 1
    assert naive[1][0, 0].argmax() == 0  # it took easy queries for a good model
    np.testing.assert_allclose(thinned[0]["mean"][0, 0, 1], 0.55, atol=0.06)  # of both kinds alike
    # Of n rows, q = .2 of them are model t's after thinning, whichever t is proposed.
    assert thinned[0]["used"][0].sum() == pytest.approx(0.2 * 4000, rel=0.1)
    assert naive[0]["used"].sum(axis=1).max() < 4000


def test_a_model_never_used_is_never_chosen_and_time_orders_the_rows():
    problem = world.problem_of(n=300)
    log = replace(problem.log, model=jnp.minimum(problem.log.model, 1), time=-jnp.arange(300.0))
    params, values = world.fitted(ucb_replay(UcbReplayConfig(quantile=0.0)), replace(problem, log=log), X[:1])
    assert (params["used"][:, 2] == 0).all() and (values.argmax(axis=-1) < 2).all()
    backwards = (part[::-1] for part in (log.model, log.score, log.cost))
    mean, used = run(*backwards, jnp.ones(300, bool), 0.0, n_models=3, width=0.3)
    np.testing.assert_array_equal(params["used"][0], used)
    np.testing.assert_allclose(params["mean"][0], mean, rtol=1e-5)


def test_barp_sends_each_query_to_the_model_that_is_best_for_it():
    """Though its policy never chose: all it has is what another one logged, and how probably."""
    method = barp(BarpConfig(hidden=(), epochs=40, preferences=7))
    _, values = world.fitted(method, world.problem_of(n=2000), X)
    assert world.share_right(values[:, 2], CLUSTER, 100.0) > 0.95
    assert world.share_right(values[:, 0], CLUSTER, 0.0) > 0.9


def test_its_gradient_is_that_of_reinforce_at_the_logged_actions_weight():
    logits, advantage, propensity = jnp.array([0.3, -0.2, 0.5]), jnp.array([0.4, -0.1, 0.7]), jnp.array([0.5, 0.3, 0.2])
    gradient = jax.grad(row_objective)
    of_log = sum(propensity[t] * gradient(logits, jnp.array(t), 1 / propensity[t], advantage[t], 0.0) for t in range(3))
    policy = jax.nn.softmax(logits)
    online = sum(policy[t] * advantage[t] * jax.grad(lambda z, t=t: jax.nn.log_softmax(z)[t])(logits) for t in range(3))
    np.testing.assert_allclose(of_log, online, rtol=1e-5)
