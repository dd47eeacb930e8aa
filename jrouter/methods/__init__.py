"""Learners by name: what the log becomes.

`METHODS[name]()` gives a `Method`; `METHODS[name](config)` one configured otherwise. To add one, write a
file that returns a `Method` and name it here.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from jrouter.methods import (
    best_single,
    carrot,
    cf_regression,
    constant,
    linucb,
    logging_policy,
    regress_and_compare,
    rm_auto,
    rm_classification,
    rm_interval,
    rm_residual,
    rm_softmax,
)
from jrouter.policy import Method

METHODS: dict[str, Callable[..., Method]] = {
    "random": constant.random,
    "cheapest": constant.cheapest,
    "best_single": best_single.best_single,
    "logging_policy": logging_policy.logging_policy,
    **regress_and_compare.READINGS,
    **carrot.VARIANTS,
    "cf_regression": cf_regression.cf_regression,
    "linucb_lower": linucb.VARIANTS["linucb_lower"],
    **rm_classification.VARIANTS,
    "rm_softmax": rm_softmax.rm_softmax,
    "rm_interval": rm_interval.rm_interval,
    **rm_residual.VARIANTS,
    "rm_auto": rm_auto.rm_auto,
}
"""Makers of learners by name: each takes a configuration of its own, or none for its defaults, and gives a `Method`."""


def build_method(name: str, config: dict[str, Any] | None = None) -> Method:
    """The method of a name, with fields of its configuration changed.

    Raises:
      ValueError: for an unknown name or field.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}: expected one of {', '.join(METHODS)}")
    method = METHODS[name]()
    if not config:
        return method
    known = {field.name for field in fields(method.config)}
    for key in config:
        if key not in known:
            raise ValueError(f"method {name!r} has no setting {key!r}: expected one of {', '.join(sorted(known))}")
    return METHODS[name](_replaced(method.config, config))


def _replaced(config: Any, changes: dict[str, Any]) -> Any:
    """A frozen configuration with some fields changed; those that are configurations, field by field."""
    values = {}
    for key, value in changes.items():
        old = getattr(config, key)
        values[key] = _replaced(old, value) if is_dataclass(old) and isinstance(value, dict) else _tupled(value)
    return replace(config, **values)


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value
