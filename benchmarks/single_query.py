"""Times single queries of a saved router beside its network in NumPy; run by inference.py, in a process of its own.

    python benchmarks/single_query.py ROUTER QUERIES.npy LAMBDA CALLS [--synchronous]

Prints JSON. The process of its own serves the setting --synchronous, which JAX reads when it starts: the CPU
then runs a program in the thread that calls it, instead of handing it to another and waiting.
"""

import json
import sys
import time

import jax
import numpy as np
from inference_peers import layers_of, numpy_decide

from jrouter.router import Router

BLOCK = 50
"""Calls of one contestant in a row, before the other's turn."""


def main(folder: str, queries: str, lam: float, calls: int) -> None:
    """Prints microseconds of each contestant and the share of equal decisions."""
    router, x = Router.load(folder), np.load(queries)
    layers, names = layers_of(router, lam), router.models
    begun = time.perf_counter()
    router.compile((1,))
    compile_seconds = time.perf_counter() - begun
    contestants = {
        "route": lambda query: router.route(query, lam),
        "numpy": lambda query: names[int(numpy_decide(layers, query))],
    }
    seconds = {name: [] for name in contestants}
    answers = {name: [] for name in contestants}
    for start in range(-BLOCK, calls, BLOCK):  # the first round warms up
        for name, decide in contestants.items():
            for place in range(max(start, 0), max(start, 0) + BLOCK):
                query = x[place % len(x)]
                begun = time.perf_counter()
                answer = decide(query)
                if start >= 0:
                    seconds[name].append(time.perf_counter() - begun)
                    answers[name].append(answer)
    found = {name: 1e6 * np.quantile(times, [0.5, 0.99]) for name, times in seconds.items()}
    result = {
        "device": jax.devices()[0].device_kind,
        "dim": router.dim,
        "calls": len(seconds["route"]),
        "compile_seconds": compile_seconds,
        "microseconds": {name: {"p50": both[0], "p99": both[1]} for name, both in found.items()},
        "ratio_to_numpy": {"p50": found["route"][0] / found["numpy"][0], "p99": found["route"][1] / found["numpy"][1]},
        "equal_decisions": float(np.mean([a == b for a, b in zip(answers["route"], answers["numpy"], strict=True)])),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if "--synchronous" in sys.argv:
        sys.argv.remove("--synchronous")
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
