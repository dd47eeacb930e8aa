"""Dense layers whose products may be of bfloat16 numbers and are summed in float32."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

Dense = partial(nn.Dense, dot_general=partial(jax.lax.dot_general, preferred_element_type=jnp.float32))
"""flax's Dense, its output float32 whatever its `dtype`. A product that gives bfloat16 rounds once more, and on a CPU
takes longer than in float32, where this one takes half as long. The kernels stay float32 and are rounded in
the program: kernels kept in bfloat16 make small batches five times slower on a CPU."""
