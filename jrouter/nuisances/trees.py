"""Nuisances by gradient-boosted trees, the paper's propensity model among them, on the host.

xgboost is an extra and no JAX program: arrays in, arrays out, cross-fitted like the others, but neither
jitted nor vmapped. What it gives is a `Nuisances`, from which scores are built as from any other.
"""

import importlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from jrouter.nuisances.folds import fold_weights
from jrouter.nuisances.outcome import outcomes_of
from jrouter.nuisances.propensity import Clipping, clip
from jrouter.splits import Split
from jrouter.types import Array, LoggedData, Nuisances


def _xgboost() -> Any:
    try:
        return importlib.import_module("xgboost")
    except ImportError as error:
        raise ImportError('gradient-boosted trees need xgboost: pip install "jrouter[xgboost]"') from error


def _settings(depth: int, learning_rate: float, seed: int, *, size: int) -> dict[str, Any]:
    return {
        # Threads wait for each other longer than a small log takes; 0 is all of them.
        "nthread": 1 if size < 100_000 else 0,
        "max_depth": depth,
        "learning_rate": learning_rate,
        "seed": seed,
        "subsample": 0.8,
        "colsample_bynode": 0.5,
        "min_child_weight": 5.0,
        "max_bin": 64,
        "tree_method": "hist",
        "verbosity": 0,
    }


def _of_folds(log: LoggedData, split: Split):
    """Per fold: weights [n] of its complement, and the indices of its own rows (all rows without folds)."""
    weights, fold = fold_weights(log, split), np.asarray(split.fold)
    for number in range(split.n_folds):
        yield weights[number], np.flatnonzero(fold == number) if split.n_folds > 1 else np.arange(fold.size)


