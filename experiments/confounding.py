"""What if something that is not in the log drives both which model is logged and how well it does?

    python experiments/confounding.py              # 6 strengths, 200 logs each: 22 minutes on a shared core
    python experiments/confounding.py --smoke      # under 1 minute

Simulated logs of 4 models, d = 6. A hidden coin moves the log-odds of every choice and the mean score: models do
better where the logging policy prefers them, as where users know what a model is good at. Given the query and
the coin the log would be ignorable; given the query alone it is not. Its strength is stated as Tan's Gamma, the
largest factor by which the coin changes the odds of a choice at any query; the value of one fixed policy, over
the coin, is known. Ridge regressions and logistic propensities, cross-fitted in 5 folds on each log.

Of each strength: bias of the doubly robust value; share of logs whose bounds hold the truth at each Gamma, both
widened by 1.96 of their own standard errors (at Gamma 1, the doubly robust interval); their width; how often the
gain over the logging policy is announced, as its lower end is above 0; and the mean Gamma at which the lower bound
of the gain, and the lower end of that, vanish. Writes <name>.json (kept cell by cell: a later run resumes), .csv
and .png.

Expect the doubly robust interval to cover without a coin, and hardly ever from Gamma 1.5 on: its bias does not
shrink with more rows, and it announces a gain in every log, also where the logging policy is the better one. Bounds
at the true Gamma hold in nearly every log, and so do some that are a little narrower, as this coin is not quite the
worst that its Gamma allows. They are wide: at Gamma 2, 34 points.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from cells import Study
from command_line import script
from confounding_logs import GAMMAS, LAM, OUTCOME, Simulation
from confounding_table import COLUMNS, TABLE_COLUMNS, csv_rows, joined, table_rows
from data import RESULTS
from sensitivity_figures import confounding_figure
from studies import cells_done, say_what_is_left

from jrouter.io.results import text_table, write_csv

TABLE = "synthetic:hidden"
STRENGTHS = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0)


@dataclass(frozen=True)
class Options:
    """What is simulated."""

    strengths: str = ",".join(f"{strength:g}" for strength in STRENGTHS)
    """Comma-separated Gammas of the hidden coin, each at least 1."""
    seeds: int = 200
    """Logs of each strength."""
    n: int = 5_000
    """Rows of a log."""
    batch: int = 25
    """Logs of one cell."""
    world_seed: int = 0
    """Of the world's coefficients."""
    budget_minutes: float | None = None
    """Stop between cells once these have passed; run the same command again to go on."""
    fresh: bool = False
    """Forget the cells that an earlier run has kept."""
    join: tuple[Path, ...] = ()
    """Result files of the same study made elsewhere: their cells are taken over."""
    name: str = "confounding"
    """Of the result files."""
    smoke: bool = False
    """A small version of everything, at most 60 s."""
    out: Path = RESULTS
    """Folder of the result files."""


def strengths_of(options: Options) -> list[float]:
    """Numbers of --strengths.

    Raises:
      ValueError: unless they are ascending finite numbers of at least 1.
    """
    try:
        found = [float(part) for part in options.strengths.split(",")]
    except ValueError:
        found = []
    if not found or sorted(set(found)) != found or found[0] < 1.0 or not np.isfinite(found).all():
        raise ValueError(f"--strengths: expected ascending finite numbers of at least 1, got {options.strengths!r}")
    return found


def main(options: Options) -> None:
    """Computes missing cells, prints what all say, and writes table and figure."""
    strengths = strengths_of(options)
    if options.smoke:
        options = replace(options, seeds=8, n=600, batch=4)
        strengths = [strength for strength in strengths if strength in (1.0, 2.0)] or strengths[:1]
    if missing := [strength for strength in strengths if strength not in GAMMAS]:
        raise ValueError(f"--strengths: {missing[0]:g} is none of {', '.join(f'{gamma:g}' for gamma in GAMMAS)}")
    if options.seeds < 1 or options.batch < 1 or options.seeds % options.batch:
        raise ValueError(f"--seeds: expected a multiple of --batch {options.batch}, got {options.seeds}")
    shared = ("n", "batch", "world_seed", "smoke")
    study = Study(
        options.out / f"{options.name}.json",
        options=options,
        configuration={name: getattr(options, name) for name in shared} | {"lam": LAM, "outcome": OUTCOME},
        digests={TABLE: None},
        fresh=options.fresh,
        join=options.join,
    )
    # A batch of every strength before the next: a run cut short has a little of each.
    keys = [
        {"table": TABLE, "strength": strength, "first": first}
        for first in range(0, options.seeds, options.batch)
        for strength in strengths
    ]
    simulation = Simulation(n=options.n, batch=options.batch, world_seed=options.world_seed)
    for key in study.missing(keys, budget_minutes=options.budget_minutes):
        study.keep(key, simulation.cell(key))
    study.save()
    if cells_done(study, keys):
        path = study.path
        print(f"\n{options.n:,} rows a log, {joined(path)[0].logs} logs a strength; value x 100 at lambda {LAM:g}")
        print(text_table(TABLE_COLUMNS, table_rows(path)))
        write_csv(path.with_suffix(".csv"), COLUMNS, csv_rows(path))
        confounding_figure(joined(path), path.with_suffix(".png"))
        print(f"\nwrote {path.stem}.json, .csv and .png to {path.parent}")
    say_what_is_left(study, keys)


if __name__ == "__main__":
    script(main, Options, __doc__)
