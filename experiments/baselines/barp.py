"""barp: one network conditioned on the preference, trained by policy gradient on the answers that were logged.

    maximise  sum_i sum_w  min(1 / p_i, cap) * pi(t_i | x_i, w) * (r_i(w) - b(w)) + beta * entropy(pi)
    r(w) = w_score * score - w_cost * min(cost / tau, 1),    w_score + w_cost = 1

Its gradient is REINFORCE's, pi / p * (r - b) * grad log pi: what an action that the router would have drawn taught
online, a logged one teaches at its weight.

Source: Wei et al. (2025), Learning to route LLMs from bandit feedback, BaRP, arXiv 2510.07429 (policy over [query,
preference], reward, REINFORCE with entropy). LLM Bandit, also one policy conditioned on preference: `llm_bandit`.

Adaptation: BaRP draws an action from its present policy and looks its outcome up in a full table. A log answers for
the logged action only, so each row is weighted by 1 / propensity, capped. What that can show: where the policy that
it ends with lies, if every model had its share of every kind of query. What it cannot: that it explores, since it sees
rows of the old policy however it has changed; where the cap binds, those rows count too little.
lambda = w_cost / (w_score * tau), so one network answers any lambda.
Deviations: preferences on a grid, all for each row, in place of one drawn; b(w) is the log's mean reward; tau is a
quantile of costs; epochs are chosen by the validation rows; decides by the highest probability.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from baselines.carrot_convex import mu_of
from jrouter.features import fit_scaling, scale
from jrouter.networks import RouterNetwork, head_width, run
from jrouter.policy import Method, Policy
from jrouter.train import Hyper, Rows, TrainConfig, make_train, train_keys
from jrouter.types import Array
from jrouter.weighted import weighted_mean

_PREFERENCE_WIDTH = 16


@dataclass(frozen=True)
class BarpConfig:
    """Network, training, preferences on the grid, entropy's weight, the cap of 1 / p, and tau's quantile of costs."""

    hidden: tuple[int, ...] = (200,)
    epochs: int = 30
    batch_size: int = 256
    learning_rate: float = 3e-3
    preferences: int = 9
    entropy: float = 0.01
    cap: float = 20.0
    tau_quantile: float = 0.95


def preference_logits(params: dict[str, Any], x: Array, w_cost: Array, config: BarpConfig) -> Array:
    """[T], of one scaled query [d] at one preference."""
    weights = jnp.stack([1.0 - w_cost, w_cost])
    preference = run(RouterNetwork(_PREFERENCE_WIDTH, (_PREFERENCE_WIDTH,)), params["preference"], weights)
    network = RouterNetwork(head_width(params["head"]), config.hidden)
    return run(network, params["head"], jnp.concatenate([x, preference]))


def row_objective(logits: Array, model: Array, weight: Array, advantage: Array, entropy: float) -> Array:
    """What one row at one preference adds: weight * pi(model) * advantage + entropy * H(pi).

    >>> row_objective(jnp.zeros(2), jnp.array(0), jnp.array(4.), jnp.array(.5), 0.)
    Array(1., dtype=float32)
    """
    log_probability = jax.nn.log_softmax(logits)
    probability = jnp.exp(log_probability)
    return weight * probability[model] * advantage - entropy * (probability * log_probability).sum()


def start_networks(key: Array, dim: int, width: int, config: BarpConfig) -> dict[str, Any]:
    """Parameters for `preference_logits` of `width` outputs on queries [dim], before training."""
    keys = jax.random.split(key)
    preference = RouterNetwork(_PREFERENCE_WIDTH, (_PREFERENCE_WIDTH,)).init(keys[0], jnp.zeros(2))
    return {
        # Its own head starts near 0, where a router should, and an encoder should not.
        "preference": jax.tree.map(lambda leaf: 10.0 * leaf, preference),
        "head": RouterNetwork(width, config.hidden).init(keys[1], jnp.zeros(dim + _PREFERENCE_WIDTH)),
    }


def reward(score: Array, cost: Array, w_cost: Array, tau: Array) -> Array:
    """(1 - w_cost) * score - w_cost * min(cost / tau, 1), elementwise."""
    return (1.0 - w_cost) * score - w_cost * jnp.minimum(cost / tau, 1.0)


def barp(config: BarpConfig = BarpConfig()) -> Method:
    """A preference-conditioned policy, by weighted policy gradient."""

    def fit(key, problem):
        log, split = problem.log, problem.split
        scaling = fit_scaling(log.x, log.weight)
        tau = jnp.maximum(jnp.quantile(log.cost, config.tau_quantile), 1e-30)
        grid = jnp.linspace(0.0, 1.0, config.preferences)
        rewards = reward(log.score[:, None], log.cost[:, None], grid, tau)
        advantage = rewards - weighted_mean(rewards, log.score_weight)
        inverse = jnp.minimum(1.0 / jnp.maximum(problem.nuisances.propensity, 1e-30), config.cap)
        examples = scale(scaling, log.x), log.model, inverse, advantage

        def start(key):
            return start_networks(key, log.x.shape[1], len(log.models), config)

        def loss(params, example, setting):
            x, model, weight, advantage = example
            logits = jax.vmap(lambda w_cost: preference_logits(params, x, w_cost, config))(grid)
            of_row = jax.vmap(row_objective, in_axes=(0, None, None, 0, None))
            return -of_row(logits, model, weight, advantage, config.entropy).mean()

        def rows(index, padding):
            return Rows(jax.tree.map(lambda leaf: leaf[index], examples), log.score_weight[index] * padding)

        train = make_train(start, loss, TrainConfig(config.epochs, config.batch_size, min_batches=16))
        sides = rows(split.train, split.train_weight), rows(split.valid, split.valid_weight)
        params = train(train_keys(key), sides[0], None, Hyper(config.learning_rate), sides[1])[0]
        return {"networks": params, "tau": tau, "scaling": scaling}

    def apply(params, x, lam):
        w_cost = mu_of(lam, params["tau"])
        return preference_logits(params["networks"], scale(params["scaling"], x), w_cost, config)

    return Method(fit, Policy(apply), config)
