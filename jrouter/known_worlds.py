"""Small worlds of which everything is known: outcome means, propensities, and so the value of any policy.

Queries are uniform on a cube, so that linear means stay between 0 and 1 and a ridge regression is right; the
logging policy is a softmax of linear log-odds, so that a logistic regression is right. A bend, the same function
of the query in both, makes either or both wrong. A hidden coin, which no log holds, can drive both choice and
score, so that no nuisances of the query are enough. What intervals, bounds and diagnostics are checked in.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass

from jrouter.metrics import expected, utility
from jrouter.policy import Policy
from jrouter.types import Array, LoggedData

EDGE = 3.0**0.5
"""Coordinates of queries are uniform in (-EDGE, EDGE): of mean 0 and variance 1."""
REACH = 0.34
"""How far the linear part of a mean score reaches from its level; its standard deviation is REACH / sqrt(3 d)."""
CHEAPEST, PRICE_RATIO, COST_NOISE = 2e-4, 2.0, 0.3


@register_dataclass
@dataclass(frozen=True)
class KnownWorld:
    """Coefficients of a world with T models and d dimensions.

    Attributes:
      level: [T], mean score of each model.
      ability: [T, d], of its score; entries of one size, so that no query leads out of [0, 1].
      price: [T], mean cost of each model.
      length: [d], how cost varies with the query, as a share.
      taste: [T, d], of the logging policy's log-odds.
      outcome_bend: [T], of the score, per standard deviation of the bend.
      choice_bend: [T], of the log-odds, likewise.
      hidden_choice: [T], by how much the hidden coin, -1 or 1, moves the log-odds.
      hidden_outcome: [T], from -1 to 1, by what share of the distance to the nearer of 0 and 1 the coin moves the
        mean score. Over the coin it stays what `mean_outcomes` says.
    """

    level: Array
    ability: Array
    price: Array
    length: Array
    taste: Array
    outcome_bend: Array
    choice_bend: Array
    hidden_choice: Array | float = 0.0
    hidden_outcome: Array | float = 0.0

    @property
    def models(self) -> tuple[str, ...]:
        """Names, by ascending price."""
        return tuple(f"model_{number}" for number in range(self.price.shape[0]))


def make_known_world(
    key: Array,
    *,
    n_models: int = 4,
    dim: int = 6,
    spread: float | Array = 0.7,
    outcome_bend: float | Array = 0.0,
    choice_bend: float | Array = 0.0,
    hidden_choice: float | Array = 0.0,
    hidden_outcome: float | Array = 0.0,
) -> KnownWorld:
    """Draws a world.

    Args:
      key: of its coefficients.
      n_models: T.
      dim: d.
      spread: standard deviation of the linear log-odds over queries: 0.7 is good overlap, 2 poor.
      outcome_bend: how far a linear outcome model is wrong: standard deviation, over queries, of what it misses
        (at most 0.1, for means to stay between 0 and 1).
      choice_bend: how far logistic propensities are wrong, in log-odds.
      hidden_choice: log-odds by which the hidden coin favours every other model, or the others.
      hidden_outcome: from 0 to 1, how much better those models are that it favours: then the logging policy knows
        something that the log does not hold, and every model looks better in it than it is.
    """
    key_ability, key_length, key_taste, key_sign = jax.random.split(key, 4)
    signs = jax.random.rademacher(key_ability, (n_models, dim)).astype(jnp.float32)
    length = 0.2 * jax.random.rademacher(key_length, (dim,)).astype(jnp.float32) / dim**0.5
    taste = jax.random.normal(key_taste, (n_models, dim))
    # The logging policy knows a little of what models are good at, so that x confounds choice and score.
    taste = taste / jnp.linalg.norm(taste, axis=1, keepdims=True) + 0.7 * signs / dim**0.5
    taste = taste / jnp.linalg.norm(taste, axis=1, keepdims=True)
    alternating = jnp.where(jnp.arange(n_models) % 2 == 0, 1.0, -1.0) * jax.random.rademacher(key_sign, ())
    place = jnp.linspace(0.0, 1.0, n_models)
    return KnownWorld(
        level=0.45 + 0.1 * place,
        ability=signs * REACH / (EDGE * dim),
        price=CHEAPEST * PRICE_RATIO ** jnp.arange(n_models),
        length=length,
        taste=spread * taste,
        outcome_bend=outcome_bend * alternating,
        choice_bend=choice_bend * alternating,
        hidden_choice=hidden_choice * alternating,
        hidden_outcome=hidden_outcome * alternating,
    )


def bend(x: Array) -> Array:
    """The function of one query that neither a linear nor a logistic model can follow: mean 0, variance 1.

    >>> bend(jnp.array([1.0, 5.0]))
    Array(0., dtype=float32)
    """
    return (x[0] ** 2 - 1.0) / 0.8**0.5


def mean_outcomes(world: KnownWorld, x: Array) -> tuple[Array, Array]:
    """Mean score [T] and mean cost [T] of one query x [d]."""
    score = world.level + world.ability @ x + world.outcome_bend * bend(x)
    return jnp.clip(score, 0.02, 0.98), world.price * (1.0 + world.length @ x)


def means_given_coin(world: KnownWorld, score: Array, coin: Array) -> Array:
    """Mean scores [T] of one query where the hidden coin is -1 or 1, from those over the coin."""
    return score + coin * world.hidden_outcome * jnp.minimum(score, 1.0 - score)


def log_odds(world: KnownWorld, x: Array) -> Array:
    """Log-odds [T] of the logging policy for one query x [d], up to a constant."""
    return world.taste @ x + world.choice_bend * bend(x)


def hidden_propensities(world: KnownWorld, x: Array) -> Array:
    """[2, T], probabilities of the logging policy for one query x [d], where the hidden coin is -1, and 1."""
    coin = jnp.array([-1.0, 1.0])[:, None]
    return jax.nn.softmax(log_odds(world, x) + coin * world.hidden_choice)


def hidden_gamma(world: KnownWorld, x: Array) -> Array:
    """How strong the hidden confounding is at one query x [d]: the Gamma of Tan's marginal sensitivity model.

    Largest factor, over models and sides of the coin, between the odds of a model given x and the coin and its
    odds given x alone; 1 where the coin drives no choice.
    """
    given = hidden_propensities(world, x)
    rest = 1.0 - given
    odds, marginal = given / rest, given.mean(axis=0) / rest.mean(axis=0)
    return jnp.exp(jnp.abs(jnp.log(odds / marginal)).max())


def draw_known_queries(world: KnownWorld, key: Array, n: int) -> Array:
    """[n, d] queries."""
    return jax.random.uniform(key, (n, world.ability.shape[1]), minval=-EDGE, maxval=EDGE)


def draw_known_log(world: KnownWorld, key: Array, n: int) -> tuple[LoggedData, Array]:
    """A log without propensities, and the true ones given the query. Pure: vmap it over keys.

    Args:
      world: from `make_known_world`.
      key: of queries, choices, outcomes and the hidden coin.
      n: rows.

    Returns:
      The log of n rows, 0/1 scores and log-normal costs around their means; and [n, T], averaged over the coin.
    """
    key_x, key_model, key_score, key_cost = jax.random.split(key, 4)
    x = draw_known_queries(world, key_x, n)
    coin = jax.random.rademacher(jax.random.fold_in(key, 1), (n,)).astype(jnp.float32)
    logits = jax.vmap(lambda x: log_odds(world, x))(x) + coin[:, None] * world.hidden_choice
    model = jax.random.categorical(key_model, logits).astype(jnp.int32)
    score, cost = jax.vmap(lambda x: mean_outcomes(world, x))(x)
    score = jax.vmap(lambda score, coin: means_given_coin(world, score, coin))(score, coin)
    score, cost = (jnp.take_along_axis(mean, model[:, None], axis=1)[:, 0] for mean in (score, cost))
    factor = jnp.exp(COST_NOISE * jax.random.normal(key_cost, (n,)) - COST_NOISE**2 / 2)
    log = LoggedData(
        x=x,
        model=model,
        score=jax.random.bernoulli(key_score, score).astype(jnp.float32),
        cost=cost * factor,
        models=world.models,
    )
    return log, jax.vmap(lambda x: hidden_propensities(world, x).mean(axis=0))(x)


def linear_rule(world: KnownWorld) -> tuple[Policy, Any]:
    """The policy to value, and its params: the best model by the linear parts, made without any log."""

    def apply(params, x, lam):
        return utility(params["level"] + params["ability"] @ x, params["price"] * (1.0 + params["length"] @ x), lam)

    params = {"level": world.level, "ability": world.ability, "price": world.price, "length": world.length}
    return Policy(apply), params


def true_value(
    world: KnownWorld, policy: Policy, params: Any, lambdas: Array, key: Array, *, n: int = 2**22, chunk: int = 2**14
) -> tuple[Array, Array]:
    """Mean score and mean cost of a policy, by averaging what is known over n queries.

    Args:
      world: from `make_known_world`.
      policy: and
      params: its parameters.
      lambdas: [L].
      key: of the queries.
      n: queries; the result errs by about 0.1 / sqrt(n).
      chunk: queries at a time.

    Returns:
      [L] and [L].
    """

    def of_query(x):
        score, cost = mean_outcomes(world, x)
        probability = jax.vmap(lambda lam: policy.probabilities(params, x, lam))(lambdas)
        both = jnp.stack([score, cost])
        return jax.vmap(lambda one: jax.vmap(lambda values: expected(one, values))(both))(probability)

    def of_chunk(key):
        return jax.vmap(of_query)(draw_known_queries(world, key, chunk)).mean(axis=0)

    found = jax.lax.map(of_chunk, jax.random.split(key, -(-n // chunk))).mean(axis=0)
    return found[:, 0], found[:, 1]
