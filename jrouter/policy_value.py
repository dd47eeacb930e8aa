"""Value of one fixed policy by seven estimators, with their bootstrap: sums of terms, and functions of sums.

    w = pi(t | x) / p_t(x) of the logged model t,   d = sum_s pi(s | x) r_s(x),   e = y - r_t(x)

    direct  mean d                        snips  sum w y / sum w
    ips     mean w y                      sndr   mean d + sum w e / sum w
    dr      mean d + mean w e             switch mean d + mean 1[w <= threshold] w e
                                          dros   mean d + mean strength w / (w^2 + strength) e

Weights are the policy's, and normalised over its rows as a whole, as in the literature on off-policy
evaluation; `counterfactual_scores` weighs every model's outcome by itself, before any policy is
known, and normalises model by model. For a policy that always chooses one model the two are the same.

Every estimator is linear in (y, r) of one log: estimate score and cost apart, and each lambda is a linear
combination. MRDR is dr with an outcome model fitted under `estimators.mrdr_row_weight`: see `off_policy`.
"""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jrouter.estimators import inverse_propensity_weight
from jrouter.metrics import expected
from jrouter.resampling import bootstrap_sums
from jrouter.types import Array

POLICY_ESTIMATORS = ("direct", "ips", "snips", "dr", "sndr", "switch", "dros")


class Terms(NamedTuple):
    """What each estimator sums over rows; one row's, or sums of many: equal shapes.

    Attributes:
      rows: 1.
      ratio: w.
      direct: d.
      ips: w y.
      dr: w e.
      switch: w e where w is at most the threshold, else 0.
      dros: e under the shrunken weight.
    """

    rows: Array
    ratio: Array
    direct: Array
    ips: Array
    dr: Array
    switch: Array
    dros: Array


def policy_terms(
    probability: Array,
    outcome: Array,
    observed: Array,
    model: Array,
    propensity: Array,
    *,
    scored: float | Array = 1.0,
    threshold: float | Array = 10.0,
    strength: float | Array = 10.0,
) -> Terms:
    """Terms of one logged row: `vmap` over rows.

    Args:
      probability: [T], pi(. | x), chosen without looking at the outcomes.
      outcome: [T], r(x), by an outcome model that did not see the row.
      observed: scalar, y, of the logged model.
      model: scalar int, index of the logged model.
      propensity: scalar, p, of the logged model; where it is 0 the row has the direct term alone.
      scored: scalar, s / q: whether the outcome was observed (1 or 0) over the probability that it would be, given
        query and model. Multiplies w; the direct term needs no outcome.
      threshold: largest weight of "switch".
      strength: of the shrinkage of "dros", whose weights are at most sqrt(strength) / 2.

    Returns:
      `Terms` of scalars.

    Source: Dudik, Langford & Li (2011); Swaminathan & Joachims (2015); Wang, Agarwal & Dudik (2017), section 4;
    Su, Dimakopoulou, Krishnamurthy & Dudik (2020), section 3.

    >>> row = policy_terms(jnp.array([1., 0.]), jnp.array([.5, .2]), 1., 0, .25, threshold=3.)
    >>> [float(term) for term in (row.ratio, row.direct, row.ips, row.dr, row.switch)]
    [4.0, 0.5, 4.0, 2.0, 0.0]
    """
    chex.assert_rank([probability, outcome, observed, model, propensity], [1, 1, 0, 0, 0])
    chex.assert_equal_shape([probability, outcome])
    ratio = probability[model] * inverse_propensity_weight(propensity) * scored
    error = observed - outcome[model]
    return Terms(
        rows=jnp.ones_like(ratio),
        ratio=ratio,
        direct=expected(probability, outcome),
        ips=ratio * observed,
        dr=ratio * error,
        switch=jnp.where(ratio <= threshold, ratio, 0.0) * error,
        dros=strength * ratio / (ratio**2 + strength) * error,
    )


def estimates(sums: Terms) -> Array:
    """[..., 7], values by `POLICY_ESTIMATORS` from sums of terms over the rows, by row weight.

    Self-normalised ones are 0 (snips), or direct (sndr), where all weights are 0.

    >>> estimates(Terms(*jnp.array([2., 4., 1., 2., 1., 0., .5])))
    Array([0.5 , 1.  , 0.5 , 1.  , 0.75, 0.5 , 0.75], dtype=float32)
    """
    direct = _over(sums.direct, sums.rows)
    return jnp.stack(
        [
            direct,
            _over(sums.ips, sums.rows),
            _over(sums.ips, sums.ratio),
            direct + _over(sums.dr, sums.rows),
            direct + _over(sums.dr, sums.ratio),
            direct + _over(sums.switch, sums.rows),
            direct + _over(sums.dros, sums.rows),
        ],
        axis=-1,
    )


def _over(total: Array, divisor: Array) -> Array:
    positive = divisor > 0
    return jnp.where(positive, total / jnp.where(positive, divisor, 1.0), 0.0)


def bootstrap_estimates(
    key: Array,
    terms: Terms,
    row_weight: Array | None = None,
    *,
    group: Array | None = None,
    n_resamples: int = 10_000,
    at_once: int = 64,
) -> Array:
    """Resampled values of a FIXED policy under FIXED nuisances by all seven estimators at once.

    Ratios are resampled as ratios, numerator and denominator together. The same resamples for all, so
    differences are paired. What the nuisances would have been with another log is not in it: see `refitted`.

    Args:
      key: of the resamples.
      terms: [n] each.
      row_weight: [n], or None for ones.
      group: [n] int in 0..n-1, rows that are not independent of each other; each is its own without it.
      n_resamples: B.
      at_once: resamples in one product; bounds memory.

    Returns:
      [B, 7], in the order of `POLICY_ESTIMATORS`.
    """
    columns = jnp.stack(terms, axis=1)
    columns = columns if row_weight is None else columns * row_weight[:, None]
    sums = bootstrap_sums(key, columns, group=group, n_resamples=n_resamples, at_once=at_once)
    return estimates(Terms(*sums.T))
