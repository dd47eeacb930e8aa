"""Many trainings as one program: vmapped over cost preferences and over seeds."""

from collections.abc import Callable
from typing import Any, cast

import jax

from jrouter.train import Hyper, Rows, TrainKeys


def over_settings(train: Callable) -> Callable:
    """One training per setting (e.g. lambda), on the same rows in the same minibatch order.

    Data and keys are not batched, so the first layer of all routers is one matrix product.

    Args:
      train: from `make_train`.

    Returns:
      The same function, with a leading axis [L] on `setting` and on what it returns.
    """

    def trained(keys: TrainKeys, rows: Rows, setting, hyper: Hyper, valid: Rows | None = None):
        return jax.vmap(lambda one: train(keys, rows, one, hyper, valid))(setting)

    return trained


def sweep(train: Callable, *, log_per_seed: bool = False, weight_per_seed: bool = False) -> Callable:
    """Routers over seed x setting: the function to jit, once.

    A seed may set the initialisation alone, the simulated log, or a bootstrap resample of the rows.

    Args:
      train: from `make_train`.
      log_per_seed: examples (of training and validation rows) have a leading axis [S].
      weight_per_seed: row weights have a leading axis [S], e.g. bootstrap counts.

    Returns:
      swept(keys [S], rows, setting [L], hyper, valid=None) -> (params [S, L, ...], info [S, L, ...]).

    >>> import jax.numpy as jnp
    >>> from jrouter.train import TrainConfig, make_train, train_keys
    >>> train = make_train(lambda key: jnp.zeros(()), lambda p, y, lam: (p - lam * y) ** 2, TrainConfig(epochs=1))
    >>> keys = jax.vmap(train_keys)(jax.random.split(jax.random.key(0), 3))
    >>> rows = Rows(jnp.ones(8), jnp.ones(8))
    >>> jax.jit(sweep(train))(keys, rows, jnp.array([0., 1.]), Hyper())[0].shape
    (3, 2)
    """
    examples = 0 if log_per_seed else None
    weight = 0 if weight_per_seed or log_per_seed else None

    def swept(keys: TrainKeys, rows: Rows, setting, hyper: Hyper, valid: Rows | None = None):
        axes: Any = Rows(examples, cast(Any, weight))
        each = jax.vmap(over_settings(train), in_axes=(0, axes, None, None, None if valid is None else axes))
        return each(keys, rows, setting, hyper, valid)

    return swept


def over_seeds(fit: Callable, *, at_once: int = 1) -> Callable:
    """A learner over stacked keys and problems, one program for all seeds.

    Args:
      fit: (key, problem) -> anything; pure.
      at_once: seeds in one vmap. All of them suit an accelerator; one after another needs least
        memory and is as fast on a CPU, where lambdas fill the cores.

    Returns:
      (keys [S], problems [S, ...]) -> results [S, ...].
    """

    def fitted(keys, problems):
        return jax.lax.map(lambda operands: fit(*operands), (keys, problems), batch_size=at_once)

    return fitted
