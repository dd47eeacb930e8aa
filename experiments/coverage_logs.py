"""What one simulated log says of a policy whose true value is known: every interval, and the log's diagnosis.

What `coverage.py` runs, regime by regime.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.diagnostics import diagnose
from jrouter.inference import influence_error
from jrouter.jackknife import influence
from jrouter.known_worlds import KnownWorld, draw_known_log, linear_rule, make_known_world, true_value
from jrouter.metrics import utility
from jrouter.nuisances.crossfit import NuisanceConfig, Strengths, choose_strengths, fit_nuisances
from jrouter.off_policy import VALUE_ESTIMATORS, value_estimate
from jrouter.policy_value import bootstrap_estimates, policy_terms
from jrouter.refitted import bootstrap_log
from jrouter.splits import Split, folds_alone
from jrouter.types import Array, LoggedData
from jrouter.verdict import key_numbers

LAM = 200.0
"""Cost preference of the policy; score and cost then weigh about the same."""
CONFIG = NuisanceConfig(outcome="ridge")
DEFAULT = "dr"
PARTS = ("default", "estimators", "bootstrap", "obp")
"""Of the study: what is computed on a regime's logs."""
N_FOLDS = 5
AS_IS_RESAMPLES = 1_000


@dataclass(frozen=True)
class Regime:
    """A kind of log.

    Attributes:
      rows: of a log.
      spread: standard deviation of the logging policy's log-odds.
      outcome_bend: how far the outcome model is wrong.
      choice_bend: how far estimated propensities are wrong.
      known: the log has its propensities.
      world: seed of the world's coefficients.
      reported: thresholds of the verdict were fixed without these logs.
    """

    rows: int = 2_000
    spread: float = 0.7
    outcome_bend: float = 0.0
    choice_bend: float = 0.0
    known: bool = False
    world: int = 0
    reported: bool = False


REGIMES = {
    "both right": Regime(world=0),
    "outcome wrong": Regime(outcome_bend=0.1, world=1),
    "propensity wrong": Regime(choice_bend=0.6, world=2),
    "both wrong": Regime(outcome_bend=0.1, choice_bend=0.6, world=3),
    "both right + poor overlap": Regime(spread=2.5, world=4),
    "both right + 20k rows": Regime(rows=20_000, world=5),
    "known propensities + outcome wrong": Regime(outcome_bend=0.1, known=True, world=10, reported=True),
    "both right + fair overlap": Regime(spread=1.2, world=11, reported=True),
    "both wrong + other world": Regime(outcome_bend=0.1, choice_bend=0.6, world=12, reported=True),
    "known propensities + poor overlap": Regime(spread=2.5, outcome_bend=0.1, known=True, world=13, reported=True),
    "outcome wrong + 20k rows": Regime(rows=20_000, outcome_bend=0.1, world=14, reported=True),
    "both wrong + 20k rows": Regime(rows=20_000, outcome_bend=0.1, choice_bend=0.6, world=15, reported=True),
}


