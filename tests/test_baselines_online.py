"""MixLLM and PILOT replayed on a log, LLM Bandit by clipped steps: by hand, and the right model where it is known."""

from dataclasses import replace
from functools import cache
from typing import Any

import baseline_world as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from baselines import BASELINES, llm_bandit, mixllm, pilot
from baselines.barp import row_objective
from baselines.replay import Estimates, Stream, Sums, replay

from jrouter.policy import Problem
from jrouter.types import take_rows

X, CLUSTER = world.draw(7, 200)
LAMBDAS = np.array([0.0, 0.1, 100.0, 7.0], np.float32)
"""Those of the problem, and one that nothing was fitted for."""
CONFIGS: dict[str, Any] = {
    "mixllm": mixllm.MixLlmConfig(ratio=1.0, rounds=8),
    "pilot": pilot.PilotConfig(rank=6, epochs=10, neighbours=5, weight_decay=0.1, prior=10.0, rounds=8),
    "llm_bandit": llm_bandit.LlmBanditConfig(hidden=(), epochs=4, rounds=8, preferences=7, rank=2, width=8),
}
POOL = jnp.array([True, False, True])


@cache
def program(name: str):
    """Jitted: problem -> params, values [m, L, 3] of queries, and probabilities [m, 3] in a smaller pool at 0."""
    method = BASELINES[name](CONFIGS[name])

    def run(problem, x, lambdas):
        params = method.fit(jax.random.key(0), problem)
        of_query = jax.vmap(method.policy.values, in_axes=(None, None, 0))
        among = jax.vmap(lambda x: method.policy.probabilities(params, x, 0.0, POOL))(x)
        return params, jax.vmap(of_query, in_axes=(None, 0, None))(params, x, lambdas), among

    return jax.jit(run, compiler_options=world.QUICK)


def outcome(name: str, problem: Problem) -> tuple[Any, np.ndarray]:
    """Params and values; all finite, and one of the pool is chosen."""
    params, values, among = program(name)(problem, jnp.asarray(X, jnp.float32), jnp.asarray(LAMBDAS))
    for leaf in jax.tree.leaves((params, values)):
        assert np.isfinite(np.asarray(leaf)).all()
    np.testing.assert_allclose(among.sum(axis=1), 1.0, rtol=1e-6)
    assert (among[:, 1] == 0).all()
    return params, np.asarray(values)


@cache
def known() -> Problem:
    """1600 rows; weights, and room for any model's, so that other logs share the programs."""
    problem = world.problem_of(n=1600, row_weight=jnp.ones(1600))
    return replace(problem, split=replace(problem.split, model_size=1600))


@pytest.mark.parametrize("name", list(CONFIGS))
def test_queries_go_to_the_model_that_is_best_for_them(name):
    params, values = outcome(name, known())
    assert world.share_right(values[:, 0], CLUSTER, 0.0) > 0.9
    assert world.share_right(values[:, 1], CLUSTER, 0.1) > 0.9
    for place in (2, 3):
        assert world.share_right(values[:, place], CLUSTER, LAMBDAS[place]) > 0.95
    if name != "llm_bandit":
        # Of the stream's rows, one bandit matches about as many as its choices were logged: .2 to .5 of them.
        stream = 1600 * (1.0 - CONFIGS[name].offline)
        used = np.asarray(params["used"]).sum(axis=1)
        assert (used > 0.15 * stream).all() and (used < 0.55 * stream).all()
        assert used[2] == pytest.approx(0.5 * stream, rel=0.1)  # at 100, the cheapest alone


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_model_that_was_never_logged_is_no_trouble(name):
    problem = known()
    log = replace(problem.log, model=jnp.minimum(problem.log.model, 1))
    params, values = outcome(name, replace(problem, log=log))
    assert values.shape == (200, 4, 3)
    if name == "mixllm":
        errors = np.asarray(params["estimates"]["inverse"])[0, :, -1, -1]
        assert errors[2] == 1.0 and errors[:2].max() < 0.1  # the penalty on its constant: nothing was seen


# The replay


