"""One simulated log of one seed, the same whichever other seeds are run, and its nuisances."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from data import DataOptions, Source, compiler_options, logging_rule, parse_lambdas, seed_keys

from jrouter.interval import lambda_grid
from jrouter.logging_policies import LoggingPolicy, simulate_log
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.splits import Split, split_log
from jrouter.types import Array, BenchmarkTable, LoggedData, Nuisances, take_rows


class OneLog(NamedTuple):
    """A simulated log and what is known of it.

    Attributes:
      log: m rows.
      split: of them.
      full: every model's outcome on these rows, for references with full feedback.
      rows: [m], their places in the table that was logged.
      true_propensity: [m, T].
      logging_test: [n_test, T], probabilities of the logging policy on the test queries.
    """

    log: LoggedData
    split: Split
    full: BenchmarkTable
    rows: Array
    true_propensity: Array
    logging_test: Array


def draw_log(
    logged: BenchmarkTable,
    test: BenchmarkTable,
    rule: LoggingPolicy,
    seed: int,
    *,
    rows: np.ndarray | None = None,
    roomy: bool = False,
) -> OneLog:
    """Simulates the log of one seed: the same whichever other seeds are run.

    Args:
      logged: queries.
      test: queries that judge; the logging policy is made on both.
      rule: the logging policy.
      seed: of the draws and of the split.
      rows: the queries that are logged, or None for all.
      roomy: room for all rows of one model, so that any logging policy of them shares the programs.
    """
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), replace(logged, group=None), replace(test, group=None))
    probability = rule.probabilities(both)
    keep = None if rule.keep is None else rule.keep(both)
    n = logged.score.shape[0]
    chosen = np.arange(n) if rows is None else rows
    picked = take_rows(logged, chosen)
    log, true, kept = simulate_log(jax.random.key(seed), picked, probability[:n][chosen], keep)
    if keep is not None:
        # A few rows less, so that the logs of most seeds are of one length and share their programs.
        step = max(1, len(chosen) // 50)
        size = jnp.arange(max(step, kept.shape[0] // step * step))
        log, true, kept = take_rows(log, size), true[size], kept[size]
    of_test = probability[n:]
    if keep is not None:
        of_test = of_test * keep / (of_test * keep).sum(axis=1, keepdims=True)
    split = with_room(split_log([log], seeds=[seed])[0], n_rows=log.model.shape[0])
    if roomy:
        split = replace(split, model_size=log.model.shape[0])
    full = replace(take_rows(picked, kept), x=None)
    return OneLog(log, split, full, jnp.asarray(chosen)[kept], true, of_test)


def with_room(split: Split, *, n_rows: int) -> Split:
    """The split with its static sizes rounded up, so that other seeds share the compiled programs."""

    def up(size: int, step: int) -> int:
        return min(-(-size // step) * step, n_rows)

    def padded(rows, weight):
        spare = max(0, up(rows.shape[0], 16) - rows.shape[0])
        return jnp.pad(rows, (0, spare)), jnp.pad(weight, (0, spare))

    train, train_weight = padded(split.train, split.train_weight)
    valid, valid_weight = padded(split.valid, split.valid_weight)
    return replace(
        split,
        train=train,
        train_weight=train_weight,
        valid=valid,
        valid_weight=valid_weight,
        fold_size=up(split.fold_size, 16),
        model_size=up(split.model_size, max(1, n_rows // 16)),
    )


def lambdas_of(source: Source, policy: str, options: DataOptions, *, size: int = 6) -> Array:
    """Lambdas of --lambdas; auto looks at the log of seed 0, and is then the same for every seed.

    Raises:
      ValueError: for text that is no list of lambdas.
    """
    given = parse_lambdas(options.lambdas)
    if given is not None:
        return given
    log = draw_log(source.draw(0), source.test, logging_rule(policy, *source.confounded), 0).log
    return lambda_grid(log, size=3 if options.smoke else size)


@cache
def _nuisance_program(config: NuisanceConfig, fast: bool) -> Callable:
    return jax.jit(
        lambda key, log, split: fit_nuisances(key, log, split, config), compiler_options=compiler_options(fast)
    )


def estimate_nuisances(seed: int, log: LoggedData, split: Split, config: NuisanceConfig, *, fast: bool) -> Nuisances:
    """Nuisances of one log, by a program that seeds and variants share."""
    return _nuisance_program(config, fast)(key_of(seed, "nuisances"), log, split)


def key_of(seed: int, use: str) -> Array:
    """The key of one seed, whichever other seeds are run."""
    return seed_keys(seed + 1, use)[seed]
