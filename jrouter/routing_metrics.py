"""What a router is worth beside the best single model and beside an oracle, as benchmarks of routers define it.

Curves of cost and score as such: `frontier_metrics`. LLMRouterBench publishes no code of its metrics: they are here as
replications quote its paper.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jrouter.metrics import best_models, expected
from jrouter.types import Array


def performance_gain(score: Array, best_single: float | Array) -> Array:
    """PerfGain: how much better the best setting of a router is than the best single model, as a share of that.

        PerfGain = max score / best_single - 1

    Args:
      score: [m], at every setting.
      best_single: score of the single model of the best mean, above 0.

    Source: LLMRouterBench, arXiv 2601.07206, section on metrics.

    >>> performance_gain(jnp.array([0.7, 0.84]), 0.8).round(3)
    Array(0.05, dtype=float32)
    """
    return score.max() / best_single - 1


def cost_saving(cost: Array, score: Array, best_cost: float | Array, best_score: float | Array) -> Array:
    """CostSave: what the cheapest setting that is as good as the best single model saves, as a share of its cost.

        CostSave = 1 - min {cost : score >= best_score} / best_cost

    Settings count as they are, without mixes. Below 0 where matching it costs more; NaN where no setting does.

    Args:
      cost: [m].
      score: [m].
      best_cost: cost, above 0, and
      best_score: score of the best single model.

    Source: LLMRouterBench, arXiv 2601.07206, section on metrics.

    >>> cost_saving(jnp.array([1., 3., 5.]), jnp.array([0.7, 0.8, 0.9]), 4., 0.8)
    Array(0.25, dtype=float32)
    """
    chex.assert_equal_shape([cost, score])
    matches = score >= best_score
    cheapest = jnp.where(matches, cost, jnp.inf).min()
    return jnp.where(matches.any(), 1 - cheapest / best_cost, jnp.nan)


def gap_to_oracle(score: Array, oracle: float | Array) -> Array:
    """Gap@O: the share of an oracle's mean score that a router misses.

        Gap@O = 1 - score / oracle

    The oracle takes the best outcome of each query in hindsight; with noisy outcomes part of the gap is luck that no
    router can have. NaN where the oracle scores 0.

    Args:
      score: mean score of the router; any shape.
      oracle: mean over queries of the best model's score.

    Source: LLMRouterBench, arXiv 2601.07206, section on metrics.

    >>> gap_to_oracle(jnp.array(0.6), 0.8).round(3)
    Array(0.25, dtype=float32)
    """
    oracle = jnp.asarray(oracle, score.dtype)
    return jnp.where(oracle > 0, 1 - score / jnp.where(oracle > 0, oracle, 1.0), jnp.nan)


class Optimality(NamedTuple):
    """A router beside the oracle of its pool; scalars.

    Attributes:
      selection: Opt.Sel, share of queries for which the oracle's model is chosen.
      cost: Opt.Cost, the oracle's cost over the router's; above 1 for a router that is cheap and wrong.
      accuracy: Opt.Acc, the router's score over the oracle's.
    """

    selection: Array
    cost: Array
    accuracy: Array


def optimality(probability: Array, score: Array, cost: Array, *, counts: Array | None = None) -> Optimality:
    """Opt.Sel, Opt.Cost and Opt.Acc: a router beside the oracle that takes the cheapest of the best models.

        Opt.Sel = mean_i pi_i(o_i)
        Opt.Cost = sum_i c_i(o_i) / sum_i c_i(pi_i)
        Opt.Acc = sum_i a_i(pi_i) / sum_i a_i(o_i)

    Over all queries; o_i is the cheapest model of those that score highest on query i, so the cheapest of all where
    none is right. Sums of 0 / 0 are NaN (no model is right anywhere; nothing costs anything; no query counts).

    Args:
      probability: [n, T], one-hot for a router that decides.
      score: [n, T] of every model.
      cost: [n, T].
      counts: [n] bool, the queries that count; None for all.

    Returns:
      `Optimality`.

    Source: RouterArena, arXiv 2510.00202, section on metrics; `llm_evaluation/run.py`. Until its pull request 97 that
    left out queries that the router got wrong (issue 95), where Opt.Acc is 1 whatever the router does. It still counts,
    in Opt.Sel and Opt.Acc, only queries that some model gets wholly right, in Opt.Cost only those that the router gets
    right, and leaves out queries at score 0 and cost 0, which failed calls are. Its numbers are to be had by `counts`.

    >>> found = optimality(jnp.eye(2), jnp.array([[1., 1.], [0., 0.]]), jnp.array([[1., 3.], [1., 3.]]))
    >>> [round(float(part), 3) for part in found]
    [0.5, 0.5, 1.0]
    """
    chex.assert_rank([probability, score, cost], 2)
    chex.assert_equal_shape([probability, score, cost])
    oracle = jax.vmap(lambda score, cost: best_models(score, cost=cost))(score, cost)
    counts = jnp.ones(score.shape[0], bool) if counts is None else counts

    def total(values):
        return jnp.where(counts, values, 0.0).sum()

    def ratio(top, bottom):
        return jnp.where(bottom > 0, top / jnp.where(bottom > 0, bottom, 1.0), jnp.where(top > 0, jnp.inf, jnp.nan))

    picked, best = probability, oracle.astype(probability.dtype)
    return Optimality(
        ratio(total(expected(picked, best)), counts.sum().astype(score.dtype)),
        ratio(total(expected(best, cost)), total(expected(picked, cost))),
        ratio(total(expected(picked, score)), total(expected(best, score))),
    )


def arena_score(
    cost: Array, accuracy: Array, *, beta: float = 0.1, highest: float = 200.0, lowest: float = 0.0044
) -> Array:
    """RouterArena's score S_beta: a weighted harmonic mean of accuracy and of cheapness on a log scale.

        C = log(c_max / c) / log(c_max / c_min),   S = (1 + beta) A C / (beta A + C)

    Costs outside [c_min, c_max] count as the nearer of the two; 0 where both accuracy and cheapness are 0. Tied to
    a unit of cost, USD per 1,000 queries.

    Args:
      cost: c, USD per 1,000 queries; any shape.
      accuracy: A in [0, 1], alike.
      beta: the weight of cheapness relative to accuracy.
      highest: c_max.
      lowest: c_min.

    Source: RouterArena, arXiv 2510.00202, section on metrics; the constants of `router_evaluation/compute_scores.py`.
    That does not bound cost: beyond c_max its score turns negative and, past a pole, is above (1 + beta) A.

    >>> arena_score(jnp.array([0.0044, 200.]), jnp.array([1., 1.]))
    Array([1., 0.], dtype=float32)
    """
    chex.assert_equal_shape([cost, accuracy])
    cheapness = jnp.log(highest / jnp.clip(cost, lowest, highest)) / jnp.log(highest / lowest)
    bottom = beta * accuracy + cheapness
    return jnp.where(bottom > 0, (1 + beta) * accuracy * cheapness / jnp.where(bottom > 0, bottom, 1.0), 0.0)