def linucb_by_hand(rows: Stream, penalty: float, width: float):
    """Float64 sums [3, D, D] and [3, D], and rows used [3]: estimates are made again after each row."""
    x, model, outcomes, weight = (np.asarray(part, float) for part in rows)
    dim, used = x.shape[1], np.zeros(3)
    gram, moment = np.stack([penalty * np.eye(dim)] * 3), np.zeros((3, dim))
    for i in range(len(x)):
        inverse = np.linalg.inv(gram)
        theta = np.einsum("tde,te->td", inverse, moment)
        bound = theta @ x[i] + width * np.sqrt(np.einsum("d,tde,e->t", x[i], inverse, x[i]))
        t = int(bound.argmax())
        if t == model[i] and weight[i] > 0:
            gram[t] += weight[i] * np.outer(x[i], x[i])
            moment[t] += weight[i] * outcomes[i, 0] * x[i]
            used[t] += 1
    return gram, moment, used


def stream_of(n: int = 120) -> Stream:
    rng = np.random.default_rng(3)
    x, cluster = world.draw(4, n)
    model = rng.integers(0, 3, n)
    weight = rng.uniform(0.5, 2.0, n) * (rng.random(n) < 0.9)
    arrays = (x, world.MEAN[cluster, model][:, None] - 0.5, weight)
    x, outcomes, weight = (jnp.asarray(part, jnp.float32) for part in arrays)
    return Stream(x, jnp.asarray(model, jnp.int32), outcomes, weight)


def bound(estimates: Estimates, x: jax.Array) -> jax.Array:
    return estimates.predicted(x)[0] + 0.3 * estimates.uncertainty(x)


def mean(estimates: Estimates, x: jax.Array) -> jax.Array:
    return estimates.predicted(x)[0]


replayed = jax.jit(replay, static_argnames=("rule", "rounds"), compiler_options=world.QUICK)


