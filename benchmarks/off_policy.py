"""How fast are the values of a policy with 10,000 bootstrap resamples, beside obp?

    pip install -e ".[peers]"
    pip install --no-deps --ignore-requires-python obp==0.5.7    # its pins are of 2022; it runs on today's versions
    python benchmarks/off_policy.py                              # 7 estimators, n = 20,000, 11 models
    python benchmarks/off_policy.py --smoke --peers none         # under 1 minute, without obp

One log; the policy's probabilities, the propensities and the outcome predictions are given to all. Contestants,
one after the other, again and again, each from these arrays to 7 values with 95% percentile intervals:

- jrouter: `policy_value.bootstrap_estimates`, all estimators from the same resamples, one compiled program;
- numpy: what one would write by hand: a loop over resamples, counts of drawn rows times the terms of all
  estimators, in float64;
- obp: Open Bandit Pipeline's `OffPolicyEvaluation`, values and intervals; each estimator has its own resamples.

What they find is compared too, and the script fails where it differs: values up to the rounding of float32,
widths of intervals up to the sampling error of percentiles. obp keeps the denominator of the two
self-normalised estimators (snips, sndr) as it is in all resamples, so its intervals are not those of the ratio:
there jrouter is compared with numpy, which resamples numerator and denominator, and with obp once more with the
denominator kept, apart from the timing. Compile time is apart. Expect jrouter below a second on two cores, obp
above ten. Writes <out>/off_policy.json.
"""

import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from measure import RESULTS, alternate, write

from jrouter.inference import percentile_interval
from jrouter.logging_policies import confounded, simulate_log
from jrouter.metrics import utility
from jrouter.nuisances.crossfit import fit_nuisances
from jrouter.policy_value import POLICY_ESTIMATORS, Terms, bootstrap_estimates, estimates, policy_terms
from jrouter.resampling import bootstrap_means
from jrouter.splits import split_log
from jrouter.synthetic import draw_queries, make_world

LEVEL = 0.95
SELF_NORMALISED = ("snips", "sndr")
OBP_NAMES = ("dm", "ipw", "snipw", "dr", "sndr", "switch-dr", "dr-os")
"""obp's names, in the order of `POLICY_ESTIMATORS`."""


@dataclass(frozen=True)
class Options:
    """What is estimated, and against what."""

    rows: int = 20_000
    """Logged rows."""
    models: int = 11
    """Models to choose from."""
    dim: int = 64
    """Width of the embeddings."""
    resamples: int = 10_000
    """Of the bootstrap."""
    at_once: int = 64
    """Resamples in one product of jrouter's."""
    lam: float = 100.0
    """Cost preference at which score and cost become one outcome."""
    threshold: float = 5.0
    """Largest weight of switch."""
    strength: float = 25.0
    """Of the shrinkage of dros."""
    repeats: int = 3
    """Of each contestant, alternating."""
    peers: str = "obp"
    """obp, or none to leave it out."""
    smoke: bool = False
    """Small sizes, one repeat."""
    out: Path = RESULTS
    """Folder of the result file."""


@dataclass(frozen=True)
class Task:
    """What all contestants are given.

    Attributes:
      probability: [n, T], of the policy to value.
      outcome: [n, T], cross-fitted predictions of utility.
      observed: [n], utility of the answer.
      model: [n] int, that gave it.
      propensity: [n], estimated, of that model.
    """

    probability: jax.Array
    outcome: jax.Array
    observed: jax.Array
    model: jax.Array
    propensity: jax.Array

    @property
    def arrays(self) -> tuple[jax.Array, ...]:
        """In the order in which `policy_terms` takes them."""
        return self.probability, self.outcome, self.observed, self.model, self.propensity


def make_task(options: Options) -> Task:
    """A log of the built-in benchmark, its nuisances, and a policy that prefers what is worth more on average."""
    world = make_world("specialists", dim=options.dim, n_models=options.models, seed=0)
    key_log, key_choice, key_fit = jax.random.split(jax.random.key(0), 3)
    table = draw_queries(world, key_log, options.rows)
    log, _, _ = simulate_log(key_choice, table, confounded(table, spread=1.0, exploration=0.1), None)
    split = split_log([log], seeds=[0])[0]
    estimated = jax.jit(lambda key, log: fit_nuisances(key, log, split))(key_fit, log)
    worth = utility(table.true_score, table.true_cost, options.lam)
    return Task(
        probability=jax.nn.softmax(worth / worth.std(), axis=1),
        outcome=utility(estimated.score, estimated.cost, options.lam),
        observed=utility(log.score, log.cost, options.lam),
        model=log.model,
        propensity=estimated.propensity,
    )


