"""Seven estimators of a fixed policy's value against float64 definitions, row by row and resampled."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.counterfactual import counterfactual_scores
from jrouter.inference import influence_error
from jrouter.off_policy import value_of_choices
from jrouter.policy_value import (
    POLICY_ESTIMATORS,
    Terms,
    bootstrap_estimates,
    estimates,
    policy_terms,
)
from jrouter.resampling import poisson_counts
from jrouter.types import LoggedData, Nuisances

N, T = 400, 4
THRESHOLD, STRENGTH = 3.0, 8.0


def draw(seed=0, n=N):
    """A log in float64: policy [n, T], outcome model [n, T], y, model, propensity of the logged model, weight."""
    rng = np.random.default_rng(seed)
    logging, policy = (np.exp(rng.normal(size=(n, T))) for _ in range(2))
    logging, policy = (part / part.sum(axis=1, keepdims=True) for part in (logging, policy))
    model = (np.log(logging) + rng.gumbel(size=(n, T))).argmax(axis=1)
    truth = rng.uniform(0.2, 0.8, size=(n, T))
    observed = (rng.random(n) < truth[np.arange(n), model]).astype(float)
    outcome = np.clip(truth + 0.2 * rng.normal(size=(n, T)), 0, 1)
    return policy, outcome, observed, model, logging[np.arange(n), model], rng.uniform(0.5, 2.0, n)


def weighted_log():
    """What the terms are made of, and the row weights."""
    whole = draw()
    return whole[:5], whole[5]


each_row = jax.jit(jax.vmap(partial(policy_terms, threshold=THRESHOLD, strength=STRENGTH)))
bootstrap = jax.jit(bootstrap_estimates, static_argnames=("n_resamples", "at_once"))


def terms_of(policy, outcome, observed, model, propensity):
    given = [jnp.asarray(part, jnp.float32) for part in (policy, outcome, observed, model, propensity)]
    given[3] = jnp.asarray(model, jnp.int32)
    return each_row(*given)


@jax.jit
def moved(terms):
    """[7, n], how each estimate moves as a row counts once more."""
    ones = jnp.ones_like(terms.rows)
    return jax.jacrev(lambda counts: estimates(jax.tree.map(lambda term: (counts * term).sum(), terms)))(ones)


def by_definition(given, weight):
    """Seven values in float64."""
    policy, outcome, observed, model, propensity = given
    row = np.arange(model.size)
    w, direct, error = policy[row, model] / propensity, (policy * outcome).sum(axis=1), observed - outcome[row, model]
    mean = partial(np.average, weights=weight)
    shrunken = STRENGTH * w / (w**2 + STRENGTH)
    return np.array(
        [
            mean(direct),
            mean(w * observed),
            mean(w * observed) / mean(w),
            mean(direct + w * error),
            mean(direct) + mean(w * error) / mean(w),
            mean(direct + np.where(w <= THRESHOLD, w, 0.0) * error),
            mean(direct + shrunken * error),
        ]
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_their_definitions(weighted):
    given, weight = weighted_log()
    weight = weight if weighted else np.ones(N)
    expected = by_definition(given, weight)
    assert len(np.unique(expected.round(4))) == len(POLICY_ESTIMATORS)  # or a mixed-up order would pass
    terms, row_weight = terms_of(*given), jnp.asarray(weight, jnp.float32)
    sums = jax.tree.map(lambda term: (term * row_weight).sum(), terms)
    np.testing.assert_allclose(estimates(sums), expected, rtol=1e-5)


def test_resampled_values_are_those_of_the_resampled_rows():
    given, weight = weighted_log()
    key, n_resamples = jax.random.key(0), 20
    got = bootstrap(key, terms_of(*given), jnp.asarray(weight, jnp.float32), n_resamples=n_resamples)
    counts = np.asarray(poisson_counts(jax.random.split(key, 1)[0], (64, N)))[:n_resamples]
    expected = [by_definition(given, weight * count) for count in counts]
    np.testing.assert_allclose(got, expected, rtol=2e-5)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_bootstrap_has_the_standard_error_of_how_rows_move_the_estimates(grouped):
    given, _ = weighted_log()
    group = None
    if grouped:  # every row five times, none of them news
        given, group = [np.repeat(part, 5, axis=0) for part in given], jnp.repeat(jnp.arange(N), 5)
    terms = terms_of(*given)
    resamples = np.asarray(bootstrap(jax.random.key(1), terms, group=group, n_resamples=4000))
    error = np.asarray(influence_error(moved(terms), group=group))
    # 4 standard errors of a deviation from 4,000 draws; ratios are linear to first order only.
    np.testing.assert_allclose(resamples.std(axis=0), error, rtol=4 / np.sqrt(8000) + 0.02)
    fixed = np.asarray(terms.ips * terms.ratio.shape[0] / terms.ratio.sum()).std() / np.sqrt(N)
    # With the denominator kept, as if it were known, the ratio would seem to vary more than it does.
    assert fixed > 1.3 * error[POLICY_ESTIMATORS.index("snips")]


def test_a_policy_of_one_model_has_the_value_of_its_counterfactual_scores():
    _, outcome, observed, model, propensity, _ = draw()
    policy = np.broadcast_to(np.eye(T)[1], (N, T))
    row = jnp.zeros((N, 1))
    arrays = [jnp.asarray(part, jnp.float32) for part in (outcome, observed, propensity)]
    log = LoggedData(row, jnp.asarray(model, jnp.int32), arrays[1], row[:, 0], models=tuple("abcd"))
    nuisances = Nuisances(arrays[2], arrays[0], jnp.zeros((N, T)), jnp.zeros(N, jnp.int32))
    terms = terms_of(policy, outcome, observed, model, propensity)
    ours = estimates(jax.tree.map(jnp.sum, terms))
    for name, value in zip(POLICY_ESTIMATORS, ours, strict=True):
        strength = THRESHOLD if name == "switch" else STRENGTH
        scores = counterfactual_scores(log, nuisances, estimator=name, strength=strength)
        theirs = value_of_choices(jnp.asarray(policy)[:, None], scores.score, scores.cost, jnp.zeros(1))
        np.testing.assert_allclose(value, theirs.value[0], rtol=2e-5, err_msg=name)


def test_limits():
    policy, outcome, observed, model, propensity, _ = draw()
    values = dict(zip(POLICY_ESTIMATORS, estimates(sums_of(policy, outcome, observed, model, propensity)), strict=True))
    exact = outcome.copy()
    exact[np.arange(N), model] = observed
    of_exact = estimates(sums_of(policy, exact, observed, model, propensity))
    corrected = [POLICY_ESTIMATORS.index(name) for name in ("dr", "sndr", "switch", "dros")]
    np.testing.assert_array_equal(of_exact[jnp.array(corrected)], of_exact[0])
    nothing = estimates(sums_of(policy, 0 * outcome, observed, model, propensity))
    np.testing.assert_allclose(nothing[3], values["ips"], rtol=1e-6)
    np.testing.assert_allclose(nothing[4], values["snips"], rtol=1e-6)
    # Self-normalised values move with the outcome and not with the scale of the propensities.
    moved = estimates(sums_of(policy, outcome + 1, observed + 1, model, propensity / 3))
    np.testing.assert_allclose(moved[2], values["snips"] + 1, rtol=1e-5)
    np.testing.assert_allclose(moved[4], values["sndr"] + 1, rtol=1e-5)


def sums_of(*given):
    return Terms(*(term.sum() for term in terms_of(*given)))


def test_rows_that_could_not_be_logged_have_the_direct_term_alone_and_finite_gradients():
    @jax.jit
    def value(outcome):
        row = policy_terms(jnp.array([0.4, 0.6]), outcome, jnp.float32(1.0), jnp.int32(0), jnp.float32(0.0))
        return estimates(row)

    outcome = jnp.array([0.5, 0.25])
    np.testing.assert_allclose(value(outcome), [0.35, 0, 0, 0.35, 0.35, 0.35, 0.35], rtol=1e-6)
    assert np.isfinite(jax.jacobian(value)(outcome)).all()
    assert np.isfinite(moved(Terms(*jnp.zeros((7, 3))))).all()
