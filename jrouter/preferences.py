"""Utility as any known function of score, cost and a preference, where score - lambda * cost will not do.

Scores and costs that were estimated apart can be combined afterwards only by an affine utility. For any
other, utility itself is the outcome: it is computed on what was observed, and estimators and learners run
on it. A log per preference, so a sweep over preferences is a sweep over logs.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from jrouter.types import Array, LoggedData


def with_utility(
    log: LoggedData, function: Callable[[Array, Array, Array], Array], preference: float | Array
) -> LoggedData:
    """The log whose score is the utility of what was observed, and whose cost is 0.

    Fit and route at lambda = 0: `Router.fit(with_utility(log, f, p), lambdas=[0.0])`. What was not scored
    has no utility, and stays unscored.

    Args:
      log: n rows.
      function: (score, cost, preference) -> utility, of one row: scalars in, a finite scalar out.
      preference: handed to `function`.

    Returns:
      `LoggedData` of the same n rows.

    Raises:
      ValueError: if a utility is not finite.

    Source: arXiv 2505.16037 takes an affine utility, and names others as a limit.

    >>> log = LoggedData(jnp.eye(2), jnp.arange(2), jnp.array([1., .5]), jnp.array([4., 1.]), models=("a", "b"))
    >>> with_utility(log, lambda score, cost, p: score - p * jnp.sqrt(cost), .25).score
    Array([0.5 , 0.25], dtype=float32)
    """
    values = jax.vmap(lambda score, cost: function(score, cost, jnp.asarray(preference)))(log.score, log.cost)
    if log.scored is not None:
        values = jnp.where(log.scored, values, 0.0)
    if not bool(jnp.isfinite(values).all()):
        row = int(jnp.argmin(jnp.isfinite(values)))
        raise ValueError(
            f"row {row}: utility of score {float(log.score[row]):g} and cost {float(log.cost[row]):g} is not finite; "
            "give a function that is finite for every observed score and cost"
        )
    return replace(log, score=values, cost=jnp.zeros_like(log.cost))