@dataclass(frozen=True)
class Found:
    """Value and 95% interval of each estimator: [7] each, in the order of `POLICY_ESTIMATORS`."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def found_of(value: Any, low: Any, high: Any) -> Found:
    """In float64, on the host."""
    return Found(*(np.asarray(part, np.float64) for part in (value, low, high)))


def compiled(options: Options) -> Callable:
    """(key, arrays of the task) -> (values, low, high): jrouter's, to be jitted."""
    rows = jax.vmap(partial(policy_terms, threshold=options.threshold, strength=options.strength))

    def run(key, *arrays):
        terms = rows(*arrays)
        value = estimates(Terms(*(term.sum() for term in terms)))
        resamples = bootstrap_estimates(key, terms, n_resamples=options.resamples, at_once=options.at_once)
        return tuple(percentile_interval(value, resamples, level=LEVEL))

    return run


def denominators_kept(options: Options, task: Task) -> Found:
    """jrouter's bootstrap of the rows that obp averages: weights divided by their mean in the log."""
    terms = jax.vmap(partial(policy_terms, threshold=options.threshold, strength=options.strength))(*task.arrays)
    mean = terms.ratio.mean()
    rows = [terms.ips / mean, terms.direct + terms.dr / mean]
    resamples = bootstrap_means(jax.random.key(2), jnp.stack(rows, axis=1), n_resamples=options.resamples)
    return found_of(*percentile_interval(jnp.stack(rows).mean(axis=1), resamples, level=LEVEL))


def numpy_terms(task: Task, options: Options) -> np.ndarray:
    """[n, 7], `Terms` in float64."""
    policy, outcome, observed, model, propensity = (np.asarray(part, np.float64) for part in task.arrays)
    row, model = np.arange(observed.size), model.astype(int)
    ratio, error = policy[row, model] / propensity, observed - outcome[row, model]
    columns = [
        np.ones_like(ratio),
        ratio,
        (policy * outcome).sum(axis=1),
        ratio * observed,
        ratio * error,
        np.where(ratio <= options.threshold, ratio, 0.0) * error,
        options.strength * ratio / (ratio**2 + options.strength) * error,
    ]
    return np.stack(columns, axis=1)


def numpy_estimates(sums: np.ndarray) -> np.ndarray:
    """[..., 7], values from sums [..., 7] of terms."""
    rows, ratio, direct, ips, dr, switch, dros = np.moveaxis(sums, -1, 0)
    direct = direct / rows
    rest = [ips / rows, ips / ratio, direct + dr / rows, direct + dr / ratio, direct + switch / rows]
    return np.stack([direct, *rest, direct + dros / rows], axis=-1)


def with_numpy(task: Task, options: Options) -> Found:
    """By a loop over resamples."""
    rng = np.random.default_rng(1)
    terms = numpy_terms(task, options)
    n = terms.shape[0]
    sums = np.empty((options.resamples, terms.shape[1]))
    for number in range(options.resamples):
        sums[number] = np.bincount(rng.integers(0, n, n), minlength=n) @ terms
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(numpy_estimates(sums), [tail, 100 - tail], axis=0)
    return found_of(numpy_estimates(terms.sum(axis=0)), low, high)


def obp_contestant(options: Options, task: Task) -> Callable[[], Found]:
    """Open Bandit Pipeline's values and intervals."""
    from obp import ope  # pyright: ignore[reportMissingImports]

    estimators = [
        ope.DirectMethod(),
        ope.InverseProbabilityWeighting(),
        ope.SelfNormalizedInverseProbabilityWeighting(),
        ope.DoublyRobust(),
        ope.SelfNormalizedDoublyRobust(),
        ope.SwitchDoublyRobust(lambda_=options.threshold),
        ope.DoublyRobustWithShrinkage(lambda_=options.strength),
    ]
    policy, outcome, observed, model, propensity = (np.asarray(part, np.float64) for part in task.arrays)
    feedback = {"action": model.astype(int), "position": None, "reward": observed, "pscore": propensity}
    feedback |= {"context": None}
    evaluation = ope.OffPolicyEvaluation(bandit_feedback=feedback, ope_estimators=estimators)
    given = {"action_dist": policy[..., None], "estimated_rewards_by_reg_model": outcome[..., None]}

    def run() -> Found:
        values = evaluation.estimate_policy_values(**given)
        intervals = evaluation.estimate_intervals(
            **given, alpha=1 - LEVEL, n_bootstrap_samples=options.resamples, random_state=3
        )
        low, high = (
            [next(part for key, part in intervals[name].items() if end in key) for name in OBP_NAMES]
            for end in ("lower", "upper")
        )
        return found_of([values[name] for name in OBP_NAMES], low, high)

    return run


def width_tolerance(resamples: int) -> float:
    """4 standard errors of the ratio of two widths of intervals, each from B resamples of normal values."""
    tail = (1 - LEVEL) / 2
    quantile = 1.959964
    density = math.exp(-(quantile**2) / 2) / math.sqrt(2 * math.pi)
    # Percentiles of the two tails are nearly independent; each varies as sqrt(tail (1 - tail) / B) / density.
    of_width = math.sqrt(2 * tail * (1 - tail) / resamples) / density / (2 * quantile)
    return 4 * math.sqrt(2) * of_width


