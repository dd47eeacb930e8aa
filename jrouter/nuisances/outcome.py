"""Outcome models: what score and cost each model would have had on a query, from the logged ones.

Every family is an `OutcomeModel` of three pure functions. `prepare` does what does not depend on the
strength of regularisation, `solve` the rest, `predict` takes one query. All honour row weights: a row
of weight 0 is as good as absent, which is how folds, resamples and unscored answers are expressed.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jrouter.linalg import spd_inverse
from jrouter.networks import HIDDEN, OutcomeNetwork, PooledOutcomeNetwork, head_width, run
from jrouter.splits import rows_by_label
from jrouter.train import Hyper, Rows, TrainConfig, make_train, train_keys
from jrouter.types import Array, LoggedData
from jrouter.weighted import model_means, weighted_mean

POOLED_STRENGTHS = ((10.0, 3.0), (30.0, 3.0))

PSEUDO_ROWS = (10.0, 2.0)
"""How many rows a model's features count as, beside the rows it has, in its mean score and its mean cost.

Scores of one model differ more than mean scores of models do; with costs it is the other way round.
"""

ModelFeatures = Array | Callable[[LoggedData], Array] | None
"""[T, f] features of models (price, size, family), or a function of the training rows that gives them."""


class Outcomes(NamedTuple):
    """Logged outcomes as the families see them; the first of two is score, the second cost.

    Attributes:
      x: [n, d], scaled.
      model: [n] int32.
      observed: [n, 2], in units of each model's standard deviation around its mean (`Units`).
      weight: [n, W], row weights of the outcomes; W = 1 where both have the same, else 2.
      features: [T, f], standardised features of the models, or None.
    """

    x: Array
    model: Array
    observed: Array
    weight: Array
    features: Array | None = None


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
      features: of models, for `outcomes_of`; None for a family that has no use for them.
      smooth: a fit moves smoothly with row weights, as the bootstrap takes for granted: not so for nearest
        neighbours.
    """

    prepare: Callable
    solve: Callable
    predict: Callable
    strengths: Array
    choose: Callable = lambda for_score, for_cost: for_score
    assemble: Callable = lambda statistics, solution: solution
    shared_work: bool = False
    features: ModelFeatures = None
    smooth: bool = True


def model_features(log: LoggedData) -> Array:
    """[T, 2], log of the mean cost and mean score of each model, by the rows of a log.

    Shrunken towards the average model as if it had `PSEUDO_ROWS` more rows: a model without rows is average.

    >>> log = LoggedData(jnp.eye(2), jnp.array([0, 0]), jnp.ones(2), jnp.ones(2), models=("old", "new"))
    >>> model_features(log)
    Array([[0., 1.],
           [0., 1.]], dtype=float32)
    """
    n_models = len(log.models)

    def shrunken(values, weight, more_rows, transform):
        rows = jax.ops.segment_sum(weight, log.model, num_segments=n_models)
        means = model_means(values, log.model, weight, n_models=n_models)
        means = transform(jnp.where(rows > 0, means, 1.0))
        average = weighted_mean(means, rows > 0)
        return (jnp.where(rows > 0, rows * means, 0.0) + more_rows * average) / (rows + more_rows)

    least = 1e-4 * jnp.maximum(weighted_mean(log.cost, log.weight), 1e-30)  # a free model is cheap, not -inf
    cost = shrunken(log.cost, log.weight, PSEUDO_ROWS[1], lambda mean: jnp.log(jnp.maximum(mean, least)))
    score = shrunken(log.score, log.score_weight, PSEUDO_ROWS[0], lambda mean: mean)
    return jnp.stack([cost, score], axis=1)


def _standardised(features: Array) -> Array:
    """[T, f], each with mean 0 over models, all together with mean square 1."""
    centred = features - features.mean(axis=0)
    deviation = jnp.sqrt(jnp.square(centred).mean(axis=0))
    varies = deviation > 1e-6 * (1e-6 + jnp.abs(features).max(axis=0))
    return jnp.where(varies, centred / jnp.where(varies, deviation, 1.0), 0.0) / jnp.sqrt(features.shape[1])


