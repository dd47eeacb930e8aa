"""Synthetic benchmarks: worlds in which the mean score and cost of every model is known.

A world is drawn once per (regime, d, T); queries are drawn from it. Embeddings have a low-rank part,
which carries the signal, and noise. Prices span two orders of magnitude and better models tend to be
dearer. The regimes' numbers were fixed before any method was run on them.
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass

from jrouter.types import Array, BenchmarkTable

LATENT = 24
"""Rank of the part of an embedding that carries signal (at most d)."""

CHEAPEST, PRICE_SPAN = 3e-5, 100.0
"""USD per average query of the cheapest model, and how much dearer the dearest is."""


@dataclass(frozen=True)
class Regime:
    """What kind of world.

    Attributes:
      truth: "linear": score and cost are linear in the query (clipped at the ends);
        "nonlinear": they bend and interact; "specialists": topics, each model best in one.
      difficulty: size of what is common to all models' mean scores: its standard deviation over
        queries, where the truth is linear.
      specialisation: size of what is each model's own, likewise; for specialists, how much better a
        model is on its topic.
      quality_gap: mean score of the best model less that of the worst, about (models are jittered).
      cost_noise: sigma of the log-normal factor (mean 1) between mean and realised cost.
      dominated: one more model that is dearest and worst everywhere.
      graded: scores are Beta-distributed in [0, 1] instead of 0/1.
      logging_spread: standard deviation of the log-odds of the confounded logging policy; larger
        is poorer overlap.
      exploration: share of the log that is uniform, so that overlap holds.
    """

    truth: str = "linear"
    difficulty: float = 0.12
    specialisation: float = 0.12
    quality_gap: float = 0.3
    cost_noise: float = 0.3
    dominated: bool = False
    graded: bool = False
    logging_spread: float = 1.0
    exploration: float = 0.1


REGIMES = {
    "linear": Regime(),
    "nonlinear": Regime(truth="nonlinear"),
    "specialists": Regime(truth="specialists", specialisation=0.3, quality_gap=0.15),
    "poor_overlap": Regime(truth="nonlinear", logging_spread=2.5, exploration=0.03),
    "heavy_tails": Regime(cost_noise=1.5),
    "dominated": Regime(truth="nonlinear", dominated=True),
    "graded": Regime(truth="specialists", specialisation=0.3, quality_gap=0.15, graded=True),
}


@register_dataclass
@dataclass(frozen=True)
class World:
    """A drawn world. Arrays over T models, `rank` latent directions and H hidden features.

    Attributes:
      regime: as given (static).
      embed: [rank, d], from latent query to embedding.
      quality: [T], mean score of each model over queries.
      price: [T], mean cost of each model over queries.
      common: [rank], direction of difficulty.
      own: [T, rank], each model's direction.
      length: [rank], direction of how long, and dear, a query is.
      topics: [m, rank], centres of the topics, for specialists.
      bend: [rank, H] and
      mix: [T + 1, H], for the non-linear truth: own and common parts from sines of projections.
    """

    regime: Regime = field(metadata={"static": True})
    embed: Array
    quality: Array
    price: Array
    common: Array
    own: Array
    length: Array
    topics: Array
    bend: Array
    mix: Array

    @property
    def models(self) -> tuple[str, ...]:
        """Names, by ascending price: model_00 is the cheapest."""
        return tuple(f"model_{number:02d}" for number in range(self.price.shape[0]))


def make_world(regime: Regime | str, *, dim: int = 256, n_models: int = 11, seed: int = 0) -> World:
    """Draws a world.

    Args:
      regime: or the name of one of `REGIMES`.
      dim: d, at least 2.
      n_models: T, at least 2.
      seed: of the world, not of its queries.

    Raises:
      ValueError: for an unknown regime, or fewer than two models or dimensions.
    """
    if isinstance(regime, str):
        if regime not in REGIMES:
            raise ValueError(f"unknown regime {regime!r}: expected one of {', '.join(REGIMES)}")
        regime = REGIMES[regime]
    if n_models < 2 or dim < 2:
        raise ValueError(f"a world needs at least 2 models and 2 dimensions, got {n_models} and {dim}")
    rank, hidden = min(LATENT, dim), 64
    key = jax.random.key(seed)
    key_embed, key_quality, key_common, key_own, key_length, key_topics, key_bend, key_mix = jax.random.split(key, 8)

    def directions(key, *shape):
        raw = jax.random.normal(key, (*shape, rank))
        return raw / jnp.linalg.norm(raw, axis=-1, keepdims=True)

    place = jnp.linspace(0.0, 1.0, n_models)  # from cheapest to dearest
    noise = jax.random.uniform(key_quality, (n_models,), minval=-0.15, maxval=0.15)
    quality = 0.5 + regime.quality_gap * jnp.clip(place + noise - 0.5, -0.5, 0.5)
    price = CHEAPEST * PRICE_SPAN**place
    if regime.dominated:
        quality, price = quality.at[-1].set(quality.min() - 0.1), price
    return World(
        regime=regime,
        embed=jax.random.normal(key_embed, (rank, dim)) / jnp.sqrt(rank),
        quality=quality,
        price=price,
        common=directions(key_common),
        own=directions(key_own, n_models),
        length=directions(key_length),
        topics=2.0 * jax.random.normal(key_topics, (n_models, rank)),
        bend=jax.random.normal(key_bend, (rank, hidden)) * 1.5 / jnp.sqrt(rank),
        mix=jax.random.normal(key_mix, (n_models + 1, hidden)) * jnp.sqrt(2.0 / hidden),
    )


def _latent(world: World, key: Array, n: int) -> tuple[Array, Array]:
    """Latent queries [n, rank] and, for specialists, their topics [n] (else 0)."""
    key_topic, key_normal = jax.random.split(key)
    normal = jax.random.normal(key_normal, (n, world.common.shape[0]))
    if world.regime.truth != "specialists":
        return normal, jnp.zeros(n, jnp.int32)
    topic = jax.random.randint(key_topic, (n,), 0, world.topics.shape[0])
    # Topics overlap in the embedding: most queries show theirs, some do not.
    return world.topics[topic] + 2.0 * normal, topic


def _means(world: World, latent: Array) -> tuple[Array, Array]:
    """Mean score [T] and cost [T] of one latent query [rank]."""
    regime, n_models = world.regime, world.price.shape[0]
    if regime.truth == "linear":
        common, own, length = latent @ world.common, world.own @ latent, latent @ world.length
    elif regime.truth == "nonlinear":
        bent = world.mix @ jnp.sin(latent @ world.bend)
        common, own, length = bent[-1], bent[:-1], jnp.tanh(latent @ world.length)
    else:
        # Each model's own topic, by how much the query looks like it: soft, so that a query of an
        # unclear topic has several fair models.
        distance = jnp.square(latent - world.topics).sum(axis=1)
        own = jax.nn.softmax(-distance / 8.0) * 1.0
        common, length = latent @ world.common / 2.0, jnp.tanh(latent @ world.length / 3.0)
    score = world.quality + regime.difficulty * common + regime.specialisation * own
    if regime.dominated:
        score = score.at[n_models - 1].min(score[:-1].min() - 0.02)
    stretch = jnp.maximum(1.0 + 0.3 * length, 0.1)
    return jnp.clip(score, 0.02, 0.98), world.price * stretch


def draw_queries(world: World, key: Array, n: int) -> BenchmarkTable:
    """Draws n queries with every model's mean and realised score and cost.

    Args:
      world: from `make_world`.
      key: of the queries and their noise.
      n: number of queries.

    Returns:
      `BenchmarkTable` with `mean_score` and `mean_cost`; embeddings have mean square about 1.
    """
    key_latent, key_noise, key_score, key_cost = jax.random.split(key, 4)
    latent, _ = _latent(world, key_latent, n)
    signal = latent @ world.embed
    signal = signal / jnp.sqrt(jnp.square(signal).mean())
    x = 0.9 * signal + 0.436 * jax.random.normal(key_noise, signal.shape)
    mean_score, mean_cost = jax.vmap(lambda one: _means(world, one))(latent)
    if world.regime.graded:
        score = jax.random.beta(key_score, 4.0 * mean_score, 4.0 * (1.0 - mean_score))
    else:
        score = jax.random.bernoulli(key_score, mean_score)
    sigma = world.regime.cost_noise
    factor = jnp.exp(sigma * jax.random.normal(key_cost, mean_cost.shape) - sigma**2 / 2)
    return BenchmarkTable(
        x=x,
        score=score.astype(jnp.float32),
        cost=mean_cost * factor,
        mean_score=mean_score,
        mean_cost=mean_cost,
        models=world.models,
    )


def middle_model_world(*, dim: int = 32, seed: int = 0) -> World:
    """Three models of which the middle one is best only inside the lambda range, at neither end.

    Cheap and poor, dear and good, and one between that beats both only for middling lambdas: what a
    router trained at the ends of an interval cannot have seen.
    """
    world = make_world(replace(REGIMES["linear"], quality_gap=0.4, specialisation=0.05), dim=dim, n_models=3, seed=seed)
    # Ties: cheap-middle at .2 / (4e-4 - 1e-4) = 667, middle-dear at .1 / (1.4e-3 - 4e-4) = 100.
    return replace(world, quality=jnp.array([0.4, 0.6, 0.7]), price=jnp.array([1e-4, 4e-4, 1.4e-3]))
