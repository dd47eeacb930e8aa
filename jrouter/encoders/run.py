"""One run over many texts: in blocks and batches, a few of them on the device, kept in a cache as it goes."""

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from jrouter.encoders.batches import Slot
from jrouter.encoders.cache import EmbeddingCache
from jrouter.encoders.errors import EncoderError
from jrouter.types import Array

BLOCK_TEXTS, BLOCK_CHARACTERS = 8192, 2**24
"""Texts that become tokens at once, at most; those of a block share batches by their lengths."""
IN_FLIGHT = 2
"""Batches on the device while the host prepares the next one."""
FLUSH_SECONDS, FLUSH_ROWS = 10.0, 16384
"""What a killed run loses at most of what a cache is to hold."""
SHOWN_AFTER = 0.5
"""Seconds, so that quick calls show no bar."""


class Writer:
    """Adds to a cache every few seconds."""

    def __init__(self, cache: EmbeddingCache):
        self._cache, self._texts, self._rows = cache, [], []
        self._since = time.monotonic()

    def add(self, texts: list[str], rows: np.ndarray) -> None:
        self._texts += texts
        self._rows.append(rows)
        if len(self._texts) >= FLUSH_ROWS or time.monotonic() - self._since >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._texts:
            try:
                self._cache.add(self._texts, np.concatenate(self._rows))
            except OSError as problem:  # what is computed is worth more than its copy
                told = f"{len(self._texts)} embeddings could not be written ({problem.strerror})"
                warnings.warn(f"{self._cache.folder}: {told}", UserWarning, stacklevel=4)
        self._texts, self._rows, self._since = [], [], time.monotonic()


class Run:
    """One call of `Encoder.encode`: fills the embeddings of the texts that are not known yet.

    Args:
      name: of the encoder, for people.
      read: texts -> numbers, as `Kind.rows`.
      plan: their lengths [k] -> batches.
      compute: (numbers of k texts, batch) -> [size, dim] on the device, not waited for.
      distinct: [n] texts, no two alike.
      first_rows: [n], where a caller has each, for errors.
      rows: [n, dim], to be filled.
      writer: to a cache, or None.

    Attributes:
      texts: how many were encoded,
      whole: of how many tokens, and
      tokens: how many of these were seen.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[Sequence[str]], Any],
        plan: Callable[[np.ndarray], list[Slot]],
        compute: Callable[[list[Any], Slot], Array],
        distinct: list[str],
        first_rows: np.ndarray,
        rows: np.ndarray,
        *,
        writer: Writer | None,
    ):
        self._name, self._read, self._plan, self._compute = name, read, plan, compute
        self._distinct, self._first_rows, self._rows, self._writer = distinct, first_rows, rows, writer
        self._same: dict[bytes, int] = {}  # what a text was cut to -> the first one's place
        self.texts = self.whole = self.tokens = 0

    def encode(self, todo: np.ndarray, progress: bool | None) -> None:
        hidden = None if progress is None else not progress
        label = f"encoding ({self._name})"
        bar = tqdm(total=len(todo), desc=label, unit="text", disable=hidden, dynamic_ncols=True, delay=SHOWN_AFTER)
        started = time.monotonic()
        try:
            with bar:
                for places in _blocks(todo, self._distinct):
                    self._block(places, bar, started)
        finally:  # also of what an interrupted run has computed
            if self._writer is not None:
                self._writer.flush()

    def _block(self, places: np.ndarray, bar: tqdm, started: float) -> None:
        made = self._read([self._distinct[place] for place in places])
        self.texts, self.whole = self.texts + len(places), self.whole + int(made.whole.sum())
        # Texts that are the same once cut have the same embedding, bit for bit, and are computed once.
        same = [self._same.setdefault(_bytes(row), int(place)) for row, place in zip(made.rows, places, strict=True)]
        own = np.flatnonzero(np.array(same) == places)
        copies = np.flatnonzero(np.array(same) != places)

        def finish(slot: Slot, out: Array) -> None:
            computed = np.asarray(out)[: len(slot.rows)]
            members = own[slot.rows]
            self._keep(places[members], computed)
            self.tokens += int(made.kept[members].sum())
            bar.update(len(members))
            seconds = time.monotonic() - started
            bar.set_postfix_str(f"{self.tokens / max(seconds, 1e-9):,.0f} tokens/s", refresh=False)

        pending: deque[tuple[Slot, Array]] = deque()
        rows = [made.rows[row] for row in own]
        for slot in self._plan(made.lengths[own]):
            pending.append((slot, self._compute(rows, slot)))
            if len(pending) > IN_FLIGHT:
                finish(*pending.popleft())
        while pending:
            finish(*pending.popleft())
        self._keep(places[copies], self._rows[np.array(same, np.int64)[copies]])
        self.tokens += int(made.kept[copies].sum())
        bar.update(len(copies))

    def _keep(self, places: np.ndarray, computed: np.ndarray) -> None:
        finite = np.isfinite(computed).all(axis=1)
        if not finite.all():
            row = self._first_rows[places[np.argmin(finite)]]
            raise EncoderError(f"row {row}: {self._name} gives an embedding that is not finite; drop the row")
        self._rows[places] = computed
        if self._writer is not None and len(places):
            self._writer.add([self._distinct[place] for place in places], computed)


def _blocks(todo: np.ndarray, texts: list[str]) -> Iterator[np.ndarray]:
    """Places in pieces of so many texts and characters."""
    ends = np.cumsum([len(texts[place]) for place in todo])
    start = 0
    while start < len(todo):
        before = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, before + BLOCK_CHARACTERS, side="right"))
        stop = min(max(stop, start + 1), start + BLOCK_TEXTS)
        yield todo[start:stop]
        start = stop


def _bytes(row: Any) -> bytes:
    return b"".join(part.tobytes() for part in row) if isinstance(row, tuple) else row.tobytes()
