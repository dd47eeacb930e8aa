"""A log in chunks: nuisances and scores are those of the whole log, and training is the loop it says it is."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.counterfactual import counterfactual_scores
from jrouter.features import fit_scaling
from jrouter.losses import softmax_regret
from jrouter.metrics import utility
from jrouter.networks import RouterNetwork, run
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.nuisances.propensity import Clipping
from jrouter.nuisances.sampled import by_fold, fit_sampled, predict_sampled
from jrouter.splits import folds_alone
from jrouter.stream_sweep import stream_sweep
from jrouter.streaming import Roles, draw_sample, log_chunk, make_scorer, training_rows
from jrouter.sweep import run_sweep
from jrouter.train import Hyper, Rows
from jrouter.train_stacked import StackedConfig, make_stacked_train, members_of
from jrouter.types import LoggedData, take_rows

R, D, T = 5, 4, 3
N = 600
SHUFFLE = jax.random.key(9)
NETWORK = RouterNetwork(T, (6, 5))
NUISANCES = NuisanceConfig(clipping=Clipping(percentiles=(5.0, 95.0)))


@cache
def made(n=N, seed=0):
    """A log with all that a stream has: weights, unscored answers, restricted choices, repeated queries."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)).astype(np.float32)
    x[1::7] = x[::7][: len(x[1::7])]
    allowed = rng.random((n, T)) < 0.8
    model = rng.integers(0, T, n)
    allowed[np.arange(n), model] = True
    score = np.clip(0.5 + 0.2 * x[np.arange(n), model] + 0.1 * rng.normal(size=n), 0, 1)
    scored = rng.random(n) < 0.9
    columns: dict[str, Any] = dict(
        x=x,
        model=model.astype(np.int32),
        score=np.where(scored, score, 0).astype(np.float32),
        cost=(0.1 * (1 + model) + 0.02 * np.abs(x[:, 0])).astype(np.float32),
        row_weight=rng.integers(1, 3, n).astype(np.float32),
        allowed=allowed,
        scored=scored,
    )
    return LoggedData(**jax.tree.map(jnp.asarray, columns), models=("a", "b", "c"))


