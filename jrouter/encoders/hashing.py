"""Embeddings of hashed n-grams: no weights, no vocabulary, nothing to download.

Words and pairs of words, and 3 to 5 characters within a word, are hashed into buckets, each with a sign; a bucket's
number is damped, a text has length 1, and a fixed random projection takes the buckets to a few hundred dimensions.
Hashes are sums of 64-bit integers modulo 2^64: the same numbers in every process and on every platform, up to which
characters the Unicode tables of a Python know as letters.

Sources: Weinberger et al. (2009), Feature hashing for large scale multitask learning; Bojanowski et al. (2017),
Enriching word vectors with subword information, section 3.2 (characters within marked words); Achlioptas (2003),
Database-friendly random projections.
"""

import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jrouter.hashing import mix
from jrouter.types import Array

BUCKETS = 2**16
CHARACTERS = (3, 4, 5)
AT_ONCE = 2**18
"""Characters of the texts that are hashed at once: about 100 bytes of working memory for each."""
BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: it has an inverse modulo 2^64
INVERSE = np.uint64(pow(int(BASE), -1, 2**64))
PAIR, SIGNS = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)
SPACE = 32


class Hashed(NamedTuple):
    """Hashed n-grams of a text or, with a leading axis, of a batch.

    Attributes:
      ids: [m] int32, buckets.
      values: [m] float32, their numbers, of length 1 together; 0 at padding.
    """

    ids: Array | np.ndarray
    values: Array | np.ndarray


