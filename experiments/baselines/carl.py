"""carl_{mean,lower,thompson}: three decision rules on the same doubly robust scores, so that only the rule differs.

    theta_t = A^-1 sum_i w_i x_i y_it,    A = P + sum_i w_i x_i x_i'      one A for all models: every row has every y_it
    V_t(x) = x' A^-1 (sum_i w_i^2 e_it^2 x_i x_i') A^-1 x,                e_it = (y_it - theta_t' x_i) / (1 - h_i)

of score and of cost, with y_it the counterfactual score of model t on row i, x with a constant 1, h_i = x_i' A^-1 x_i.
Utility at lambda is affine in both, so its mean and error follow, with their covariance C_t by e_score * e_cost:

    u_t = s_t - lambda * c_t,    V(u_t) = V(s_t) + lambda^2 V(c_t) - 2 lambda C_t(x)

    mean       argmax u_t                        the plug-in rule
    lower      argmax u_t - width * sqrt V(u_t)
    thompson   t with the probability that it is best under N(u_t, V(u_t)), models independent

Source: CARL, known to us second-hand: shrunken doubly robust scores of a log with known propensities, and lower
confidence bounds. No text of it could be found, so these are its parts as others describe them: Su, Dimakopoulou,
Krishnamurthy & Dudik (2020), Doubly robust off-policy evaluation with shrinkage, arXiv 1907.09623 (weights); Kennedy
(2020), Towards optimal doubly robust estimation of heterogeneous causal effects, arXiv 2004.14497 (regression of such
scores); MacKinnon & White (1985), HC3 (errors); Jin, Yang & Wang (2021), arXiv 2012.15085 (lower); Agrawal & Goyal
(2013), arXiv 1209.3352 (thompson). The rules are those of `jrouter.methods.linucb`, whose errors are of regressions on
the logged rows of each model, without weights.

Adaptation: none of the data, which is a log. thompson is an online rule, paid back by what it learns: of a log that
is read once it shows what exploring costs. Rows of one group (query) count as one, which is the house's rule.
Deviations: propensities are the log's where it has them, else estimated; one penalty, `ratio` * d, for all models and
outcomes, not chosen; rules are on a regression, which forgets what the bounds of its scores say of single queries.

What the errors see: noise of outcomes and of who answered, and what is not linear in x. What they do not see: that the
outcome model and the propensities were estimated. Shrinkage takes corrections off where weights are largest: of a
model that was hardly ever logged the score is then the outcome model's alone, smooth, and its error small. The bound
avoids such a model at a large `strength` only (or "dr").
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jrouter.features import fit_scaling, scale
from jrouter.linalg import spd_inverse
from jrouter.methods.linucb import LinUcbConfig, rule_policy
from jrouter.policy import Method
from jrouter.tuning import tuned_scores
from jrouter.types import Array
from jrouter.weighted import weighted_mean


@dataclass(frozen=True)
class CarlConfig(LinUcbConfig):
    """`LinUcbConfig`, and which scores: an estimator, and its strength or the rule that chooses it."""

    estimator: str = "dros"
    strength: float | str = 10.0


def shared_regression(x: Array, targets: Array, weight: Array, penalty: Array) -> tuple[Array, Array, Array]:
    """Ridge regressions of many targets on the same rows.

    Args:
      x: [n, D].
      targets: [n, ...].
      weight: [n].
      penalty: [D].

    Returns:
      Coefficients [D, ...], left-out residuals [n, ...] (what HC3 squares), and A^-1 [D, D].

    >>> ones = jnp.ones((4, 1))
    >>> coefficients, residuals, inverse = shared_regression(ones, jnp.arange(4.), jnp.ones(4), jnp.zeros(1))
    >>> coefficients, residuals  # 0 less the mean of 1, 2 and 3, and so on
    (Array([1.5], dtype=float32), Array([-2.       , -0.6666667,  0.6666667,  2.       ], dtype=float32))
    """
    inverse = spd_inverse((x * weight[:, None]).T @ x + jnp.diag(penalty))
    flat = targets.reshape(x.shape[0], -1)
    coefficients = inverse @ (x.T @ (weight[:, None] * flat))
    leverage = jnp.einsum("nd,de,ne->n", x, inverse, x)
    # Of one copy of the row, whatever it weighs; 1 only where nothing is penalised and a row stands alone.
    residuals = (flat - x @ coefficients) / jnp.maximum(1.0 - leverage, 1e-3)[:, None]
    return coefficients.reshape(-1, *targets.shape[1:]), residuals.reshape(targets.shape), inverse


def sandwich(x: Array, residuals: Array, weight: Array, inverse: Array, group: Array | None) -> Array:
    """[3, D, D], covariance of one model's coefficients: of score, of both, of cost.

    A^-1 (sum_g (sum_{i in g} w_i e_i x_i) (sum_{i in g} w_i f_i x_i)') A^-1

    Args:
      x: [n, D].
      residuals: [n, 2], e of score and f of cost.
      weight: [n].
      inverse: A^-1 [D, D].
      group: [n] int in 0..n-1, or None: each row is its own.
    """
    score, cost = (x * (weight * residuals[:, part])[:, None] for part in (0, 1))
    if group is not None:
        score, cost = (jnp.zeros_like(rows).at[group].add(rows) for rows in (score, cost))
    return jnp.stack([inverse @ (a.T @ b) @ inverse for a, b in ((score, score), (score, cost), (cost, cost))])


def utility_moments(params: dict[str, Any], x: Array, lam: float | Array) -> tuple[Array, Array]:
    """Mean [T] of each model's utility on one query [d], and its standard error [T]."""
    x = jnp.append(scale(params["scaling"], x), 1.0)
    mean = params["mean"] + params["deviation"] * jnp.einsum("d,dot->ot", x, params["coefficients"])
    score, both, cost = jnp.einsum("d,twde,e->wt", x, params["covariance"], x)
    unit = params["deviation"]
    variance = score * unit[0] ** 2 - 2.0 * lam * both * unit[0] * unit[1] + cost * (lam * unit[1]) ** 2
    return mean[0] - lam * mean[1], jnp.sqrt(jnp.maximum(variance, 1e-30))


def carl(config: CarlConfig = CarlConfig()) -> Method:
    """A rule on one regression of all counterfactual scores and their sandwich errors."""

    def fit(key, problem):
        del key
        log = problem.log
        scores = tuned_scores(log, problem.nuisances, estimator=config.estimator, strength=config.strength)
        scaling = fit_scaling(log.x, log.weight)
        x = jnp.concatenate([scale(scaling, log.x), jnp.ones((log.x.shape[0], 1))], axis=1)
        targets = jnp.stack([scores.score, scores.cost], axis=1)
        mean = weighted_mean(targets, log.weight)
        variance = weighted_mean((targets - mean) ** 2, log.weight)
        deviation = jnp.where(variance > 1e-20, jnp.sqrt(jnp.where(variance > 1e-20, variance, 1.0)), 1.0)
        # Standardised, the constants are 0: their penalty shrinks nothing.
        penalty = jnp.append(jnp.full(log.x.shape[1], config.ratio * log.x.shape[1]), 1.0)
        standard = (targets - mean) / deviation
        coefficients, residuals, inverse = shared_regression(x, standard, log.weight, penalty)

        def of_model(residuals):
            return sandwich(x, residuals, log.weight, inverse, log.group)

        # One model after another: n * D numbers at a time, and D * D * 3 for each that is kept.
        covariance = jax.lax.map(of_model, jnp.moveaxis(residuals, 2, 0))
        return {
            "coefficients": coefficients,
            "covariance": covariance,
            "mean": mean,
            "deviation": deviation,
            "scaling": scaling,
        }

    return Method(fit, rule_policy(config.rule, config.width, utility_moments), config)


def _with(rule: str) -> Callable[..., Method]:
    default = CarlConfig(rule)
    return lambda config=default: carl(config)


VARIANTS = {f"carl_{rule}": _with(rule) for rule in ("mean", "lower", "thompson")}
