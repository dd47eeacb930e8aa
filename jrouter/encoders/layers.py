"""Layers that pretrained networks share: dense ones summed in float32, and one layer applied many times."""

from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

Dense = partial(nn.Dense, dot_general=partial(jax.lax.dot_general, preferred_element_type=jnp.float32))
"""flax's Dense, its output float32 whatever its `dtype`. A product that gives bfloat16 rounds once more, and on a CPU
takes longer than in float32, where this one takes half as long. The kernels stay float32 and are rounded in
the program: kernels kept in bfloat16 make small batches five times slower on a CPU."""


def scanned(layer: type[nn.Module], n_layers: int) -> Any:
    """A layer applied `n_layers` times, over stacked weights: compiling takes as long for 24 of them as for one."""
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=cast(Any, nn.broadcast),
        length=n_layers,
    )
