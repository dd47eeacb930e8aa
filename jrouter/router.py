"""Router: a policy with names. Fitted on a log, saved, loaded, and asked which model to call.

`route` names a model; `decide` says with which probability, within limits, and what it is expected to cost.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.amended import amended
from jrouter.assessment import Assessment, AtLambda, describe
from jrouter.compiled_decisions import CompiledDecisions, Decision, as_decisions, dialogues, limits_of
from jrouter.compiled_policy import CompiledPolicy
from jrouter.compiled_texts import CompiledTexts
from jrouter.encoders.encode import Encoder
from jrouter.encoders.load import load_encoder_of
from jrouter.encoders.spec import EncoderSpec
from jrouter.forecast import Forecast
from jrouter.io import checkpoint
from jrouter.learn import learn
from jrouter.methods import build_method
from jrouter.nuisances.crossfit import NuisanceConfig
from jrouter.policy import Policy, pooled
from jrouter.router_inputs import (
    batch_sizes_of,
    check_width,
    clipped,
    needed_forecasts,
    not_finite,
    pool_of,
    rows_of,
    texts_in,
)
from jrouter.router_manifest import content_version, encoder_of, fields_of, manifest_of, read_manifest
from jrouter.router_record import MIX_ROWS, log_record, now
from jrouter.shift import Reference
from jrouter.types import Array, LoggedData


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
      forecasts: of score and cost of each model (`forecast.Forecast`); None for a router of jrouter 0.1's first format.
      reference: what it remembers of its queries (`shift.Reference`), or None.
      price: present price of each model as a multiple of that in the log, or () for no changes.
      available: names of the models in use, or () for all.
      known: how many of `models`, the first, the policy was trained on; 0 for all. Others were added since.
      record: where it comes from, for people and for its card: JSON values.
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
    forecasts: Forecast | None = None
    reference: Reference | None = None
    price: tuple[float, ...] = ()
    available: tuple[str, ...] = ()
    known: int = 0
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        _ = self._policy  # made at once, so that threads share it
        if self.forecasts is not None:
            _ = self._decisions

    @property
    def prices(self) -> tuple[float, ...]:
        """T multiples: present prices over those of the log."""
        return self.price or (1.0,) * len(self.models)

    @property
    def pool(self) -> tuple[str, ...]:
        """Names of the models in use."""
        return self.available or self.models

    @property
    def is_amended(self) -> bool:
        """Whether prices changed, or models were added, since the policy was trained."""
        return any(price != 1.0 for price in self.prices) or self.known not in (0, len(self.models))

    @functools.cached_property
    def version(self) -> str:
        """12 hexadecimal digits, of all that decides: equal for equal routers, wherever they are saved."""
        known = self.known or len(self.models)
        said = [self.method, self.config, self.models, self.prices, self.pool, known, self.lambdas, self.cost_unit]
        encoder = None if self.encoder_spec is None else self.encoder_spec.identity()
        return content_version([*said, encoder], (self.params, self.forecasts))

    @functools.cached_property
    def _policy(self) -> CompiledPolicy:
        return CompiledPolicy(*self._present, self.dim, len(self.models))

    @property
    def _present(self) -> tuple[Policy, Any]:
        """The policy at present prices, with models added since, and its params."""
        policy = build_method(self.method, self.config).policy
        if not self.is_amended:
            return policy, self.params
        price = jnp.array(self.prices, jnp.float32)
        return amended(policy), {"policy": self.params, "forecast": needed_forecasts(self.forecasts), "price": price}

    @functools.cached_property
    def _decisions(self) -> CompiledDecisions:
        policy = build_method(self.method, self.config).policy
        return CompiledDecisions(policy, self.params, needed_forecasts(self.forecasts), self.prices, self.dim)

    def served(self, models: Sequence[str] | None = None) -> tuple[Policy, Any]:
        """The policy as it is served, pool and prices included, and its params: to be valued on a log.

        Args:
          models: of the log, this router's first; those beyond are never chosen. None for this router's.

        Raises:
          ValueError: for models in another order.
        """
        names = self.models if models is None else tuple(models)
        if names[: len(self.models)] != self.models:
            raise ValueError(f"models: expected {', '.join(self.models)} first, got {', '.join(names)}")
        policy, params = self._present
        return pooled(policy, np.array([name in self.pool for name in names])), params

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
        deciding = () if self.forecasts is None else (self._decisions.programs,)
        return CompiledTexts(self.encoder, self._policy, *deciding)

    def with_encoder(self, encoder: Encoder) -> "Router":
        """This router, reading texts too, by the encoder that made the embeddings of its log.

        Raises:
          ValueError: for an encoder of another width.
        """
        check_width(encoder, self.dim)
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
        if encoder is not None:
            check_width(encoder, log.x.shape[1])
        learned = learn(
            log,
            method=method,
            config=config,
            lambdas=lambdas,
            nuisances=nuisances,
            seed=seed,
            assess_folds=assess_folds,
            progress=progress,
        )
        router = cls(
            method=method,
            config=config or {},
            models=log.models,
            dim=log.x.shape[1],
            cost_unit=log.cost_unit,
            embedding=embedding,
            **learned._asdict(),
        )
        router = router.with_record(log, seed=seed)
        return router if encoder is None else router.with_encoder(encoder)

    def with_record(self, log: LoggedData, **said: Any) -> "Router":
        """This router, remembering what log it was trained on: how much of it, and what it chooses there."""
        x = np.asarray(log.x[:MIX_ROWS], np.float32)
        choices = [self._policy.choices(x, lam, self._pool(None)) for lam in self.lambdas]
        found = log_record(log, choices, n_models=len(self.models))
        data = {**self.record.get("data", {}), **found["data"]}
        record = {"created": now(), **self.record, **said, **found, "data": data}
        return replace(self, record=record)

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
        nearest = clipped(lam, self.lambdas)
        return min(self.assessment, key=lambda one: abs(one.lam - nearest))

    def compile(self, batch_sizes: Sequence[int] | None = None, *, texts: Sequence[Any] = ()) -> None:
        """Compiles what `route`, `probabilities` and `decide` need, before a service takes traffic; nothing after it.

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
        sizes = batch_sizes_of(batch_sizes)
        self._policy.compile(sizes)
        if self.forecasts is not None:
            self._decisions.compile(sizes)
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
        probability, finite = answers.probabilities(x, clipped(lam, self.lambdas), self._pool(allowed))
        if not finite.all():
            raise not_finite(finite)
        return probability[0] if one else probability

    def _queries(self, x: Any) -> tuple[CompiledPolicy | CompiledTexts, Any, bool]:
        """What answers, what it is asked, and whether it was one query."""
        texts = texts_in(x)
        return (self._policy, *rows_of(x, self.dim, self.embedding)) if texts is None else (self._texts, *texts)

    def _pool(self, allowed: Iterable[str] | None) -> tuple[bool, ...] | None:
        return pool_of(allowed, self.models, self.available)

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
        best = answers.choices(x, clipped(lam, self.lambdas), self._pool(allowed)).tolist()
        if -1 in best:
            raise not_finite(np.array(best) >= 0)
        return self.models[best[0]] if one else [self.models[index] for index in best]

    def decide(
        self,
        x: Any,
        lam: float,
        *,
        allowed: Iterable[str] | None = None,
        max_cost: float | None = None,
        min_score: float | None = None,
        explore: float = 0.0,
        previous: str | None | Sequence[str | None] = None,
        switch_cost: float = 0.0,
        seed: int | np.random.Generator | None = None,
    ) -> Decision | list[Decision]:
        """Which model to call, with which probability it was drawn, and what that is expected to give.

        Limits go by the router's forecasts, at present prices: of the models within `max_cost`, those that reach
        `min_score`; where none does, the nearest to it, and `Decision.unmet` says so.

        Args:
          x: as of `route`.
          lam: cost preference, score per unit of cost; clipped to the fitted range.
          allowed: names of the models that may be chosen; None for all.
          max_cost: of each query, in `cost_unit`.
          min_score: expected of each answer.
          explore: share of decisions drawn uniformly from the models that meet the limits.
          previous: name of the model that the dialogue is on, None for none; of n queries, a list. It is kept unless
            the gain in utility exceeds lambda * switch_cost. A name that left the pool is none.
          switch_cost: of leaving it, in `cost_unit`: what the lost cache costs.
          seed: of the draws, or a generator; None for fresh ones.

        Returns:
          A `Decision`, or a list of them.

        Raises:
          ValueError: as `probabilities`; limits that are not finite, exploration outside [0, 1]; a router without
            forecasts.
        """
        deciding = self._decisions
        answers, rows, one = self._queries(x)
        texts = answers if isinstance(answers, CompiledTexts) else None
        rows = np.asarray(rows) if texts is None else rows
        limits = limits_of(max_cost, min_score, switch_cost, explore)
        before = dialogues(previous, self.models, len(rows))
        draw = np.zeros(len(rows), np.float32)
        if explore:
            draw = np.random.default_rng(seed).random(len(rows), np.float32)
        used, pool = clipped(lam, self.lambdas), self._pool(allowed) or (True,) * len(self.models)
        found = deciding(rows, before, draw, used, pool, limits, texts=texts)
        if not found.finite.all():
            raise not_finite(found.finite)
        decisions = as_decisions(found, self.models, used, explore, self.version)
        return decisions[0] if one else decisions

    def forecast(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Expected score and cost of each model, at present prices: [n, T] each, or [T] for one query.

        Args:
          x: as of `route`.

        Raises:
          ValueError: as `decide`.
        """
        _, rows, one = self._queries(x)
        if not isinstance(rows, np.ndarray | jax.Array):
            rows = self.encoder.encode(rows, progress=False)
        score, cost = self._decisions.forecast(np.asarray(rows, np.float32))
        cost = cost * np.array(self.prices, np.float32)
        return (score[0], cost[0]) if one else (score, cost)

    def save(self, folder: str | Path, *, files: Mapping[str, str] | None = None) -> None:
        """Writes the router to a folder, whole or not at all.

        Args:
          folder: gets manifest.json and params.
          files: name -> text, of further files in it.
        """
        trees = {"policy": self.params, "forecasts": self.forecasts, "reference": self.reference}
        checkpoint.save(
            folder, {name: tree for name, tree in trees.items() if tree is not None}, self.manifest, files=files
        )

    @property
    def manifest(self) -> dict[str, Any]:
        """What is saved of the router beside its params: JSON values."""
        return manifest_of(self)

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
        router = cls(**fields_of(manifest, params), encoder_spec=spec)
        return router if loaded is None else router.with_encoder(loaded)
