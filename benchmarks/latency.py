"""How long from a text to a decision: tokens, embedding, router, as a service has it?

    pip install torch==2.13.0 && python benchmarks/latency.py          # 4 minutes on 2 cores
    python benchmarks/latency.py --shapes bert                         # BERT-base: 8 minutes more
    python benchmarks/latency.py --smoke --peers none                  # under 1 minute, without torch

A router of rm_softmax (d-200-200-11) that reads texts by an encoder: hashed n-grams, and networks of the shape of
all-MiniLM-L6-v2 or of BERT-base with random weights (time does not depend on them). Queries have log-normal
lengths, median 48 tokens, cut at 256; one at a time, and in batches. Everything is compiled beforehand
(`Router.compile`). Contestants take turns in blocks:

- route: `Router.route` on text, one program from tokens to the index of a model;
- encode_then_route: `Encoder.encode`, then `Router.route` on the embedding: two programs;
- torch: transformers' model and tokenizer, and the same router's network, in PyTorch (extra `peers`).

p50 and p99 in milliseconds, and the share of decisions equal to PyTorch's. Writes <out>/latency.json.
"""

import importlib.util
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from inference import Options as RouterOptions
from inference import make_router
from inference_peers import layers_of
from measure import RESULTS, write
from text_models import MAX_TOKENS, make_folder, make_texts
from text_peers import TorchEncoder, torch_router
from tqdm import tqdm

from jrouter.encoders.encode import Encoder
from jrouter.encoders.load import load_encoder
from jrouter.io.results import text_table
from jrouter.router import Router

LAM = 500.0
BLOCK = 20
"""Calls of one contestant in a row, before the next one's turn."""


@dataclass(frozen=True)
class Options:
    """What is asked, and how often."""

    shapes: str = "hashing,minilm"
    """Encoders, comma-separated."""
    calls: int = 200
    """Single queries of each contestant."""
    batch: int = 32
    """Queries of a batch."""
    batches: int = 20
    """Batches of each contestant."""
    peers: str = "torch"
    """torch, where installed; or none."""
    smoke: bool = False
    """Small sizes, few calls."""
    out: Path = RESULTS
    """Folder of the result file."""


def router_of(encoder: Encoder, *, smoke: bool) -> Router:
    """A router that reads this encoder's embeddings; trained on others of that width, as its time is what counts."""
    settings = RouterOptions(rows=64, train_rows=1_000 if smoke else 5_000, epochs=2)
    return make_router(settings, encoder.dim)[0].with_encoder(encoder)


def timed(contestants: dict[str, Callable], queries: list[Any], *, block: int, label: str) -> dict[str, Any]:
    """p50 and p99 of each contestant, and how many of its answers are the last one's."""
    seconds = {name: [] for name in contestants}
    answers = {name: [] for name in contestants}
    with tqdm(total=len(queries), desc=label, dynamic_ncols=True) as bar:
        for start in range(0, len(queries), block):
            for name, decide in contestants.items():
                for query in queries[start : start + block]:
                    begun = time.perf_counter()
                    answer = decide(query)
                    seconds[name].append(time.perf_counter() - begun)
                    answers[name].append(answer)
            bar.update(min(block, len(queries) - start))
    last = list(contestants)[-1]
    found = {}
    for name, times in seconds.items():
        p50, p99 = 1e3 * np.quantile(times, [0.5, 0.99])
        same = np.concatenate([np.equal(a, b) for a, b in zip(answers[name], answers[last], strict=True)])
        found[name] = {"p50_ms": p50, "p99_ms": p99, "calls": len(times), f"as_{last}": float(same.mean())}
    return found


def measured(shape: str, options: Options) -> dict[str, Any]:
    """Latencies of one encoder, single and batched."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = None if shape == "hashing" else make_folder(shape, Path(temporary))
        if folder is None:
            encoder = load_encoder()
        else:
            encoder = load_encoder(folder, max_length=MAX_TOKENS, pooling="mean", normalise=True)
        router = router_of(encoder, smoke=options.smoke)
        contestants: dict[str, Callable] = {
            "route": lambda texts: router.route(texts, LAM),
            "encode_then_route": lambda texts: router.route(encoder.encode(texts, progress=False), LAM),
        }
        if folder is not None and options.peers == "torch" and importlib.util.find_spec("torch") is not None:
            torch_decide = torch_router(TorchEncoder(folder, max_length=MAX_TOKENS), layers_of(router, LAM))
            contestants["torch"] = lambda texts: [router.models[index] for index in torch_decide(texts)]
        singles = [[text] for text in make_texts(options.calls, seed=1)]
        texts = make_texts(options.batch * options.batches, seed=2)
        batches = [texts[start : start + options.batch] for start in range(0, len(texts), options.batch)]
        begun = time.perf_counter()
        router.compile(texts=[text for (text,) in singles])
        compile_seconds = time.perf_counter() - begun
        for queries in (*singles, *batches):  # what is left to compile, and everything is warm
            for decide in contestants.values():
                decide(queries)
        return {
            "dim": encoder.dim,
            "precision": encoder.spec.dtype,
            "compile_seconds": compile_seconds,
            "single": timed(contestants, singles, block=BLOCK, label=f"{shape}, single"),
            "batched": timed(contestants, batches, block=4, label=f"{shape}, batches of {options.batch}"),
        }


def main(options: Options) -> None:
    """Measures, prints and writes."""
    if options.smoke:
        options = replace(options, shapes="hashing,tiny", calls=40, batch=8, batches=4)
    results = {shape: measured(shape, options) for shape in options.shapes.split(",")}
    rows = [
        [f"{shape}, {kind}", name, f"{one['p50_ms']:.2f}", f"{one['p99_ms']:.2f}"]
        for shape, found in results.items()
        for kind in ("single", "batched")
        for name, one in found[kind].items()
    ]
    print(text_table(["queries", "contestant", "p50, ms", "p99, ms"], rows))
    packages = tuple(name for name in ("torch", "transformers") if importlib.util.find_spec(name))
    write("latency_smoke" if options.smoke else "latency", options, {"encoders": results}, packages)


if __name__ == "__main__":
    if jax.default_backend() == "gpu":
        jax.config.update("jax_default_matmul_precision", "tensorfloat32")
    main(tyro.cli(Options, description=__doc__))
