"""Changing a router's models without training it again: another pool, other prices, a model more.

Each returns another router, with a line in its history; nothing is saved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.forecast import add_model
from jrouter.router import Router
from jrouter.router_inputs import needed_forecasts
from jrouter.router_record import with_entry

LEAST_SHARE = 0.01
"""A model that is chosen less than this at every lambda is never chosen, as `unused` has it."""


def restrict(router: Router, models: Sequence[str]) -> Router:
    """The router with these models in use, all others out: what it would choose among them.

    Regret-trained routers learn which model is best, not an order of the rest: where most choices go to models that
    leave, compare with a router fitted again.

    Raises:
      ValueError: an unknown model, one that is named twice, or none.
    """
    names = tuple(models)
    unknown = [name for name in names if name not in router.models]
    if unknown:
        raise ValueError(f"models: unknown model {unknown[0]!r}, expected some of {', '.join(router.models)}")
    if not names or len(set(names)) < len(names):
        raise ValueError("models: name at least one model, each once")
    kept = tuple(name for name in router.models if name in names)
    left = [name for name in router.pool if name not in kept]
    came = [name for name in kept if name not in router.pool]
    said = " and ".join(
        part
        for part in (f"without {', '.join(left)}" if left else "", f"again with {', '.join(came)}" if came else "")
        if part
    )
    changed = replace(router, available=() if kept == router.models else kept)
    return _with_history(changed, f"pool: {said or 'unchanged'}")


class Pruning(NamedTuple):
    """Which models a router does not need.

    Attributes:
      unused: chosen in less than `LEAST_SHARE` of the queries at every fitted lambda.
      dominated: by forecast, another model in use is on no query of the sample dearer or worse.
    """

    unused: tuple[str, ...]
    dominated: tuple[str, ...]


def prunable(router: Router, x: Any = None) -> Pruning:
    """The models that are never chosen, or dominated.

    Args:
      router: to be pruned.
      x: [n, d] queries, to count choices and compare forecasts on; None for the shares that the router remembers of
        its log, and nothing is then known of domination.

    Raises:
      ValueError: for a router that remembers no shares, without `x`.
    """
    if x is None:
        if "mix" not in router.record:
            raise ValueError("this router does not remember what it chooses; give a log")
        largest = np.max(np.array(router.record["mix"]), axis=0)
        largest = np.pad(largest, (0, len(router.models) - len(largest)), constant_values=1.0)  # added since: unknown
    else:
        largest = np.max(
            [np.bincount(_indices(router, x, lam), minlength=len(router.models)) for lam in router.lambdas], 0
        )
        largest = largest / len(x)
    unused = tuple(name for name in router.pool if largest[router.models.index(name)] < LEAST_SHARE)
    if x is None:
        return Pruning(unused, ())
    score, cost = router.forecast(x)
    places = [router.models.index(name) for name in router.pool]

    def better(other, one):
        at_least = (score[:, other] >= score[:, one]).all() and (cost[:, other] <= cost[:, one]).all()
        alike = (score[:, other] == score[:, one]).all() and (cost[:, other] == cost[:, one]).all()
        return at_least and (not alike or other < one)

    dominated = tuple(
        router.models[one] for one in places if any(better(other, one) for other in places if other != one)
    )
    return Pruning(unused, dominated)


def prune(router: Router, pruning: Pruning) -> Router:
    """The router without what `prunable` found.

    Raises:
      ValueError: if nothing would be left.
    """
    gone = {*pruning.unused, *pruning.dominated}
    return restrict(router, [name for name in router.pool if name not in gone])


def reprice(router: Router, price: Mapping[str, float], *, date: str | None = None) -> Router:
    """The router at other prices: a multiple, for each model named, of what it cost in the log.

    A choice is left only for a model that is better at the new prices by forecast (`decision.advantage`).

    Args:
      router: whose models are named.
      price: name -> multiple, relative to the log's prices, above 0; 1 for as in the log.
      date: of the prices, ISO-8601; kept for people.

    Raises:
      ValueError: an unknown model, a multiple that is no positive number; a router without forecasts.
    """
    unknown = [name for name in price if name not in router.models]
    if unknown:
        raise ValueError(f"price: unknown model {unknown[0]!r}, expected some of {', '.join(router.models)}")
    for name, multiple in price.items():
        if not (np.isfinite(multiple) and multiple > 0):
            raise ValueError(f"price: expected a multiple above 0 for {name!r}, got {multiple}")
    needed_forecasts(router.forecasts)
    prices = tuple(float(price.get(name, old)) for name, old in zip(router.models, router.prices, strict=True))
    changed = replace(router, price=() if all(one == 1.0 for one in prices) else prices)
    said = ", ".join(f"{name} x{multiple:g}" for name, multiple in price.items())
    changed = _with_history(changed, f"prices: {said}")
    return replace(changed, record={**changed.record, "price_date": date or changed.record["history"][-1]["created"]})


class Extended(NamedTuple):
    """A router with one model more, and how its forecast came about; scores as they are, not in hundreds.

    Attributes:
      router: with the model, in use.
      relative: whose score the new model's was started from, and
      cost_relative: whose cost, times
      cost_ratio: this.
      shift: of its mean score from the relative's, shrunken.
      error: root mean squared error of its forecast score on the given queries, each left out in turn, and
      plain_error: of the relative's own.
    """

    router: Router
    relative: str
    cost_relative: str
    cost_ratio: float
    shift: float
    error: float
    plain_error: float


def extend(router: Router, name: str, x: Any, score: Any, cost: Any) -> Extended:
    """The router with a new model, from k scored queries of it: `forecast.add_model`.

    The policy does not know the model: it is chosen where its forecast is above that of the policy's choice.

    Args:
      router: with forecasts.
      name: of the new model.
      x: [k, d] queries, or texts, as of `Router.route`; 2 at least, better 30.
      score: [k], of the new model.
      cost: [k], at least 0, in the router's cost unit, at its present price.

    Raises:
      ValueError: a name that is taken, fewer than 2 queries, numbers that are not finite, a router without forecasts.
    """
    if name in router.models:
        raise ValueError(f"name: {name!r} is one of the router's models already: {', '.join(router.models)}")
    forecasts = needed_forecasts(router.forecasts)
    rows = x if isinstance(x, np.ndarray | jax.Array) else router.encoder.encode(list(x), progress=False)
    rows, score, cost = (np.asarray(part, np.float32) for part in (rows, score, cost))
    if len(rows) < 2 or not len(rows) == len(score) == len(cost):
        raise ValueError(
            f"expected 2 or more queries with a score and a cost each, got {len(rows)}, {len(score)}, {len(cost)}"
        )
    if not (np.isfinite(rows).all() and np.isfinite(score).all() and np.isfinite(cost).all() and (cost >= 0).all()):
        raise ValueError("expected finite embeddings and scores, and finite costs of at least 0")
    added = jax.jit(add_model)(jax.tree.map(jnp.asarray, forecasts), rows, score, cost)
    known = router.known or len(router.models)
    changed = replace(
        router,
        models=(*router.models, name),
        forecasts=added.forecast,
        price=(*router.prices, 1.0),
        available=(*router.available, name) if router.available else (),
        known=known,
    )
    relative, near = router.models[int(added.relative)], router.models[int(added.cost_relative)]
    changed = _with_history(changed, f"added {name} from {len(rows)} queries, after {relative}")
    numbers = (float(one) for one in (added.cost_ratio, added.shift, added.error, added.plain_error))
    return Extended(changed, relative, near, *numbers)


def _indices(router: Router, x: Any, lam: float) -> np.ndarray:
    place = {name: index for index, name in enumerate(router.models)}
    return np.array([place[name] for name in router.route(x, lam)])


def _with_history(router: Router, what: str) -> Router:
    return replace(router, record=with_entry(router.record, what))
