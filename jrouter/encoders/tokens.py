"""Texts to tokens: the tokenizer of a folder, cut to a number of tokens at one end, and how many were cut."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jrouter.encoders.errors import EncoderError

SIDES = ("right", "left")
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
"""Files, one of which a tokenizer is made of."""


class Tokenised(NamedTuple):
    """Tokens of n texts.

    Attributes:
      rows: [n] of [l] int32, with special tokens; l differs.
      whole: [n] int64, tokens of each whole text, without special ones.
      kept: [n] int64, those of them that are in its row.
    """

    rows: list[np.ndarray]
    whole: np.ndarray
    kept: np.ndarray


@dataclass(frozen=True, eq=False)
class Tokeniser:
    """A tokenizer, and how its tokens are cut.

    Attributes:
      tokenizer: of transformers.
      before, after: special tokens that stand at the ends of every row, also of one that is cut.
      max_length: most tokens of a row, special ones included; None for any number.
      truncation: which end of a longer text is cut, "right" or "left".
      vocabulary: number of tokens.
    """

    tokenizer: Any
    before: tuple[int, ...]
    after: tuple[int, ...]
    max_length: int | None
    truncation: str
    vocabulary: int

    def __call__(self, texts: Sequence[str]) -> Tokenised:
        """Tokenises n texts of valid Unicode; an empty one is its special tokens alone, or padding without any."""
        if not texts:
            return Tokenised([], np.zeros(0, np.int64), np.zeros(0, np.int64))
        ids = _ids(self.tokenizer, list(texts))
        room = None if self.max_length is None else self.max_length - len(self.before) - len(self.after)
        rows, kept = [], []
        for one in ids:
            if room is not None and len(one) > room:
                one = one[:room] if self.truncation == "right" else one[len(one) - room :]
            rows.append(np.array((*self.before, *one, *self.after), np.int32))
            kept.append(len(one))
        return Tokenised(rows, np.array([len(one) for one in ids], np.int64), np.array(kept, np.int64))


def tokenizer_digest(folder: Path) -> str:
    """SHA-256, 16 digits of it, of the files in a folder that say how text becomes tokens."""
    whole = hashlib.sha256()
    for name in (*VOCABULARIES, "merges.txt", "tokenizer_config.json"):
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            whole.update(f"{name} {len(content)} ".encode() + content)
    return f"sha256:{whole.hexdigest()[:16]}"


def load_tokeniser(folder: str | Path, *, max_length: int | None = None, truncation: str = "right") -> Tokeniser:
    """The tokenizer whose files are in a folder; nothing is downloaded.

    Args:
      folder: with tokenizer.json, or what else transformers makes a tokenizer of.
      max_length: most tokens of a text, special ones included.
      truncation: which end of a longer text is cut, "right" or "left"; special tokens stay at both.

    Raises:
      EncoderError: where there is no tokenizer, or max_length leaves no room for one token of a text.
    """
    if truncation not in SIDES:
        raise EncoderError(f"truncation: expected 'right' or 'left', got {truncation!r}")
    tokenizer = _load(Path(folder))
    before, after = _special_tokens(tokenizer, folder)
    if max_length is not None and max_length <= len(before) + len(after):
        special = len(before) + len(after)
        raise EncoderError(f"max_length: expected more than the {special} special tokens of {folder}, got {max_length}")
    return Tokeniser(tokenizer, before, after, max_length, truncation, len(tokenizer))


def _load(folder: Path) -> Any:
    # Here: transformers takes a second to import.
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise EncoderError(f"{folder}: is no folder; give one with the files of a tokenizer")
    # Checked, as of a config.json alone transformers makes a tokenizer that knows no word.
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise EncoderError(f"{folder}: holds no tokenizer, expected one of {', '.join(VOCABULARIES)}; add its files")
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as problem:
        reason = " ".join(str(problem).split())
        raise EncoderError(f"{folder}: its tokenizer cannot be read ({reason:.200}); copy its files again") from None


def _ids(tokenizer: Any, texts: list[str], *, special: bool = False) -> list[list[int]]:
    # Not truncated there: what is cut is to be counted, and tokenizer.json may come with a length of its own.
    # Not verbose: else it warns of texts longer than the network takes, before they are cut.
    return tokenizer(
        texts,
        add_special_tokens=special,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]


def _special_tokens(tokenizer: Any, folder: str | Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer puts before and after a text."""
    (bare,), (dressed,) = _ids(tokenizer, ["a"]), _ids(tokenizer, ["a"], special=True)
    for start in range(len(dressed) - len(bare) + 1):
        if bare and dressed[start : start + len(bare)] == bare:
            return tuple(dressed[:start]), tuple(dressed[start + len(bare) :])
    raise EncoderError(f"{folder}: the tokenizer gives 'a' the tokens {bare}, and with special tokens {dressed}")
