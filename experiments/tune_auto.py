"""How rm_auto's evaluator was set: shrinkage of its weights, and how much gain it asks for.

    python experiments/tune_auto.py                               # 35 logs of 2,000 rows, about 15 minutes on 2 cores
    python experiments/tune_auto.py --smoke                       # under 1 minute

Synthetic worlds that no result is shown on: regimes of their own, and world seeds from 1,000 on. In each
log every candidate of rm_auto is fitted once; then, for each shrinkage, its held-out value is set beside
its true utility on queries never logged. Rules are replayed on what is kept: values, and standard errors of
their paired differences.

Prints, by strength per row and by the standard errors that a gain must have, the mean and the largest loss
to the best of all that were fitted, in points of utility; then the same with a candidate more or one less.
Writes <name>.json (kept log by log: a later run resumes).

Expect little difference near the chosen numbers, and large losses where weights are hardly shrunken: a log
of 2,000 rows cannot tell candidates apart by them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cells import Key, Study, current
from command_line import script
from data import TEST_ROWS, Source, draws, logging_names, logging_rule
from learners import Learners, setting_from
from one_log import draw_log, key_of, lambdas_of
from studies import StudyOptions, budget, smaller

from jrouter.inference import standard_error
from jrouter.io.results import text_table
from jrouter.methods.rm_auto import SIMPLE, RmAutoConfig, fit_candidates, rm_auto, value_candidates
from jrouter.policy import evaluate
from jrouter.synthetic import Regime, make_world

WORLDS = {
    "linear": Regime("linear", 0.10, 0.08, 0.25),
    "linear_alike": Regime("linear", 0.15, 0.03, 0.3),
    "nonlinear": Regime("nonlinear", 0.15, 0.18, 0.25),
    "nonlinear_alike": Regime("nonlinear", 0.2, 0.04, 0.2),
    "nonlinear_graded": Regime("nonlinear", 0.15, 0.18, 0.25, graded=True, cost_noise=0.8),
    "nonlinear_poor_overlap": Regime("nonlinear", 0.15, 0.18, 0.25, logging_spread=2.5, exploration=0.03),
    "specialists": Regime("specialists", 0.2, 0.25, 0.1),
}
"""None is a regime of `synthetic.REGIMES`."""
FIRST_WORLD = 1000
STRENGTHS = (0.0025, 0.005, 0.0125, 0.025, 0.05, 0.1, 0.25, 0.5)
SUPPORTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
CANDIDATES = (*SIMPLE, "pooled", "knn", "stacked", "rm_residual")
"""rm_auto's, and what might be one."""


@dataclass(frozen=True)
class Options(StudyOptions):
    """As every study's; worlds are those of this script, one per seed; --methods and --table are not used."""

    regime: str = ",".join(WORLDS)
    """Worlds, comma-separated."""
    n: int = 2000
    """Logged rows."""
    seeds: int = 5
    """Worlds of each kind, with a log each."""
    name: str = "tune_auto"
    """Of the result files."""


def choice(value: Sequence[float], error: np.ndarray, places: Sequence[int], *, support: float) -> int:
    """What `rm_auto.choose` takes, from values [M] and standard errors of their differences [M, M].

    >>> choice([0.0, 1.0, 1.1], np.array([[0.0, 0.1, 0.2], [0.1, 0.0, 0.2], [0.2, 0.2, 0.0]]), [0, 1, 2], support=1.0)
    1
    """
    chosen = places[0]
    for place in places[1:]:
        if value[place] - value[chosen] > support * error[place, chosen]:
            chosen = place
    return chosen


def losses(cells: Sequence[dict[str, Any]], strength: int, names: Sequence[str], *, support: float) -> np.ndarray:
    """[logs], true utility of the best of all that were fitted less that of the chosen one.

    Args:
      cells: of the study.
      strength: place in `STRENGTHS`.
      names: of candidates, from simple to complex.
      support: standard errors of gain that are asked for.
    """
    found = []
    for cell in cells:
        places = [cell["candidates"].index(name) for name in names]
        truth = cell["truth"][strength]
        error = np.asarray(cell["error"][strength])
        chosen = choice(cell["value"][strength], error, places, support=support)
        found.append(max(truth) - truth[chosen])
    return np.array(found)


