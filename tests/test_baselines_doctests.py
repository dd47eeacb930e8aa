"""Examples in docstrings of baselines hold: experiments/ is not where pytest looks for them."""

import doctest
import importlib
import pkgutil

import baseline_world  # noqa: F401 (puts experiments/ on the path)
import baselines


def test_examples_hold():
    names = [module.name for module in pkgutil.iter_modules(baselines.__path__)]
    results = [doctest.testmod(importlib.import_module(f"baselines.{name}")) for name in names]
    assert sum(result.failed for result in results) == 0  # what was expected is printed above
    assert sum(result.attempted for result in results) > 10
