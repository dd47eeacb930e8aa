"""How fast do texts become embeddings, beside transformers' PyTorch model?

    pip install torch==2.13.0 && python benchmarks/encode.py            # 4 minutes on 2 cores
    python benchmarks/encode.py --shape bert --texts 500                # BERT-base
    python benchmarks/encode.py --smoke --peers none                    # under 1 minute, without torch
    python benchmarks/encode.py --folder DIR                            # a model's folder instead of random weights

A model folder of the asked shape with random weights (time does not depend on them), texts of made-up words whose
lengths are those of queries: log-normal, median 48 tokens, the longest cut at 256. Each contestant takes the list
of texts and gives all embeddings, tokenising included: mean pooling, length 1. In one run, alternating, in the same
precision on both sides:

- jrouter_float32, jrouter_bfloat16: `Encoder.encode`, no cache;
- torch_float32, torch_bfloat16: transformers' model and fast tokenizer in inference mode, texts sorted by length,
  32 to a batch, as sentence-transformers does;
- torch_float32_budget, torch_bfloat16_budget: the same in batches of as many tokens as ours;
- tokenise: the tokens of all texts alone, which both sides need.

Tokens per second count the model's tokens without padding. The first call, compilation included, is apart. The
largest difference of an embedding to torch_float32's stands beside. On a GPU both sides multiply float32 numbers
as TF32. Writes <out>/encode_<shape>.json.
"""

import importlib.util
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from measure import RESULTS, alternate, write
from text_models import MAX_TOKENS, make_folder, make_texts
from text_peers import TorchEncoder, tokens_of

from jrouter.encoders.load import load_encoder
from jrouter.io.results import text_table

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Options:
    """What is encoded, by what."""

    shape: str = "minilm"
    """minilm (6 layers, d = 384) or bert (12 layers, d = 768)."""
    folder: Path | None = None
    """A model of architecture BERT to use instead of random weights."""
    texts: int = 1_500
    """How many."""
    repeats: int = 3
    """Of each contestant, alternating."""
    precisions: str = ",".join(PRECISIONS)
    """Comma-separated."""
    peers: str = "torch"
    """torch, where installed; or none."""
    smoke: bool = False
    """Small sizes, few repeats."""
    out: Path = RESULTS
    """Folder of the result file."""


def contestants_of(options: Options, folder: Path, texts: list[str]) -> tuple[dict[str, Any], int]:
    """name -> what gives all embeddings; tokens of all texts."""
    found: dict[str, Any] = {}
    tokens = 0
    peers = options.peers == "torch" and importlib.util.find_spec("torch") is not None
    for precision in options.precisions.split(","):
        if precision not in PRECISIONS:
            raise SystemExit(f"error: --precisions: unknown {precision!r}, expected some of {', '.join(PRECISIONS)}")
        ours = load_encoder(folder, max_length=MAX_TOKENS, pooling="mean", normalise=True, dtype=precision)
        tokens = tokens or tokens_of(ours, texts)
        found[f"jrouter_{precision}"] = lambda ours=ours: ours.encode(texts, progress=False)
        if "tokenise" not in found:
            found["tokenise"] = lambda ours=ours: ours.kind.rows(texts).lengths
        if peers:
            theirs = TorchEncoder(folder, max_length=MAX_TOKENS, bfloat16=precision == "bfloat16")
            budget = ours.token_budget
            found[f"torch_{precision}"] = lambda theirs=theirs: theirs.encode(texts, batch=32)
            found[f"torch_{precision}_budget"] = lambda theirs=theirs, budget=budget: theirs.encode(
                texts, budget=budget
            )
    return found, tokens


def measured(options: Options) -> dict[str, Any]:
    """Seconds, tokens per second and differences of all contestants."""
    if jax.default_backend() == "gpu":
        jax.config.update("jax_default_matmul_precision", "tensorfloat32")
    texts = make_texts(options.texts)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or make_folder(options.shape, Path(temporary))
        contestants, tokens = contestants_of(options, folder, texts)
        first = {}
        for name, run in contestants.items():
            begun = time.perf_counter()
            run()
            first[name] = time.perf_counter() - begun
        timed = alternate(contestants, repeats=options.repeats)
    reference = next((name for name in ("torch_float32", "jrouter_float32") if name in timed), None)
    results: dict[str, Any] = {"texts": len(texts), "tokens": tokens, "reference": reference, "contestants": {}}
    for name, one in timed.items():
        results["contestants"][name] = {
            "seconds": one.seconds,
            "median_seconds": one.median,
            "first_call_seconds": first[name],
            "tokens_per_second": tokens / one.median,
            "texts_per_second": len(texts) / one.median,
        }
        if reference and name != "tokenise":
            difference = np.abs(one.value - timed[reference].value).max()
            results["contestants"][name]["largest_difference"] = float(difference)
    results["times_fastest_torch"] = times_torch(results["contestants"])
    return results


def times_torch(contestants: dict[str, Any]) -> dict[str, float]:
    """precision -> our tokens per second over those of the faster of PyTorch's ways."""
    ratios = {}
    for precision in PRECISIONS:
        theirs = [
            one["tokens_per_second"] for name, one in contestants.items() if name.startswith(f"torch_{precision}")
        ]
        if theirs:
            ratios[precision] = contestants[f"jrouter_{precision}"]["tokens_per_second"] / max(theirs)
    return ratios


def main(options: Options) -> None:
    """Measures, prints and writes."""
    if options.smoke:
        options = replace(options, shape="tiny", texts=64, repeats=2)
    results = measured(options)
    rows = [
        [name, f"{one['median_seconds']:.3f}", f"{one['tokens_per_second']:,.0f}", f"{one['first_call_seconds']:.2f}"]
        + [f"{one['largest_difference']:.1e}" if "largest_difference" in one else ""]
        for name, one in results["contestants"].items()
    ]
    print(f"{results['texts']} texts, {results['tokens']} tokens")
    print(text_table(["contestant", "seconds", "tokens/s", "first call", "difference"], rows))
    for precision, ratio in results["times_fastest_torch"].items():
        print(f"{precision}: {ratio:.2f} times the faster of PyTorch's ways")
    packages = tuple(name for name in ("torch", "transformers") if importlib.util.find_spec(name))
    shape = options.folder.name if options.folder else options.shape
    write("encode_smoke" if options.smoke else f"encode_{shape}", options, results, packages)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
