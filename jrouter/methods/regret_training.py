"""Training routers by a regret surrogate, one network per lambda, all lambdas at once.

No method of its own: what rm_softmax, rm_classification and rm_interval share.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jrouter.bounding_scores import BOUNDED, pessimistic_scores
from jrouter.features import fit_scaling, scale
from jrouter.interval import nearest
from jrouter.networks import HIDDEN, RouterNetwork, head_width, run
from jrouter.policy import Policy, Problem
from jrouter.sweep import over_settings
from jrouter.train import Hyper, Rows, TrainConfig, make_train, train_keys
from jrouter.tuning import as_number, tuned_scores
from jrouter.types import Array, CounterfactualScores


@dataclass(frozen=True)
class RouterConfig:
    """How routers are trained. What the paper leaves open (all but the hidden layers) is ours.

    Attributes:
      estimator: counterfactual scores, one of `counterfactual.WEIGHTS`. Ours are doubly robust with
        shrunken weights: with the paper's plain ones ("dr") few thousand rows drown in weight variance.
      strength: of shrinkage, for "dros" (10 bounds weights by 1.6); the threshold of weights for "switch";
        the penalty for "balancing". Or "slope" or "error": chosen from the log by `tuning`.
      hidden: widths of the hidden layers (the paper's: 200, 200).
      epochs: passes over the training rows; the best by validation loss is kept.
      batch_size: rows a step, at most.
      min_batches: steps an epoch, at least.
      learning_rate: of AdamW, falling to 0 along a half cosine.
      weight_decay: of AdamW.
      gamma: train on lower bounds of utility under hidden confounding up to this Gamma (see `sensitivity`), with
        the weights of `estimator`, one of `bounding_scores.BOUNDED`; 1 is off.
    """

    estimator: str = "dros"
    strength: float | str = 10.0
    hidden: tuple[int, ...] = HIDDEN
    epochs: int = 10
    batch_size: int = 512
    min_batches: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    gamma: float = 1.0

    def __post_init__(self):
        if not 1.0 <= self.gamma < math.inf:
            raise ValueError(f"gamma: expected a finite number of at least 1 (no hidden confounding), got {self.gamma}")
        if self.gamma > 1.0 and self.estimator not in BOUNDED:
            raise ValueError(
                f"estimator {self.estimator!r} has no bounds for gamma {self.gamma:g}: use one of {', '.join(BOUNDED)}"
            )

    @property
    def train(self) -> TrainConfig:
        """The static part of training."""
        return TrainConfig(self.epochs, self.batch_size, self.min_batches)

    @property
    def hyper(self) -> Hyper:
        """The traced part of training."""
        return Hyper(self.learning_rate, self.weight_decay)


def router_scores(problem: Problem, config: RouterConfig) -> CounterfactualScores:
    """What routers are trained on: counterfactual scores, or bounds of them where `config.gamma` is above 1."""
    log, nuisances = problem.log, problem.nuisances
    if config.gamma == 1.0:
        return tuned_scores(log, nuisances, estimator=config.estimator, strength=config.strength)
    strength = as_number(log, nuisances, estimator=config.estimator, strength=config.strength)
    return pessimistic_scores(
        log,
        nuisances,
        gamma=config.gamma,
        n_folds=problem.split.n_folds,
        estimator=config.estimator,
        strength=strength,
    )


def router_rows(problem: Problem, scaling: dict, targets: Any) -> tuple[Rows, Rows]:
    """Training and validation rows: (scaled x, targets) of each, and weights.

    Args:
      problem: its split says which rows.
      scaling: of embeddings.
      targets: pytree of arrays [n, ...].
    """
    split, log = problem.split, problem.log

    def rows(index, weight):
        examples = scale(scaling, log.x[index]), jax.tree.map(lambda leaf: leaf[index], targets)
        return Rows(examples, log.weight[index] * weight)

    return rows(split.train, split.train_weight), rows(split.valid, split.valid_weight)


def fit_routers(
    key: Array,
    problem: Problem,
    targets: Any,
    surrogate: Callable,
    config: RouterConfig,
    lambdas: Array,
) -> dict[str, Any]:
    """One router per lambda.

    Args:
      key: of initialisation and shuffling, shared by all lambdas.
      problem: log and split.
      targets: of each row: a pytree of arrays [n, ...].
      surrogate: (logits [T], targets of one row, lam) -> scalar loss.
      config: of training.
      lambdas: [L].

    Returns:
      {"networks": stacked over lambdas, "lambdas", "scaling"}.
    """
    network = RouterNetwork(len(problem.log.models), config.hidden)
    scaling = fit_scaling(problem.log.x, problem.log.weight)
    rows, valid = router_rows(problem, scaling, targets)

    def loss(params, example, lam):
        x, target = example
        return surrogate(run(network, params, x), target, lam)

    train = make_train(lambda key: network.init(key, problem.log.x[0]), loss, config.train)
    networks, _ = over_settings(train)(train_keys(key), rows, lambdas, config.hyper, valid)
    return {"networks": networks, "lambdas": lambdas, "scaling": scaling}


def routers_policy(config: RouterConfig) -> Policy:
    """Logits of the network of the nearest lambda."""

    def apply(params, x, lam):
        index = nearest(params["lambdas"], lam)
        network = jax.tree.map(lambda leaf: leaf[index], params["networks"])
        return run(RouterNetwork(head_width(network), config.hidden), network, scale(params["scaling"], x))

    def at(params, lam):
        index = nearest(params["lambdas"], lam)
        kept = jax.tree.map(lambda leaf: leaf[index][None], (params["networks"], params["lambdas"]))
        return {"networks": kept[0], "lambdas": kept[1], "scaling": params["scaling"]}

    return Policy(apply, at=at)


def as_targets(scores: CounterfactualScores) -> tuple[Array, Array]:
    """Score and cost of every row, as training targets."""
    return scores.score, scores.cost
