"""Tensors of a checkpoint by name: read one at a time, checked against the shape a network needs.

jax registers bfloat16 with NumPy (ml_dtypes), so safetensors reads such files into NumPy arrays too.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jrouter.encoders.errors import EncoderError
from jrouter.io.errors import listed


class TensorFiles(Mapping[str, np.ndarray]):
    """The tensors of some safetensors files by name, read when asked for: one of them in memory at a time.

    Attributes:
      files: name of a tensor -> the file it is in.
    """

    def __init__(self, paths: Sequence[Path]):
        from safetensors import SafetensorError, safe_open

        self.files: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        for path in paths:
            try:
                self._open[path] = safe_open(path, "np")
            except (SafetensorError, OSError) as problem:
                raise _broken(path, problem) from problem
            for name in self._open[path].keys():
                if name in self.files:
                    raise EncoderError(
                        f"{path} and {self.files[name]} both hold the tensor {name!r}; download the model again."
                    )
                self.files[name] = path

    def __getitem__(self, name: str) -> np.ndarray:
        from safetensors import SafetensorError

        path = self.files[name]
        try:
            return self._open[path].get_tensor(name)
        except (SafetensorError, OSError) as problem:
            raise _broken(path, problem) from problem
        except (AttributeError, TypeError):  # a type that NumPy lacks
            kind = self._open[path].get_slice(name).get_dtype()
            problem = f"{path}: the tensor {name!r} holds {kind}, expected float32, float16 or bfloat16"
            raise EncoderError(f"{problem}; take weights that are not quantised.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def _broken(path: Path, problem: Exception) -> EncoderError:
    return EncoderError(f"{path} is no whole safetensors file ({problem}); download it again.")


class Checkpoint:
    """The tensors of one model: `take` each once by name, then `finish` says whether one was left over.

    Args:
      tensors: name -> array, as transformers saves them.
      prefix: what names may begin with, "bert." in a model saved with a head; it is cut off.
      ignored: regular expressions of the names (without prefix) that hidden states do not need.
      renamed: endings of names that older checkpoints have -> today's.

    Raises:
      EncoderError: two tensors have one name once the prefix is cut off.
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        *,
        prefix: str,
        ignored: Sequence[str],
        renamed: Mapping[str, str] | None = None,
    ):
        self.tensors = tensors
        self.left: dict[str, str] = {}  # our name -> the file's
        for name in tensors:
            short = name.removeprefix(prefix)
            for old, new in (renamed or {}).items():
                short = short.removesuffix(old) + new if short.endswith(old) else short
            if any(re.fullmatch(pattern, short) for pattern in ignored):
                continue
            if short in self.left:
                raise EncoderError(
                    f"{self.place(name)}the tensors {self.left[short]!r} and {name!r} stand for the same weights; "
                    "save the model again."
                )
            self.left[short] = name

    def place(self, name: str | None = None) -> str:
        """Returns the beginning of an error: the file of a tensor, or all files; empty where there is none."""
        if not isinstance(self.tensors, TensorFiles):
            return ""
        if name is not None:
            return f"{self.tensors.files[name]}: "
        return ", ".join(str(path) for path in dict.fromkeys(self.tensors.files.values())) + ": "

    def take(self, name: str, *shape: int) -> np.ndarray:
        """Returns the tensor as float32, or raises EncoderError: missing, of another shape, or not finite."""
        if name not in self.left:
            raise EncoderError(
                f"{self.place()}the tensor {name!r} is missing, expected one of shape {shape}; "
                "config.json and the weights must come from the same model."
            )
        theirs = self.left.pop(name)
        tensor = self.tensors[theirs]
        if tensor.shape != shape:
            raise EncoderError(
                f"{self.place(theirs)}the tensor {theirs!r} has shape {tuple(tensor.shape)}, config.json asks for "
                f"{shape}; config.json and the weights must come from the same model."
            )
        if tensor.dtype.kind not in "fV":  # bfloat16 is of NumPy's kind V
            raise EncoderError(
                f"{self.place(theirs)}the tensor {theirs!r} holds {tensor.dtype}, expected floating-point numbers; "
                "take weights that are not quantised."
            )
        tensor = np.asarray(tensor, np.float32)
        if not np.isfinite(tensor).all():
            raise EncoderError(
                f"{self.place(theirs)}the tensor {theirs!r} holds numbers that are not finite; download it again."
            )
        return tensor

    def finish(self) -> None:
        """Raises EncoderError where a tensor is left that nobody took."""
        if self.left:
            names = sorted(self.left.values())
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise EncoderError(
                f"{self.place()}no place for the tensors {listed(names[:5])}{more}; the network of config.json has "
                "none of that name, so hidden states would differ from the model's."
            )


def stacked(n: int, layer: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """Returns the pytrees of `n` equal layers as one, each array [n, ...]: filled layer by layer, not held twice."""
    first = layer(0)
    whole = jax.tree.map(lambda leaf: np.empty((n, *leaf.shape), np.float32), first)
    for i in range(n):
        jax.tree.map(lambda into, leaf, i=i: into.__setitem__(i, leaf), whole, layer(i) if i else first)
    return whole
