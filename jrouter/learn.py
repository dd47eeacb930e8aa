"""What `Router.fit` does with a log: nuisances, the learner, the forecast, the assessment."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jrouter.assessment import Assessment, assess
from jrouter.forecast import Forecast, fit_forecast
from jrouter.interval import ascending, lambda_grid
from jrouter.methods import METHODS, build_method
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.nuisances.events import check_scoring
from jrouter.policy import Problem
from jrouter.shift import Reference, reference_of
from jrouter.splits import split_log
from jrouter.types import Array, LoggedData


class Learned(NamedTuple):
    """What a router is made of, as of `Router`."""

    params: Any
    lambdas: tuple[float, ...]
    assessment: Assessment
    forecasts: Forecast
    reference: Reference


def learn(
    log: LoggedData,
    *,
    method: str,
    config: dict[str, Any] | None,
    lambdas: Sequence[float] | Array | None,
    nuisances: NuisanceConfig,
    seed: int,
    assess_folds: int,
    progress: bool | None,
) -> Learned:
    """Fits all of it; arguments and errors as of `Router.fit`."""
    learner = build_method(method, config)
    if learner.full_feedback:
        raise ValueError(f"method {method!r} needs every model's outcome on every query, which a log has not")
    refuse_selection(nuisances, log)
    grid = ascending(lambda_grid(log) if lambdas is None else jnp.asarray(lambdas))
    split = split_log([log], seeds=[seed])[0]
    key_nuisances, key_fit = jax.random.split(jax.random.key(seed))
    # Folds are an argument: as constants they would be sorted while compiling.
    fit = jax.jit(lambda key, log, split: fit_nuisances(key, log, split, nuisances))
    estimated = fit(key_nuisances, log, split)
    hidden = None if progress is None else not progress
    with tqdm(total=1 + assess_folds, desc=f"fitting {method}", unit="fit", disable=hidden) as bar:
        params = jax.block_until_ready(jax.jit(learner.fit)(key_fit, Problem(log, split, estimated, grid)))
        forecasts, reference = remembered(key_fit, log, split)
        bar.update()
        assessment: Assessment = ()
        if assess_folds:
            assessment = assess(
                jax.random.fold_in(key_fit, 1),
                log,
                learner,
                METHODS["best_single"](),
                grid,
                nuisances=nuisances,
                n_folds=assess_folds,
                seed=seed,
                on_fold=lambda done: bar.update(),
            )
    return Learned(learner.settle(params), tuple(np.asarray(grid).tolist()), assessment, forecasts, reference)


def remembered(key: Array, log: LoggedData, split: Any) -> tuple[Forecast, Reference]:
    """The forecast of each model's score and cost, and what is remembered of the queries."""
    queries = None if log.group is None else len(np.unique(np.asarray(log.group)))

    def both(key, log, split):
        return fit_forecast(key, log, split), reference_of(log.x, log.row_weight, queries=queries)

    return jax.jit(both)(key, log, split)


def refuse_selection(nuisances: NuisanceConfig, log: LoggedData) -> None:
    """Refuses what a router cannot be learned from: restricted pools, and scores recorded by their value.

    Raises:
      ValueError: saying which, and what to do.
    """
    if nuisances.pool != "any":
        raise ValueError(
            f"NuisanceConfig.pool is {nuisances.pool!r}, which says nothing of a model where a row was not allowed it; "
            "a router may choose any, so fit it with 'any' ('allowed' is for the value of policies that are restricted "
            "to each row's allowed models)"
        )
    reason = check_scoring(log)
    if reason is not None:
        raise ValueError(reason)
