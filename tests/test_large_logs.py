"""A router from files that are never held is that of the log in memory, up to the noise of its training."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.io.columns import DataError
from jrouter.io.logs import read_log
from jrouter.io.stream import open_log
from jrouter.io.write_log import write_log
from jrouter.large_logs import fit_stream, prepare
from jrouter.logging_policies import confounded, simulate_log
from jrouter.methods.rm_softmax import RmSoftmaxConfig
from jrouter.metrics import utility
from jrouter.router import Router
from jrouter.synthetic import draw_queries, make_world
from jrouter.types import take_rows

N = 6_000
LAMBDAS = [0.0, 300.0]
CONFIG = {"hidden": (32,), "epochs": 6, "batch_size": 128}
SETTINGS: dict = {
    "config": CONFIG,
    "lambdas": LAMBDAS,
    "nuisance_rows": 3_000,
    "valid_rows": 1_000,
    "chunk_rows": 2_048,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A log in four files, the same in memory, and test queries whose means are known."""
    made = make_world("specialists", dim=16, n_models=4, seed=0)
    key_log, key_test, key_choice = jax.random.split(jax.random.key(0), 3)
    table, test = draw_queries(made, key_log, N), draw_queries(made, key_test, 4_000)
    log, propensity, _ = simulate_log(key_choice, table, confounded(table, spread=1.0, exploration=0.1), None)
    # With its own propensities: fitting them is tested elsewhere, and takes long to compile.
    log = replace(log, propensity=jnp.take_along_axis(propensity, log.model[:, None], axis=1)[:, 0])
    folder = tmp_path_factory.mktemp("log")
    for part in range(4):
        write_log(take_rows(log, np.arange(part * N // 4, (part + 1) * N // 4)), folder / f"{part}.parquet")
    return folder, read_log(folder, models=log.models), test


@pytest.fixture(scope="module")
def streamed(world):
    folder, log, _ = world
    kept = {}
    router = fit_stream(
        folder,
        **SETTINGS,
        models=log.models,
        on_chunk=lambda progress, chunk: kept.setdefault((progress.epoch, progress.done), chunk),
    )
    return router, kept


def by_query(router, test, lam):
    """[n], true utility of what the router chooses."""
    value = utility(test.true_score, test.true_cost, lam)
    return np.asarray((jnp.asarray(router.probabilities(test.x, lam)) * value).sum(axis=1))


def test_a_streamed_router_is_worth_what_the_one_in_memory_is(world, streamed):
    _, log, test = world
    router, _ = streamed
    memory = Router.fit(log, method="rm_softmax", config=CONFIG, lambdas=LAMBDAS, assess_folds=0)
    assert jax.tree.structure(router.params) == jax.tree.structure(memory.params)
    assert jax.tree.map(jnp.shape, router.params) == jax.tree.map(jnp.shape, memory.params)
    for lam in LAMBDAS:
        difference = by_query(router, test, lam) - by_query(memory, test, lam)
        best_fixed = np.asarray(utility(test.true_score, test.true_cost, lam)).mean(axis=0).max()
        gain = by_query(memory, test, lam).mean() - best_fixed
        # Two trainings differ by more than the error of the test mean: by less than half of what either learns.
        error = difference.std() / np.sqrt(difference.size)
        assert gain > 10 * error
        assert difference.mean() > -max(0.5 * gain, 4 * error)
        assert by_query(router, test, lam).mean() - best_fixed > 5 * error


def test_it_is_saved_and_loaded_as_any_router(world, streamed, tmp_path):
    _, log, test = world
    router, _ = streamed
    router.save(tmp_path / "router")
    loaded = Router.load(tmp_path / "router", models=log.models, dim=16)
    assert loaded.method == "rm_softmax" and loaded.lambdas == tuple(LAMBDAS)
    for lam in (0.0, 100.0, 300.0):
        assert loaded.route(test.x[:50], lam) == router.route(test.x[:50], lam)
    assert len(set(loaded.route(test.x[:200], 0.0))) > 1


def test_it_goes_on_from_an_epoch_that_was_kept(world, streamed):
    folder, log, _ = world
    router, kept = streamed
    assert [epoch for epoch, _ in kept] == list(range(1, 7))
    assert [round(done * 6) for _, done in kept] == list(range(1, 7))
    third = next(chunk for (epoch, _), chunk in kept.items() if epoch == 3)
    resumed = fit_stream(
        folder,
        **SETTINGS,
        models=log.models,
        load_chunk=lambda group: third,
    )
    for ours, theirs in zip(jax.tree.leaves(resumed.params), jax.tree.leaves(router.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_grid_and_the_strength_come_from_the_sample_and_mistakes_are_told_first(world):
    folder, log, _ = world
    stream = open_log(folder, chunk_rows=2_048, multiple=128)
    assert (stream.rows, stream.n_chunks, stream.models) == (N, 3, log.models)
    task = prepare(stream, RmSoftmaxConfig(strength="slope"), nuisance_rows=2_000, valid_rows=500)
    assert task.lambdas.shape == (11,) and task.lambdas[0] == 0
    assert abs(len(task.sample.fold) - 2_000) < 200 and abs(len(task.sample.valid_fold) - 500) < 100
    assert task.valid.examples[1][0].shape == (len(task.sample.valid_fold), 4)
    rows = next(task.rows(0))
    assert rows.examples[0].shape == (stream.chunk_rows, 16) and bool(jnp.isfinite(rows.examples[1][0]).all())
    with pytest.raises(ValueError, match="lambdas must ascend"):
        prepare(stream, RmSoftmaxConfig(), lambdas=[2.0, 1.0], nuisance_rows=100)
    with pytest.raises(ValueError, match="needs all rows of a log at once"):
        fit_stream(folder, config={"estimator": "snips"})
    with pytest.raises(ValueError, match="no setting 'layers'"):
        fit_stream(folder, config={"layers": 2})
    with pytest.raises(DataError, match="does not exist"):
        fit_stream(folder / "none.parquet")
