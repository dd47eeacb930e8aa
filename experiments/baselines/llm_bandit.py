"""llm_bandit: one policy of the query, the preference and a vector of each model, by clipped policy steps on the log.

    pi(t | x, w) = softmax_t  E(I_t) . F(x, w)                       I_t: identity vector, E and F: networks
    each round   maximise  sum_i sum_w  q_i min(rho A, clip(rho, 1 - eps, 1 + eps) A) + beta * entropy(pi)
    rho = pi(t_i | x_i, w) / old(t_i | x_i, w),   q_i = old(t_i | x_i, w) * min(1 / p_i, cap),   A = r_i(w) - V(x_i, w)

old is the policy at the start of the round, V(x, w) = sum_t old(t | x, w) * predicted r_t(w), r as in `barp`.
No weight belongs to a model: all that is known of t is I_t, and a new one is a new vector (`with_model`).

Source: Li (2025), LLM Bandit: Cost-efficient LLM generation via preference-conditioned dynamic routing, arXiv
2502.02743: identity vectors by a variational item response model, a preference-conditioned policy on query and vectors
that may be of any number, PPO, a new model added by its answers to 20 to 50 prompts. No code of theirs was found; the
equations are our reading.

Adaptation: their vectors are of models that answered every prompt of benchmarks, and their policy draws an action from
itself and looks it up. Here I_t is the model's row in a low-rank factorisation of the log's outcomes
(`matrix_factorisation`: score and cost on x), with its mean score and cost; and a row of another policy's choice
stands for a draw of ours at weight old / p, capped. Without the clip this is barp's objective; with it a round pays for
moves by eps only, so that few rows at large weights carry the policy away less. The factorisation's predictions are
the critic V, which moves no expectation where no weight is capped. What this can show: where such steps lead. What it
cannot: that it explores, since every round sees the same rows, however the policy has changed.
lambda = w_cost / (w_score * tau) as in barp, so one network answers any lambda.
Deviations from the paper: no set transformer, models do not see each other; no pretraining on pairs of models; least
squares, not a variational item response model; preferences on a grid; the round is chosen by the validation rows'
weighted reward; decides by the highest probability.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from baselines.barp import BarpConfig, preference_logits, reward, start_networks
from baselines.carrot_convex import mu_of
from baselines.matrix_factorisation import FactorisationConfig, factors
from jrouter.chunks import map_rows
from jrouter.features import fit_scaling, scale
from jrouter.networks import RouterNetwork, run
from jrouter.nuisances.outcome import outcomes_of
from jrouter.policy import Method, Policy
from jrouter.train import Hyper, Rows, TrainConfig, make_train, train_keys
from jrouter.types import Array
from jrouter.weighted import weighted_mean


@dataclass(frozen=True)
class LlmBanditConfig(BarpConfig):
    """`BarpConfig`, of which `epochs` are of a round; rounds, the clip's eps, rank of identities, width of E and F."""

    epochs: int = 4
    rounds: int = 8
    clip: float = 0.2
    rank: int = 4
    width: int = 32


def clipped(probability: Array, old: Array, advantage: Array, clip: float) -> Array:
    """old * min(rho A, clip(rho, 1 - eps, 1 + eps) A), rho = probability / old, of one action at one preference.

    Source: Schulman, Wolski, Dhariwal, Radford & Klimov (2017), Proximal policy optimization, arXiv 1707.06347, eq. 7.

    >>> [float(clipped(jnp.array(.8), jnp.array(.5), a, .2)) for a in (1., -1.)]  # .8 is too far only where it pays
    [0.6000000238418579, -0.800000011920929]
    """
    # Multiplied out, nothing is divided by: an old probability may be 0.
    near = jnp.clip(probability, (1.0 - clip) * old, (1.0 + clip) * old)
    return jnp.minimum(probability * advantage, near * advantage)


def identities(vectors: Array, mean: Array) -> Array:
    """[T, 2 rank + 2], each model's vectors [2, T, rank] and means [2, T] in units of their spread over models.

    >>> identities(jnp.ones((2, 2, 1)), jnp.array([[0., 2.], [3., 3.]]))  # alike but for their mean scores
    Array([[ 0.,  0., -1.,  0.],
           [ 0.,  0.,  1.,  0.]], dtype=float32)
    """
    vectors = jnp.concatenate([*vectors, mean.T], axis=1)
    centred = vectors - vectors.mean(axis=0)
    spread = jnp.sqrt(jnp.square(centred).mean(axis=0))
    return jnp.where(spread > 1e-12, centred / jnp.where(spread > 1e-12, spread, 1.0), 0.0)


def with_model(params: dict[str, Any], identity: Array) -> dict[str, Any]:
    """Params for one more model, last, by its vector [2 rank + 2] in the units of the others; nothing is trained."""
    return params | {"identities": jnp.concatenate([params["identities"], identity[None]])}


