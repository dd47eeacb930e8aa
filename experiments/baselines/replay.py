"""Linear bandits replayed through a log in rounds: what mixllm and pilot share. No method of its own.

    of a round's rows:  propose t = argmax of a rule on the bandit's present estimates
                        use row i if t_i = t, at weight w_i = min(1 / p_i, cap) / their mean;  else it did not happen
    after the round:    A_t += sum w_i x_i x_i',   B_t += sum w_i x_i y_i',   theta_t = A_t^-1 B_t

A bandit's rule knows lambda, so there is one bandit for each lambda to serve.

Source: Li, Chu, Langford & Wang (2011), Unbiased offline evaluation of contextual-bandit news article recommendation,
arXiv 1003.5956 (rows that match are used, others are thrown away; there models were logged evenly).

What such a replay shows: what a bandit knows after it met those queries, if each model had its share of every kind of
query: 1 / p makes up for shares that were not, but for what the cap cuts off. What it cannot show: how it goes on
after the log, or what it would know had it been asked all n queries: of T models about one row in T matches (`used`
says), so a method that reads every row knows more. Unscored rows do not match.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jrouter.linalg import spd_inverse
from jrouter.types import Array, LoggedData


class Sums(NamedTuple):
    """What the bandit of one lambda knows: A [T, D, D], and B [T, D, O] of O outcomes."""

    gram: Array
    moment: Array


class Estimates(NamedTuple):
    """What it makes of that: A^-1 [T, D, D], and theta [T, D, O]."""

    inverse: Array
    theta: Array

    def predicted(self, x: Array) -> Array:
        """[O, T], of one query [D]."""
        return jnp.einsum("d,tdo->ot", x, self.theta)

    def uncertainty(self, x: Array) -> Array:
        """[T], sqrt(x' A_t^-1 x) of one query [D]."""
        return jnp.sqrt(jnp.maximum(jnp.einsum("d,tde,e->t", x, self.inverse, x), 0.0))


class Stream(NamedTuple):
    """Rows in the order in which they came: x [n, D], model [n], outcomes [n, O], weight [n]."""

    x: Array
    model: Array
    outcomes: Array
    weight: Array


def solved(sums: Sums) -> Estimates:
    """The ridge regressions of all models."""
    inverse = jax.vmap(spd_inverse)(sums.gram)
    return Estimates(inverse, inverse @ sums.moment)


def added(sums: Sums, rows: Stream) -> Sums:
    """The sums with rows at their weights; one model after another, so that n * D numbers are held."""

    def of_model(mine):
        model, gram, moment = mine
        weighted = rows.x * (rows.weight * (rows.model == model))[:, None]
        return gram + weighted.T @ rows.x, moment + weighted.T @ rows.outcomes

    return Sums(*jax.lax.map(of_model, (jnp.arange(sums.gram.shape[0]), *sums)))


def split_in_time(log: LoggedData, share: float) -> tuple[Array, Array]:
    """Indices of the log's first `share` of rows in the order of time, as they stand without one, and of the rest.

    >>> log = LoggedData(jnp.eye(3), jnp.arange(3), jnp.ones(3), jnp.ones(3), time=jnp.array([9., 2., 5.]))
    >>> split_in_time(log, 0.4)
    (Array([1], dtype=int32), Array([2, 0], dtype=int32))
    """
    order = jnp.arange(log.model.shape[0]) if log.time is None else jnp.argsort(log.time)
    first = int(share * order.shape[0])
    return order[:first], order[first:]


def even_weights(propensity: Array, weight: Array, cap: float) -> Array:
    """[n], min(1 / p, cap) times each row's weight, in units of its mean: n rows go on counting as about n.

    >>> even_weights(jnp.array([.5, .1, .5]), jnp.array([1., 1., 0.]), 8.)
    Array([0.4, 1.6, 0. ], dtype=float32)
    """
    inverse = jnp.minimum(1.0 / jnp.maximum(propensity, 1e-30), cap)
    return weight * inverse * weight.sum() / jnp.maximum((weight * inverse).sum(), 1e-30)


def replay(rows: Stream, start: Sums, rule: Callable[[Estimates, Array], Array], *, rounds: int) -> tuple[Sums, Array]:
    """Runs a bandit through rows in their order.

    Args:
      rows: the stream.
      start: what the bandit knows before.
      rule: (estimates, x [D]) -> [T]; the model of its maximum is proposed.
      rounds: after each, estimates are made again. With as many rounds as rows, after each row.

    Returns:
      What it knows in the end, and how many rows of each model it used [T].
    """
    n, n_models = rows.model.shape[0], start.gram.shape[0]
    size = -(-n // rounds)
    place = jnp.arange(rounds * size)
    in_rounds = jax.tree.map(lambda leaf: leaf[jnp.minimum(place, n - 1)], rows)
    in_rounds = in_rounds._replace(weight=in_rounds.weight * (place < n))
    in_rounds = jax.tree.map(lambda leaf: leaf.reshape(rounds, size, *leaf.shape[1:]), in_rounds)

    def one_round(state, rows):
        sums, used = state
        estimates = solved(sums)
        proposed = jax.vmap(lambda x: jnp.argmax(rule(estimates, x)))(rows.x)
        matching = rows._replace(weight=rows.weight * (rows.model == proposed))
        count = jax.ops.segment_sum((matching.weight > 0) * 1.0, rows.model, num_segments=n_models)
        return (added(sums, matching), used + count), None

    return jax.lax.scan(one_round, (start, jnp.zeros(n_models)), in_rounds)[0]
