"""rm_residual and rm_conditioned: one router for all lambdas, trained by regret over the whole range.

    u_t(x, lam) = a_t(x) + da_t(x) - lam * (c_t(x) + dc_t(x))

a and c are what a stack of outcome models predicts, da and dc what a network adds. rm_residual starts at
the plug-in rule (da = dc = 0) and leaves it only as far as held-out value supports; rm_conditioned has
no plug-in part (a = c = 0). Both are affine in lambda, so a query's (corrected) cost never rises with it.

- One network per fold, trained on the other folds' rows. All that it learns from (nuisances, scores, the
  plug-in part it starts at) is fitted on those rows too, and cross-fitted within them, so its decisions on
  its own fold are valued by outcomes that nothing in it has seen. Only strengths of regularisation and the
  stack's weights come from all rows. Where it serves, the plug-in part is fitted on all rows.
- A lambda's utilities are measured in units of its mean margin between the best two models, in the loss
  and in the temperature: the temperature comes from the log, and every lambda counts alike.
- The epoch, one for all networks, is that with the best held-out value (doubly robust, of decisions, mean
  over lambdas). The start is left only if that value is `support` standard errors of the paired
  difference above the start's. The router adds the mean of what the networks add.
- Weights are shrunken less, the more rows there are: strongly shrunken ones would repeat what the plug-in
  rule knows, and hardly shrunken ones drown a small log in variance. The largest weight grows as sqrt(n),
  the rate of Ionides (2008), Truncated importance sampling.

Source: arXiv 2505.16037, RM-Softmax and its bound; the start, the conditioning and the stopping are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrouter.features import scale
from jrouter.inference import standard_error
from jrouter.losses import softmax_regret
from jrouter.methods.plug_in import decision_values, plug_in_outcome, plug_in_params
from jrouter.methods.regret_training import RouterConfig
from jrouter.metrics import utility
from jrouter.networks import OutcomeNetwork, head_width, run
from jrouter.nuisances.crossfit import (
    OUTCOME_MODELS,
    PROPENSITY_MODELS,
    NuisanceConfig,
    cross_fitted_propensity,
    cross_fitted_scoring,
)
from jrouter.nuisances.crossfit_outcome import fit_outcome, held_out_outcome
from jrouter.nuisances.crossfit_propensity import fit_propensity
from jrouter.nuisances.folds import CrossFit, held_out
from jrouter.policy import Method, Policy, Problem
from jrouter.splits import without_fold
from jrouter.train import Rows, TrainConfig, make_train, train_keys
from jrouter.tuning import tuned_scores
from jrouter.types import Array, CounterfactualScores, LoggedData, Nuisances
from jrouter.weighted import weighted_mean

STEP = 0.2
"""Output 1 of a network moves a score or a cost by this many of its model's standard deviations."""


@dataclass(frozen=True)
class RmResidualConfig(RouterConfig):
    """`RouterConfig`, and:

    Attributes:
      outcome: the plug-in rule's family, one of `crossfit.OUTCOME_MODELS`; its cross-fitted predictions
        are the outcome model of the scores too.
      propensity: family of the logging policy's model, one of `crossfit.PROPENSITY_MODELS`.
      plug_in: start at the plug-in rule (rm_residual), or without one (rm_conditioned).
      temperature: of the softmax, in mean margins.
      strength_per_row: of the shrinkage, times the number of logged rows; None takes `strength`.
      support: standard errors of held-out gain that it takes to leave the plug-in rule; 0 without one.
    """

    strength_per_row: float | None = 0.05
    hidden: tuple[int, ...] = (64,)
    epochs: int = 6
    weight_decay: float = 0.3
    outcome: str = "stacked"
    propensity: str = "logistic"
    plug_in: bool = True
    temperature: float = 1.0
    support: float = 2.0

    def __post_init__(self):
        super().__post_init__()
        if self.gamma != 1.0:
            # It is left out where it does not beat a plug-in rule, which knows no bounds.
            raise ValueError(
                "gamma: rm_residual is not trained on bounds; use rm_softmax, rm_classification_* or rm_interval"
            )

    def scores(self, log: LoggedData, nuisances: Nuisances) -> CounterfactualScores:
        """What networks are trained on and valued by."""
        rows = log.model.shape[0]
        strength = self.strength if self.strength_per_row is None else self.strength_per_row * rows
        return tuned_scores(log, nuisances, estimator=self.estimator, strength=strength)

    @property
    def train(self) -> TrainConfig:
        """The static part of training."""
        return TrainConfig(self.epochs, self.batch_size, self.min_batches, keep_epochs=True)


