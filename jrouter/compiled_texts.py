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
      policies: that read its embeddings; all their functions are answered, by name.
    """

    def __init__(self, encoder: Encoder, *policies: CompiledPolicy):
        self._encoder = encoder
        self._policies = {name: policy for policy in policies for name in policy.functions}
        # Placed once: a router's params may be elsewhere than where the encoder was loaded.
        devices = {policy.device for policy in policies} if encoder.mesh is None else ()
        self._params = {device: jax.device_put(encoder.params, device) for device in devices}
        self._programs = {name: self._program(policy.functions[name]) for name, policy in self._policies.items()}

    def choices(self, texts: Sequence[Any], lam: float, pool: Pool) -> np.ndarray:
        """[n], the most probable model of each text; -1 where its embedding is not finite."""
        return self.answer("choices", texts, lam, pool)[0]

    def probabilities(self, texts: Sequence[Any], lam: float, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
        """[n, T], probability of each model, and [n], whether the embedding of a text is finite."""
        probability, finite = self.answer("probabilities", texts, lam, pool)
        return probability, finite

    def compile(self, texts: Sequence[Any]) -> None:
        """Compiles and runs what these texts need, each alone and all together."""
        alone = {}
        for text in texts:
            for batch in self._encoder.prepare([text]):
                alone.setdefault(tuple(leaf.shape for leaf in jax.tree.leaves(batch.inputs)), text)
        for name, policy in self._policies.items():
            for some in (*([text] for text in alone.values()), texts):
                self.answer(name, some, 0.0, None, policy.zeros_beside(len(some)))

    def answer(
        self, name: str, texts: Sequence[Any], lam: float, pool: Pool, beside: Sequence[np.ndarray] = ()
    ) -> list[np.ndarray]:
        """What a function of the policies gives for n texts, with what is beside each, arrays [n]."""
        policy = self._policies[name]
        if not self._params or not len(texts):
            x = self._encoder.encode(texts, progress=False)
            return policy.answer(name, (x, *beside) if beside else x, lam, pool)
        params, scalar, mask = policy.context(lam, pool)
        encoder, program = self._params[policy.device], self._programs[name]
        waiting = []
        for batch in self._encoder.prepare(texts):
            padded = policy.zeros_beside(len(jax.tree.leaves(batch.inputs)[0])) if beside else ()
            for full, part in zip(padded, beside, strict=True):
                full[: len(batch.rows)] = part[batch.rows]
            waiting.append((batch.rows, program(params, encoder, batch.inputs, padded, scalar, mask)))
        found: list[np.ndarray] = []
        for rows, parts in waiting:
            arrays = [np.asarray(part)[: len(rows)] for part in parts]
            found = found or [np.empty((len(texts), *array.shape[1:]), array.dtype) for array in arrays]
            for whole, array in zip(found, arrays, strict=True):
                whole[rows] = array
        return found

    def _program(self, decide: Any) -> Any:
        apply = self._encoder.apply

        def run(params, encoder, inputs, beside, lam, mask):
            x = apply(encoder, inputs)
            return decide(params, (x, *beside) if beside else x, lam, mask)

        return jax.jit(run)
