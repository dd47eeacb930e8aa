"""Bootstrap that refits the nuisances: how a policy's estimated value would have differed with another log.

    V_b = value of the policy, by nuisances fitted with row weights c_bi * w_i,  c_bi resample counts

The bootstrap of `resampling.bootstrap_means` keeps the nuisances as they are, and is too narrow where these are
what errs (the direct method), or too wide where estimating them helps (inverse propensities). Here each
resample pays for its own fits, all of them one compiled program. Folds follow the original row (or group), so
a resampled row is never on both sides of a fold.

`jackknife.influence` has the same to first order without resampling. A resample has 0.63 n distinct rows, so its
fits are poorer than the log's own, and in small logs the spread of resamples is too wide: much for fits with many
parameters for their rows, little for others.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrouter.honest_value import held_out_rows
from jrouter.metrics import utility
from jrouter.nuisances.crossfit import NuisanceConfig, require_smooth
from jrouter.off_policy import value_estimate, value_of_rows
from jrouter.policy import Method, Policy
from jrouter.resampling import poisson_counts
from jrouter.splits import Split
from jrouter.types import Array, LoggedData


class Resampled(NamedTuple):
    """Of each resample, the value of a policy at each lambda: [B, L] each.

    Attributes:
      value: mean utility.
      score: and
      cost: its two parts.
    """

    value: Array
    score: Array
    cost: Array


def bootstrap_log(
    key: Array, log: LoggedData, estimate: Callable[[LoggedData], Any], *, n_resamples: int, at_once: int = 8
) -> Any:
    """Any estimate from a log, from resamples of that log: row weights times counts. Pure.

    Args:
      key: of the resamples.
      log: n rows; those of one `group` are resampled together.
      estimate: log -> pytree of arrays; pure, and smooth in the row weights. What it computes from other
        things than the row weights is computed once for `at_once` resamples.
      n_resamples: B.
      at_once: resamples in one vmap; bounds memory.

    Returns:
      What `estimate` returns, with a leading axis [B].

    Source: Efron (1979); counts as of `resampling.poisson_counts`.

    >>> log = LoggedData(jnp.zeros((4, 1)), jnp.zeros(4, jnp.int32), jnp.ones(4), jnp.ones(4), models=("a",))
    >>> bootstrap_log(jax.random.key(0), log, lambda log: log.weight.sum(), n_resamples=3).shape
    (3,)
    """
    n = log.model.shape[0]

    def one(key):
        counts = poisson_counts(key, (n,)).astype(log.weight.dtype)
        counts = counts if log.group is None else counts[log.group]
        return estimate(replace(log, row_weight=log.weight * counts))

    n_groups = -(-n_resamples // at_once)
    # Groups of one size: `lax.map` with a batch size compiles the remainder apart.
    keys = jax.random.split(key, (n_groups, at_once))
    found = jax.lax.map(jax.vmap(one), keys)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n_resamples], found)


def refitted_bootstrap(
    key: Array,
    log: LoggedData,
    split: Split,
    policy: Policy,
    params: Any,
    lambdas: Array,
    *,
    nuisances: NuisanceConfig = NuisanceConfig(),
    estimator: str = "dr",
    threshold: float | Array = 10.0,
    strength: float | Array = 10.0,
    n_resamples: int = 200,
    at_once: int = 8,
) -> Resampled:
    """Resampled values of a FIXED policy, the nuisances fitted again on each resample. Pure: jit it, vmap it.

    `off_policy.fixed_policy_value` with the same key and arguments is what these are resamples of. Fits start
    from the same key in every resample, so only the rows differ; strengths of regularisation are those of the
    log as it is.

    Args:
      key: the fits' first, then of the resamples.
      log: n rows; those of one `group` are resampled together.
      split: folds of the nuisances, of the original rows (groups).
      policy: made without this log, and
      params: its parameters.
      lambdas: [L].
      nuisances: how propensities and outcomes are estimated.
      estimator: and
      threshold: and
      strength: as of `off_policy.fixed_policy_value`.
      n_resamples: B.
      at_once: resamples in one vmap; bounds memory.

    Returns:
      `Resampled`.

    Raises:
      ValueError: for outcome models that find nearest neighbours: the bootstrap is inconsistent for them.

    Source: Efron & Tibshirani (1993), chapter 6; Abadie & Imbens (2008), for what it is not good for.
    """
    values = value_estimate(
        key, log, split, policy, params, lambdas, nuisances=nuisances, threshold=threshold, strength=strength
    )

    def value(log):
        score, cost = values(log, (estimator,))[0]
        return Resampled(utility(score, cost, lambdas), score, cost)

    return bootstrap_log(_key_of_resamples(key), log, value, n_resamples=n_resamples, at_once=at_once)


def refitted_learner_bootstrap(
    key: Array,
    log: LoggedData,
    outer: Split,
    inner: Split,
    method: Method,
    lambdas: Array,
    *,
    nuisances: NuisanceConfig = NuisanceConfig(),
    n_resamples: int = 200,
    at_once: int = 1,
) -> Resampled:
    """Resampled values of a LEARNER: on each resample, for each fold, nuisances and policy are fitted again.

    What `honest_value.cross_fitted_value` is a resample of, with its splits: B x K fits of the learner. Pure.

    Args:
      key: the fits' first, then of the resamples.
      log: n rows; those of one `group` are resampled together.
      outer: its folds are left out in turn, and valued.
      inner: folds of the nuisances, drawn apart from `outer`.
      method: the learner.
      lambdas: [L].
      nuisances: how propensities and outcomes are estimated.
      n_resamples: B.
      at_once: resamples in one vmap; bounds memory.

    Returns:
      `Resampled`.

    Raises:
      ValueError: for learners whose policy moves in jumps with the log (`Method.smooth`): nearest neighbours, and
        those that take the best of several policies; for nuisances as in `refitted_bootstrap`.

    Source: as of `refitted_bootstrap`; Andrews (2000), for why a maximum cannot be resampled.
    """
    require_smooth(nuisances)
    if not method.smooth:
        raise ValueError(
            "this method looks up nearest neighbours or takes the best of several policies on the log itself, for "
            "which the bootstrap is inconsistent: resamples repeat the luck of the choice; split the log instead: "
            "jrouter.cross_fitted_value has its value and standard error"
        )

    def value(log):
        def of_fold(number):
            return held_out_rows(
                key, log, outer, inner, method.policy, method.fit, lambdas, number, nuisances=nuisances
            )

        places, score, cost = jax.lax.map(of_fold, jnp.arange(outer.n_folds))
        empty = jnp.zeros((lambdas.shape[0], log.model.shape[0]))
        # [K, L, m] -> [L, K, m], and each row to its place.
        score, cost = (empty.at[:, places].set(jnp.swapaxes(part, 0, 1), mode="drop") for part in (score, cost))
        found = value_of_rows(score, cost, lambdas, log.row_weight)
        return Resampled(found.value, found.score, found.cost)

    return bootstrap_log(_key_of_resamples(key), log, value, n_resamples=n_resamples, at_once=at_once)


def _key_of_resamples(key: Array) -> Array:
    # Apart from the fits, which take the key itself, as they do on the log as it is.
    return jax.random.fold_in(key, 0x626F6F74)