def _by_relatives(values: Array, rows: Array, features: Array) -> Array:
    """[T], `values` of models regressed on their features; a model of 10 rows or more counts fully."""
    weight = jnp.minimum(rows / 10.0, 1.0)
    design = jnp.concatenate([jnp.ones_like(features[:, :1]), features], axis=1)
    # Light, for price tells cost almost wholly, but enough for fewer models than features. The level is free.
    penalty = jnp.diag(jnp.full(design.shape[1], 0.3).at[0].set(1e-3))
    inverse = spd_inverse((design * weight[:, None]).T @ design + penalty)
    centre = weighted_mean(values, weight)
    return centre + design @ (inverse @ (design.T @ (weight * (values - centre))))


def _positive_by_relatives(values: Array, rows: Array, features: Array) -> Array:
    """The same of costs and variances, which span decades, by their logs.

    A model at 0 tells nothing of others; where all are at 0, all are expected there.
    """
    usable = (values > 1e-20) & (rows > 0)
    logs = jnp.log(jnp.where(usable, values, 1.0))
    return usable.any() * jnp.exp(_by_relatives(logs, rows * usable, features))


def _leaning(own: Array, rows: Array, more_rows: float, by_relatives: Callable, features: Array) -> Array:
    """[T], each model's own value by its rows, and what is expected of its relatives by `more_rows`."""
    return (rows * own + more_rows * by_relatives(own, rows, features)) / (rows + more_rows)


def outcomes_of(log: LoggedData, x: Array, weight: Array, features: ModelFeatures = None) -> tuple[Outcomes, Units]:
    """Standardises logged outcomes per model, so that models a hundred times dearer weigh the same.

    Means and deviations of a model without rows are those of all rows; with features of models, those
    expected of its relatives, on which a model with few rows leans as if on `PSEUDO_ROWS` more.

    Args:
      log: n rows.
      x: [n, d], scaled embeddings.
      weight: [n], row weights, 0 outside the training rows.
      features: of models, a family's `features`.
    """
    n_models = len(log.models)
    observed = jnp.stack([log.score, log.cost], axis=1)
    score_weight = weight if log.scored is None else weight * log.scored
    if callable(features):
        features = features(replace(log, row_weight=weight))
    standard_features = None if features is None else _standardised(jnp.asarray(features, jnp.float32))

    def units(values, weight, more_rows, positive):
        overall = weighted_mean(values, weight)
        mean = jnp.nan_to_num(model_means(values, log.model, weight, n_models=n_models), nan=overall)
        squares = (values - mean[log.model]) ** 2
        variance = model_means(squares, log.model, weight, n_models=n_models)
        variance = jnp.nan_to_num(variance, nan=weighted_mean(squares, weight))
        if standard_features is not None:
            rows = jax.ops.segment_sum(weight, log.model, num_segments=n_models)
            # A variance of one row is 0 and says nothing.
            counted = jnp.maximum(rows - 1.0, 0.0)
            variance = _leaning(variance, counted, max(PSEUDO_ROWS), _positive_by_relatives, standard_features)
            by_relatives = _positive_by_relatives if positive else _by_relatives
            mean = _leaning(mean, rows, more_rows, by_relatives, standard_features)
        # A constant outcome has nothing to predict but its mean; any positive unit will do.
        return mean, jnp.where(variance > 1e-20, jnp.sqrt(jnp.where(variance > 1e-20, variance, 1.0)), 1.0)

    pairs = [
        units(log.score, score_weight, PSEUDO_ROWS[0], positive=False),
        units(log.cost, weight, PSEUDO_ROWS[1], positive=True),
    ]
    mean, deviation = (jnp.stack(parts) for parts in zip(*pairs, strict=True))
    standard = (observed - mean[:, log.model].T) / deviation[:, log.model].T
    weights = weight[:, None] if log.scored is None else jnp.stack([score_weight, weight], axis=1)
    return Outcomes(x, log.model, standard, weights, standard_features), Units(mean, deviation)


