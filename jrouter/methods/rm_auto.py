"""rm_auto: the simplest of several rules unless the log supports another. The package's default.

Candidates, from simple to complex:

    logging_policy        keep what wrote the log (its observed outcomes are its value), on average over the
                          models that rows like this were allowed
    best_single           one model per lambda
    pooled, stacked       plug-in rules: predict score and cost, take the best utility
    rm_residual           regret training from the stacked plug-in rule

One evaluator for all: the doubly robust value, a mean over lambdas, of decisions on rows that nothing
which made the decision has seen. Per fold, every candidate is fitted again on the other folds, and for
rm_residual so are the nuisances that its training scores are made of, cross-fitted within these. What is
taken from all rows is what cross-validation chose: strengths of regularisation, the stack's weights and
rm_residual's epoch; and best_single averages the other folds' scores, whose nuisances have seen the fold
it is judged on.

How much the evaluator's weights are shrunken, and by how much the incumbent must be beaten, was chosen in
synthetic worlds that no result is shown on (experiments/tune_auto.py).

The incumbent is the first candidate; each next one replaces it if its value is more than `support`
standard errors of the paired difference above it. `params["evidence"]` says what was found; `explain`
prints it.

Source: arXiv 2505.16037 for what the candidates are made of; the choice is ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.counterfactual import counterfactual_scores
from jrouter.inference import standard_error
from jrouter.methods.best_single import best_single
from jrouter.methods.logging_policy import LoggingPolicyConfig, logging_policy
from jrouter.methods.plug_in import decision_values, plug_in_params, plug_in_policy
from jrouter.methods.rm_residual import RmResidualConfig, fit_residual, residual_policy
from jrouter.metrics import utility
from jrouter.nuisances.crossfit import OUTCOME_MODELS, PROPENSITY_MODELS
from jrouter.nuisances.crossfit_outcome import fit_outcome, held_out_outcome
from jrouter.nuisances.crossfit_propensity import fit_propensity
from jrouter.nuisances.folds import fold_weights
from jrouter.policy import Method, Policy, Problem
from jrouter.types import Array, LoggedData, Nuisances
from jrouter.weighted import weighted_mean

SIMPLE = ("logging_policy", "best_single")


@dataclass(frozen=True)
class RmAutoConfig:
    """What is chosen from, and how.

    Attributes:
      candidates: from simple to complex; the first is the incumbent. Names of `SIMPLE`, of outcome
        models, "stacked", and "rm_residual".
      support: standard errors by which a candidate must beat the incumbent.
      strength_per_row: of the shrinkage of the evaluator's weights, times the number of logged rows: the
        largest weight is sqrt(n / 80) / 2, so 2.5 at 2,000 rows and 18 at 100,000. Infinity is plain
        doubly robust. A small log cannot tell candidates apart by large weights.
      residual: how rm_residual is trained; its propensity family serves all candidates.
    """

    candidates: tuple[str, ...] = (*SIMPLE, "pooled", "stacked", "rm_residual")
    support: float = 1.0
    strength_per_row: float = 1 / 80
    residual: RmResidualConfig = field(default_factory=RmResidualConfig)

    def __post_init__(self):
        known = (*SIMPLE, *OUTCOME_MODELS, "rm_residual")
        for name in self.candidates:
            if name not in known:
                raise ValueError(f"unknown candidate {name!r}: expected some of {', '.join(known)}")
        if not self.candidates:
            raise ValueError("no candidates: name at least one")

    @property
    def plug_ins(self) -> tuple[str, ...]:
        """The candidates that are outcome models."""
        return tuple(name for name in self.candidates if name in OUTCOME_MODELS)


class Candidates(NamedTuple):
    """Fitted candidates, and what to value them with.

    Attributes:
      params: name -> params of its policy, fitted on all rows; best_single needs scores first.
      predicted: name -> [n, 2, T], each row's score and cost by what never saw it; of those that predict.
      nuisances: cross-fitted, of the evaluator.
    """

    params: dict[str, Any]
    predicted: dict[str, Array]
    nuisances: Nuisances


def fit_candidates(key: Array, problem: Problem, config: RmAutoConfig) -> Candidates:
    """Fits every candidate on all rows, and on each fold's complement.

    Args:
      key: of networks and their nuisances.
      problem: log, split, propensity and lambdas.
      config: names of the candidates; how rm_residual is trained.

    Raises:
      ValueError: with a single fold.
    """
    if problem.split.n_folds < 2:
        raise ValueError("rm_auto chooses by held-out value: split the log in two folds or more")
    log, split, residual = problem.log, problem.split, config.residual
    key_outcome, key_propensity, key_residual = jax.random.split(key, 3)
    stack = fit_outcome(key_outcome, OUTCOME_MODELS[residual.outcome](), log, split)
    fits = {residual.outcome: stack, **(stack.parts or {})}
    for name in config.plug_ins:
        if name not in fits:
            fits[name] = fit_outcome(key_outcome, OUTCOME_MODELS[name](), log, split)
    params: dict[str, Any] = {name: plug_in_params(fits[name]) for name in config.plug_ins}
    predicted = {name: fits[name].predicted for name in config.plug_ins}
    logging = fit_propensity(key_propensity, PROPENSITY_MODELS[residual.propensity](), log, split)
    if "logging_policy" in config.candidates:
        last = jax.tree.map(lambda leaf: leaf[-1], logging.params)
        params["logging_policy"] = {"model": last, "scaling": logging.scaling}
    if "rm_residual" in config.candidates:
        params["rm_residual"], predicted["rm_residual"] = fit_residual(
            key_residual, problem, stack, residual, strength=logging.strength
        )
    score, cost = held_out_outcome(stack)
    return Candidates(params, predicted, replace(problem.nuisances, score=score, cost=cost))


def value_candidates(
    problem: Problem, fitted: Candidates, names: Sequence[str], *, strength: float
) -> tuple[Array, dict[str, Array]]:
    """What each row adds to each candidate's held-out value, a mean over lambdas.

    Args:
      problem: log, split and lambdas.
      fitted: from `fit_candidates`.
      names: of M candidates.
      strength: of the shrinkage of the evaluator's weights; infinity is plain doubly robust.

    Returns:
      [M, n], and the params of best_single.
    """
    log, split, lambdas = problem.log, problem.split, problem.lambdas
    estimator = "dr" if math.isinf(strength) else "dros"
    scores = counterfactual_scores(log, fitted.nuisances, estimator=estimator, strength=strength)
    both = jnp.stack([scores.score, scores.cost], axis=1)
    means = jax.vmap(lambda weight: weighted_mean(both, weight))(fold_weights(log, split))
    rows = []
    for name in names:
        if name == "logging_policy":
            rows.append(observed_utility(log, fitted.nuisances, lambdas))
        else:
            predicted = means[split.fold] if name == "best_single" else fitted.predicted[name]
            rows.append(decision_values(predicted, scores, lambdas))
    return jnp.stack(rows), {"score": means[-1, 0], "cost": means[-1, 1]}


def choose(rows: Array, weight: Array, group: Array | None, *, support: float) -> dict[str, Array]:
    """The last of M candidates, from simple to complex, that the log supports against its predecessor.

    Args:
      rows: [M, n], contribution of each row to each candidate's value.
      weight: [n], row weights.
      group: [n], rows that are not independent, or None.
      support: standard errors of the paired difference by which the incumbent must be beaten.

    Returns:
      {"chosen": index, "value": [M], "error": [M], and of each candidate when its turn came: "incumbent":
      [M] whom it had to beat, "gain": [M] over it and "gain_error": [M]}.

    >>> rows = jnp.array([[0., 0., 0., 0.], [1., 1., 1., 1.], [1., 2., 0., 1.]])
    >>> int(choose(rows, jnp.ones(4), None, support=1.)["chosen"])
    1
    """
    value, error = weighted_mean(rows.T, weight), standard_error(rows, weight, group=group)
    chosen, record = jnp.int32(0), [(jnp.int32(0), jnp.zeros(()), jnp.zeros(()))]
    for place in range(1, rows.shape[0]):
        difference = rows[place] - rows[chosen]
        gain, gain_error = weighted_mean(difference, weight), standard_error(difference, weight, group=group)
        record.append((chosen, gain, gain_error))
        chosen = jnp.where(gain > support * gain_error, place, chosen).astype(jnp.int32)
    incumbent, gains, gain_errors = (jnp.stack(part) for part in zip(*record, strict=True))
    return {
        "chosen": chosen,
        "value": value,
        "error": error,
        "incumbent": incumbent,
        "gain": gains,
        "gain_error": gain_errors,
    }


def rm_auto(config: RmAutoConfig = RmAutoConfig()) -> Method:
    """The simplest candidate unless the log supports another."""
    policies = {
        "logging_policy": logging_policy(LoggingPolicyConfig(config.residual.propensity)).policy,
        "best_single": best_single().policy,
        **{name: plug_in_policy(OUTCOME_MODELS[name]().predict) for name in config.plug_ins},
        "rm_residual": residual_policy(config.residual),
    }

    def fit(key: Array, problem: Problem) -> dict[str, Any]:
        fitted = fit_candidates(key, problem, config)
        strength = config.strength_per_row * problem.log.model.shape[0]
        rows, best = value_candidates(problem, fitted, config.candidates, strength=strength)
        found = choose(rows, problem.log.weight, problem.log.group, support=config.support)
        return {name: best if name == "best_single" else fitted.params[name] for name in config.candidates} | {
            "evidence": found
        }

    def held(params: dict[str, Any]) -> list[str]:
        return [name for name in config.candidates if name in params]

    def apply(params: dict[str, Any], x: Array, lam: Array) -> Array:
        names = held(params)
        if len(names) == 1:  # a settled router
            return policies[names[0]].apply(params[names[0]], x, lam)
        branches = [lambda x, lam, name=name: policies[name].apply(params[name], x, lam) for name in names]
        return jax.lax.switch(params["evidence"]["chosen"], branches, x, lam)

    def draws(params: dict[str, Any]) -> Array:
        return jnp.array([name == "logging_policy" for name in config.candidates])[params["evidence"]["chosen"]]

    def settle(params: dict[str, Any]) -> dict[str, Any]:
        chosen = config.candidates[int(params["evidence"]["chosen"])]
        return {chosen: params[chosen], "evidence": params["evidence"]}

    def explain(params: dict[str, Any]) -> str:
        found = jax.tree.map(np.asarray, params["evidence"])
        lines = [
            "held-out value x 100, mean over lambdas (± standard error); its weights are shrunken, so it ranks",
            "candidates and leans to what the outcome model believes: no promise of what they will be worth",
        ]
        for place, name in enumerate(config.candidates):
            line = f"  {name:<16}{100 * found['value'][place]:8.2f} ± {100 * found['error'][place]:.2f}"
            if place:
                rival = config.candidates[int(found["incumbent"][place])]
                gain, error = 100 * found["gain"][place], 100 * found["gain_error"][place]
                taken = "taken" if gain > config.support * error else "not supported"
                line += f"   {gain:+.2f} ± {error:.2f} against {rival}: {taken}"
            lines.append(line)
        rule = f"a candidate is taken if its gain is more than {config.support:g} standard errors"
        return "\n".join([*lines, f"chosen: {config.candidates[int(found['chosen'])]} ({rule})"])

    return Method(fit, Policy(apply, stochastic=draws), config, settle=settle, explain=explain, smooth=False)


def observed_utility(log: LoggedData, nuisances: Nuisances, lambdas: Array) -> Array:
    """[n], mean over lambdas of what each row's logged model was worth: the logging policy's own value.

    Where an answer was not scored, its prediction stands in, and the others are weighted up for it.
    """
    certain = counterfactual_scores(log, replace(nuisances, propensity=jnp.ones_like(nuisances.propensity)))
    logged = [jnp.take_along_axis(part, log.model[:, None], axis=1)[:, 0] for part in (certain.score, certain.cost)]
    return utility(logged[0], logged[1], lambdas.mean())