def xgboost_outcome(
    log: LoggedData,
    split: Split,
    *,
    rounds: int = 100,
    depth: int = 3,
    learning_rate: float = 0.03,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Cross-fitted score and cost of every model, by boosted trees with squared loss.

    One booster for each outcome, with the model as a categorical input beside x: a split on x alone is
    shared by all models, one below a split on the model is its own, so a model with few rows borrows
    from the rest. (One booster per model has n / T rows, and finds little in them.) Outcomes are
    in units of each model's standard deviation around its mean, as for the other families.

    Args:
      log: n rows; unscored answers do not count for score.
      split: folds; a fold's rows are predicted by the boosters of its complement.
      rounds: trees.
      depth: of each.
      learning_rate: shrinkage of each tree.
      seed: of the subsamples (80% of the rows a tree, half of the columns a node).

    Returns:
      score [n, T], cost [n, T].

    Raises:
      ImportError: without xgboost.
    """
    xgb = _xgboost()
    x, model, n_models = np.asarray(log.x), np.asarray(log.model), len(log.models)
    types = ["q"] * x.shape[1] + ["c"]
    predicted = np.zeros((2, x.shape[0], n_models), np.float32)
    for weight, mine in _of_folds(log, split):
        outcomes, units = outcomes_of(log, log.x, weight)
        observed, row_weight = np.asarray(outcomes.observed), np.asarray(outcomes.weight)
        mean, deviation = np.asarray(units.mean), np.asarray(units.deviation)
        every = np.repeat(mine, n_models), np.tile(np.arange(n_models), mine.size)
        questions = xgb.DMatrix(np.column_stack([x[every[0]], every[1]]), feature_types=types, enable_categorical=True)
        for place in (0, 1):
            counts = row_weight[:, min(place, row_weight.shape[1] - 1)]
            used = np.flatnonzero(counts > 0)
            rows = xgb.DMatrix(
                np.column_stack([x[used], model[used]]),
                label=observed[used, place],
                weight=counts[used],
                feature_types=types,
                enable_categorical=True,
            )
            settings = _settings(depth, learning_rate, seed, size=x.size) | {
                "objective": "reg:squarederror",
                "base_score": 0.0,
            }
            booster = xgb.train(settings, rows, num_boost_round=rounds)
            standard = booster.predict(questions).reshape(mine.size, n_models)
            predicted[place, mine] = mean[place] + deviation[place] * standard
    return jnp.asarray(predicted[0]), jnp.asarray(predicted[1])


def xgboost_propensity(
    log: LoggedData,
    split: Split,
    *,
    rounds: int = 50,
    depth: int = 3,
    learning_rate: float = 0.1,
    pool: str = "any",
    seed: int = 0,
) -> Array:
    """Cross-fitted probability of every model, by boosted trees with softmax output; before any clipping.

    Trees are fitted as if all models had been allowed, which estimates p(t | x), the average over what was.
    With pool "allowed", what was not is then 0, and the rest are made to sum to 1, which keeps their ratios.

    Args:
      log: n rows.
      split: folds; a fold's rows are predicted by the booster of its complement.
      rounds: trees per model.
      depth: of each.
      learning_rate: shrinkage of each tree.
      pool: as of `NuisanceConfig`.
      seed: of the subsamples.

    Returns:
      [n, T].

    Raises:
      ImportError: without xgboost.
    """
    xgb = _xgboost()
    x, model, n_models = np.asarray(log.x), np.asarray(log.model), len(log.models)
    predicted = np.zeros((x.shape[0], n_models), np.float32)
    settings = _settings(depth, learning_rate, seed, size=x.size) | {
        "objective": "multi:softprob",
        "num_class": n_models,
    }
    # A row counts p (1 - p) in a leaf here, not 1.
    settings["min_child_weight"] = 1.0
    for weight, mine in _of_folds(log, split):
        counts = np.asarray(weight)
        used = np.flatnonzero(counts > 0)
        rows = xgb.DMatrix(x[used], label=model[used], weight=counts[used])
        booster = xgb.train(settings, rows, num_boost_round=rounds)
        predicted[mine] = booster.predict(xgb.DMatrix(x[mine])).reshape(mine.size, n_models)
    if pool == "allowed" and log.allowed is not None:
        predicted = np.where(np.asarray(log.allowed), predicted, 0.0)
    return jnp.asarray(predicted / predicted.sum(axis=1, keepdims=True), jnp.float32)


def xgboost_nuisances(
    log: LoggedData,
    split: Split,
    *,
    outcome: bool = True,
    propensity: bool = True,
    fallback: Nuisances,
    clipping: Clipping = Clipping(),
    pool: str = "any",
) -> Nuisances:
    """Nuisances of a log by boosted trees.

    Args:
      log: n rows. With logged propensities those of `fallback` are used, whatever `propensity` says.
      split: folds.
      outcome: whether trees give score and cost; else they are those of `fallback`.
      propensity: whether trees give the propensities; else they are those of `fallback`.
      fallback: e.g. from `fit_nuisances`, of the same rows and folds; of being scored, its probability is kept.
      clipping: of estimated propensities.
      pool: as of `NuisanceConfig`, the same as of `fallback`.

    Raises:
      ImportError: without xgboost.
    """
    score, cost = xgboost_outcome(log, split) if outcome else (fallback.score, fallback.cost)
    chosen, every = fallback.propensity, fallback.all_propensity
    if propensity and log.propensity is None:
        every = xgboost_propensity(log, split, pool=pool)
        raw = jnp.take_along_axis(every, log.model[:, None], axis=1)[:, 0]
        for weight, mine in _of_folds(log, split):
            clipped = clip(every[mine], clipping, n_models=len(log.models), training=raw, training_weight=weight)
            every = every.at[mine].set(clipped)
        chosen = jnp.take_along_axis(every, log.model[:, None], axis=1)[:, 0]
        if pool == "allowed" and log.allowed is not None:
            every = jnp.where(log.allowed, every, 0.0)
    return Nuisances(chosen, score, cost, split.fold, every, fallback.scored_probability)
