"""Diagnosis: its numbers in float64, what the log's own propensities tell of support, and odd logs."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.app.diagnosis_plots import as_results
from jrouter.diagnostics import diagnose
from jrouter.explain import explain_diagnosis
from jrouter.overlap import (
    SUPPORT_THRESHOLDS,
    WEIGHT_EDGES,
    effective_rows,
    support,
    support_by_weights,
    weigh,
)
from jrouter.pareto import pareto_k
from jrouter.types import LoggedData, Nuisances, take_rows

N, D, T = 400, 3, 3
LAM = 20.0
diagnosed = jax.jit(partial(diagnose, lam=LAM))
weighed = jax.jit(weigh)


def example(seed=0, n=N, spread=1.0, logged=False):
    """(log, nuisances that are right, a policy [n, T]): scores and costs around linear means."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D))
    log_odds = spread * x @ rng.normal(size=(D, T))
    p = np.exp(log_odds) / np.exp(log_odds).sum(axis=1, keepdims=True)
    model = (log_odds + rng.gumbel(size=(n, T))).argmax(axis=1)
    mean = 0.5 + 0.1 * x @ rng.normal(size=(D, T))
    cost = np.array([1e-3, 2e-3, 8e-3]) * (1 + 0.1 * x[:, :1])
    row = np.arange(n)
    policy = np.eye(T)[(mean - LAM * cost).argmax(axis=1)] * 0.9 + 0.1 / T
    x, score, paid, mean, cost, p, policy = (
        jnp.asarray(part, jnp.float32)
        for part in (
            x,
            mean[row, model] + 0.3 * rng.normal(size=n),
            cost[row, model] * np.exp(0.2 * rng.normal(size=n) - 0.02),
            mean,
            cost,
            p,
            policy,
        )
    )
    chosen = p[row, model]
    log = LoggedData(
        x,
        jnp.asarray(model, jnp.int32),
        score,
        paid,
        propensity=chosen if logged else None,
        # All that a log may hold, so that most tests share one program.
        row_weight=jnp.ones(n),
        allowed=jnp.ones((n, T), bool),
        scored=jnp.ones(n, bool),
        group=jnp.arange(n),
        models=("a", "b", "c"),
    )
    fold = jnp.asarray(row % 2, jnp.int32)
    return log, Nuisances(chosen, mean, cost, fold, None if logged else p), policy


def weights_with_zeros(seed=1):
    return jnp.asarray(np.random.default_rng(seed).choice([0.0, 1.0, 2.0], size=N), jnp.float32)


