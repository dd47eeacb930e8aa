"""Routers of large pools, trained, pruned, masked and extended: what `pools` runs cell by cell."""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from cells import Key
from learners import Learners
from one_log import key_of, with_room
from pool_logs import PoolLog, columns, draw_pool_log, draw_tables, only, relatives, with_model
from query_batches import influence_of

from jrouter.forecast import fit_forecast, forecast
from jrouter.interval import lambda_grid
from jrouter.losses import softmax_regret
from jrouter.methods import METHODS
from jrouter.methods.regret_training import as_targets, fit_routers, router_scores, routers_policy
from jrouter.methods.rm_softmax import RmSoftmaxConfig
from jrouter.metrics import best_utility, pareto_frontier, utility
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.policy import Method, Policy, Problem, evaluate
from jrouter.router import Router
from jrouter.router_pool import LEAST_SHARE, extend
from jrouter.splits import split_log
from jrouter.synthetic import make_world
from jrouter.types import Array, BenchmarkTable, LoggedData, take_rows
from jrouter.weighted import model_means

BASE_MODELS = 10
PRUNED = ("all", "dominated", "never best", "off the mean frontier")


def masked_rm_softmax(config: RmSoftmaxConfig = RmSoftmaxConfig()) -> Method:
    """rm_softmax with a random half of the models allowed in each training row, so that runners-up are ranked too."""

    def surrogate(logits, targets, lam):
        (score, cost), mask = targets
        return softmax_regret(logits, utility(score, cost, lam), temperature=config.temperature, mask=mask)

    def fit(key, problem):
        scores = router_scores(problem, config)
        mask = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.5, scores.score.shape)
        # A row with no model allowed teaches nothing: all are.
        mask = mask | ~mask.any(axis=1, keepdims=True)
        return fit_routers(key, problem, (as_targets(scores), mask), surrogate, config, problem.lambdas)

    return Method(fit, routers_policy(config), config)


LEARNERS: dict[str, tuple[str, Callable[[], Method]]] = {
    "plug_in": ("regress_and_compare_pooled", METHODS["regress_and_compare_pooled"]),
    "rm_softmax": ("rm_softmax", METHODS["rm_softmax"]),
    "rm_softmax_masks": ("", masked_rm_softmax),
}
"""name -> name in the package, and method."""


class Fitted(NamedTuple):
    """A trained router and what it took."""

    policy: Policy
    params: Any
    seconds: float
    compile_seconds: float


class Setting(NamedTuple):
    """One pool: its log, queries that judge, lambdas, and queries beyond the log to score a new model on."""

    one: PoolLog
    test: BenchmarkTable
    lambdas: Array
    spare: BenchmarkTable


