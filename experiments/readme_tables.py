"""Writes the tables of the three README.md and of experiments/ASSUMPTIONS.md from committed result files alone.

python experiments/readme_tables.py            # rewrites them between their markers, in a second
"""

import re
import sys
from pathlib import Path

from assumption_page import TABLES as ASSUMPTION_TABLES
from auto_tables import hindsight_table, judge_table, targets_table, tuning_table
from inference_tables import (
    confounding_table,
    coverage_table,
    estimator_table,
    peer_table,
    power_table,
    price_table,
)
from method_tables import (
    claim_table,
    claims_table,
    comparison_table,
    imitation_table,
    interval_table,
    slopes_table,
    variant_table,
)
from table_text import hundredfold, interval, load

from jrouter.io.results import replace_whole

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))
import benchmark_tables  # noqa: E402 (scripts are no package)

PAGES = (
    *(ROOT / folder / "README.md" for folder in (".", "experiments", "benchmarks")),
    ROOT / "experiments" / "ASSUMPTIONS.md",
)


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
            f"{hundredfold(utility['estimate'])} ± {hundredfold((utility['high'] - utility['low']) / 2)}",
            interval(gain) if gain else "",
            one["against_next"] or "",
            f"{rank['estimate']:.1f} [{rank['low']:.1f}, {rank['high']:.1f}]",
            *(str(one[name]) for name in ("better_than", "worse_than")),
            hundredfold(one["aiq"]),
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
