"""pilot: LinUCB that starts from preferences between models, in a space of queries and models, replayed on the log.

    preferences   P(t beats s on x) = sigmoid(psi(x) . (theta_t - theta_s)),    psi(x) = W x / |W x|
    bandit        A_t = prior I,  b_t = prior g theta_t;  then A_t += psi psi', b_t += (score - level) psi of its rows
    choose        argmax_t  level + psi(x)' A_t^-1 b_t + width sqrt(psi(x)' A_t^-1 psi(x)) - lambda * cost_t

W [k, d] and theta_t [k] are learnt from the preferences together; cost_t is the model's mean.

Source: Panda, Magazine, Devaguptapu, Takemori & Sharma (2025), Adaptive LLM routing under budget constraints, arXiv
2508.21141: queries projected, models embedded, both from human preferences; LinUCB with that prior on the cosine of
the two; a budget spent by an online multi-choice knapsack. No code of theirs was found; the equations are our reading.

Adaptation: their preferences are people's, between two answers to ONE query. No log has those. Here each row of the
first `offline` share is compared with its nearest rows that ANOTHER model answered, and the higher score wins (half a
win for a tie, part of one for graded scores). The two queries are only alike: where the other was harder, its model
loses for that, so the prior is no better than neighbours are, and knows no more than those rows' scores do. What their
prior brings from outside, which is the point of it, cannot be had from a log.
Pairs are not weighted by propensities: given like queries, who answered says nothing about who wins.
The rest of the log is the stream, replayed by rows that match, at each lambda by itself (what that shows and what it
cannot is said in `replay.py`): the budget is lambda, no horizon and no knapsack. At the end the bound is still added,
as their system would go on to explore.
Deviations: W and theta in one fit, not first W by triplets and then theta; models of any length, as the length says how
far apart they are; log-odds become scores by one gain g and one level, by least squares on the first part; learning is
in rounds; the nearest lambda replayed answers for others.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from baselines.pairs import win_labels
from baselines.replay import Estimates, Stream, Sums, even_weights, replay, solved, split_in_time
from jrouter.chunks import map_rows
from jrouter.features import fit_scaling, scale
from jrouter.interval import nearest
from jrouter.nuisances.neighbours import nearness_offset
from jrouter.policy import Method, Policy
from jrouter.train import Hyper, Rows, TrainConfig, make_train, train_keys
from jrouter.types import Array, LoggedData
from jrouter.weighted import model_means, weighted_mean


@dataclass(frozen=True)
class PilotConfig:
    """Width of the space, share of rows before replay, pairs a row, training, prior (in rows), bound; rounds, cap."""

    rank: int = 16
    offline: float = 0.5
    neighbours: int = 20
    epochs: int = 20
    weight_decay: float = 3.0
    prior: float = 50.0
    width: float = 0.1
    rounds: int = 16
    cap: float = 20.0


def preference_pairs(x: Array, log: LoggedData, *, neighbours: int) -> tuple[Array, Array]:
    """Of each row [m], its nearest rows that another model answered: indices [m, k], and the pairs' weights [m, k].

    >>> rows = LoggedData(jnp.zeros((4, 1)), jnp.array([0, 0, 1, 1]), jnp.ones(4), jnp.ones(4))
    >>> preference_pairs(jnp.array([[0.], [1.], [2.], [9.]]), rows, neighbours=1)[0].T
    Array([[2, 2, 1, 1]], dtype=int32)
    """
    offset = nearness_offset(x, log.score_weight)

    def of_row(row):
        x_i, model, weight = row
        likeness = x_i @ x.T + jnp.where(log.model == model, -1e30, offset)
        # Where no other model answered, what is found weighs nothing.
        found, place = jax.lax.top_k(likeness, min(neighbours, x.shape[0]))
        return place, weight * log.score_weight[place] * (found > -1e29)

    return map_rows(of_row, (x, log.model, log.score_weight))


def position(params: dict[str, Array], x: Array) -> Array:
    """psi [k] of one scaled query [d], of length 1; a constant 1 goes along, since embeddings are centred."""
    projected = params["projection"] @ jnp.append(x, 1.0)
    return projected / jnp.sqrt(jnp.maximum(jnp.square(projected).sum(), 1e-12))


def learn_preferences(key: Array, x: Array, log: LoggedData, n_models: int, config: PilotConfig) -> dict[str, Array]:
    """Projection [k, d + 1] and models [T, k], from pairs of the rows x [m, d] of a log."""
    place, weight = preference_pairs(x, log, neighbours=config.neighbours)
    scores = jnp.stack(jnp.broadcast_arrays(log.score[place], log.score[:, None]), axis=-1)
    won = win_labels(scores.reshape(-1, 2))[:, 0]
    rows = jnp.repeat(jnp.arange(x.shape[0]), place.shape[1])

    def start(key):
        keys = jax.random.split(key)
        dim = x.shape[1] + 1
        return {
            "projection": jax.random.normal(keys[0], (config.rank, dim)) / jnp.sqrt(dim),
            "models": 0.1 * jax.random.normal(keys[1], (n_models, config.rank)),
        }

    def loss(params, example, setting):
        row, mine, other, won = example
        log_odds = position(params, x[row]) @ (params["models"][mine] - params["models"][other])
        return jax.nn.softplus(log_odds) - won * log_odds

    train = make_train(start, loss, TrainConfig(config.epochs, 256, min_batches=16))
    # Of a row its place, not its embedding, once for each of its pairs.
    examples = rows, log.model[rows], log.model[place.reshape(-1)], won
    return train(train_keys(key), Rows(examples, weight.reshape(-1)), None, Hyper(1e-2, config.weight_decay))[0]


def scores_of_odds(odds: Array, score: Array, weight: Array) -> tuple[Array, Array]:
    """Level and gain of score = level + gain * odds, by weighted least squares; no gain where odds are all one.

    >>> scores_of_odds(jnp.array([0., 1.]), jnp.array([.5, .75]), jnp.ones(2))
    (Array(0.5, dtype=float32), Array(0.25, dtype=float32))
    """
    mean_odds, mean_score = weighted_mean(odds, weight), weighted_mean(score, weight)
    variance = weighted_mean((odds - mean_odds) ** 2, weight)
    covariance = weighted_mean((odds - mean_odds) * (score - mean_score), weight)
    # What loses where it should win is no preference.
    gain = jnp.maximum(jnp.where(variance > 1e-12, covariance / jnp.where(variance > 1e-12, variance, 1.0), 0.0), 0.0)
    return mean_score - gain * mean_odds, gain


def pilot(config: PilotConfig = PilotConfig()) -> Method:
    """The bound of the bandit that was replayed at the nearest lambda."""

    def bound(estimates: Estimates, params: dict[str, Any], psi: Array, lam: Array) -> Array:
        score = params["level"] + estimates.predicted(psi)[0]
        return score + config.width * estimates.uncertainty(psi) - lam * params["cost"]

    def fit(key, problem):
        log, n_models = problem.log, len(problem.log.models)
        scaling = fit_scaling(log.x, log.weight)
        x = scale(scaling, log.x)
        first, later = split_in_time(log, config.offline)
        before = jax.tree.map(lambda leaf: leaf[first], log)
        learnt = learn_preferences(key, x[first], before, n_models, config)
        psi = map_rows(lambda x: position(learnt, x), x)
        odds = (psi[first] * learnt["models"][before.model]).sum(axis=1)
        level, gain = scores_of_odds(odds, before.score, before.score_weight)
        cost = model_means(log.cost, log.model, log.weight, n_models=n_models)
        cost = jnp.nan_to_num(cost, nan=weighted_mean(log.cost, log.weight))
        params = {"level": level, "cost": cost}
        even = even_weights(problem.nuisances.propensity, log.score_weight, config.cap)
        stream = Stream(psi, log.model, (log.score - level)[:, None], even)
        stream = jax.tree.map(lambda leaf: leaf[later], stream)
        gram = jnp.broadcast_to(config.prior * jnp.eye(config.rank), (n_models, config.rank, config.rank))
        start = Sums(gram, (config.prior * gain * learnt["models"])[:, :, None])

        def at(lam):
            sums, used = replay(stream, start, lambda e, psi: bound(e, params, psi, lam), rounds=config.rounds)
            return solved(sums), used

        estimates, used = jax.lax.map(at, problem.lambdas)
        return params | {
            "learnt": learnt,
            "gain": gain,
            "estimates": estimates._asdict(),
            "used": used,
            "lambdas": problem.lambdas,
            "scaling": scaling,
        }

    def apply(params, x, lam):
        index = nearest(params["lambdas"], lam)
        estimates = Estimates(**jax.tree.map(lambda leaf: leaf[index], params["estimates"]))
        return bound(estimates, params, position(params["learnt"], scale(params["scaling"], x)), lam)

    return Method(fit, Policy(apply), config, smooth=False)
