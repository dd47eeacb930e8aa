"""linucb_{mean,lower,upper,thompson}: ridge regressions per model with bounds, and four rules on the same numbers.

    A_t = P + sum_{i: t_i = t} x_i x_i',   theta_t = A_t^-1 sum x_i y_i,   sd_t(x) = sigma_t sqrt(x' A_t^-1 x)

of score and of cost, x with a constant 1. Utility at lambda is affine in both, so its mean and deviation follow:

    u_t = s_t - lambda * c_t,    sd_t^2 = sd(s_t)^2 + lambda^2 sd(c_t)^2 - 2 lambda rho_t sd(s_t) sd(c_t)

    mean       argmax u_t                the plug-in rule
    lower      argmax u_t - width sd_t   pessimism: of what was seldom logged, little is believed
    upper      argmax u_t + width sd_t   LinUCB's rule
    thompson   t with the probability that it is best under N(u_t, sd_t^2), models independent

Source: Li, Chu, Langford & Schapire (2010), A contextual-bandit approach, arXiv 1003.0146, algorithm 1 (disjoint linear
models, alpha = width); Jin, Yang & Wang (2021), Is pessimism provably efficient, arXiv 2012.15085 (lower); Agrawal &
Goyal (2013), Thompson sampling with linear payoffs, arXiv 1209.3352. A_t and theta_t are the same in any order of rows,
so one solve on the log is what LinUCB would know after those rows.

Adaptation: upper and thompson are ONLINE rules, paid back by what they learn from their choices. A log is read once and
nothing is learned after it: there they only show what exploring would cost next. Offline the rule is lower.
Deviations: the penalty is `ratio` * d on embeddings of one scale (1 on the constant) in place of the identity;
sigma_t is the deviation of the model's own residuals (and of two usual ones), not 1, so width counts standard errors;
bounds are of the fit and know nothing of its bias. rho is the residuals' correlation, as if score and cost were of the
same rows; where some answers are unscored they are not quite.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jrouter.features import fit_scaling, scale
from jrouter.linalg import spd_inverse
from jrouter.nuisances.outcome import outcomes_of
from jrouter.policy import Method, Policy
from jrouter.splits import rows_by_label
from jrouter.types import Array
from jrouter.weighted import weighted_mean

RULES = ("mean", "lower", "upper", "thompson")


def check_rule(rule: str) -> None:
    """Raises a ValueError for what is none of `RULES`."""
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: expected one of {', '.join(RULES)}")


@dataclass(frozen=True)
class LinUcbConfig:
    """Which of `RULES`; how many standard errors its bound is away; and the ridge penalty, times d."""

    rule: str = "mean"
    width: float = 1.0
    ratio: float = 10.0

    def __post_init__(self):
        check_rule(self.rule)


def utility_moments(params: dict[str, Any], x: Array, lam: float | Array) -> tuple[Array, Array]:
    """Mean [T] of each model's utility on one query [d], and its standard error [T]."""
    x = jnp.append(scale(params["scaling"], x), 1.0)
    mean = params["mean"] + params["deviation"] * (params["theta"] @ x)
    leverage = jnp.maximum(jnp.einsum("d,wtde,e->wt", x, params["inverse"], x), 0.0)
    error = params["deviation"] * params["sigma"] * jnp.sqrt(leverage)
    variance = error[0] ** 2 + (lam * error[1]) ** 2 - 2.0 * lam * params["rho"] * error[0] * error[1]
    # |rho| <= 1 makes it no less than 0 but for rounding.
    return mean[0] - lam * mean[1], jnp.sqrt(jnp.maximum(variance, 1e-30))


def probability_best(mean: Array, error: Array) -> Array:
    """[T], probability that each of independent N(mean_t, error_t^2) is the highest.

    int phi(z) prod_{s != t} Phi((mean_t + error_t z - mean_s) / error_s) dz, on a grid of z.

    >>> probability_best(jnp.array([0., 0., -9.]), jnp.array([1., 1., 1.])).round(3)
    Array([0.5, 0.5, 0. ], dtype=float32)
    """

    def add(total, z):
        drawn = mean + error * z
        below = jax.scipy.stats.norm.cdf((drawn[:, None] - mean) / error)  # [t, s]
        own = jnp.eye(mean.shape[0], dtype=bool)
        return total + jnp.where(own, 1.0, below).prod(axis=1) * jnp.exp(-0.5 * z**2), None

    # One z after another: [T, T] numbers a query and lambda are held, not a hundred times as many.
    total = jax.lax.scan(add, jnp.zeros_like(mean), jnp.linspace(-5.0, 5.0, 101))[0]
    return total / total.sum()


