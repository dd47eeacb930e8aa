"""Which learner makes the best router from a biased log? All of them, on one log, judged by the truth.

    python experiments/compare_methods.py                        # synthetic, 3 minutes on 2 cores
    python experiments/compare_methods.py --smoke                # a small version, under 1 minute
    python experiments/compare_methods.py --table table.parquet --logging-policy predicted_accuracy --seeds 5

A log is simulated per seed: one model per query, chosen by the logging policy. Every method learns from
it (those marked * have full feedback, as no log has: references) and is judged on queries never logged,
by every model's outcome. Prints mean utility x 100 with 95% intervals over test queries and log seeds;
writes <out>/<name>.json, .csv, _utility.png and _frontier.png.

Expect regression rules to win where the truth is simple (regime linear) and regret training to beat the
naive baselines everywhere; the table shows who loses to whom.
"""

import math
from dataclasses import dataclass

from command_line import script
from comparison_results import COLUMNS, csv_rows, print_setting, summarise
from data import DataOptions, logging_names, parse_lambdas, simulate, smoke_size, sources
from figures import score_against_cost, utility_over_lambda
from known_methods import chosen_methods
from learners_over_seeds import run_setting
from tqdm import tqdm

from jrouter.io.results import write_csv, write_json


@dataclass(frozen=True)
class Options(DataOptions):
    """Which methods, beside what every experiment takes."""

    methods: str = "default"
    """default (all but what rm_auto is made of), all, or comma-separated names, of experiments/baselines too."""
    name: str = "compare_methods"
    """Of the result files."""


def main(options: Options) -> None:
    """Runs the comparison and writes its files."""
    options = smoke_size(options)
    methods = chosen_methods(options.methods)
    policies = logging_names(options)
    parse_lambdas(options.lambdas)
    found = sources(options)
    settings, rows = [], []
    steps = len(found) * len(policies) * (2 * len(methods) + 1)
    with tqdm(total=steps, unit="step", dynamic_ncols=True, mininterval=0.5) as progress:

        def note(text: str) -> None:
            progress.set_postfix_str(text, refresh=False)
            progress.update()

        for source in found:
            for policy in policies:
                simulation = simulate(source, policy, options)
                note(f"{source.name}, {policy}: nuisances")
                judged = run_setting(source, simulation, methods, fast=options.smoke, note=note)
                settings.append(summarise(source, policy, simulation, judged))
                rows += csv_rows(settings[-1], judged)
        progress.total = progress.n  # what two names share was done once
        progress.refresh()
    for setting in settings:
        print_setting(setting)
    result = options.out / f"{options.name}.json"
    write_json(result, options=options, results=settings)
    write_csv(result.with_suffix(".csv"), COLUMNS, rows)
    utility_over_lambda(result, options.out / f"{options.name}_utility.png")
    score_against_cost(result, options.out / f"{options.name}_frontier.png")
    print(f"\nwrote {options.name}.json, .csv, _utility.png and _frontier.png to {options.out}")
    assert not any(math.isnan(value) for row in rows for value in row[7:]), "a result is not a number"


if __name__ == "__main__":
    script(main, Options, __doc__)
