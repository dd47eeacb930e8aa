"""cascade_full and cascade_checked_full: models are asked one after another until an answer is judged good enough.

    ask t_1; if g(x, answer) < tau_1, ask t_2; if g(x, answer) < tau_2, ask t_3;  utility = score of the last answer
    asked for - lambda * what ALL that were asked cost

FULL FEEDBACK, and no `Policy`, which chooses one model before any has answered: references. Per lambda, the chain of
one to three different models, in any order, and its thresholds are those of the highest mean utility on the logged
queries. All of them are tried: see `cascade_search`.

Source: Chen, Zaharia & Zou (2023), FrugalGPT, arXiv 2305.05176 (the cascade, its scorer and its search, for a budget:
a lambda is the price at which a budget is kept).

Deviation, and what it means: FrugalGPT's g reads the answer, and no table has the text of answers. So there are two.

- cascade_full: g is the score that a regression on the query predicts of the model. All that it knows is known before
  any model is asked, so it can only waste: the model at which it ends could be asked alone, for the same answer at no
  higher cost. It shows what a cascade is worth whose scorer sees nothing in an answer.
- cascade_checked_full: g is the score itself: answers are checked exactly, for nothing, e.g. by unit tests. An upper
  reference: what cascades of this kind can reach. No router can be held to it, as it sees what came out; its regret to
  the best single model can be below 0.

Where only means decide (`BenchmarkTable.mean_score`), the check sees an answer that is drawn, and its score counts. If
scores are 0 or 1, the mean is the chance that a check is passed, and what is expected is exact:

    score = p_1 + (1 - p_1) p_2 + (1 - p_1)(1 - p_2) p_3,    cost = c_1 + (1 - p_1) c_2 + (1 - p_1)(1 - p_2) c_3

which takes draws of different models for independent given the query, as they are in the package's worlds. Of scores
between, means say too little: the test table's own draws are checked, once, which is right on average over queries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from baselines.cascade_search import Chain, best_chains
from jrouter import metrics
from jrouter.chunks import map_and_sum_rows, map_rows, rows_at_once
from jrouter.methods.carrot import PREDICTORS
from jrouter.methods.plug_in import plug_in_outcome
from jrouter.nuisances.regression import fit_targets, held_out_targets
from jrouter.policy import Method, Outcomes, Policy
from jrouter.types import Array, BenchmarkTable


@dataclass(frozen=True)
class CascadeConfig:
    """Whether answers are checked exactly; else what predicts their score; and how many thresholds a model may have."""

    checked: bool = False
    predictor: str = "ridge"
    thresholds: int = 10


@dataclass(frozen=True, kw_only=True)
class Cascade(Method):
    """A method that may ask several models a query.

    Attributes:
      outcomes: (params, table, lambdas [L]) -> `Outcomes` [L, n], and each model's share of answers [L, T].
    """

    outcomes: Callable[[Any, BenchmarkTable, Array], tuple[Outcomes, Array]]


class Check(NamedTuple):
    """What may be said of each model's answer to one query: outcome o of answer t.

    Attributes:
      quality: [T, O], what the answer is judged to be worth.
      chance: [T, O], how probable that is; sums to 1 over O.
      score: [T, O], what an answer that is judged so is expected to be worth.
    """

    quality: Array
    chance: Array
    score: Array


class Answer(NamedTuple):
    """What a chain is expected to do on one query: whose answer is used [T], its score, what all asked cost."""

    used: Array
    score: Array
    cost: Array


def ask(chain: Chain, check: Check, score: Array, cost: Array) -> Answer:
    """Sends one query down a chain.

        score = sum_i<k reach_i E[score_i; g_i >= tau_i] + reach_k E[score_k],    cost = sum_i reach_i cost_i
        reach_1 = 1,    reach_i+1 = reach_i P(g_i < tau_i)

    Args:
      chain: of k models.
      check: of their answers, independent of each other.
      score: [T], expected.
      cost: [T], expected.

    >>> half = Check(jnp.array([[1., 0.]] * 2), jnp.full((2, 2), .5), jnp.array([[1., 0.]] * 2))
    >>> found = ask(Chain(jnp.array([0, 1]), jnp.array([.5])), half, jnp.array([.5, .5]), jnp.array([1., 4.]))
    >>> found.score, found.cost
    (Array(0.75, dtype=float32), Array(3., dtype=float32))
    """
    order, before = chain.order, chain.order[:-1]
    passes, chance = check.quality[before] >= chain.threshold[:, None], check.chance[before]
    reach = jnp.concatenate([jnp.ones(1), jnp.cumprod(jnp.where(passes, 0.0, chance).sum(axis=1))])
    passed = jnp.where(passes, chance * check.score[before], 0.0).sum(axis=1)
    ends = reach - jnp.append(reach[1:], 0.0)
    used = jnp.zeros_like(score).at[order].add(ends)
    return Answer(used, reach[:-1] @ passed + reach[-1] * score[order[-1]], reach @ cost[order])


def exact_checks(table: BenchmarkTable) -> Check:
    """Checks [n, T, O] that see the score of the answer: drawn where the mean score is what is known of it."""
    if table.mean_score is None:
        score = table.score[..., None]
        return Check(score, jnp.ones_like(score), score)
    sure = jnp.zeros_like(table.score)
    binary = ((table.score == 0) | (table.score == 1)).all()
    score = jnp.where(binary, jnp.stack([sure + 1.0, sure], axis=-1), table.score[..., None])
    chance = jnp.where(binary, table.mean_score, 1.0)
    return Check(score, jnp.stack([chance, 1.0 - chance], axis=-1), score)


def _no_policy(params: Any, x: Array, lam: Any) -> Array:
    raise ValueError("a cascade asks several models a query and pays for all: it is no policy; see Cascade.outcomes")


def cascade(config: CascadeConfig = CascadeConfig()) -> Cascade:
    """The best chain for each lambda: a reference."""
    family, n_grid = PREDICTORS[config.predictor](), config.thresholds

    def fit(key, problem):
        log, full = problem.log, problem.full
        if config.checked:
            quality, scorer = full.score, {}
            part = (jnp.arange(n_grid) + 1.0) / n_grid
            levels = (1.0 - part) * full.score.min() + part * full.score.max()
            grid = jnp.broadcast_to(levels, (len(log.models), n_grid))
        else:
            found = fit_targets(key, family, log, problem.split, full.score, full.cost)
            # Thresholds are chosen on predictions of rows that the predictor has not seen.
            quality = held_out_targets(family, found, log, problem.split)[:, 0]
            last = jax.tree.map(lambda leaf: leaf[-1], found.params)
            units = {"mean": found.mean, "deviation": found.deviation, "scaling": found.scaling}
            scorer = {"model": last} | units
            grid = jnp.quantile(quality, (jnp.arange(n_grid) + 1.0) / (n_grid + 1), axis=0).T
        chain = best_chains(quality, full.score, full.cost, grid, problem.lambdas, log.weight)
        return {"order": chain.order, "threshold": chain.threshold, "lambdas": problem.lambdas, "scorer": scorer}

    def checks(params, table):
        if config.checked:
            return exact_checks(table)
        predicted = map_rows(lambda x: plug_in_outcome(family.predict, params["scorer"], x)[0], table.x)[..., None]
        return Check(predicted, jnp.ones_like(predicted), table.true_score[..., None])

    return Cascade(
        fit,
        Policy(_no_policy),
        config,
        full_feedback=True,
        outcomes=lambda params, table, lambdas: chain_outcomes(params, checks(params, table), table, lambdas),
    )


def chain_outcomes(
    params: dict[str, Array], checks: Check, table: BenchmarkTable, lambdas: Array
) -> tuple[Outcomes, Array]:
    """What chains are worth on queries whose outcomes are all known, as `jrouter.policy.evaluate`.

    Regret is to the best single model, which an answer that was checked can beat. Right is whose answer is used.

    Args:
      params: order [K, 3] and threshold [K, 2] at lambdas [K]; of others, the nearest of these serves.
      checks: [n, T, O].
      table: n queries; judged by mean outcomes where these are known.
      lambdas: [L].

    Returns:
      `Outcomes` [L, n], and the share of answers that are each model's [L, T].
    """
    place = jnp.argmin(jnp.abs(params["lambdas"] - lambdas[:, None]), axis=1)
    chains = Chain(params["order"][place], params["threshold"][place])

    def one(row):
        check, score, cost = row

        def at(chain, lam):
            found, values = ask(chain, check, score, cost), metrics.utility(score, cost, lam)
            worth = metrics.utility(found.score, found.cost, lam)
            regret = metrics.best_utility(values) - worth
            right = metrics.routing_accuracy(found.used, values)
            return Outcomes(found.score, found.cost, worth, regret, right), found.used

        return jax.vmap(at)(chains, lambdas)

    n, n_models = table.true_score.shape
    rows = (checks, table.true_score, table.true_cost)
    outcomes, used = map_and_sum_rows(one, rows, chunk=rows_at_once(lambdas.shape[0] * n_models))
    return jax.tree.map(jnp.transpose, outcomes), used / n


def cascade_checked(config: CascadeConfig = CascadeConfig(checked=True)) -> Cascade:
    """The same with answers that are checked exactly: a reference for what cascades can reach."""
    return cascade(config)


VARIANTS: dict[str, Callable[..., Cascade]] = {"cascade_full": cascade, "cascade_checked_full": cascade_checked}