def projection(dim: int, buckets: int = BUCKETS) -> np.ndarray:
    """[buckets, dim] int8 of -1 and 1: bits of a hash of their place.

    >>> projection(6, 2).tolist()
    [[-1, -1, -1, 1, 1, 1], [1, -1, -1, -1, -1, -1]]
    """
    words = -(-dim // 64)
    bits = mix(mix(np.arange(buckets * words, dtype=np.uint64)) ^ SIGNS).astype("<u8").view(np.uint8)
    signs = np.unpackbits(bits.reshape(buckets, words * 8), axis=1, bitorder="little", count=dim)
    return signs.astype(np.int8) * np.int8(2) - np.int8(1)


def project(signs: Array, hashed: Hashed) -> Array:
    """[d], the projection of one text's buckets: sum_j values_j signs[ids_j] / sqrt(d).

    Args:
      signs: [buckets, d].
      hashed: [m]; without any n-gram the projection is zero.
    """
    rows = signs[hashed.ids].astype(jnp.float32)
    return jnp.dot(hashed.values, rows, precision="highest") * rows.shape[-1] ** -0.5


def hash_texts(texts: Sequence[str], buckets: int = BUCKETS) -> list[Hashed]:
    """Buckets of the n-grams of each text, and their numbers.

    Letters are folded (NFKC, then case). A word is letters, digits and "_" without anything between, or any other
    character but white space. A bucket that n-grams of signs s_1 ... s_c fall into has the number
    sign(t) (1 + log |t|) with t = s_1 + ... + s_c, and a text's numbers are divided by their length.

    Args:
      texts: [n] of valid Unicode.
      buckets: a power of two.

    Returns:
      [n], without entries for a text without a word.
    """
    found: list[Hashed] = []
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(fold(text))
        size += len(chunk[-1])
        if size > AT_ONCE:
            found += _hash_chunk(chunk, buckets)
            chunk, size = [], 0
    return found + _hash_chunk(chunk, buckets)


def fold(text: str) -> str:
    """A text with letters that differ by case or by how Unicode writes them made the same.

    >>> fold("Ｃafe\\u0301 STRASSE"), fold("straße")
    ('café strasse', 'strasse')
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


class _Words(NamedTuple):
    """Words of all texts of a chunk, one after the other with a space before each and after the last.

    Attributes:
      codes: [m] uint64, code points.
      word: [m - 1], the word that each is in, of a space the next one; without the last space.
      first, last: [w], where each word begins and ends.
      text: [w], the text that it is in.
      lettered: [w], whether it is of letters and digits.
    """

    codes: np.ndarray
    word: np.ndarray
    first: np.ndarray
    last: np.ndarray
    text: np.ndarray
    lettered: np.ndarray


def _hash_chunk(texts: Sequence[str], buckets: int) -> list[Hashed]:
    words = _split(texts)
    # A sum, times INVERSE^i, is the same for the code points i .. j - 1 wherever they stand: their polynomial.
    powers, inverses = _powers(BASE, len(words.codes)), _powers(INVERSE, len(words.codes))
    sums = np.zeros(len(words.codes) + 1, np.uint64)
    np.cumsum(mix(words.codes) * powers, out=sums[1:])

    def hashed(start, stop):
        return mix((sums[stop] - sums[start]) * inverses[start])

    # Words with the spaces around them: the word "cat" is another n-gram than the "cat" of "category".
    whole = hashed(words.first - 1, words.last + 2)
    paired = np.flatnonzero(words.text[1:] == words.text[:-1])
    grams, owners = [whole, mix(whole[paired] * PAIR + whole[paired + 1])], [words.text, words.text[paired]]
    inside = np.flatnonzero(words.lettered[words.word])
    length, after = words.last - words.first + 3, words.last + 1
    for size in CHARACTERS:
        # Not the whole word again.
        fits = (inside + size - 1 <= after[words.word[inside]]) & (length[words.word[inside]] > size)
        start = inside[fits]
        grams.append(hashed(start, start + size))
        owners.append(words.text[words.word[start]])
    return _counted(np.concatenate(grams), np.concatenate(owners), len(texts), buckets)


def _powers(base: np.uint64, n: int) -> np.ndarray:
    factors = np.full(n, base)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _split(texts: Sequence[str]) -> _Words:
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).astype(np.int64)
    text = np.repeat(np.arange(len(texts)), [len(one) for one in texts])
    present = np.flatnonzero(np.bincount(codes))
    letter = np.zeros(codes.max(initial=0) + 1, bool)
    blank = letter.copy()
    letter[present] = np.array([_is_letter(chr(code)) for code in present], bool)
    blank[present] = np.array([_is_blank(chr(code)) for code in present], bool)
    letters = letter[codes]
    begins = np.ones(len(codes), bool)
    begins[1:] = ~(letters[1:] & letters[:-1] & (text[1:] == text[:-1]))
    kept = ~blank[codes]
    codes, text, letters, begins = codes[kept], text[kept], letters[kept], begins[kept]
    place = np.arange(len(codes)) + np.cumsum(begins)
    first, n_words = place[begins], int(begins.sum())
    spaced = np.full(len(codes) + n_words + 1, SPACE, np.uint64)
    spaced[place] = codes
    spaces = np.zeros(len(spaced) - 1, np.int64)
    spaces[first - 1] = 1
    last = np.append(first[1:] - 2, len(spaced) - 2)[:n_words]
    return _Words(spaced, np.cumsum(spaces) - 1, first, last, text[begins], letters[begins])


def _is_letter(one: str) -> bool:
    # With marks that belong to the letter before, in scripts that NFKC does not compose.
    return one.isalnum() or one == "_" or unicodedata.category(one)[0] == "M"


def _is_blank(one: str) -> bool:
    return one.isspace() or unicodedata.category(one)[0] == "C"


def _counted(grams: np.ndarray, owners: np.ndarray, n: int, buckets: int) -> list[Hashed]:
    """Buckets and numbers of each of n texts, of all n-grams and the text that each is in."""
    sign = 1 - 2 * (grams >> np.uint64(63)).astype(np.int64)
    keys = owners * buckets + (grams & np.uint64(buckets - 1)).astype(np.int64)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    changes = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    totals = np.diff(np.append(0, np.cumsum(sign[order]))[np.append(changes, len(keys))])
    keys, totals = keys[changes][totals != 0], totals[totals != 0]
    text = keys // buckets
    values = np.sign(totals) * (1.0 + np.log(np.abs(totals)))
    length = np.sqrt(np.bincount(text, values**2, minlength=n))
    values = (values / length[text]).astype(np.float32)
    ids = (keys % buckets).astype(np.int32)
    bounds = np.searchsorted(text, np.arange(n + 1))
    return [Hashed(ids[start:stop], values[start:stop]) for start, stop in pairwise(bounds)]
