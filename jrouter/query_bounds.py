"""Bounds of every model's mean outcome at one query, under hidden confounding up to Gamma.

A kernel average over the logged rows of a model near the query, whose weights are known up to what is hidden:

    sup (inf)  sum_i K_i w_i y_i / sum_i K_i w_i,   1 + (1 / p_i - 1) / Gamma <= w_i <= 1 + Gamma (1 / p_i - 1)

At Gamma = 1 it is the kernel average with weights 1 / p. Weights are normalised by their own sum, not held to
what they must average to, so the interval is valid but wider than the sharp one of `sensitivity`, for which one
query has too few rows. It says nothing of the noise of the rows: with few neighbours it is one more guess.

Source: Kallus, Mao & Zhou (2019), Interval estimation of individual-level causal effects under unobserved confounding.
"""

import jax
import jax.numpy as jnp

from jrouter.bounding_scores import inverse_odds
from jrouter.chunks import map_rows, rows_at_once
from jrouter.types import Array


def ratio_bounds(outcome: Array, low: Array, high: Array, weight: Array) -> tuple[Array, Array]:
    """Least and greatest weighted mean where each weight is known up to an interval.

    inf and sup of sum_i v_i w_i y_i / sum_i v_i w_i over low_i <= w_i <= high_i

    The greatest has high weights above some outcome and low ones below it: outcomes are sorted and every
    threshold is tried, O(m log m).

    Args:
      outcome: [m], y.
      low: [m], positive.
      high: [m], at least `low`.
      weight: [m], v, at least 0.

    Returns:
      Two scalars; -inf and inf where all weights are 0, as then nothing is known.

    Source: Kallus, Mao & Zhou (2019).

    >>> ratio_bounds(jnp.array([1., 0.]), jnp.array([1., 1.]), jnp.array([3., 3.]), jnp.ones(2))
    (Array(0.25, dtype=float32), Array(0.75, dtype=float32))
    """
    order = jnp.argsort(outcome)
    outcome, low, high, weight = outcome[order], low[order], high[order], weight[order]
    total = weight.sum()
    known = total > 0
    # Around their mean, so that running sums stay small.
    centre = (weight * outcome).sum() / jnp.where(known, total, 1.0)

    def least_and_greatest(below, above):
        """Of the means whose weights are `below` up to some outcome and `above` from there on."""

        def parts(values):
            first = jnp.concatenate([jnp.zeros(1), jnp.cumsum(weight * below * values)])
            last = jnp.concatenate([jnp.cumsum((weight * above * values)[::-1])[::-1], jnp.zeros(1)])
            return first + last

        mass = parts(jnp.ones_like(outcome))
        means = parts(outcome - centre) / jnp.where(mass > 0, mass, 1.0)
        # With no mass on one side of a threshold the mean is that of another threshold: 0 is never an extreme.
        return means.min(), means.max()

    return (
        jnp.where(known, centre + least_and_greatest(high, low)[0], -jnp.inf),
        jnp.where(known, centre + least_and_greatest(low, high)[1], jnp.inf),
    )


def query_intervals(
    queries: Array,
    x: Array,
    observed: Array,
    model: Array,
    propensity: Array,
    gammas: Array,
    *,
    n_models: int,
    neighbours: int = 100,
    row_weight: Array | None = None,
    chunk: int | None = None,
) -> tuple[Array, Array]:
    """Lower and upper bounds of each model's mean outcome at each query, a chunk of queries at a time.

    The rows of a model that are nearest to the query, weighted by Epanechnikov's kernel, whose width is the
    distance of the nearest that is left out. For a utility: of score - lambda * cost, at each lambda.

    Args:
      queries: [q, d], scaled as x.
      x: [n, d], of the logged rows, in coordinates whose distances mean something.
      observed: [n], y of the logged model.
      model: [n] int, index of the logged model.
      propensity: [n], p of the logged model; rows where it is 0 are left out.
      gammas: [G], each at least 1.
      n_models: T.
      neighbours: rows of each model, at most.
      row_weight: [n], or None for ones.
      chunk: queries at a time; None for as many as `chunks.rows_at_once` says.

    Returns:
      [q, G, T] and [q, G, T]; -inf and inf for a model without rows.

    Raises:
      ValueError: for fewer than one neighbour.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours: expected at least 1, got {neighbours}")
    n = x.shape[0]
    weight = jnp.where(propensity > 0, jnp.ones(n) if row_weight is None else row_weight, 0.0)
    odds, most = inverse_odds(propensity), min(neighbours + 1, n)
    lengths = jnp.square(x).sum(axis=1)

    def of_query(query):
        squares = lengths - 2.0 * x @ query + query @ query

        def of_model(t):
            near, rows = jax.lax.top_k(jnp.where((model == t) & (weight > 0), -squares, -jnp.inf), most)
            width = -near[-1] if most > neighbours else jnp.inf
            inside = near > -jnp.inf
            kernel = jnp.where(inside & (width > 0), 1.0 + near / jnp.where(width > 0, width, 1.0), 0.0)
            kernel = jnp.maximum(kernel, 0.0) * weight[rows]
            # All at one distance: each counts alike.
            kernel = jnp.where(kernel.sum() > 0, kernel, inside * weight[rows])
            bounds = jax.vmap(
                lambda gamma: ratio_bounds(observed[rows], 1 + odds[rows] / gamma, 1 + gamma * odds[rows], kernel)
            )
            return bounds(jnp.asarray(gammas))

        return jax.vmap(of_model, out_axes=1)(jnp.arange(n_models))

    return map_rows(of_query, queries, chunk=chunk or rows_at_once(n * n_models))
