"""Rotary positions: pairs of a query's or key's numbers turned by angles that grow with its position."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jrouter.encoders.errors import EncoderError
from jrouter.encoders.settings import read_fields
from jrouter.types import Array


@dataclass(frozen=True)
class Llama3Scaling:
    """Slower angles for contexts longer than those first trained on, by transformers' names."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class Rotary:
    """Angles theta^(-2 i / e) for each position, i = 0 .. e/2 - 1; `scaling` None for plain ones."""

    theta: float = 10_000.0
    scaling: Llama3Scaling | None = None


def rotary_config(settings: Mapping[str, Any]) -> Rotary:
    """Returns the angles that a config.json names, as transformers 5 (`rope_parameters`) or older ones write it.

    Raises:
      EncoderError: a kind of scaling that there is no code for.

    >>> rotary_config({"rope_theta": 500000.0, "rope_scaling": None}).theta
    500000.0
    >>> rotary_config({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}).theta
    10000.0
    """
    scaling = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    theta = scaling.get("rope_theta", settings.get("rope_theta"))
    theta = Rotary.theta if theta is None else float(theta)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "llama3":
        length = scaling.get("original_max_position_embeddings", settings.get("max_position_embeddings"))
        return Rotary(theta, read_fields(Llama3Scaling, {**scaling, "original_max_position_embeddings": length}))
    if kind != "default" or scaling.get("partial_rotary_factor", 1.0) != 1.0:
        known = "there is code for 'default' and 'llama3' of whole heads only"
        raise EncoderError(f"config.json: rotary positions are {dict(scaling)}, and {known}.")
    return Rotary(theta)


def frequencies(rotary: Rotary, width: int) -> np.ndarray:
    """Returns [width / 2] float32, the angle of each pair from one position to the next.

    With `llama3` scaling, pairs that turn less than `low_freq_factor` times within the original context turn
    `factor` times slower, those that turn more than `high_freq_factor` times stay, and between the two the
    frequency goes linearly from one to the other.

    Source: Su et al. (2021), RoFormer, section 3.2.2; the scaling is that of Llama 3.1's released code.
    """
    plain = rotary.theta ** (-np.arange(0, width, 2) / width)
    if rotary.scaling is None:
        return plain.astype(np.float32)
    scaling = rotary.scaling
    turns = scaling.original_max_position_embeddings * plain / (2 * math.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return (plain * (kept + (1.0 - kept) / scaling.factor)).astype(np.float32)


def rotate(x: Array, angles: Array) -> Array:
    """Turns the pairs (x_i, x_{i + e/2}) of x [n, l, h, e] by angles [n, l, e/2]; in float32, back in x's dtype."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
