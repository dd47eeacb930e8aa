"""Batches: every row in one piece, in a size that was asked for, with as few rows as possible beside it."""

import pytest

from jrouter.batching import largest_batch, pieces, powers_of_two


@pytest.mark.parametrize("sizes", [(1,), (1, 2, 4, 8), (4, 16), (3, 5, 7)])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 100])
def test_pieces_hold_each_row_once_in_the_least_size(sizes, n):
    cut = pieces(n, sizes)
    assert [row for start, stop, _ in cut for row in range(start, stop)] == list(range(n))
    for start, stop, size in cut:
        assert size == min(one for one in sizes if one >= stop - start)
    assert all(stop - start == sizes[-1] for start, stop, _ in cut[:-1])


def test_powers_of_two_end_at_the_largest():
    assert powers_of_two(1) == (1,)
    assert powers_of_two(8192) == tuple(2**power for power in range(14))


def test_more_parameters_make_smaller_batches_and_never_none():
    sizes = [largest_batch(n_parameters, 100) for n_parameters in (0, 10**6, 10**7, 10**8, 10**9, 10**12)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 8192 and sizes[-1] == 1
    # 10^7 / 100 values of 4 bytes each a row: 2^28 bytes hold 671 rows.
    assert sizes[2] == 512
    assert largest_batch(10**7, 100, memory=2**29) == 1024 and largest_batch(10, 100, most=100) == 64
