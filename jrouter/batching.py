"""Batch sizes that a program is compiled for, and how any number of rows is cut into them."""

from collections.abc import Sequence


def powers_of_two(largest: int) -> tuple[int, ...]:
    """Batch sizes 1, 2, 4, ... up to `largest`: padding at most doubles the rows, with few programs.

    >>> powers_of_two(10)
    (1, 2, 4, 8)
    """
    return tuple(2**power for power in range(largest.bit_length()))


def largest_batch(n_parameters: int, dim: int, *, memory: int = 2**28, most: int = 8192) -> int:
    """The largest power of two of rows whose intermediate values fit in memory.

    A policy multiplies a row [d] by parameters of P numbers, which gives P / d numbers at a time at most: a
    network's hidden units, or the similarities to all stored rows of nearest neighbours.

    Args:
      n_parameters: P.
      dim: d.
      memory: bytes of intermediate values, float32.
      most: rows, however little memory they need.

    >>> largest_batch(768 * 200 + 200 * 200 + 200 * 11, 768)
    8192
    >>> largest_batch(20_000 * 768, 768)
    2048
    """
    rows = memory // (4 * max(-(-n_parameters // dim), 1))
    return 2 ** (max(min(rows, most), 1).bit_length() - 1)


def pieces(n: int, sizes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Cuts n rows into batches of the largest size, and a rest padded to the next size that holds it.

    Args:
      n: number of rows.
      sizes: ascending.

    Returns:
      (first row, last row + 1, size of the batch) of each piece.

    >>> pieces(20, (1, 4, 8))
    [(0, 8, 8), (8, 16, 8), (16, 20, 4)]
    >>> pieces(5, (1, 4, 8))
    [(0, 5, 8)]
    """
    largest = sizes[-1]
    full = [(start, start + largest, largest) for start in range(0, n - largest + 1, largest)]
    done = largest * len(full)
    return full if done == n else [*full, (done, n, next(size for size in sizes if size >= n - done))]
