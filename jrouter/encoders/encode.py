"""One interface of all text encoders: texts in, embeddings out, on any device; or a part of a larger program."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jrouter.encoders.batches import Slot, plan
from jrouter.encoders.cache import EmbeddingCache
from jrouter.encoders.errors import EncoderError
from jrouter.encoders.run import Run, Writer
from jrouter.encoders.spec import EncoderSpec
from jrouter.encoders.texts import last_question, last_turns, valid_texts
from jrouter.hashing import row_keys
from jrouter.types import Array

COLLAPSED, CUT = 0.01, 0.5
"""Shares above which `encode` warns: of texts that have another's embedding, and of tokens that were cut."""


class Rows(NamedTuple):
    """Texts as numbers, before they are padded to batches.

    Attributes:
      rows: [n] of arrays, or tuples of arrays, of the length of that text.
      lengths: [n], these lengths.
      whole, kept: [n], tokens of each text, and those that are in its row.
    """

    rows: list[Any]
    lengths: np.ndarray
    whole: np.ndarray
    kept: np.ndarray


class Kind(NamedTuple):
    """What differs between encoders.

    Attributes:
      rows: texts -> Rows; of each text by itself.
      pad: (rows, slot) -> inputs, a pytree of arrays [size, width], zero beyond a row's own.
      apply: (params, inputs) -> [size, dim] float32; pure.
      longest: widest batch.
    """

    rows: Callable[[Sequence[str]], Rows]
    pad: Callable[[list[Any], Slot], Any]
    apply: Callable[[Any, Any], Array]
    longest: int


class Batch(NamedTuple):
    """Inputs of `Encoder.apply`, and the texts they are of.

    Attributes:
      rows: [k], places of the texts of the first k rows; the others are padding.
      inputs: pytree of arrays [size, width].
    """

    rows: np.ndarray
    inputs: Any


