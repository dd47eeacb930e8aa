"""Large pools: which models to drop before training, which after, and how to add one.

    python experiments/pools.py                          # 10 to 1,000 models: 75 minutes on one core; resumes by cells
    python experiments/pools.py --sizes 10,30,100        # a quarter of an hour
    python experiments/pools.py --smoke                  # under 1 minute

Pools of relatives of ten models (`pool_logs.relatives`), logs of a confounded policy that kept its propensities. Three
questions, by a plug-in rule (regress_and_compare_pooled) and a regret-trained one (rm_softmax), judged by mean utility
over lambdas and new queries:

- prune: train on all models, or on the log without those that a linear forecast says are dominated on every query, or
  best on under 1% of the queries at every lambda, or that lie off the frontier of mean cost and score;
- restrict: half of the models go, at random, or the favourites (the most chosen tenth): a mask at inference against a
  router trained again on the rows of those that stay. rm_softmax_masks had another random half of the pool allowed in
  each training row;
- add: the model that would be best most often comes, with k scored queries: `router_pool.extend` against training
  again with its k rows; beside them the router without it, and one of the whole log with all its rows.

Seconds are of the fit alone, what is compiled already compiled; compiling is told apart. Logs without a model's rows
are shorter: what pruning costs is that, too. Expect pruning to save most of the time, masks to cost next to nothing in
small pools, extending to do what training again does in a hundredth of its time, and little to be decided beyond 100
models, where 10,000 rows are a hundred for each or fewer, and which log it was matters more than what is done with it.
Writes <name>.json (kept cell by cell), .csv and .png.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from cells import Key, Study, current
from command_line import script
from data import RESULTS
from pool_figure import COLUMNS, figure_of, summaries
from pool_runs import BASE_MODELS, LEARNERS, PRUNED, Runner

from jrouter.io.results import text_table, write_csv

POOLS = ("half", "without favourites")
QUESTIONS = ("prune", "restrict", "add")


@dataclass(frozen=True)
class Options:
    """What is simulated."""

    sizes: str = "10,30,100,300,1000"
    """Models of the pools, comma-separated; at least 10."""
    rows: int = 10_000
    """Of a log."""
    scored: str = "10,30,100,300"
    """Scored queries of the model that is added."""
    questions: str = ",".join(QUESTIONS)
    """Which, comma-separated."""
    regime: str = "nonlinear"
    """World that the models are relatives in: linear, nonlinear, poor_overlap or heavy_tails."""
    seeds: int = 3
    """Logs 0..N-1 of each size."""
    dim: int = 32
    """Embedding dimension."""
    budget_minutes: float | None = None
    """Stop between cells once these have passed; run the same command again to go on."""
    fresh: bool = False
    """Forget the cells that an earlier run has kept."""
    name: str = "pools"
    """Of the result files."""
    smoke: bool = False
    """Small sizes, at most a minute."""
    out: Path = RESULTS
    """Folder of the result files."""


def whole_numbers(flag: str, text: str, *, least: int) -> list[int]:
    """Ascending whole numbers of a flag.

    Raises:
      ValueError: for anything else, or below `least`.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or found != sorted(set(found)) or found[0] < least:
        raise ValueError(f"{flag}: expected ascending whole numbers of at least {least}, got {text!r}")
    return found


def keys_of(options: Options) -> list[Key]:
    """All cells, pool by pool."""
    sizes, scored = (
        whole_numbers(flag, text, least=least)
        for flag, text, least in (("--sizes", options.sizes, BASE_MODELS), ("--scored", options.scored, 2))
    )
    asked = options.questions.split(",")
    unknown = [name for name in asked if name not in QUESTIONS]
    if unknown:
        raise ValueError(f"--questions: unknown {unknown[0]!r}, expected some of {', '.join(QUESTIONS)}")
    pruned, pools = (PRUNED[::2], POOLS[:1]) if options.smoke else (PRUNED, POOLS)
    keys = []
    for models in sizes:
        for seed in range(options.seeds):
            place = {"table": options.regime, "models": models, "seed": seed}
            for method in LEARNERS:
                of = place | {"method": method}
                plain = method != "rm_softmax_masks"
                if "prune" in asked and plain:
                    keys += [of | {"question": "prune", "variant": name, "way": "", "k": 0} for name in pruned]
                if "restrict" in asked:
                    ways = ("mask", "retrain") if plain else ("mask",)
                    keys += [
                        of | {"question": "restrict", "variant": pool, "way": way, "k": 0}
                        for pool in pools
                        for way in ways
                    ]
                if "add" in asked and plain:
                    of = of | {"question": "add", "variant": ""}
                    keys += [of | {"way": way, "k": 0} for way in ("without", "whole log")]
                    keys += [of | {"way": way, "k": k} for k in scored for way in ("extend", "retrain")]
    return keys


def main(options: Options) -> None:
    """Computes missing cells, prints the table, writes it and the figure."""
    if options.smoke:
        options = replace(options, sizes="10", rows=400, scored="20", seeds=1, dim=8)
    keys = keys_of(options)
    study = Study(
        options.out / f"{options.name}.json",
        options=options,
        configuration={name: getattr(options, name) for name in ("rows", "scored", "dim", "smoke")},
        digests={options.regime: None},
        fresh=options.fresh,
    )
    runner = Runner(
        options.regime,
        rows=options.rows,
        spare=int(options.scored.split(",")[-1]),
        test=200 if options.smoke else 4_000,
        dim=options.dim,
        lambdas=2 if options.smoke else 6,
        fast=options.smoke,
    )
    for key in study.missing(keys, budget_minutes=options.budget_minutes, work=lambda key: key["models"]):
        study.keep(key, runner.run(key))
    study.save()
    groups = current(study.path)
    rows = summaries(groups)
    shown = [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    print(text_table(COLUMNS, shown))
    write_csv(options.out / f"{options.name}.csv", COLUMNS, [list(row.values()) for row in rows])
    figure_of(groups, options.out / f"{options.name}.png")


if __name__ == "__main__":
    script(main, Options, __doc__)
