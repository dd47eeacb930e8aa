"""Rows that a log holds, scores or may hold by choice: each repair is right under known truth, its absence wrong.

The outcome model is deliberately wrong: constant for each model ("dr"), or 0 ("ips"), so that weights do the work.
"""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_answers import draw_answers
from sklearn.linear_model import LogisticRegression

from jrouter.counterfactual import counterfactual_scores
from jrouter.inference import standard_error
from jrouter.known_worlds import (
    draw_known_queries,
    linear_rule,
    log_odds,
    make_known_world,
    mean_outcomes,
    true_value,
)
from jrouter.metrics import decide
from jrouter.nuisances import events, propensity, ridge
from jrouter.nuisances.crossfit import (
    OUTCOME_MODELS,
    PROPENSITY_MODELS,
    NuisanceConfig,
    choose_strengths,
    cross_fitted_propensity,
    cross_fitted_scoring,
    fit_nuisances,
)
from jrouter.nuisances.folds import fold_weights
from jrouter.nuisances.sampled import fit_sampled, predict_sampled
from jrouter.router import Router
from jrouter.splits import split_log
from jrouter.types import LoggedData, Nuisances, take_rows
from jrouter.weighted import model_means, weighted_mean

N, T, D = 20_000, 3, 2
LAMBDAS = jnp.array([0.0, 200.0])
WORLD = jax.jit(lambda: make_known_world(jax.random.key(3), n_models=T, dim=D))()
RULE, PARAMS = linear_rule(WORLD)
CONSTANT = NuisanceConfig("ridge")


