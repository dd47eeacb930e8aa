"""Networks as outcome models: they learn, dear models as well as cheap ones, and only from scored rows."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.nuisances import outcome, ridge
from jrouter.nuisances.outcome import outcomes_of
from jrouter.train import TrainConfig
from jrouter.types import LoggedData

N, D, T, TEST = 600, 8, 3, 400
PRICE = np.array([1e-4, 1e-3, 1e-2])  # the last is a hundred times dearer than the first
FAMILIES = {
    "mlp": outcome.mlp((32,), TrainConfig(epochs=40, batch_size=32)),
    "mlp_per_model": outcome.mlp_per_model((32,), TrainConfig(epochs=40, batch_size=32)),
    "mlp_pooled": outcome.mlp_pooled(
        hidden=(32,), config=TrainConfig(epochs=40, batch_size=32), strengths=((0.1, 0.01),)
    ),
    "pooled": ridge.pooled(((3.0, 1.0),)),
}


def world(seed, n):
    """x [n, d], score [n, T] and cost [n, T]: smooth, different for each model, little noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D))
    score = 0.5 + 0.2 * np.tanh(np.stack([x[:, 0], x[:, 1] + x[:, 2], -x[:, 3]], axis=1))
    cost = PRICE * np.exp(0.4 * np.stack([x[:, 4], x[:, 4] + x[:, 0], -x[:, 5]], axis=1))
    return x, score + 0.02 * rng.normal(size=score.shape), cost


def logged(seed=0, scored=None):
    x, score, cost = world(seed, N)
    model = np.random.default_rng(seed + 100).integers(0, T, N)
    x, score, cost = (jnp.asarray(part, jnp.float32) for part in (x, score[range(N), model], cost[range(N), model]))
    return LoggedData(x, jnp.asarray(model, jnp.int32), score, cost, scored=scored, models=("a", "b", "c"))


def _predictions(family, log, x):
    """[m, 2, T] in the units of score and cost, of a family fitted to all rows at its first strength."""
    outcomes, units = outcomes_of(log, log.x, log.weight, family.features)
    statistics = family.prepare(jax.random.key(0), outcomes, len(log.models), N)
    params = family.assemble(statistics, family.solve(statistics, family.strengths[0]))
    return units.mean + units.deviation * jax.vmap(lambda one: family.predict(params, one))(x)


def _fit(family):
    return jax.jit(lambda log, x: _predictions(family, log, x))


FIT = {name: _fit(family) for name, family in FAMILIES.items()}


@pytest.mark.parametrize("name", ["mlp", "mlp_per_model", "mlp_pooled"])
def test_networks_learn_dear_models_as_well_as_cheap_ones(name):
    x, score, cost = world(1, TEST)
    predicted = np.asarray(FIT[name](logged(), jnp.asarray(x, jnp.float32)), np.float64)
    for place, truth in enumerate((score, cost)):
        unexplained = ((predicted[:, place] - truth) ** 2).mean(axis=0) / truth.var(axis=0)
        assert unexplained.max() < 0.4, (place, unexplained)


@pytest.mark.parametrize("name", list(FIT))
def test_unscored_rows_do_not_influence_scores_but_their_costs_count(name):
    scored = jnp.arange(N) % 3 > 0
    log = logged(scored=scored)
    x = jnp.asarray(world(1, 20)[0], jnp.float32)
    before = FIT[name](log, x)
    unscored = jnp.where(scored, 0.0, 1.0)
    other_scores = FIT[name](
        LoggedData(log.x, log.model, log.score - 1e3 * unscored, log.cost, scored=scored, models=log.models), x
    )
    np.testing.assert_array_equal(before[:, 0], other_scores[:, 0])
    np.testing.assert_array_equal(before[:, 1], other_scores[:, 1])
    other_costs = FIT[name](
        LoggedData(log.x, log.model, log.score, log.cost * (1.0 + 9.0 * unscored), scored=scored, models=log.models), x
    )
    # Three times the mean cost, (2 + 10) / 3 = 4 times, comes from the unscored rows.
    ratio = np.asarray(other_costs[:, 1]).mean(axis=0) / np.asarray(before[:, 1]).mean(axis=0)
    assert (ratio > 2.5).all() and (ratio < 6.0).all(), ratio


