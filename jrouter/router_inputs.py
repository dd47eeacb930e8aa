"""What a router is asked with, checked: queries as texts or rows, lambda, the names that may be chosen, batch sizes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jrouter.encoders.encode import Encoder
from jrouter.forecast import Forecast


def texts_in(x: Any) -> tuple[Sequence[Any], bool] | None:
    """Texts or chats of a question, and whether it was one of them; None where it holds embeddings.

    >>> texts_in("hi"), texts_in([{"role": "user", "content": "hi"}])
    ((['hi'], True), ([[{'role': 'user', 'content': 'hi'}]], True))
    >>> texts_in(["hi", "you"]), texts_in([0.5, 1.0])
    ((['hi', 'you'], False), None)
    """
    if _is_query(x):
        return [x], True
    return (x, False) if isinstance(x, list | tuple) and bool(x) and _is_query(x[0]) else None


def _is_query(x: Any) -> bool:
    """Whether this is a text or a chat, a list of messages."""
    return isinstance(x, str) or (isinstance(x, list | tuple) and bool(x) and isinstance(x[0], Mapping))


def rows_of(x: Any, dim: int, embedding: str | None) -> tuple[Any, bool]:
    """Embeddings as rows [n, d], and whether it was one [d].

    Args:
      x: [d] or [n, d]; [n, d] on an accelerator stays there.
      dim: the width expected, and
      embedding: of what, where known.

    Raises:
      ValueError: for another width.
    """
    if type(x) is np.ndarray or not isinstance(x, jax.Array) or x.ndim != 2:
        x = np.asarray(x, np.float32)
    if x.ndim not in (1, 2) or x.shape[-1] != dim:
        encoder = f" of {embedding}" if embedding else ""
        raise ValueError(f"x: expected embeddings{encoder} of width {dim}, got shape {x.shape}")
    return (x[None], True) if x.ndim == 1 else (x, False)


def not_finite(finite: np.ndarray) -> ValueError:
    """The error that names the first query of which `finite` [n] is False."""
    return ValueError(f"x: row {int(np.argmin(finite))} is not finite; embed that query again")


def clipped(lam: float, lambdas: Sequence[float]) -> float:
    """A lambda within the range of the fitted ones.

    Raises:
      ValueError: for one that is not finite or below 0.

    >>> clipped(500.0, (0.0, 100.0))
    100.0
    """
    if not lam >= 0 or not math.isfinite(lam):
        raise ValueError(f"lam: expected a finite number of at least 0, got {lam}")
    return min(max(float(lam), lambdas[0]), lambdas[-1])


def pool_of(allowed: Iterable[str] | None, models: Sequence[str], available: Sequence[str]) -> tuple[bool, ...] | None:
    """Which of T models a query may be sent to; None for all.

    Args:
      allowed: names that a caller allows, or None for all.
      models: of the router.
      available: those of them that are in use, or () for all.

    Raises:
      ValueError: for an unknown name, or where none is left.

    >>> pool_of(["a", "b"], ("a", "b", "c"), ("b", "c"))
    (False, True, False)
    """
    if allowed is None:
        return tuple(name in available for name in models) if available else None
    if isinstance(allowed, str):
        raise ValueError(f"allowed: expected a list of model names, got the string {allowed!r}")
    names = set(allowed)
    unknown = sorted(names - set(models))
    if unknown:
        raise ValueError(f"allowed: unknown model {unknown[0]!r}, expected some of {', '.join(models)}")
    if not names:
        raise ValueError("allowed: the pool is empty; name at least one model")
    in_use = available or models
    usable = names & set(in_use)
    if not usable:
        raise ValueError(f"allowed: {', '.join(sorted(names))} left this router's pool: {', '.join(in_use)}")
    return tuple(name in usable for name in models)


def batch_sizes_of(sizes: Sequence[int] | None) -> list[int] | None:
    """Batch sizes as a list; None for the powers of two.

    Raises:
      ValueError: for sizes that are not positive integers, or none.
    """
    if sizes is None:
        return None
    sizes = list(sizes)
    if not sizes or any(not isinstance(size, int | np.integer) or size < 1 for size in sizes):
        raise ValueError(f"batch_sizes: expected positive integers, got {sizes}")
    return sizes


def needed_forecasts(forecasts: Forecast | None) -> Forecast:
    """A router's forecasts.

    Raises:
      ValueError: for a router that has none.
    """
    if forecasts is None:
        raise ValueError(
            "this router carries no forecast of score and cost (it was saved in an older format): fit it again for "
            "`decide`, limits, changed prices and added models"
        )
    return forecasts


def check_width(encoder: Encoder, dim: int) -> None:
    """Raises a ValueError for an encoder whose embeddings are not of the width `dim` of the log's."""
    if encoder.dim != dim:
        raise ValueError(
            f"encoder: {encoder.spec.name} makes embeddings of width {encoder.dim}, the log's are of width {dim}; "
            "read the log with embed=encoder.encode"
        )
