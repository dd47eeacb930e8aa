"""Llama: hidden states [n, l, d] of tokens [n, l], and its weights by the names transformers gives them."""

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
from jrouter.encoders.rotary import Rotary, frequencies, rotary_config, rotate
from jrouter.encoders.settings import read_fields
from jrouter.encoders.tensors import Checkpoint, stacked
from jrouter.types import Array

IGNORED = (r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq", r"rotary_emb\.inv_freq", r"(lm_head|score)\..*")
"""Buffers and heads, which hidden states do not need; a tied head is the embedding itself."""


@dataclass(frozen=True)
class LlamaConfig:
    """What of a Llama's config.json shapes its hidden states, by transformers' names."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    rotary: Rotary
    max_position_embeddings: int = 2048
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    mlp_bias: bool = False


def llama_config(settings: Mapping[str, Any]) -> LlamaConfig:
    """Returns the config of a transformers config.json of a Llama, of transformers 5 or older.

    Raises:
      EncoderError: a size is missing, heads do not divide as they must, or there is no code for what it names.

    >>> config = llama_config({"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4,
    ...                        "num_key_value_heads": 2, "intermediate_size": 8, "rope_theta": 500000.0})
    >>> config.head_dim, config.rotary.theta
    (2, 500000.0)
    """
    check_activation(settings)
    heads, width = settings.get("num_attention_heads"), settings.get("hidden_size")
    derived = {"num_key_value_heads": heads}
    if type(heads) is int and type(width) is int and heads > 0:
        derived["head_dim"] = width // heads
    there = {name: value for name, value in settings.items() if value is not None}
    config = read_fields(LlamaConfig, {**derived, **there}, rotary=rotary_config(settings))
    if config.num_attention_heads % config.num_key_value_heads or config.head_dim % 2:
        raise EncoderError(
            f"config.json: {config.num_attention_heads} attention heads of {config.head_dim} numbers over "
            f"{config.num_key_value_heads} key-value heads, expected a multiple of them, of an even number each."
        )
    return config


class LlamaLayer(nn.Module):
    """Attention and a gated dense layer, each of the normed input and added to the input."""

    config: LlamaConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, angles: Array, bias: Array) -> tuple[Array, None]:
        config, (n, length, width) = self.config, x.shape
        heads, shared, e = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        of_attention = {"use_bias": config.attention_bias, "dtype": self.dtype}
        of_dense = {"use_bias": config.mlp_bias, "dtype": self.dtype}

        y = nn.RMSNorm(epsilon=config.rms_norm_eps, dtype=self.dtype, name="attention_norm")(x)
        y = Dense((heads + 2 * shared) * e, name="query_key_value", **of_attention)(y)
        y = y.astype(self.dtype).reshape(n, length, heads + 2 * shared, e)
        query, key, value = jnp.split(y, [heads, heads + shared], axis=2)
        seen = attend(rotate(query, angles), rotate(key, angles), value, bias)
        x = (x + Dense(width, name="attention_out", **of_attention)(seen)).astype(x.dtype)

        y = nn.RMSNorm(epsilon=config.rms_norm_eps, dtype=self.dtype, name="norm")(x)
        gate, up = jnp.split(Dense(2 * config.intermediate_size, name="gate_up", **of_dense)(y), 2, axis=-1)
        x = (x + Dense(width, name="out", **of_dense)(ACTIVATIONS[config.hidden_act](gate) * up)).astype(x.dtype)
        return x, None


class Llama(nn.Module):
    """Hidden states after the last norm, as transformers' `last_hidden_state`.

    A token sees itself and those True tokens before it. Positions count the True tokens before: on the right or on
    the left, padding changes nothing. (transformers, left to itself, counts padding as well; for left padding give
    it `position_ids = mask.cumsum(-1) - 1`.) Norms, rotations, scores and softmax are float32 whatever `dtype` is.

    Source: Touvron et al. (2023), LLaMA: Open and efficient foundation language models, section 2.2.
    """

    config: LlamaConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, mask: Array) -> Array:
        """Hidden states [n, l, d] of tokens [n, l] int32, seen where mask [n, l] is True; NaN for an unknown token."""
        config = self.config
        chex.assert_rank(tokens, 2)
        chex.assert_equal_shape([tokens, mask])
        length = tokens.shape[1]
        positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0).astype(jnp.float32)
        angles = positions[..., None] * frequencies(config.rotary, config.head_dim)
        causal = jnp.tril(jnp.ones((length, length), bool))
        x = nn.Embed(config.vocab_size, config.hidden_size, name="words")(tokens).astype(self.dtype)
        layers = scanned(LlamaLayer, config.num_hidden_layers)
        x, _ = layers(config, self.dtype, name="layers")(x, angles, mask_bias(causal & mask[:, None]))
        return nn.RMSNorm(epsilon=config.rms_norm_eps, dtype=self.dtype, name="norm")(x)


def llama_params(tensors: Mapping[str, np.ndarray], config: LlamaConfig) -> dict[str, Any]:
    """Returns the parameters of `Llama(config)` from tensors by transformers' names.

    Args:
      tensors: name -> array, names with or without "model." before them.
      config: of the model.

    Returns:
      {"params": ...} of float32 NumPy arrays: dense kernels [layers, in, out]; query, key and value in one, gate
      and up in one.

    Raises:
      EncoderError: a tensor is missing, of another shape, not finite, or has no place in the network.
    """
    checkpoint = Checkpoint(tensors, prefix="model.", ignored=IGNORED)
    width, inner = config.hidden_size, config.intermediate_size
    queries, keys = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))

    def dense(biased: bool, into: int, **out: int) -> dict[str, np.ndarray]:
        kernels = [checkpoint.take(f"{name}.weight", size, into).T for name, size in out.items()]
        biases = [checkpoint.take(f"{name}.bias", size) for name, size in out.items()] if biased else []
        return {"kernel": _joined(kernels)} | ({"bias": _joined(biases)} if biased else {})

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": checkpoint.take(f"{name}.weight", width)}

    def layer(i: int) -> dict[str, Any]:
        name = f"layers.{i}"
        into = {f"{name}.self_attn.q_proj": queries} | {f"{name}.self_attn.{part}_proj": keys for part in "kv"}
        gates = {f"{name}.mlp.{part}_proj": inner for part in ("gate", "up")}
        return {
            "attention_norm": norm(f"{name}.input_layernorm"),
            "query_key_value": dense(config.attention_bias, width, **into),
            "attention_out": dense(config.attention_bias, queries, **{f"{name}.self_attn.o_proj": width}),
            "norm": norm(f"{name}.post_attention_layernorm"),
            "gate_up": dense(config.mlp_bias, width, **gates),
            "out": dense(config.mlp_bias, inner, **{f"{name}.mlp.down_proj": width}),
        }

    params = {
        "words": {"embedding": checkpoint.take("embed_tokens.weight", config.vocab_size, width)},
        "norm": norm("norm"),
        "layers": stacked(config.num_hidden_layers, layer),
    }
    checkpoint.finish()
    return {"params": params}


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
