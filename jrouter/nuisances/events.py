"""Probabilities of what decides how much of a row is seen: was it scored, was the logged model allowed.

Binary logistic regressions, cross-fitted like propensities. Corrections are divided by them, as by propensities:

    P(scored | x, t)     of the score alone: the cost is always seen
    P(t in A | x)        of both, where the log gives p(t | x, A)

Both repair what is missing at random: given the query (and the model), whether a row is scored, or which models
it was allowed, must say nothing of the outcomes. A score that decides whether it is recorded is beyond repair.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.nuisances import propensity
from jrouter.nuisances.folds import at, fold_weights, held_out
from jrouter.nuisances.propensity import Choices
from jrouter.splits import Split
from jrouter.types import Array, LoggedData
from jrouter.weighted import weighted_mean

PENALTIES = (3e-3, 3e-2, 3e-1)


class EventFit(NamedTuple):
    """A logistic regression of an event on the query, with an intercept for each of G kinds of rows.

    Attributes:
      params: of the regression.
      rate: [G], share of each kind's rows with the event, leaning by one row on that of all.
      certain: [G] bool, all of its rows had the event.
      strength: scalar, penalty.
    """

    params: Any
    rate: Array
    certain: Array
    strength: Array


def fit_event(
    x: Array,
    happened: Array,
    weights: Array,
    split: Split,
    *,
    kind: Array | None = None,
    n_kinds: int = 1,
    strength: Array | None = None,
) -> EventFit:
    """Fits the probability of an event on each fold's complement and on all rows.

    Args:
      x: [n, d], scaled.
      happened: [n] bool.
      weights: [K + 1, n], from `folds.fold_weights`.
      split: folds.
      kind: [n] int below `n_kinds`; all the same if None.
      n_kinds: G.
      strength: penalty, to be used instead of choosing from `PENALTIES` by held-out log loss.

    Returns:
      `EventFit`, leading axis K + 1.
    """
    kind = jnp.zeros(x.shape[0], jnp.int32) if kind is None else kind
    family = propensity.logistic(PENALTIES, intercepts=n_kinds)
    if strength is not None:
        family = family._replace(strengths=jnp.asarray(strength)[None])
    choices = Choices(
        jnp.concatenate([x, jax.nn.one_hot(kind, n_kinds)], axis=1),
        happened.astype(jnp.int32),
        jnp.ones((x.shape[0], 2), bool),
    )
    fit = jax.vmap(partial(family.fit, None, choices), in_axes=(0, None))
    candidates = jax.vmap(fit, in_axes=(None, 0))(weights, family.strengths)

    def held_out_loss(params):
        log_odds = held_out(family.log_odds, params, choices.x, split)
        losses = -jnp.take_along_axis(jax.nn.log_softmax(log_odds), choices.model[:, None], axis=1)[:, 0]
        return weighted_mean(losses, weights[-1])

    if len(family.strengths) > 1 and split.n_folds > 1:
        best = jnp.argmin(jax.lax.map(held_out_loss, candidates))
    else:
        best = len(family.strengths) // 2

    def counted(weight):
        rows = jax.ops.segment_sum(weight, kind, num_segments=n_kinds)
        missed = jax.ops.segment_sum(weight * ~happened, kind, num_segments=n_kinds)
        overall = weighted_mean(happened.astype(weight.dtype), weight)
        one = weight.mean()
        rate = (rows - missed + one * overall) / jnp.maximum(rows + one, 1e-30)
        return rate, (missed == 0) & (rows > 0)

    used = jnp.broadcast_to(family.strengths[best], weights.shape[:1])
    return EventFit(at(candidates, best), *jax.vmap(counted)(weights), used)


def event_probability(fit: EventFit, x: Array, kind: Array | int = 0, *, floor: float) -> Array:
    """Probability of the event for one row, by one fit.

    max(p(x, kind), floor * rate of the kind), and 1 where all of the kind's rows had the event

    Args:
      fit: `EventFit` without its leading axis.
      x: [d], scaled.
      kind: scalar int.
      floor: lowest value, as a share of the rate: as of a propensity's share of uniform.

    Returns:
      Scalar.
    """
    own = jax.nn.one_hot(kind, fit.rate.shape[0])
    log_odds = propensity.logistic_log_odds(fit.params, jnp.concatenate([x, own]))
    probability = jnp.maximum(jax.nn.softmax(log_odds)[1], floor * fit.rate[kind])
    return jnp.where(fit.certain[kind], 1.0, probability)


def fit_scored(log: LoggedData, x: Array, split: Split, *, strength: Array | None = None) -> EventFit:
    """Fits P(scored | x, t), of the logged model t: one regression, an intercept for each model.

    Args:
      log: n rows, with `scored`.
      x: [n, d], its scaled embeddings.
      split: folds.
      strength: as of `fit_event`.

    Returns:
      `EventFit`, leading axis K + 1; G = T.
    """
    assert log.scored is not None
    kinds: dict[str, Any] = {"kind": log.model, "n_kinds": len(log.models)}
    return fit_event(x, log.scored, fold_weights(log, split), split, **kinds, strength=strength)


def scored_probability(fit: EventFit, row: tuple[Array, Array], *, floor: float) -> Array:
    """P(scored | x, t) of one row: its scaled embedding [d] and its logged model."""
    return event_probability(fit, *row, floor=floor)


def fit_allowed(log: LoggedData, x: Array, split: Split, *, strength: Array | None = None) -> EventFit:
    """Fits P(t in A | x) of every model: T regressions, one after another.

    Args:
      log: n rows, with `allowed`.
      x: [n, d], its scaled embeddings.
      split: folds.
      strength: [T], as of `fit_event`.

    Returns:
      `EventFit`, leading axes K + 1 and T; G = 1.
    """
    assert log.allowed is not None
    weights = fold_weights(log, split)

    def of_model(operands):
        happened, strength = operands
        return fit_event(x, happened, weights, split, strength=strength)

    fits = jax.lax.map(of_model, (log.allowed.T, strength))
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), fits)


def allowed_probability(fit: EventFit, row: tuple[Array, Array], *, floor: float) -> Array:
    """P(t in A | x) of one row: its scaled embedding [d] and its logged model t."""
    x, model = row
    return jax.vmap(lambda one: event_probability(one, x, floor=floor))(fit)[model]


def check_scoring(log: LoggedData) -> str | None:
    """Why the scores of a log cannot be believed, or None: on the host, for one log.

    Scores that are recorded only when they have one value (thumbs up and never down) show it. That a score
    decides in part whether it is recorded does not show in the log, and only who records it can know.

    Args:
      log: n rows.

    Returns:
      A reason for which to refuse the log, or None.
    """
    if log.scored is None:
        return None
    counts = np.asarray(log.weight) > 0
    scored = np.asarray(log.scored) & counts
    missing = int(counts.sum() - scored.sum())
    values = np.unique(np.asarray(log.score)[scored])
    if not missing or values.size != 1:
        return None
    return (
        f"score: {missing} of {int(counts.sum())} rows have no score, and every recorded one is {values[0]:g}: it "
        "seems that the score decides whether it is recorded, which nothing can repair. Score rows drawn at random "
        "whatever their outcome (say, by a judge on a random sample), or write the score that a missing one stands for"
    )
