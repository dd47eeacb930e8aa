"""The Flax modules: one query embedding [d] in, one value per model out."""

from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import jax

from jrouter.types import Array

HIDDEN = (200, 200)
"""Two hidden layers of 200: the paper's router."""


class Trunk(nn.Module):
    """Hidden layers shared by the heads of all models; none for a linear model."""

    hidden: Sequence[int] = HIDDEN

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for layer, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, name=f"hidden_{layer}")(x))
        return x


class RouterNetwork(nn.Module):
    """Logits [T] of a router at one cost preference."""

    n_models: int
    hidden: Sequence[int] = HIDDEN

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # Small, so that training starts near the uniform policy. Not zero: of constant zero logits
        # under vmap, XLA's CPU compiler (jaxlib 0.10) folds the softmax to NaN.
        head = nn.Dense(self.n_models, name="head", kernel_init=nn.initializers.normal(0.01))
        return head(Trunk(self.hidden, name="trunk")(x))


class PropensityNetwork(nn.Module):
    """Log-odds [T] of the logging policy; multinomial logistic regression without hidden layers."""

    n_models: int
    hidden: Sequence[int] = ()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Dense(self.n_models, name="head")(Trunk(self.hidden, name="trunk")(x))


class OutcomeNetwork(nn.Module):
    """Score and cost [2, T] of every model: a shared trunk, one head per model and outcome."""

    n_models: int
    hidden: Sequence[int] = HIDDEN

    @nn.compact
    def __call__(self, x: Array) -> Array:
        heads = nn.Dense(2 * self.n_models, name="head")(Trunk(self.hidden, name="trunk")(x))
        return heads.reshape(2, self.n_models)


class PooledOutcomeNetwork(nn.Module):
    """Score and cost [2, T] by heads w_0 + A z_t + v_t: shared, by features z [T, f] of the models, own.

    The own heads start at 0, as what is penalised should, so that all models start alike but for z.
    """

    n_models: int
    hidden: Sequence[int] = HIDDEN

    @nn.compact
    def __call__(self, x: Array, features: Array) -> Array:
        last = Trunk(self.hidden, name="trunk")(x)
        zeros = nn.initializers.zeros_init()
        own = nn.Dense(2 * self.n_models, name="head", kernel_init=zeros)(last).reshape(2, self.n_models)
        shared = nn.Dense(2, name="shared")(last)[:, None]
        if features.shape[1] == 0:
            return own + shared
        slopes = nn.Dense(2 * features.shape[1], name="by_feature")(last).reshape(2, -1)
        return own + shared + slopes @ features.T


class UtilityNetwork(OutcomeNetwork):
    """A router whose output at lambda is a utility, score part minus lambda * cost part.

    Such outputs are affine in lambda, so interpolating them between knots is exact.
    """


def run(network: nn.Module, params: Any, x: Array, *inputs: Array) -> Array:
    """What a network gives for one embedding (and whatever else its module takes)."""
    return cast(Array, network.apply(params, x, *inputs))


def count_parameters(params) -> int:
    """Number of trained numbers in a pytree of arrays.

    >>> import jax.numpy as jnp
    >>> count_parameters({"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)})
    8
    """
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def head_width(params) -> int:
    """Width of the output layer of a network's parameters: T, or 2 T for score and cost.

    >>> import jax.numpy as jnp
    >>> head_width({"params": {"head": {"bias": jnp.zeros(4)}}})
    4
    """
    return params["params"]["head"]["bias"].shape[-1]
