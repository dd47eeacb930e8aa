"""What a log says of a policy some of whose choices could hardly have been logged.

A choice t for a query x is supported where p_t(x) >= a, the threshold. Of the rest the log says next to nothing,
and doubly robust values lean there on the outcome model alone. Three honest answers:

- `supported_value`: the value of the supported choices alone. ANOTHER ESTIMAND: it answers "how good are the
  choices that the log can judge", not "what is the policy worth".
- `overlap_weighted_value`: the value over queries that could have gone to every model. ANOTHER ESTIMAND, too.
- `bounds.value_bounds`: the policy's value over ALL queries, as an interval: whatever the unsupported choices
  are worth between the lowest and the highest possible outcome.

The supported set is what the given propensities say it is, and counts as known. For a fixed threshold and policy
everything is linear in the outcome: terms of the utility are those of the score less lambda times those of the cost.

Source: D'Amour, Ding, Feller, Lei & Sekhon (2021), on why overlap fails where x is rich, and what is left then;
Crump, Hotz, Imbens & Mitnik (2009), for the threshold; Manski (1990), for the bounds.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass

from jrouter.bounds import ValueBounds, utility_range, value_bounds
from jrouter.counterfactual import scored_factor
from jrouter.estimators import inverse_propensity_weight, overlap_row_weight
from jrouter.inference import standard_error
from jrouter.metrics import expected, utility
from jrouter.types import Array, LoggedData, Nuisances
from jrouter.weighted import weighted_mean

SUPPORTED = (
    "value of the policy's supported choices alone (propensity at least the threshold), not over all its choices"
)
OVERLAP = "value over the overlap population (queries weighted by 1 / sum_t 1 / p_t), not over all queries"


@register_dataclass
@dataclass(frozen=True)
class OverlapValue:
    """Value over a part of the population. ANOTHER ESTIMAND than the value over all queries: see `estimand`.

    Attributes:
      value: scalar.
      error: its standard error.
      share: of the supported value, the share of the policy's choices that is supported; of the overlap-weighted
        one, the share of the rows that are left in effect (Kish): (sum v h)^2 / (sum v sum v h^2).
      share_error: standard error of the share of choices; 0 for the other.
      rows: [n], contributions: their weighted mean is `value`, its standard error `error`; for paired differences.
      estimand: what `value` is the value of, in words (static).
    """

    value: Array
    error: Array
    share: Array
    share_error: Array
    rows: Array
    estimand: str = field(metadata={"static": True})


class LimitedOverlap(NamedTuple):
    """The three answers; `overlap` is None where only logged models' propensities are known."""

    supported: OverlapValue
    overlap: OverlapValue | None
    bounds: ValueBounds


def supported(probability: Array, propensity: Array, *, threshold: float | Array) -> Array:
    """Policy mass on the models that could well have been logged: pi_t 1[p_t >= threshold].

    Args:
      probability: [T], pi(. | x).
      propensity: [T], p(x).
      threshold: a >= 0; 0 supports everything.

    Returns:
      [T].

    >>> supported(jnp.array([.5, .3, .2]), jnp.array([.7, .29, .01]), threshold=.05)
    Array([0.5, 0.3, 0. ], dtype=float32)
    """
    chex.assert_rank([probability, propensity], 1)
    chex.assert_equal_shape([probability, propensity])
    return jnp.where(propensity >= threshold, probability, 0.0)


def supported_terms(
    probability: Array,
    outcome: Array,
    observed: Array,
    model: Array,
    propensity: Array,
    all_propensity: Array | None = None,
    *,
    threshold: float | Array,
    observed_weight: float | Array = 1.0,
) -> tuple[Array, Array]:
    """What one row says of the policy's supported choices: their outcome, and their mass. `vmap` over rows.

        part = sum_t s_t r_t + s_m / p_m (y - r_m),   mass = sum_t s_t,   s_t = pi_t 1[p_t >= a]

    for the logged model m: doubly robust, for outcomes of the supported choices. Where only the logged model's
    propensity is known, the supported set is not, but both means still are, by weights alone:

        part = s_m / p_m y,   mass = s_m / p_m

    The mass of a row is then noise around its supported share, which the log's own propensities must get right,
    and the outcome model has no part in it.

    Args:
      probability: [T], pi(. | x), chosen without looking at the outcomes.
      outcome: [T], r(x), by an outcome model that did not see the row.
      observed: scalar, y; any finite number where `observed_weight` is 0.
      model: scalar int, m.
      propensity: scalar, p_m.
      all_propensity: [T], p(x), which says what is supported; or None.
      threshold: a >= 0. At 0 the part is the doubly robust outcome of the policy.
      observed_weight: scalar, factor of the correction: 1 / P(scored) where the outcome was observed, else 0.

    Returns:
      part and mass, scalars.

    >>> logged = dict(observed=1., model=0, propensity=.5, threshold=.1)
    >>> part, mass = supported_terms(jnp.array([.5, .5]), jnp.zeros(2), all_propensity=jnp.array([.5, .05]), **logged)
    >>> float(part), float(mass)
    (1.0, 0.5)
    """
    chex.assert_rank([probability, outcome, observed, model, propensity], [1, 1, 0, 0, 0])
    chex.assert_equal_shape([probability, outcome])
    weight = inverse_propensity_weight(propensity)
    if all_propensity is None:
        ratio = jnp.where(propensity >= threshold, probability[model], 0.0) * weight
        return ratio * observed_weight * observed, ratio
    mass = supported(probability, all_propensity, threshold=threshold)
    correction = mass[model] * weight * observed_weight * (observed - outcome[model])
    return expected(mass, outcome) + correction, mass.sum()


