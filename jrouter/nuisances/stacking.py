"""Stacking: a convex combination of outcome models, weighted by how well each predicts held-out rows.

    f(x) = sum_m beta_m f_m(x),  beta = argmin over beta >= 0, sum beta <= 1 of the held-out squared error

One vector of weights for score and one for cost, the same for all models of the pool. What is missing to
1 is the weight of each model's plain mean, so a stack falls back on the best single model where nothing
predicts. Where one family is right it gets all the weight; where none is, their errors average out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jrouter.nuisances.outcome import OutcomeModel
from jrouter.types import Array


class Stack(NamedTuple):
    """Families of outcome models that are fitted apart and weighed together by `crossfit_outcome.fit_outcome`.

    Params are {"parts": params of each family by name, "weight": [2, M], of score and of cost}.
    """

    families: dict[str, OutcomeModel]

    @property
    def strengths(self) -> tuple[Array, ...]:
        """Of all families: a stack always chooses by folds."""
        return tuple(family.strengths for family in self.families.values())

    @property
    def smooth(self) -> bool:
        """Whether all families are."""
        return all(family.smooth for family in self.families.values())

    def predict(self, params, x: Array) -> Array:
        """[2, T], standardised score and cost of one scaled query."""
        predicted = [family.predict(params["parts"][name], x) for name, family in self.families.items()]
        return jnp.einsum("om,mot->ot", params["weight"], jnp.stack(predicted))


def project_to_simplex(weight: Array) -> Array:
    """Nearest point of {w >= 0, sum w <= 1} in Euclidean distance.

    Args:
      weight: [M].

    Returns:
      [M].

    Source: Duchi, Shalev-Shwartz, Singer & Chandra (2008).

    >>> project_to_simplex(jnp.array([1.5, .5, -1.]))
    Array([1., 0., 0.], dtype=float32)
    """
    inside = jnp.maximum(weight, 0.0)
    descending = jnp.sort(weight)[::-1]
    excess = jnp.cumsum(descending) - 1.0
    count = jnp.arange(1, weight.shape[0] + 1)
    last = jnp.maximum((descending - excess / count > 0).sum(), 1) - 1
    onto = jnp.maximum(weight - excess[last] / count[last], 0.0)
    return jnp.where(inside.sum() <= 1.0, inside, onto)


def stacking_weights(predicted: Array, observed: Array, weight: Array, *, iterations: int = 300) -> Array:
    """Weights of M predictors with the least weighted squared error, non-negative, of sum at most 1.

    By projected gradient steps with momentum on the M x M normal equations.

    Args:
      predicted: [M, n], held out, around a mean of 0.
      observed: [n], around the same mean.
      weight: [n], row weights.
      iterations: of gradient steps.

    Returns:
      [M].

    Source: Breiman (1996), Stacked regressions; van der Laan, Polley & Hubbard (2007).

    >>> stacking_weights(jnp.array([[1., -1.], [0., 0.]]), jnp.array([1., -1.]), jnp.ones(2))
    Array([1., 0.], dtype=float32)
    """
    total = jnp.maximum(weight.sum(), 1e-30)
    gram = (predicted * weight) @ predicted.T / total
    moment = (predicted * weight) @ observed / total
    # The trace bounds the largest eigenvalue, so the step never overshoots.
    size = jnp.maximum(jnp.trace(gram), 1e-12)

    def step(number, carry):
        point, previous = carry
        ahead = point + number / (number + 3.0) * (point - previous)
        return project_to_simplex(ahead - (gram @ ahead - moment) / size), point

    start = jnp.full(predicted.shape[0], 1.0 / (predicted.shape[0] + 1))
    return jax.lax.fori_loop(0, iterations, step, (start, start))[0]
