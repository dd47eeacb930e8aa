"""How much do wrong propensities and outcome models cost the router that is trained on them?

    python experiments/ablate_nuisances.py                        # synthetic, about 15 minutes on 2 cores
    python experiments/ablate_nuisances.py --smoke                # under 1 minute
    python experiments/ablate_nuisances.py --table table.parquet --name nuisances_of_my_table

From a base (outcomes: pooled ridge; propensities: logistic; both cross-fitted) one thing is changed at a
time, and the learners are fitted again on the same logs:

- propensity by another model; known; known, but to the power .5 or 2 and normalised, so that what is
  likelier stays so; wrong: uniform, or that of another model (shuffled);
- outcome by another model, or zero for every model;
- noise added to the predictions (outcomes: normal, in units of each model's standard deviation;
  propensities: on their log-odds), or to the outcomes that the outcome model is trained on.

Judged on queries never logged, by every model's outcome. Prints mean test utility x 100 and paired
differences to the base with 95% intervals; writes <name>.json (kept cell by cell: a later run resumes),
.csv and .png.

Expect the learners with shrunken weights to feel outcome models and hardly propensities, and cf_regression,
with plain doubly robust scores, the reverse: given x these logs are ignorable, so flatter propensities cost
it little bias and save it much variance, and sharper ones ruin it.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import jax
import jax.numpy as jnp
from cells import Key
from command_line import script
from data import Source, logging_rule, sources
from learners import Setting
from one_log import OneLog, draw_log, estimate_nuisances, key_of
from studies import StudyOptions, method_names, smaller
from study_figures import nuisance_figure
from variants import Variants, study_variants

from jrouter.nuisances.crossfit import NuisanceConfig
from jrouter.nuisances.propensity import Clipping
from jrouter.policy import Problem
from jrouter.types import Array, LoggedData, Nuisances
from jrouter.weighted import model_means

METHODS = ("rm_softmax", "rm_classification_cost_weighted", "cf_regression")
BASE = "base"
OUTCOME, PROPENSITY = "pooled", "logistic"


@dataclass(frozen=True)
class Options(StudyOptions):
    """As every study's."""

    name: str = "ablate_nuisances"
    """Of the result files."""


def known(one: OneLog, *, power: float = 1.0) -> Array:
    """[n], true propensities of the logged models to a power, normalised over models: p^g / sum_s p_s^g."""
    raised = one.true_propensity**power
    return _logged(raised / raised.sum(axis=1, keepdims=True), one.log)


def shuffled(one: OneLog) -> Array:
    """[n], the true propensity of the model after the logged one: right numbers, wrong models."""
    return _logged(jnp.roll(one.true_propensity, -1, axis=1), one.log)


def _logged(values: Array, log: LoggedData) -> Array:
    return jnp.take_along_axis(values, log.model[:, None], axis=1)[:, 0]


def spreads(log: LoggedData) -> tuple[Array, Array]:
    """Standard deviations [T] of each model's logged score and cost; 0 for a model without rows."""

    def spread(values):
        means = model_means(values, log.model, log.weight, n_models=len(log.models))
        squares = (values - means[log.model]) ** 2
        return jnp.sqrt(jnp.nan_to_num(model_means(squares, log.model, log.weight, n_models=len(log.models))))

    return spread(log.score), spread(log.cost)


def noisy_outcomes(key: Array, base: Nuisances, log: LoggedData, size: float) -> Nuisances:
    """Outcome predictions plus normal noise, `size` standard deviations of each model's outcomes."""
    key_score, key_cost = jax.random.split(key)
    score, cost = spreads(log)
    return replace(
        base,
        score=base.score + size * score * jax.random.normal(key_score, base.score.shape),
        cost=base.cost + size * cost * jax.random.normal(key_cost, base.cost.shape),
    )


def noisy_propensities(key: Array, base: Nuisances, log: LoggedData, size: float) -> Nuisances:
    """Propensities with normal noise on their log-odds, under the floor of all estimated ones."""
    p = jnp.clip(base.propensity, 1e-6, 1.0 - 1e-6)
    noisy = jax.nn.sigmoid(jnp.log(p / (1.0 - p)) + size * jax.random.normal(key, p.shape))
    return replace(base, propensity=jnp.maximum(noisy, Clipping().floor / len(log.models)))


def noisy_log(key: Array, log: LoggedData, size: float) -> LoggedData:
    """The log with noise on its outcomes, `size` standard deviations of those of the model."""
    key_score, key_cost = jax.random.split(key)
    score, cost = (spread[log.model] for spread in spreads(log))
    return replace(
        log,
        score=log.score + size * score * jax.random.normal(key_score, score.shape),
        cost=log.cost + size * cost * jax.random.normal(key_cost, cost.shape),
    )


