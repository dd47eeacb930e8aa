"""How long does a service take to decide while threads ask it, and while its router is replaced?

    python benchmarks/serving.py                       # 2 minutes on 2 cores
    python benchmarks/serving.py --smoke               # under 1 minute

`Service.decide` with exploration, of a router of rm_softmax (d-200-200-11) with forecasts of score and cost. Queries
are embeddings, or texts of log-normal length (median 48 words) that are embedded as hashed n-grams; lambdas and pools
vary between them. They are asked by 1 thread and by 8, in rounds that take turns: each thread asks its own queries one
after the other, as fast as it gets answers, so 8 threads on fewer cores wait for each other, and for Python's lock.
p50 and p99 are of single calls, in milliseconds; decisions per second are of all threads together.

Everything is compiled beforehand, by the service itself: the script fails if anything is compiled by a thread that
asks, or if a query was left to the fallback model. Last, the router is replaced while 8 threads ask: seconds of the
reload, the slowest calls meanwhile, and the versions that answered. Writes <out>/serving.json.
"""

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from inference import Options as RouterOptions
from inference import make_router
from measure import RESULTS, write
from text_models import make_texts
from tqdm import tqdm

from jrouter.app.service import Service
from jrouter.encoders.load import load_encoder
from jrouter.io.results import text_table
from jrouter.router import Router

LAM, EXPLORE = 500.0, 0.1
LAMBDAS = (100.0, 500.0, 700.0, 1000.0)


@dataclass(frozen=True)
class Options:
    """What is asked, and how often."""

    threads: str = "1,8"
    """Numbers of threads, comma-separated."""
    calls: int = 20_000
    """Queries of each kind, by each number of threads."""
    rounds: int = 10
    """In which these are asked."""
    dim: int = 768
    """Width of embeddings; hashed n-grams have 256."""
    reload_calls: int = 4_000
    """Queries, at least, while the router is replaced."""
    smoke: bool = False
    """Small sizes, few calls."""
    out: Path = RESULTS
    """Folder of the result file."""


@contextmanager
def compiling_threads() -> Iterator[list[int]]:
    """Threads that made JAX compile something, once for each time."""
    found: list[int] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(threading.get_ident())

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def router_of(dim: int, *, smoke: bool) -> Router:
    """A router with forecasts; their numbers are made up, as time does not depend on them."""
    settings = RouterOptions(rows=64, train_rows=1_000 if smoke else 5_000, epochs=2)
    router = make_router(settings, dim)[0]
    shape, rng = (2, len(router.models)), np.random.default_rng(0)
    forecasts = {
        "centre": jnp.zeros(dim),
        "scale": jnp.float32(1.0),
        "coefficients": jnp.array(1e-3 * rng.standard_normal((*shape, dim)), jnp.float32),
        "intercept": jnp.array([[0.5], [1e-3]], jnp.float32) * jnp.ones(shape),
    }
    return replace(router, forecasts=forecasts)


def another(router: Router) -> Router:
    """The router with other parameters, as if it had been fitted on a newer log."""
    return replace(router, params=jax.tree.map(lambda leaf: leaf * jnp.asarray(1.01, leaf.dtype), router.params))


def asked(service: Service, queries: Sequence[Any], start: int, stop: int) -> tuple[list[float], list[str]]:
    """Seconds of each call, and the version that answered."""
    models = service.router.models
    seconds, versions = [], []
    for place in range(start, stop):
        query, lam = queries[place % len(queries)], LAMBDAS[place % len(LAMBDAS)]
        allowed = None if place % 2 else models[: 2 + place % (len(models) - 1)]
        begun = time.perf_counter()
        decision = service.decide(query, lam, allowed=allowed)
        seconds.append(time.perf_counter() - begun)
        versions.append(decision.router)
    return seconds, versions


