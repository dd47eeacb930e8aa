"""Embeddings on disk, by what was encoded and how: a second run encodes only what is new.

A cache is a folder with a folder for each encoder, and in it files that are only ever added, each written beside its
place, flushed to the disk and renamed: a run that is killed loses what it had not written, never half a row. Several
processes may share a cache; what one adds, others see at their next look.
"""

import hashlib
import os
import time
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jrouter.encoders.errors import EncoderError
from jrouter.io.replace import replace_bytes, replace_whole

SUFFIX = ".npz"  # a zip: each array comes with its CRC-32, checked when it is read
KEY = 32
UNREADABLE = (OSError, ValueError, KeyError, AttributeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What NumPy and zipfile raise for a file that is cut short, altered, gone or of another kind."""


def digest(identity: str) -> str:
    """The folder of an encoder within a cache: SHA-256 of its identity, of which 32 hexadecimal digits do."""
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def text_keys(texts: Sequence[str], identity: str) -> list[bytes]:
    """Keys of texts under one encoder: SHA-256 of its identity and the text."""
    begun = hashlib.sha256(f"{len(identity.encode())} {identity}".encode())
    keys = []
    for text in texts:
        one = begun.copy()
        one.update(text.encode())
        keys.append(one.digest())
    return keys


class EmbeddingCache:
    """The embeddings of one encoder in a cache.

    Args:
      folder: of the cache; made where it is missing.
      identity: of the encoder, as `EncoderSpec.identity`.
      dim: of its embeddings.

    Raises:
      EncoderError: where no folder can be made there.
    """

    def __init__(self, folder: str | Path, identity: str, dim: int):
        self.folder = Path(folder) / digest(identity)
        self.identity, self.dim = identity, dim
        self._places: dict[bytes, tuple[str, int]] = {}
        self._seen: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            told = self.folder / "encoder.txt"
            if not told.exists():  # for people; nothing reads it
                replace_bytes(told, (identity + "\n").encode())
        except OSError as problem:
            raise EncoderError(
                f"{folder}: no cache can be kept there ({problem.strerror}); give another folder"
            ) from None

    def __len__(self) -> int:
        self._look()
        return len(self._places)

    def get(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings of the texts that are here.

        A file that is cut short, damaged or of something else is left out with a warning.

        Returns:
          rows [n, dim] float32, zero where missing, and found [n] bool.
        """
        self._look()
        rows, found = np.zeros((len(texts), self.dim), np.float32), np.zeros(len(texts), bool)
        wanted: dict[str, list[tuple[int, int]]] = {}
        for place, key in enumerate(text_keys(texts, self.identity)):
            if key in self._places:
                name, row = self._places[key]
                wanted.setdefault(name, []).append((place, row))
        for name, pairs in wanted.items():
            places, at = np.array(pairs).T
            stored = self._read(name, "rows", at_least=at.max() + 1)
            if stored is None:
                self._places = {key: place for key, place in self._places.items() if place[0] != name}
                continue
            rows[places], found[places] = stored[at], True
        return rows, found

    def add(self, texts: Sequence[str], rows: np.ndarray) -> None:
        """Writes embeddings [n, dim] of n texts, as one file: all of them or none.

        Raises:
          OSError: as of a disk that is full.
        """
        if not len(texts):
            return
        keys = text_keys(texts, self.identity)
        arrays = {
            "identity": np.frombuffer(self.identity.encode(), np.uint8),
            "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY),
            "rows": np.ascontiguousarray(rows, np.float32).reshape(len(texts), self.dim),
        }
        # Names in the order of writing; no two processes have the same.
        name = f"{time.time_ns():020d}-{os.urandom(6).hex()}{SUFFIX}"
        replace_whole(self.folder / name, lambda file: np.savez(file, **arrays), binary=True)
        self._seen.add(name)
        self._places.update((key, (name, row)) for row, key in enumerate(keys))

    def _look(self) -> None:
        """Learns of the files that were added since the last look."""
        names = {
            entry.name for entry in os.scandir(self.folder) if entry.name.endswith(SUFFIX) and entry.name[0] != "."
        }
        for name in sorted(names - self._seen):
            self._seen.add(name)
            keys = self._read(name, "keys")
            if keys is not None:
                self._places.update((key.tobytes(), (name, row)) for row, key in enumerate(keys))

    def _read(self, name: str, array: str, at_least: int = 0) -> np.ndarray | None:
        """Keys or rows of a file; None, with a warning, where it does not hold what it should."""
        path = self.folder / name
        kind, width = (np.uint8, KEY) if array == "keys" else (np.float32, self.dim)
        try:
            # Opened here: NumPy leaves a file that is no whole zip open.
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                whose, found = file["identity"].tobytes(), file[array]
            if whose != self.identity.encode():
                problem = "holds embeddings of another encoder"
            elif found.dtype != kind or found.ndim != 2 or found.shape[1] != width or len(found) < at_least:
                problem = f"holds {array} {found.dtype} {list(found.shape)}, expected {np.dtype(kind)} [n, {width}]"
            else:
                return found
        except UNREADABLE as error:
            problem = f"cannot be read ({' '.join(str(error).split()):.100})"
        warnings.warn(f"{path}: {problem}; its texts are encoded anew, and it can be deleted", stacklevel=4)
        return None
