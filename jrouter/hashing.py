"""Folds and samples of rows that are never held together: by a hash of what a row is, the same in every pass.

A row's key is a 64-bit number (of its query, or its place in the log); a salted hash of it, taken as a number
in [0, 1), says which fold it is in, or whether it is drawn. Rows with equal keys share their lot. Plain NumPy,
on the host: a device has no 64-bit integers by default.
"""

import numpy as np


def mix(keys: np.ndarray) -> np.ndarray:
    """[n] uint64, each key's bits mixed so that every bit depends on all: the finaliser of SplitMix64.

    Source: Steele, Lea & Flood (2014), Fast splittable pseudorandom number generators.

    >>> [hex(one) for one in mix(np.array([0, 1], np.uint64)).tolist()]
    ['0xe220a8397b1dcdaf', '0x910a2dec89025cc1']
    """
    mixed = np.asarray(keys, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def uniform(keys: np.ndarray, *, salt: int) -> np.ndarray:
    """[n] float64 in [0, 1), by the hash of each key.

    Args:
      keys: [n] uint64.
      salt: of the hash: numbers of different salts are as good as independent.
    """
    salted = np.asarray(keys, np.uint64) ^ mix(np.array([salt], np.uint64))
    return (mix(salted) >> np.uint64(11)) * 2.0**-53


def hashed_fold(keys: np.ndarray, *, n_folds: int, salt: int) -> np.ndarray:
    """[n] int32, the fold of each row: 0 .. n_folds - 1, in about equal parts.

    >>> hashed_fold(np.array([5, 6, 5], np.uint64), n_folds=5, salt=0).tolist()
    [1, 2, 1]
    """
    return (uniform(keys, salt=salt) * n_folds).astype(np.int32)


def row_keys(rows: np.ndarray) -> np.ndarray:
    """[n] uint64 keys of rows of 4-byte numbers [n, w], equal where all w have the same bits.

    A sum of words times pseudo-random multipliers: two rows that differ have equal keys with a chance of at
    most 2^-33.

    >>> first, second, third = row_keys(np.array([[1, 2], [2, 1], [1, 2]], np.float32)).tolist()
    >>> first == third, first == second
    (True, False)
    """
    words = np.ascontiguousarray(rows).view(np.uint32).reshape(len(rows), -1)
    multipliers = mix(np.arange(words.shape[1], dtype=np.uint64)) | np.uint64(1)
    # einsum casts in small blocks: no copy of the rows in 8-byte numbers.
    return mix(np.einsum("nw,w->n", words, multipliers, dtype=np.uint64, casting="unsafe"))
