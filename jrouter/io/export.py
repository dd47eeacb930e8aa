"""A router's decision as one file of StableHLO, that runs without jrouter, Flax or Python code of ours."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from jrouter.io.errors import describe

PLATFORMS = ("cpu", "cuda", "tpu")
SUFFIX = ".stablehlo"


def exported(
    choose: Callable[[Any, Any], tuple[Any, Any]], dim: int, *, batch: int | None, platforms: Sequence[str] = PLATFORMS
) -> jax_export.Exported:
    """A function of embeddings and lambda, its parameters within, for several platforms.

    Args:
      choose: (x [n, d], lam) -> (index [n], probabilities [n, T]), jittable.
      dim: d.
      batch: n; None for a symbolic one, so that one file serves every batch size.
      platforms: that it is lowered for.

    Returns:
      What `jax.export` makes; `.serialize()` needs the extra `export`.
    """
    rows = jax_export.symbolic_shape("n")[0] if batch is None else batch
    arguments = jax.ShapeDtypeStruct((rows, dim), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    return jax_export.export(jax.jit(choose), platforms=tuple(platforms))(*arguments)


def load_exported(file: str | Path) -> Callable[[Any, Any], tuple[jax.Array, jax.Array]]:
    """The function of an exported file: (x [n, d], lam) -> (index [n] int32, probabilities [n, T]).

    Raises:
      DataError: a file that is missing, or no export that this version of JAX can read.
    """
    path = Path(file)
    try:
        found = jax_export.deserialize(bytearray(path.read_bytes()))
    except OSError as problem:
        raise describe(str(path), f"cannot be read: {problem.strerror or problem}") from None
    except ImportError:
        raise _needs_flatbuffers(path) from None
    except Exception as problem:  # of whatever kind the flatbuffer's reader raises on bytes that are none
        raise describe(str(path), f"is no export that jax {jax.__version__} reads ({type(problem).__name__})") from None

    def call(x: Any, lam: Any) -> tuple[jax.Array, jax.Array]:
        index, probability = found.call(jnp.asarray(x, jnp.float32), jnp.float32(lam))
        return index, probability

    return call


def serialised(program: jax_export.Exported, file: Path) -> bytes:
    """The bytes of an export.

    Raises:
      DataError: without flatbuffers.
    """
    try:
        return bytes(program.serialize())
    except ImportError:
        raise _needs_flatbuffers(file) from None


def _needs_flatbuffers(file: Path) -> Exception:
    return describe(str(file), "needs flatbuffers, which is not installed: pip install 'jrouter[export]'")


def parity(
    call: Callable[[Any, Any], tuple[Any, Any]],
    answer: Callable[[np.ndarray, float], np.ndarray],
    x: np.ndarray,
    lambdas: Sequence[float],
) -> dict[str, float]:
    """How far an export is from the router it was made of, on rows x [n, d] at several lambdas.

    Args:
      call: of `load_exported`.
      answer: (x, lam) -> probabilities [n, T].
      x: rows.
      lambdas: at least one.

    Returns:
      `largest_difference` of a probability, and `same_choice`, the share of rows whose choice is the same.
    """
    largest, same = 0.0, []
    for lam in lambdas:
        index, probability = (np.asarray(part) for part in call(x, lam))
        expected = answer(x, lam)
        largest = max(largest, float(np.abs(probability - expected).max()))
        same.append(index == expected.argmax(axis=1))
    return {"largest_difference": largest, "same_choice": float(np.mean(same))}


def beside(manifest: dict[str, Any]) -> str:
    """What is written beside an export, for whoever calls it: names, width, lambdas."""
    names = (
        "version",
        "models",
        "pool",
        "price",
        "embedding_dim",
        "embedding",
        "encoder",
        "lambdas",
        "cost_unit",
        "versions",
    )
    said = {name: manifest[name] for name in names if name in manifest}
    call = "(x [n, embedding_dim] float32, lambda float32) -> (index of models [n] int32, probabilities [n, T] float32)"
    return json.dumps({"call": call, **said, "jax": jax.__version__}, indent=1) + "\n"
