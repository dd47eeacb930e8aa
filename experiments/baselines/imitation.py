"""imitation_knn and imitation_mlp: the best logged model of each query is its label, then a classifier.

    label_q = model of argmax_{rows i of query q} score_i,    router = classifier of the label on x_q

With every model's answer to every query this labels a query with its best model. A log has one answer to a
query: the label is then the model that was logged, whatever it scored, and the router learns
argmax_t p(t | x), the old policy. No score and no cost enters any more, and no lambda ever does.

Source: ulab-uiuc/LLMRouter, llmrouter-lib 0.4.0. Labels: `groupby("query")["performance"].idxmax()`,
llmrouter/models/knnrouter/router.py:60 and llmrouter/models/mlprouter/router.py:113. kNN: scikit-learn's
KNeighborsClassifier at the repository's settings (configs/model_config_train), which are scikit-learn's defaults:
5 neighbours, uniform votes, Euclidean distance. MLP: layers of 128 and 64, ReLU, cross-entropy, 100 epochs,
batches of 32, learning rate 1e-3, decay 1e-4 (configs/model_config_train/mlprouter.yaml).

Adaptation: rows of one query are those of one `LoggedData.group`, or each row where a log has no groups; the
router answers any lambda alike; it is judged on the embeddings that the others get.
Deviations: embeddings are centred and put on one common scale, which leaves neighbours as they are; AdamW with a
falling learning rate in place of Adam with an L2 penalty; row weights count; rows never scored are left out; a
tied vote goes to the first model in the table's order (scikit-learn: in the alphabet's).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jrouter.features import fit_scaling, scale
from jrouter.metrics import utility
from jrouter.nuisances import propensity
from jrouter.nuisances.neighbours import mean_of_nearest, nearest_rows, nearness_offset
from jrouter.nuisances.propensity import Choices
from jrouter.policy import Method, Policy
from jrouter.train import TrainConfig
from jrouter.types import Array, LoggedData


@dataclass(frozen=True)
class ImitationKnnConfig:
    """How many neighbours vote; and what the best model is best by: score - price * cost (the library: score)."""

    neighbours: int = 5
    price: float = 0.0


@dataclass(frozen=True)
class ImitationMlpConfig:
    """Size and training of the classifier; and what the best model is best by, as of `ImitationKnnConfig`."""

    hidden: tuple[int, ...] = (128, 64)
    epochs: int = 100
    batch_size: int = 32
    weight_decay: float = 1e-4
    price: float = 0.0


def best_rows(log: LoggedData, *, price: float = 0.0) -> Array:
    """Of each row, the row of its query with the highest score - price * cost; the first of several that tie.

    Args:
      log: n rows; those of one query share a group.
      price: score that a unit of cost is worth.

    Returns:
      [n] int32; n for a query without a scored row.

    >>> log = LoggedData(jnp.eye(3), jnp.array([2, 0, 1]), jnp.array([.1, .9, .2]), jnp.ones(3), models=("a", "b", "c"))
    >>> best_rows(log).tolist()  # one row a query: each is its own best, be its score .1
    [0, 1, 2]
    """
    n = log.model.shape[0]
    row = jnp.arange(n)
    query = row if log.group is None else jnp.unique(log.group, return_inverse=True, size=n)[1]
    value = jnp.where(log.score_weight > 0, utility(log.score, log.cost, price), -jnp.inf)
    best = jax.ops.segment_max(value, query, num_segments=n)[query]
    first = jnp.where((value == best) & jnp.isfinite(value), row, n)
    return jax.ops.segment_min(first, query, num_segments=n)[query]


def labels(log: LoggedData, *, price: float = 0.0) -> Array:
    """[n], the model that a query's rows are labelled with; -1 for a query without a scored row."""
    rows = best_rows(log, price=price)
    return jnp.where(rows < log.model.shape[0], log.model[rows], -1)


def examples(log: LoggedData, *, price: float = 0.0) -> Array:
    """[n], weight of each row as a training example: its own where it is its query's best, else 0.

    The label of an example is the model logged in that row.
    """
    return jnp.where(best_rows(log, price=price) == jnp.arange(log.model.shape[0]), log.weight, 0.0)


def imitation_knn(config: ImitationKnnConfig = ImitationKnnConfig()) -> Method:
    """Vote of the nearest queries' labels."""

    def fit(key, problem):
        del key
        log = problem.log
        weight, scaling = examples(log, price=config.price), fit_scaling(log.x, log.weight)
        x = scale(scaling, log.x)
        label = jax.nn.one_hot(log.model, len(log.models))
        return {"x": x, "label": label, "weight": weight, "offset": nearness_offset(x, weight), "scaling": scaling}

    def apply(params, x, lam):
        del lam
        x = scale(params["scaling"], x)
        rows = nearest_rows(x, params["x"], params["offset"], most=config.neighbours)
        return mean_of_nearest(params["label"][rows], params["weight"][rows][:, None], jnp.array([config.neighbours]))

    return Method(fit, Policy(apply), config, smooth=False)


def imitation_mlp(config: ImitationMlpConfig = ImitationMlpConfig()) -> Method:
    """Network with softmax output, trained on the labels: on a log, a propensity model by another name."""
    train = TrainConfig(config.epochs, config.batch_size)
    family = propensity.mlp(config.hidden, train, config.weight_decay)

    def fit(key, problem):
        log = problem.log
        weight, scaling = examples(log, price=config.price), fit_scaling(log.x, log.weight)
        choices = Choices(scale(scaling, log.x), log.model, jnp.ones((*log.model.shape, len(log.models)), bool))
        return {"model": family.fit(key, choices, weight, family.strengths[0]), "scaling": scaling}

    def apply(params, x, lam):
        del lam
        return family.log_odds(params["model"], scale(params["scaling"], x))

    return Method(fit, Policy(apply), config)