class OneLog:
    """Functions of one log of a regime, to be jitted and mapped over keys.

    Args:
      regime: what kind of log.
    """

    def __init__(self, regime: Regime):
        self.regime = regime
        self.world: KnownWorld = make_known_world(
            jax.random.key(regime.world),
            spread=regime.spread,
            outcome_bend=regime.outcome_bend,
            choice_bend=regime.choice_bend,
        )
        self.policy, self.params = linear_rule(self.world)
        fold = np.arange(regime.rows) % N_FOLDS  # rows are independent: any folds are
        log, _ = draw_known_log(self.world, jax.random.key(0), regime.rows)
        self.split: Split = replace(folds_alone(log, fold, n_folds=N_FOLDS), model_size=regime.rows)

    @cached_property
    def truth(self) -> float:
        """Value of the policy."""
        score, cost = jax.jit(lambda: true_value(self.world, self.policy, self.params, jnp.array([LAM]), _key(9)))()
        return float(score[0] - LAM * cost[0])

    def draw(self, key: Array) -> LoggedData:
        """The log of a key."""
        log, every = draw_known_log(self.world, key, self.regime.rows)
        if not self.regime.known:
            return log
        return replace(log, propensity=jnp.take_along_axis(every, log.model[:, None], axis=1)[:, 0])

    def _values(
        self, log: LoggedData, strengths: Strengths, names: tuple[str, ...], *, refit: bool
    ) -> Callable[[LoggedData], Array]:
        """Log -> [E], values by the named estimators."""
        lambdas = jnp.array([LAM])
        estimate = value_estimate(
            _key(1),
            log,
            self.split,
            self.policy,
            self.params,
            lambdas,
            nuisances=CONFIG,
            refit=refit,
            strengths=strengths,
        )

        def values(log):
            found = estimate(log, names)[..., 0]
            return utility(found[:, 0], found[:, 1], LAM)

        return values

    def _errors(self, log: LoggedData, strengths: Strengths, names: tuple[str, ...]) -> dict[str, Array]:
        """Values [E], and their standard errors with and without refitted nuisances."""
        value, moved = influence(log, self._values(log, strengths, names, refit=True))
        _, moved_as_is = influence(log, self._values(log, strengths, names, refit=False))
        return {"value": value, "refitted": influence_error(moved), "as_is": influence_error(moved_as_is)}

    def default(self, key: Array) -> dict[str, Any]:
        """Value and errors [1] of the default, a bootstrap with nuisances as they are [7], and a verdict's numbers."""
        log = self.draw(key)
        strengths = choose_strengths(_key(1), log, self.split, CONFIG)
        nuisances = fit_nuisances(_key(1), log, self.split, CONFIG, strengths=strengths)
        probability = jax.vmap(lambda x: self.policy.probabilities(self.params, x, LAM))(log.x)
        outcome, observed = utility(nuisances.score, nuisances.cost, LAM), utility(log.score, log.cost, LAM)
        terms = jax.vmap(policy_terms)(probability, outcome, observed, log.model, nuisances.propensity)
        resampled = bootstrap_estimates(_key(2), terms, n_resamples=AS_IS_RESAMPLES)
        low, high = jnp.quantile(resampled, jnp.array([0.025, 0.975]), axis=0)
        numbers = key_numbers(diagnose(log, nuisances, probability, lam=LAM))
        return self._errors(log, strengths, (DEFAULT,)) | {"low": low, "high": high, "numbers": numbers}

    def estimators(self, key: Array) -> dict[str, Array]:
        """Values [8] by `VALUE_ESTIMATORS`, and their standard errors with and without refitted nuisances."""
        log = self.draw(key)
        return self._errors(log, choose_strengths(_key(1), log, self.split, CONFIG), VALUE_ESTIMATORS)

    def refitted_bootstrap(self, key: Array, n_resamples: int) -> Array:
        """[2, 8], ends of the percentile interval of a bootstrap that fits the nuisances again."""
        log = self.draw(key)
        values = self._values(log, choose_strengths(_key(1), log, self.split, CONFIG), VALUE_ESTIMATORS, refit=True)
        resampled = bootstrap_log(_key(3), log, values, n_resamples=n_resamples, at_once=20)
        return jnp.quantile(resampled, jnp.array([0.025, 0.975]), axis=0)

    def arrays(self, key: Array) -> tuple[Array, ...]:
        """What obp takes: policy [n, T], predicted utilities [n, T], observed [n], model [n], propensity [n]."""
        log = self.draw(key)
        nuisances = fit_nuisances(_key(1), log, self.split, CONFIG)
        probability = jax.vmap(lambda x: self.policy.probabilities(self.params, x, LAM))(log.x)
        outcome, observed = utility(nuisances.score, nuisances.cost, LAM), utility(log.score, log.cost, LAM)
        return probability, outcome, observed, log.model, nuisances.propensity


OBP_ESTIMATORS = ("direct", "ips", "snips", "dr", "sndr", "switch", "dros")
OBP_NAMES = ("dm", "ipw", "snipw", "dr", "sndr", "switch-dr", "dr-os")


def obp_intervals(arrays: tuple[np.ndarray, ...], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Open Bandit Pipeline's values and 95% bootstrap intervals [7] each, and its seconds."""
    from obp import ope  # pyright: ignore[reportMissingImports]

    policy, outcome, observed, model, propensity = (np.asarray(part, np.float64) for part in arrays)
    # Typed loosely: obp's own types leave out the None that it asks for.
    feedback: Any = {"action": model.astype(int), "position": None, "reward": observed, "pscore": propensity}
    evaluation = ope.OffPolicyEvaluation(
        bandit_feedback=feedback | {"context": None},
        ope_estimators=[
            ope.DirectMethod(),
            ope.InverseProbabilityWeighting(),
            ope.SelfNormalizedInverseProbabilityWeighting(),
            ope.DoublyRobust(),
            ope.SelfNormalizedDoublyRobust(),
            ope.SwitchDoublyRobust(lambda_=10.0),
            ope.DoublyRobustWithShrinkage(lambda_=10.0),
        ],
    )
    given = {"action_dist": policy[..., None], "estimated_rewards_by_reg_model": outcome[..., None]}
    begun = time.perf_counter()
    found = evaluation.estimate_intervals(**given, alpha=0.05, n_bootstrap_samples=AS_IS_RESAMPLES, random_state=seed)
    seconds = time.perf_counter() - begun

    def end(word: str) -> np.ndarray:
        return np.array([next(value for key, value in found[name].items() if word in key) for name in OBP_NAMES])

    return end("mean"), end("lower"), end("upper"), seconds


def _key(seed: int) -> Array:
    return jax.random.key(seed)
