"""mixllm: quality and cost predictors of each model, and a bandit's decision on them, replayed through the log.

    choose argmax_t  (1 - mu) * score_t(x) - mu * cost_t(x) / tau + width * sqrt(x' A_t^-1 x);    A_t += x x' of it

mu = lambda tau / (1 + lambda tau): without the last part, the rule at lambda. The uncertainty is of queries alone: how
little model t was asked in this direction. It does not shrink as lambda grows, for the trade-off is of convex weights.

Source: Wang et al. (2025), MixLLM: Dynamic routing in mixed large language models, arXiv 2502.18482 (NAACL 2025,
long.545): light predictors of each model's quality and cost, a meta-decision of their trade-off, an uncertainty and a
penalty for latency, continual training on feedback. The equation is our reading of it; no code of theirs was found.

Adaptation: theirs is first trained on queries that every model answered, then serves and learns from feedback. Here
the first `offline` share of the log teaches each model's predictors by the rows that it answered; the rest is the
stream, replayed by rows that match, at each lambda by itself: what that shows and what it cannot is said in
`replay.py`. The decision at the end is the system's, bonus and all: it would go on to explore, which nothing here pays.
Left out, as no log has it: waiting times, and with them the penalty; users' thumbs, and the policy gradient on them
(scores are the refined feedback that the paper has too). Left out, as the embedding is given: tags of queries, and
the encoder's tuning.
Deviations: predictors are ridge regressions, of which the stream updates sums, in place of forests, networks or
neighbours; cost is predicted itself, not length times price; A_t starts at the ridge's penalty, and rows of the offline
part count in it; learning is in rounds; the nearest lambda replayed answers for others.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from baselines.carrot_convex import mu_of
from baselines.replay import Estimates, Stream, Sums, added, even_weights, replay, solved, split_in_time
from jrouter.features import fit_scaling, scale
from jrouter.interval import nearest
from jrouter.policy import Method, Policy
from jrouter.types import Array
from jrouter.weighted import weighted_mean


@dataclass(frozen=True)
class MixLlmConfig:
    """Weight of the uncertainty, share of rows before the stream, its rounds, ridge's penalty times d, cap of 1 / p."""

    width: float = 0.1
    offline: float = 0.3
    rounds: int = 16
    ratio: float = 3.0
    cap: float = 20.0
    tau_quantile: float = 0.95


def meta_score(score: Array, cost: Array, uncertainty: Array, mu: float | Array, width: float) -> Array:
    """[T], what the decision maximises, of predictions [T] with costs in units of tau.

    >>> meta_score(jnp.array([.5, 1.]), jnp.array([.25, 1.]), jnp.array([.25, .5]), .5, 1.)
    Array([0.375, 0.5  ], dtype=float32)
    """
    return (1.0 - mu) * score - mu * cost + width * uncertainty


def mixllm(config: MixLlmConfig = MixLlmConfig()) -> Method:
    """The decision of the bandit that was replayed at the nearest lambda."""

    def decide(estimates: Estimates, units: dict[str, Array], x: Array, lam: Array) -> Array:
        outcomes = units["mean"][:, None] + units["deviation"][:, None] * estimates.predicted(x)
        mu = mu_of(lam, units["tau"])
        return meta_score(outcomes[0], outcomes[1] / units["tau"], estimates.uncertainty(x), mu, config.width)

    def fit(key, problem):
        del key
        log, n_models = problem.log, len(problem.log.models)
        scaling = fit_scaling(log.x, log.weight)
        x = jnp.concatenate([scale(scaling, log.x), jnp.ones((log.x.shape[0], 1))], axis=1)
        first, later = split_in_time(log, config.offline)
        outcomes = jnp.stack([log.score, log.cost], axis=1)
        # Known before the stream: what is usual, which a model is taken for that was never asked.
        mean = weighted_mean(outcomes[first], log.score_weight[first])
        variance = weighted_mean((outcomes[first] - mean) ** 2, log.score_weight[first])
        deviation = jnp.where(variance > 1e-20, jnp.sqrt(jnp.where(variance > 1e-20, variance, 1.0)), 1.0)
        tau = jnp.maximum(jnp.quantile(log.cost[first], config.tau_quantile), 1e-30)
        units = {"mean": mean, "deviation": deviation, "tau": tau}
        stream = Stream(x, log.model, (outcomes - mean) / deviation, log.score_weight)
        penalty = jnp.diag(jnp.append(jnp.full(log.x.shape[1], config.ratio * log.x.shape[1]), 1.0))
        gram = jnp.broadcast_to(penalty, (n_models, *penalty.shape))
        before = Sums(gram, jnp.zeros((n_models, x.shape[1], 2)))
        before = added(before, jax.tree.map(lambda leaf: leaf[first], stream))
        even = even_weights(problem.nuisances.propensity, log.score_weight, config.cap)
        stream = jax.tree.map(lambda leaf: leaf[later], stream._replace(weight=even))

        def at(lam):
            sums, used = replay(stream, before, lambda e, x: decide(e, units, x, lam), rounds=config.rounds)
            return solved(sums), used

        estimates, used = jax.lax.map(at, problem.lambdas)
        return {
            "estimates": estimates._asdict(),
            "used": used,
            "lambdas": problem.lambdas,
            "units": units,
            "scaling": scaling,
        }

    def apply(params, x, lam):
        index = nearest(params["lambdas"], lam)
        estimates = Estimates(**jax.tree.map(lambda leaf: leaf[index], params["estimates"]))
        return decide(estimates, params["units"], jnp.append(scale(params["scaling"], x), 1.0), lam)

    return Method(fit, Policy(apply), config, smooth=False)
