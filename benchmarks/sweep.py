"""How fast is a sweep of routers, beside what people would use instead?

    pip install torch==2.13.0 && python benchmarks/sweep.py       # 22 routers, 3 repeats
    python benchmarks/sweep.py --seeds 10 --repeats 1             # the paper's 220 routers
    python benchmarks/sweep.py --smoke --peers none               # under 1 minute, without torch

The paper's sweep: 11 cost preferences x 2 surrogates (softmax regret, weighted cross-entropy) x seeds,
networks d-200-200-T, AdamW, minibatches of 512, on one log of 25,000 rows. Contestants, one after the other,
again and again, from the same starts on the same rows in the same minibatches:

- stacked: `run_sweep`, many routers at once (how many is found by timing, beforehand); in float32 and with
  products of bfloat16 numbers;
- jax_loop: the same training of one network at a time, compiled once;
- torch_loop: PyTorch, one router at a time; also with bfloat16 autocast;
- torch_vmap: PyTorch, all routers at once by torch.func.vmap;
- stopping: `run_sweep` with validation every epoch and early stopping, the best epoch kept.

The first call of each, compilation included, is apart, on the routers of one seed. Beside seconds: operations
(multiplications and additions of matrix products) per second, as a share of the rate of a 2,048 x 2,048 float32
product measured before and after, and the mean test utility of the routers; at equal work it must agree.

`to_equal_utility` compares whole runs: the loop fits nuisances for every router, as separate runs would, or
once; `stopping` fits them once. Its utility stands beside, and decides whether they are equal. On a GPU both
sides multiply float32 numbers as TF32. Writes <out>/sweep_<routers>.json.
"""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from measure import RESULTS, Timed, alternate, matrix_rate, write

from jrouter.budget import choose_at_once
from jrouter.counterfactual import counterfactual_scores
from jrouter.logging_policies import confounded, simulate_log
from jrouter.losses import cost_weighted_surrogate, softmax_regret
from jrouter.metrics import decide, utility
from jrouter.networks import HIDDEN, RouterNetwork, run
from jrouter.nuisances.crossfit import fit_nuisances
from jrouter.splits import split_log
from jrouter.stacked import forward, stack
from jrouter.sweep import run_sweep
from jrouter.synthetic import draw_queries, make_world
from jrouter.train import Hyper, Rows, TrainConfig, TrainKeys, make_train
from jrouter.train_stacked import StackedConfig, make_stacked_train, members_of, take_members
from jrouter.types import BenchmarkTable

SETTING = Hyper(learning_rate=1e-3, weight_decay=0.1)


@dataclass(frozen=True)
class Options:
    """What is swept, and against what."""

    rows: int = 25_000
    """Logged rows; a tenth of them validates."""
    dim: int = 768
    """Width of the embeddings."""
    models: int = 11
    """Models to choose from."""
    lambdas: int = 11
    """Cost preferences."""
    seeds: int = 1
    """Initialisations of each lambda and surrogate."""
    epochs: int = 10
    """Passes over the rows."""
    memory: float = 4.0
    """GiB of device memory for a stack; within it, the fastest size of a stack is found by timing."""
    batch: int = 512
    """Rows a step."""
    patience: int = 2
    """Epochs without improvement after which `stopping` stops a router."""
    repeats: int = 3
    """Of each contestant, alternating."""
    peers: str = "torch"
    """torch, or none to leave PyTorch out."""
    contestants: str = ""
    """Comma-separated; default: all."""
    smoke: bool = False
    """Small sizes, one repeat."""
    out: Path = RESULTS
    """Folder of the result file."""


@dataclass(frozen=True)
class Task:
    """One log, its scores, and what judges: arrays as all contestants read them.

    Attributes:
      rows: Rows of training; valid: of validation.
      test: other queries, with the mean outcome of every model.
      lambdas: [L].
      nuisance_seconds: of one fit of the nuisances, compiled.
    """

    rows: Rows
    valid: Rows
    test: BenchmarkTable
    lambdas: jax.Array
    nuisance_seconds: float


def make_task(options: Options) -> Task:
    """Draws the log, estimates its nuisances once, and makes the scores that all train on."""
    world = make_world("specialists", dim=options.dim, n_models=options.models, seed=0)
    key_log, key_test, key_choice, key_fit = jax.random.split(jax.random.key(0), 4)
    table, test = draw_queries(world, key_log, options.rows), draw_queries(world, key_test, 5_000)
    log, _, _ = simulate_log(key_choice, table, confounded(table, spread=1.0, exploration=0.1), None)
    split = split_log([log], seeds=[0])[0]
    fit = jax.jit(lambda key, log: fit_nuisances(key, log, split))
    estimated = jax.block_until_ready(fit(key_fit, log))
    begun = time.perf_counter()
    jax.block_until_ready(fit(key_fit, log))
    seconds = time.perf_counter() - begun
    scores = counterfactual_scores(log, estimated, estimator="dros")
    n_valid = options.rows // 10
    examples = log.x, (scores.score, scores.cost)

    def part(start, stop):
        return Rows(jax.tree.map(lambda leaf: leaf[start:stop], examples), jnp.ones(stop - start))

    return Task(
        rows=part(n_valid, options.rows),
        valid=part(0, n_valid),
        test=test,
        lambdas=jnp.linspace(0.0, 1000.0, options.lambdas),
        nuisance_seconds=seconds,
    )


