"""A router from a log larger than memory: a folder of Parquet files, read several times, never held."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.features import fit_scaling
from jrouter.interval import ascending, lambda_grid
from jrouter.io.stream import LogStream, open_log
from jrouter.learn import refuse_selection, remembered
from jrouter.methods import build_method
from jrouter.methods.rm_softmax import RmSoftmaxConfig, softmax_surrogate
from jrouter.networks import RouterNetwork
from jrouter.nuisances.crossfit import NuisanceConfig
from jrouter.nuisances.sampled import SampledNuisances, fit_sampled, predict_sampled
from jrouter.router import Router
from jrouter.splits import folds_alone
from jrouter.stream_sweep import stream_sweep
from jrouter.streaming import Roles, Sample, draw_sample, make_scorer, training_rows
from jrouter.sweep import Chunk, Progress, Swept
from jrouter.train import Rows, train_keys
from jrouter.train_stacked import Members, StackedConfig, StackedTrain, make_stacked_train, members_of
from jrouter.tuning import as_number
from jrouter.types import Array

METHOD = "rm_softmax"


def fit_stream(
    path: str | os.PathLike,
    *,
    config: dict[str, Any] | None = None,
    lambdas: Sequence[float] | Array | None = None,
    nuisances: NuisanceConfig = NuisanceConfig(),
    nuisance_rows: int = 100_000,
    valid_rows: int = 20_000,
    patience: int | None = None,
    embedding: str | None = None,
    columns: Mapping[str, str] | None = None,
    models: Sequence[str] | None = None,
    cost_unit: str = "USD",
    chunk_rows: int | None = None,
    seed: int = 0,
    on_chunk: Callable[[Progress, Chunk], None] | None = None,
    load_chunk: Callable[[int], Chunk | None] | None = None,
) -> Router:
    """Learns a router by `rm_softmax` from a log that need not fit in memory.

    One pass draws a sample, on which the nuisances are fitted; each epoch is one more pass, in which every
    row is scored by the fit that never saw its query and trained on. Nuisances from a sample, corrections
    from all rows. Memory does not grow with the number of rows: beside what the programs need, it is the
    sample's fit (`nuisance_rows` times d, and times T for propensities), `valid_rows`, the chunks that are
    read ahead (`LogStream.chunks`), and two chunks with their scores on the device.

    Args:
      path: a Parquet file or a folder of them, with the columns of `read_log`; see `open_log` on row groups.
      config: settings of rm_softmax other than its defaults; `strength` chosen by a rule is so from the sample.
      lambdas: as of `Router.fit`; None for those where the sample's scores and costs trade.
      nuisances: as of `Router.fit`.
      nuisance_rows: about how many rows the nuisances are fitted on.
      valid_rows: about how many rows choose each network's epoch, at most.
      patience: epochs without improvement after which a network stops; None for all `epochs`.
      embedding: as of `read_log`; kept with the router.
      columns: as of `read_log`.
      models: as of `read_log`.
      cost_unit: as of `read_log`.
      chunk_rows: as of `open_log`.
      seed: of folds, sample, initialisation and order.
      on_chunk: as of `stream_sweep`: called after each epoch.
      load_chunk: as of `stream_sweep`: a fit of the same log and arguments goes on from there.

    Returns:
      A router, to be saved and served as any of rm_softmax.

    Raises:
      DataError: as `read_log`, for the row where it comes.
      ValueError: as `Router.fit`, or for an estimator (or a gamma above 1) that needs all rows at once.
    """
    method = build_method(METHOD, config).config
    stream = open_log(
        path,
        embedding=embedding,
        columns=columns,
        models=models,
        cost_unit=cost_unit,
        chunk_rows=chunk_rows,
        multiple=method.batch_size,
    )
    task = prepare(
        stream,
        method,
        lambdas=lambdas,
        nuisances=nuisances,
        nuisance_rows=nuisance_rows,
        valid_rows=valid_rows,
        seed=seed,
    )
    swept = train_routers(task, method, patience=patience, on_chunk=on_chunk, load_chunk=load_chunk)
    networks = jax.tree.map(jnp.asarray, swept.params)
    split = folds_alone(task.sample.log, task.sample.fold, n_folds=task.roles.n_folds)
    forecasts, reference = remembered(task.key, task.sample.log, split)
    return Router(
        method=METHOD,
        forecasts=forecasts,
        reference=reference,
        config=config or {},
        params={"networks": networks, "lambdas": task.lambdas, "scaling": task.scaling},
        models=stream.models,
        dim=stream.dim,
        lambdas=tuple(np.asarray(task.lambdas).tolist()),
        cost_unit=cost_unit,
        embedding=embedding,
    ).with_record(task.sample.log, seed=seed)


@dataclass(frozen=True)
class StreamTask:
    """What is settled before the first epoch.

    Attributes:
      stream: the log.
      roles: which rows do what.
      sample: what the first pass kept.
      nuisances: fitted on the sample.
      scaling: of embeddings, from the sample.
      lambdas: [L].
      valid: scored rows of validation.
      score: (log, fold, weight) -> `Rows`, compiled.
      key: of training.
      seed: of the order of row groups.
    """

    stream: LogStream
    roles: Roles
    sample: Sample
    nuisances: SampledNuisances
    scaling: dict[str, Array]
    lambdas: Array
    valid: Rows
    score: Callable
    key: Array
    seed: int

    def rows(self, epoch: int) -> Iterator[Rows]:
        """An epoch's chunks of training rows: read ahead, scored on the device, not waited for."""
        # Epoch by epoch another order of row groups, and the same one when an epoch is done again.
        order = np.random.default_rng([self.seed, epoch]).integers(2**31)
        for chunk in self.stream.chunks(order=int(order), label=f"epoch {epoch + 1}"):
            yield training_rows(self.score, chunk, self.roles)


