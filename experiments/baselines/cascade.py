"""Cascades, which ask several models one after another and pay for all: no `Policy`, so they judge themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jrouter.policy import Method, Outcomes
from jrouter.types import Array, BenchmarkTable


@dataclass(frozen=True, kw_only=True)
class Cascade(Method):
    """A method that may ask several models a query.

    Attributes:
      outcomes: (params, table, lambdas [L]) -> `Outcomes` [L, n], and each model's share of answers [L, T].
    """

    outcomes: Callable[[Any, BenchmarkTable, Array], tuple[Outcomes, Array]]