def measured(service: Service, queries: Sequence[Any], options: Options, label: str) -> dict[str, Any]:
    """p50, p99 and decisions per second by number of threads."""
    counts = [int(one) for one in options.threads.split(",")]
    seconds, walls = {count: [] for count in counts}, dict.fromkeys(counts, 0.0)
    each = {count: max(options.calls // options.rounds // count, 1) for count in counts}
    with tqdm(total=options.rounds * len(counts), desc=label, dynamic_ncols=True) as bar:
        for turn in range(options.rounds):
            for count in counts:
                with ThreadPoolExecutor(count) as pool:
                    together = threading.Barrier(count + 1)

                    def ask(number: int, count: int = count, together: threading.Barrier = together) -> list[float]:
                        together.wait()
                        start = (turn * count + number) * each[count]  # noqa: B023 (awaited in this turn)
                        return asked(service, queries, start, start + each[count])[0]

                    waiting = [pool.submit(ask, number) for number in range(count)]
                    together.wait()
                    begun = time.perf_counter()
                    for one in waiting:
                        seconds[count] += one.result()
                    walls[count] += time.perf_counter() - begun
                bar.update()
    return {
        str(count): {
            **dict(zip(("p50_ms", "p99_ms"), 1e3 * np.quantile(seconds[count], [0.5, 0.99]), strict=True)),
            "per_second": len(seconds[count]) / walls[count],
            "calls": len(seconds[count]),
        }
        for count in counts
    }


def reloaded(service: Service, folder: Path, queries: Sequence[Any], calls: int, threads: int) -> dict[str, Any]:
    """Asks from threads while the service loads and compiles another router, and for some calls afterwards."""
    before, stop, block = service.router.version, threading.Event(), 50

    def ask(number: int) -> tuple[list[float], list[str], int]:
        seconds, versions, start = [], [], number * calls
        while not stop.is_set() or len(seconds) < calls // threads:
            more = asked(service, queries, start, start + block)
            seconds, versions, start = seconds + more[0], versions + more[1], start + block
        return seconds, versions, threading.get_ident()

    with compiling_threads() as compiled, ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(ask, number) for number in range(threads)]
        time.sleep(0.2)
        begun = time.perf_counter()
        if not service.reload(folder):
            raise RuntimeError("the router was not replaced")
        took = time.perf_counter() - begun
        time.sleep(0.2)
        stop.set()
        found = [one.result() for one in waiting]
    seconds = [second for one in found for second in one[0]]
    versions = [version for one in found for version in one[1]]
    asking = {one[2] for one in found}
    p50, p99 = 1e3 * np.quantile(seconds, [0.5, 0.99])
    return {
        "seconds": took,
        "calls": len(seconds),
        "calls_of_the_old": versions.count(before),
        "calls_of_the_new": versions.count(service.router.version),
        "p50_ms": p50,
        "p99_ms": p99,
        "slowest_ms": 1e3 * max(seconds),
        "compilations": len(compiled),
        "compilations_by_asking_threads": sum(thread in asking for thread in compiled),
    }


def main(options: Options) -> None:
    """Measures, checks, prints and writes."""
    if options.smoke:
        options = replace(options, calls=800, rounds=2, dim=64, reload_calls=400)
    texts = make_texts(40, seed=1, median=10.0, spread=0.3) if options.smoke else make_texts(500, seed=1)
    encoder = load_encoder()
    x = np.random.default_rng(0).standard_normal((512, options.dim)).astype(np.float32)
    kinds = {
        "embeddings": (router_of(options.dim, smoke=options.smoke), x, [x[0]]),
        "texts": (
            router_of(encoder.dim, smoke=options.smoke).with_encoder(encoder),
            texts,
            texts if options.smoke else True,
        ),
    }
    results: dict[str, Any] = {"kinds": {}, "reload": {}}
    most = max(int(one) for one in options.threads.split(","))
    for kind, (router, queries, warm) in kinds.items():
        begun = time.perf_counter()
        service = Service(router, lam=LAM, fallback=router.models[0], explore=EXPLORE, warm=warm, seed=0)
        warm_seconds = time.perf_counter() - begun
        for lam in LAMBDAS:  # parameters at a lambda are placed when it first comes
            service.decide(queries[0], lam)
        with compiling_threads() as compiled:
            found = measured(service, queries, options, kind)
        if compiled:
            raise RuntimeError(f"{kind}: {len(compiled)} compilations after the service was warm, expected none")
        with tempfile.TemporaryDirectory() as temporary:
            another(router).save(Path(temporary) / "router")
            renewed = reloaded(service, Path(temporary) / "router", queries, options.reload_calls, most)
        if renewed["compilations_by_asking_threads"] or not renewed["calls_of_the_new"]:
            raise RuntimeError(f"{kind}: the reload held up what was asked: {renewed}")
        counts = service.counts
        if sum(counts.values()) != counts["decided"]:
            raise RuntimeError(f"{kind}: queries were left to the fallback model: {counts}, {service.problems}")
        results["kinds"][kind] = {
            "dim": router.dim,
            "warm_seconds": warm_seconds,
            "threads": found,
            "compilations": len(compiled),
        }
        results["reload"][kind] = renewed
    rows = [
        [kind, count, f"{one['p50_ms']:.3f}", f"{one['p99_ms']:.3f}", f"{one['per_second']:,.0f}"]
        for kind, found in results["kinds"].items()
        for count, one in found["threads"].items()
    ]
    rows += [
        [f"{kind}, reload", str(most), f"{one['p50_ms']:.3f}", f"{one['p99_ms']:.3f}", f"{one['seconds']:.2f} s"]
        for kind, one in results["reload"].items()
    ]
    print(text_table(["queries", "threads", "p50, ms", "p99, ms", "per second"], rows))
    write("serving_smoke" if options.smoke else "serving", options, results)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
