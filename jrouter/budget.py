"""How many routers a sweep should train at once: what memory holds, and what is fastest.

Both are measured, not modelled: memory is what the compiler says that the program needs, for two sizes of
the stack, between and beyond which it grows in a line; speed is that of a short training.
"""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jrouter.train import Rows
from jrouter.train_stacked import Members, StackedTrain, take_members
from jrouter.types import Array


def bytes_needed(train: StackedTrain, members: Members, rows: Rows, valid: Rows | None, shuffle: Array) -> int:
    """Device memory of one chunk of epochs of these routers: operands, results and what is in between.

    Args:
      train: from `make_stacked_train`.
      members: routers; only their number matters.
      rows: and
      valid: as `run_sweep` gets them.
      shuffle: any key.
    """
    state = jax.eval_shape(train.init, members, rows, valid)
    advance = jax.jit(train.advance, static_argnames="epochs", donate_argnums=0)
    found = advance.lower(state, members, rows, valid, shuffle, epochs=1).compile().memory_analysis()
    if found is None:
        raise ValueError("this backend does not say how much memory a program needs: choose `at_once` yourself")
    whole = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return whole - found.alias_size_in_bytes


def fit_in(budget: int, train: StackedTrain, members: Members, rows: Rows, valid: Rows | None, shuffle: Array) -> int:
    """How many of these routers a budget of device memory holds at once.

    Args:
      budget: bytes.
      train: and
      members: and
      rows: and
      valid: and
      shuffle: as `run_sweep` gets them.

    Returns:
      At least 1, at most all.

    Raises:
      ValueError: if the budget does not hold one router and the rows.
    """
    n_routers = members.replicate.shape[0]
    sizes = (1, 3)

    def needed(size):
        some = take_members(members, jnp.zeros(size, jnp.int32))
        return bytes_needed(train, some, rows, valid, shuffle)

    one, three = (needed(size) for size in sizes)
    if one > budget:
        raise ValueError(
            f"one router and its rows need {one / 2**20:.0f} MiB, the budget is {budget / 2**20:.0f} MiB: "
            "raise it, or train on fewer rows"
        )
    per_router = max(1, -(-(three - one) // (sizes[1] - sizes[0])))
    return int(min(n_routers, 1 + (budget - one) // per_router))


def choose_at_once(
    budget: int,
    train: StackedTrain,
    members: Members,
    rows: Rows,
    valid: Rows | None,
    shuffle: Array,
    *,
    timed: Rows | None = None,
    repeats: int = 3,
) -> int:
    """How many routers to train at once: of what fits, a quarter of it, a quarter of that, ..., the fastest per router.

    Args:
      budget: bytes of device memory.
      train: and
      members: and
      rows: and
      valid: and
      shuffle: as `run_sweep` gets them.
      timed: rows to time on, e.g. the first few thousand; None for all.
      repeats: of each size.

    Returns:
      `at_once` of `run_sweep`.

    Raises:
      ValueError: as `fit_in`.
    """
    sizes = [fit_in(budget, train, members, rows, valid, shuffle)]
    while len(sizes) < 4 and sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 4))
    seconds = fastest(train, members, rows if timed is None else timed, shuffle, sizes=sizes, repeats=repeats)
    return min(seconds, key=seconds.__getitem__)


def fastest(
    train: StackedTrain,
    members: Members,
    rows: Rows,
    shuffle: Array,
    *,
    sizes: Sequence[int],
    repeats: int = 3,
) -> dict[int, float]:
    """Seconds that one router takes for one epoch, by how many are trained at once; the least is fastest.

    Args:
      train: from `make_stacked_train`.
      members: routers to take from; repeated where there are fewer.
      rows: a few thousand of them are enough.
      shuffle: any key.
      sizes: to try, e.g. those that `fit_in` allows.
      repeats: of each size, in turn; the best counts.
    """
    n_routers = members.replicate.shape[0]
    advance = jax.jit(train.advance, static_argnames="epochs")
    states, crews = {}, {}
    for size in sizes:
        crews[size] = take_members(members, jnp.arange(size) % n_routers)
        states[size] = jax.jit(train.init)(crews[size], rows, None)
        jax.block_until_ready(advance(states[size], crews[size], rows, None, shuffle, epochs=1))
    seconds = dict.fromkeys(sizes, float("inf"))
    for _ in range(repeats):
        for size in sizes:
            begun = time.perf_counter()
            jax.block_until_ready(advance(states[size], crews[size], rows, None, shuffle, epochs=1))
            seconds[size] = min(seconds[size], (time.perf_counter() - begun) / size)
    return seconds
