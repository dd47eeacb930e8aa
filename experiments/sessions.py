"""Sessions of queries in which it matters who answered the turn before: the fourth violation of `assumptions.py`.

A model that did not answer the turn before has lost the context, and scores less. So what a turn is worth depends
on two choices, the logged one and the one before, which SUTVA rules out. Turns of a session are alike, and share
an easy or hard user. Pure functions, as in `violations.py`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from violations import LAM, best_at_lam, means_of, realised

from jrouter.known_worlds import EDGE, KnownWorld, log_odds
from jrouter.metrics import decide, utility
from jrouter.policy import Policy
from jrouter.types import Array, LoggedData

TURNS = 20
"""Queries of a session."""
ITEMS = 10
"""A session's scores are shares of so many points: less noise than 0/1, so that what turns share can be seen."""
USER = 0.15
"""Users are easy or hard: all scores of a session are shifted by a number uniform in (-USER, USER)."""


class Sessions(NamedTuple):
    """Logs of sessions, rows in the order of sessions and turns.

    Attributes:
      log: n rows, `group` the session.
      previous: [n, T + 1], who answered the turn before: a model, or none at the first turn; one-hot.
      kept: [n] bool, whether the same model answered the turn before; True at the first turn.
    """

    log: LoggedData
    previous: Array
    kept: Array


def session_queries(world: KnownWorld, key: Array, sessions: int) -> Array:
    """[sessions, TURNS, d] queries, each as of `draw_known_queries`, alike within a session."""
    key_session, key_turn = jax.random.split(key)
    dim = world.ability.shape[1]
    theme = jax.random.normal(key_session, (sessions, 1, dim))
    own = jax.random.normal(key_turn, (sessions, TURNS, dim))
    # A normal copula keeps each query uniform on the cube.
    return EDGE * (2.0 * norm.cdf(0.8**0.5 * theme + 0.2**0.5 * own) - 1.0)


def session_means(world: KnownWorld, x: Array, kept: Array, loss: float | Array) -> tuple[Array, Array]:
    """Mean score [T] and cost [T] of one query: a model that has not answered the turn before loses `loss`."""
    score, cost = means_of(world)(x)
    return score + loss * (kept - 0.5), cost


def draw_sessions(world: KnownWorld, key: Array, n: int, loss: float | Array) -> Sessions:
    """A log of n / TURNS sessions; each turn's model is drawn by its query alone.

    Args:
      world: from `make_world(half=True)`.
      key: of everything.
      n: rows, a multiple of TURNS.
      loss: how much score a switch of models loses.
    """
    key_x, key_model, key_user, key_score, key_cost = jax.random.split(key, 5)
    sessions, n_models = n // TURNS, len(world.models)
    x = session_queries(world, key_x, sessions).reshape(n, -1)
    model = jax.random.categorical(key_model, jax.vmap(lambda x: log_odds(world, x))(x)).astype(jnp.int32)
    first = jnp.arange(n) % TURNS == 0
    before = jnp.where(first, n_models, jnp.roll(model, 1))
    kept = first | (before == model)
    score, cost = jax.vmap(lambda x, kept: session_means(world, x, kept, loss))(x, kept)
    score, cost = (jnp.take_along_axis(mean, model[:, None], axis=1)[:, 0] for mean in (score, cost))
    user = jnp.repeat(jax.random.uniform(key_user, (sessions,), minval=-USER, maxval=USER), TURNS)
    points = jax.random.uniform(key_score, (n, ITEMS)) < (score + user)[:, None]
    log = LoggedData(
        x=x,
        model=model,
        score=points.mean(axis=1),
        cost=realised(key_cost, score, cost)[1],
        group=jnp.arange(n) // TURNS,
        models=world.models,
    )
    return Sessions(log, jax.nn.one_hot(before, n_models + 1), kept)


def _best_pair(params, x, lam):
    n_models, dim = params["ability"].shape
    now, before = (jnp.argmax(best_at_lam(params, part, lam)) for part in (x[:dim], x[dim : 2 * dim]))
    lost = (now != before) & (x[-1] == 0)
    return jax.nn.one_hot(2 * now + lost, 2 * n_models)


PAIR_RULE = Policy(_best_pair)
"""`RULE` as a policy that chooses pairs (model, whether it answered the turn before too), with the same params.

Its query is (x of this turn, x of the turn before, 1 at the first turn); pair 2 t is "t, kept", 2 t + 1 "t, lost".
"""


def pair_log(sessions: Sessions, every: Array) -> LoggedData:
    """The log of `PAIR_RULE`: what is chosen is a pair, with the probability of both turns' draws.

        p(t, kept) = p_k(t) * p_{k-1}(t),   p(t, lost) = p_k(t) * (1 - p_{k-1}(t))

    Args:
      sessions: a log.
      every: [n, T], p(t | x) of each turn.
    """
    log, first = sessions.log, sessions.previous[:, -1] == 1
    now, before = (
        jnp.take_along_axis(probability, log.model[:, None], axis=1)[:, 0]
        for probability in (every, jnp.roll(every, 1, axis=0))
    )
    of_pair = jnp.where(sessions.kept, before, 1.0 - before)
    return replace(
        log,
        x=jnp.concatenate([log.x, jnp.roll(log.x, 1, axis=0), first[:, None]], axis=1),
        model=2 * log.model + (~sessions.kept).astype(jnp.int32),
        propensity=now * jnp.where(first, 1.0, of_pair),
        models=tuple(f"{model}, {what}" for model in log.models for what in ("kept", "lost")),
    )


def with_previous(sessions: Sessions) -> LoggedData:
    """The log whose queries say who answered the turn before: the dialogue so far, in the paper's sense."""
    return replace(sessions.log, x=jnp.concatenate([sessions.log.x, sessions.previous], axis=1))


def deployed_utility(
    world: KnownWorld, key: Array, apply: Callable[[Array], Array], loss: float | Array, *, sessions: int
) -> Array:
    """Mean utility at `LAM` of a policy that answers whole sessions, by simulating them.

    Args:
      world: and
      key: of the queries.
      apply: query [d + T + 1], with who answered the turn before -> [T], the largest is chosen.
      loss: as of `draw_sessions`.
      sessions: how many.
    """
    n_models = len(world.models)

    def turn(before, x):
        choice = decide(apply(jnp.concatenate([x, before])))
        kept = (before[-1] == 1) | ((choice * before[:-1]).sum() > 0)
        score, cost = session_means(world, x, kept, loss)
        return jnp.append(choice, 0.0), choice @ utility(score, cost, LAM)

    start = jax.nn.one_hot(n_models, n_models + 1)
    worth = jax.vmap(lambda x: jax.lax.scan(turn, start, x)[1])(session_queries(world, key, sessions))
    return worth.mean()
