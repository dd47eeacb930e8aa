"""Writes the tables of the three README.md and of experiments/ASSUMPTIONS.md from committed result files alone.

python experiments/readme_tables.py            # rewrites them between their markers, in a second
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from assumption_page import TABLES as ASSUMPTION_TABLES
from cells import current, select, values_of
from confounding_table import TABLE_COLUMNS, table_rows
from coverage_logs import REGIMES
from coverage_table import covered_of, judged_of
from data import RESULTS
from judgement import cells_of, comparison, hindsight, label, points, target_at, verdicts
from learning_curve import fitted, rows_needed
from paper_claims import CAUSAL, CLAIMS, METRICS, VERDICTS
from price_of_choosing import summaries as price_summaries
from studies import mean_difference, mean_utility
from tune_auto import STRENGTHS, SUPPORTS, losses

from jrouter.io.replace import replace_whole
from jrouter.methods.rm_auto import RmAutoConfig
from jrouter.off_policy import VALUE_ESTIMATORS

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))
import benchmark_tables  # noqa: E402 (scripts are no package)

PAGES = (
    *(ROOT / folder / "README.md" for folder in (".", "experiments", "benchmarks")),
    ROOT / "experiments" / "ASSUMPTIONS.md",
)
JUDGED = RESULTS / "judge_auto.json"
COMPARISONS = {
    "linear": ("synthetic_linear", 0),
    "specialists": ("synthetic_specialists", 0),
    "RouterBench, confounded": ("routerbench_3tasks", 0),
    "RouterBench, predicted accuracy": ("routerbench_3tasks", 1),
    "energy, predicted accuracy": ("energy_3models", 0),
}
"""Column -> (result file, which of its settings)."""


def load(name: str) -> Any:
    """Results of one committed file."""
    return json.loads((RESULTS / f"{name}.json").read_text())["results"]


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _interval(cell: dict[str, float]) -> str:
    return f"{100 * cell['estimate']:+.1f} [{100 * cell['low']:+.1f}, {100 * cell['high']:+.1f}]"


def comparison_table() -> str:
    """Mean test utility x 100 over lambdas, method by data set, with half of its 95% interval."""
    settings = {column: load(name)[place] for column, (name, place) in COMPARISONS.items()}
    lines = ["| method | " + " | ".join(settings) + " |", "|---|" + "---:|" * len(settings)]
    for method, first in next(iter(settings.values()))["methods"].items():
        cells = []
        for setting in settings.values():
            cell = setting["methods"][method]["mean_over_lambdas"]["utility"]
            cells.append(f"{_points(cell['estimate'])} ± {_points((cell['high'] - cell['low']) / 2)}")
        star = "\\*" if first["full_feedback"] else ""
        lines.append(f"| `{method}`{star} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def claim_table() -> str:
    """rm_softmax less the naive baselines and the logging policy, on the synthetic benchmarks."""
    lines = ["| rm_softmax less | regime | mean over lambdas | least of 11 lambdas |", "|---|---|---:|---:|"]
    for second in ("baseline_shared", "baseline_per_model", "logging_policy", "best_single"):
        for regime in ("linear", "specialists"):
            row = load(f"synthetic_{regime}")[0]["differences"]["rm_softmax"][second]
            place = min(range(len(row["estimate"])), key=lambda i, row=row: row["estimate"][i])
            least = {end: row[end][place] for end in ("estimate", "low", "high")}
            lines.append(f"| `{second}` | {regime} | {_interval(row['mean_over_lambdas'])} | {_interval(least)} |")
    return "\n".join(lines)


def interval_table() -> str:
    """What interval routers lose inside an interval, and cost."""
    lines = [
        "| world | knots apart | head | 25% | 50% | 75% | parameters | seconds |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for setting in load("interval_generalization"):
        for router in setting["routers"]:
            ends = zip(*router["difference_by_position"], strict=True)
            cells = [_interval(dict(zip(("estimate", "low", "high"), end, strict=True))) for end in ends]
            head = f"| {setting['table'].removeprefix('synthetic:')} | {router['width']:g} | {router['head']} | "
            tail = f" | {router['parameters']:,} | {router['seconds']:.1f} |"
            lines.append(head + " | ".join(cells) + tail)
        direct = setting["direct"]
        lines.append(
            f"| {setting['table'].removeprefix('synthetic:')} | one lambda | one router | | | | "
            f"{direct['parameters_per_router']:,} | {direct['seconds_per_router']:.1f} |"
        )
    return "\n".join(lines)


def judge_table() -> str:
    """rm_auto less each simple choice, over the cells of judge_auto."""
    lines = ["| `rm_auto` less | mean difference | wins | ties | losses |", "|---|---:|---:|---:|---:|"]
    for row in comparison(cells_of(JUDGED)):
        lines.append(f"| `{row.name}` | {points(row.gain)} | {row.wins} | {row.ties} | {row.losses} |")
    return "\n".join(lines)


def targets_table() -> str:
    """Mean loss of rm_auto to the best in hindsight by rows of the log, and what is aimed at."""
    cells = cells_of(JUDGED)
    lost = Counter(cells[place].n for (place, _), verdict in verdicts(cells).items() if verdict.outcome == "loss")
    lines = [
        "| rows of the log | settings | mean loss to the best in hindsight | aim | losses after Holm's correction |",
        "|---:|---:|---:|---:|---:|",
    ]
    for n, here, loss, _ in hindsight(cells):
        target = target_at(n)
        aim = "" if target is None else f"{100 * target:.1f}"
        lines.append(f"| {n:,} | {len(here)} | {points(loss)} | {aim} | {lost[n]} |")
    return "\n".join(lines)


def hindsight_table() -> str:
    """What rm_auto loses to the best of these in hindsight, cell by cell."""
    lines = [
        "| table, logging policy, rows | seeds | best in hindsight | loss to it | chosen |",
        "|---|---:|---|---:|---|",
    ]
    for cell in cells_of(JUDGED):
        chosen = ", ".join(f"{name} {count}" for name, count in cell.chosen.most_common())
        lines.append(f"| {label(cell)} | {cell.seeds} | `{cell.best}` | {points(cell.loss)} | {chosen} |")
    return "\n".join(lines)


def variant_table(name: str, row: str, to: str | None = None) -> str:
    """A study's mean test utility x 100, variant by regime and method; or its difference to a reference."""
    groups = current(RESULTS / f"{name}.json")
    columns = [(group, method) for group in groups for method in values_of(group["cells"], "method")]
    heads = [f"`{method}`, {group['table'].removeprefix('synthetic:')}" for group, method in columns]
    lines = [f"| {row} | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(columns)]
    for variant in values_of(groups[0]["cells"], row):
        line = []
        for group, method in columns:
            cells = select(group["cells"], method=method, **{row: variant})
            estimate = mean_difference(cells, to) if to and cells else None
            if estimate is not None:
                line.append(points(estimate, 1))
            elif cells:
                whole = mean_utility(cells)
                line.append(f"{_points(whole.mean)} ± {_points(whole.half_width)}")
            else:
                line.append("")
        said = f"{variant:,}" if isinstance(variant, int) else variant
        lines.append(f"| {said} | " + " | ".join(line) + " |")
    return "\n".join(lines)


PARTS = {
    "bias": (
        ("causal less baseline", lambda pair: not pair["first"].endswith("_ipw")),
        ("R&C weighted less unweighted", lambda pair: pair["first"].endswith("_ipw")),
    ),
    "end_to_end": (
        ("regret training less causal two-stage", lambda pair: pair["second"] in CAUSAL),
        ("regret training less R&C", lambda pair: pair["second"] not in CAUSAL),
    ),
    "softmax": (("RM-Softmax less RM-Classification", lambda pair: True),),
}


def claims_table() -> str:
    """The paper's claims: median difference over pairs of methods and settings, and verdicts."""
    pairs = [pair for setting in load("paper_claims") for pair in setting["pairs"]]
    lines = [
        "| claim | pairs | metric | claimed | median [least, greatest] | "
        + " | ".join(VERDICTS[:4])
        + " | variance ratio |",
        "|---|---|---|---:|---:|" + "---:|" * 5,
    ]
    for claim, parts in PARTS.items():
        claimed = f"{100 * CLAIMS[claim].low:+g} to {100 * CLAIMS[claim].high:g}"
        for said, belongs in parts:
            mine = [pair for pair in pairs if pair["claim"] == claim and belongs(pair)]
            for metric in METRICS:
                values = [100 * pair[metric][0] for pair in mine]
                ends = f"{median(values):+.1f} [{min(values):+.1f}, {max(values):+.1f}]"
                counts = [sum(pair[f"{metric}_verdict"] == verdict for pair in mine) for verdict in VERDICTS[:4]]
                head = f"| {claim} | {said} | {metric.replace('_', ' ')} | {claimed} | {ends} | "
                ratios = [pair["variance_ratio"][metric][0] for pair in mine if pair.get("variance_ratio")]
                ratio = f"{median(ratios):.2f}" if ratios else ""
                lines.append(head + " | ".join([*map(str, counts), ratio]) + " |")
    return "\n".join(lines)


def slopes_table() -> str:
    """How fast regret falls with rows, and how many rows are enough."""
    groups = current(RESULTS / "learning_curve.json")
    slopes = fitted(groups)
    lines = ["| method | slope of log regret in log rows | rows to be within 1 point of its best |", "|---|---:|---:|"]
    for group in groups:
        for method in values_of(group["cells"], "method"):
            cells = select(group["cells"], method=method)
            sizes = sorted(values_of(cells, "n"))
            needed = rows_needed(sizes, [mean_utility(select(cells, n=n)).mean for n in sizes])
            slope, error, _ = slopes[group["table"], cells[0]["key"]["logging_policy"], method]
            lines.append(f"| `{method}` | {slope:+.3f} ± {error:.3f} | {needed:,} |")
    return "\n".join(lines)


def confounding_table() -> str:
    """Bounds under a hidden coin, by its strength."""
    lines = ["| " + " | ".join(TABLE_COLUMNS) + " |", "|" + "---:|" * len(TABLE_COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in table_rows(RESULTS / "confounding.json")]
    return "\n".join(lines)


def tuning_table() -> str:
    """Loss of rm_auto's rule to the best candidate, by its two numbers; its own in bold."""
    config = RmAutoConfig()
    cells = [cell for group in current(RESULTS / "tune_auto.json") for cell in group["cells"]]
    heads = [f"{support:g} standard errors" for support in SUPPORTS]
    lines = ["| strength per row | " + " | ".join(heads) + " |", "|---:|" + "---:|" * len(SUPPORTS)]
    for place, strength in enumerate(STRENGTHS):
        line = []
        for support in SUPPORTS:
            found = 100 * losses(cells, place, config.candidates, support=support)
            text = f"{found.mean():.2f}, {found.max():.1f}"
            own = (strength, support) == (config.strength_per_row, config.support)
            line.append(f"**{text}**" if own else text)
        lines.append(f"| {strength:g} | " + " | ".join(line) + " |")
    return "\n".join(lines)


def coverage_table() -> str:
    """Coverage of 95% intervals of the doubly robust value, by regime, and the verdict."""
    groups = current(RESULTS / "coverage.json")
    covered = {(one.regime, one.kind, one.estimator): one for one in covered_of(groups)}
    lines = [
        "| regime | logs | default holds | where ok | nuisances as they are | usual bootstrap | of snips | of direct "
        "| ok, caution, refuse |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in judged_of(groups):
        shown = [
            f"{100 * covered[one.regime, kind, name].coverage:.1f}"
            for kind, name in (("as is", "dr"), *(("bootstrap as is", name) for name in ("dr", "snips", "direct")))
        ]
        where_ok = "" if one.covered_where_ok is None else f"{100 * one.covered_where_ok:.1f} ({one.ok})"
        verdicts = ", ".join(f"{100 * share:.1f}" for share in one.verdicts.values())
        name = f"{one.regime} \\*" if REGIMES[one.regime].reported else one.regime
        lines.append(
            f"| {name} | {one.logs} | {100 * one.coverage:.1f} | {where_ok} | {' | '.join(shown)} | {verdicts} |"
        )
    return "\n".join(lines)


def estimator_table() -> str:
    """Least and largest coverage of every estimator's 95% intervals over the regimes with a right nuisance."""
    covered = [one for one in covered_of(current(RESULTS / "coverage.json")) if "both wrong" not in one.regime]
    names = {
        "as is": "standard errors, nuisances as they are",
        "bootstrap as is": "bootstrap, nuisances as they are",
        "obp": "Open Bandit Pipeline's bootstrap",
        "bootstrap refitted": "bootstrap, nuisances fitted again",
        "jackknife": "standard errors through the fits",
    }
    heads = [f"`{name}`" for name in VALUE_ESTIMATORS]
    lines = ["| interval | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for kind, said in names.items():
        cells = []
        for name in VALUE_ESTIMATORS:
            shares = [100 * one.coverage for one in covered if (one.kind, one.estimator) == (kind, name)]
            cells.append(f"{min(shares):.0f} to {max(shares):.0f}" if shares else "")
        if any(cells):
            lines.append(f"| {said} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def peer_table() -> str:
    """Of the doubly robust value on the same logs: coverage, width and time, here and in Open Bandit Pipeline."""
    groups = current(RESULTS / "coverage.json")
    covered = {(one.regime, one.kind, one.estimator): one for one in covered_of(groups)}
    cells = [cell for group in groups for cell in group["cells"]]
    batch = groups[0]["configuration"]["batch"]

    def milliseconds(regime: str, part: str) -> float:
        return 1e3 * median(cell["seconds"] for cell in select(cells, regime=regime, part=part)) / batch

    lines = [
        "| regime | jrouter: % held | width x 100 | ms a log | obp, dr: % held | width x 100 | ms a log | snips | dm |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for regime in [name for name in REGIMES if (name, "obp", "dr") in covered]:
        ours, theirs = covered[regime, "jackknife", "dr"], covered[regime, "obp", "dr"]
        others = [f"{100 * covered[regime, 'obp', name].coverage:.1f}" for name in ("snips", "direct")]
        parts = [
            f"{100 * one.coverage:.1f} | {100 * one.width:.2f} | {milliseconds(regime, part):.0f}"
            for one, part in ((ours, "default"), (theirs, "obp"))
        ]
        lines.append(f"| {regime} | {' | '.join(parts)} | {' | '.join(others)} |")
    return "\n".join(lines)


def price_table() -> str:
    """Naive and honest intervals of what was chosen on the log: bias, coverage, width."""
    lines = [
        "| what was chosen | interval | logs | bias x 100 | 95% intervals that hold | width x 100 |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in price_summaries(current(RESULTS / "price_of_choosing.json")):
        lines.append(
            f"| {row['way']} | {row['interval']} | {row['logs']} | {100 * row['bias']:+.2f} ± "
            f"{196 * row['bias_error']:.2f} | {100 * row['coverage']:.1f}% ± {196 * row['coverage_error']:.1f} | "
            f"{100 * row['width']:.1f} |"
        )
    return "\n".join(lines)


def power_table() -> str:
    """Rows for a power of 0.8 by gain and exploration, simulated and by the formula, and what exploring costs."""
    (setting,) = load("power")
    shares = setting["gains"][0]["explorations"]
    lines = [
        "| | " + " | ".join(f"{one['exploration']:.0%} explored" for one in shares) + " |",
        "|---|" + "---:|" * len(shares),
    ]
    for gain in setting["gains"]:
        cells = []
        for one in gain["explorations"]:
            rows = one["needed"]["rows"]
            said = f"> {setting['max_rows']:,}" if rows is None else f"{rows:,}"
            cells.append(f"{said} ({one['needed']['formula']:,.0f})")
        lines.append(f"| rows for a gain of {100 * gain['gain']:g} points | " + " | ".join(cells) + " |")
    prices = " | ".join(_points(one["price"]) for one in shares)
    lines.append(f"| points that exploring costs per query | {prices} |")
    return "\n".join(lines)


def imitation_table() -> str:
    """Utility, what rm_auto gains on it, and agreement with the old policy's favourite, method by regime."""
    settings = load("imitation")
    heads = [
        head
        for setting in settings
        for head in (setting["table"].removeprefix("synthetic:"), "`rm_auto` less it", "% as the old policy")
    ]
    lines = [
        "| method | labels that are the logged model | " + " | ".join(heads) + " |",
        "|---|---:|" + "---:|" * len(heads),
    ]
    for method in settings[0]["methods"]:
        cells = []
        for setting in settings:
            value = setting["methods"][method]["mean_over_lambdas"]["utility"]
            gain = setting["differences"]["rm_auto"].get(method)
            cells += [
                f"{_points(value['estimate'])} ± {_points((value['high'] - value['low']) / 2)}",
                _interval(gain["mean_over_lambdas"]) if gain else "",
                _points(setting["beside_logging"][method]["agreement"]["estimate"]),
            ]
        shares = [share for setting in settings for share in setting["labels_logged"]]
        labels = f"{min(shares):.1%}" if method.startswith("imitation_") else ""
        lines.append(f"| `{method}` | {labels} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def leaderboard_table() -> str:
    """Every method over the leaderboard's blocks: utility, what it gains on the next, ranks; curves and time."""
    lines = [
        "| method | utility | less the next | against it | mean rank | better than | worse than | AIQ x 100 | APGR "
        "| seconds |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    (ranking,) = load("leaderboard_ranking")
    for one in ranking["methods"]:
        utility, rank, gain = one["utility"], one["rank"], one["less_next"]
        star = "\\*" if one["full_feedback"] else ""
        cells = [
            f"{_points(utility['estimate'])} ± {_points((utility['high'] - utility['low']) / 2)}",
            _interval(gain) if gain else "",
            one["against_next"] or "",
            f"{rank['estimate']:.1f} [{rank['low']:.1f}, {rank['high']:.1f}]",
            *(str(one[name]) for name in ("better_than", "worse_than")),
            _points(one["aiq"]),
            "" if one["apgr"] is None else f"{one['apgr']:.2f}",
            f"{one['seconds']:.1f}",
        ]
        lines.append(f"| `{one['method']}`{star} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


TABLES = {
    "coverage": coverage_table,
    "coverage_estimators": estimator_table,
    "coverage_peer": peer_table,
    "price": price_table,
    "power": power_table,
    "comparison": comparison_table,
    "claim": claim_table,
    "imitation": imitation_table,
    "interval": interval_table,
    "judge": judge_table,
    "targets": targets_table,
    "hindsight": hindsight_table,
    "claims": claims_table,
    "nuisances": lambda: variant_table("ablate_nuisances", "variant", to="base"),
    "embedding": lambda: variant_table("ablate_embedding", "variant"),
    "stress": lambda: variant_table("stress_logging", "variant"),
    "learning": lambda: variant_table("learning_curve", "n"),
    "slopes": slopes_table,
    "tuning": tuning_table,
    "leaderboard": leaderboard_table,
    "confounding": confounding_table,
    **ASSUMPTION_TABLES,
    **benchmark_tables.TABLES,
}
MARKER = re.compile(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", re.DOTALL)


def filled(text: str) -> str:
    """A page's text with every table between `<!-- name -->` and `<!-- /name -->` made anew."""
    return MARKER.sub(lambda found: f"<!-- {found[1]} -->\n{TABLES[found[1]]()}\n<!-- /{found[1]} -->", text)


if __name__ == "__main__":
    for page in PAGES:
        text = filled(page.read_text())
        replace_whole(page, lambda file, text=text: file.write(text))
