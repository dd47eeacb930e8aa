"""Programs of `assumptions.py`: from the logs of a cell, S of them stacked, to one number a log.

Analyses of one fixed policy, learners judged by known truth, and checks. Pure functions of arrays, to be jitted.
"""

from typing import Any

import jax
import jax.numpy as jnp
import sessions
from violations import FAMILIES, LAM, RULE, mixed_utility

from jrouter.inference import influence_error
from jrouter.jackknife import influence
from jrouter.known_worlds import KnownWorld
from jrouter.losses import pinsker_regret_bound, total_variation_regret_bound
from jrouter.methods import METHODS
from jrouter.metrics import utility
from jrouter.nuisances import propensity, ridge
from jrouter.nuisances.crossfit import NuisanceConfig, cross_fitted_propensity, fit_nuisances
from jrouter.off_policy import value_estimate
from jrouter.policy import Policy, Problem, evaluate
from jrouter.splits import Split
from jrouter.types import Array, BenchmarkTable, LoggedData
from jrouter.weighted import weighted_mean

ESTIMATORS = ("dr", "direct", "ips")
RM = "rm_classification_cost_weighted"
BLOCKS = 4
"""Of time, in the check for drift."""
LIGHT = {
    "outcome": {"light_ridge": lambda: ridge.ridge(((float("inf"), 0.3),))},
    "propensity": {"light_logistic": lambda: propensity.logistic((3e-3,), iterations=15)},
}
"""Ridge and logistic regression with one weak penalty each: little biased by it, and fitted once a fold."""
KEY = jax.random.key(3)
"""Of nuisances and learners."""
THOUSAND = 1_000.0
"""So many costs weigh about as much as a score."""


def values_of_logs(
    logs: LoggedData, split: Split, params: Any, *, policy: Policy, config: NuisanceConfig
) -> tuple[Array, Array]:
    """Values [S, 3] and errors [S, 3] of a fixed policy by `ESTIMATORS`: what `fixed_policy_value` says of each.

    In one program, whose nuisances are fitted and differentiated once.
    """
    lambdas = jnp.array([LAM])

    def of_log(log):
        values = value_estimate(KEY, log, split, policy, params, lambdas, nuisances=config)

        def estimate(log):
            found = values(log, ESTIMATORS)[..., 0]
            return utility(found[:, 0], found[:, 1], LAM)

        value, moved = influence(log, estimate)
        return value, influence_error(moved, group=log.group)

    return jax.lax.map(of_log, logs)


def two_values(logs: LoggedData, split: Split, params: Any, *, config: NuisanceConfig) -> tuple[Array, Array]:
    """Doubly robust mean score and mean of `THOUSAND` costs of `RULE`, [S, 2], and their covariances [S, 2, 2]."""

    def of_log(log):
        values = value_estimate(KEY, log, split, RULE, params, jnp.array([LAM]), nuisances=config)
        units = jnp.array([1.0, THOUSAND])
        value, moved = influence(log, lambda log: units * values(log, ("dr",))[0, :, 0])
        return value, moved @ moved.T

    return jax.lax.map(of_log, logs)


def predicted_value(
    logs: LoggedData, split: Split, params: Any, family: Array, strength: Array, *, config: NuisanceConfig
) -> tuple[Array, Array]:
    """Utility of `RULE` from each query's predicted score and cost, [S], and its error by the jackknife."""

    def of_log(log):
        choice = jax.vmap(lambda x: RULE.probabilities(params, x, LAM))(log.x)

        def estimate(log):
            fitted = fit_nuisances(KEY, log, split, config)
            predicted = (choice * fitted.score).sum(axis=1), (choice * fitted.cost).sum(axis=1)
            return weighted_mean(utility_of(family, *predicted, strength), log.weight)

        value, moved = influence(log, estimate)
        return value, influence_error(moved, group=log.group)

    return jax.lax.map(of_log, logs)


def utility_of(family: Array, score: Array, cost: Array, strength: Array) -> Array:
    """Utility by the number of its family; costs are at least 0, which predicted ones may not be."""
    cost = jnp.maximum(cost, 0.0)
    every = [mixed_utility(name)(score, cost, strength) for name in FAMILIES]
    return jnp.stack(every)[family]


def learn(
    logs: LoggedData, split: Split, test: BenchmarkTable, *, method: str, config: NuisanceConfig
) -> tuple[Array, Array]:
    """True utility and regret [S] of a learner's router."""
    learner = METHODS[method]()

    def of_log(log):
        problem = Problem(log, split, fit_nuisances(KEY, log, split, config), jnp.array([LAM]))
        outcomes = evaluate(learner.policy, learner.fit(KEY, problem), test, problem.lambdas)[0]
        return outcomes.utility.mean(), outcomes.regret.mean()

    return jax.lax.map(of_log, logs)


def learn_apart(
    logs: LoggedData,
    split: Split,
    test: BenchmarkTable,
    family: Array,
    strength: Array,
    *,
    method: str,
    config: NuisanceConfig,
) -> tuple[Array, Array]:
    """True utility and regret [S] where score and cost are learned, and utility is made of what was learned."""
    learner = METHODS[method]()

    def apply(params, x, lam):
        score, less = (learner.policy.apply(params, x, at) for at in (0.0, THOUSAND))
        return utility_of(family, score, (score - less) / THOUSAND, strength)

    def of_log(log):
        problem = Problem(log, split, fit_nuisances(KEY, log, split, config), jnp.array([LAM]))
        outcomes = evaluate(Policy(apply), learner.fit(KEY, problem), test, problem.lambdas)[0]
        return outcomes.utility.mean(), outcomes.regret.mean()

    return jax.lax.map(of_log, logs)


