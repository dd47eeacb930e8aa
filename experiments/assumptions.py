"""What breaks where an assumption fails, and what does not: worlds that violate one of them by a known amount.

    python experiments/assumptions.py                          # 200 logs a cell, about 12 minutes on one core
    python experiments/assumptions.py --smoke                  # under 1 minute
    python experiments/assumptions.py --violations sutva,decline --logs 1000

Logs of 2,000 rows of 4 models. For each violation, at growing strength (0: the assumption holds): bias and coverage
of the 95% interval of the doubly robust value of a fixed policy, the direct method and inverse propensities beside
it, and the true utility of learners that were fitted on these logs.

- affine: utility is a quadratic penalty, a budget or a logarithm of cost; estimated as it is, or made of score and
  cost that were estimated apart.
- lipschitz: mean scores of 0/1 outcomes jump at a boundary, of which the logging policy knows or does not; with the
  regret bounds of a trained router, their L right or taken from where there is no jump.
- ignorability: models are logged by the realised scores of their answers.
- sutva: a model that did not answer the turn before has lost the context; analysed row by row, by sessions, with
  the turn before in x, and by pairs of turns. The truth is that of the deployed policy, simulated.
- traffic: later queries are harder than the log's; reweighted by known and estimated density ratios.
- decline: one model becomes worse, after the log or in its last quarter; with a check by blocks of time.

Nuisances are ridge and logistic regressions with one weak penalty each, right while the assumption holds: what is
seen is the violation and not a choice of model. Takes no --table, for of a table's means nothing is known.

Expect intervals to cover at strength 0, and wherever utility itself is the outcome, propensities are right, rows are
reweighted, or pairs of turns are valued; and not to, by no standard error, elsewhere. Prints the tables of
ASSUMPTIONS.md; writes <name>.json (kept cell by cell: a later run resumes), .csv and .png.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax.numpy as jnp
from assumption_analyses import Analyses, summary
from assumption_cells import VIOLATIONS
from assumption_page import assumption_figure, print_tables, write_rows
from assumption_programs import LIGHT
from cells import Key, Study
from command_line import script
from data import RESULTS
from sessions import TURNS
from studies import budget, cells_done, say_what_is_left

from jrouter.nuisances.crossfit import OUTCOME_MODELS, PROPENSITY_MODELS

TABLE = "synthetic:known_world"


@dataclass(frozen=True)
class Options:
    """What is simulated."""

    violations: str = ",".join(VIOLATIONS)
    """Comma-separated names."""
    n: int = 2_000
    """Rows of a log; a multiple of 20, the turns of a session."""
    seeds: int = 200
    """Log seeds 0..N-1 of each cell."""
    learner_seeds: int = 40
    """How many of these logs are learned from."""
    world_seed: int = 0
    """Of the worlds' coefficients."""
    truth_queries: int = 2**17
    """Over which true values are averaged."""
    budget_minutes: float | None = None
    """Stop between cells once these have passed; run the same command again to go on."""
    fresh: bool = False
    """Forget the cells that an earlier run of this configuration has kept."""
    join: tuple[Path, ...] = ()
    """Result files of the same study made elsewhere: their cells are taken over."""
    name: str = "assumptions"
    """Of the result files."""
    smoke: bool = False
    """A small version of everything, at most 60 s."""
    out: Path = RESULTS
    """Folder of the result files."""


def keys_of(options: Options) -> list[Key]:
    """Keys of all cells.

    Raises:
      ValueError: for an unknown violation, or sizes that cannot be.
    """
    chosen = [name.strip() for name in options.violations.split(",")]
    for name in chosen:
        if name not in VIOLATIONS:
            raise ValueError(f"--violations: unknown {name!r}, expected some of {', '.join(VIOLATIONS)}")
    if options.n < 100 or options.n % TURNS:
        raise ValueError(f"--n: expected a multiple of {TURNS} of at least 100, got {options.n}")
    for flag, value in (("--seeds", options.seeds), ("--learner-seeds", options.learner_seeds)):
        if value < 2:
            raise ValueError(f"{flag}: expected at least 2, got {value}")
    return [
        {"table": TABLE, "violation": name, "variant": variant, "strength": strength}
        for name, (_, variants, strengths) in VIOLATIONS.items()
        if name in chosen
        for variant in (variants[:1] if options.smoke else variants)
        for strength in (strengths[:: len(strengths) - 1] if options.smoke else strengths)
    ]


def sizes_of(options: Options) -> dict[str, Any]:
    """The sizes that change numbers."""
    if options.smoke:
        return {"n": 400, "logs": 4, "learner_logs": 2, "world_seed": options.world_seed, "truth_queries": 2**12}
    sizes = {name: getattr(options, name) for name in ("n", "world_seed", "truth_queries")}
    return sizes | {"logs": options.seeds, "learner_logs": min(options.learner_seeds, options.seeds)}


def main(options: Options) -> None:
    """Runs the study and writes its files."""
    keys, sizes, minutes = keys_of(options), sizes_of(options), budget(options)
    study = Study(
        options.out / f"{options.name}.json",
        options=options,
        configuration=sizes | {"smoke": options.smoke},
        digests={TABLE: None},
        fresh=options.fresh,
        join=options.join,
    )
    # Known by name while this runs: what fits nuisances looks its models up there.
    with patch.dict(OUTCOME_MODELS, LIGHT["outcome"]), patch.dict(PROPENSITY_MODELS, LIGHT["propensity"]):
        analyses = Analyses(**sizes, fast=options.smoke)
        for key in study.missing(keys, budget_minutes=minutes):
            start = time.perf_counter()
            cell = VIOLATIONS[key["violation"]].cell
            found = cell(analyses, key["variant"], jnp.float32(key["strength"]))
            study.keep(key, summary(found) | {"seconds": round(time.perf_counter() - start, 1)})
    study.save()
    if cells_done(study, keys):
        print_tables(study.path)
        write_rows(study.path)
        assumption_figure(study.path, study.path.with_suffix(".png"))
        print(f"\nwrote {study.path.stem}.json, .csv and .png to {study.path.parent}")
    say_what_is_left(study, keys)


if __name__ == "__main__":
    script(main, Options, __doc__)
