"""BERT: hidden states [n, l, d] of tokens [n, l], and its weights by the names transformers gives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jrouter.encoders.activations import ACTIVATIONS, check_activation
from jrouter.encoders.attention import attend, mask_bias
from jrouter.encoders.errors import EncoderError
from jrouter.encoders.layers import Dense, scanned
from jrouter.encoders.settings import read_fields, refuse
from jrouter.encoders.tensors import Checkpoint, stacked
from jrouter.types import Array

IGNORED = (r"embeddings\.(position_ids|token_type_ids)", r"(pooler|cls|classifier|qa_outputs)\..*")
"""Buffers and heads, which hidden states do not need."""

OLD_ENDINGS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""As the first BERT checkpoints name their norms."""


@dataclass(frozen=True)
class BertConfig:
    """What of a BERT's config.json shapes its hidden states, by transformers' names."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12


def bert_config(settings: Mapping[str, Any]) -> BertConfig:
    """Returns the config of a transformers config.json of a BERT.

    Raises:
      EncoderError: a size is missing, heads do not divide the width, or there is no code for what it names.

    >>> bert_config({"vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2,
    ...              "intermediate_size": 8, "hidden_act": "gelu_new"}).hidden_act
    'gelu_new'
    """
    check_activation(settings)
    refuse(settings, {"position_embedding_type": ("absolute",), "is_decoder": (False,)})
    config = read_fields(BertConfig, settings)
    if config.hidden_size % config.num_attention_heads:
        found = f"{config.num_attention_heads} attention heads do not divide a 'hidden_size' of {config.hidden_size}"
        raise EncoderError(f"config.json: {found}.")
    return config


class BertLayer(nn.Module):
    """Attention and two dense layers, each added to its input, then normed."""

    config: BertConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, bias: Array) -> tuple[Array, None]:
        config, (n, length, width) = self.config, x.shape
        norm = {"epsilon": config.layer_norm_eps, "dtype": self.dtype, "use_fast_variance": False}
        heads = Dense(3 * width, dtype=self.dtype, name="query_key_value")(x)
        heads = heads.astype(self.dtype).reshape(n, length, 3, config.num_attention_heads, -1)
        seen = attend(heads[:, :, 0], heads[:, :, 1], heads[:, :, 2], bias)
        seen = Dense(width, dtype=self.dtype, name="attention_out")(seen)
        x = nn.LayerNorm(name="attention_norm", **norm)(x + seen)
        inner = Dense(config.intermediate_size, dtype=self.dtype, name="inner")(x)
        inner = ACTIVATIONS[config.hidden_act](inner)
        x = nn.LayerNorm(name="norm", **norm)(x + Dense(width, dtype=self.dtype, name="out")(inner))
        return x, None


class Bert(nn.Module):
    """Hidden states of the last layer, as transformers' `last_hidden_state`.

    Positions are absolute, 0 to l - 1 whatever the mask (pad on the right), and all tokens are of type 0, whose
    embedding is part of `positions`. Norms, scores and softmax are float32 whatever `dtype` is.

    Source: Devlin et al. (2019), BERT: Pre-training of Deep Bidirectional Transformers.
    """

    config: BertConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, mask: Array) -> Array:
        """Hidden states [n, l, d] of tokens [n, l] int32, seen where mask [n, l] is True; NaN for an unknown token."""
        config = self.config
        chex.assert_rank(tokens, 2)
        chex.assert_equal_shape([tokens, mask])
        length, longest, width = tokens.shape[1], config.max_position_embeddings, config.hidden_size
        if length > longest:
            raise EncoderError(f"{length} tokens are more than the {longest} positions this BERT has; cut them off.")
        positions = self.param("positions", nn.initializers.normal(0.02), (longest, width))
        x = nn.Embed(config.vocab_size, width, name="words")(tokens) + positions[:length]
        x = nn.LayerNorm(epsilon=config.layer_norm_eps, dtype=self.dtype, use_fast_variance=False, name="norm")(x)
        layers = scanned(BertLayer, config.num_hidden_layers)
        x, _ = layers(config, self.dtype, name="layers")(x, mask_bias(mask[:, None]))
        return x


def bert_params(tensors: Mapping[str, np.ndarray], config: BertConfig) -> dict[str, Any]:
    """Returns the parameters of `Bert(config)` from tensors by transformers' names.

    Args:
      tensors: name -> array, names with or without "bert." before them.
      config: of the model.

    Returns:
      {"params": ...} of float32 NumPy arrays: dense kernels [layers, in, out], query, key and value in one.

    Raises:
      EncoderError: a tensor is missing, of another shape, not finite, or has no place in the network.
    """
    checkpoint = Checkpoint(tensors, prefix="bert.", ignored=IGNORED, renamed=OLD_ENDINGS)
    width, inner = config.hidden_size, config.intermediate_size

    def dense(name: str, into: int, out: int) -> dict[str, np.ndarray]:
        return {"kernel": checkpoint.take(f"{name}.weight", out, into).T, "bias": checkpoint.take(f"{name}.bias", out)}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": checkpoint.take(f"{name}.weight", width), "bias": checkpoint.take(f"{name}.bias", width)}

    def layer(i: int) -> dict[str, Any]:
        name = f"encoder.layer.{i}"
        parts = [dense(f"{name}.attention.self.{part}", width, width) for part in ("query", "key", "value")]
        return {
            "query_key_value": {leaf: np.concatenate([part[leaf] for part in parts], axis=-1) for leaf in parts[0]},
            "attention_out": dense(f"{name}.attention.output.dense", width, width),
            "attention_norm": norm(f"{name}.attention.output.LayerNorm"),
            "inner": dense(f"{name}.intermediate.dense", width, inner),
            "out": dense(f"{name}.output.dense", inner, width),
            "norm": norm(f"{name}.output.LayerNorm"),
        }

    types = checkpoint.take("embeddings.token_type_embeddings.weight", config.type_vocab_size, width)
    positions = checkpoint.take("embeddings.position_embeddings.weight", config.max_position_embeddings, width)
    params = {
        "words": {"embedding": checkpoint.take("embeddings.word_embeddings.weight", config.vocab_size, width)},
        "positions": positions + types[0],
        "norm": norm("embeddings.LayerNorm"),
        "layers": stacked(config.num_hidden_layers, layer),
    }
    checkpoint.finish()
    return {"params": params}