def prepare(
    stream: LogStream,
    method: RmSoftmaxConfig,
    *,
    lambdas: Sequence[float] | Array | None = None,
    nuisances: NuisanceConfig = NuisanceConfig(),
    nuisance_rows: int = 100_000,
    valid_rows: int = 20_000,
    seed: int = 0,
) -> StreamTask:
    """The first pass, the nuisances, the grid of lambdas and the validation rows; arguments as of `fit_stream`."""
    # Before anything is read: refuses what cannot be streamed, and lambdas that are no grid.
    if method.gamma != 1.0:
        raise ValueError(f"gamma {method.gamma:g}: bounds need all rows of a log at once; stream with 1 (off)")
    make_scorer(estimator=method.estimator)
    grid = None if lambdas is None else ascending(jnp.asarray(lambdas))
    roles = Roles(stream.rows, nuisance_rows=nuisance_rows, valid_rows=valid_rows, seed=seed)
    sample = draw_sample(stream.chunks(label="sample"), roles)
    refuse_selection(nuisances, sample.log)
    log = jax.tree.map(jnp.asarray, sample.log)
    if sample.all_scored:
        log = replace(log, scored=None)
    grid = lambda_grid(log) if grid is None else grid
    split = folds_alone(sample.log, sample.fold, n_folds=roles.n_folds)
    key_nuisances, key_fit = jax.random.split(jax.random.key(seed))
    fitted = jax.jit(lambda key, log: fit_sampled(key, log, split, nuisances))(key_nuisances, log)
    strength = method.strength
    if isinstance(strength, str):

        def chosen(fitted, log):
            predicted = predict_sampled(fitted, log, split.fold, nuisances)
            return as_number(log, predicted, estimator=method.estimator, strength=method.strength)

        strength = jax.jit(chosen)(fitted, log)
    scaling = fit_scaling(log.x, log.weight)
    scorer = jax.jit(make_scorer(estimator=method.estimator, strength=strength, config=nuisances))
    score = partial(scorer, fitted, scaling, sample.scored_share)
    valid = score(sample.valid, sample.valid_fold, sample.valid.weight)
    return StreamTask(stream, roles, sample, fitted, scaling, grid, valid, score, key_fit, seed)


def train_routers(
    task: StreamTask,
    method: RmSoftmaxConfig,
    *,
    patience: int | None = None,
    at_once: int | None = None,
    on_chunk: Callable[[Progress, Chunk], None] | None = None,
    load_chunk: Callable[[int], Chunk | None] | None = None,
) -> Swept:
    """One network a lambda, all started and shuffled alike, as by `rm_softmax` in memory.

    Arguments as of `stream_sweep`.
    """
    config, train, members, shuffle = routers_of(task, method, patience=patience)
    return stream_sweep(
        train,
        members,
        task.rows,
        task.valid,
        shuffle,
        config=config,
        n_chunks=task.stream.n_chunks,
        chunk_rows=task.stream.chunk_rows,
        mean_weight=task.sample.mean_weight,
        at_once=at_once,
        on_chunk=on_chunk,
        load_chunk=load_chunk,
    )


def routers_of(
    task: StreamTask, method: RmSoftmaxConfig, *, patience: int | None = None
) -> tuple[StackedConfig, StackedTrain, Members, Array]:
    """What `stream_sweep` trains: static sizes, the training, the routers, and the key of their order of rows."""
    config = StackedConfig(method.epochs, method.batch_size, method.min_batches, patience=patience)
    network = RouterNetwork(len(task.stream.models), method.hidden)
    keys = train_keys(task.key)
    starts = keys.init[None][jnp.zeros(task.lambdas.shape[0], jnp.int32)]
    members = members_of(starts, task.lambdas, method.hyper)
    return config, make_stacked_train(network, softmax_surrogate(method), config), members, keys.shuffle
