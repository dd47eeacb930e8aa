"""Ridge outcome models against scikit-learn and against their stated objective in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from jrouter.nuisances import ridge
from jrouter.nuisances.crossfit_outcome import fit_outcome, held_out_outcome
from jrouter.nuisances.outcome import Outcomes
from jrouter.splits import split_log
from jrouter.types import LoggedData

N, D, T = 150, 6, 3
MODEL_SIZE = N  # room for resampled rows, too
FEATURES = np.array([[-1.0, 0.3], [0.2, -1.1], [0.8, 0.8]], np.float32)  # of the models, mean 0
INFINITY = float("inf")


def outcomes(seed=0, weights=1):
    """Logged rows with centred x, and row weights for both outcomes together (1) or each (2)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D)) + 0.5
    model = rng.choice(T, N, p=[0.6, 0.3, 0.1])
    common = x @ rng.normal(size=(D, 2))
    own = np.stack([x @ rng.normal(size=(D, 2)) for _ in range(T)])[model, np.arange(N)]
    observed = common + 0.5 * own + rng.normal(size=(N, 2)) + model[:, None]
    weight = rng.integers(0, 3, size=(N, weights))
    return Outcomes(*(jnp.asarray(part, jnp.float32) for part in (x, model, observed, weight)))._replace(
        model=jnp.asarray(model, jnp.int32)
    )


@jax.jit
def solution(rows, strength):
    family = ridge.pooled()
    statistics = family.prepare(jax.random.key(0), rows, T, MODEL_SIZE)
    return family.assemble(statistics, family.solve(statistics, strength))


def fit(rows, a, b):
    """{"coefficients": [2, T, d], "intercept": [2, T]} at one strength."""
    return jax.tree.map(np.asarray, solution(rows, jnp.array([a, b])))


def in_float64(rows):
    x, model, observed, weight = (np.asarray(part, np.float64) for part in rows[:4])
    return x, model.astype(int), observed, np.broadcast_to(weight, observed.shape)


def centred(values, weight):
    return values - np.average(values, axis=0, weights=weight)


def brute_force(rows, a, b):
    """Coefficients [2, T, d]: all d (T + 1) unknowns at once, as the module's first lines state them."""
    x, model, observed, weight = in_float64(rows)
    result = np.empty((2, T, D))
    for output in range(2):
        design, target, root = [], [], []
        for t in range(T):
            mine = model == t
            w = weight[mine, output]
            block = np.zeros((mine.sum(), D * (T + 1)))
            block[:, :D] = block[:, D * (t + 1) : D * (t + 2)] = centred(x[mine], w)
            design.append(block)
            target.append(centred(observed[mine, output], w))
            root.append(np.sqrt(w))
        design = np.concatenate(design) * np.concatenate(root)[:, None]
        target = np.concatenate(target) * np.concatenate(root)
        penalty = D * np.repeat([a, b], [D, D * T])
        unknowns = np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ target).reshape(T + 1, D)
        result[output] = unknowns[0] + unknowns[1:]
    return result


def test_the_strengths_of_per_model_ridge_share_nothing():
    assert all(a == INFINITY for a, _ in np.asarray(ridge.ridge().strengths))
    assert np.isfinite(np.asarray(ridge.pooled().strengths)).all()


