"""What test queries add to the error of a mean, in batches: any two cells can be compared later, query by query."""

import numpy as np

from jrouter.types import BenchmarkTable

BATCHES = 40
"""Parts of the test queries."""


def batch_of(test: BenchmarkTable) -> np.ndarray:
    """[n], in which of `BATCHES` parts each test query is; a group is in one."""
    unit = np.arange(test.score.shape[0]) if test.group is None else np.unique(test.group, return_inverse=True)[1]
    return unit % BATCHES


def influence_of(values: np.ndarray, test: BenchmarkTable) -> np.ndarray:
    """[B], what each batch of the n test queries adds to the mean of values [n] above its share.

    The difference of two means has the difference of their influences.
    """
    values = np.asarray(values, np.float64)
    return np.bincount(batch_of(test), weights=values - values.mean(), minlength=BATCHES) / values.shape[0]


def query_error(influence: np.ndarray) -> np.ndarray:
    """Standard error over test queries of means with influence [B, ...], by B batches: [...].

    >>> round(float(query_error(np.array([.3, -.1, -.2]))), 3)
    0.458
    """
    n = influence.shape[0]
    return np.sqrt(n / (n - 1) * np.square(influence).sum(axis=0))
