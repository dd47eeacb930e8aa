"""The cascade that is worth most on queries on which every model's outcome is known.

A chain is one to three different models and their thresholds. With f_ti = [g_t < tau_ti] of a query, the mean score and
cost of every chain are sums of means of f_ti score_s, and of f_ti f_sj score_r: products of matrices with a row for
each query, so that all of about T^3 J^2 chains of T models with J thresholds are compared and none needs be pruned.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jrouter import metrics
from jrouter.types import Array


class Chain(NamedTuple):
    """Which models are asked [k], and what all answers but the last must be judged to be used [k - 1].

    At a threshold of -inf the chain ends: what follows is never asked.
    """

    order: Array
    threshold: Array


class _Found(NamedTuple):
    """The best chain of some length, and its mean score and cost: [L, ...]."""

    chain: Chain
    score: Array
    cost: Array


def _best(score: Array, cost: Array, chain_of: Callable[[Array], Chain], lambdas: Array) -> _Found:
    """Of chains by number, with these means [N]."""

    def at(lam):
        number = jnp.argmax(metrics.utility(score, cost, lam))
        return _Found(chain_of(number), score[number], cost[number])

    return jax.lax.map(at, lambdas)


def _longer_if_better(short: _Found, long: _Found, lambdas: Array) -> _Found:
    """The longer chain where it gains more than sums in float32 are off: chains that do the same must not differ."""
    rounding = 1e-6 * (jnp.abs(short.score) + lambdas * short.cost)
    longer = (long.score - short.score) - lambdas * (long.cost - short.cost) > rounding

    def chosen(short, long):
        return jnp.where(longer.reshape(-1, *[1] * (short.ndim - 1)), long, short)

    return jax.tree.map(chosen, short, long)


def best_chains(
    quality: Array, score: Array, cost: Array, grid: Array, lambdas: Array, weight: Array | None = None
) -> Chain:
    """The chain of at most three models with the highest mean utility on these queries, at each lambda.

    Args:
      quality: [n, T], what each answer is judged to be worth.
      score: [n, T].
      cost: [n, T].
      grid: [T, J], thresholds to choose from.
      lambdas: [L].
      weight: [n], how often each query counts, or None for once.

    Returns:
      Order [L, 3] and threshold [L, 2]; of two chains that are as good, the shorter.
    """
    (n, n_models), n_grid = score.shape, grid.shape[1]
    share = jnp.full(n, 1 / n) if weight is None else weight / weight.sum()
    # A step is a model and its threshold; a choice among so many is no place for a GPU's short floats.
    model, level = jnp.repeat(jnp.arange(n_models), n_grid), grid.reshape(-1)
    mean = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    failed = (quality[:, :, None] < grid).astype(score.dtype).reshape(n, -1)
    passed_score, on = (1.0 - failed) * score[:, model], failed * share[:, None]
    different = model[:, None] != jnp.arange(n_models)

    def alone(number):
        return Chain(jnp.full(3, number), jnp.full(2, -jnp.inf))

    mean_cost = mean("n,nt->t", share, cost)
    singles = _best(mean("n,nt->t", share, score), mean_cost, alone, lambdas)

    def pair(number):
        step, last = number // n_models, number % n_models
        return Chain(jnp.stack([model[step], last, last]), jnp.stack([level[step], -jnp.inf]))

    first_score = mean("n,ni->i", share, passed_score)[:, None]
    two_cost = mean_cost[model][:, None] + mean("ni,nt->it", on, cost)
    two_score = jnp.where(different, first_score + mean("ni,nt->it", on, score), -jnp.inf)
    pairs = _best(two_score.reshape(-1), two_cost.reshape(-1), pair, lambdas)

    before_last = first_score + mean("ni,nj->ij", on, passed_score)

    def ending_in(last):
        def triple(number):
            steps = jnp.stack([number // model.shape[0], number % model.shape[0]])
            return Chain(jnp.append(model[steps], last), level[steps])

        other = different[:, last]
        allowed = different[:, model] & other[:, None] & other
        three_score = before_last + mean("ni,nj->ij", on, failed * score[:, last, None])
        three_score = jnp.where(allowed, three_score, -jnp.inf)
        three_cost = two_cost[:, model] + mean("ni,nj->ij", on, failed * cost[:, last, None])
        return _best(three_score.reshape(-1), three_cost.reshape(-1), triple, lambdas)

    # One last model at a time: (T J)^2 numbers are held, not T^3 J^2.
    by_last = jax.lax.map(ending_in, jnp.arange(n_models))
    best = jnp.argmax(by_last.score - lambdas * by_last.cost, axis=0)
    triples = jax.tree.map(lambda leaf: leaf[best, jnp.arange(lambdas.shape[0])], by_last)
    return _longer_if_better(_longer_if_better(singles, pairs, lambdas), triples, lambdas).chain
