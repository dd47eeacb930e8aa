"""Activations by the names that config.json gives them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jrouter.encoders.errors import EncoderError
from jrouter.types import Array


def gelu(x: Array) -> Array:
    """x Phi(x), Phi the normal distribution function, by erf: what torch does, and twice as fast on a CPU as erfc.

    `jax.nn.gelu(approximate=False)` goes by erfc, which keeps the relative precision of tiny values below 0.

    Source: Hendrycks & Gimpel (2016), Gaussian Error Linear Units.
    """
    return 0.5 * x * (1.0 + jax.lax.erf(x * (0.5**0.5)))


def gelu_tanh(x: Array) -> Array:
    """The same by tanh, an approximation that some models were trained with."""
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: Array) -> Array:
    """The same by a logistic function, a rougher one."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_python": gelu,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_accurate": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_python_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def check_activation(settings: Mapping[str, Any]) -> None:
    """Raises EncoderError where config.json names an activation that is not in ACTIVATIONS."""
    name = settings.get("hidden_act")
    if name is not None and name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise EncoderError(f"config.json: 'hidden_act' is {name!r}, and there is code for {known} only.")
