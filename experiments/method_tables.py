"""Tables of methods, from committed results: who beats whom, by how much, on how many rows."""

from statistics import median

from cells import current, select, values_of
from data import RESULTS
from judgement import points
from learning_curve import fitted, rows_needed
from paper_claims import CAUSAL, CLAIMS, METRICS, VERDICTS
from studies import mean_difference, mean_utility
from table_text import hundredfold, interval, load

COMPARISONS = {
    "linear": ("synthetic_linear", 0),
    "specialists": ("synthetic_specialists", 0),
    "RouterBench, confounded": ("routerbench_3tasks", 0),
    "RouterBench, predicted accuracy": ("routerbench_3tasks", 1),
    "energy, predicted accuracy": ("energy_3models", 0),
}
"""Column -> (result file, which of its settings)."""
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
"""Claim -> what its rows are called, and which pairs of methods belong to each."""


def comparison_table() -> str:
    """Mean test utility x 100 over lambdas, method by data set, with half of its 95% interval."""
    settings = {column: load(name)[place] for column, (name, place) in COMPARISONS.items()}
    lines = ["| method | " + " | ".join(settings) + " |", "|---|" + "---:|" * len(settings)]
    for method, first in next(iter(settings.values()))["methods"].items():
        cells = []
        for setting in settings.values():
            cell = setting["methods"][method]["mean_over_lambdas"]["utility"]
            cells.append(f"{hundredfold(cell['estimate'])} ± {hundredfold((cell['high'] - cell['low']) / 2)}")
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
            lines.append(f"| `{second}` | {regime} | {interval(row['mean_over_lambdas'])} | {interval(least)} |")
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
                f"{hundredfold(value['estimate'])} ± {hundredfold((value['high'] - value['low']) / 2)}",
                interval(gain["mean_over_lambdas"]) if gain else "",
                hundredfold(setting["beside_logging"][method]["agreement"]["estimate"]),
            ]
        shares = [share for setting in settings for share in setting["labels_logged"]]
        labels = f"{min(shares):.1%}" if method.startswith("imitation_") else ""
        lines.append(f"| `{method}` | {labels} | " + " | ".join(cells) + " |")
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
            cells = [interval(dict(zip(("estimate", "low", "high"), end, strict=True))) for end in ends]
            head = f"| {setting['table'].removeprefix('synthetic:')} | {router['width']:g} | {router['head']} | "
            tail = f" | {router['parameters']:,} | {router['seconds']:.1f} |"
            lines.append(head + " | ".join(cells) + tail)
        direct = setting["direct"]
        lines.append(
            f"| {setting['table'].removeprefix('synthetic:')} | one lambda | one router | | | | "
            f"{direct['parameters_per_router']:,} | {direct['seconds_per_router']:.1f} |"
        )
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
                line.append(f"{hundredfold(whole.mean)} ± {hundredfold(whole.half_width)}")
            else:
                line.append("")
        said = f"{variant:,}" if isinstance(variant, int) else variant
        lines.append(f"| {said} | " + " | ".join(line) + " |")
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
