"""What a learner's router is worth, from the log it learns from, and how far that can be trusted.

Fold by fold, nuisances and router are fitted again on the other folds (`honest_value`); what held-out rows say then
gives, at each lambda: the value, the gain over the logging policy and over the best single model with intervals and
a band, the hidden confounding that the gain would survive (`sensitivity`), and a verdict (`verdict`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.chunks import map_rows, rows_at_once
from jrouter.counterfactual import scored_factor
from jrouter.diagnostics import diagnose
from jrouter.honest_value import fit_without_fold
from jrouter.inference import simultaneous_interval, standard_error, wald_interval
from jrouter.metrics import utility
from jrouter.nuisances.crossfit import NuisanceConfig
from jrouter.policy import Method
from jrouter.policy_value import policy_terms
from jrouter.sensitivity import GAMMAS, critical_gamma, sensitivity_bounds
from jrouter.splits import Split, rows_by_label, split_log
from jrouter.types import Array, LoggedData, Nuisances
from jrouter.verdict import Thresholds, judge_numbers, key_numbers
from jrouter.weighted import weighted_mean

LEVEL = 0.95


class AtLambda(NamedTuple):
    """What is said of a router at one lambda; plain numbers. Values are mean utilities, intervals of 95%.

    Attributes:
      lam: lambda.
      value: of the router learned on the other folds, and
      value_error: its standard error.
      logging_value: of what the log did.
      gain: over the logging policy,
      gain_low: and
      gain_high: its interval, paired row by row.
      band_low: and
      band_high: a band that holds the gains at all lambdas at once.
      gain_over_best: over the best single model, chosen on the other folds, and
      gain_over_best_error: its standard error.
      gamma: hidden confounding (odds ratio, at least 1) at which the gain's lower bound vanishes, and
      gamma_beyond: whether that is more than this, the end of the grid.
      gamma_confident: the same of the lower end of the bound's interval, and
      gamma_confident_beyond: likewise.
      verdict: ok, caution or refuse.
      reasons: for it.
    """

    lam: float
    value: float
    value_error: float
    logging_value: float
    gain: float
    gain_low: float
    gain_high: float
    band_low: float
    band_high: float
    gain_over_best: float
    gain_over_best_error: float
    gamma: float
    gamma_beyond: bool
    gamma_confident: float
    gamma_confident_beyond: bool
    verdict: str
    reasons: tuple[str, ...]


Assessment = tuple[AtLambda, ...]
"""By ascending lambda."""


def assess(
    key: Array,
    log: LoggedData,
    method: Method,
    reference: Method,
    lambdas: Array,
    *,
    nuisances: NuisanceConfig = NuisanceConfig(),
    n_folds: int = 5,
    seed: int = 0,
    gammas: tuple[float, ...] = GAMMAS,
    thresholds: Thresholds = Thresholds(),
    on_fold: Callable[[int], Any] | None = None,
) -> Assessment:
    """Assesses a learner on its log: K fits of it, and of all nuisances. Holds [n, L, T] numbers at once.

    Args:
      key: of the fits.
      log: n rows; those of one `group` are taken as dependent.
      method: the learner. It sees the complement's rows at their weights.
      reference: what else to compare with, e.g. `METHODS["best_single"]()`.
      lambdas: [L].
      nuisances: how propensities and outcomes are estimated.
      n_folds: K >= 2.
      seed: of the folds.
      gammas: ascending from 1, where bounds are computed.
      thresholds: of the verdict.
      on_fold: called with the number of finished folds.

    Returns:
      `Assessment`. Its standard errors take the nuisances as they are: right to first order where both are right.
      The value is that of a router learned on (K - 1) / K of this log.
    """
    outer, inner = (split_log([log], seeds=[number], n_folds=n_folds)[0] for number in (seed, seed + 1))
    n, shape = log.model.shape[0], (log.model.shape[0], lambdas.shape[0], len(log.models))

    @jax.jit
    def of_fold(key, log, outer, inner, lambdas, number):
        return _held_out_choices(key, log, outer, inner, (method, reference), lambdas, number, nuisances)

    choices = [np.zeros(shape, np.float32) for _ in range(2)]
    rest: Any = None
    for number in range(n_folds):
        places, found, rows = jax.tree.map(np.asarray, of_fold(key, log, outer, inner, lambdas, np.int32(number)))
        kept = places < n
        for whole, part in zip(choices, found, strict=True):
            whole[places[kept]] = part[kept]
        rest = rest or jax.tree.map(lambda leaf: np.zeros((n, *leaf.shape[1:]), leaf.dtype), rows)
        for whole, part in zip(jax.tree.leaves(rest), jax.tree.leaves(rows), strict=True):
            whole[places[kept]] = part[kept]
        if on_fold is not None:
            on_fold(number + 1)
    fitted: Nuisances = jax.tree.map(jnp.asarray, rest)
    run = jax.jit(lambda *given: _numbers(*given, n_folds=n_folds))
    by_lambda, band = run(key, log, fitted, *(jnp.asarray(one) for one in choices), lambdas, jnp.array(gammas))
    return _as_assessment(jax.tree.map(np.asarray, by_lambda), np.asarray(lambdas), band, thresholds)


def _held_out_choices(
    key: Array,
    log: LoggedData,
    outer: Split,
    inner: Split,
    methods: tuple[Method, ...],
    lambdas: Array,
    number: Array,
    nuisances: NuisanceConfig,
) -> tuple[Array, list[Array], Nuisances]:
    """Places [m] of one fold's rows, what each learner would choose on them [m, L, T], and their nuisances."""
    fits = [method.fit for method in methods]
    estimated, params = fit_without_fold(key, log, outer, inner, fits, lambdas, number, nuisances=nuisances)
    by_fold, present = rows_by_label(outer.fold, n_labels=outer.n_folds, size=outer.fold_size)
    rows = by_fold[number]
    places = jnp.where(present[number], rows, log.model.shape[0])
    chunk = rows_at_once(lambdas.shape[0] * len(log.models))
    choices = [
        map_rows(
            lambda x, method=method, own=own: jax.vmap(lambda lam: method.policy.probabilities(own, x, lam))(lambdas),
            log.x[rows],
            chunk=chunk,
        )
        for method, own in zip(methods, params, strict=True)
    ]
    own = jax.tree.map(lambda leaf: leaf[rows], estimated)
    # What a row was valued by was fitted without its outer fold.
    return places, choices, replace(own, fold=outer.fold[rows])