def print_losses(path: Path) -> None:
    """Tables of mean and largest loss, from the file alone."""
    cells = [cell for group in current(path) for cell in group["cells"]]
    config = RmAutoConfig()

    def table(names: Sequence[str]) -> str:
        rows = []
        for place, strength in enumerate(STRENGTHS):
            found = [100 * losses(cells, place, names, support=support) for support in SUPPORTS]
            rows.append([f"{strength:g}", *[f"{loss.mean():.2f}, {loss.max():.1f}" for loss in found]])
        return text_table(["strength per row", *[f"{support:g} SE" for support in SUPPORTS]], rows)

    print(
        f"\nloss to the best of {', '.join(CANDIDATES)} x 100, mean and largest of {len(cells)} logs; rm_auto asks "
        f"for {config.support:g} standard errors at {config.strength_per_row:g} per row"
    )
    print(f"\nrm_auto: {', '.join(config.candidates)}\n{table(config.candidates)}")
    for name in CANDIDATES[1:]:
        kept = name in config.candidates
        names = [other for other in CANDIDATES if (other in config.candidates) != (other == name)]
        print(f"\n{'without' if kept else 'with'} {name}\n{table(names)}")


def main(options: Options) -> None:
    """Runs the study and writes its files."""
    options = smaller(options)
    if options.table is not None:
        raise ValueError("--table: rm_auto is tuned in synthetic worlds alone; drop it")
    kinds = [name.strip() for name in options.regime.split(",")]
    for name in kinds:
        if name not in WORLDS:
            raise ValueError(f"--regime: unknown {name!r}, expected one of {', '.join(WORLDS)}")
    policies, minutes, config = logging_names(options), budget(options), RmAutoConfig(CANDIDATES)
    study = Study(
        options.out / f"{options.name}.json",
        options=options,
        configuration={
            "candidates": CANDIDATES,
            **{name: getattr(options, name) for name in ("lambdas", "smoke", "dim", "models")},
        },
        digests={f"tuning:{name}": None for name in kinds},
        fresh=options.fresh,
        join=options.join,
    )
    keys: list[Key] = [
        {"table": f"tuning:{name}", "logging_policy": policy, "n": options.n, "seed": seed}
        for seed in range(options.seeds)
        for name in kinds
        for policy in policies
    ]
    learners, policy_of = Learners(fast=options.smoke), rm_auto(config).policy
    strengths = [per_row * options.n for per_row in STRENGTHS]

    def fit_and_judge(key, problem, test):
        fitted = fit_candidates(key, problem, config)

        def truth(name, params):
            settled = {name: params, "evidence": {"chosen": jnp.int32(config.candidates.index(name))}}
            return evaluate(policy_of, settled, test, problem.lambdas)[0].utility.mean()

        known = {name: truth(name, params) for name, params in fitted.params.items() if name != "logging_policy"}
        found = []
        for strength in strengths:
            rows, best = value_candidates(problem, fitted, config.candidates, strength=strength)
            error = standard_error(rows[:, None] - rows, problem.log.weight)
            found.append((rows.mean(axis=1), error, truth("best_single", best)))
        return known, found

    @cache
    def source_of(kind: str, seed: int) -> Source:
        regime = WORLDS[kind]
        # World and queries have one seed: every log is of a world of its own.
        world = jax.jit(lambda: make_world(regime, dim=options.dim, n_models=options.models, seed=FIRST_WORLD + seed))()
        rows = 1000 if options.smoke else TEST_ROWS
        draw, test = draws(world, options.n, rows, key=jax.random.key(FIRST_WORLD + seed))
        return Source(kind, None, draw, test, (regime.logging_spread, regime.exploration))

    for key in study.missing(keys, budget_minutes=minutes):
        source, seed = source_of(key["table"].removeprefix("tuning:"), key["seed"]), key["seed"]
        one = draw_log(source.draw(seed), source.test, logging_rule(key["logging_policy"], *source.confounded), seed)
        lambdas = lambdas_of(source, key["logging_policy"], options)
        setting = setting_from(one, source.test, lambdas, seed=seed, fast=options.smoke)
        operands = (key_of(seed, "learners"), setting.problem, setting.test)
        known, found = jax.tree.map(np.asarray, learners.program("all", fit_and_judge, operands)(*operands))
        logging = learners.run("logging_policy", seed, setting)[0].utility.mean()
        study.keep(
            key,
            {
                "candidates": config.candidates,
                "strength_per_row": STRENGTHS,
                "value": [value for value, _, _ in found],
                "error": [error for _, error, _ in found],
                "truth": [
                    [{**known, "best_single": best, "logging_policy": logging}[name] for name in config.candidates]
                    for _, _, best in found
                ],
            },
        )
    print_losses(study.path)


if __name__ == "__main__":
    script(main, Options, __doc__)