def mean_margin(nuisances: Nuisances, lam: Array, row_weight: Array) -> Array:
    """Mean over queries of what the best model's predicted utility is above the second's, at one lambda."""
    values = utility(nuisances.score, nuisances.cost, lam)
    best = jax.lax.top_k(values, 2)[0]
    margin, spread = (weighted_mean(of_rows, row_weight) for of_rows in (best[:, 0] - best[:, 1], values.std(axis=1)))
    return jnp.maximum(margin, 1e-6 * spread)


class TrainingSet(NamedTuple):
    """What one network learns from, made without the rows of its fold.

    Attributes:
      start: [n, 2, T], what it adds to: cross-fitted predictions, or zeros.
      scores: counterfactual scores of the n rows.
      weight: [n], 0 on the rows left out.
      unit: [L], mean margin at each lambda.
      step: [2, T], by how much an output of 1 moves a score or a cost.
    """

    start: Array
    scores: CounterfactualScores
    weight: Array
    unit: Array
    step: Array


def training_set(
    key: Array, problem: Problem, plug_in: CrossFit, number: Array, config: RmResidualConfig, *, strength: Any
) -> TrainingSet:
    """Nuisances, scores and units from all folds but one, cross-fitted within these."""
    key_outcome, key_propensity = jax.random.split(key)
    log, split = without_fold(problem.log, problem.split, number)
    fit = fit_outcome(key_outcome, OUTCOME_MODELS[config.outcome](), log, split, strength=plug_in.strength)
    # A router may choose any model, whatever a row was allowed; how scoring is taken is as in the problem.
    scoring = "given_model" if problem.nuisances.scored_probability is None else "given_query"
    family = NuisanceConfig(propensity=config.propensity, scoring=scoring)
    propensity, _ = cross_fitted_propensity(key_propensity, log, split, family, strength=strength)
    scored = cross_fitted_scoring(log, split, family)
    nuisances = Nuisances(propensity, *held_out_outcome(fit), split.fold, scored_probability=scored)
    return TrainingSet(
        start=fit.predicted if config.plug_in else jnp.zeros_like(fit.predicted),
        scores=config.scores(log, nuisances),
        weight=log.weight,
        # One after another: of all lambdas at once the utilities are [L, n, T].
        unit=jax.lax.map(lambda lam: mean_margin(nuisances, lam, log.weight), problem.lambdas),
        step=STEP * plug_in_params(fit)["deviation"],
    )


