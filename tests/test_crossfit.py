"""Cross-fitting: a row's nuisances never look at its own outcome, and logs are mapped over as one by one."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from jrouter.nuisances import kernel, outcome, propensity, ridge
from jrouter.nuisances.crossfit import OUTCOME_MODELS, PROPENSITY_MODELS, NuisanceConfig, fit_nuisances
from jrouter.nuisances.crossfit_outcome import fit_outcome
from jrouter.nuisances.folds import fold_weights, held_out
from jrouter.splits import split_log, stack
from jrouter.sweep import over_seeds
from jrouter.train import TrainConfig
from jrouter.types import LoggedData

N, D, T, K = 120, 5, 3, 3
STRENGTH = 3.0


@pytest.fixture(autouse=True, scope="module")
def fixed_strengths():
    """One strength each: a choice by held-out error looks at all rows, as the module says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OUTCOME_MODELS, "ridge", lambda: ridge.ridge(((float("inf"), STRENGTH),)))
        patch.setitem(PROPENSITY_MODELS, "logistic", lambda: propensity.logistic((0.1,)))
        yield


def log(seed=0):
    rng = np.random.default_rng(seed)
    x, model = rng.normal(size=(N, D)), rng.integers(0, T, N)
    score = x[:, 0] * model + rng.normal(size=N)
    cost = np.exp(0.3 * rng.normal(size=N) + model)
    x, score, cost = (jnp.asarray(part, jnp.float32) for part in (x, score, cost))
    return LoggedData(x, jnp.asarray(model, jnp.int32), score, cost, models=("a", "b", "c"))


def splits(n_folds=K):
    """Splits of logs 0 and 1, of the same static sizes: one program for both."""
    return split_log([log(0), log(1)], seeds=[0, 1], n_folds=n_folds)


def fit(key, log, split):
    return fit_nuisances(key, log, split, NuisanceConfig("ridge"))


estimate = jax.jit(fit)


@cache
def base():
    return estimate(jax.random.key(0), log(), splits()[0])


def with_other_outcome(data, row):
    return replace(data, score=data.score.at[row].add(50.0), cost=data.cost.at[row].add(500.0))


@pytest.mark.parametrize("row", [0, 7])
def test_nuisances_of_a_row_do_not_look_at_its_own_outcome(row):
    before = base()
    after = estimate(jax.random.key(0), with_other_outcome(log(), row), splits()[0])
    fold = np.asarray(before.fold)
    same = fold == fold[row]
    np.testing.assert_array_equal(after.fold, before.fold)
    np.testing.assert_array_equal(after.propensity, before.propensity)
    for name in ("score", "cost"):
        old, new = np.asarray(getattr(before, name)), np.asarray(getattr(after, name))
        # Nothing of the whole fold changes, and in every other fold the model that answered does.
        np.testing.assert_array_equal(new[same], old[same])
        logged = int(log().model[row])
        assert (new[~same][:, logged] != old[~same][:, logged]).all()
        others = [t for t in range(T) if t != logged]
        np.testing.assert_array_equal(new[:, others], old[:, others])


def test_propensities_of_a_row_do_not_look_at_its_own_choice():
    row, split = 3, splits()[0]
    other = (log().model[row] + 1) % T
    # The same room for each model's rows, or it would be another program.
    after = estimate(jax.random.key(0), replace(log(), model=log().model.at[row].set(other)), split)
    same = np.flatnonzero(np.asarray(split.fold) == split.fold[row])
    rest = same[same != row]
    np.testing.assert_array_equal(after.propensity[rest], base().propensity[rest])
    assert float(after.propensity[row]) != float(base().propensity[row])  # of another model


def test_without_folds_every_row_sees_itself():
    off = splits(n_folds=1)[0]
    before = estimate(jax.random.key(0), log(), off)
    after = estimate(jax.random.key(0), with_other_outcome(log(), 7), off)
    logged = int(log().model[7])
    assert float(after.score[7, logged]) > float(before.score[7, logged]) + 0.1
    assert float(after.cost[7, logged]) > float(before.cost[7, logged]) + 1.0