def model_logits(params: dict[str, Any], identity: Array, x: Array, w_cost: Array, config: LlmBanditConfig) -> Array:
    """[T], of one scaled query [d] at one preference, by the models' vectors [T, 2 rank + 2]."""
    network = RouterNetwork(config.width, (config.width,))
    models = jax.vmap(lambda one: run(network, params["identity"], one))(identity)
    return models @ preference_logits(params, x, w_cost, config) / jnp.sqrt(config.width)


def llm_bandit(config: LlmBanditConfig = LlmBanditConfig()) -> Method:
    """A preference-conditioned policy over identity vectors, by rounds of clipped steps."""
    family = factors(FactorisationConfig(config.rank))

    def fit(key, problem):
        log, split = problem.log, problem.split
        key_factors, key_start, key_rounds = jax.random.split(key, 3)
        scaling = fit_scaling(log.x, log.weight)
        x = scale(scaling, log.x)
        outcomes, units = outcomes_of(log, x, log.weight)
        factorisation = family.solve(family.prepare(key_factors, outcomes, len(log.models), split.model_size), 1.0)
        predicted = units.mean + units.deviation * map_rows(lambda x: family.predict(factorisation, x), x)
        # One factorisation for score and one for cost, here the same.
        identity = identities(factorisation["models"][0], units.mean)
        tau = jnp.maximum(jnp.quantile(log.cost, config.tau_quantile), 1e-30)
        grid = jnp.linspace(0.0, 1.0, config.preferences)
        rewards = reward(log.score[:, None], log.cost[:, None], grid, tau)
        inverse = jnp.minimum(1.0 / jnp.maximum(problem.nuisances.propensity, 1e-30), config.cap)

        def logits_of(params, x):
            """[P, T], of one query at every preference."""
            return jax.vmap(lambda w_cost: model_logits(params, identity, x, w_cost, config))(grid)

        def old_values(params):
            """Probabilities of the logged models, and V, of all rows: [n, P] each."""

            def of_row(row):
                x, model, predicted = row
                old = jax.nn.softmax(logits_of(params, x))
                of_models = reward(predicted[0], predicted[1], grid[:, None], tau)
                return old[:, model], (old * of_models).sum(axis=1)

            return map_rows(of_row, (x, log.model, predicted))

        def loss(params, example, setting):
            x, model, weight, old, advantage = example
            log_probability = jax.nn.log_softmax(logits_of(params, x))
            probability = jnp.exp(log_probability)
            gain = clipped(probability[:, model], old, advantage, config.clip)
            entropy = -(probability * log_probability).sum(axis=1)
            return -(weight * gain + config.entropy * entropy).mean()

        def worth(old):
            """The validation rows' weighted reward of a policy [n, P], less the mean reward at each preference."""
            values = (inverse[:, None] * old * (rewards - weighted_mean(rewards, log.score_weight))).mean(axis=1)
            return weighted_mean(values[split.valid], log.score_weight[split.valid] * split.valid_weight)

        def one_round(state, key):
            params, best, most = state
            old, value = old_values(params)
            now = worth(old)
            best = jax.tree.map(lambda new, former: jnp.where(now > most, new, former), params, best)
            examples = x, log.model, inverse, old, rewards - value
            examples = jax.tree.map(lambda leaf: leaf[split.train], examples)
            train = make_train(lambda _: params, loss, TrainConfig(config.epochs, config.batch_size, min_batches=16))
            weighted = Rows(examples, log.score_weight[split.train] * split.train_weight)
            params = train(train_keys(key), weighted, None, Hyper(config.learning_rate))[0]
            return (params, best, jnp.maximum(now, most)), now

        keys = jax.random.split(key_start)
        # The vectors' head is no router's, and starts further from 0.
        network = RouterNetwork(config.width, (config.width,)).init(keys[1], identity[0])
        start = start_networks(keys[0], log.x.shape[1], config.width, config)
        start |= {"identity": jax.tree.map(lambda leaf: 10.0 * leaf, network)}
        # Of the last round's policy nothing is known but by one round more, which looks at it and trains in vain.
        keys = jax.random.split(key_rounds, config.rounds + 1)
        (_, best, _), by_round = jax.lax.scan(one_round, (start, start, -jnp.inf), keys)
        return {
            "networks": best,
            "identities": identity,
            "tau": tau,
            "scaling": scaling,
            "worth": by_round,
        }

    def apply(params, x, lam):
        scaled, w_cost = scale(params["scaling"], x), mu_of(lam, params["tau"])
        return model_logits(params["networks"], params["identities"], scaled, w_cost, config)

    return Method(fit, Policy(apply), config)