ROLES = Roles(N, n_folds=3, nuisance_rows=10 * N, valid_rows=N // 5)


def parts_of(log, size):
    n = log.model.shape[0]
    return [log_chunk(take_rows(log, np.arange(i, min(i + size, n))), i) for i in range(0, n, size)]


def test_roles_are_the_same_in_every_chunk_and_follow_the_query():
    log = made()
    whole, parts = log_chunk(log), parts_of(log, 150)
    for rule in (ROLES.fold, ROLES.validates, Roles(N, nuisance_rows=N // 3).sampled):
        np.testing.assert_array_equal(rule(whole), np.concatenate([rule(part) for part in parts]))
    fold, held = ROLES.fold(whole), ROLES.validates(whole)
    np.testing.assert_array_equal(fold[1::7], fold[::7][: len(fold[1::7])])
    np.testing.assert_array_equal(held[1::7], held[::7][: len(fold[1::7])])
    # Rows of the sample are drawn one by one, so that a query of many rows is not all or nothing of it.
    sampled = Roles(N, nuisance_rows=N // 3).sampled(whole)
    assert (sampled[1::7] != sampled[::7][: len(fold[1::7])]).any()
    n = 100_000
    zeros = jnp.zeros(n)
    many = log_chunk(LoggedData(zeros[:, None], zeros.astype(jnp.int32), zeros, zeros, models=("a", "b")))
    many = many._replace(key=many.row.astype(np.uint64))
    roles = Roles(n, nuisance_rows=30_000, valid_rows=10_000)
    for share, expected in (
        (roles.sampled(many).mean(), 0.3),
        (roles.validates(many).mean(), 0.1),
        *((share, 0.2) for share in np.bincount(roles.fold(many)) / n),
        ((roles.validates(many) & (roles.fold(many) == 1)).mean(), 0.1 * 0.2),
        ((roles.sampled(many) & roles.validates(many)).mean(), 0.3 * 0.1),
    ):
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / n)
    assert (Roles(n, seed=1).fold(many) == roles.fold(many)).mean() < 0.25


def test_by_fold_takes_each_row_to_the_fit_of_its_own_fold():
    rng = np.random.default_rng(0)
    slopes = jnp.arange(5.0)
    for block in (1, 8, 64):
        scaled = jax.jit(partial(by_fold, lambda slope, x: slope * x, block=block))
        for fold in (rng.integers(0, 4, 50), np.full(50, 3), np.arange(50) == 7):
            fold = jnp.asarray(fold, jnp.int32)
            x = jnp.asarray(rng.normal(size=(50, 2)), jnp.float32)
            np.testing.assert_allclose(scaled(slopes, x, fold), slopes[fold][:, None] * x, rtol=1e-6)


@cache
def sampled(size=200):
    log = made()
    sample = draw_sample(parts_of(log, size), ROLES)
    split = folds_alone(sample.log, sample.fold, n_folds=3)
    fit = jax.jit(lambda key, log: fit_sampled(key, log, split, NUISANCES))
    return sample, split, fit, fit(jax.random.key(0), jax.tree.map(jnp.asarray, sample.log))


def test_with_all_rows_in_the_sample_nuisances_and_scores_are_those_of_the_log_in_memory():
    log, (sample, split, _, fitted) = made(), sampled()
    chex.assert_trees_all_equal(sample.log.x, np.asarray(log.x))
    direct = jax.jit(lambda key, log: fit_nuisances(key, log, split, NUISANCES))
    expected = direct(jax.random.key(0), log)
    found = jax.jit(partial(predict_sampled, config=NUISANCES))(fitted, log, split.fold)
    for name in ("propensity", "score", "cost", "scored_probability"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
    # The percentiles do clip.
    assert len(np.unique(found.propensity)) < 0.95 * N

    scores = counterfactual_scores(log, expected, estimator="dros", strength=10.0)
    scaling = fit_scaling(log.x, log.weight)
    score = partial(jax.jit(make_scorer(config=NUISANCES)), fitted, scaling, sample.scored_share)
    rows = [training_rows(score, part, ROLES) for part in parts_of(log, 200)]
    x, (of_score, of_cost) = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(part.examples for part in rows))
    np.testing.assert_allclose(of_score, scores.score, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_cost, scores.cost, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(x, (log.x - scaling["centre"]) / scaling["scale"], rtol=1e-5, atol=1e-6)
    weight = np.concatenate([part.weight for part in rows])
    held = ROLES.validates(log_chunk(log))
    np.testing.assert_array_equal(weight, np.where(held, 0, log.weight))
    np.testing.assert_allclose(sample.mean_weight, weight.mean(), rtol=1e-6)
    np.testing.assert_array_equal(sample.valid.cost, np.asarray(log.cost)[held])
    np.testing.assert_array_equal(sample.valid_fold, ROLES.fold(log_chunk(log))[held])


def test_a_row_is_scored_by_a_fit_that_never_saw_its_query():
    """Outcomes of one fold's rows changed beyond measure: predictions of that fold's rows stay."""
    log, (sample, split, fit, fitted) = made(), sampled()
    own = split.fold == 1
    changed = replace(log, score=jnp.where(own, 99.0 - log.score, log.score))
    predict = jax.jit(lambda fitted: predict_sampled(fitted, log, split.fold, NUISANCES).score)
    before, after = predict(fitted), predict(fit(jax.random.key(0), changed))
    moved = jnp.abs(after - before).mean(axis=1)
    # Up to the strength of the penalty, which is one number chosen by all folds.
    assert moved[own].max() < 0.5 < 5.0 < moved[~own].min()
    assert len(sample.fold) == N


def test_a_pass_counts_and_keeps_within_bounds():
    log = made()
    whole = log_chunk(log)
    roles = Roles(N, n_folds=3, nuisance_rows=150, valid_rows=40)
    sample = draw_sample(parts_of(log, 77), roles)
    assert len(sample.fold) == roles.sampled(whole).sum() and sample.rows == N
    weight, scored = np.asarray(log.weight), np.asarray(log.scored)
    for place in range(T):
        own = np.asarray(log.model) == place
        np.testing.assert_allclose(
            sample.scored_share[place], (weight * scored)[own].sum() / weight[own].sum(), rtol=1e-6
        )
    # One query with most of the rows: no more than twice those asked for are kept.
    lump = replace(log, group=jnp.zeros(N, jnp.int32))
    roles = next(
        one for one in (replace(roles, seed=seed) for seed in range(100)) if one.validates(log_chunk(lump)).all()
    )
    with pytest.raises(ValueError, match="nothing|some of each"):
        draw_sample(parts_of(lump, 100), replace(roles, nuisance_rows=0))
    assert len(draw_sample(parts_of(lump, 100), roles).valid_fold) == 80
    with pytest.raises(ValueError, match="no row of this log was scored"):
        draw_sample(parts_of(replace(log, scored=jnp.zeros(N, bool)), 100), roles)
    with pytest.raises(ValueError, match="no rows"):
        draw_sample([], roles)
    with pytest.raises(ValueError, match="'sndr' needs all rows"):
        make_scorer(estimator="sndr")
    with pytest.raises(ValueError, match="folds of"):
        folds_alone(log, np.zeros(N, int), n_folds=3)


def surrogate(logits, targets, lam):
    return softmax_regret(logits, utility(targets[0], targets[1], lam))


def rows_of(seed, n):
    x = jax.random.normal(jax.random.key(seed), (n, D))
    noise = 0.3 * jax.random.normal(jax.random.key(seed + 100), (n, T))
    return Rows((x, (x[:, :T] + noise, jnp.abs(x[:, 1:]) + noise)), jnp.ones(n).at[3].set(2.0).at[5].set(0.0))


def members(n=R):
    keys = jax.vmap(jax.random.key)(jnp.arange(n))
    return members_of(keys, jnp.linspace(0.0, 2.0, n), Hyper(jnp.linspace(0.01, 0.05, n), 0.1))


def cut(rows, size):
    n = rows.weight.shape[0]
    return [jax.tree.map(lambda leaf, i=i: leaf[i : i + size], rows) for i in range(0, n, size)]


@cache
def training(config):
    """One object for each config, so that what is compiled for it is compiled once."""
    return make_stacked_train(NETWORK, surrogate, config)


def streamed(config, rows, valid, size, n=R, **more):
    train = training(config)
    parts = cut(rows, size)
    sizes = {"n_chunks": len(parts), "chunk_rows": size, "mean_weight": rows.weight.mean()}
    return stream_sweep(train, members(n), lambda epoch: iter(parts), valid, SHUFFLE, config=config, **sizes, **more)


@pytest.mark.parametrize("validated", [True, False])
def test_one_chunk_is_the_sweep_in_memory(validated):
    config = StackedConfig(epochs=4, batch_size=16, min_batches=3)
    rows, valid = rows_of(0, 70), rows_of(1, 33) if validated else None
    whole = run_sweep(make_stacked_train(NETWORK, surrogate, config), members(), rows, valid, SHUFFLE, config=config)
    found = streamed(config, rows, valid, 70)
    chex.assert_trees_all_close(found.params, whole.params, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.loss, whole.loss, rtol=1e-5)
    np.testing.assert_array_equal(found.epochs, whole.epochs)


def test_chunks_are_a_plain_loop_over_their_minibatches():
    """AdamW in plain JAX, one network, rows in the order that the keys say."""
    config = StackedConfig(epochs=3, batch_size=8)
    rows = rows_of(0, 64)
    found = streamed(config, rows, None, 32)
    crew = members()
    parts = cut(rows, 32)
    for place in (R - 1,):
        one = jax.tree.map(lambda leaf, place=place: leaf[place], crew)
        params = NETWORK.init(one.key, rows.examples[0][0])
        mean = square = jax.tree.map(jnp.zeros_like, params)

        @jax.jit
        def gradient(params, part, index, lam):
            def loss(params):
                x, (score, cost) = jax.tree.map(lambda leaf: leaf[index], part.examples)
                logits = jax.vmap(partial(run, NETWORK, params))(x)
                each = jax.vmap(surrogate, in_axes=(0, 0, None))(logits, (score, cost), lam)
                return (each * part.weight[index]).sum() / (8 * rows.weight.mean())

            return jax.grad(loss)(params)

        step, total = 0, 3 * 8
        for epoch in range(3):
            keys = jax.random.split(jax.random.fold_in(SHUFFLE, epoch), 2)
            for key, part in zip(keys, parts, strict=True):
                order = jax.random.permutation(key, 32).reshape(4, 8)
                for index in order:
                    slope = gradient(params, part, index, one.setting)
                    rate = one.hyper.learning_rate * 0.5 * (1 + np.cos(np.pi * step / total))
                    step += 1
                    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, slope)
                    square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, square, slope)
                    params = jax.tree.map(
                        lambda p, m, v, step=step, rate=rate: (
                            p - rate * (m / (1 - 0.9**step) / (jnp.sqrt(v / (1 - 0.999**step)) + 1e-8) + 0.1 * p)
                        ),
                        params,
                        mean,
                        square,
                    )
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, place=place: leaf[place], found.params), params, rtol=1e-3, atol=1e-4
        )