@dataclass(frozen=True, eq=False)
class Encoder:
    """An encoder of texts; `load_encoder` makes one.

    Its parts compose with a router's: `prepare` on the host, then `apply` within a program of one's own,
    `jax.jit(lambda params, inputs: decide(encoder.apply(params, inputs)))`.

    Attributes:
      spec: what its numbers depend on.
      params: pytree of arrays.
      kind: how it computes.
      token_budget: rows x width of a batch, padding included.
      mesh: of the devices that share the rows of each batch; None for one device.
    """

    spec: EncoderSpec
    params: Any
    kind: Kind
    token_budget: int
    mesh: Mesh | None = None

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.spec.dim

    def apply(self, params: Any, inputs: Any) -> Array:
        """Embeddings [size, dim] float32 of the inputs of a batch; pure, to be compiled by the caller."""
        return self.kind.apply(params, inputs)

    @cached_property
    def program(self) -> Any:
        """`apply`, compiled for each shape that `batches.count_shapes` counts at most."""
        return jax.jit(self.kind.apply)

    def text(self, query: Any, row: int = 0) -> str:
        """The text that is encoded of a query: of a string, or of a chat as a list of messages.

        Raises:
          EncoderError: for anything else, by its row.
        """
        text = query
        if isinstance(query, Sequence) and not isinstance(query, (str, bytes)):
            if self.spec.window is None:
                raise EncoderError(f"row {row}: found a list, expected a string; for chats give load_encoder a window")
            try:
                text = last_turns(query, self.spec.window)
            except EncoderError as problem:
                raise EncoderError(f"row {row}: {problem}") from None
        if not isinstance(text, str):
            raise EncoderError(f"row {row}: expected a string, got {type(text).__name__}; drop or fill the row")
        return last_question(text) if self.spec.question else text

    def prepare(self, texts: Sequence[Any]) -> list[Batch]:
        """Batches in which every text stands once, on the host; an empty text too.

        Raises:
          EncoderError: for what is neither text nor chat, by its row.
        """
        valid = valid_texts([self.text(query, row) for row, query in enumerate(_listed(texts))])
        made = self.kind.rows(valid.texts)
        return [Batch(slot.rows, self.kind.pad(made.rows, slot)) for slot in self._plan(made.lengths)]

    def encode(
        self,
        texts: Sequence[Any],
        *,
        cache: str | Path | EmbeddingCache | None = None,
        progress: bool | None = None,
    ) -> np.ndarray:
        """Embeddings of texts, each different one computed once.

        Lone surrogates count as U+FFFD. An empty text has the embedding of the special tokens alone, or zero
        where there are none. In batches of other shapes the same text can differ in the last bits; from a cache
        it has the bits of when it was first encoded.

        Args:
          texts: [n] strings, or chats where `spec.window` is set.
          cache: folder that embeddings are taken from and added to, every few seconds.
          progress: show a bar; None where there is a terminal.

        Returns:
          [n, dim] float32.

        Raises:
          EncoderError: for what is neither text nor chat, and for an embedding that is not finite, by its row.

        Warns:
          UserWarning, once each: where texts held lone surrogates; where more than 1% of different texts share
          an embedding; where more than half of the tokens are cut.
        """
        valid = valid_texts([self.text(query, row) for row, query in enumerate(_listed(texts))])
        if valid.replaced:
            _warn(f"{valid.replaced} of {len(valid.texts)} texts held lone surrogates, encoded as U+FFFD", 3)
        places: dict[str, int] = {}
        which = np.array([places.setdefault(text, len(places)) for text in valid.texts], np.int64)
        distinct = list(places)
        first_rows = np.unique(which, return_index=True)[1]
        rows, found = np.zeros((len(distinct), self.dim), np.float32), np.zeros(len(distinct), bool)
        kept: EmbeddingCache | None = None
        if cache is not None:
            kept = cache if isinstance(cache, EmbeddingCache) else self.open_cache(cache)
            if kept.identity != self.spec.identity():
                raise EncoderError(f"cache: {kept.folder} is of another encoder ({kept.identity})")
            rows, found = kept.get(distinct)
        run = Run(
            self.spec.name,
            self.kind.rows,
            self._plan,
            lambda rows, slot: self._run(self.kind.pad(rows, slot)),
            distinct,
            first_rows,
            rows,
            writer=None if kept is None else Writer(kept),
        )
        run.encode(np.flatnonzero(~found), progress)
        self._warn_of_cuts(run)
        self._warn_of_collapse(rows)
        return rows[which]

    def open_cache(self, folder: str | Path) -> EmbeddingCache:
        """The cache of this encoder's embeddings in a folder; to be kept where `encode` is called often."""
        return EmbeddingCache(folder, self.spec.identity(), self.dim)

    def _plan(self, lengths: np.ndarray) -> list[Slot]:
        devices = 1 if self.mesh is None else self.mesh.size
        return plan(lengths, longest=self.kind.longest, budget=self.token_budget, multiple=devices)

    def _run(self, inputs: Any) -> Array:
        if self.mesh is not None:
            inputs = jax.device_put(inputs, NamedSharding(self.mesh, P(self.mesh.axis_names)))
        return self.program(self.params, inputs)

    def _warn_of_cuts(self, run: Run) -> None:
        cut = run.whole - run.tokens
        if cut > CUT * run.whole:
            _warn(
                f"{cut / run.whole:.0%} of the tokens of {run.texts} texts were cut (max_length "
                f"{self.spec.max_length}, truncation {self.spec.truncation!r}); {self._advice()}"
            )

    def _warn_of_collapse(self, rows: np.ndarray) -> None:
        n = len(rows)
        # Most often a few columns tell all rows apart.
        if n < 2 or len(np.unique(row_keys(rows[:, :8]))) == n:
            return
        different = len(np.unique(row_keys(rows)))
        if n - different > COLLAPSED * n:
            _warn(f"{n} different texts have {different} different embeddings; {self._advice()}")

    def _advice(self) -> str:
        if self.spec.max_length is None:
            return "they differ in nothing that this encoder sees"
        other = "left" if self.spec.truncation == "right" else "right"
        question = "" if self.spec.question else ", question=True for few-shot prompts"
        return f"what tells queries apart may be cut off: try truncation={other!r}{question}, or a longer max_length"


def _listed(texts: Sequence[Any]) -> list[Any]:
    if isinstance(texts, (str, bytes)):
        raise EncoderError(f"texts: expected a list of strings, got one {type(texts).__name__}; put it in a list")
    return list(texts)


def _warn(message: str, stacklevel: int = 4) -> None:
    warnings.warn(message, UserWarning, stacklevel=stacklevel)
