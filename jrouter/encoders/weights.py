"""Pretrained encoders: architectures by name, and their weights from safetensors files.

A model is a folder as transformers or sentence-transformers saves it: config.json, model.safetensors (or shards),
tokenizer files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jrouter.encoders.bert import Bert, bert_config, bert_params
from jrouter.encoders.errors import EncoderError
from jrouter.encoders.hub import config_file, find_folder, weight_files
from jrouter.encoders.llama import Llama, llama_config, llama_params
from jrouter.encoders.sentence import read_sentence
from jrouter.encoders.settings import read_json
from jrouter.encoders.tensors import TensorFiles

__all__ = ["ARCHITECTURES", "Architecture", "EncoderError", "Pretrained", "load_pretrained"]


@dataclass(frozen=True)
class Architecture:
    """A network, and how a folder becomes its config and parameters.

    Attributes:
      config: the dict of config.json -> config, with `hidden_size` and `max_position_embeddings`.
      params: (tensors by name, config) -> parameters.
      module: (config, dtype) -> module of (tokens [n, l], mask [n, l]) -> hidden states [n, l, d].
    """

    config: Callable[[Mapping[str, Any]], Any]
    params: Callable[[Mapping[str, Any], Any], dict[str, Any]]
    module: Callable[..., nn.Module]


ARCHITECTURES: Mapping[str, Architecture] = {
    "bert": Architecture(bert_config, bert_params, Bert),
    "llama": Architecture(llama_config, llama_params, Llama),
}
"""By the `model_type` of config.json."""


@dataclass(frozen=True)
class Pretrained:
    """A text encoder's network with its weights.

    Attributes:
      module: `module.apply(params, tokens, mask)` gives hidden states [n, l, dim] in the module's dtype.
      params: float32, on the default device.
      dim: width of hidden states.
      folder: where config.json and the tokenizer's files are.
      revision: commit on the hub, or "sha256:" and 16 digits over config.json and the weights of a local folder.
      architecture: a name in ARCHITECTURES.
      max_positions: most tokens that the network was made for.
      pooling: a name in POOLINGS, or None where the model's files do not say.
      normalise: whether embeddings have length 1, or None where they do not say.
      max_length: tokens that the model's authors read of a text, special ones included, or None.
    """

    module: nn.Module
    params: Any
    dim: int
    folder: Path
    revision: str
    architecture: str
    max_positions: int
    pooling: str | None
    normalise: bool | None
    max_length: int | None


def load_pretrained(name: str | Path, *, revision: str | None = None, dtype: DTypeLike = jnp.float32) -> Pretrained:
    """Loads a text encoder from a folder, or from the hub or its cache.

    Args:
      name: a folder, or a model of the hub, "organisation/model".
      revision: branch, tag or commit on the hub; None for its newest.
      dtype: of products and hidden states; weights stay float32, as do norms, scores and softmax.

    Raises:
      EncoderError: not there; no config.json or safetensors; a file cut short; a tensor missing, left over or of
        another shape; an architecture or a setting that there is no code for.
    """
    top, revision = find_folder(name, revision)
    sentence = read_sentence(top)
    file = config_file(sentence.root)
    settings = read_json(file, dict)
    kind = str(settings.get("model_type"))
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise EncoderError(
            f"{file}: 'model_type' is {kind!r}, and there is code for {known} only; choose one of these."
        )
    architecture = ARCHITECTURES[kind]
    try:
        config = architecture.config(settings)
    except EncoderError as problem:
        raise EncoderError(f"{sentence.root}: {problem}") from None
    params = architecture.params(TensorFiles(weight_files(sentence.root)), config)
    return Pretrained(
        module=architecture.module(config, dtype),
        params=_on_device(params),
        dim=config.hidden_size,
        folder=sentence.root,
        revision=revision,
        architecture=kind,
        max_positions=config.max_position_embeddings,
        pooling=sentence.pooling,
        normalise=sentence.normalise,
        max_length=sentence.max_length,
    )


def _on_device(params: dict[str, Any]) -> Any:
    """Moves a pytree of NumPy arrays to the default device, leaf by leaf: `params` is emptied on the way."""
    leaves, structure = jax.tree.flatten(params)
    params.clear()
    for i, leaf in enumerate(leaves):
        leaves[i] = jnp.asarray(leaf)
    return jax.tree.unflatten(structure, leaves)
