"""What a learner returns: one shape for a network, a ridge, nearest neighbours and one fixed model."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass

from jrouter import metrics
from jrouter.chunks import map_and_sum_rows, map_rows, rows_at_once
from jrouter.splits import Split
from jrouter.types import Array, BenchmarkTable, LoggedData, Nuisances


@dataclass(frozen=True)
class Policy:
    """A rule that chooses a model for a query at a cost preference.

    Attributes:
      apply: (params, x [d], lam) -> [T], logits or utilities: higher is chosen.
      stochastic: draws from softmax(apply) instead of choosing its maximum; or params -> whether it does.
      at: (params, lam) -> smaller params for which `apply` gives the same at this lambda; None if there are none.
    """

    apply: Callable[[Any, Array, Any], Array]
    stochastic: bool | Callable[[Any], Array] = False
    at: Callable[[Any, Any], Any] | None = None

    def values(self, params: Any, x: Array, lam: float | Array, mask: Array | None = None) -> Array:
        """[T], what `apply` gives; of a rule whose values depend on the pool `mask` [T], those for it."""
        return self.apply(params, x, lam)

    def probabilities(self, params: Any, x: Array, lam: float | Array, mask: Array | None = None) -> Array:
        """[T], probability of each model for one query; 0 where `mask` [T] is False.

        A rule that decides gives a one-hot, the first model where several tie.
        """
        values = self.values(params, x, lam, mask)
        if self.stochastic is False:
            return metrics.decide(values, mask=mask)
        drawn = jax.nn.softmax(metrics.masked(values, mask))
        if self.stochastic is True:
            return drawn
        return jnp.where(self.stochastic(params), drawn, metrics.decide(values, mask=mask))

    def choice(self, params: Any, x: Array, lam: float | Array, mask: Array | None = None) -> Array:
        """Index of the most probable model for one query; of a policy that draws, too."""
        return metrics.choose(self.values(params, x, lam, mask), mask=mask)


@dataclass(frozen=True)
class PooledPolicy(Policy):
    """A policy that never leaves a pool, among models of which it may not know the last.

    Attributes:
      inner: the policy, of the first of the models.
      pool: which of the models it may choose.
    """

    inner: Any = None
    pool: tuple[bool, ...] = ()

    def values(self, params: Any, x: Array, lam: float | Array, mask: Array | None = None) -> Array:
        """[T], those of models outside the pool so low that they are never chosen."""
        pool = jnp.array(self.pool) if mask is None else jnp.array(self.pool) & mask
        # How many models it knows is seen in what it returns; an amended policy asks for a mask of that length.
        known = jax.eval_shape(self.inner.values, params, x, lam).shape[0]
        values = self.inner.values(params, x, lam, pool[:known])
        return metrics.masked(jnp.concatenate([values, jnp.zeros(len(self.pool) - known, values.dtype)]), pool)


def pooled(policy: Policy, pool: Any) -> PooledPolicy:
    """The policy among the models [T] bool of a pool; it may know the first of the T only."""
    return PooledPolicy(policy.apply, policy.stochastic, policy.at, inner=policy, pool=tuple(bool(one) for one in pool))


@register_dataclass
@dataclass(frozen=True)
class Problem:
    """What a learner may look at: a log, its split, its nuisances, the lambdas to serve.

    Attributes:
      log: n rows.
      split: their folds, and the router's training and validation rows.
      nuisances: cross-fitted, of the n rows.
      lambdas: [L] ascending.
      full: every model's outcome on the same rows; only for references marked as full feedback.
    """

    log: LoggedData
    split: Split
    nuisances: Nuisances
    lambdas: Array
    full: BenchmarkTable | None = None


@dataclass(frozen=True)
class Method:
    """A learner: a pure function from a problem to the params of its policy.

    Attributes:
      fit: (key, Problem) -> params, a nested dict of arrays.
      policy: what these params mean.
      config: the frozen dataclass that made the method; with its name it rebuilds the policy.
      full_feedback: reads `Problem.full`, which no log has: a reference, not a competitor.
      settle: fitted params -> those that its policy needs, where a fit holds more (on the host).
      explain: fitted params -> what was decided and why, where there is something to say.
      smooth: the policy moves with the log's rows without jumps: no nearest neighbours, no maximum over policies
        taken on the log itself. Only then may it be resampled.
    """

    fit: Callable[[Array, Problem], Any]
    policy: Policy
    config: Any = field(default=None)
    full_feedback: bool = False
    settle: Callable[[Any], Any] = lambda params: params
    explain: Callable[[Any], str] | None = None
    smooth: bool = True


class Outcomes(NamedTuple):
    """What a policy does on queries with known outcomes, per lambda and query: [L, n] each."""

    score: Array
    cost: Array
    utility: Array
    regret: Array
    routing_accuracy: Array


def judge(probability: Array, score: Array, cost: Array, lambdas: Array, *, mask: Array | None = None) -> Outcomes:
    """Outcomes [L] of choices `probability` [L, T] on one query with score [T] and cost [T]."""

    def at(probability, lam):
        values = metrics.utility(score, cost, lam)
        return Outcomes(
            score=metrics.expected(probability, score),
            cost=metrics.expected(probability, cost),
            utility=metrics.expected(probability, values),
            regret=metrics.regret(probability, values, mask=mask),
            routing_accuracy=metrics.routing_accuracy(probability, values, mask=mask),
        )

    return jax.vmap(at)(probability, lambdas)


def choice_outcomes(
    policy: Policy,
    params: Any,
    x: Array,
    score: Array,
    cost: Array,
    lambdas: Array,
    *,
    mask: Array | None = None,
    chunk: int | None = None,
) -> tuple[Array, Array]:
    """Score and cost that a policy's choices are expected to have, by given scores of every model.

        sum_t pi(t | x_i, lam) * score_it, and the same of cost

    Probabilities [n, L, T] are made and used up a chunk of queries at a time.

    Args:
      policy: and
      params: its parameters.
      x: [n, d].
      score: [n, T], known, or counterfactual.
      cost: [n, T].
      lambdas: [L].
      mask: [T] bool, the pool.
      chunk: queries at a time; None for as many as `chunks.rows_at_once` says.

    Returns:
      [L, n] and [L, n].
    """

    def one(row):
        x, score, cost = row

        def at(lam):
            probability = policy.probabilities(params, x, lam, mask)
            return metrics.expected(probability, score), metrics.expected(probability, cost)

        return jax.vmap(at)(lambdas)

    chunk = chunk or rows_at_once(lambdas.shape[0] * score.shape[1])
    of_rows = map_rows(one, (x, score, cost), chunk=chunk)
    return of_rows[0].T, of_rows[1].T


def evaluate(
    policy: Policy,
    params: Any,
    table: BenchmarkTable,
    lambdas: Array,
    *,
    mask: Array | None = None,
    chunk: int | None = None,
) -> tuple[Outcomes, Array]:
    """What a policy is worth on queries whose outcomes are all known.

    Args:
      policy: and
      params: its parameters.
      table: n queries; judged by mean outcomes where these are known.
      lambdas: [L].
      mask: [T] bool, the pool.
      chunk: queries at a time; None for as many as `chunks.rows_at_once` says.

    Returns:
      `Outcomes`, [L, n] each, and the share of each model, [L, T].
    """

    def one(row):
        x, score, cost = row
        probability = jax.vmap(lambda lam: policy.probabilities(params, x, lam, mask))(lambdas)
        return judge(probability, score, cost, lambdas, mask=mask), probability

    rows = (table.x, table.true_score, table.true_cost)
    n, n_models = table.true_score.shape
    outcomes, chosen = map_and_sum_rows(one, rows, chunk=chunk or rows_at_once(lambdas.shape[0] * n_models))
    return jax.tree.map(jnp.transpose, outcomes), chosen / n
