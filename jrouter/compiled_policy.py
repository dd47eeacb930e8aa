"""A policy's programs, compiled ahead of time for a few batch sizes, and its params on the device."""

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.batching import largest_batch, pieces, powers_of_two
from jrouter.networks import count_parameters
from jrouter.policy import Policy

MOST_ROWS = {"cpu": 1024}
"""Largest batch by platform, 8,192 on others. What lies between the layers of more rows leaves a CPU's caches:
routing 8,192 rows of width 2,048 at once takes twice as long as in eighths."""
LAMBDAS_KEPT = 16
"""Lambdas whose params stay on the device, where a policy's are smaller at one lambda."""
POOLS_KEPT = 256
"""Pools whose masks stay on the device."""

Pool = Any
"""Hashable, for `place`; by default which models may be chosen, a tuple of T bool, or None for all."""


class CompiledPolicy:
    """Answers batches of any size by programs of a few sizes; threads may share one.

    Rows are padded with zeros to the next size, and more than the largest go in pieces. A program is
    compiled when a batch first needs it, or before by `compile`.

    Args:
      policy: and
      params: its parameters.
      dim: width of the rows.
      n_models: T.
      functions: as below; by default "choices" and "probabilities" of the policy, of rows x [n, d].
      beside: what a row has beside its embedding, one of each; x is then (embeddings [n, d], *these [n]).
      place: pool -> what functions are given for it; by default its mask [T].

    Attributes:
      device: that answers.
      functions: name -> (params, x [n, d], lam, mask [T]) -> arrays [n, ...], to be a part of a larger program.
      context: (lam, pool) -> params at that lambda, lambda and mask on the device; kept for the last few.
    """

    def __init__(
        self,
        policy: Policy,
        params: Any,
        dim: int,
        n_models: int,
        *,
        functions: dict[str, Callable] | None = None,
        beside: tuple[np.generic, ...] = (),
        place: Callable[[Pool], Any] | None = None,
    ):
        self._dim, self._n_models, self._beside = dim, n_models, beside
        placed = [leaf.devices() for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
        self.device = min(placed[0], key=lambda device: device.id) if placed else jax.devices()[0]
        self._params = jax.device_put(params, self.device)
        most = MOST_ROWS.get(self.device.platform, 8192)
        self.sizes = powers_of_two(largest_batch(count_parameters(params), dim, most=most))
        self.functions = functions or {"choices": _choices(policy), "probabilities": _probabilities(policy)}
        self._programs: dict[tuple[str, int], Callable] = {}
        self._lock = threading.Lock()
        self._reduced = None if policy.at is None else jax.jit(policy.at)
        # Moving a scalar to the device takes longer than deciding one row.
        self._at = lru_cache(LAMBDAS_KEPT)(self._params_at)
        place = place or self._mask_of
        self._mask = lru_cache(POOLS_KEPT)(lambda pool: jax.device_put(place(pool), self.device))
        self.context = lru_cache(LAMBDAS_KEPT)(lambda lam, pool: (*self._at(lam), self._mask(pool)))

    def choices(self, x: Any, lam: float, pool: Pool) -> np.ndarray:
        """[n], the most probable model of each row of x [n, d]; -1 where the row is not finite."""
        return self.answer("choices", x, lam, pool)[0]

    def probabilities(self, x: Any, lam: float, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
        """[n, T], probability of each model, and [n], whether the row of x [n, d] is finite."""
        probability, finite = self.answer("probabilities", x, lam, pool)
        return probability, finite

    def compile(self, sizes: Sequence[int] | None = None, pool: Pool = None) -> None:
        """Compiles and runs all programs; those of `sizes` are then the only ones."""
        sizes = self.sizes if sizes is None else tuple(sorted(set(sizes)))
        for size in sizes:
            for name in self.functions:
                self._run(name, self._empty(size), 0.0, pool)
        self.sizes = sizes

    def _params_at(self, lam: float) -> tuple[Any, jax.Array]:
        scalar = jax.device_put(np.float32(lam), self.device)
        return (self._params if self._reduced is None else self._reduced(self._params, scalar)), scalar

    def _mask_of(self, pool: Pool) -> np.ndarray:
        return np.ones(self._n_models, bool) if pool is None else np.array(pool)

    def zeros_beside(self, n: int) -> tuple[np.ndarray, ...]:
        """What n rows have beside their embeddings, as zeros [n] to be filled."""
        return tuple(np.zeros(n, one.dtype) for one in self._beside)

    def _empty(self, size: int) -> Any:
        x = np.zeros((size, self._dim), np.float32)
        return (x, *self.zeros_beside(size)) if self._beside else x

    def _run(self, name: str, x: Any, lam: float, pool: Pool) -> list[np.ndarray]:
        """What a program gives for rows x, as many as one of the sizes."""
        params, scalar, mask = self.context(lam, pool)
        n = len(jax.tree.leaves(x)[0])
        program = self._programs.get((name, n))
        if program is None:
            with self._lock:  # of many threads that need a program, one compiles it
                program = self._programs.get((name, n))
                if program is None:
                    rows = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self._empty(n))
                    program = jax.jit(self.functions[name]).lower(params, rows, scalar, mask).compile()
                    self._programs[name, n] = program
        return [np.asarray(part) for part in program(params, x, scalar, mask)]

    def answer(self, name: str, x: Any, lam: float, pool: Pool) -> list[np.ndarray]:
        """What a function of `functions` gives for rows x [n, d], or (x, *what is beside it)."""
        sizes, n = self.sizes, len(jax.tree.leaves(x)[0])
        if isinstance(x, jax.Array):
            # Rows that are on the device stay there. Others do not: to pad or cut them compiles, for each n.
            exact = n in sizes and x.dtype == jnp.float32
            x = jax.device_put(x, self.device) if exact else np.asarray(x, np.float32)
        if n in sizes:
            return self._run(name, x, lam, pool)
        found = []
        for start, stop, size in pieces(n, sizes) or [(0, 0, sizes[0])]:
            rows = jax.tree.map(lambda leaf, start=start, stop=stop: leaf[start:stop], x)
            if stop - start < size:
                full = self._empty(size)
                for leaf, part in zip(jax.tree.leaves(full), jax.tree.leaves(rows), strict=True):
                    leaf[: stop - start] = part
                rows = full
            found.append([part[: stop - start] for part in self._run(name, rows, lam, pool)])
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def finite_rows(x: jax.Array) -> jax.Array:
    """[n], whether each row of x [n, d] is finite: only then its product with a vector so small is.

    A few times faster than looking at each number, and no finite row overflows.
    """
    return jnp.isfinite(jnp.dot(x, jnp.full(x.shape[1], 2.0**-80, x.dtype), precision="highest"))


def _choices(policy: Policy) -> Callable:
    def choices(params, x, lam, mask):
        best = jax.vmap(lambda one: policy.choice(params, one, lam, mask))(x)
        return (jnp.where(finite_rows(x), best, -1).astype(jnp.int32),)

    return choices


def _probabilities(policy: Policy) -> Callable:
    def probabilities(params, x, lam, mask):
        return jax.vmap(lambda one: policy.probabilities(params, one, lam, mask))(x), finite_rows(x)

    return probabilities