@pytest.mark.parametrize("weights", [1, 2])
@pytest.mark.parametrize("b", [0.5, 20.0])
def test_ridge_is_scikit_learns_for_each_model(weights, b):
    rows = outcomes(weights=weights)
    ours = fit(rows, INFINITY, b)
    x, model, observed, weight = in_float64(rows)
    for t in range(T):
        mine = model == t
        for output in range(2):
            peer = Ridge(alpha=b * D).fit(x[mine], observed[mine, output], weight[mine, output])
            np.testing.assert_allclose(ours["coefficients"][output, t], peer.coef_, rtol=1e-4, atol=2e-5)
            np.testing.assert_allclose(ours["intercept"][output, t], peer.intercept_, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("weights", [1, 2])
@pytest.mark.parametrize("a,b", [(0.3, 2.0), (3.0, 0.2), (1.0, 100.0)])
def test_pooled_solves_its_objective(weights, a, b):
    rows = outcomes(seed=1, weights=weights)
    ours = fit(rows, a, b)
    exact = brute_force(rows, a, b)
    np.testing.assert_allclose(ours["coefficients"], exact, rtol=1e-3, atol=1e-4)
    x, model, observed, weight = in_float64(rows)
    for t in range(T):
        mine = model == t
        for output in range(2):
            w = weight[mine, output]
            at_mean = exact[output, t] @ np.average(x[mine], axis=0, weights=w)
            expected = np.average(observed[mine, output], weights=w) - at_mean
            np.testing.assert_allclose(ours["intercept"][output, t], expected, rtol=1e-3, atol=2e-4)


def test_a_costly_shared_part_leaves_ridge_and_a_costly_own_part_leaves_one_slope():
    rows = outcomes(seed=2)
    alone = fit(rows, INFINITY, 2.0)["coefficients"]
    np.testing.assert_allclose(fit(rows, 1e6, 2.0)["coefficients"], alone, atol=1e-4)
    shared = fit(rows, 1.0, 1e4)["coefficients"]
    assert np.abs(shared - shared[:, :1]).max() < 0.02 * np.abs(shared).max()
    assert np.abs(alone - alone[:, :1]).max() > 0.2 * np.abs(alone).max()  # which ridge alone has not


@pytest.mark.parametrize("a", [INFINITY, 1.0])
def test_weight_two_is_a_row_twice(a):
    rows = outcomes(seed=3)
    times = np.asarray(rows.weight[:, 0]).astype(int)
    repeated = np.repeat(np.arange(N), times)
    padding = np.zeros(N - repeated.size, int)
    index = np.concatenate([repeated, padding])  # N rows again: the program is compiled once
    twice = jax.tree.map(lambda leaf: leaf[index], rows)
    present = jnp.asarray(np.arange(N) < repeated.size, jnp.float32)
    for weighted, plain in zip(
        fit(rows, a, 1.0).values(), fit(twice._replace(weight=present[:, None]), a, 1.0).values(), strict=True
    ):
        np.testing.assert_allclose(weighted, plain, rtol=1e-4, atol=2e-5)


def test_weight_zero_is_absent_whatever_the_row_holds():
    rows = outcomes(seed=4)
    absent = (rows.weight == 0).astype(jnp.float32)
    garbage = rows._replace(x=rows.x + 1e4 * absent, observed=rows.observed - 1e6 * absent)
    assert float(absent.sum()) > 20
    for clean, dirty in zip(fit(rows, 1.0, 2.0).values(), fit(garbage, 1.0, 2.0).values(), strict=True):
        np.testing.assert_array_equal(clean, dirty)


def log(seed=0, empty=False, noise=1.0):
    """A log of T models, the last of which never answers if `empty`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D)) * 3.0 + 1.0
    model = rng.integers(0, T - empty, N)
    score = (x @ rng.normal(size=(D, T)))[np.arange(N), model] + noise * rng.normal(size=N)
    cost = 100.0**model * (2.0 + 0.2 * x[:, 0] + 0.3 * rng.normal(size=N))
    names = tuple("abc")
    return LoggedData(
        jnp.asarray(x, jnp.float32),
        jnp.asarray(model, jnp.int32),
        jnp.asarray(score, jnp.float32),
        jnp.asarray(cost, jnp.float32),
        models=names,
    )


@pytest.mark.parametrize("family", [ridge.ridge, ridge.pooled])
def test_a_model_without_rows_predicts_finite_values(family):
    data = log(empty=True)
    split = split_log([data], seeds=[0], n_folds=2)[0]

    @jax.jit
    def predict(data):
        chosen = family(((INFINITY, 3.0),) if family is ridge.ridge else ((1.0, 3.0),))
        return held_out_outcome(fit_outcome(jax.random.key(0), chosen, data, split))

    score, cost = (np.asarray(part) for part in predict(data))
    assert np.isfinite(score).all() and np.isfinite(cost).all()
    if family is ridge.ridge:
        # The other fold's mean over all models, the same for every row of a fold.
        for fold in range(2):
            mine = np.asarray(split.fold) == fold
            np.testing.assert_allclose(score[mine, -1], np.asarray(data.score)[~mine].mean(), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(cost[mine, -1], np.asarray(data.cost)[~mine].mean(), rtol=1e-4)


def test_strength_is_chosen_as_by_a_loop_over_folds():
    data = log(seed=1, noise=30.0)
    split = split_log([data], seeds=[0], n_folds=3)[0]

    @jax.jit
    def fit_it(data):
        return fit_outcome(jax.random.key(0), ridge.ridge(), data, split)

    fitted = fit_it(data)

    x, model = np.asarray(data.x, np.float64), np.asarray(data.model)
    x = (x - x.mean(axis=0)) / np.sqrt(((x - x.mean(axis=0)) ** 2).mean())
    observed = np.stack([data.score, data.cost], axis=1).astype(np.float64)
    unit = np.stack([observed[model == t].std(axis=0) for t in range(T)])
    error = np.zeros((len(ridge.PER_MODEL_STRENGTHS), 2))
    for place, (_, b) in enumerate(ridge.PER_MODEL_STRENGTHS):
        for fold in range(3):
            for t in range(T):
                for output in range(2):
                    mine = model == t
                    train, test = mine & (np.asarray(split.fold) != fold), mine & (np.asarray(split.fold) == fold)
                    mean, deviation = observed[train, output].mean(), observed[train, output].std()
                    peer = Ridge(alpha=b * D).fit(x[train], (observed[train, output] - mean) / deviation)
                    residual = mean + deviation * peer.predict(x[test]) - observed[test, output]
                    error[place, output] += ((residual / unit[t, output]) ** 2).sum() / N
    np.testing.assert_allclose(fitted.error, error, rtol=1e-3)
    best = error.argmin(axis=0)
    assert best[0] != best[1]  # else choosing one for both would pass
    np.testing.assert_allclose(fitted.strength[:, 1], [ridge.PER_MODEL_STRENGTHS[place][1] for place in best])


def test_features_of_models_solve_their_objective():
    """w_0 + A z_t + v_t as d (1 + f + T) unknowns at once, in float64."""
    rows, a, b = outcomes(seed=5)._replace(features=jnp.asarray(FEATURES)), 0.5, 3.0
    ours = fit(rows, a, b)["coefficients"]
    x, model, observed, weight = in_float64(rows)
    basis = np.column_stack([np.ones(T), FEATURES, np.eye(T)])
    penalty = D * np.repeat([a, b], [3 * D, T * D])
    for output in range(2):
        gram, moment = np.diag(penalty), np.zeros(len(penalty))
        for t in range(T):
            mine, w = model == t, weight[model == t, output]
            design = np.kron(basis[t], centred(x[mine], w))
            gram += (design * w[:, None]).T @ design
            moment += (design * w[:, None]).T @ centred(observed[mine, output], w)
        unknowns = np.linalg.solve(gram, moment).reshape(-1, D)
        np.testing.assert_allclose(ours[output], basis @ unknowns, rtol=1e-3, atol=2e-4)
    plain = fit(rows._replace(features=None), a, b)["coefficients"]
    assert np.abs(plain - ours).max() > 0.01  # features are not ignored
    nothing = fit(rows._replace(features=jnp.zeros((T, 2))), a, b)["coefficients"]
    np.testing.assert_allclose(nothing, plain, rtol=1e-4, atol=1e-5)


def test_a_new_model_has_the_slopes_of_its_relatives():
    rows = outcomes(seed=6)
    # The last model is new, and like the second in every feature; the first is unlike both.
    rows = rows._replace(
        weight=rows.weight * (rows.model[:, None] < T - 1), features=jnp.array([[1.4, 0.0], [-0.7, 0.0], [-0.7, 0.0]])
    )
    slopes = fit(rows, 0.1, 3.0)["coefficients"]
    distance = np.abs(slopes - slopes[:, -1:]).mean(axis=(0, 2))
    assert distance[1] < 0.5 * distance[0]
    level = fit(rows, 0.1, 3.0)["intercept"]
    np.testing.assert_array_equal(level[:, -1], 0.0)  # the units hold it
