"""Tables of benchmarks, from their result files alone; `experiments/readme_tables.py` writes them into pages."""

import json
from typing import Any

from measure import RESULTS

SWEEPS = ("sweep_22", "sweep_220")


def load(name: str) -> Any:
    """Results of one committed file."""
    return json.loads((RESULTS / f"{name}.json").read_text())["results"]


def sweep_table() -> str:
    """Seconds, share of the matrix rate, times PyTorch's loop, and test utility, of each contestant."""
    found = {name: load(name) for name in SWEEPS if (RESULTS / f"{name}.json").exists()}
    heads = [
        f"{results['routers']} routers: s | of the matrix rate | x `torch_loop` | utility" for results in found.values()
    ]
    lines = ["| contestant | " + " | ".join(heads) + " |", "|---|" + "---:|---:|---:|---:|" * len(found)]
    for name in next(iter(found.values()))["contestants"]:
        cells = []
        for results in found.values():
            one, loop = results["contestants"][name], results["contestants"]["torch_loop"]
            cells.append(
                f"{one['median_seconds']:.1f} | {one['share_of_matrix_rate']:.2f} | "
                f"{loop['median_seconds'] / one['median_seconds']:.2f} | {100 * one['test_utility']:.2f}"
            )
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    floors = " | ".join(f"{results['floor_seconds']:.1f} | 1.00 | | " for results in found.values())
    lines.append(f"| floor: the same operations as one large float32 product | {floors} |")
    return "\n".join(lines)


def utility_table() -> str:
    """Whole runs to equal test utility, nuisances included."""
    lines = [
        "| run | routers | s | x less than separate runs | x less than a loop with shared nuisances | utility |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for file in SWEEPS:
        if not (RESULTS / f"{file}.json").exists():
            continue
        results = load(file)
        runs = results["to_equal_utility"]
        loop = runs["torch_loop"]
        for name, key in (("separate runs", "separate_runs"), ("nuisances shared", "shared_nuisances")):
            lines.append(
                f"| `torch_loop`, {name} | {results['routers']} | {loop[key]:.0f} | | | "
                f"{100 * loop['test_utility']:.2f} |"
            )
        for name, one in runs.items():
            if name != "torch_loop":
                lines.append(
                    f"| `{name}` | {results['routers']} | {one['seconds']:.0f} | "
                    f"{one['times_faster_than_separate_runs']:.1f} | {one['times_faster_than_shared_nuisances']:.1f} | "
                    f"{100 * one['test_utility']:.2f} |"
                )
    return "\n".join(lines)


TABLES = {"sweep": sweep_table, "sweep_utility": utility_table}