def test_with_a_round_for_each_row_it_is_linucb():
    rows = stream_of()
    start = Sums(jnp.broadcast_to(2.0 * jnp.eye(4), (3, 4, 4)), jnp.zeros((3, 4, 1)))
    (gram, moment), used = replayed(rows, start, bound, rounds=120)
    grams, moments, count = linucb_by_hand(rows, 2.0, 0.3)
    np.testing.assert_array_equal(used, count)
    assert 20 < count.sum() < 80
    np.testing.assert_allclose(gram, grams, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(moment[:, :, 0], moments, rtol=1e-4, atol=1e-4)


def test_in_one_round_all_is_decided_by_what_was_known_before():
    rows = stream_of(50)
    start = Sums(jnp.broadcast_to(jnp.eye(4), (3, 4, 4)), jnp.zeros((3, 4, 1)).at[1].set(1.0))
    sums, used = replayed(rows, start, mean, rounds=1)
    proposed = np.where(np.asarray(rows.x).sum(axis=1) > 0, 1, 0)  # theta is 0, 1s and 0; of ties the first
    matched = (proposed == np.asarray(rows.model)) & (np.asarray(rows.weight) > 0)
    np.testing.assert_array_equal(used, np.bincount(np.asarray(rows.model)[matched], minlength=3))
    x, weight = np.asarray(rows.x), np.asarray(rows.weight) * matched
    total = (x * weight[:, None]).T @ x
    np.testing.assert_allclose((sums.gram - start.gram).sum(axis=0), total, rtol=1e-4, atol=1e-4)


def test_rows_that_fill_the_last_round_up_are_not_used():
    """50 rows in 7 rounds are 6 too few; with a model alone in the pool, every row of weight matches."""
    rows = stream_of(50)._replace(model=jnp.zeros(50, jnp.int32))
    start = Sums(jnp.eye(4)[None], jnp.zeros((1, 4, 1)))
    sums, used = replayed(rows, start, mean, rounds=7)
    x, weight = np.asarray(rows.x), np.asarray(rows.weight)
    np.testing.assert_array_equal(used, [(weight > 0).sum()])
    np.testing.assert_allclose(sums.gram[0], np.eye(4) + (x * weight[:, None]).T @ x, rtol=1e-4, atol=1e-4)


# MixLLM


def test_the_meta_decision_without_its_bonus_is_the_rule_at_lambda():
    rng = np.random.default_rng(0)
    score, cost, tau = rng.random((50, 3)), rng.random((50, 3)) * 0.01, 0.008
    for lam in (0.0, 20.0, 500.0):
        mu = lam * tau / (1 + lam * tau)
        values = mixllm.meta_score(jnp.asarray(score), jnp.asarray(cost / tau), jnp.zeros(3), mu, 0.1)
        np.testing.assert_allclose(values, (1 - mu) * (score - lam * cost), atol=1e-5)


# PILOT


def test_pairs_are_the_nearest_rows_of_other_models():
    scored = np.random.default_rng(0).random(60) < 0.9
    few = replace(take_rows(known().log, np.arange(60)), scored=jnp.asarray(scored))
    place, weight = map(np.asarray, pilot.preference_pairs(few.x, few, neighbours=3))
    x, model = np.asarray(few.x, float), np.asarray(few.model)
    for i in range(60):
        others = np.flatnonzero((model != model[i]) & scored)
        nearest = others[np.argsort(((x[others] - x[i]) ** 2).sum(axis=1))[:3]]
        assert set(place[i]) == set(nearest)
        assert (weight[i] == scored[i]).all()
    alone = replace(few, model=jnp.zeros(60, jnp.int32))
    assert (pilot.preference_pairs(few.x, alone, neighbours=3)[1] == 0).all()


def test_without_a_stream_the_bandit_is_its_prior():
    problem, config = known(), CONFIGS["pilot"]
    weight = jnp.asarray(np.arange(1600) < int(config.offline * 1600), jnp.float32)
    params, values = outcome("pilot", replace(problem, log=replace(problem.log, row_weight=weight)))
    assert (np.asarray(params["used"]) == 0).all()
    theta = np.asarray(params["estimates"]["theta"])[0, :, :, 0]
    np.testing.assert_allclose(theta, params["gain"] * params["learnt"]["models"], rtol=1e-4, atol=1e-5)
    assert params["gain"] > 0
    psi = pilot.position(params["learnt"], (X[0] - params["scaling"]["centre"]) / params["scaling"]["scale"])
    bound = params["level"] + theta @ psi + config.width / np.sqrt(config.prior)  # psi is of length 1
    for place, lam in enumerate(LAMBDAS):
        np.testing.assert_allclose(values[0, place], bound - lam * params["cost"], rtol=1e-4, atol=1e-4)
    # Preferences between answers to like queries tell most of the order of models.
    assert world.share_right(values[:, 0], CLUSTER, 0.0) > 0.7


# LLM Bandit


def test_nothing_is_paid_for_beyond_the_clip_and_before_it_the_gradient_is_barps():
    logits, model, weight = jnp.array([0.3, -0.2, 0.5]), jnp.array(1), jnp.array(4.0)
    old = jax.nn.softmax(logits)[model]

    def ours(logits, old, advantage):
        return weight * llm_bandit.clipped(jax.nn.softmax(logits)[model], old, advantage, 0.2)

    def theirs(logits, advantage):
        return row_objective(logits, model, weight, advantage, 0.0)

    for advantage in (0.7, -0.7):
        expected = jax.grad(theirs)(logits, advantage)
        np.testing.assert_allclose(jax.grad(ours)(logits, old, advantage), expected, rtol=1e-5)
        moved = logits + jnp.array([0.0, np.sign(advantage), 0.0])  # far where it pays
        np.testing.assert_array_equal(jax.grad(ours)(moved, old, advantage), 0.0)
        back = logits - jnp.array([0.0, np.sign(advantage), 0.0])
        np.testing.assert_allclose(jax.grad(ours)(back, old, advantage), jax.grad(theirs)(back, advantage), rtol=1e-5)
    assert ours(logits, old, 0.7) == pytest.approx(theirs(logits, 0.7))


def test_models_are_known_by_their_vectors_alone():
    policy = llm_bandit.llm_bandit(CONFIGS["llm_bandit"]).policy
    params, values = outcome("llm_bandit", known())
    x, order = jnp.asarray(X[0], jnp.float32), jnp.array([2, 0, 1])
    vectors = params["identities"]
    assert vectors.shape == (3, 6)  # 2 * rank + 2
    permuted = policy.apply(params | {"identities": vectors[order]}, x, 0.1)
    np.testing.assert_allclose(permuted, values[0, 1, np.asarray(order)], rtol=1e-4, atol=1e-5)
    more = policy.apply(llm_bandit.with_model(params, vectors[1]), x, 0.1)
    np.testing.assert_allclose(more, np.append(values[0, 1], values[0, 1, 1]), rtol=1e-4, atol=1e-5)
