"""Texts to decisions: an encoder and a policy as one program, from tokens to the index of a model."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jrouter.compiled_policy import CompiledPolicy, Pool
from jrouter.encoders.encode import Encoder


class CompiledTexts:
    """Answers texts by programs of few shapes; threads may share one.

    The host makes tokens; embedding and decision are one program, so an embedding never leaves the device. Shapes
    are those of `Encoder.prepare`: a program is compiled when texts first need it, or before by `compile`. Where
    a mesh shares the rows of a batch, texts are embedded on it first and decided on one device.

    Args:
      encoder: and
      policy: that reads its embeddings.
    """

    def __init__(self, encoder: Encoder, policy: CompiledPolicy):
        self._encoder, self._policy = encoder, policy
        # Placed once: a router's params may be elsewhere than where the encoder was loaded.
        self._params = None if encoder.mesh is not None else jax.device_put(encoder.params, policy.device)
        self._programs = {name: self._program(decide) for name, decide in policy.functions.items()}

    def choices(self, texts: Sequence[Any], lam: float, pool: Pool) -> np.ndarray:
        """[n], the most probable model of each text; -1 where its embedding is not finite."""
        return self._answer("choices", texts, lam, pool)[0]

    def probabilities(self, texts: Sequence[Any], lam: float, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
        """[n, T], probability of each model, and [n], whether the embedding of a text is finite."""
        probability, finite = self._answer("probabilities", texts, lam, pool)
        return probability, finite

    def compile(self, texts: Sequence[Any]) -> None:
        """Compiles and runs what these texts need, each alone and all together."""
        alone = {}
        for text in texts:
            for batch in self._encoder.prepare([text]):
                alone.setdefault(tuple(leaf.shape for leaf in jax.tree.leaves(batch.inputs)), text)
        for name in self._programs:
            for text in alone.values():
                self._answer(name, [text], 0.0, None)
            self._answer(name, texts, 0.0, None)

    def _program(self, decide: Any) -> Any:
        apply = self._encoder.apply

        def run(params, encoder, inputs, lam, mask):
            return decide(params, apply(encoder, inputs), lam, mask)

        return jax.jit(run)

    def _answer(self, name: str, texts: Sequence[Any], lam: float, pool: Pool) -> list[np.ndarray]:
        if self._params is None or not len(texts):
            x = self._encoder.encode(texts, progress=False)
            return self._policy.answer(name, x, lam, pool)
        params, scalar, mask = self._policy.context(lam, pool)
        waiting = [
            (batch.rows, self._programs[name](params, self._params, batch.inputs, scalar, mask))
            for batch in self._encoder.prepare(texts)
        ]
        found: list[np.ndarray] = []
        for rows, parts in waiting:
            arrays = [np.asarray(part)[: len(rows)] for part in parts]
            found = found or [np.empty((len(texts), *array.shape[1:]), array.dtype) for array in arrays]
            for whole, array in zip(found, arrays, strict=True):
                whole[rows] = array
        return found
