"""Outcome models: what score and cost each model would have had on a query, from the logged ones.

Every family is an `OutcomeModel` of three pure functions. `prepare` does what does not depend on the
strength of regularisation, `solve` the rest, `predict` takes one query. All honour row weights: a row
of weight 0 is as good as absent, which is how folds, resamples and unscored answers are expressed.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jrouter.networks import HIDDEN, OutcomeNetwork, head_width, run
from jrouter.splits import rows_by_label
from jrouter.train import Hyper, Rows, TrainConfig, make_train, train_keys
from jrouter.types import Array, LoggedData
from jrouter.weighted import model_means, weighted_mean


class Outcomes(NamedTuple):
    """Logged outcomes as the families see them; the first of two is score, the second cost.

    Attributes:
      x: [n, d], scaled.
      model: [n] int32.
      observed: [n, 2], in units of each model's standard deviation around its mean (`Units`).
      weight: [n, W], row weights of the outcomes; W = 1 where both have the same, else 2.
    """

    x: Array
    model: Array
    observed: Array
    weight: Array


class Units(NamedTuple):
    """Mean and standard deviation of each outcome of each model: [2, T]."""

    mean: Array
    deviation: Array


class OutcomeModel(NamedTuple):
    """A family of outcome models.

    Attributes:
      prepare: (key, Outcomes, n_models, model_size) -> statistics.
      solve: (statistics, strength) -> solution, small enough to keep one per strength.
      predict: (params, x [d]) -> [2, T], standardised score and cost.
      strengths: [P, ...], candidates for `strength`; one of them is chosen for score, one for cost.
      choose: (solution at score's strength, solution at cost's) -> solution for both.
      assemble: (statistics, solution) -> params.
      shared_work: strengths differ little in work beside what they share (as finding neighbours): all
        are tried in one vmap, on the first fold alone. Else one by one, on all folds.
    """

    prepare: Callable
    solve: Callable
    predict: Callable
    strengths: Array
    choose: Callable = lambda for_score, for_cost: for_score
    assemble: Callable = lambda statistics, solution: solution
    shared_work: bool = False


def outcomes_of(log: LoggedData, x: Array, weight: Array) -> tuple[Outcomes, Units]:
    """Standardises logged outcomes per model, so that models a hundred times dearer weigh the same.

    Means and deviations of a model without rows are those of all rows.

    Args:
      log: n rows.
      x: [n, d], scaled embeddings.
      weight: [n], row weights, 0 outside the training rows.
    """
    n_models = len(log.models)
    observed = jnp.stack([log.score, log.cost], axis=1)
    score_weight = weight if log.scored is None else weight * log.scored

    def units(values, weight):
        overall = weighted_mean(values, weight)
        mean = jnp.nan_to_num(model_means(values, log.model, weight, n_models=n_models), nan=overall)
        squares = (values - mean[log.model]) ** 2
        variance = model_means(squares, log.model, weight, n_models=n_models)
        variance = jnp.nan_to_num(variance, nan=weighted_mean(squares, weight))
        # A constant outcome has nothing to predict but its mean; any positive unit will do.
        return mean, jnp.where(variance > 1e-20, jnp.sqrt(jnp.where(variance > 1e-20, variance, 1.0)), 1.0)

    pairs = [units(log.score, score_weight), units(log.cost, weight)]
    mean, deviation = (jnp.stack(parts) for parts in zip(*pairs, strict=True))
    standard = (observed - mean[:, log.model].T) / deviation[:, log.model].T
    weights = weight[:, None] if log.scored is None else jnp.stack([score_weight, weight], axis=1)
    return Outcomes(x, log.model, standard, weights), Units(mean, deviation)


def mlp(hidden: tuple[int, ...] = HIDDEN, config: TrainConfig = TrainConfig(min_batches=16), weight_decay: float = 0.1):
    """Two-layer network, one trunk for all models, one head per model and outcome (the paper's).

    Args:
      hidden: widths of the hidden layers.
      config: epochs and batch size.
      weight_decay: of AdamW.
    """

    def prepare(key, outcomes: Outcomes, n_models: int, model_size: int):
        del model_size
        return key, outcomes, jnp.zeros(n_models)

    def solve(statistics, strength):
        key, outcomes, models = statistics
        row_weight = outcomes.weight.max(axis=1)
        relative = outcomes.weight / jnp.where(row_weight > 0, row_weight, 1.0)[:, None]
        examples = (outcomes.x, outcomes.model, outcomes.observed, jnp.broadcast_to(relative, outcomes.observed.shape))
        network = OutcomeNetwork(models.size, hidden)

        def loss(params, example, setting):
            x, model, observed, weight = example
            return ((run(network, params, x)[:, model] - observed) ** 2 * weight).sum()

        train = make_train(lambda key: network.init(key, outcomes.x[0]), loss, config)
        return train(train_keys(key), Rows(examples, row_weight), None, Hyper(weight_decay=strength))[0]

    def predict(params, x):
        return run(OutcomeNetwork(head_width(params) // 2, hidden), params, x)

    return OutcomeModel(prepare, solve, predict, jnp.array([weight_decay]))


def mlp_per_model(
    hidden: tuple[int, ...] = HIDDEN,
    config: TrainConfig = TrainConfig(batch_size=256, min_batches=16),
    weight_decay: float = 0.1,
):
    """A network of its own for each model, trained on the rows that model received.

    Args:
      hidden: widths of the hidden layers.
      config: epochs and batch size, of each.
      weight_decay: of AdamW.
    """
    single = mlp(hidden, config, weight_decay)

    def prepare(key, outcomes: Outcomes, n_models: int, model_size: int):
        rows, present = rows_by_label(outcomes.model, n_labels=n_models, size=model_size)
        own = jax.tree.map(lambda leaf: leaf[rows], outcomes)
        own = own._replace(model=jnp.zeros_like(own.model), weight=own.weight * present[..., None])
        return jax.vmap(lambda k, o: single.prepare(k, o, 1, model_size))(jax.random.split(key, n_models), own)

    def solve(statistics, strength):
        return jax.vmap(single.solve, in_axes=(0, None))(statistics, strength)

    def predict(params, x):
        return jax.vmap(single.predict, in_axes=(0, None), out_axes=1)(params, x)[..., 0]

    return OutcomeModel(prepare, solve, predict, single.strengths)
