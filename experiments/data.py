"""What an experiment runs on: a benchmark table, a logging policy, and simulated logs of it."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jrouter import logging_policies, synthetic
from jrouter.encoders.load import load_encoder
from jrouter.interval import PAPER_LAMBDAS, lambda_grid
from jrouter.io.errors import DataError
from jrouter.io.tables import file_digest, read_table
from jrouter.logging_policies import LoggingPolicy
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.policy import Problem
from jrouter.splits import deal_groups, split_log, stack
from jrouter.sweep import over_seeds
from jrouter.types import Array, BenchmarkTable, take_rows

Chosen = TypeVar("Chosen", bound="DataOptions")
RESULTS = Path(__file__).parent / "results"
TEST_ROWS = 5_000


@dataclass(frozen=True)
class DataOptions:
    """Flags that every experiment takes."""

    table: Path | None = None
    """Benchmark table (Parquet or CSV); default: the built-in synthetic benchmark."""
    embedding: str | None = None
    """Name of the embedding column, where a table has several."""
    encoder: str | None = None
    """Embed the table's texts instead of reading a column: hashing, a model's folder or its name on the hub."""
    text: str | None = None
    """Name of the column of texts for --encoder; default: query, or prompt where there is none."""
    regime: str = "specialists"
    """Synthetic regime(s), comma-separated: linear, nonlinear, specialists, poor_overlap, heavy_tails, dominated,
    graded."""
    logging_policy: str = "confounded"
    """Comma-separated: uniform, model_accuracy, predicted_accuracy, confounded, cost, skewed, realised_accuracy."""
    lambdas: str = "auto"
    """auto (where this log's scores and costs trade), paper (0, 100, ..., 1000) or a,b,..."""
    seeds: int = 2
    """Log seeds 0..N-1."""
    n: int = 10_000
    """Logged rows of a synthetic benchmark."""
    dim: int = 256
    """Embedding dimension of a synthetic benchmark."""
    models: int = 11
    """Models of a synthetic benchmark."""
    world_seed: int = 0
    """Of a synthetic benchmark's truth: 0 is what results are shown on, so tune on others."""
    smoke: bool = False
    """A small version of everything, at most 60 s."""
    out: Path = RESULTS
    """Folder of the result files."""


def logging_names(options: DataOptions) -> list[str]:
    """Names of --logging-policy.

    Raises:
      ValueError: for an unknown one.
    """
    names = [name.strip() for name in options.logging_policy.split(",")]
    for name in names:
        if name not in logging_policies.LOGGING_POLICIES:
            known = ", ".join(logging_policies.LOGGING_POLICIES)
            raise ValueError(f"--logging-policy: unknown {name!r}, expected one of {known}")
    return names


class Source(NamedTuple):
    """Where queries come from.

    Attributes:
      name: of the table file, or "synthetic:<regime>".
      sha256: of the file; None for synthetic benchmarks.
      draw: seed -> queries that are logged (the same for every seed of a file).
      test: queries that judge, never logged.
      confounded: (spread, exploration) of the confounded logging policy.
    """

    name: str
    sha256: str | None
    draw: Callable[[int], BenchmarkTable]
    test: BenchmarkTable
    confounded: tuple[float, float]


def smoke_size(options: Chosen) -> Chosen:
    """The options, smaller if --smoke is set."""
    return replace(options, n=800, dim=24, models=4) if options.smoke else options


def sources(options: DataOptions) -> list[Source]:
    """The table, or one synthetic benchmark per regime.

    Raises:
      DataError: for a table that cannot be used.
      ValueError: for an unknown regime, or no log to simulate.
    """
    for flag, value, least in (("--seeds", options.seeds, 1), ("--n", options.n, 20)):
        if value < least:
            raise ValueError(f"{flag}: expected at least {least}, got {value}")
    if options.table is None:
        return [_synthetic(regime.strip(), options) for regime in options.regime.split(",")]
    table = _embedded(options.table, options)
    group = np.asarray(table.group)
    part = deal_groups(np.random.default_rng(0), group, (0.8, 0.2))
    logged, test = (take_rows(table, np.flatnonzero(part == number)) for number in (0, 1))
    if options.smoke:
        logged, test = (take_rows(half, np.arange(min(600, half.score.shape[0]))) for half in (logged, test))
    return [Source(options.table.name, file_digest(options.table), lambda seed: logged, test, (1.0, 0.1))]


def _embedded(path: Path, options: DataOptions) -> BenchmarkTable:
    """The table with the embeddings that are asked for: of a column, or made of its texts."""
    if options.encoder is not None and options.embedding is not None:
        raise ValueError("--encoder: makes embeddings, and --embedding reads a column of them; give one of both")
    if options.text is not None and options.encoder is None:
        raise ValueError("--text: names the column that --encoder embeds; add --encoder")
    if options.encoder is not None:
        encode = partial(load_encoder(options.encoder).encode, cache=cache_folder())
        return read_table(path, embed=encode, query=options.text)
    table = read_table(path, embedding=options.embedding)
    if table.x is None:
        raise DataError(
            f"{path}: the table holds text but no embeddings, and routers read embeddings: it needs an encoder. "
            "Add --encoder hashing or a model, or a column 'embedding:<encoder>' (a list of numbers per query)."
        )
    return table


def cache_folder() -> Path:
    """Where embeddings are kept if no other folder is named: the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jrouter" / "embeddings"


def _synthetic(regime: str, options: DataOptions) -> Source:

    def make():
        return synthetic.make_world(regime, dim=options.dim, n_models=options.models, seed=options.world_seed)

    world = jax.jit(make)()
    test_rows = 1000 if options.smoke else TEST_ROWS
    draw, test = draws(world, options.n, test_rows, key=jax.random.key(1))
    return Source(f"synthetic:{regime}", None, draw, test, (world.regime.logging_spread, world.regime.exploration))


def draws(
    world: synthetic.World, n: int, test_rows: int, *, key: Array
) -> tuple[Callable[[int], BenchmarkTable], BenchmarkTable]:
    """Of a synthetic world: seed -> n queries that are logged, and the queries that judge."""
    key_test, key_logs = jax.random.split(key)
    # Compiled: one by one, their many small operations would take seconds to compile.
    logged = jax.jit(lambda seed: synthetic.draw_queries(world, jax.random.fold_in(key_logs, seed), n))
    return logged, jax.jit(lambda: synthetic.draw_queries(world, key_test, test_rows))()


class Simulation(NamedTuple):
    """Logs of one source under one logging policy, stacked over seeds [S].

    Attributes:
      problems: what learners see, [S, ...].
      logging_test: [S, n_test, T], probabilities of the logging policy on the test queries.
      true_propensity: [S, n, T], of the logged rows.
      lambdas: [L].
    """

    problems: Problem
    logging_test: Array
    true_propensity: Array
    lambdas: Array


def _join(first: BenchmarkTable, second: BenchmarkTable) -> BenchmarkTable:
    """Rows of both. Groups are left out: they are numbered per table."""
    first, second = replace(first, group=None), replace(second, group=None)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)


def logging_probabilities(source: Source, logged: BenchmarkTable, policy: str) -> tuple[Array, Array | None]:
    """[n + n_test, T] probabilities of logged, then test queries, and which share of rows is kept."""
    both = _join(logged, source.test)
    rule = logging_rule(policy, *source.confounded)
    return rule.probabilities(both), None if rule.keep is None else rule.keep(both)


@cache
def logging_rule(name: str, spread: float, exploration: float) -> LoggingPolicy:
    """A logging policy by name, compiled once for all seeds; the confounded one as a source wants it."""
    if name == "confounded":
        return compiled(LoggingPolicy(partial(logging_policies.confounded, spread=spread, exploration=exploration)))
    return compiled(logging_policies.LOGGING_POLICIES[name])


def compiled(rule: LoggingPolicy) -> LoggingPolicy:
    """The same logging policy, its probabilities compiled."""
    return rule._replace(probabilities=jax.jit(rule.probabilities))


def parse_lambdas(text: str) -> Array | None:
    """Lambdas of --lambdas; None for auto.

    Raises:
      ValueError: for anything but auto, paper or ascending numbers of at least 0.
    """
    if text == "auto":
        return None
    if text == "paper":
        return jnp.array(PAPER_LAMBDAS)
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--lambdas: expected auto, paper or numbers like 0,100,400, got {text!r}") from None
    if min(values) < 0 or values != sorted(set(values)) or not np.isfinite(values).all():
        raise ValueError(f"--lambdas: expected ascending finite numbers of at least 0, got {text!r}")
    return jnp.array(values)


def simulate(
    source: Source,
    policy: str,
    options: DataOptions,
    *,
    nuisances: NuisanceConfig = NuisanceConfig(),
    keep_full: bool = True,
) -> Simulation:
    """Simulates a log per seed and estimates its nuisances.

    Args:
      source: from `sources`.
      policy: name of a logging policy.
      options: seeds and lambdas.
      nuisances: how these are estimated; propensities are, as for most logs, not given.
      keep_full: keep every model's outcome beside the log, for references with full feedback.
    """
    logs, propensities, logging_test, full = [], [], [], []
    for seed in range(options.seeds):
        logged = source.draw(seed)
        n = logged.score.shape[0]
        probability, keep = logging_probabilities(source, logged, policy)
        log, true, rows = logging_policies.simulate_log(jax.random.key(seed), logged, probability[:n], keep)
        logs.append(log)
        propensities.append(true)
        logging_test.append(logging_policies.chosen_share(probability[n:], keep))
        full.append(replace(take_rows(logged, rows), x=None))
    # Skewed logs lose a few rows more or less by seed; equal lengths let them be stacked.
    shortest = jnp.arange(min(log.model.shape[0] for log in logs))
    logs, propensities, full = ([take_rows(item, shortest) for item in items] for items in (logs, propensities, full))
    lambdas = parse_lambdas(options.lambdas)
    if lambdas is None:
        pooled = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *logs)
        lambdas = lambda_grid(pooled, size=3 if options.smoke else 11)
    splits = split_log(logs, seeds=list(range(options.seeds)))
    stacked, split = stack(logs), stack(splits)
    keys = seed_keys(options.seeds, "nuisances")
    fit = over_seeds(lambda key, pair: fit_nuisances(key, pair[0], pair[1], nuisances))
    estimated = jax.jit(fit, compiler_options=compiler_options(options.smoke))(keys, (stacked, split))
    problems = Problem(
        log=stacked,
        split=split,
        nuisances=estimated,
        lambdas=jnp.broadcast_to(lambdas, (options.seeds, *lambdas.shape)),
        full=stack(full) if keep_full else None,
    )
    return Simulation(problems, jnp.stack(logging_test), jnp.stack(propensities), lambdas)


@cache
def compiler_options(fast: bool) -> Any:
    """Options of XLA: compile in half the time to slower code, or in two thirds to nearly as fast code."""
    level = {"xla_backend_optimization_level": "0" if fast else "1"}
    more = level | {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda x: x, compiler_options=more)(0.0)
    except jax.errors.JaxRuntimeError:
        return level  # a jaxlib that does not have it
    return more


def seed_keys(seeds: int, use: str) -> Array:
    """One key per seed, different for each use."""
    named = jax.random.fold_in(jax.random.key(0), sum(use.encode()) * 65_537 + len(use))
    return jax.random.split(named, seeds)
