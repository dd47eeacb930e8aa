"""How fast does a router decide: 25,000 queries at once, and one at a time?

    pip install torch==2.13.0 scikit-learn && python benchmarks/inference.py    # 3 minutes on 2 cores
    python benchmarks/inference.py --smoke --peers none                         # under 1 minute, without peers

The router is rm_softmax (d-200-200-T, a network for each of 11 cost preferences), trained for a few epochs on
a log of synthetic specialists, by the true mean outcomes: its margins between models are those of a trained
network, which the share of equal decisions depends on. Queries are new ones of the same world; all decide at
the middle preference.

All at once, from rows that lie where the products are made:

- jax_float32, jax_tensorfloat32 (only where the device has it); jax_bfloat16 with inputs rounded beforehand,
  summed in float32; jax_bfloat16_rounding, which rounds them each time;
- router: `Router.route` on rows in the host's memory, names out; router_on_device, on an accelerator: the same
  on rows that lie there, compiled for as many (`Router.compile`);
- torch_*: PyTorch in inference mode (its bfloat16 network rounds the logits, too); sklearn:
  MLPClassifier.predict; numpy. All have the same weights.

Contestants alternate; seconds are medians of calls that are waited for. On an accelerator "queued" is the time of
one of many calls that wait only for the last, as a busy service has it. The floor is the larger of two measured
times: of reading the inputs once, and of the operations at the rate of a 2,048 x 2,048 product of the same
numbers. `equal` is the share of decisions equal to jax_float32's.

One at a time: p50 and p99 of `Router.route` on one query, in a process of its own, beside the same network in
NumPy, at two widths; on CPUs also with jax_cpu_enable_async_dispatch off, which saves handing each query to
another thread. Writes <out>/inference.json.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from inference_peers import Layers, layers_of, numpy_decide, sklearn_classifier, torch_contestants
from measure import RESULTS, alternate, matrix_rate, write
from tqdm import tqdm

from jrouter.logging_policies import confounded, simulate_log
from jrouter.methods import build_method
from jrouter.networks import HIDDEN
from jrouter.policy import Problem
from jrouter.router import Router
from jrouter.splits import split_log
from jrouter.synthetic import draw_queries, make_world
from jrouter.types import Nuisances

PACKAGES = {"torch": "torch", "sklearn": "scikit-learn"}


@dataclass(frozen=True)
class Options:
    """What decides, and on how much."""

    rows: int = 25_000
    """Queries decided on at once."""
    dim: int = 2_048
    """Width of their embeddings."""
    models: int = 11
    """Models to choose from."""
    train_rows: int = 5_000
    """Logged rows that the router is trained on."""
    epochs: int = 4
    """Passes over them."""
    repeats: int = 15
    """Of each contestant, alternating."""
    queued: int = 20
    """Calls in a row, on an accelerator."""
    single_dims: str = "2048,768"
    """Widths at which single queries are timed."""
    calls: int = 5_000
    """Single queries."""
    peers: str = "torch,sklearn"
    """Which of torch and sklearn take part, where installed; or none."""
    smoke: bool = False
    """Small sizes, few repeats."""
    out: Path = RESULTS
    """Folder of the result file."""


class Contestant(NamedTuple):
    """Starts a decision on all rows, waits for it, and turns it into indices of models [n]."""

    start: Callable[[], Any]
    wait: Callable[[Any], Any]
    indices: Callable[[Any], np.ndarray] = np.asarray
    queues: bool = False


@cache
def make_router(options: Options, dim: int) -> tuple[Router, float, jax.Array]:
    """A trained router, the preference it is asked at, and new queries [rows, dim]."""
    world = make_world("specialists", dim=dim, n_models=options.models, seed=0)
    key_log, key_choice, key_fit, key_queries = jax.random.split(jax.random.key(0), 4)
    table = draw_queries(world, key_log, options.train_rows)
    log, propensity, _ = simulate_log(key_choice, table, confounded(table), None)
    split = split_log([log], seeds=[0])[0]
    logged = jnp.take_along_axis(propensity, log.model[:, None], axis=1)[:, 0]
    truth = Nuisances(logged, table.true_score, table.true_cost, split.fold)
    config = {"epochs": options.epochs}
    lambdas = jnp.linspace(0.0, 1000.0, 11)
    method = build_method("rm_softmax", config)
    params = jax.jit(method.fit)(key_fit, Problem(log, split, truth, lambdas))
    router = Router("rm_softmax", config, params, log.models, dim, tuple(np.asarray(lambdas).tolist()))
    queries = jnp.asarray(draw_queries(world, key_queries, options.rows).x)
    return router, 500.0, queries


def decide(layers: Any, x: jax.Array, *, dtype: Any = jnp.float32) -> jax.Array:
    """Index of the best model of each row [n, d], from products of `dtype` summed in float32."""
    for place, (kernel, bias) in enumerate(layers):
        x = jax.nn.relu(x) if place else x
        x = jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32) + bias
    return jnp.argmax(x, axis=1)


def jax_contestants(layers: Layers, x: jax.Array) -> tuple[dict[str, Contestant], dict[str, float]]:
    """Compiled, and the seconds that took."""
    weights = jax.device_put(layers)
    rounded = x.astype(jnp.bfloat16)
    kinds = {
        "jax_float32": (x, jnp.float32, "float32"),
        "jax_bfloat16": (rounded, jnp.bfloat16, "float32"),
        "jax_bfloat16_rounding": (x, jnp.bfloat16, "float32"),
    }
    if has_tensorfloat32():
        kinds["jax_tensorfloat32"] = (x, jnp.float32, "tensorfloat32")
    contestants, seconds = {}, {}
    for name, (rows, dtype, precision) in kinds.items():
        begun = time.perf_counter()
        with jax.default_matmul_precision(precision):
            program = jax.jit(decide, static_argnames="dtype").lower(weights, rows, dtype=dtype).compile()
        seconds[name] = time.perf_counter() - begun
        start = lambda program=program, rows=rows: program(weights, rows)  # noqa: E731
        contestants[name] = Contestant(start, jax.block_until_ready, queues=True)
    return contestants, seconds


def has_tensorfloat32() -> bool:
    """Whether products can be of float32 rounded to 10 bits, as on NVIDIA GPUs."""
    return jax.default_backend() == "gpu"


def router_contestants(
    router: Router, lam: float, host: np.ndarray, x: jax.Array
) -> tuple[dict[str, Contestant], dict[str, float]]:
    """`Router.route`, of rows on the host and of rows on the device; and the seconds of the first call."""
    place = {name: index for index, name in enumerate(router.models)}
    whole = replace(router)

    def indices(names: list[str]) -> np.ndarray:
        return np.array([place[name] for name in names])

    def wait(names: list[str]) -> list[str]:
        return names

    contestants, seconds = {}, {}
    ways: list[tuple[str, Router, Any]] = [("router", router, host)]
    if jax.default_backend() != "cpu":
        ways.append(("router_on_device", whole, x))
    for name, one, rows in ways:
        begun = time.perf_counter()
        with jax.default_matmul_precision("float32"):
            if one is whole:
                one.compile((len(rows),))
            one.route(rows, lam)
        seconds[name] = time.perf_counter() - begun
        contestants[name] = Contestant(lambda one=one, rows=rows: one.route(rows, lam), wait, indices)
    return contestants, seconds


def peer_contestants(peers: list[str], layers: Layers, host: np.ndarray) -> dict[str, Contestant]:
    """NumPy, and those of the peers that take part."""

    def wait(value):
        return value

    contestants = {"numpy": Contestant(lambda: numpy_decide(layers, host), wait)}
    if "sklearn" in peers:
        classifier = sklearn_classifier(layers)
        contestants["sklearn"] = Contestant(lambda: classifier.predict(host), wait)
    if "torch" in peers:
        for name, (start, wait_for) in torch_contestants(layers, host).items():
            contestants[name] = Contestant(start, wait_for, lambda value: value.cpu().numpy(), queues=True)
    return contestants


def read_seconds(x: jax.Array) -> float:
    """Median time of a sum over x, which reads it once and does little else."""
    total = jax.jit(jnp.sum)
    total(x).block_until_ready()
    return alternate({"read": lambda: total(x)}, repeats=7)["read"].median


def large_batch(options: Options, peers: list[str], router: Router, lam: float, x: jax.Array) -> dict[str, Any]:
    """Times all contestants on all rows."""
    layers, host = layers_of(router, lam), np.array(x)
    contestants, first = jax_contestants(layers, x)
    for more, seconds in (router_contestants(router, lam, host, x), (peer_contestants(peers, layers, host), {})):
        contestants |= more
        first |= seconds
    indices = {name: one.indices(one.wait(one.start())) for name, one in contestants.items()}  # warms up, too
    timed = alternate(
        {name: lambda one=one: one.wait(one.start()) for name, one in contestants.items()}, repeats=options.repeats
    )
    queued = {}
    if jax.default_backend() != "cpu":
        many = {
            name: lambda one=one: one.wait([one.start() for _ in range(options.queued)][-1])
            for name, one in contestants.items()
            if one.queues
        }
        queued = {name: one.median / options.queued for name, one in alternate(many, repeats=options.repeats).items()}
    with jax.default_matmul_precision("float32"):
        rates = {dtype: matrix_rate(dtype) for dtype in ("float32", "bfloat16")}
    if has_tensorfloat32():
        with jax.default_matmul_precision("tensorfloat32"):
            rates["tensorfloat32"] = matrix_rate("float32")
    read = {"float32": read_seconds(x), "bfloat16": read_seconds(x.astype(jnp.bfloat16))}
    widths = [options.dim, *HIDDEN, options.models]
    operations = 2.0 * options.rows * sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))
    found = {}
    for name, one in timed.items():
        kind = next((kind for kind in ("tensorfloat32", "bfloat16") if kind in name), "float32")
        reading = read["bfloat16" if name.endswith("bfloat16") else "float32"]
        floor = max(reading, operations / rates[kind])
        found[name] = {
            "seconds": one.seconds,
            "median_seconds": one.median,
            "queued_seconds": queued.get(name),
            "first_call_seconds": first.get(name),
            "operations_per_second": operations / one.median,
            "floor_seconds": floor,
            "times_the_floor": queued.get(name, one.median) / floor,
            "equal_decisions": float(np.mean(indices[name] == indices["jax_float32"])),
        }
    shares = np.bincount(indices["jax_float32"], minlength=options.models) / options.rows
    return {
        "operations": operations,
        "input_bytes": x.nbytes,
        "matrix_rate": rates,
        "read_seconds": read,
        "model_shares": shares.tolist(),
        "contestants": found,
    }


def single_queries(options: Options) -> dict[str, list[dict[str, Any]]]:
    """Times single queries, at each width, each in a process of its own."""
    settings: dict[str, tuple[dict[str, str], list[str]]] = {"as_installed": ({}, [])}
    if jax.default_backend() != "cpu":
        settings["cpu"] = {"JAX_PLATFORMS": "cpu"}, []
    settings["cpu_synchronous"] = {"JAX_PLATFORMS": "cpu"}, ["--synchronous"]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    dims = [int(part) for part in options.single_dims.split(",")]
    with tqdm(total=len(dims) * len(settings), desc="single queries", dynamic_ncols=True) as bar:
        for dim in dims:
            router, lam, queries = make_router(options, dim)
            with tempfile.TemporaryDirectory() as folder:
                router.save(Path(folder) / "router")
                np.save(Path(folder) / "queries.npy", np.asarray(queries[:1_000]))
                arguments = [f"{folder}/router", f"{folder}/queries.npy", str(lam), str(options.calls)]
                for name, (environment, more) in settings.items():
                    found[name].append(in_a_process([*arguments, *more], environment))
                    bar.update()
    return found


def in_a_process(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """What single_query.py measures."""
    command = [sys.executable, str(Path(__file__).with_name("single_query.py")), *arguments]
    # This process holds most of an accelerator's memory.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | environment
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def chosen_peers(asked: str) -> list[str]:
    """Those that are asked for and installed; says which are not."""
    names = [] if asked == "none" else [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in PACKAGES:
            raise SystemExit(f"error: unknown peer {name!r}: expected some of {', '.join(PACKAGES)}, or none")
    present = [name for name in names if importlib.util.find_spec(name) is not None]
    for name in names:
        if name not in present:
            print(f"left out: {name} is not installed (pip install {PACKAGES[name]})", file=sys.stderr)
    return present


def report(results: dict[str, Any]) -> None:
    """Prints both tables."""
    print(f"{'all at once':<26}{'ms':>9}{'queued':>9}{'floor':>9}{'GFLOP/s':>9}{'equal':>9}")
    for name, one in results["large_batch"]["contestants"].items():
        queued = "" if one["queued_seconds"] is None else f"{1e3 * one['queued_seconds']:.3f}"
        print(
            f"{name:<26}{1e3 * one['median_seconds']:9.3f}{queued:>9}{1e3 * one['floor_seconds']:9.3f}"
            f"{one['operations_per_second'] / 1e9:9.0f}{100 * one['equal_decisions']:8.2f}%"
        )
    print(f"\n{'one at a time':<26}{'d':>6}{'p50 us':>9}{'p99 us':>9}{'NumPy p50':>11}{'p99':>8}{'ratio':>7}")
    for name, rows in results["single_query"].items():
        for one in rows:
            ours, numpy = one["microseconds"]["route"], one["microseconds"]["numpy"]
            print(
                f"{name:<26}{one['dim']:6}{ours['p50']:9.1f}{ours['p99']:9.1f}{numpy['p50']:11.1f}{numpy['p99']:8.1f}"
                f"{one['ratio_to_numpy']['p50']:7.2f}"
            )


def main(options: Options) -> None:
    """Runs both parts and writes the result file."""
    if options.smoke:
        options = replace(
            options,
            rows=2_000,
            dim=64,
            models=4,
            train_rows=1_000,
            epochs=2,
            repeats=2,
            queued=3,
            single_dims="64",
            calls=200,
        )
    peers = chosen_peers(options.peers)
    single = single_queries(options)
    results = {"large_batch": large_batch(options, peers, *make_router(options, options.dim)), "single_query": single}
    report(results)
    packages = tuple(PACKAGES[name] for name in peers)
    write("inference_smoke" if options.smoke else "inference", options, results, packages)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