def test_groups_stops_and_interruptions_change_nothing():
    config = StackedConfig(epochs=24, batch_size=16, patience=1)
    rows, valid = rows_of(0, 64), rows_of(1, 33)
    whole = streamed(config, rows, valid, 32, n=6)
    assert 0 < (whole.epochs < 24).sum() < 6  # some stop early
    kept, seen = {}, []

    def keep(progress, chunk):
        seen.append(progress.done)
        kept[progress.group] = chunk
        if len(seen) == 7:  # group 0 is an epoch ahead of the others then
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streamed(config, rows, valid, 32, n=6, at_once=2, on_chunk=keep)
    assert int(kept[0].state.epoch) == int(kept[1].state.epoch) + 1
    resumed = streamed(config, rows, valid, 32, n=6, at_once=2, load_chunk=kept.get)
    chex.assert_trees_all_equal(resumed, streamed(config, rows, valid, 32, n=6, at_once=2, on_chunk=lambda *_: None))
    chex.assert_trees_all_close(resumed.params, whole.params, rtol=1e-3, atol=1e-4)
    assert seen == sorted(seen) and seen[-1] == pytest.approx((3 + 2 + 2) / (3 * 24))


def test_chunks_that_are_not_what_was_said():
    config = StackedConfig(epochs=1, batch_size=16)
    train = training(config)
    parts = cut(rows_of(0, 64), 32)
    for n, match in ((3, "has 2 chunks, expected 3"), (1, "expected 1 chunks of 32")):
        with pytest.raises(ValueError, match=match):
            stream_sweep(
                train,
                members(),
                lambda epoch: parts,
                None,
                SHUFFLE,
                config=config,
                n_chunks=n,
                chunk_rows=32,
                mean_weight=1.0,
            )


def test_a_longer_log_is_the_same_program():
    config = StackedConfig(epochs=2, batch_size=16)
    traced = chex.assert_max_traces(training(config).steps, n=1)
    train = training(config)._replace(steps=traced)
    for n_chunks in (2, 3):
        parts = cut(rows_of(0, 32 * n_chunks), 32)
        sizes = {"n_chunks": n_chunks, "chunk_rows": 32, "mean_weight": 1.0}
        stream_sweep(train, members(), lambda epoch, parts=parts: parts, None, SHUFFLE, config=config, **sizes)
