"""What one cell of `assumptions.py` computes: logs of one violation at one strength, analysed and held to the truth.

An analysis is a log, an estimator and a true value: its intervals are value -+ 1.96 errors of
`off_policy.fixed_policy_value`. Logs of one seed have the same queries and noise at every strength.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import assumption_programs as programs
import jax
import jax.numpy as jnp
import numpy as np
import sessions
import violations
from assumption_programs import BLOCKS, ESTIMATORS, LIGHT, RM
from data import compiler_options
from scipy import stats
from violations import FAMILIES, LAM, RULE, Means

from jrouter.known_worlds import KnownWorld, draw_known_queries
from jrouter.metrics import utility
from jrouter.nuisances.crossfit import NuisanceConfig
from jrouter.policy import Policy
from jrouter.preferences import with_utility
from jrouter.splits import Split, split_log
from jrouter.types import Array, BenchmarkTable, LoggedData

NORMAL = 1.959964
BEST, RC, RC_WEIGHTED = "best_single", "regress_and_compare_pooled", "regress_and_compare_pooled_ipw"
JUMPS = {"logged smoothly": 0.0, "logged by the jump too": 5.0}
"""Variants of "lipschitz", by how much the log-odds of the logging policy follow the jump."""
DECLINES = {"after the log": 1.0, "in the log's last quarter": 1.0 - 1.0 / BLOCKS}
"""Variants of "decline", by the share of the log that is written before the fall."""
CELLS: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "affine": (tuple(FAMILIES), (0.0, 0.5, 1.0)),
    "lipschitz": (tuple(JUMPS), (0.0, 0.1, 0.2, 0.4)),
    "ignorability": (("logged by realised scores",), (0.0, 0.1, 0.25, 0.5, 1.0)),
    "sutva": (("context lost on a switch",), (0.0, 0.05, 0.1, 0.2)),
    "traffic": (("harder queries",), (0.0, 0.5, 1.0, 2.0)),
    "decline": (tuple(DECLINES), (0.0, 0.05, 0.1, 0.2)),
}
"""Violation -> (variants, strengths); at strength 0 the assumption holds."""


class Values(NamedTuple):
    """An analysis of S logs: values [S], their standard errors [S], and the true value."""

    value: Any
    error: Any
    truth: float


class Learned(NamedTuple):
    """A learner on S logs: true utility [S] of its router, and its regret [S] where there is a best to compare with."""

    utility: Any
    regret: Any | None = None


class Found(NamedTuple):
    """What a cell found: analyses, learners and shares by name."""

    values: dict[str, Values]
    learned: dict[str, Learned]
    shares: dict[str, float]


def summary(found: Found) -> dict[str, Any]:
    """A cell as it is kept: numbers alone, whole numbers of logs beside them."""

    def of_values(one: Values) -> dict[str, float]:
        value, error = np.asarray(one.value, float), np.asarray(one.error, float)
        return {
            "logs": value.size,
            "truth": one.truth,
            "bias": value.mean() - one.truth,
            "bias_error": value.std(ddof=1) / value.size**0.5,
            "spread": value.std(ddof=1),
            "error": error.mean(),
            "coverage": float((np.abs(value - one.truth) <= NORMAL * error).mean()),
        }

    def of_learned(one: Learned) -> dict[str, float]:
        parts = {"utility": one.utility} | ({} if one.regret is None else {"regret": one.regret})
        cell: dict[str, float] = {"logs": np.size(one.utility)}
        for name, each in parts.items():
            each = np.asarray(each, float)
            cell |= {name: each.mean(), f"{name}_error": each.std(ddof=1) / each.size**0.5}
        return cell

    return {
        "values": {name: of_values(one) for name, one in found.values.items()},
        "learned": {name: of_learned(one) for name, one in found.learned.items()},
        "shares": found.shares,
    }


class Runner:
    """Computes cells; compiled programs, truths and what cells share are kept between them.

    Args:
      n: rows of a log.
      logs: S, log seeds 0..S-1.
      learner_logs: how many of them are learned from.
      world_seed: of all worlds.
      truth_queries: over how many queries true values are averaged.
      fast: compile in half the time to slower code.
    """

    def __init__(self, *, n: int, logs: int, learner_logs: int, world_seed: int, truth_queries: int, fast: bool):
        self.n, self.fast, self.truth_queries, self.learner_logs = n, fast, truth_queries, learner_logs
        self.keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(1), seed))(jnp.arange(logs))
        make = partial(violations.make_world, world_seed)
        self.plain, self.half = make(), make(half=True)
        self.harder = make(half=True, difficulty=violations.DIFFICULTY)
        self.config = NuisanceConfig(*(next(iter(LIGHT[kind])) for kind in ("outcome", "propensity")))
        self._programs: dict[Any, Callable] = {}

    def run(self, violation: str, variant: str, strength: float) -> Found:
        """What one cell finds."""
        return getattr(self, violation)(variant, jnp.float32(strength))

    # What the violations share

    def jitted(self, function: Callable, *operands: Any, **static: Any) -> Any:
        """Calls `function`, compiled once for these static arguments (and for each shape of the others)."""
        name = (function, *static.items())
        if name not in self._programs:
            self._programs[name] = jax.jit(partial(function, **static), compiler_options=compiler_options(self.fast))
        return self._programs[name](*operands)

    def drawn(self, draw: Callable, world: KnownWorld, *more: Any) -> Any:
        """S draws of (world, key, n, *more)."""

        def every(world, keys, more):
            return jax.lax.map(lambda key: draw(world, key, self.n, *more), keys)

        name = (draw, "drawn")
        if name not in self._programs:
            self._programs[name] = jax.jit(every)
        return self._programs[name](world, self.keys, more)

    @cached_property
    def split(self) -> Split:
        """Folds, and rows of training and validation, the same for every log: rows are in no order that matters."""
        return self._split(None)

    @cached_property
    def session_split(self) -> Split:
        """The same, sessions undivided."""
        return self._split(jnp.arange(self.n) // sessions.TURNS)

    def _split(self, group: Array | None) -> Split:
        none = jnp.zeros(self.n)
        log = LoggedData(none[:, None], none.astype(jnp.int32), none, none, group=group)
        # One model may have any number of rows.
        return replace(split_log([log], seeds=[0])[0], model_size=self.n)

    def alike(self, logs: LoggedData) -> LoggedData:
        """Logs with weights and groups, be they of no effect: so all share their programs."""
        shape = logs.model.shape
        weight = jnp.ones(shape) if logs.row_weight is None else logs.row_weight
        group = jnp.broadcast_to(jnp.arange(self.n), shape) if logs.group is None else logs.group
        return replace(logs, row_weight=weight, group=group)

    def values(
        self,
        logs: LoggedData,
        world: KnownWorld,
        truth: float,
        *,
        split: Split | None = None,
        policy: Policy = RULE,
    ) -> dict[str, Values]:
        """Analyses of `RULE` on S logs, by estimator."""
        operands = (self.alike(logs), split or self.split, violations.rule_params(world))
        value, error = self.jitted(programs.values_of_logs, *operands, policy=policy, config=self.config)
        return {name: Values(value[:, at], error[:, at], truth) for at, name in enumerate(ESTIMATORS)}

    def test(self, world: KnownWorld, means: Means | None = None, tilt: Array | float = 0.0) -> BenchmarkTable:
        """Queries after the log, with their outcomes."""
        key_x, key_outcomes = jax.random.split(jax.random.key(2))
        x = violations.tilted_queries(world, key_x, self.truth_queries, tilt)
        return violations.table_of(world, key_outcomes, x, jax.vmap(means or violations.means_of(world))(x))

    def judging(self, test: BenchmarkTable) -> BenchmarkTable:
        """The queries that judge learners."""
        return jax.tree.map(lambda leaf: leaf[:4096], test)

    def truth(self, world: KnownWorld, test: BenchmarkTable) -> float:
        """True value of `RULE`."""
        params = violations.rule_params(world)
        choice = jax.vmap(lambda x: RULE.probabilities(params, x, LAM))(test.x)
        return float((choice * utility(test.true_score, test.true_cost, LAM)).sum(axis=1).mean())

    def few(self, logs: LoggedData) -> LoggedData:
        """The logs that are learned from."""
        return jax.tree.map(lambda leaf: leaf[: self.learner_logs], self.alike(logs))

    def learned(self, logs: LoggedData, test: BenchmarkTable, method: str) -> Learned:
        """A learner on the few logs."""
        return Learned(
            *self.jitted(
                programs.learn,
                self.few(logs),
                self.split,
                self.judging(test),
                method=method,
                config=self.config,
            )
        )

    # The violations

    @cached_property
    def plain_logs(self) -> LoggedData:
        """Logs in which all holds."""
        return self.drawn(violations.draw_log, self.plain)

    @cached_property
    def score_and_cost(self) -> tuple[Array, Array]:
        """`two_values` of the plain logs."""
        params = violations.rule_params(self.plain)
        return self.jitted(programs.two_values, self.plain_logs, self.split, params, config=self.config)

    def affine(self, variant: str, strength: Array) -> Found:
        """Utility of one family, estimated as it is, and from score and cost."""
        family = jnp.int32(list(FAMILIES).index(variant))
        test = self.test(self.plain)
        mean = violations.mean_utility(variant, test.true_score, test.true_cost, strength)
        test = replace(test, score=mean, mean_score=mean, cost=0 * mean, mean_cost=0 * mean)
        truth = self.truth(self.plain, test)
        logs = self.plain_logs
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), logs)
        flat = with_utility(flat, violations.mixed_utility(variant), strength)
        worth = jax.tree.map(lambda leaf: leaf.reshape(-1, self.n, *leaf.shape[1:]), flat)
        values = {f"{name} on the utility": one for name, one in self.values(worth, self.plain, truth).items()}

        both, covariance = self.score_and_cost

        def whole(pair):
            return programs.utility_of(family, pair[0], pair[1] / programs.THOUSAND, strength)

        slope = jax.vmap(jax.grad(whole))(both)
        error = jnp.sqrt(jnp.einsum("si,sij,sj->s", slope, covariance, slope))
        values["of mean score and mean cost"] = Values(jax.vmap(whole)(both), error, truth)
        params = violations.rule_params(self.plain)
        found = self.jitted(programs.predicted_value, logs, self.split, params, family, strength, config=self.config)
        value, error = found
        values["of predicted score and cost"] = Values(value, error, truth)

        learned = {}
        for method in (BEST, RC):
            learned[f"{method}, on the utility"] = self.learned(worth, test, method)
            apart = (self.few(logs), self.split, self.judging(test), family, strength)
            learned[f"{method}, score and cost apart"] = Learned(
                *self.jitted(programs.learn_apart, *apart, method=method, config=self.config)
            )
        return Found(values, learned, {})

    def lipschitz(self, variant: str, strength: Array) -> Found:
        """Scores that jump, logged by a policy that knows of the jump, or does not."""
        logs, every = self.drawn(violations.draw_jump_log, self.half, strength, jnp.float32(JUMPS[variant]))
        test = self.test(self.half, violations.jump_means(self.half, strength))
        truth = self.truth(self.half, test)
        values = self.values(logs, self.half, truth)
        known = replace(logs, propensity=_chosen(every, logs.model))
        values["dr, true propensities"] = self.values(known, self.half, truth)["dr"]
        judging = self.judging(test)
        assert judging.x is not None
        smooth = utility(*jax.vmap(violations.means_of(self.half))(judging.x), LAM)
        learned = {method: self.learned(logs, test, method) for method in (BEST, RC)}
        found, bounds = self.jitted(
            programs.learn_and_bound, self.few(logs), self.split, judging, smooth, config=self.config
        )
        learned[RM] = Learned(*found)
        shares = {
            f"{kind}: {name}": float(each.mean()) for kind, parts in bounds.items() for name, each in parts.items()
        }
        return Found(values, learned, shares)

    def ignorability(self, variant: str, strength: Array) -> Found:
        """Logs that chose by the realised score, with propensities estimated from x and with the true ones."""
        del variant
        logs, every = self.drawn(violations.draw_outcome_log, self.plain, strength)
        test = self.test(self.plain)
        truth = self.truth(self.plain, test)
        values = self.values(logs, self.plain, truth)
        known = replace(logs, propensity=_chosen(every, logs.model))
        valid = self.values(known, self.plain, truth)
        values |= {f"{name}, true p(t | x, outcomes)": valid[name] for name in ("dr", "ips")}
        learned = {method: self.learned(logs, test, method) for method in (BEST, RC, RM)}
        for method in (BEST, RC_WEIGHTED, RM):
            learned[f"{method}, true p(t | x, outcomes)"] = self.learned(known, test, method)
        return Found(values, learned, {"logged answers of score 1": float(logs.score.mean())})

    def sutva(self, variant: str, strength: Array) -> Found:
        """Sessions, analysed row by row, in clusters, with who answered before in x, and by pairs of turns."""
        del variant
        world, params = self.half, violations.rule_params(self.half)
        drawn = self.drawn(sessions.draw_sessions, world, strength)
        truth = float(
            jax.jit(
                lambda loss: sessions.deployed_utility(
                    world,
                    jax.random.key(2),
                    lambda x: RULE.apply(params, x, LAM),
                    loss,
                    sessions=self.truth_queries // 4,
                )
            )(strength)
        )
        rows = replace(drawn.log, group=None)
        values = {f"{name}, by rows": one for name, one in self.values(rows, world, truth).items()}
        by_session = partial(self.values, world=world, truth=truth, split=self.session_split)
        values["dr, by sessions"] = by_session(drawn.log)["dr"]
        previous = jax.vmap(sessions.with_previous)(drawn)
        values["dr, turn before in x"] = by_session(previous)["dr"]
        pairs = self.jitted(programs.pair_logs, drawn, self.session_split, config=self.config)
        values["dr, by pairs of turns"] = by_session(pairs, policy=sessions.PAIR_RULE)["dr"]

        learned = {}
        for name, method, logs in (
            (BEST, BEST, drawn.log),
            (RC, RC, drawn.log),
            (f"{RC}, turn before in x", RC, previous),
        ):
            operands = (self.few(logs), self.session_split, strength, world)
            found = self.jitted(programs.learn_and_deploy, *operands, method=method, config=self.config)
            learned[name] = Learned(found)
        switched = 1.0 - float(drawn.kept.mean()) * sessions.TURNS / (sessions.TURNS - 1) + 1 / (sessions.TURNS - 1)
        return Found(values, learned, {"switches in the log": switched})

    def traffic(self, variant: str, strength: Array) -> Found:
        """Later queries are harder: the log's values, reweighted by the known and by an estimated density ratio."""
        del variant
        world = self.harder
        logs = self.drawn(violations.draw_log, world)
        test = self.test(world, tilt=strength)
        truth = self.truth(world, test)
        values = self.values(logs, world, truth)
        own = self.truth(world, self.test(world))
        values["dr, of the log's traffic"] = values["dr"]._replace(truth=own)

        later = jax.vmap(lambda key: violations.tilted_queries(world, jax.random.fold_in(key, 1), self.n, strength))
        ratios = {
            "known ratio": jax.vmap(jax.vmap(lambda x: violations.density_ratio(x, strength)))(logs.x),
            "estimated ratio": self.jitted(programs.estimated_ratio, logs.x, later(self.keys)),
        }
        learned = {method: self.learned(logs, test, method) for method in (BEST, RC)}
        for name, ratio in ratios.items():
            weighted = replace(logs, row_weight=ratio)
            values[f"dr, {name}"] = self.values(weighted, world, truth)["dr"]
            if name == "known ratio":
                learned |= {f"{method}, {name}": self.learned(weighted, test, method) for method in (BEST, RC)}
        share = ratios["known ratio"]
        effective = float((share.sum(axis=1) ** 2 / jnp.square(share).sum(axis=1)).mean() / self.n)
        return Found(values, learned, {"effective share of the rows": effective})

    def decline(self, variant: str, strength: Array) -> Found:
        """One model's score falls, after the log or in its last quarter, and what a check by blocks of time sees."""
        world, params = self.harder, violations.rule_params(self.harder)
        x = draw_known_queries(world, jax.random.key(4), 10_000)
        # The model that the policy chooses most.
        model = jax.vmap(lambda x: RULE.probabilities(params, x, LAM))(x).sum(axis=0).argmax()
        since = jnp.float32(DECLINES[variant])
        logs = self.drawn(violations.draw_falling_log, world, model, strength, since)
        test = self.test(world, violations.fall_means(world, model, strength))
        truth = self.truth(world, test)
        # Only the check looks at times; without them these logs share programs with others.
        timeless = replace(logs, time=None)
        recent = replace(timeless, row_weight=(logs.time >= 1 - 1 / BLOCKS).astype(jnp.float32))
        values = self.values(timeless, world, truth)
        values["dr, last quarter"] = self.values(recent, world, truth)["dr"]
        learned = {method: self.learned(timeless, test, method) for method in (BEST, RC)}
        learned |= {f"{method}, last quarter": self.learned(recent, test, method) for method in (BEST, RC)}
        statistic = self.jitted(programs.block_statistics, logs, self.split, config=self.config)
        # Bonferroni over models.
        p_value = stats.chi2.sf(np.asarray(statistic), BLOCKS - 1) * statistic.shape[1]
        flagged = p_value < 0.05
        return Found(
            values,
            learned,
            {
                "logs flagged": float(flagged.any(axis=1).mean()),
                "logs in which the right model is flagged": float(flagged[:, int(model)].mean()),
            },
        )


def _chosen(every: Array, model: Array) -> Array:
    """[S, n], of probabilities [S, n, T] those of the logged models."""
    return jnp.take_along_axis(every, model[..., None], axis=-1)[..., 0]