def test_nuisances_are_fits_on_the_other_folds():
    data, nuisances = log(), base()
    fold, model = np.asarray(nuisances.fold), np.asarray(data.model)
    x, score = np.asarray(data.x, np.float64), np.asarray(data.score, np.float64)
    scaled = (x - x.mean(axis=0)) / np.sqrt(((x - x.mean(axis=0)) ** 2).mean())
    for number in range(K):
        for t in range(T):
            train = (fold != number) & (model == t)
            # Standardised outcomes do not change what ridge regression with an intercept predicts.
            peer = Ridge(alpha=STRENGTH * D).fit(scaled[train], score[train])
            predicted = peer.predict(scaled[fold == number])
            np.testing.assert_allclose(np.asarray(nuisances.score)[fold == number, t], predicted, rtol=1e-3, atol=1e-4)


def test_fold_weights_leave_out_each_fold_once_then_none():
    data = replace(log(), row_weight=jnp.arange(1.0, N + 1))
    split = splits()[0]
    weights = np.asarray(fold_weights(data, split))
    assert weights.shape == (K + 1, N)
    for number in range(K):
        np.testing.assert_array_equal(
            weights[number], np.where(np.asarray(split.fold) == number, 0, np.arange(1, N + 1))
        )
    np.testing.assert_array_equal(weights[K], np.arange(1, N + 1))


def test_each_row_is_predicted_by_its_own_folds_fit():
    split = splits()[0]
    number = held_out(lambda params, x: params + 0 * x[0], jnp.arange(K + 1.0), log().x, split)
    np.testing.assert_array_equal(number, split.fold)


def test_over_seeds_and_vmap_are_a_loop():
    logs = [log(seed) for seed in range(2)]
    keys = jax.random.split(jax.random.key(4), 2)

    @jax.jit
    def both(keys, pairs):
        def one(key, pair):
            return fit(key, *pair)

        return over_seeds(one)(keys, pairs), over_seeds(one, at_once=2)(keys, pairs)

    mapped, together = both(keys, (stack(logs), stack(splits())))
    for seed in range(2):
        alone = estimate(keys[seed], logs[seed], splits()[seed])
        for many in (mapped, together):
            for name in ("propensity", "score", "cost", "fold"):
                ours, single = getattr(many, name)[seed], getattr(alone, name)
                np.testing.assert_allclose(ours, single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("field", ["outcome", "propensity"])
def test_unknown_names_are_errors_that_list_the_known_ones(field):
    with pytest.raises(ValueError, match=f"unknown {field} model 'forest'.*mlp"):
        NuisanceConfig(**{field: "forest"})  # type: ignore[arg-type]


def pooled_families():
    """With features of the models, or of queries, that are made anew in every fold."""
    small = {"hidden": (8,), "config": TrainConfig(epochs=2, batch_size=32), "strengths": ((10.0, 3.0),)}
    yield pytest.param(outcome.mlp_pooled(**small), id="mlp_pooled")
    yield pytest.param(kernel.kernel_pooled(((3.0, 3.0, 0.5),), n_features=8), id="kernel")
    yield pytest.param(ridge.pooled(((3.0, 3.0),), features=outcome.model_features), id="pooled, model features")


@pytest.mark.parametrize("family", list(pooled_families()))
def test_pooled_families_never_look_at_a_rows_own_outcome(family):
    split = splits()[0]
    program = jax.jit(lambda log: fit_outcome(jax.random.key(0), family, log, split).predicted)
    own = split.fold == 1
    changed = replace(log(), score=jnp.where(own, 50.0, log().score), cost=log().cost + 50.0 * own)
    clean, dirty = np.asarray(program(log())), np.asarray(program(changed))
    mine = np.asarray(own)
    np.testing.assert_allclose(dirty[mine], clean[mine], rtol=1e-4, atol=1e-4)
    assert np.abs(dirty[~mine] - clean[~mine]).max() > 1.0
