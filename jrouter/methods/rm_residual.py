"""rm_residual and rm_conditioned: one router for all lambdas, trained by regret over the whole range.

    u_t(x, lam) = a_t(x) + da_t(x) - lam * (c_t(x) + dc_t(x))

a and c are what a stack of outcome models predicts, da and dc what a network adds. rm_residual starts at
the plug-in rule (da = dc = 0) and leaves it only as far as held-out value supports; rm_conditioned has
no plug-in part (a = c = 0). Both are affine in lambda, so a query's (corrected) cost never rises with it.

- On the rows it is trained on, the plug-in part is cross-fitted: each row's prediction comes from models
  that never saw it. Where it serves, the part is fitted on all rows.
- A lambda's utilities are measured in units of its mean margin between the best two models, in the loss
  and in the temperature: the temperature comes from the log, and every lambda counts alike.
- One network per fold, trained on the other folds' rows; the epoch, one for all, is that with the best
  value (doubly robust, decisions not draws) on the rows each network has not seen. The start is left
  only if that value is `support` standard errors of the paired difference above the start's. The router
  adds the mean of the networks' outputs.
- Weights are hardly shrunken here: strongly shrunken ones would repeat what the plug-in rule knows.

Source: arXiv 2505.16037, RM-Softmax and its bound; the start, the conditioning and the stopping are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jrouter.chunks import map_rows
from jrouter.estimators import counterfactual_scores
from jrouter.features import scale
from jrouter.inference import standard_error
from jrouter.losses import softmax_regret
from jrouter.methods.plug_in import plug_in_outcome, plug_in_params
from jrouter.methods.regret_training import RouterConfig
from jrouter.metrics import decide, expected, utility
from jrouter.networks import OutcomeNetwork, head_width, run
from jrouter.nuisances.crossfit import OUTCOME_MODELS, CrossFit, fit_outcome, fold_weights, held_out, held_out_outcome
from jrouter.policy import Method, Policy, Problem
from jrouter.train import Rows, TrainConfig, make_train, train_keys
from jrouter.types import Array, Nuisances
from jrouter.weighted import weighted_mean

STEP = 0.2
"""Output 1 of a network moves a score or a cost by this many of its model's standard deviations."""


@dataclass(frozen=True)
class RmResidualConfig(RouterConfig):
    """`RouterConfig`, and:

    Attributes:
      outcome: the plug-in rule's family, one of `crossfit.OUTCOME_MODELS`; its cross-fitted predictions
        are the outcome model of the scores too.
      plug_in: start at the plug-in rule (rm_residual), or without one (rm_conditioned).
      temperature: of the softmax, in mean margins.
      support: standard errors of held-out gain that it takes to leave the plug-in rule; 0 without one.
    """

    strength: float = 1000.0
    hidden: tuple[int, ...] = (64,)
    epochs: int = 6
    weight_decay: float = 0.3
    outcome: str = "stacked"
    plug_in: bool = True
    temperature: float = 1.0
    support: float = 2.0

    @property
    def train(self) -> TrainConfig:
        """The static part of training."""
        return TrainConfig(self.epochs, self.batch_size, self.min_batches, keep_epochs=True)


def mean_margin(nuisances: Nuisances, lam: Array, row_weight: Array) -> Array:
    """Mean over queries of what the best model's predicted utility is above the second's, at one lambda."""
    values = utility(nuisances.score, nuisances.cost, lam)
    best = jax.lax.top_k(values, 2)[0]
    return jnp.maximum(weighted_mean(best[:, 0] - best[:, 1], row_weight), 1e-6 * weighted_mean(values.std(axis=1)))