def compare(ours: Found, theirs: Found) -> dict[str, list[float]]:
    """Differences of values, in standard errors too, and ratios of widths: [7] each."""
    width, other = ours.high - ours.low, theirs.high - theirs.low
    difference = np.abs(ours.value - theirs.value)
    return {
        "value_difference": difference.tolist(),
        "value_difference_in_widths": (difference / other).tolist(),
        "width_ratio": (width / other).tolist(),
    }


def check(name: str, compared: dict[str, list[float]], resamples: int, estimators: tuple[str, ...]) -> None:
    """Raises where what was found differs by more than rounding, or than the resamples explain."""
    tolerance = width_tolerance(resamples)
    for place, estimator in enumerate(estimators):
        shift, ratio = compared["value_difference_in_widths"][place], compared["width_ratio"][place]
        if shift > 1e-3:
            raise SystemExit(
                f"error: {estimator} differs from {name}'s by {shift:.1e} of its interval, not by rounding"
            )
        if abs(ratio - 1) > tolerance:
            raise SystemExit(
                f"error: interval of {estimator} is {ratio:.3f} times {name}'s, beyond 1 +- {tolerance:.3f}"
            )


def main(options: Options) -> None:
    """Runs all contestants, compares what they found, and writes the result file."""
    if options.smoke:
        options = replace(options, rows=2_000, dim=16, models=4, resamples=1_000, repeats=1)
    with_obp = options.peers == "obp"
    if with_obp and importlib.util.find_spec("obp") is None:
        raise SystemExit(
            'error: obp is not installed: pip install -e ".[peers]", then pip install --no-deps '
            "--ignore-requires-python obp==0.5.7, or pass --peers none"
        )
    task = make_task(options)
    key = jax.random.key(1)
    begun = time.perf_counter()
    program = jax.jit(compiled(options)).lower(key, *task.arrays).compile()
    compile_seconds = time.perf_counter() - begun
    jax.block_until_ready(program(key, *task.arrays))
    contestants: dict[str, Callable[[], Any]] = {
        "jrouter": lambda: program(key, *task.arrays),
        "numpy": lambda: with_numpy(task, options),
    }
    if with_obp:
        contestants["obp"] = obp_contestant(options, task)
    timed = alternate(contestants, repeats=options.repeats)
    ours = found_of(*timed["jrouter"].value)
    compared = {name: compare(ours, one.value) for name, one in timed.items() if name != "jrouter"}
    check("numpy", compared["numpy"], options.resamples, POLICY_ESTIMATORS)
    if with_obp:
        # Values agree for all; intervals of the ratios where the denominator is kept, as obp does.
        kept, obp = denominators_kept(options, task), timed["obp"].value
        places = [POLICY_ESTIMATORS.index(name) for name in SELF_NORMALISED]
        fixed = compare(kept, Found(*(part[places] for part in (obp.value, obp.low, obp.high))))
        compared["obp_denominators_kept"] = fixed
        check("obp", fixed, options.resamples, SELF_NORMALISED)
        rest = [place for place in range(len(POLICY_ESTIMATORS)) if place not in places]
        means = {name: [values[place] for place in rest] for name, values in compared["obp"].items()}
        check("obp", means, options.resamples, tuple(POLICY_ESTIMATORS[place] for place in rest))
        as_values = compared["obp"] | {"width_ratio": [1.0] * len(POLICY_ESTIMATORS)}
        check("obp", as_values, options.resamples, POLICY_ESTIMATORS)
    results = {
        "estimators": POLICY_ESTIMATORS,
        "compile_seconds": compile_seconds,
        "memory_bytes": getattr(program.memory_analysis(), "temp_size_in_bytes", None),
        "contestants": {
            name: {
                "seconds": one.seconds,
                "median_seconds": one.median,
                "times_jrouter": one.median / timed["jrouter"].median,
                "value": found.value.tolist(),
                "low": found.low.tolist(),
                "high": found.high.tolist(),
            }
            for name, one in timed.items()
            for found in [ours if name == "jrouter" else one.value]
        },
        "compared_with": compared,
        "largest_value_difference": {name: max(one["value_difference"]) for name, one in compared.items()},
        "width_tolerance": width_tolerance(options.resamples),
    }
    for name, one in results["contestants"].items():
        print(f"{name:<10}{one['median_seconds']:9.3f} s {one['times_jrouter']:8.1f} times jrouter's")
    print(f"largest difference of values: {results['largest_value_difference']}")
    packages = ("obp", "scikit-learn") if with_obp else ()
    write("off_policy_smoke" if options.smoke else "off_policy", options, results, packages)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
