"""The same numbers on one device, on a mesh of four, and in two processes that hold half of the rows each."""

import json
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

PROGRAM = """
import json, sys
import jax
process, of, port, layouts = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
if of > 1:
    jax.distributed.initialize(f"localhost:{port}", of, process)
import jax.numpy as jnp
import numpy as np
from jrouter.losses import softmax_regret
from jrouter.metrics import utility
from jrouter.networks import RouterNetwork
from jrouter.sharding import make_mesh, place_rows, rows_of_process
from jrouter.sweep import run_sweep
from jrouter.train import Hyper, Rows
from jrouter.train_stacked import StackedConfig, make_stacked_train, members_of

def rows_of(seed, n):
    x = np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)
    return Rows((x, (x[:, :3], np.abs(x[:, 2:]))), np.ones(n, np.float32))

def surrogate(logits, targets, lam):
    return softmax_regret(logits, utility(*targets, lam))

members = members_of(jax.random.split(jax.random.key(0), 9), jnp.linspace(0.0, 2.0, 9), Hyper(0.05, 0.1))
rows, valid, found = rows_of(0, 72), rows_of(1, 36), []
for routers, over_rows, blocks in layouts:
    config = StackedConfig(10, 12, patience=2, row_blocks=blocks)
    train = make_stacked_train(RouterNetwork(3, (8, 6)), surrogate, config)
    if routers * over_rows == 1:
        mesh, data = None, jax.tree.map(jnp.asarray, (rows, valid))
    else:
        mesh = make_mesh(routers=routers, rows=over_rows)
        if of == 1:
            data = place_rows(rows, mesh), place_rows(valid, mesh)
        else:
            own = lambda leaf: leaf[process * len(leaf) // of : (process + 1) * len(leaf) // of]
            data = rows_of_process(jax.tree.map(own, (rows, valid)), mesh)
    swept = run_sweep(train, members, *data, jax.random.key(9), config=config, at_once=5, epochs_at_once=2, mesh=mesh)
    norms = [float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(swept.params)]
    found.append({"loss": swept.loss.tolist(), "epochs": swept.epochs.tolist(), "norms": norms})
print(json.dumps(found))
"""


def start(process: int, of: int, port: int, devices: int, layouts):
    root = Path(__file__).parents[1]
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(root),
    }
    command = [sys.executable, "-c", PROGRAM, str(process), str(of), str(port), json.dumps(layouts)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def results(running) -> list[list[dict]]:
    outputs = [one.communicate(timeout=900) for one in running]
    for one, (_, errors) in zip(running, outputs, strict=True):
        assert one.returncode == 0, errors[-3000:]
    return [json.loads(out.strip().splitlines()[-1]) for out, _ in outputs]


LAYOUTS = [(4, 1, 1), (1, 4, 4), (2, 2, 2)]
"""Devices over which routers and rows are divided, and blocks of rows."""


@cache
def by_one_process() -> tuple[dict[int, dict], list[dict]]:
    """On the first of four devices, by how many blocks the rows are in; and on all of them, by layout."""
    (found,) = results([start(0, 1, 0, 4, [*((1, 1, blocks) for blocks in (1, 2, 4)), *LAYOUTS])])
    return dict(zip((1, 2, 4), found, strict=False)), found[3:]


def assert_same(found, expected):
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["norms"], expected["norms"], rtol=1e-3)
    assert found["epochs"] == expected["epochs"]


def test_four_devices_give_the_numbers_of_one():
    alone, divided = by_one_process()
    for (_, _, blocks), one in zip(LAYOUTS, divided, strict=True):
        assert_same(one, alone[blocks])
    # The order of rows depends on the blocks, or these would say nothing.
    assert np.abs(np.subtract(alone[1]["loss"], alone[4]["loss"])).max() > 1e-3


@pytest.mark.parametrize("routers,rows,devices", [(1, 2, 1), pytest.param(2, 2, 2, marks=pytest.mark.slow)])
def test_two_processes_with_half_of_the_rows_each_give_the_numbers_of_one(routers, rows, devices):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    running = [start(process, 2, port, devices, [(routers, rows, 2)]) for process in (0, 1)]
    for (found,) in results(running):
        assert_same(found, by_one_process()[0][2])
