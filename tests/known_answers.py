"""What models answer in a known world, each row's model drawn by a softmax over those that it was allowed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jrouter.known_worlds import COST_NOISE, KnownWorld, log_odds, mean_outcomes
from jrouter.metrics import masked
from jrouter.types import Array


class Answers(NamedTuple):
    """Of n rows: who answered, 0/1 score and cost of the answer, and p(t | x, A) of who answered."""

    model: Array
    score: Array
    cost: Array
    propensity: Array


def draw_answers(world: KnownWorld, keys: tuple[Array, Array, Array], x: Array, allowed: Array | None) -> Answers:
    """Answers to x [n, d]; `keys` of model, score and cost, `allowed` [n, T] or None for all."""
    key_model, key_score, key_cost = keys
    logits = jax.vmap(lambda x: log_odds(world, x))(x)
    logits = logits if allowed is None else masked(logits, allowed)
    model = jax.random.categorical(key_model, logits).astype(jnp.int32)
    means = (*jax.vmap(lambda x: mean_outcomes(world, x))(x), jax.nn.softmax(logits))
    score, cost, chosen = (jnp.take_along_axis(part, model[:, None], axis=1)[:, 0] for part in means)
    score = jax.random.bernoulli(key_score, score).astype(jnp.float32)
    cost = cost * jnp.exp(COST_NOISE * jax.random.normal(key_cost, model.shape) - COST_NOISE**2 / 2)
    return Answers(model, score, cost, chosen)
