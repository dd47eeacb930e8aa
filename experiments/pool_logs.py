"""Logs of large pools: relatives of a few models, a log without some of its models, and one with a model more."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.logging_policies import confounded, simulate_log
from jrouter.synthetic import World, draw_queries
from jrouter.types import Array, BenchmarkTable, LoggedData, take_rows


def relatives(base: World, key: Array, *, n_models: int) -> World:
    """A world whose first models are those of `base` and the others their relatives.

    A relative is a little off in what it is good at, up to 3 points better and 15 worse in mean score, and costs half
    to twice as much: as fine-tuned, smaller and renamed versions of few models are. Most are dominated, some are not.

    Args:
      base: with T models and no topics.
      key: of the relatives.
      n_models: of the world, at least T.

    Raises:
      ValueError: for a world of specialists, where a model is a topic; for fewer models than the base has.
    """
    if base.regime.truth == "specialists" or base.regime.dominated:
        raise ValueError("relatives: expected a linear or nonlinear world without a dominated model")
    known = base.price.shape[0]
    if n_models < known:
        raise ValueError(f"relatives: expected at least the {known} models of the base, got {n_models}")
    key_own, key_mix, key_quality, key_price = jax.random.split(key, 4)
    of = jnp.arange(n_models) % known
    new = (jnp.arange(n_models) >= known)[:, None]

    def near(key, values):
        size = jnp.sqrt(jnp.square(values).mean())
        return values[of] + jnp.where(new, 0.5 * size * jax.random.normal(key, (n_models, values.shape[1])), 0.0)

    own = near(key_own, base.own)
    quality = base.quality[of] + new[:, 0] * jax.random.uniform(key_quality, (n_models,), minval=-0.15, maxval=0.03)
    price = base.price[of] * 2.0 ** (new[:, 0] * jax.random.uniform(key_price, (n_models,), minval=-1.0, maxval=1.0))
    order = jnp.argsort(price)
    return replace(
        base,
        quality=quality[order],
        price=price[order],
        own=(own / jnp.linalg.norm(own, axis=1, keepdims=True))[order],
        topics=base.topics[of][order],
        mix=jnp.concatenate([near(key_mix, base.mix[:known])[order], base.mix[known:]]),
    )


class PoolLog(NamedTuple):
    """A log with its propensities, and the probability [n, T] of every model on its rows."""

    log: LoggedData
    probability: Array


def draw_pool_log(table: BenchmarkTable, seed: int) -> PoolLog:
    """The log of a confounded policy, with the propensities that it wrote down."""
    log, probability, _ = simulate_log(jax.random.key(seed), table, confounded(table))
    propensity = jnp.take_along_axis(probability, log.model[:, None], axis=1)[:, 0]
    return PoolLog(replace(log, propensity=propensity), probability)


def only(one: PoolLog, kept: np.ndarray) -> PoolLog:
    """The rows that the models `kept` [T] bool answered, as a log of these models.

    Given the query, such a row was drawn with p_t / sum over the kept; which queries are left depends on x alone.
    Up to 2% of the rows go too, so that logs of about one length share programs.
    """
    if kept.all():
        return one
    model = np.asarray(one.log.model)
    rows = np.flatnonzero(kept[model])
    step = max(1, len(model) // 50)
    rows = rows[: max(step, len(rows) // step * step)]
    probability = one.probability[rows][:, np.flatnonzero(kept)]
    share = probability.sum(axis=1)
    log = take_rows(one.log, rows)
    assert log.propensity is not None
    names = tuple(name for name, there in zip(one.log.models, kept, strict=True) if there)
    place = jnp.asarray(np.cumsum(kept) - 1, jnp.int32)[log.model]
    return PoolLog(
        replace(log, model=place, propensity=log.propensity / share, models=names), probability / share[:, None]
    )


def with_model(log: LoggedData, name: str, x: Array, score: Array, cost: Array) -> LoggedData:
    """The log and k queries of a new model: one log, in which k of n + k rows were drawn for that model.

    Args:
      log: n rows, with propensities.
      name: of the model, the last of the new log.
      x: [k, d] queries like those of the log.
      score: [k].
      cost: [k].
    """
    assert log.propensity is not None, "the log needs propensities"
    n, k = log.model.shape[0], score.shape[0]
    return replace(
        log,
        x=jnp.concatenate([log.x, x]),
        model=jnp.concatenate([log.model, jnp.full(k, len(log.models), jnp.int32)]),
        score=jnp.concatenate([log.score, score]).astype(jnp.float32),
        cost=jnp.concatenate([log.cost, cost]),
        propensity=jnp.concatenate([log.propensity * n / (n + k), jnp.full(k, k / (n + k))]),
        group=None,
        models=(*log.models, name),
    )


def columns(table: BenchmarkTable, places: np.ndarray) -> BenchmarkTable:
    """The table of some of its models, in this order."""

    def part(values):
        return None if values is None else values[:, places]

    return replace(
        table,
        score=table.score[:, places],
        cost=table.cost[:, places],
        mean_score=part(table.mean_score),
        mean_cost=part(table.mean_cost),
        models=tuple(table.models[place] for place in places),
    )


def draw_tables(world: World, seed: int, *, rows: int, test: int) -> tuple[BenchmarkTable, BenchmarkTable]:
    """Queries to log, and others, of no seed, to judge by."""
    key = jax.random.key(17)
    return draw_queries(world, jax.random.fold_in(key, 1 + seed), rows), draw_queries(
        world, jax.random.fold_in(key, 0), test
    )
