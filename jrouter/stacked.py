"""Many networks of one shape on the same rows: the first layer of all is one matrix product.

    a_1[r, b] = relu(x_b W_1[:, r] + b_1[r])      one product [B, d] x [d, R * h]
    a_l[r, b] = relu(a_{l-1}[r, b] W_l[r] + b_l[r])      R products

The kernels of the first layer are kept as [d, R, h], so that no step has to transpose them. Products may be
of bfloat16 numbers, summed in float32, while the kernels themselves stay float32.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from jrouter.types import Array


class Stacked(NamedTuple):
    """R multilayer perceptrons, layer by layer.

    Attributes:
      kernels: the first [d, R, h], the others [R, a, b].
      biases: [R, b] each.
    """

    kernels: tuple[Array, ...]
    biases: tuple[Array, ...]


def _names(params: Any) -> list[tuple[str, ...]]:
    hidden = sorted(params["params"].get("trunk", {}), key=lambda name: int(name.rpartition("_")[2]))
    return [*(("trunk", name) for name in hidden), ("head",)]


def stack(params: Any) -> Stacked:
    """Params of networks made of a `Trunk` and a head, each leaf [R, ...], in layers.

    >>> import flax.linen as nn
    >>> from jrouter.networks import RouterNetwork
    >>> one = RouterNetwork(3, (5,))
    >>> many = jax.vmap(lambda key: one.init(key, jnp.zeros(2)))(jax.random.split(jax.random.key(0), 4))
    >>> [kernel.shape for kernel in stack(many).kernels]
    [(2, 4, 5), (4, 5, 3)]
    """
    layers = []
    for name in _names(params):
        layer = params["params"]
        for part in name:
            layer = layer[part]
        layers.append(layer)
    first, *rest = [layer["kernel"] for layer in layers]
    return Stacked((first.transpose(1, 0, 2), *rest), tuple(layer["bias"] for layer in layers))


def unstack(stacked: Stacked) -> Any:
    """The inverse of `stack`: params as the networks' own modules take them, each leaf [R, ...]."""
    first, *rest = stacked.kernels
    kernels = [first.transpose(1, 0, 2), *rest]
    *hidden, head = [{"kernel": kernel, "bias": bias} for kernel, bias in zip(kernels, stacked.biases, strict=True)]
    found: dict[str, Any] = {"head": head}
    if hidden:
        found["trunk"] = {f"hidden_{place}": layer for place, layer in enumerate(hidden)}
    return {"params": found}


def take(stacked: Stacked, routers: Array) -> Stacked:
    """Some of the networks, by their places [m]."""
    first, *rest = stacked.kernels
    kernels = first[:, routers], *(kernel[routers] for kernel in rest)
    return Stacked(kernels, tuple(bias[routers] for bias in stacked.biases))


def per_network(values: Array, stacked: Stacked) -> Stacked:
    """[R] values in shapes that broadcast against each kernel and bias."""
    wide = values[:, None, None]
    kernels = (values[:, None], *(wide for _ in stacked.kernels[1:]))
    return Stacked(kernels, tuple(values[:, None] for _ in stacked.biases))


def product(dtype: str) -> Any:
    """(a [..., m, k], b [..., k, n]) -> [..., m, n] in float32, of operands rounded to `dtype`; gradients alike.

    What JAX would derive for operands of bfloat16 rounds the gradients as well, and multiplies numbers of two
    kinds, which is slow.
    """

    def plain(a, b):
        return jnp.matmul(a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)

    if dtype == "float32":
        return plain
    multiply = jax.custom_vjp(plain)

    def forward(a, b):
        a, b = a.astype(dtype), b.astype(dtype)
        return plain(a, b), (a, b)

    def backward(kept, gradient):
        a, b = kept
        return plain(gradient, _row_major(b.swapaxes(-1, -2))), plain(_row_major(a.swapaxes(-1, -2)), gradient)

    multiply.defvjp(forward, backward)
    return multiply


def _row_major(array: Array) -> Array:
    """The same numbers, in memory row by row on a CPU: its bfloat16 products of transposed views take twice as long."""

    def moved(array):
        return with_layout_constraint(array, Layout(tuple(range(array.ndim))))

    return jax.lax.platform_dependent(array, cpu=moved, default=lambda array: array)


def forward(stacked: Stacked, x: Array, *, dtype: str = "float32") -> Array:
    """What all networks give for the same rows.

    Args:
      stacked: R networks.
      x: [B, d].
      dtype: of the numbers that are multiplied.

    Returns:
      [R, B, out], float32.

    >>> ones = Stacked((jnp.ones((2, 3, 1)),), (jnp.arange(3.)[:, None],))
    >>> forward(ones, jnp.ones((1, 2)))[:, 0, 0]
    Array([2., 3., 4.], dtype=float32)
    """
    multiply = product(dtype)
    first, *rest = stacked.kernels
    dim, n_networks, width = first.shape
    # The routers are folded into the columns: one product however many there are.
    folded = multiply(x, first.reshape(dim, n_networks * width))
    out = folded.reshape(-1, n_networks, width).transpose(1, 0, 2) + stacked.biases[0][:, None]
    for kernel, bias in zip(rest, stacked.biases[1:], strict=True):
        out = multiply(jax.nn.relu(out), kernel) + bias[:, None]
    return out