def _numbers(
    key: Array,
    log: LoggedData,
    fitted: Nuisances,
    choices: Array,
    reference: Array,
    lambdas: Array,
    gammas: Array,
    *,
    n_folds: int,
) -> tuple[dict[str, Any], tuple[Array, Array]]:
    """Numbers at each lambda, and the ends of the band of gains."""
    weight, scored = log.weight, scored_factor(log, fitted)

    def own(predicted):
        return jnp.take_along_axis(predicted, log.model[:, None], axis=1)[:, 0]

    def at(operands):
        lam, chosen, other = operands

        def rows_of(probability):
            """Each row's doubly robust contribution to the value of a policy [n, T]."""
            parts = [
                jax.vmap(policy_terms)(probability, outcome, observed, log.model, fitted.propensity, scored=factor)
                for outcome, observed, factor in (
                    (fitted.score, log.score, scored),
                    (fitted.cost, log.cost, jnp.ones_like(scored)),
                )
            ]
            score, cost = (part.direct + part.dr for part in parts)
            return utility(score, cost, lam)

        seen = own(fitted.score) + scored * (log.score - own(fitted.score))
        rows, best, logged = rows_of(chosen), rows_of(other), utility(seen, log.cost, lam)
        differences = jnp.stack([rows, logged, rows - logged, rows - best])
        mean = weighted_mean(differences.T, weight)
        error = standard_error(differences, weight, group=log.group)
        bounds = sensitivity_bounds(
            chosen,
            utility(log.score, log.cost, lam),
            log.model,
            fitted.propensity,
            utility(fitted.score, fitted.cost, lam),
            fitted.fold,
            gammas,
            n_folds=n_folds,
            row_weight=weight,
            group=log.group,
            scored=scored,
        )
        critical = critical_gamma(gammas, bounds.gain, level=LEVEL)
        numbers = key_numbers(diagnose(log, fitted, chosen, lam=lam))
        influence = weight * (rows - logged - mean[2]) / jnp.maximum(weight.sum(), 1e-30)
        return {"mean": mean, "error": error, "critical": critical, "numbers": numbers}, influence

    found, influence = jax.lax.map(at, (lambdas, jnp.swapaxes(choices, 0, 1), jnp.swapaxes(reference, 0, 1)))
    band = simultaneous_interval(key, found["mean"][:, 2], influence, group=log.group, level=LEVEL)
    return found, (band.low, band.high)