def test_weights_are_their_definition():
    log, nuisances, policy = example()
    v, group = np.asarray(weights_with_zeros(), np.float64), np.arange(N) // 2
    weighted = replace(log, row_weight=weights_with_zeros(), group=jnp.asarray(group))
    found = diagnosed(weighted, nuisances, policy)
    model, row = np.asarray(log.model), np.arange(N)
    for pi, mine in [(np.asarray(policy), found.policy_weights)] + [
        (np.broadcast_to(np.eye(T)[t], (N, T)), jax.tree.map(lambda leaf, t=t: leaf[t], found.model_weights))
        for t in range(T)
    ]:
        w = pi[row, model] / np.asarray(nuisances.propensity, np.float64)
        assert mine is not None
        effective = (v * w).sum() ** 2 / ((v * w) ** 2).sum()
        np.testing.assert_allclose(mine.effective_rows, effective, rtol=1e-4)
        np.testing.assert_allclose(mine.effective_share, effective / (v > 0).sum(), rtol=1e-4)
        np.testing.assert_allclose(mine.largest, w[v > 0].max(), rtol=1e-5)
        np.testing.assert_allclose(mine.largest_share, (v * w).max() / (v * w).sum(), rtol=1e-4)
        mean = (v * w).sum() / v.sum()
        np.testing.assert_allclose(mine.mean, mean, rtol=1e-5)
        influence = np.bincount(group, v * (w - mean)) / v.sum()
        np.testing.assert_allclose(mine.mean_z, (mean - 1) / np.sqrt((influence**2).sum()), rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(mine.pareto_k, pareto_k(jnp.asarray(v * w, jnp.float32)), atol=1e-3)
        inside = w[(v > 0) & (w > 0)]
        edges = np.histogram(inside, [0, *WEIGHT_EDGES, np.inf])[0]
        np.testing.assert_array_equal(mine.histogram, [((v > 0) & (w == 0)).sum(), *edges])
    counts = np.bincount(model[v > 0], minlength=T)
    np.testing.assert_array_equal(found.model_rows, counts)
    np.testing.assert_allclose(found.share, np.bincount(model, v, minlength=T) / v.sum(), rtol=1e-5)
    assert float(found.rows) == (v > 0).sum() and float(found.unscored) == 0.0


def test_balance_is_its_definition_and_weighting_balances():
    log, nuisances, policy = example()
    weighted = replace(log, row_weight=weights_with_zeros())
    found = diagnosed(weighted, nuisances, policy).balance
    v, x = np.asarray(weights_with_zeros(), np.float64), np.asarray(log.x, np.float64)
    centred = x - np.average(x, axis=0, weights=v)
    for t in range(T):
        rows = np.asarray(log.model) == t
        for mine, weight in ((found.before, v), (found.after, v / np.asarray(nuisances.propensity))):
            expected = np.average(centred[rows], axis=0, weights=weight[rows])
            expected /= np.sqrt(np.average(centred**2, axis=0, weights=v))
            np.testing.assert_allclose(mine[t, :D], expected, atol=2e-4)
    np.testing.assert_allclose(found.largest_after, np.abs(found.after).max(axis=1))
    found = diagnosed(*example(2, spread=0.7)).balance
    assert float(found.largest_after.mean()) < 0.6 * float(found.largest_before.mean())


def test_rows_of_weight_zero_are_as_if_they_were_not_there():
    log, nuisances, policy = example()
    weight = weights_with_zeros()
    kept = np.flatnonzero(np.asarray(weight))
    scored = jnp.asarray(np.random.default_rng(5).random(N) < 0.7)
    log = replace(log, row_weight=weight, scored=scored, group=jnp.arange(N) // 2)
    spoiled = replace(log, score=jnp.where(weight > 0, log.score, 1e3), x=jnp.where(weight[:, None] > 0, log.x, 99.0))
    ours = diagnosed(spoiled, nuisances, policy)
    fewer, *others = take_rows((log, nuisances, policy), kept)
    # Groups are numbers below the number of rows.
    group = np.unique(kept // 2, return_inverse=True)[1]
    theirs = diagnosed(replace(fewer, group=jnp.asarray(group)), *others)
    for mine, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(ours.unscored, 1 - np.average(scored, weights=weight), rtol=1e-4)


def test_only_scored_rows_tell_of_scores():
    log, nuisances, policy = example()
    scored = jnp.arange(N) % 3 > 0
    hidden = replace(log, scored=scored, score=jnp.where(scored, log.score, 0.0))
    found, whole = diagnosed(hidden, nuisances, policy), diagnosed(log, nuisances, policy)
    kept = np.flatnonzero(scored)
    v = jnp.ones(kept.size)
    residual = np.asarray(log.score - nuisances.score[jnp.arange(N), log.model])[kept]
    model = np.asarray(log.model)[kept]
    expected = [residual[model == t].mean() for t in range(T)]
    np.testing.assert_allclose(found.score_calibration.residual, expected, atol=1e-5)
    np.testing.assert_allclose(found.cost_misfit.z, whole.cost_misfit.z, atol=1e-5)
    assert not np.allclose(found.score_misfit.z, whole.score_misfit.z, atol=1e-2) and v.size == float(scored.sum())
    # Utility is score - lambda * cost of the residuals.
    of_cost = found.utility_calibration.curve.weight.sum()
    np.testing.assert_allclose(of_cost, kept.size)


def test_support_is_counted_from_every_propensity():
    log, nuisances, policy = example(spread=2.5)
    every = nuisances.all_propensity
    assert every is not None
    floored = replace(nuisances, all_propensity=jnp.maximum(every, 0.1 / T))
    found = diagnosed(log, floored, policy)
    p, pi = np.asarray(floored.all_propensity), np.asarray(policy)
    expected = [(pi * (p < c)).sum(axis=1).mean() for c in SUPPORT_THRESHOLDS]
    np.testing.assert_allclose(found.policy_support.below, expected, rtol=1e-4, atol=1e-6)
    low = np.asarray(every) <= 0.1 / T
    np.testing.assert_allclose(found.policy_support.absent, (pi * low).sum(axis=1).mean(), rtol=1e-4)
    np.testing.assert_allclose(found.model_support.absent, low.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.left_out, low.mean(axis=0), rtol=1e-4)
    assert float(found.policy_support.absent) > 0.05 and float(jnp.abs(found.policy_support.below_error).max()) == 0.0
    # Without a floor nothing is at it.
    bare = jax.jit(support)(policy, every)
    assert float(bare.absent) == 0.0 and float(bare.below[2]) > 0.05


def test_logged_propensities_tell_what_lacks_support():
    log, known, policy = example(3, n=20_000, spread=1.5)
    p, row = known.all_propensity, jnp.arange(20_000)
    assert p is not None
    ratio = policy[row, log.model] / known.propensity
    mine, expected = jax.jit(support_by_weights)(ratio, known.propensity), jax.jit(support)(policy, p)
    # Two numbers, one counted, the other estimated from what was logged: within its error.
    assert (np.abs(mine.below - expected.below) < 3.5 * np.asarray(mine.below_error)).all()
    assert float(expected.below[2]) > 5 * float(mine.below_error[2]) > 0
    # A log from which every answer of the first model is missing: the weights of the policy fall short by its mass.
    lost = jnp.where(log.model == 0, 0.0, ratio)
    absent = jax.jit(support_by_weights)(lost, known.propensity)
    assert abs(float(absent.absent) - float(policy[:, 0].mean())) < 3.5 * float(absent.absent_error)
    assert float(policy[:, 0].mean()) > 5 * float(absent.absent_error) > 0


def test_without_a_policy_there_are_the_numbers_of_each_model():
    log, nuisances, policy = example()
    found, whole = diagnosed(log, nuisances), diagnosed(log, nuisances, policy)
    assert found.policy_weights is None and found.policy_support is None
    for mine, expected in zip(
        jax.tree.leaves(found),
        jax.tree.leaves(whole._replace(policy_weights=None, policy_support=None)),
        strict=True,
    ):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)


def test_vmap_over_logs_is_a_loop():
    drawn = [example(seed, logged=True) for seed in range(2)]
    drawn = [(replace(log, group=jnp.arange(N) // 4), *rest) for log, *rest in drawn]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    together = jax.jit(jax.vmap(partial(diagnose, lam=LAM)))(*stacked)
    for number, one in enumerate(drawn):
        alone = diagnosed(*one)
        for mine, expected in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(mine[number], expected, rtol=1e-3, atol=1e-3)


def test_odd_logs_have_no_nan():
    log, nuisances, policy = example()
    one_model = replace(log, model=jnp.zeros(N, jnp.int32))
    every = jnp.broadcast_to(jnp.array([1.0, 0.0, 0.0]), (N, T))
    certain = replace(nuisances, propensity=jnp.ones(N), all_propensity=every)
    nothing = replace(log, row_weight=jnp.zeros(N))
    constant = replace(log, x=jnp.ones((N, D)), score=jnp.ones(N), cost=jnp.zeros(N))
    known = replace(nuisances, score=jnp.ones((N, T)), cost=jnp.zeros((N, T)))
    unscored = replace(log, scored=jnp.zeros(N, bool))
    for odd in ((one_model, certain), (nothing, nuisances), (constant, known), (unscored, nuisances)):
        found = diagnosed(*odd, policy)
        # A tail that cannot be told is infinite, and says so.
        bare = found._replace(policy_weights=found.policy_weights._replace(pareto_k=jnp.zeros(())))
        bare = bare._replace(model_weights=bare.model_weights._replace(pareto_k=jnp.zeros(T)))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(bare))
        assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(found))
    lone = diagnosed(one_model, certain, policy)
    np.testing.assert_allclose(lone.model_support.absent, [0.0, 1.0, 1.0])
    np.testing.assert_allclose(lone.model_weights.effective_rows, [N, 0.0, 0.0])
    assert float(lone.propensity_misfit.p_value) == 1.0
    sure = diagnosed(constant, known, policy)
    assert min(float(sure.score_misfit.p_value), float(sure.cost_misfit.p_value)) == 1.0


def test_equal_weights_lose_no_row_and_scale_does_not_matter():
    assert float(effective_rows(jnp.full(7, 3.0))) == 7.0
    weight = jnp.asarray(np.random.default_rng(0).random(50), jnp.float32)
    np.testing.assert_allclose(effective_rows(1e-30 * weight), effective_rows(weight), rtol=1e-4)
    exact = weighed(jnp.ones(300))
    assert float(exact.mean_z) == 0.0 and float(exact.effective_share) == 1.0 and float(exact.pareto_k) < 0
    # All propensities half of what they are: sure, and not infinite.
    assert 1e4 < float(weighed(jnp.full(300, 2.0)).mean_z) < 1e9


def test_wrong_propensities_and_wrong_outcomes_are_told_apart():
    log, nuisances, policy = example(7)

    def p_values(changed):
        found = diagnosed(log, changed, policy)
        parts = (found.propensity_misfit, found.score_misfit, found.cost_misfit, found.utility_misfit)
        return np.array([part.p_value for part in parts])

    assert (p_values(nuisances) > 0.01).all()
    uniform = jnp.full((N, T), 1 / T, jnp.float32)
    found = p_values(replace(nuisances, propensity=uniform[:, 0], all_propensity=uniform))
    assert found[0] < 1e-6 and (found[1:] > 0.01).all()
    found = p_values(replace(nuisances, score=jnp.full((N, T), 0.5, jnp.float32)))
    assert (found[[1, 3]] < 1e-4).all() and (found[[0, 2]] > 0.01).all()


def test_a_table_says_it_in_aligned_lines():
    log, nuisances, policy = example()
    for given in ((log, nuisances, policy), (log, nuisances), example(logged=True)):
        text = explain_diagnosis(diagnosed(*given), ("a", "b", "c"), dim=D)
        lines = text.splitlines()
        assert lines[0].startswith("400 rows")
        assert any(line.startswith("policy") for line in lines) == (len(given) == 3)
        header = next(line for line in lines if "misfit p" in line)
        score = next(line for line in lines if line.startswith("score"))
        assert len(score) == len(header) and "nan" not in text
    found = diagnosed(log, nuisances, policy)
    rows = explain_diagnosis(found, ("a", "b", "c"), dim=D).splitlines()
    first = next(line for line in rows if line.startswith("a ")).split()
    assert first[1] == f"{found.model_rows[0]:.0f}" and first[2] == f"{found.model_weights.effective_rows[0]:.0f}"


def test_results_are_plain_json():
    for given in (example(), example(logged=True)[:2]):
        results = json.loads(json.dumps(as_results(diagnosed(*given), ("a", "b", "c"), dim=D)))
        assert np.array(results["diagnosis"]["score_misfit"]["z"]).shape == (T, len(results["features"]))