class Estimated:
    """The nuisances of one log, fitted when first asked for."""

    def __init__(self, one: OneLog, seed: int, *, fast: bool):
        self.one, self.seed, self.fast = one, seed, fast
        self.noise = key_of(seed, "noise in nuisances")
        self.fit = lru_cache(maxsize=None)(self._fit)
        self.base = self.fit(OUTCOME, PROPENSITY)

    def _fit(self, outcome: str, propensity: str | None, size: float = 0.0) -> Nuisances:
        """By families of the package, with noise on the outcomes; None: propensities are not estimated."""
        log = noisy_log(self.noise, self.one.log, size) if size else self.one.log
        if propensity is None:
            # With propensities in the log none are estimated.
            log = replace(log, propensity=jnp.ones_like(log.cost))
        config = NuisanceConfig(outcome=outcome, propensity=propensity or PROPENSITY)
        return estimate_nuisances(self.seed, log, self.one.split, config, fast=self.fast)

    def with_outcome(self, family: str, size: float = 0.0) -> Nuisances:
        """The base with another outcome model, or with one trained on noisy outcomes."""
        # One program fits both networks.
        fitted = self.fit(family, "mlp" if family == "mlp" else None, size)
        return replace(fitted, propensity=self.base.propensity)

    def by_trees(self) -> Array:
        """[n], propensities by gradient-boosted trees, on the host."""
        fit = importlib.import_module("jrouter.nuisances.trees").xgboost_nuisances
        return fit(self.one.log, self.one.split, outcome=False, fallback=self.base).propensity


def _zero(e: Estimated) -> Nuisances:
    return replace(e.base, score=jnp.zeros_like(e.base.score), cost=jnp.zeros_like(e.base.cost))


def _with_propensity(of: Callable[[Estimated], Array]) -> Callable[[Estimated], Nuisances]:
    return lambda e: replace(e.base, propensity=of(e))


VARIANTS: dict[str, Callable[[Estimated], Nuisances]] = {
    BASE: lambda e: e.base,
    "propensity mlp": _with_propensity(lambda e: e.fit("mlp", "mlp").propensity),
    "propensity xgboost": _with_propensity(Estimated.by_trees),
    "propensity known": _with_propensity(lambda e: known(e.one)),
    "propensity known^0.5": _with_propensity(lambda e: known(e.one, power=0.5)),
    "propensity known^2": _with_propensity(lambda e: known(e.one, power=2.0)),
    "propensity uniform": _with_propensity(lambda e: jnp.full_like(e.base.propensity, 1 / len(e.one.log.models))),
    "propensity shuffled": _with_propensity(lambda e: shuffled(e.one)),
    **{
        f"outcome {family}": lambda e, family=family: e.with_outcome(family)
        for family in ("ridge", "mlp", "knn")
    },
    "outcome zero": _zero,
    **{
        f"noise {size:g} on outcomes": lambda e, size=size: noisy_outcomes(e.noise, e.base, e.one.log, size)
        for size in (0.1, 0.3, 1.0)
    },
    **{
        f"noise {size:g} on propensities": lambda e, size=size: noisy_propensities(e.noise, e.base, e.one.log, size)
        for size in (0.5, 1.0, 2.0)
    },
    **{
        f"noise {size:g} in training": lambda e, size=size: e.with_outcome(OUTCOME, size)
        for size in (0.5, 1.0, 3.0)
    },
}  # fmt: skip
"""What becomes of the nuisances; the names are what results show."""


def available_variants() -> list[str]:
    """The names of `VARIANTS`, without trees where they are not installed, which is said."""
    try:
        importlib.import_module("xgboost")
        importlib.import_module("jrouter.nuisances.trees")
    except ImportError as reason:
        print(f"propensity xgboost is left out: {reason} (pip install 'jrouter[xgboost]')")
        return [name for name in VARIANTS if name != "propensity xgboost"]
    return list(VARIANTS)


def main(options: Options) -> None:
    """Runs the study and writes its files."""
    options = smaller(options)
    methods = method_names(options.methods, METHODS)
    found = {source.name: source for source in sources(options)}
    names = available_variants()
    if options.smoke:
        # Of each kind of noise, one size.
        names = [name for name in names if not name.startswith("noise") or name.startswith("noise 1 ")]

    @lru_cache(maxsize=1)
    def estimated(table: str, policy: str, seed: int) -> Estimated:
        source = found[table]
        one = draw_log(source.draw(seed), source.test, logging_rule(policy, *source.confounded), seed)
        return Estimated(one, seed, fast=options.smoke)

    def setting(source: Source, policy: str, seed: int, variant: str, lambdas: Array) -> Setting:
        e = estimated(source.name, policy, seed)
        one, nuisances = e.one, VARIANTS[variant](e)
        problem = Problem(one.log, one.split, nuisances, lambdas, one.full)
        return Setting(problem, source.test, one.logging_test)

    def references(key: Key) -> dict[str, Key]:
        return {BASE: key | {"variant": BASE}}

    variants = Variants({table: names for table in found}, setting, references, [BASE], nuisance_figure)
    study_variants(options, methods, found, variants)


if __name__ == "__main__":
    script(main, Options, __doc__)
