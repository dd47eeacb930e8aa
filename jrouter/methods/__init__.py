"""Learners by name: what the log becomes.

`METHODS[name]()` gives a `Method`; `METHODS[name](config)` one configured otherwise. To add one, write a
file that returns a `Method` and name it here.
"""

from collections.abc import Callable

from jrouter.methods import (
    best_single,
    carrot,
    cf_regression,
    constant,
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
    **rm_classification.VARIANTS,
    "rm_softmax": rm_softmax.rm_softmax,
    "rm_interval": rm_interval.rm_interval,
    **rm_residual.VARIANTS,
    "rm_auto": rm_auto.rm_auto,
}