def fit_residual(key: Array, problem: Problem, plug_in: CrossFit, config: RmResidualConfig) -> dict[str, Any]:
    """Trains the networks of rm_residual.

    Args:
      key: of initialisation and shuffling.
      problem: log and split; of its nuisances the propensity.
      plug_in: fit of the plug-in rule's family on the same log and split.
      config: of training.

    Returns:
      {"plug_in", "networks": [K, ...], "step": [2, T], "epoch": chosen, and, of each epoch against the
      start, "gain": [epochs + 1] in mean margins and "gain_error": [epochs + 1]}.
    """
    log, split = problem.log, problem.split
    score, cost = held_out_outcome(plug_in)
    nuisances = Nuisances(problem.nuisances.propensity, score, cost, split.fold)
    scores = counterfactual_scores(log, nuisances, estimator=config.estimator, strength=config.strength)
    units = jax.vmap(lambda lam: mean_margin(nuisances, lam, log.weight))(problem.lambdas)
    params = plug_in_params(plug_in)
    step = STEP * params["deviation"]
    x = scale(params["scaling"], log.x)
    start = plug_in.predicted if config.plug_in else jnp.zeros_like(plug_in.predicted)
    network = OutcomeNetwork(len(log.models), config.hidden)

    def init(key):
        first = network.init(key, x[0])
        # Near 0, where the plug-in rule is; not 0, see networks.RouterNetwork.
        return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf * 1e-2 if _is_head(path) else leaf, first)

    def loss(networks, example, _):
        x, start, score, cost = example
        corrected = start + step * run(network, networks, x)

        def at(lam, unit):
            logits = utility(corrected[0], corrected[1], lam) / unit
            return softmax_regret(logits, utility(score, cost, lam), temperature=config.temperature) / unit

        return jax.vmap(at)(problem.lambdas, units).mean()

    def value(added, start, score, cost):
        """Mean over lambdas of the value of each epoch's decisions [E] on one row, in units of its margin."""

        def at(added, lam, unit):
            corrected = start + step * added
            choice = decide(utility(corrected[0], corrected[1], lam))
            return expected(choice, utility(score, cost, lam)) / unit

        return jax.vmap(lambda added: jax.vmap(at, in_axes=(None, 0, 0))(added, problem.lambdas, units).mean())(added)

    train = make_train(init, loss, config.train)
    weights = fold_weights(log, split)[: split.n_folds]
    keys = jax.vmap(train_keys)(jax.random.split(key, weights.shape[0]))
    examples = x, start, scores.score, scores.cost
    kept, _ = jax.vmap(lambda keys, weight: train(keys, Rows(examples, weight), None, config.hyper))(keys, weights)

    added = held_out(jax.vmap(lambda one, x: run(network, one, x), in_axes=(0, None)), kept, x, split)
    values = map_rows(lambda row: value(*row), (added, start, scores.score, scores.cost))
    gains = (values - values[:, :1]).T
    gain, error = weighted_mean(gains.T, log.weight), standard_error(gains, log.weight, group=log.group)
    best = jnp.argmax(gain)
    supported = gain[best] > (config.support if config.plug_in else 0.0) * error[best]
    epoch = jnp.where(supported, best, 0)
    networks = jax.tree.map(lambda leaf: leaf[:, epoch], kept)
    return {"plug_in": params, "networks": networks, "step": step, "epoch": epoch, "gain": gain, "gain_error": error}


def _is_head(path: tuple) -> bool:
    return any(getattr(entry, "key", None) == "head" for entry in path)


def corrected_outcome(config: RmResidualConfig, params: dict[str, Any], x: Array) -> Array:
    """[2, T], what the networks make of the plug-in rule's score and cost of one query [d]."""
    network = OutcomeNetwork(head_width(params["networks"]) // 2, config.hidden)
    scaled = scale(params["plug_in"]["scaling"], x)
    corrected = params["step"] * jax.vmap(lambda one: run(network, one, scaled))(params["networks"]).mean(axis=0)
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
        key_plug_in, key_train = jax.random.split(key)
        plug_in = fit_outcome(key_plug_in, OUTCOME_MODELS[config.outcome](), problem.log, problem.split)
        return fit_residual(key_train, problem, plug_in, config)

    return Method(fit, residual_policy(config), config)


def _with(default: RmResidualConfig) -> Callable[..., Method]:
    return lambda config=default: rm_residual(config)


# Without a start there is all to learn: as large and as long as a router of one lambda, on its scores.
_PLAIN = RouterConfig()
_FROM_NOTHING = RmResidualConfig(
    plug_in=False,
    strength=_PLAIN.strength,
    hidden=_PLAIN.hidden,
    epochs=_PLAIN.epochs,
    weight_decay=_PLAIN.weight_decay,
)
VARIANTS = {"rm_residual": _with(RmResidualConfig()), "rm_conditioned": _with(_FROM_NOTHING)}