@pytest.fixture(autouse=True, scope="module")
def constant_outcomes():
    """A ridge regression of so large a penalty that each model's mean is left; one strength of the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OUTCOME_MODELS, "ridge", lambda: ridge.ridge(((float("inf"), 1e6),)))
        patch.setitem(PROPENSITY_MODELS, "logistic", lambda: propensity.logistic((3e-3,)))
        patch.setattr(events, "PENALTIES", (3e-3,))
        yield


def draw(key, n, allowed=None):
    """A log in which each row chose by a softmax over the models it was allowed, and p(t | x, A) of its choice."""
    key_x, key_allowed, key_model, key_score, key_cost = jax.random.split(key, 5)
    x = draw_known_queries(WORLD, key_x, n)
    sets = None if allowed is None else allowed(key_allowed, x)
    model, score, cost, chosen = draw_answers(WORLD, (key_model, key_score, key_cost), x, sets)
    return LoggedData(x, model, score, cost, allowed=sets, models=WORLD.models), chosen


@cache
def free_truth():
    """Mean score and mean cost, [L] each, of the rule that may choose any model."""
    return true_value(WORLD, RULE, PARAMS, LAMBDAS, jax.random.key(1), n=2**18)


def choices(log, *, restricted=False):
    """[n, L, T], what the rule chooses among all models, or among those that each row was allowed."""

    def of_row(x, mask):
        return jax.vmap(lambda lam: decide(RULE.apply(PARAMS, x, lam), mask=mask))(LAMBDAS)

    return jax.vmap(of_row)(log.x, log.allowed if restricted else jnp.ones((log.x.shape[0], T), bool))


def off(log, nuisances, truth, *, estimator="dr", **named):
    """[2 L], by how many standard errors values of score, then of cost, are off the truth."""
    scores, chosen = counterfactual_scores(log, nuisances, estimator=estimator), choices(log, **named)
    found = []
    for part, expected in zip((scores.score, scores.cost), truth, strict=True):
        rows = jnp.einsum("nlt,nt->ln", chosen, part)
        error = standard_error(rows, log.row_weight)
        found.append((weighted_mean(rows.T, log.row_weight) - expected) / error)
    return np.concatenate(found)


def furthest(*arguments, **named):
    """The largest of these, by a constant outcome model and by none."""
    return max(np.abs(off(*arguments, estimator=estimator, **named)).max() for estimator in ("dr", "ips"))


@cache
def program(config):
    fit = jax.jit(lambda log, split: fit_nuisances(jax.random.key(0), log, split, config))
    return lambda log: fit(log, split_of(log))


def split_of(log, n_folds=3):
    return split_log([log], seeds=[0], n_folds=n_folds)[0]


# Rows kept with a probability that depends on the query and on the model that answered.


@cache
def kept():
    """A log of the rows kept of a larger one, at weights 1 / keep; their p(t | x); true [n, T] propensities."""
    log, chosen = draw(jax.random.key(3), 2 * N + 4000)
    keep = 0.1 + 0.9 * jax.nn.sigmoid(jnp.array([1.5, -1.5, 0.0])[log.model] + 1.2 * log.x[:, 0])
    rows = np.flatnonzero(jax.random.bernoulli(jax.random.key(4), keep))[:N]
    assert rows.size == N
    log = replace(take_rows(log, rows), row_weight=1.0 / keep[rows])
    return log, chosen[rows], jax.nn.softmax(jax.vmap(lambda x: log_odds(WORLD, x))(log.x))


@pytest.mark.parametrize("logged", [False, True], ids=["estimated", "logged"])
def test_one_over_keep_multiplies_the_whole_row(logged):
    log, chosen, every = kept()
    log = replace(log, propensity=chosen) if logged else log
    ones = replace(log, row_weight=jnp.ones(N))
    weighted, plain = program(CONSTANT)(log), program(CONSTANT)(ones)
    assert furthest(log, weighted, free_truth()) < 4
    assert furthest(ones, plain, free_truth()) > 5
    if not logged:
        # In the propensity fit too: else it is the choice among kept rows, and the rest of the weights is no help.
        assert float(jnp.abs(weighted.all_propensity - every).mean()) < 0.01
        assert float(jnp.abs(plain.all_propensity - every).mean()) > 0.05
        assert furthest(log, plain, free_truth()) > 5
    # In the outcome fit: each model's mean over the log before rows were dropped.
    for fitted, row_weight in ((weighted, log.weight), (plain, ones.weight)):
        means = model_means(log.score, log.model, row_weight, n_models=T)
        np.testing.assert_allclose(fitted.score.mean(axis=0), means, atol=0.005)
    assert np.abs(weighted.score - plain.score).max() > 0.01


# Answers scored with a probability that depends on the query and on the model.


@cache
def partly_scored():
    """A log some of whose scores are missing; P(scored | x, t)."""
    log, _ = draw(jax.random.key(5), N)
    probability = jax.nn.sigmoid(jnp.array([1.0, -1.0, 0.0])[log.model] + 1.2 * log.x.sum(axis=1))
    scored = jax.random.bernoulli(jax.random.key(6), probability)
    return replace(log, scored=scored, score=jnp.where(scored, log.score, 0.0)), probability


def test_missing_scores_are_repaired_given_query_and_model_but_not_given_the_model_alone():
    log, probability = partly_scored()
    right = program(CONSTANT)(log)
    assert float(jnp.abs(right.scored_probability - probability).mean()) < 0.02
    assert furthest(log, right, free_truth()) < 4
    shares = replace(right, scored_probability=None)
    assert furthest(log, shares, free_truth()) > 5
    config = NuisanceConfig("ridge", scoring="given_model")
    fit = partial(fit_nuisances, jax.random.key(0), split=split_of(log), config=config)
    assert jax.eval_shape(fit, log).scored_probability is None
    # Nor is it repaired by taking only what was scored, or a missing score for 0.
    for rows in (np.flatnonzero(np.asarray(log.scored)), np.arange(N)):
        naive, known = take_rows(replace(log, scored=None), rows), take_rows(shares, rows)
        assert furthest(naive, known, free_truth()) > 5


def test_the_cost_is_always_seen_and_a_missing_score_never():
    log, _ = partly_scored()
    right = program(CONSTANT)(log)
    missing = ~np.asarray(log.scored)
    garbage = replace(log, score=jnp.where(missing, 1e3, log.score))
    again = program(CONSTANT)(garbage)
    for ours, theirs in zip(jax.tree.leaves(right), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for estimator in ("dr", "snips", "dros"):
        scores, other = (counterfactual_scores(one, right, estimator=estimator) for one in (log, garbage))
        np.testing.assert_array_equal(scores.score, other.score)
        whole = counterfactual_scores(replace(log, scored=None), right, estimator=estimator)
        np.testing.assert_array_equal(scores.cost, whole.cost)
    scores = counterfactual_scores(log, right)
    np.testing.assert_array_equal(np.asarray(scores.score)[missing], np.asarray(right.score)[missing])
    at_logged = np.arange(N), np.asarray(log.model)
    correction = np.asarray(scores.score - right.score)[at_logged]
    expected = (log.score - right.score[at_logged]) / (right.propensity * right.scored_probability)
    np.testing.assert_allclose(correction[~missing], np.asarray(expected)[~missing], rtol=1e-3, atol=1e-5)


def test_few_scores_by_a_judge_on_a_random_sample_of_each_model():
    """The floor is a share of how often a model's answers are scored at all, so 1% is not lifted to 5%."""
    log, _ = partly_scored()
    whole = draw(jax.random.key(5), N)[0]
    scored = jax.random.bernoulli(jax.random.key(8), jnp.array([0.01, 0.02, 0.005])[log.model])
    # Model 1 is always scored: that is certain, not nearly so.
    for present in (scored, scored | (log.model == 1)):
        few = replace(whole, scored=present, score=jnp.where(present, whole.score, 0.0))
        nuisances = program(CONSTANT)(few)
        share = model_means(present.astype(jnp.float32), few.model, few.weight, n_models=T)
        found = model_means(nuisances.scored_probability, few.model, few.weight, n_models=T)
        np.testing.assert_allclose(found, share, rtol=0.1)
        assert furthest(few, nuisances, free_truth()) < 4
    np.testing.assert_array_equal(nuisances.scored_probability[np.asarray(few.model) == 1], 1.0)
    everything = replace(whole, scored=jnp.ones(N, bool))
    np.testing.assert_array_equal(program(CONSTANT)(everything).scored_probability, 1.0)