def choose(for_score, for_cost):
    """The score's part of one solution with the cost's part of another: leaves [2, ...]."""
    return jax.tree.map(lambda score, cost: jnp.stack([score[0], cost[1]]), for_score, for_cost)


def _weighted_rows(outcomes: Outcomes) -> Rows:
    """Rows for training, each with the weight of its outcomes relative to its own."""
    row_weight = outcomes.weight.max(axis=1)
    relative = outcomes.weight / jnp.where(row_weight > 0, row_weight, 1.0)[:, None]
    examples = (outcomes.x, outcomes.model, outcomes.observed, jnp.broadcast_to(relative, outcomes.observed.shape))
    return Rows(examples, row_weight)


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
        rows = _weighted_rows(outcomes)
        network = OutcomeNetwork(models.size, hidden)

        def loss(params, example, setting):
            x, model, observed, weight = example
            return ((run(network, params, x)[:, model] - observed) ** 2 * weight).sum()

        train = make_train(lambda key: network.init(key, outcomes.x[0]), loss, config)
        return train(train_keys(key), rows, None, Hyper(weight_decay=strength))[0]

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


def mlp_pooled(
    features: ModelFeatures = model_features,
    *,
    hidden: tuple[int, ...] = HIDDEN,
    config: TrainConfig = TrainConfig(min_batches=16),
    strengths: tuple[tuple[float, float], ...] = POOLED_STRENGTHS,
) -> OutcomeModel:
    """Network with one trunk and heads that are pooled over models: w_0 + A z_t + v_t.

    sum_i w_i |f_{t_i}(x_i) - y_i|^2 + own * width * sum_t |v_t|^2

    The penalty is in the loss, not in AdamW's decay, which shrinks a head with few rows no more than
    one with many; in the loss it counts as rows do. A model without rows keeps v_t = 0: it is what its
    features say.

    Args:
      features: of the models, [T, f] or a function of the training rows; None for w_0 + v_t.
      hidden: widths of the hidden layers.
      config: epochs and batch size.
      strengths: pairs (AdamW's weight decay of all parameters, own), chosen by cross-validation where
        there are several.
    """

    def prepare(key, outcomes: Outcomes, n_models: int, model_size: int):
        del model_size
        given = jnp.zeros((n_models, 0)) if outcomes.features is None else outcomes.features
        return key, outcomes, given

    def solve(statistics, strength):
        key, outcomes, given = statistics
        rows = _weighted_rows(outcomes)
        network = PooledOutcomeNetwork(given.shape[0], hidden)
        width = hidden[-1] if hidden else outcomes.x.shape[1]
        penalty = strength[1] * width / jnp.maximum(rows.weight.sum(), 1e-30)

        def loss(params, example, setting):
            x, model, observed, weight = example
            own = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(params["params"]["head"]))
            return ((run(network, params, x, given)[:, model] - observed) ** 2 * weight).sum() + penalty * own

        train = make_train(lambda key: network.init(key, outcomes.x[0], given), loss, config)
        params = train(train_keys(key), rows, None, Hyper(weight_decay=strength[0]))[0]
        # One network for score and one for cost: they may be of different strengths.
        return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)

    def predict(params, x):
        network = PooledOutcomeNetwork(params["features"].shape[0], hidden)
        both = jax.vmap(lambda one: run(network, one, x, params["features"]))(params["networks"])
        return jnp.stack([both[0, 0], both[1, 1]])

    def assemble(statistics, networks):
        return {"networks": networks, "features": statistics[2]}

    return OutcomeModel(prepare, solve, predict, jnp.array(strengths), choose, assemble, features=features)