class Runner:
    """Settings, and routers fitted in them, with programs that equal shapes share.

    Args:
      regime: of the world that the models are relatives in.
      rows: of a log.
      spare: queries to score a new model on.
      test: queries that judge.
      dim: of the embeddings.
      lambdas: how many.
      fast: compile in half the time to slower code.
    """

    def __init__(self, regime: str, *, rows: int, spare: int, test: int, dim: int, lambdas: int, fast: bool = False):
        self._sizes, self._lambdas = {"rows": rows + spare, "test": test}, lambdas
        self._rows = rows
        self._base = make_world(regime, dim=dim, n_models=BASE_MODELS)
        self._fast = fast
        self.setting = lru_cache(maxsize=1)(self._setting)
        self.full = lru_cache(maxsize=4)(self._full)
        self.without = lru_cache(maxsize=2)(self._without)

    def _setting(self, models: int, seed: int) -> Setting:
        # Hardly a program serves two logs, as their lengths differ, and thousands are more than a process may map.
        self._learners = Learners(fast=self._fast)
        jax.clear_caches()
        world = relatives(self._base, jax.random.key(5), n_models=models)
        table, test = draw_tables(world, seed, **self._sizes)
        places = jnp.arange(table.score.shape[0])
        one = draw_pool_log(take_rows(table, places[: self._rows]), seed)
        lambdas = lambda_grid(one.log, size=self._lambdas)
        return Setting(one, test, lambdas, take_rows(table, places[self._rows :]))

    def _full(self, method: str, models: int, seed: int) -> Fitted:
        setting = self.setting(models, seed)
        return self.fit(method, setting.one.log, setting.lambdas, seed)

    def _without(self, method: str, models: int, seed: int) -> tuple[int, LoggedData, Fitted]:
        """The place of the model that will come, the log without it, and a router of that."""
        setting = self.setting(models, seed)
        new = wanted_model(setting.test, setting.lambdas)
        old = only(setting.one, np.arange(models) != new).log
        return new, old, self.fit(method, old, setting.lambdas, seed)

    def fit(self, name: str, log: LoggedData, lambdas: Array, seed: int) -> Fitted:
        """A router of a log; its nuisances count in its time."""
        method = LEARNERS[name][1]()
        split = with_room(split_log([log], seeds=[seed])[0], n_rows=log.model.shape[0])

        def nuisances_of(key, log, split):
            return fit_nuisances(key, log, split, NuisanceConfig())

        operands = key_of(seed, "nuisances"), log, split
        nuisances, *first = self._timed("nuisances", nuisances_of, operands)
        operands = key_of(seed, "learners"), Problem(log, split, nuisances, lambdas)
        params, *second = self._timed(name, method.fit, operands)
        seconds, compile_seconds = (a + b for a, b in zip(first, second, strict=True))
        return Fitted(method.policy, params, seconds, compile_seconds)

    def _timed(self, name: str, function: Callable, operands: tuple) -> tuple[Any, float, float]:
        begun = time.perf_counter()
        program = self._learners.program(name, function, operands)
        compiled = time.perf_counter()
        found = jax.block_until_ready(program(*operands))
        return found, time.perf_counter() - compiled, compiled - begun

    def judge(
        self, policy: Policy, params: Any, test: BenchmarkTable, lambdas: Array, pool=None
    ) -> tuple[np.ndarray, Array]:
        """Utility of each query [n], averaged over lambdas, and the share of each model [L, T]."""
        mask = jnp.ones(len(test.models), bool) if pool is None else jnp.asarray(pool)

        def judged(params, test, lambdas, mask):
            outcomes, share = evaluate(policy, params, test, lambdas, mask=mask)
            return outcomes.utility.mean(axis=0), share

        value, share = jax.jit(judged)(params, test, lambdas, mask)
        return np.asarray(value), share

    def run(self, key: Key) -> dict[str, Any]:
        """The cell of a key: utility and what it took, beside the utility of the best choice of each query."""
        setting = self.setting(key["models"], key["seed"])
        found = {"prune": self._prune, "restrict": self._restrict, "add": self._add}[key["question"]](key, setting)
        best = jax.vmap(lambda lam: best_utility(utility(setting.test.true_score, setting.test.true_cost, lam)))
        return found | {"oracle": float(best(setting.lambdas).mean())}

    def _prune(self, key: Key, setting: Setting) -> dict[str, Any]:
        begun = time.perf_counter()
        kept = kept_by(key["variant"], setting.one, setting.lambdas)
        pruning = time.perf_counter() - begun
        fitted = self._on(key, setting, kept)
        value, _ = self.judge(*fitted[:2], columns(setting.test, np.flatnonzero(kept)), setting.lambdas)
        return _cell(value, setting, kept.sum(), only(setting.one, kept).log, fitted) | {"pruning_seconds": pruning}

    def _on(self, key: Key, setting: Setting, kept: np.ndarray) -> Fitted:
        if kept.all():
            return self.full(key["method"], key["models"], key["seed"])
        return self.fit(key["method"], only(setting.one, kept).log, setting.lambdas, key["seed"])

    def _restrict(self, key: Key, setting: Setting) -> dict[str, Any]:
        models = key["models"]
        if key["variant"] == "half":
            order = np.random.default_rng(key["seed"]).permutation(models)
            kept = np.isin(np.arange(models), order[: max(2, models // 2)])
        else:
            # Of one router for all ways and methods, so that they are judged on the same pool.
            fitted = self.full("rm_softmax", models, key["seed"])
            _, share = self.judge(*fitted[:2], setting.test, setting.lambdas)
            gone = np.argsort(-np.asarray(share).mean(axis=0))[: max(1, models // 10)]
            kept = ~np.isin(np.arange(models), gone)
        if key["way"] == "mask":
            fitted = self.full(key["method"], models, key["seed"])
            value, _ = self.judge(*fitted[:2], setting.test, setting.lambdas, kept)
            return _cell(value, setting, kept.sum(), setting.one.log, fitted)
        fitted = self._on(key, setting, kept)
        value, _ = self.judge(*fitted[:2], columns(setting.test, np.flatnonzero(kept)), setting.lambdas)
        return _cell(value, setting, kept.sum(), only(setting.one, kept).log, fitted)

    def _add(self, key: Key, setting: Setting) -> dict[str, Any]:
        models, k, way = key["models"], key["k"], key["way"]
        new, old, fitted = self.without(key["method"], models, key["seed"])
        others = np.delete(np.arange(models), new)
        test = columns(setting.test, np.append(others, new))
        if way == "whole log":
            fitted = self.full(key["method"], models, key["seed"])
            value, _ = self.judge(*fitted[:2], setting.test, setting.lambdas)
            return _cell(value, setting, models, setting.one.log, fitted)
        if way == "without":
            value, _ = self.judge(*fitted[:2], columns(setting.test, others), setting.lambdas)
            return _cell(value, setting, models - 1, old, fitted)
        scored = take_rows(setting.spare, jnp.arange(k))
        assert scored.x is not None
        name, given = (
            setting.test.models[new],
            (scored.x, scored.score[:, new].astype(jnp.float32), scored.cost[:, new]),
        )
        if way == "retrain":
            log = with_model(old, name, *given)
            fitted = self.fit(key["method"], log, setting.lambdas, key["seed"])
            value, _ = self.judge(*fitted[:2], test, setting.lambdas)
            return _cell(value, setting, models, log, fitted)
        router = _router(key, old, fitted, setting.lambdas)
        extend(router, name, *map(np.asarray, given))  # once to compile
        begun = time.perf_counter()
        extended = extend(router, name, *map(np.asarray, given)).router
        seconds = time.perf_counter() - begun
        policy, params = extended.served()
        value, _ = self.judge(policy, params, test, setting.lambdas)
        return _cell(value, setting, models, old, Fitted(policy, params, seconds, 0.0)) | {"rows": k}


def _router(key: Key, log: LoggedData, fitted: Fitted, lambdas: Array) -> Router:
    """What `Router.fit` gives, without its assessment and record."""
    return Router(
        method=LEARNERS[key["method"]][0],
        config={},
        params=fitted.params,
        models=log.models,
        lambdas=tuple(np.asarray(lambdas).tolist()),
        dim=log.x.shape[1],
        cost_unit=log.cost_unit,
        forecasts=_forecast_of(log, key["seed"]),
    )


def _forecast_of(log: LoggedData, seed: int) -> Any:
    split = split_log([log], seeds=[seed])[0]
    return jax.jit(fit_forecast)(key_of(seed, "forecast"), log, split)


def _cell(value: np.ndarray, setting: Setting, kept: Any, log: LoggedData, fitted: Fitted) -> dict[str, Any]:
    return {
        "utility": float(np.mean(value, dtype=np.float64)),
        "influence": influence_of(value, setting.test),
        "kept": int(kept),
        "rows": int(log.model.shape[0]),
        "seconds": fitted.seconds,
        "compile_seconds": fitted.compile_seconds,
    }


def kept_by(variant: str, one: PoolLog, lambdas: Array) -> np.ndarray:
    """[T] bool, the models that stay, by the log alone; two at least.

    Raises:
      ValueError: for an unknown variant.
    """
    log, n_models = one.log, len(one.log.models)
    if variant == "all":
        return np.ones(n_models, bool)
    if variant == "off the mean frontier":
        assert log.propensity is not None
        # Means over all queries, not over those that the model was given: rows weigh by 1 / propensity.
        weight = log.weight / log.propensity
        score, cost = (model_means(part, log.model, weight, n_models=n_models) for part in (log.score, log.cost))
        score, cost = jnp.where(jnp.isnan(score), -jnp.inf, score), jnp.where(jnp.isnan(cost), jnp.inf, cost)
        chosen = pareto_frontier(np.asarray(cost), np.asarray(score))
        return _two_at_least(np.isin(np.arange(n_models), chosen), np.asarray(score))
    params = _forecast_of(log, 0)
    score, cost = jax.jit(jax.vmap(forecast, in_axes=(None, 0)))(params, log.x)
    if variant == "never best":
        share = jax.vmap(lambda lam: jnp.bincount(jnp.argmax(score - lam * cost, axis=1), length=n_models))(lambdas)
        return _two_at_least(np.asarray(share.max(axis=0) >= LEAST_SHARE * log.x.shape[0]), np.asarray(share.sum(0)))
    if variant != "dominated":
        raise ValueError(f"unknown variant {variant!r}: expected one of {', '.join(PRUNED)}")

    def beaten(t):
        no_worse = (score >= score[:, t, None]).all(axis=0) & (cost <= cost[:, t, None]).all(axis=0)
        better = (score > score[:, t, None]).any(axis=0) | (cost < cost[:, t, None]).any(axis=0)
        return (no_worse & better).any()

    return ~np.asarray(jax.lax.map(beaten, jnp.arange(n_models)))


def _two_at_least(kept: np.ndarray, merit: np.ndarray) -> np.ndarray:
    """A router needs two models: the best of the others comes along where only one stays."""
    if kept.sum() >= 2:
        return kept
    order = np.argsort(-np.where(kept, np.inf, merit))
    return np.isin(np.arange(len(kept)), order[:2])


def wanted_model(test: BenchmarkTable, lambdas: Array) -> int:
    """The model that is best, of all, on the most queries over the lambdas."""
    best = jax.vmap(lambda lam: (test.true_score - lam * test.true_cost).argmax(axis=1))(lambdas)
    return int(np.bincount(np.asarray(best).ravel(), minlength=len(test.models)).argmax())