def surrogate(logits, targets, setting):
    """Softmax regret, or cross-entropy weighted by what a model is above the worst, as the setting says."""
    lam, kind = setting
    values = utility(targets[0], targets[1], lam)
    return jnp.where(kind == 0, softmax_regret(logits, values), cost_weighted_surrogate(logits, values))


def settings_of(options: Options, lambdas: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Seeds [R] and (lambda [R], kind [R]) of all routers, lambdas innermost."""
    seed, kind, lam = jnp.meshgrid(jnp.arange(options.seeds), jnp.arange(2), lambdas, indexing="ij")
    return seed.reshape(-1), (lam.reshape(-1), kind.reshape(-1).astype(jnp.int32))


def operations(options: Options, n_routers: int) -> float:
    """Multiplications and additions of all matrix products of training, the first layer's input gradient left out."""
    widths = [options.dim, *HIDDEN, options.models]
    layers = [a * b for a, b in zip(widths[:-1], widths[1:], strict=True)]
    per_row = 2 * (3 * sum(layers) - layers[0])
    n_train = (options.rows - options.rows // 10) // options.batch * options.batch
    return float(per_row) * n_train * options.epochs * n_routers


def test_utility(task: Task, lams: jax.Array, logits: Callable[[jax.Array], jax.Array]) -> list[float]:
    """Mean utility of each router's decisions on test queries; logits(x) -> [R, m, T]."""
    values = jax.vmap(lambda lam: utility(task.test.true_score, task.test.true_cost, lam))(lams)
    chosen = jax.vmap(jax.vmap(decide))(logits(jnp.asarray(task.test.x)))
    return np.asarray((chosen * values).sum(-1).mean(-1)).tolist()


def main(options: Options) -> None:
    """Runs all contestants and writes the result file."""
    if options.smoke:
        options = replace(options, rows=2_000, dim=64, models=4, lambdas=3, epochs=2, repeats=1)
    with_torch = options.peers == "torch"
    if with_torch and importlib.util.find_spec("torch") is None:
        raise SystemExit("error: PyTorch is not installed: pip install torch==2.13.0, or pass --peers none")
    task = make_task(options)
    seeds, settings = settings_of(options, task.lambdas)
    n_routers, n_train = seeds.shape[0], task.rows.weight.shape[0]
    shuffle = jax.random.key(1)
    network = RouterNetwork(options.models)
    keys = jax.vmap(jax.random.key)(seeds)
    members = members_of(keys, settings, SETTING)
    contestants: dict[str, Callable[[], Any]] = {}
    # A seed's routers need every program that all routers need: so 220 need not run twice.
    per_seed = n_routers // options.seeds
    warm_up: dict[str, Callable[[], Any]] = {}
    first_call: dict[str, float] = {}
    at_once: dict[str, int] = {}

    def stacked(name: str, **more: Any) -> None:
        config = StackedConfig(options.epochs, options.batch, **more)
        train = make_stacked_train(network, surrogate, config)
        # The loops do not validate, so at equal work a stack does not either.
        valid = task.valid if config.patience is not None else None
        if config.dtype not in at_once:
            few = jax.tree.map(lambda leaf: leaf[:4096], task.rows)
            at_once[config.dtype] = choose_at_once(
                int(options.memory * 2**30), train, members, task.rows, valid, shuffle, timed=few
            )

        def swept(some=members):
            return run_sweep(train, some, task.rows, valid, shuffle, config=config, at_once=at_once[config.dtype])

        contestants[name] = swept
        warm_up[name] = partial(swept, take_members(members, jnp.arange(per_seed)))

    stacked("stacked")
    stacked("stacked_bfloat16", dtype="bfloat16")
    stacked("stopping", patience=options.patience)
    stacked("stopping_bfloat16", patience=options.patience, dtype="bfloat16")

    def loss(params, example, setting):
        x, targets = example
        return surrogate(run(network, params, x), targets, setting)

    one = jax.jit(
        make_train(
            lambda key: network.init(key, task.rows.examples[0][0]), loss, TrainConfig(options.epochs, options.batch)
        )
    )

    def jax_loop(n=n_routers):
        trained = [
            one(TrainKeys(keys[r], shuffle), task.rows, jax.tree.map(lambda leaf, r=r: leaf[r], settings), SETTING)[0]
            for r in range(n)
        ]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trained)

    contestants["jax_loop"] = jax_loop
    warm_up["jax_loop"] = partial(jax_loop, per_seed)
    if with_torch:
        starts = jax.vmap(lambda key: network.init(key, task.rows.examples[0][0]))(keys)
        contestants |= torch_contestants(options, task, starts, settings, shuffle)
    if options.contestants:
        asked = [name.strip() for name in options.contestants.split(",")]
        contestants = {name: contestants[name] for name in asked}

    for name in [name for name in contestants if name in warm_up]:
        begun = time.perf_counter()
        jax.block_until_ready(warm_up[name]())
        first_call[name] = time.perf_counter() - begun
    rates = {dtype: matrix_rate(dtype) for dtype in ("float32", "bfloat16")}
    timed = alternate(contestants, repeats=options.repeats)
    rates = {dtype: (rate + matrix_rate(dtype)) / 2 for dtype, rate in rates.items()}
    counted = operations(options, n_routers)
    results = {
        "routers": n_routers,
        "rows": n_train,
        "at_once": at_once,
        "operations": counted,
        "matrix_rate": rates,
        "floor_seconds": counted / rates["float32"],
        "nuisance_seconds": task.nuisance_seconds,
        "contestants": {
            name: {
                "seconds": one.seconds,
                "median_seconds": one.median,
                "first_call_seconds": first_call.get(name),
                "operations_per_second": counted / one.median,
                "share_of_matrix_rate": counted / one.median / rates["float32"],
                "test_utility": float(np.mean(utility_of(name, one, task, settings[0]))),
            }
            for name, one in timed.items()
        },
    }
    if {"torch_loop", "stopping"} <= set(timed):
        results["to_equal_utility"] = to_equal_utility(results)
    report(results)
    write("sweep_smoke" if options.smoke else f"sweep_{n_routers}", options, results, ("torch",) if with_torch else ())


def to_equal_utility(results: dict[str, Any]) -> dict[str, Any]:
    """Whole runs, nuisances included: PyTorch's loop and routers that stop early."""
    once, n_routers = results["nuisance_seconds"], results["routers"]
    loop = results["contestants"]["torch_loop"]
    separate, shared = loop["median_seconds"] + n_routers * once, loop["median_seconds"] + once
    found: dict[str, Any] = {
        "torch_loop": {"separate_runs": separate, "shared_nuisances": shared, "test_utility": loop["test_utility"]}
    }
    for name in ("stopping", "stopping_bfloat16"):
        if (ours := results["contestants"].get(name)) is not None:
            seconds = ours["median_seconds"] + once
            found[name] = {
                "seconds": seconds,
                "times_faster_than_separate_runs": separate / seconds,
                "times_faster_than_shared_nuisances": shared / seconds,
                "test_utility": ours["test_utility"],
            }
    return found


def report(results: dict[str, Any]) -> None:
    """Prints a line for each contestant."""
    loop = results["contestants"].get("torch_loop")
    for name, found in results["contestants"].items():
        faster = f", {loop['median_seconds'] / found['median_seconds']:5.2f} x torch_loop" if loop else ""
        print(
            f"{name:<20}{found['median_seconds']:9.2f} s {found['operations_per_second'] / 1e9:8.0f} GFLOP/s "
            f"{found['share_of_matrix_rate']:6.2f} of the matrix rate{faster}, "
            f"test utility {100 * found['test_utility']:.2f}"
        )
    print(f"floor {results['floor_seconds']:.2f} s, nuisances once {results['nuisance_seconds']:.2f} s")


def utility_of(name: str, one: Timed, task: Task, lams: jax.Array) -> list[float]:
    """Test utility of each router that a contestant trained."""
    if name.startswith("torch"):
        import torch_peers

        params = torch_peers.to_flax(one.value)
    else:
        params = one.value if name == "jax_loop" else one.value.params
    return test_utility(task, lams, lambda x: forward(stack(jax.tree.map(jnp.asarray, params)), x))


def torch_contestants(options: Options, task: Task, starts: Any, settings, shuffle) -> dict[str, Callable[[], Any]]:
    """PyTorch's, from the same starts, on the same rows in the same order; each warmed up by a few steps."""
    import torch_peers

    n_train = task.rows.weight.shape[0]
    n_batches = n_train // options.batch
    orders = np.stack(
        [
            np.asarray(jax.random.permutation(jax.random.fold_in(shuffle, epoch), n_train))[: n_batches * options.batch]
            for epoch in range(options.epochs)
        ]
    ).reshape(options.epochs, n_batches, options.batch)
    x, (score, cost) = jax.tree.map(np.array, task.rows.examples)
    work = torch_peers.Work(
        x=x,
        score=score,
        cost=cost,
        settings=list(zip(*(np.asarray(part).tolist() for part in settings), strict=True)),
        starts=torch_peers.to_torch(starts),
        orders=orders.astype(np.int64),
        rate=float(SETTING.learning_rate),
        decay=float(SETTING.weight_decay),
    )
    contestants: dict[str, Callable] = {
        "torch_loop": torch_peers.loop,
        "torch_loop_bfloat16": partial(torch_peers.loop, bfloat16=True),
        "torch_vmap": torch_peers.stacked,
    }
    few = work._replace(settings=work.settings[:2], starts=work.starts[:2], orders=work.orders[:1, :4])
    for run_few in contestants.values():
        run_few(few)
    return {name: partial(run_all, work) for name, run_all in contestants.items()}


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
