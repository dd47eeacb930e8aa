"""Writes the tables of the three README.md and of experiments/ASSUMPTIONS.md from committed result files alone.

python experiments/readme_tables.py            # rewrites them between their markers, in a second
"""

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assumption_page import TABLES as ASSUMPTION_TABLES
from auto_tables import hindsight_table, judge_table, targets_table, tuning_table
from cells import current
from data import RESULTS
from inference_tables import (
    confounding_table,
    coverage_table,
    estimator_table,
    peer_table,
    power_table,
    price_table,
)
from leaderboard_tables import short_table, whole_table
from method_tables import (
    claim_table,
    claims_table,
    comparison_table,
    imitation_table,
    interval_table,
    slopes_table,
    variant_table,
)
from pool_tables import add_table, prune_table, restrict_table
from table_text import load

from jrouter.io.results import replace_whole

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))
import benchmark_tables  # noqa: E402 (scripts are no package)

PAGES = (
    *(ROOT / folder / "README.md" for folder in (".", "experiments", "benchmarks")),
    ROOT / "experiments" / "ASSUMPTIONS.md",
)


def ranking(name: str = "leaderboard") -> Any:
    """A leaderboard's ranking."""
    return load(f"{name}_ranking")[0]


def of_pools(table: Callable[[Any], str]) -> Callable[[], str]:
    """A table of pools' cells."""
    return lambda: table(current(RESULTS / "pools.json"))


def script_table() -> str:
    """Each script of this folder, and the first line of what it says of itself."""
    lines = ["| script | what it answers |", "|---|---|"]
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in tree.body):
            lines.append(f"| [{path.stem}]({path.name}) | {(ast.get_docstring(tree) or '').splitlines()[0]} |")
    return "\n".join(lines)


TABLES = {
    "scripts": script_table,
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
    "leaderboard": lambda: whole_table(ranking()),
    "leaderboard_short": lambda: short_table(ranking()),
    "lower_bound": lambda: whole_table(ranking("lower_bound")),
    "lower_bound_10000": lambda: whole_table(ranking("lower_bound_10000")),
    "pools_prune": of_pools(prune_table),
    "pools_restrict": of_pools(restrict_table),
    "pools_add": of_pools(add_table),
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
