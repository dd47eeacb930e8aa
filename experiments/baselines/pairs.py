"""Routers of two models as a chain of T, and their thresholds: what routellm and rorf share. No method of its own.

Models in ascending mean cost are pairs (weak s, strong s + 1). Of each pair a learner says P_s(x), how probably the
strong one wins. A query starts at the cheapest model and climbs while P_s(x) > threshold_s; two models are RouteLLM's
router. As values, of which the highest is where it stops:

    v_t(x) = min(min_{s < t} m_s, -m_t),    m_s = P_s(x) - threshold_s(lambda),  m_{T-1} = -1

Thresholds: RouteLLM's calibrate_threshold takes the quantile of P over a sample of queries that sends the wished share
of them, so the wished cost, to the strong model. Here lambda is wished: of a grid of such quantiles the one of the
highest mean utility is kept, from the last pair to the first, climbing being worth what the later pairs make of it. So
a poor middle model is climbed past. Calibrated at the lambdas to serve; others take the nearest.

Wins: a log has one answer a query and no pair to compare, so the other outcomes must be imputed, by
`counterfactual_scores`: "direct" is the outcome model's prediction, "dr" and "dros" correct it by what was logged.

    label = 1/2 + (score_strong - score_weak) / (2 * range of scores)

For 0/1 scores its mean is the probability of a win plus half that of a tie, however the two depend on each other,
and it is linear in scores, so unbiased scores give unbiased labels. Graded scores count by how much, not whether.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jrouter.chunks import map_rows
from jrouter.counterfactual import counterfactual_scores
from jrouter.features import fit_scaling, scale
from jrouter.interval import nearest
from jrouter.metrics import utility
from jrouter.policy import Method, Policy, Problem
from jrouter.types import Array, CounterfactualScores
from jrouter.weighted import weighted_mean


@dataclass(frozen=True)
class PairsConfig:
    """What the unseen outcomes are imputed by, or every outcome itself (`full`); and how many thresholds are tried."""

    estimator: str = "direct"
    full: bool = False
    thresholds: int = 41


def outcomes_of_all(problem: Problem, config: PairsConfig) -> CounterfactualScores:
    """Score and cost [n, T] of every model on every row."""
    if config.full:
        assert problem.full is not None
        return CounterfactualScores(problem.full.score, problem.full.cost)
    return counterfactual_scores(problem.log, problem.nuisances, estimator=config.estimator)


def weak_to_strong(cost: Array, weight: Array) -> Array:
    """[T], models by ascending mean of cost [n, T]."""
    return jnp.argsort(weighted_mean(cost, weight))


def win_labels(score: Array) -> Array:
    """[n, T - 1], how far the strong model of each pair won, from scores [n, T] in the chain's order.

    >>> win_labels(jnp.array([[0., 1., 1.], [1., 1., 0.]]))
    Array([[1. , 0.5],
           [0.5, 0. ]], dtype=float32)
    """
    spread = jnp.maximum(score.max() - score.min(), 1e-30)
    return 0.5 + 0.5 * jnp.diff(score, axis=1) / spread


def calibrated(probability: Array, values: Array, weight: Array, *, thresholds: int) -> Array:
    """[T - 1], thresholds of the highest mean utility, each given those of the later pairs.

    Args:
      probability: [m, T - 1], of the strong model's win, on queries that nothing was trained on.
      values: [m, T], utility of each model, in the chain's order.
      weight: [m].
      thresholds: how many are tried: 0, quantiles of the probability, and 1.

    >>> win = jnp.array([[.2], [.3], [.6], [.9]])
    >>> calibrated(win, jnp.array([[1., 0.], [1., 0.], [0., 1.], [0., 1.]]), jnp.ones(4), thresholds=5)
    Array([0.3], dtype=float32)
    """
    wished = jnp.linspace(0.0, 1.0, thresholds)

    def pair(onward, of_pair):
        probability, stay = of_pair
        order = jnp.argsort(probability)
        share = jnp.cumsum(weight[order]) / jnp.maximum(weight.sum(), 1e-30)
        place = jnp.minimum(jnp.searchsorted(share, wished), probability.shape[0] - 1)
        grid = probability[order][place].at[0].set(0.0).at[-1].set(1.0)
        gain = jax.vmap(lambda least: weighted_mean((onward - stay) * (probability > least), weight))(grid)
        threshold = grid[jnp.argmax(gain)]
        return jnp.where(probability > threshold, onward, stay), threshold

    return jax.lax.scan(pair, values[:, -1], (probability.T, values[:, :-1].T), reverse=True)[1]


def chain_values(order: Array, probability: Array, threshold: Array) -> Array:
    """[T], how clearly a query climbs to each model and stops there, in the log's order of models.

    >>> chain_values(jnp.array([2, 0, 1]), jnp.array([.7, .4]), jnp.array([.5, .5])).round(1)  # to the second: model 0
    Array([ 0.1, -0.1, -0.2], dtype=float32)
    """
    margin = probability - threshold
    climbed = jax.lax.cummin(jnp.append(1.0, margin))
    values = jnp.minimum(climbed, jnp.append(-margin, 1.0))
    return jnp.zeros_like(values).at[order].set(values)


def chain(learn: Callable, win: Callable, config: PairsConfig) -> Method:
    """A method of a learner of pairs.

    The training rows of the split teach the pairs, its validation rows calibrate them.

    Args:
      learn: (key, scaled x [m, d], scores of the chain [m, T], weight [m]) -> params of the pairs.
      win: (params of the pairs, scaled x [d]) -> [T - 1], in [0, 1].
      config: of the method, a `PairsConfig`.
    """

    def fit(key, problem):
        log, split = problem.log, problem.split
        every = outcomes_of_all(problem, config)
        order = weak_to_strong(every.cost, log.weight)
        score, cost = every.score[:, order], every.cost[:, order]
        scaling = fit_scaling(log.x, log.weight)
        x = scale(scaling, log.x)
        pairs = learn(key, x[split.train], score[split.train], log.weight[split.train] * split.train_weight)
        rows, weight = split.valid, log.weight[split.valid] * split.valid_weight
        probability = map_rows(lambda x: win(pairs, x), x[rows])

        def at(lam):
            values = utility(score[rows], cost[rows], lam)
            return calibrated(probability, values, weight, thresholds=config.thresholds)

        thresholds = jax.lax.map(at, problem.lambdas)
        return {
            "pairs": pairs,
            "order": order,
            "thresholds": thresholds,
            "lambdas": problem.lambdas,
            "scaling": scaling,
        }

    def apply(params: dict[str, Any], x: Array, lam: float | Array) -> Array:
        probability = win(params["pairs"], scale(params["scaling"], x))
        return chain_values(params["order"], probability, params["thresholds"][nearest(params["lambdas"], lam)])

    # The best of a grid of thresholds jumps as rows do.
    return Method(fit, Policy(apply), config, full_feedback=config.full, smooth=False)
