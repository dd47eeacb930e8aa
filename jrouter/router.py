"""Router: a policy with names. Fitted on a log, saved, loaded, and asked which model to call."""

import functools
import importlib.metadata
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jrouter.assessment import Assessment, AtLambda, assess, describe, from_plain
from jrouter.compiled_policy import CompiledPolicy
from jrouter.compiled_texts import CompiledTexts
from jrouter.encoders.encode import Encoder
from jrouter.encoders.load import load_encoder_of
from jrouter.encoders.spec import EncoderSpec
from jrouter.interval import ascending, lambda_grid
from jrouter.io import checkpoint
from jrouter.methods import METHODS, build_method
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.nuisances.events import check_scoring
from jrouter.policy import Problem
from jrouter.router_manifest import encoder_of, read_manifest
from jrouter.splits import split_log
from jrouter.types import Array, LoggedData


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


@dataclass(frozen=True)
class Router:
    """A fitted policy, the names of its models, and what it was made for.

    Attributes:
      method: name in `METHODS`.
      config: fields of the method's configuration that differ from its defaults.
      params: of the policy.
      models: names, in the order of the policy's outputs.
      dim: width of the embeddings it reads.
      lambdas: ascending lambdas it was fitted for; others are clipped to their range.
      cost_unit: lambda is score per unit of this.
      embedding: name of the encoder of the embeddings, where known.
      assessment: what the log says of a router learned like this one, at each lambda; empty where not assessed.
      encoder_spec: of the encoder that makes its embeddings of texts; None for a router that reads embeddings alone.
    """

    method: str
    config: dict[str, Any]
    params: Any
    models: tuple[str, ...]
    dim: int
    lambdas: tuple[float, ...]
    cost_unit: str = "USD"
    embedding: str | None = None
    assessment: Assessment = ()
    encoder_spec: EncoderSpec | None = None

    def __post_init__(self):
        _ = self._policy  # made at once, so that threads share it

    @functools.cached_property
    def _policy(self) -> CompiledPolicy:
        policy = build_method(self.method, self.config).policy
        return CompiledPolicy(policy, self.params, self.dim, len(self.models))

    @functools.cached_property
    def encoder(self) -> Encoder:
        """The encoder of its texts, loaded when a text first needs it, from where it was when the router was fitted.

        Raises:
          ValueError: for a router that reads embeddings alone.
          EncoderError: where the encoder is not there any more, or is another; `load` takes another place.
        """
        if self.encoder_spec is None:
            raise ValueError(
                "this router reads embeddings, no texts: fit it with encoder=load_encoder(...), or embed the texts"
                + (f" by {self.embedding}" if self.embedding else "")
            )
        return load_encoder_of(self.encoder_spec)

    @functools.cached_property
    def _texts(self) -> CompiledTexts:
        return CompiledTexts(self.encoder, self._policy)

    def with_encoder(self, encoder: Encoder) -> "Router":
        """This router, reading texts too, by the encoder that made the embeddings of its log.

        Raises:
          ValueError: for an encoder of another width.
        """
        _check_width(encoder, self.dim)
        router = replace(self, encoder_spec=encoder.spec, embedding=self.embedding or encoder.spec.name)
        vars(router)["encoder"] = encoder  # as if the property had loaded it
        return router

    def __reduce__(self):
        # Copies and pickles compile anew: programs belong to a process and its device.
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @classmethod
    def fit(
        cls,
        log: LoggedData,
        *,
        method: str = "rm_auto",
        config: dict[str, Any] | None = None,
        lambdas: Sequence[float] | Array | None = None,
        nuisances: NuisanceConfig = NuisanceConfig(),
        embedding: str | None = None,
        encoder: Encoder | None = None,
        seed: int = 0,
        assess_folds: int = 5,
        progress: bool | None = None,
    ) -> "Router":
        """Learns a router from a log.

        Args:
          log: from `read_log`.
          method: name in `METHODS` of a learner that needs no full feedback. The default takes the
            simplest of several unless this log supports another; `explain` says which and why.
          config: settings of the method other than its defaults.
          lambdas: cost preferences to serve, ascending; None takes those where this log's scores
            and costs trade.
          nuisances: how propensities and outcomes are estimated; its `pool` must be "any".
          embedding: name of the encoder, kept with the router.
          encoder: that made the log's embeddings (`read_log(..., embed=encoder.encode)`): the router then reads texts
            too, and keeps what the encoder was.
          seed: of splits, initialisation and shuffling.
          assess_folds: K of `assessment`, which fits everything K times more, each on (K - 1) / K of the log; 0 for a
            router without.
          progress: whether to show a bar with the time left; None for where there is a terminal.

        Raises:
          ValueError: for a method that needs full feedback, lambdas that do not ascend, a pool that is not "any",
            or a log whose scores seem to be recorded depending on what they are.
        """
        learner = build_method(method, config)
        if learner.full_feedback:
            raise ValueError(f"method {method!r} needs every model's outcome on every query, which a log has not")
        refuse_selection(nuisances, log)
        if encoder is not None:
            _check_width(encoder, log.x.shape[1])
        grid = ascending(lambda_grid(log) if lambdas is None else jnp.asarray(lambdas))
        split = split_log([log], seeds=[seed])[0]
        key_nuisances, key_fit = jax.random.split(jax.random.key(seed))
        estimated = jax.jit(lambda key, log: fit_nuisances(key, log, split, nuisances))(key_nuisances, log)
        hidden = None if progress is None else not progress
        with tqdm(total=1 + assess_folds, desc=f"fitting {method}", unit="fit", disable=hidden) as bar:
            params = jax.block_until_ready(jax.jit(learner.fit)(key_fit, Problem(log, split, estimated, grid)))
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
        router = cls(
            method=method,
            config=config or {},
            params=learner.settle(params),
            assessment=assessment,
            models=log.models,
            dim=log.x.shape[1],
            lambdas=tuple(np.asarray(grid).tolist()),
            cost_unit=log.cost_unit,
            embedding=embedding,
        )
        return router if encoder is None else router.with_encoder(encoder)

    def explain(self) -> str:
        """What the method decided and why, and what the router is worth by its log, as text."""
        learner = build_method(self.method, self.config)
        decided = self.method if learner.explain is None else learner.explain(self.params)
        return f"{decided}\n\n{describe(self.assessment)}" if self.assessment else decided

    def assessed(self, lam: float) -> AtLambda:
        """What the log says of this router at the nearest fitted lambda: value, gains, Gamma, verdict.

        Raises:
          ValueError: for a router that was not assessed, or a lambda as of `probabilities`.
        """
        if not self.assessment:
            raise ValueError("this router was not assessed: fit it with assess_folds of at least 2")
        nearest = self._clipped(lam)
        return min(self.assessment, key=lambda one: abs(one.lam - nearest))

    def compile(self, batch_sizes: Sequence[int] | None = None, *, texts: Sequence[Any] = ()) -> None:
        """Compiles what `route` and `probabilities` need, before a service takes traffic: later calls compile nothing.

        Rows are padded to the next batch size, and more than the largest go in pieces. Without this call the
        batch sizes are powers of two, to 1,024 on a CPU, 8,192 on an accelerator, or less if that needs more
        than about 256 MiB; each is compiled when first needed.
        Products have the precision that `jax.default_matmul_precision` has at this time.

        Args:
          batch_sizes: numbers of rows, the only ones from then on: (1, 64) pads 2 to 63 rows to 64. Rows that
            are on an accelerator, as many as one of these, are not copied to the host. None for the powers of two.
          texts: examples of the queries to come: what texts of their lengths need, alone or as many as these, is
            compiled too.

        Raises:
          ValueError: for batch sizes that are not positive integers, or none.
        """
        if batch_sizes is not None:
            batch_sizes = list(batch_sizes)
            if not batch_sizes or any(not isinstance(size, int | np.integer) or size < 1 for size in batch_sizes):
                raise ValueError(f"batch_sizes: expected positive integers, got {batch_sizes}")
        self._policy.compile(batch_sizes)
        if texts:
            self._texts.compile(texts)

    def probabilities(self, x: Any, lam: float, allowed: Iterable[str] | None = None) -> np.ndarray:
        """Probability of each model: [T] for one query, [n, T] for n of them.

        Args:
          x: [d] or [n, d] embeddings, by the encoder of the log; or a text or chat, or a list of them.
          lam: cost preference, score per unit of cost; clipped to the fitted range.
          allowed: names of the models that may be chosen; None for all.

        Raises:
          ValueError: for embeddings of another width or not finite, a lambda that is not a number of
            at least 0, an unknown model, or an empty pool; for texts that there is no encoder for.
        """
        answers, x, one = self._queries(x)
        probability, finite = answers.probabilities(x, self._clipped(lam), self._pool(allowed))
        if not finite.all():
            raise self._not_finite(finite)
        return probability[0] if one else probability

    def _queries(self, x: Any) -> tuple[CompiledPolicy | CompiledTexts, Any, bool]:
        """What answers, what it is asked, and whether it was one query."""
        if isinstance(x, str) or _is_chat(x):
            return self._texts, [x], True
        if isinstance(x, list | tuple) and x and (isinstance(x[0], str) or _is_chat(x[0])):
            return self._texts, x, False
        return self._policy, *self._rows(x)

    def _rows(self, x: Any) -> tuple[Any, bool]:
        """Embeddings as rows [n, d], and whether it was one."""
        if type(x) is np.ndarray or not isinstance(x, jax.Array) or x.ndim != 2:
            x = np.asarray(x, np.float32)
        if x.ndim not in (1, 2) or x.shape[-1] != self.dim:
            encoder = f" of {self.embedding}" if self.embedding else ""
            raise ValueError(f"x: expected embeddings{encoder} of width {self.dim}, got shape {x.shape}")
        return (x[None], True) if x.ndim == 1 else (x, False)

    def _not_finite(self, finite: np.ndarray) -> ValueError:
        return ValueError(f"x: row {int(np.argmin(finite))} is not finite; embed that query again")

    def _clipped(self, lam: float) -> float:
        if not lam >= 0 or not math.isfinite(lam):
            raise ValueError(f"lam: expected a finite number of at least 0, got {lam}")
        return min(max(float(lam), self.lambdas[0]), self.lambdas[-1])

    def _pool(self, allowed: Iterable[str] | None) -> tuple[bool, ...] | None:
        if allowed is None:
            return None
        if isinstance(allowed, str):
            raise ValueError(f"allowed: expected a list of model names, got the string {allowed!r}")
        names = set(allowed)
        unknown = sorted(names - set(self.models))
        if unknown:
            raise ValueError(f"allowed: unknown model {unknown[0]!r}, expected some of {', '.join(self.models)}")
        if not names:
            raise ValueError("allowed: the pool is empty; name at least one model")
        return tuple(name in names for name in self.models)

    def route(self, x: Any, lam: float, allowed: Iterable[str] | None = None) -> str | list[str]:
        """Which model to call: a name for one query, a list of names for n of them.

        The most probable model; of a policy that explores, too. Of texts, embedding and decision are one program.

        Args:
          x: [d] or [n, d] embeddings; or a text or chat (a list of messages), or a list of them.
          lam: cost preference, score per unit of cost; clipped to the fitted range.
          allowed: names of the models that may be chosen; None for all.

        Raises:
          ValueError: as `probabilities`.
        """
        answers, x, one = self._queries(x)
        best = answers.choices(x, self._clipped(lam), self._pool(allowed)).tolist()
        if -1 in best:
            raise self._not_finite(np.array(best) >= 0)
        return self.models[best[0]] if one else [self.models[index] for index in best]

    def save(self, folder: str | Path) -> None:
        """Writes the router to a folder: manifest.json and params."""
        packages = ("jrouter", "jax", "flax", "orbax-checkpoint")
        checkpoint.save(
            folder,
            self.params,
            {
                "method": self.method,
                "config": self.config,
                "models": list(self.models),
                "embedding_dim": self.dim,
                "embedding": self.embedding,
                "encoder": None if self.encoder_spec is None else self.encoder_spec.to_dict(),
                "lambdas": list(self.lambdas),
                "cost_unit": self.cost_unit,
                "explanation": self.explain().splitlines(),
                "assessment": [one._asdict() for one in self.assessment],
                "versions": {name: importlib.metadata.version(name) for name in packages},
            },
        )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        models: Sequence[str] | None = None,
        dim: int | None = None,
        encoder: Encoder | str | Path | None = None,
    ) -> "Router":
        """Reads a router.

        Args:
          folder: from `save`.
          models: the names, in order, that the caller routes to; another list is refused.
          dim: the width of the caller's embeddings; another is refused.
          encoder: of texts, or where its weights are now; another than the router was fitted with is refused. None
            for where they were, which are loaded when a text first needs them.

        Raises:
          CheckpointError: for a folder that holds no router, or one made for something else.
          EncoderError: for an `encoder` that cannot be loaded.
        """
        manifest = read_manifest(folder, models=models, dim=dim)
        spec, loaded = encoder_of(folder, manifest, encoder)
        params, _ = checkpoint.load(folder)
        router = cls(
            method=manifest["method"],
            config=manifest["config"],
            params=params,
            models=tuple(manifest["models"]),
            dim=manifest["embedding_dim"],
            lambdas=tuple(manifest["lambdas"]),
            cost_unit=manifest["cost_unit"],
            embedding=manifest.get("embedding"),
            assessment=from_plain(manifest.get("assessment", [])),
            encoder_spec=spec,
        )
        return router if loaded is None else router.with_encoder(loaded)


def _check_width(encoder: Encoder, dim: int) -> None:
    if encoder.dim != dim:
        raise ValueError(
            f"encoder: {encoder.spec.name} makes embeddings of width {encoder.dim}, the log's are of width {dim}; "
            "read the log with embed=encoder.encode"
        )


def _is_chat(x: Any) -> bool:
    """Whether a query is a chat: a list of messages."""
    return isinstance(x, list | tuple) and bool(x) and isinstance(x[0], Mapping)