def _as_assessment(found: dict[str, Any], lambdas: np.ndarray, band: Any, thresholds: Thresholds) -> Assessment:
    said = []
    for place, lam in enumerate(lambdas):
        mean, error = found["mean"][place].tolist(), found["error"][place].tolist()
        interval = wald_interval(jnp.array(mean[2]), jnp.array(error[2]), level=LEVEL)
        critical = [leaf[place].item() for leaf in found["critical"]]
        verdict = judge_numbers({name: float(values[place]) for name, values in found["numbers"].items()}, thresholds)
        said.append(
            AtLambda(
                lam=float(lam),
                value=mean[0],
                value_error=error[0],
                logging_value=mean[1],
                gain=mean[2],
                gain_low=float(interval.low),
                gain_high=float(interval.high),
                band_low=float(band[0][place]),
                band_high=float(band[1][place]),
                gain_over_best=mean[3],
                gain_over_best_error=error[3],
                gamma=critical[0],
                gamma_beyond=critical[1],
                gamma_confident=critical[2],
                gamma_confident_beyond=critical[3],
                verdict=verdict.level,
                reasons=verdict.reasons,
            )
        )
    return tuple(said)


def from_plain(rows: Sequence[Mapping[str, Any]]) -> Assessment:
    """An assessment from dicts, as JSON gives them back."""
    return tuple(AtLambda(**{**row, "reasons": tuple(row["reasons"])}) for row in rows)


def describe(assessment: Assessment) -> str:
    """An assessment as text: a line for each lambda, then the reasons.

    Utilities x 100.
    """
    lines = [
        "held-out value x 100 of a router learned on the other folds, with 95% intervals; Gamma: how strong hidden",
        "confounding (odds ratio) must be for the gain to vanish, allowing for chance in brackets",
        f"{'lambda':>10}{'value':>8}{'gain over logging':>24}{'over best single':>18}{'Gamma':>18}  verdict",
    ]
    for one in assessment:
        gain = f"{100 * one.gain:+.1f} [{100 * one.gain_low:+.1f}, {100 * one.gain_high:+.1f}]"
        best = f"{100 * one.gain_over_best:+.1f} ± {100 * 1.96 * one.gain_over_best_error:.1f}"
        point, sure = (
            f"{'>' * beyond}{value:.2f}"
            for value, beyond in (
                (one.gamma, one.gamma_beyond),
                (one.gamma_confident, one.gamma_confident_beyond),
            )
        )
        gamma = f"{point} ({sure})"
        lines.append(f"{one.lam:>10.4g}{100 * one.value:>8.1f}{gain:>24}{best:>18}{gamma:>18}  {one.verdict}")
    for reason in dict.fromkeys(reason for one in assessment for reason in one.reasons):
        where = ", ".join(f"{one.lam:.4g}" for one in assessment if reason in one.reasons)
        lines.append(f"  lambda {where}: {reason}")
    return "\n".join(lines)