def fit_residual(
    key: Array, problem: Problem, plug_in: CrossFit, config: RmResidualConfig, *, strength: Any
) -> tuple[dict[str, Any], Array]:
    """Trains the networks of rm_residual, and decides how far to follow them.

    Args:
      key: of nuisances, initialisation and shuffling.
      problem: log and split; of its nuisances the propensity and the probability of being scored.
      plug_in: fit of the plug-in rule's family on the same log and split.
      config: of training.
      strength: of the propensity model's regularisation.

    Returns:
      {"plug_in", "networks": [K, ...], "step": [K, 2, T], "epoch": chosen, and, of each epoch against the
      start, "gain": [epochs + 1] in utility and "gain_error": [epochs + 1]}; and [n, 2, T], the corrected
      predictions of each row by what never saw it.

    Raises:
      ValueError: with fewer than three folds: one is left out, and cross-fitting needs two more.
    """
    log, split, lambdas = problem.log, problem.split, problem.lambdas
    if split.n_folds < 3:
        raise ValueError(f"rm_residual is cross-fitted twice: split the log in 3 folds or more, got {split.n_folds}")
    key_sets, key_train = jax.random.split(key)
    folds = jnp.arange(split.n_folds)

    def made(number):
        return training_set(key_sets, problem, plug_in, number, config, strength=strength)

    sets: TrainingSet = jax.lax.map(made, folds)
    params = plug_in_params(plug_in)
    x = scale(params["scaling"], log.x)
    network = OutcomeNetwork(len(log.models), config.hidden)

    def init(key):
        first = network.init(key, x[0])
        # Near 0, where the plug-in rule is; not 0, see networks.RouterNetwork.
        return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf * 1e-2 if _is_head(path) else leaf, first)

    def loss(networks, example, setting):
        (x, start, scores), (units, step) = example, setting
        corrected = start + step * run(network, networks, x)

        def at(lam, unit):
            logits = utility(corrected[0], corrected[1], lam) / unit
            values = utility(scores.score, scores.cost, lam)
            return softmax_regret(logits, values, temperature=config.temperature) / unit

        return jax.vmap(at)(lambdas, units).mean()

    train = make_train(init, loss, config.train)

    def trained(keys, one: TrainingSet):
        rows = Rows((x, one.start, one.scores), one.weight)
        return train(keys, rows, (one.unit, one.step), config.hyper)[0]

    kept = jax.vmap(trained)(jax.vmap(train_keys)(jax.random.split(key_train, split.n_folds)), sets)

    # Row by row and epoch by epoch [n, epochs + 1, 2, T], by the network that never saw the row.
    added = held_out(jax.vmap(lambda one, x: run(network, one, x), in_axes=(0, None)), kept, x, split)
    start = plug_in.predicted if config.plug_in else jnp.zeros_like(plug_in.predicted)
    corrected = start[:, None] + sets.step[split.fold][:, None] * added
    score, cost = held_out_outcome(plug_in)
    nuisances = replace(problem.nuisances, score=score, cost=cost)
    scores = config.scores(log, nuisances)
    values = jax.vmap(decision_values, in_axes=(1, None, None))(corrected, scores, lambdas)
    gains = values - values[0]
    gain, error = weighted_mean(gains.T, log.weight), standard_error(gains, log.weight, group=log.group)
    best = jnp.argmax(gain)
    supported = gain[best] > (config.support if config.plug_in else 0.0) * error[best]
    epoch = jnp.where(supported, best, 0)
    networks = jax.tree.map(lambda leaf: leaf[:, epoch], kept)
    params = {"plug_in": params, "networks": networks, "step": sets.step}
    return params | {"epoch": epoch, "gain": gain, "gain_error": error}, corrected[:, epoch]


def _is_head(path: tuple) -> bool:
    return any(getattr(entry, "key", None) == "head" for entry in path)


def corrected_outcome(config: RmResidualConfig, params: dict[str, Any], x: Array) -> Array:
    """[2, T], what the networks make of the plug-in rule's score and cost of one query [d]."""
    network = OutcomeNetwork(head_width(params["networks"]) // 2, config.hidden)
    scaled = scale(params["plug_in"]["scaling"], x)
    added = jax.vmap(lambda one: run(network, one, scaled))(params["networks"])
    corrected = (params["step"] * added).mean(axis=0)
    if not config.plug_in:
        return corrected
    return corrected + plug_in_outcome(OUTCOME_MODELS[config.outcome]().predict, params["plug_in"], x)


def residual_policy(config: RmResidualConfig) -> Policy:
    """Utility of the corrected predictions."""

    def apply(params: dict[str, Any], x: Array, lam: Array) -> Array:
        score, cost = corrected_outcome(config, params, x)
        return utility(score, cost, lam)

    return Policy(apply)


def rm_residual(config: RmResidualConfig = RmResidualConfig()) -> Method:
    """One router for all lambdas, trained by regret from the plug-in rule."""

    def fit(key: Array, problem: Problem) -> dict[str, Any]:
        log, split = problem.log, problem.split
        key_plug_in, key_propensity, key_train = jax.random.split(key, 3)
        plug_in = fit_outcome(key_plug_in, OUTCOME_MODELS[config.outcome](), log, split)
        strength = None
        if log.propensity is None:
            strength = fit_propensity(key_propensity, PROPENSITY_MODELS[config.propensity](), log, split).strength
        return fit_residual(key_train, problem, plug_in, config, strength=strength)[0]

    return Method(fit, residual_policy(config), config, smooth=OUTCOME_MODELS[config.outcome]().smooth)


def _with(default: RmResidualConfig) -> Callable[..., Method]:
    return lambda config=default: rm_residual(config)


# Without a start there is all to learn: as large and as long as a router of one lambda, on its scores.
_PLAIN = RouterConfig()
_FROM_NOTHING = RmResidualConfig(
    plug_in=False,
    strength_per_row=None,
    hidden=_PLAIN.hidden,
    epochs=_PLAIN.epochs,
    weight_decay=_PLAIN.weight_decay,
)
VARIANTS = {"rm_residual": _with(RmResidualConfig()), "rm_conditioned": _with(_FROM_NOTHING)}