def bounds_of(logits: Array, worth: Array, lipschitz: Array) -> dict[str, Array]:
    """On one query, regret of the router that draws from softmax(logits), and what bounds it.

    Args:
      logits: [T].
      worth: [T], utilities.
      lipschitz: L of Pinsker's bound.
    """
    log_probability = jax.nn.log_softmax(logits)
    best = jnp.argmax(worth)
    cross_entropy = -log_probability[best]
    regret = worth[best] - jnp.exp(log_probability) @ worth
    found = {
        "pinsker": pinsker_regret_bound(cross_entropy, lipschitz=lipschitz),
        "exact": total_variation_regret_bound(cross_entropy, utility_range=2 * lipschitz),
    }
    broken = {f"{name} broken": regret > bound + 1e-5 for name, bound in found.items()}
    return {"regret": regret, **found, **broken}


def learn_and_bound(
    logs: LoggedData, split: Split, test: BenchmarkTable, smooth: Array, *, config: NuisanceConfig
) -> tuple[tuple[Array, Array], dict[str, dict[str, Array]]]:
    """`learn` for `RM`, and the bounds of its randomised router, means over queries.

    L is half the range of a query's utilities: of the mean ones, of the mean ones without the jump (`smooth`,
    [n, T]), and of the realised ones.
    """
    learner = METHODS[RM]()

    def half_range(worth):
        return (worth.max() - worth.min()) / 2

    def of_log(log):
        problem = Problem(log, split, fit_nuisances(KEY, log, split, config), jnp.array([LAM]))
        params = learner.fit(KEY, problem)
        outcomes = evaluate(learner.policy, params, test, problem.lambdas)[0]

        def of_query(x, mean, drawn, smooth):
            logits = learner.policy.apply(params, x, LAM)
            return {
                "right L": bounds_of(logits, mean, half_range(mean)),
                "L without the jump": bounds_of(logits, mean, half_range(smooth)),
                "realised outcomes": bounds_of(logits, drawn, half_range(drawn)),
            }

        mean, drawn = (utility(*pair, LAM) for pair in ((test.true_score, test.true_cost), (test.score, test.cost)))
        bounds = jax.vmap(of_query)(test.x, mean, drawn, smooth)
        return (outcomes.utility.mean(), outcomes.regret.mean()), jax.tree.map(lambda part: part.mean(), bounds)

    return jax.lax.map(of_log, logs)


def pair_logs(found: sessions.Sessions, split: Split, *, config: NuisanceConfig) -> LoggedData:
    """Logs of pairs of turns, their probabilities from a cross-fitted propensity model."""

    def of_log(one):
        every = cross_fitted_propensity(KEY, one.log, split, config)[1]
        assert every is not None
        return sessions.pair_log(one, every)

    return jax.lax.map(of_log, found)


def learn_and_deploy(
    logs: LoggedData, split: Split, loss: Array, world: KnownWorld, *, method: str, config: NuisanceConfig
) -> Array:
    """True utility [S] of a learner's router that answers whole sessions, simulated.

    It reads as many coordinates of (x, who answered the turn before) as the queries of the log have.
    """
    learner, size = METHODS[method](), logs.x.shape[-1]

    def of_log(log):
        problem = Problem(log, split, fit_nuisances(KEY, log, split, config), jnp.array([LAM]))
        params = learner.fit(KEY, problem)
        return sessions.deployed_utility(
            world, jax.random.key(9), lambda x: learner.policy.apply(params, x[:size], LAM), loss, sessions=300
        )

    return jax.lax.map(of_log, logs)


def estimated_ratio(x: Array, later: Array) -> Array:
    """[S, n], density of later queries [S, m, d] over that of the log's [S, n, d], by logistic regression."""
    family = LIGHT["propensity"]["light_logistic"]()

    def of_log(pair):
        both, n = jnp.concatenate(pair), pair[0].shape[0]
        is_later = (jnp.arange(both.shape[0]) >= n).astype(jnp.int32)
        ones = jnp.ones((both.shape[0], 2), bool)
        choices = propensity.Choices(both, is_later, ones)
        params = family.fit(KEY, choices, jnp.ones(both.shape[0]), 1e-4)
        odds = jax.vmap(lambda x: family.log_odds(params, x))(pair[0])
        ratio = jnp.exp(odds[:, 1] - odds[:, 0])
        return ratio / ratio.mean()

    return jax.lax.map(of_log, (x, later))


def block_statistics(logs: LoggedData, split: Split, *, config: NuisanceConfig) -> Array:
    """[S, T], how far mean residuals of a model's score differ between blocks of time; chi^2 of BLOCKS - 1 without
    drift.

        sum_b n_b (mean_b - mean)^2 / s^2,   residuals y - r_t(x) by a cross-fitted outcome model
    """

    def of_log(log):
        fitted = fit_nuisances(KEY, log, split, config).score
        residual = log.score - jnp.take_along_axis(fitted, log.model[:, None], axis=1)[:, 0]
        block = jnp.minimum((log.time * BLOCKS).astype(jnp.int32), BLOCKS - 1)

        def of_model(model):
            mine = (log.model == model).astype(jnp.float32)
            rows = jnp.zeros(BLOCKS).at[block].add(mine)
            totals = jnp.zeros(BLOCKS).at[block].add(mine * residual)
            mean = totals.sum() / mine.sum()
            variance = (mine * (residual - mean) ** 2).sum() / (mine.sum() - 1)
            return (rows * (totals / jnp.maximum(rows, 1.0) - mean) ** 2).sum() / variance

        return jax.vmap(of_model)(jnp.arange(len(log.models)))

    return jax.lax.map(of_log, logs)