def small(n=600):
    log, _ = partly_scored()
    log = take_rows(log, np.arange(n))
    allowed = jax.random.bernoulli(jax.random.key(10), 0.6, (n, T)) | jax.nn.one_hot(log.model, T, dtype=bool)
    return replace(log, allowed=allowed, row_weight=1.0 + jnp.arange(n) % 2)


def test_an_event_is_scikit_learns_logistic_regression():
    log = small()
    split, n = split_of(log, n_folds=1), 600
    x, scored, weight = (np.asarray(part) for part in (log.x, log.scored, log.weight))
    fit = jax.jit(lambda x, y: events.fit_event(x, y, fold_weights(log, split), split))
    one = jax.tree.map(lambda leaf: leaf[0], fit(log.x, jnp.asarray(scored)))
    ours = jax.vmap(lambda x: events.event_probability(one, x, floor=0.0))(log.x)
    # |W|^2 of two opposite columns is half the square of their difference.
    peer = LogisticRegression(C=2.0 / (3e-3 * weight.sum()), tol=1e-8).fit(x, scored, sample_weight=weight)
    np.testing.assert_allclose(ours, peer.predict_proba(x)[:, 1], atol=2e-3)
    # A row of weight 2 is the row twice.
    twice = take_rows(log, np.repeat(np.arange(n), weight.astype(int)))
    twice = replace(twice, row_weight=jnp.ones(twice.model.shape[0]))
    other = split_of(twice, n_folds=1)
    fits = jax.jit(lambda log: events.fit_scored(log, log.x, other))(twice)
    again = jax.jit(lambda log: events.fit_scored(log, log.x, split))(log)
    for ours, theirs in zip(jax.tree.leaves(again.params), jax.tree.leaves(fits.params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    # Intercepts of models are not penalised: on average over a model's rows it is the share that was scored.
    one = jax.tree.map(lambda leaf: leaf[0], again)
    fitted = jax.vmap(lambda *row: events.scored_probability(one, row, floor=0.0))(log.x, log.model)
    share = model_means(jnp.asarray(scored, jnp.float32), log.model, log.weight, n_models=T)
    np.testing.assert_allclose(model_means(fitted, log.model, log.weight, n_models=T), share, atol=2e-3)


def test_events_are_cross_fitted():
    """Whether the rows of a fold are scored, or were allowed a model, does not move that fold's probabilities."""
    log = replace(small(), propensity=jnp.full(600, 0.4))
    split = split_of(log)
    own = np.asarray(split.fold) == 1

    @jax.jit
    def both(log):
        return cross_fitted_scoring(log, split, CONSTANT), cross_fitted_propensity(
            jax.random.key(0), log, split, CONSTANT
        )[0]

    changed = replace(log, scored=log.scored ^ own, allowed=log.allowed | own[:, None])
    for before, after in zip(both(log), both(changed), strict=True):
        np.testing.assert_array_equal(np.asarray(before)[own], np.asarray(after)[own])
        assert np.abs(np.asarray(before)[~own] - np.asarray(after)[~own]).max() > 0.02


def test_probabilities_move_smoothly_with_row_weights_at_a_strength_once_chosen():
    """What jackknife and bootstrap through the fits need."""
    log = replace(small(), propensity=jnp.full(600, 0.4))
    split = split_of(log, n_folds=2)
    strengths = jax.eval_shape(partial(choose_strengths, split=split, config=CONSTANT), jax.random.key(0), log)
    assert strengths.scored.shape == () and strengths.allowed.shape == (T,)

    def total(weight, strength):
        scored = cross_fitted_scoring(replace(log, row_weight=weight), split, CONSTANT, strength=strength)
        assert scored is not None
        return jnp.log(scored).mean()

    at = jax.jit(jax.value_and_grad(total))
    step = 0.02 * jax.random.normal(jax.random.key(11), (600,))
    ahead, behind = at(log.weight + step, 0.1)[0], at(log.weight - step, 0.1)[0]
    value, slope = at(log.weight, 0.1)
    np.testing.assert_allclose(ahead - behind, 2.0 * slope @ step, rtol=0.1, atol=1e-5)
    assert abs(ahead - behind) > 1e-4
    assert abs(value - at(log.weight, 0.3)[0]) > 1e-3


# Scores that decide whether they are recorded.


def test_scoring_that_depends_on_the_score_is_refused():
    with pytest.raises(ValueError, match="itself decides.*drawn at random.*judge on a random sample"):
        NuisanceConfig(scoring="given_score")
    for name in ("scoring", "pool"):
        with pytest.raises(ValueError, match=f"unknown {name} 'sometimes': expected one of"):
            NuisanceConfig(**{name: "sometimes"})  # type: ignore[arg-type]

    log = small()
    thumbs_up = log.score > 0
    one_sided = replace(log, scored=thumbs_up)
    reason = events.check_scoring(one_sided)
    assert reason is not None and "every recorded one is 1" in reason and "judge on a random sample" in reason
    assert f"{600 - int(thumbs_up.sum())} of 600 rows" in reason
    with pytest.raises(ValueError, match="seems that the score decides whether it is recorded"):
        Router.fit(one_sided)
    # Both values among those recorded, all recorded, or the missing ones out of the log: nothing is evident.
    for fine in (
        log,
        replace(log, scored=None),
        replace(log, scored=jnp.ones(600, bool), score=jnp.ones(600)),
        replace(one_sided, row_weight=thumbs_up.astype(jnp.float32)),
    ):
        assert events.check_scoring(fine) is None


def test_a_router_is_not_learned_for_restricted_pools():
    with pytest.raises(ValueError, match="router may choose any, so fit it with 'any'"):
        Router.fit(small(), nuisances=NuisanceConfig(pool="allowed"))


# Models that each row was allowed.


def independent_sets(key, x):
    sets = jax.random.bernoulli(key, jnp.array([1.0, 0.5, 0.5]), (x.shape[0], T))
    return sets.at[:, 0].set(True)


def sets_by_query(key, x):
    # Models 1 and 2 are the less allowed, the better they are.
    sets = jax.random.bernoulli(key, jax.nn.sigmoid(-5.0 * x @ WORLD.ability.T))
    return sets.at[:, 0].set(True)


SETS = {"independent": independent_sets, "by query": sets_by_query}


@cache
def restricted_truth(sets):
    """Mean score and mean cost of the rule restricted to allowed models, over queries and sets."""
    log, _ = draw(jax.random.key(9), 2**18, SETS[sets])
    chosen = choices(log, restricted=True)
    means = jax.vmap(lambda x: mean_outcomes(WORLD, x))(log.x)
    return tuple(jnp.einsum("nlt,nt->l", chosen, part) / 2**18 for part in means)


@cache
def pool_program(pool):
    config = NuisanceConfig(pool=pool)

    @jax.jit
    def fit(log, split):
        return cross_fitted_propensity(jax.random.key(0), log, split, config)

    def nuisances(log):
        split = split_of(log)
        means = (model_means(part, log.model, log.weight, n_models=T) for part in (log.score, log.cost))
        score, cost = (jnp.broadcast_to(mean, (N, T)) for mean in means)
        chosen, every = fit(log, split)
        return Nuisances(chosen, score, cost, split.fold, every)

    return nuisances


@pytest.mark.parametrize("logged", [False, True], ids=["estimated", "logged"])
@pytest.mark.parametrize("sets", SETS)
def test_each_target_has_its_own_propensity(sets, logged):
    log, chosen = draw(jax.random.key(8), N, SETS[sets])
    log = replace(log, propensity=chosen) if logged else log
    averaged, given_set = pool_program("any")(log), pool_program("allowed")(log)
    # A policy that may choose any model: averaged over sets. By p(t | x, A) alone, rows whose set had no room for
    # the choice count as if they had said 0.
    assert furthest(log, averaged, free_truth()) < 4
    assert furthest(log, given_set, free_truth()) > 5
    # A policy restricted to each row's allowed models: given the set.
    assert furthest(log, given_set, restricted_truth(sets), restricted=True) < 4
    assert furthest(log, averaged, restricted_truth(sets), restricted=True) > 5
    if logged:
        np.testing.assert_array_equal(given_set.propensity, chosen)
        # Model 0 was always allowed: its propensity is the log's own, not nearly so.
        first = np.asarray(log.model) == 0
        np.testing.assert_array_equal(averaged.propensity[first], chosen[first])
        assert averaged.all_propensity is given_set.all_propensity is None
    else:
        free, restricted = np.asarray(averaged.all_propensity), np.asarray(given_set.all_propensity)
        assert (free > 0).all()
        np.testing.assert_array_equal(restricted > 0, log.allowed)
        for every in (free, restricted):
            np.testing.assert_allclose(every.sum(axis=1), 1.0, atol=0.05)  # up to the floor


def test_a_sample_of_all_rows_gives_the_nuisances_of_the_log_in_memory():
    """With the log's own propensities; estimated ones are in test_streaming."""
    log = replace(small(), propensity=jnp.full(600, 0.4))
    split = split_of(log)

    @jax.jit
    def both(log):
        fitted = fit_sampled(jax.random.key(0), log, split, CONSTANT)
        return predict_sampled(fitted, log, split.fold, CONSTANT), fit_nuisances(
            jax.random.key(0), log, split, CONSTANT
        )

    found, expected = both(log)
    for name in ("propensity", "score", "cost", "scored_probability"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
    assert np.ptp(found.propensity) > 0.1 and np.ptp(found.scored_probability) > 0.1