def supported_value(
    part: Array, mass: Array, row_weight: Array | None = None, group: Array | None = None
) -> OverlapValue:
    """Value of the policy's supported choices: ANOTHER ESTIMAND than the value of the policy.

        E[sum_t pi_t 1[p_t >= a] Y_t] / E[sum_t pi_t 1[p_t >= a]]

    Args:
      part: [n], of `supported_terms`; for utilities, that of the score less lambda times that of the cost.
      mass: [n].
      row_weight: [n].
      group: [n] int in 0..n-1, rows that are not independent.

    Returns:
      `OverlapValue`; 0 with error 0 where nothing is supported (`share` 0 says so).
    """
    chex.assert_equal_shape([part, mass])
    share = weighted_mean(mass, row_weight)
    positive = share > 0
    divisor = jnp.where(positive, share, 1.0)
    value = jnp.where(positive, weighted_mean(part, row_weight) / divisor, 0.0)
    # Influence of a row on a ratio of two means.
    rows = value + jnp.where(positive, (part - value * mass) / divisor, 0.0)
    error = standard_error(rows, row_weight, group=group)
    return OverlapValue(value, error, share, standard_error(mass, row_weight, group=group), rows, SUPPORTED)


def overlap_weighted_value(
    rows: Array, nuisances: Nuisances, row_weight: Array | None = None, group: Array | None = None
) -> OverlapValue:
    """Value over the overlap population: ANOTHER ESTIMAND than the value over all queries.

        E[h(x) sum_t pi_t Y_t] / E[h(x)],   h = 1 / sum_t 1 / p_t

    Queries count by how well every model could have been logged there (`estimators.overlap_tilt`), whatever the
    policy chooses, so policies are compared over one population.

    Args:
      rows: [n], doubly robust outcome of the policy's choice: part of `supported_terms` at threshold 0.
      nuisances: of the rows, with `all_propensity`.
      row_weight: [n].
      group: [n] int in 0..n-1, rows that are not independent.

    Returns:
      `OverlapValue`. The tilt counts as known, see `estimators.overlap_tilt`.

    Raises:
      ValueError: if only logged models' propensities are known.
    """
    tilt = overlap_row_weight(nuisances, row_weight)
    value = weighted_mean(tilt * rows, row_weight)  # tilts have mean 1
    square = weighted_mean(tilt**2, row_weight)
    share = jnp.where(square > 0, 1.0 / jnp.where(square > 0, square, 1.0), 0.0)
    rows = value + tilt * (rows - value)
    return OverlapValue(
        value, standard_error(rows, row_weight, group=group), share, jnp.zeros_like(share), rows, OVERLAP
    )


def limited_overlap_value(
    log: LoggedData,
    nuisances: Nuisances,
    probability: Array,
    lam: float | Array,
    *,
    threshold: float | Array,
    score_range: tuple[float, float] = (0.0, 1.0),
    cost_range: tuple[float, float | None] = (0.0, None),
    observed_weight: Array | None = None,
    level: float = 0.95,
) -> LimitedOverlap:
    """What a log says of a policy's utility at one lambda, where overlap is limited. Pure: jit it, vmap it.

    `supported` and `overlap` are OTHER ESTIMANDS than the value of the policy, which `bounds` are of.

    Args:
      log: n rows.
      nuisances: of these rows, cross-fitted. With `all_propensity`, what is supported is known and all is doubly
        robust; with logged propensities alone, weights estimate the supported part and its mass, the outcome model
        has no part in it, and `overlap` is None.
      probability: [n, T], the policy at `lam`, made without these outcomes.
      lam: lambda.
      threshold: a, least propensity of a supported choice. Fix it before looking at the result.
      score_range: least and greatest score.
      cost_range: least and greatest cost of a query, in the log's unit. None as the greatest takes the LARGEST
        LOGGED COST of the rows that count: a guess where unsupported choices are dearer than anything logged.
      observed_weight: [n], 1 / P(scored) where a row was scored, else 0; None for `counterfactual.scored_factor`.
      level: of the confidence interval of the bounds.

    Returns:
      `LimitedOverlap`.
    """
    known = nuisances.all_propensity is not None
    if observed_weight is None:
        observed_weight = scored_factor(log, nuisances)

    def utility_terms(threshold):
        def of_row(probability, score, cost, observed, paid, model, propensity, every, factor):
            logged = (model, propensity, every)
            of_score, mass = supported_terms(
                probability, score, observed, *logged, threshold=threshold, observed_weight=factor
            )
            of_cost, _ = supported_terms(probability, cost, paid, *logged, threshold=threshold)
            return utility(of_score, of_cost, lam), mass

        return jax.vmap(of_row)(
            probability,
            nuisances.score,
            nuisances.cost,
            log.score,
            log.cost,
            log.model,
            nuisances.propensity,
            nuisances.all_propensity,
            observed_weight,
        )

    part, mass = utility_terms(threshold)
    dearest = jnp.where(log.weight > 0, log.cost, 0.0).max() if cost_range[1] is None else cost_range[1]
    lowest, highest = utility_range(lam, score_range=score_range, cost_range=(cost_range[0], dearest))
    overlap = None
    if known:
        overlap = overlap_weighted_value(utility_terms(0.0)[0], nuisances, log.row_weight, log.group)
    return LimitedOverlap(
        supported=supported_value(part, mass, log.row_weight, log.group),
        overlap=overlap,
        bounds=value_bounds(
            part,
            mass,
            log.row_weight,
            log.group,
            lowest=lowest,
            highest=highest,
            mass_is_known=known,
            level=level,
        ),
    )
