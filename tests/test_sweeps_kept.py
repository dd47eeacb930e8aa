"""A sweep kept in a folder: killed anywhere, it ends with the numbers of one that was not."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.io import sweeps
from jrouter.io.checkpoint import CheckpointError
from jrouter.io.sweeps import fingerprint, kept_sweep
from jrouter.losses import softmax_regret
from jrouter.metrics import utility
from jrouter.networks import RouterNetwork
from jrouter.sweep import run_sweep
from jrouter.train import Hyper, Rows
from jrouter.train_stacked import StackedConfig, make_stacked_train, members_of

T, D, R = 3, 4, 5
CONFIG = StackedConfig(epochs=8, batch_size=16, patience=2)


def surrogate(logits, targets, lam):
    return softmax_regret(logits, utility(targets[0], targets[1], lam))


TRAIN = make_stacked_train(RouterNetwork(T, (6,)), surrogate, CONFIG)


def rows_of(seed, n=48):
    x = jax.random.normal(jax.random.key(seed), (n, D))
    return Rows((x, (x[:, :T], jnp.abs(x[:, 1:]))), jnp.ones(n))


def members(learning_rate=0.1):
    keys = jax.random.split(jax.random.key(7), R)
    return members_of(keys, jnp.linspace(0.0, 2.0, R), Hyper(learning_rate, 0.01))


def sweep_of(run, crew=None, rows=None):
    rows = rows_of(0) if rows is None else rows
    crew = members() if crew is None else crew
    return partial(
        run, TRAIN, crew, rows, rows_of(1, 33), jax.random.key(9), config=CONFIG, at_once=3, epochs_at_once=2
    )()


def kept(folder, **more):
    return sweep_of(partial(kept_sweep, folder, quiet=True, save_seconds=0.0), **more)


def test_a_killed_sweep_resumes_with_identical_results(tmp_path, monkeypatch):
    uninterrupted = sweep_of(run_sweep)
    save, written = sweeps.checkpoint.save, []

    for allowed in (1, 2, 3):  # killed while it writes: between chunks of the first group, then later
        written.clear()

        def dies(folder, leaves, manifest, allowed=allowed):
            if len(written) == allowed:
                raise KeyboardInterrupt
            written.append(folder.name)
            save(folder, leaves, manifest)

        monkeypatch.setattr(sweeps.checkpoint, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            kept(tmp_path / "sweep")
    assert "group_0" in {path.name for path in (tmp_path / "sweep").iterdir()}
    monkeypatch.setattr(sweeps.checkpoint, "save", save)
    resumed = kept(tmp_path / "sweep")
    chex.assert_trees_all_equal(resumed, uninterrupted)

    def trained(*_):
        raise AssertionError("a finished sweep was trained again")

    # Finished: read, not trained.
    monkeypatch.setattr(sweeps.checkpoint, "save", trained)
    chex.assert_trees_all_equal(kept(tmp_path / "sweep"), uninterrupted)


def test_another_sweep_is_refused(tmp_path):
    kept(tmp_path / "sweep")
    for more in ({"crew": members(0.2)}, {"rows": rows_of(3)}):
        with pytest.raises(CheckpointError, match=r"group_0: field 'sweep' is .* another sweep is kept here; give"):
            kept(tmp_path / "sweep", **more)


def test_it_says_how_far_it_is(tmp_path, capsys):
    sweep_of(partial(kept_sweep, tmp_path / "sweep"))
    told = capsys.readouterr().err
    assert re.search(r"group 2 of 2, epoch \d of 8, 0 routers still training \[00:\d\d, .* left\]", told)
    assert "100%" in told


def test_fingerprint_sees_values_shapes_dtypes_and_keys():
    seen = [
        fingerprint(tree)
        for tree in (
            jnp.zeros(4),
            jnp.zeros((2, 2)),
            jnp.zeros(4, jnp.int32),
            np.array(0.0, np.float32),
            jnp.zeros(4).at[3].set(1e-30),
            jax.random.key(0),
            jax.random.key(1),
            {"a": jnp.zeros(4)},
        )
    ]
    assert len(set(seen)) == len(seen)
    assert fingerprint(members()) == fingerprint(members())