def thompson_logits(mean: Array, error: Array, mask: Array | None = None) -> Array:
    """[T], logarithms of the probabilities with which models of the pool `mask` [T] are the best of it.

    >>> jnp.exp(thompson_logits(jnp.array([0., 0., 9.]), jnp.ones(3), jnp.array([True, True, False]))).round(3)
    Array([0.5, 0.5, 0. ], dtype=float32)
    """
    if mask is not None:
        mean = jnp.where(mask, mean, mean.min() - 20.0 * error.max())
    return jnp.log(jnp.maximum(probability_best(mean, error), 1e-30))


@dataclass(frozen=True)
class ThompsonPolicy(Policy):
    """Draws a model as often as it is the best of the pool: in a smaller pool, not in the same ratios again.

    Attributes:
      moments: (params, x [d], lam) -> mean [T] and standard error [T] of each model's utility.
    """

    moments: Callable[[Any, Array, Any], tuple[Array, Array]] = utility_moments

    def values(self, params: Any, x: Array, lam: float | Array, mask: Array | None = None) -> Array:
        """[T], `thompson_logits`."""
        return thompson_logits(*self.moments(params, x, lam), mask)


def rule_policy(rule: str, width: float, moments: Callable[[Any, Array, Any], tuple[Array, Array]]) -> Policy:
    """The policy of a rule on any means and errors of utilities.

    Args:
      rule: one of `RULES`.
      width: standard errors to a bound; mean and thompson ignore it.
      moments: (params, x [d], lam) -> mean [T] and standard error [T] of each model's utility.

    Raises:
      ValueError: for an unknown rule.
    """
    check_rule(rule)
    if rule == "thompson":
        return ThompsonPolicy(lambda *query: thompson_logits(*moments(*query)), stochastic=True, moments=moments)
    signed = {"mean": 0.0, "lower": -width, "upper": width}[rule]

    def apply(params, x, lam):
        mean, error = moments(params, x, lam)
        return mean + signed * error

    return Policy(apply)


def linucb(config: LinUcbConfig = LinUcbConfig()) -> Method:
    """A rule on per-model ridge regressions and their standard errors."""

    def fit(key, problem):
        del key
        log = problem.log
        scaling = fit_scaling(log.x, log.weight)
        outcomes, units = outcomes_of(log, scale(scaling, log.x), log.weight)
        penalty = jnp.diag(jnp.append(jnp.full(log.x.shape[1], config.ratio * log.x.shape[1]), 1.0))
        # What is usual around a model's mean, in its units: two rows' worth of it, for a model of few rows.
        weights = jnp.broadcast_to(outcomes.weight, outcomes.observed.shape)
        usual = weighted_mean((outcomes.observed * units.deviation[:, log.model].T) ** 2, weights)
        usual = usual[:, None] / units.deviation**2
        rows, present = rows_by_label(log.model, n_labels=len(log.models), size=problem.split.model_size)

        def of_model(mine):
            rows, present, usual = mine
            x = jnp.concatenate([outcomes.x[rows], jnp.ones((rows.shape[0], 1))], axis=1)
            y = outcomes.observed[rows]
            weight = jnp.broadcast_to(outcomes.weight[rows] * present[:, None], y.shape)

            def of_outcome(weight, y):
                inverse = spd_inverse((x * weight[:, None]).T @ x + penalty)
                theta = inverse @ (x.T @ (weight * y))
                return inverse, theta, y - x @ theta

            inverse, theta, residual = jax.vmap(of_outcome, in_axes=1)(weight, y)
            total = weight.sum(axis=0)
            sigma = jnp.sqrt(((weight.T * residual**2).sum(axis=1) + 2.0 * usual) / (total + 2.0))
            both = weight.min(axis=1)
            together = (both * residual[0] * residual[1]).sum() / (both.sum() + 2.0)
            return inverse, theta, sigma, jnp.clip(together / jnp.maximum(sigma[0] * sigma[1], 1e-30), -1.0, 1.0)

        # One model after another, as for ridge outcome models.
        inverse, theta, sigma, rho = jax.lax.map(of_model, (rows, present, usual.T))
        return {
            "inverse": inverse.swapaxes(0, 1),
            "theta": theta.swapaxes(0, 1),
            "sigma": sigma.T,
            "rho": rho,
            "mean": units.mean,
            "deviation": units.deviation,
            "scaling": scaling,
        }

    return Method(fit, rule_policy(config.rule, config.width, utility_moments), config)


def _with(rule: str) -> Callable[..., Method]:
    default = LinUcbConfig(rule)
    return lambda config=default: linucb(config)


VARIANTS = {f"linucb_{rule}": _with(rule) for rule in RULES}