def test_outcomes_are_standardised_per_model_by_the_rows_that_count():
    log = logged()
    weight = jnp.asarray(np.random.default_rng(5).integers(0, 3, N), jnp.float32)
    outcomes, units = outcomes_of(log, log.x, weight)
    for t in range(T):
        mine = np.asarray(log.model) == t
        for place, values in enumerate((log.score, log.cost)):
            values, w = np.asarray(values, np.float64)[mine], np.asarray(weight)[mine]
            mean = np.average(values, weights=w)
            np.testing.assert_allclose(units.mean[place, t], mean, rtol=1e-5)
            np.testing.assert_allclose(
                units.deviation[place, t] ** 2, np.average((values - mean) ** 2, weights=w), rtol=1e-4
            )
            standard = np.asarray(outcomes.observed, np.float64)[mine, place]
            np.testing.assert_allclose(np.average(standard, weights=w), 0.0, atol=1e-5)
            np.testing.assert_allclose(np.average(standard**2, weights=w), 1.0, rtol=1e-4)


def test_constant_and_missing_outcomes_have_finite_units():
    log = logged()
    flat = LoggedData(
        log.x, jnp.minimum(log.model, T - 2), jnp.full(N, 0.7), log.cost, models=log.models
    )  # the last model never answers
    outcomes, units = outcomes_of(flat, flat.x, flat.weight)
    np.testing.assert_allclose(units.mean[0], 0.7, rtol=1e-5)
    np.testing.assert_allclose(units.mean[1, -1], np.asarray(flat.cost).mean(), rtol=1e-5)
    assert np.isfinite(np.asarray(outcomes.observed)).all() and (np.asarray(units.deviation) > 0).all()


def family_of_models(n_new, seed=3):
    """A log of 7 models of which the last has `n_new` rows, their features, and a test set.

    How score and cost depend on the query, and their levels, follow the features: price and family.
    """
    rng = np.random.default_rng(seed)
    price, kind = np.array([-1.5, 0.0, 1.5, -1.5, 0.0, 1.5, 1.2]), np.array([0, 0, 0, 1, 1, 1, 1.0])

    def means(x):
        slopes = x[:, :1] * (1 - kind) + x[:, 1:2] * kind
        return 0.5 + 0.1 * price + 0.15 * slopes, 1e-3 * np.exp(price) * (1 + 0.3 * np.tanh(x[:, 2:3]))

    x = rng.normal(size=(N, D))
    model = np.concatenate([np.full(n_new, 6), rng.integers(0, 6, N - n_new)])
    score, cost = (part[np.arange(N), model] for part in means(x))
    score = score + 0.1 * rng.normal(size=N)
    x_test = rng.normal(size=(TEST, D))
    x, score, cost, query = (jnp.asarray(part, jnp.float32) for part in (x, score, cost, x_test))
    log = LoggedData(x, jnp.asarray(model, jnp.int32), score, cost, models=tuple("abcdefg"))
    return log, np.column_stack([price, kind]), query, np.stack([part[:, 6] for part in means(x_test)], axis=1)


def _new_model(make):
    """(log, features, query) -> predictions, one program for all numbers of new rows."""

    def predictions(log, features, query):
        if make == "ridge":
            family = ridge.pooled(((0.1, 3.0),), features=features)
        else:
            config = TrainConfig(epochs=40, batch_size=32)
            family = outcome.mlp_pooled(features, hidden=(16,), config=config, strengths=((1.0, 1.0),))
        return _predictions(family, log, query)

    return jax.jit(predictions)


NEW_MODEL = {make: _new_model(make) for make in ("mlp_pooled", "ridge")}
UNITS = jax.jit(lambda log, weight, features: outcomes_of(log, log.x, weight, features))
UNITS_OF_LOG = jax.jit(lambda log, weight: outcomes_of(log, log.x, weight, outcome.model_features))


@pytest.mark.parametrize("make", list(NEW_MODEL))
@pytest.mark.parametrize("n_new", [0, 5])
def test_a_new_model_starts_from_its_relatives(make, n_new):
    errors = []
    for seed in (3, 4, 5):
        log, features, query, truth = family_of_models(n_new, seed)
        predicted = [np.asarray(NEW_MODEL[make](log, given, query), np.float64)[..., 6] for given in (features, None)]
        errors.append([np.square(one - truth).mean(axis=0) / truth.var(axis=0) for one in predicted])
    errors = np.array(errors)  # [seed, with or without, score or cost]
    with_features, without = errors.mean(axis=0)
    assert (errors[:, 0, 0] < errors[:, 1, 0]).all(), errors
    # Below 1: it knows how its score depends on the query, not its level alone.
    assert with_features[0] < min(0.7, 0.8 * without[0]), (with_features, without)
    if make == "ridge" or n_new == 0:  # a network has learned little of cost here, and five rows tell the level
        assert with_features[1] < 0.7 * without[1], (with_features, without)


def test_units_without_features_are_untouched_and_with_them_lean_on_relatives():
    for n_new in (0, 5):
        log, features, _, truth = family_of_models(n_new)
        (_, plain), (_, leaning) = (UNITS(log, log.weight, given) for given in (None, features))
        # Expected from price and family: within a quarter for cost, whose mean over all models is far off.
        np.testing.assert_allclose(leaning.mean[1, 6], truth[:, 1].mean(), rtol=0.25)
        if n_new == 0:
            assert abs(plain.mean[1, 6] / truth[:, 1].mean() - 1) > 0.4
        # Models with many rows keep their own mean: 2 rows among about 100 pull it little.
        np.testing.assert_allclose(leaning.mean[1, :6], plain.mean[1, :6], rtol=0.02)
        assert np.isfinite(np.asarray(leaning.deviation)).all() and (np.asarray(leaning.deviation) > 0).all()


def test_features_from_the_log_are_those_of_the_rows_that_count():
    log, _, _, _ = family_of_models(5)
    weight = jnp.asarray(np.arange(N) % 2, jnp.float32)
    ours, _ = UNITS_OF_LOG(log, weight)
    other, _ = UNITS_OF_LOG(replace(log, score=log.score + 9.0 * (1 - weight)), weight)
    np.testing.assert_array_equal(ours.features, other.features)
    raw = np.asarray(jax.jit(outcome.model_features)(log), np.float64)
    for t in range(7):
        mine = np.asarray(log.model) == t
        own, n = np.log(np.asarray(log.cost, np.float64)[mine].mean()), mine.sum()
        averages = np.mean([np.log(np.asarray(log.cost)[np.asarray(log.model) == s].mean()) for s in range(7)])
        np.testing.assert_allclose(raw[t, 0], (n * own + 2 * averages) / (n + 2), rtol=1e-4)


def test_a_free_log_and_a_silent_one_have_finite_features_and_units():
    log, features, _, _ = family_of_models(0)
    free = replace(log, cost=jnp.zeros(N))
    for weight in (log.weight, jnp.zeros(N)):
        for rows, units in (UNITS(free, weight, features), UNITS_OF_LOG(free, weight)):
            assert all(np.isfinite(np.asarray(part)).all() for part in (rows.observed, rows.features, *units))
            np.testing.assert_array_equal(units.mean[1], 0.0)


def test_the_own_penalty_of_pooled_heads_shrinks_them_to_one():
    log, config = logged(), TrainConfig(epochs=40, batch_size=32)
    x = jnp.asarray(world(1, 50)[0], jnp.float32)

    @jax.jit
    def standardised(strength):
        family = outcome.mlp_pooled(None, hidden=(16,), config=config)
        rows, _ = outcomes_of(log, log.x, log.weight)
        statistics = family.prepare(jax.random.key(0), rows, T, N)
        params = family.assemble(statistics, family.solve(statistics, strength))
        return jax.vmap(lambda one: family.predict(params, one))(x)

    def spread(own):
        return float(standardised(jnp.array([0.1, own])).std(axis=-1).mean())

    assert spread(1e3) < 0.2 * spread(0.0)
