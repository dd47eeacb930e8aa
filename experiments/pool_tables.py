"""What `pools` found, as Markdown, from its cells alone."""

from collections.abc import Sequence
from typing import Any

from cells import Estimate, Key, select, values_of
from judgement import points
from pool_figure import against, change

METHODS = ("plug_in", "rm_softmax", "rm_softmax_masks")


def _points(estimate: Estimate | None) -> str:
    return "" if estimate is None else points(estimate, 1)


def _seconds(cells: Sequence[dict[str, Any]], of: Key) -> str:
    found = [cell["seconds"] for cell in select(cells, **of)]
    return f"{sum(found) / len(found):.2f}" if found else ""


def _kept(cells: Sequence[dict[str, Any]], of: Key) -> str:
    found = [cell["kept"] for cell in select(cells, **of)]
    return f"{sum(found) / len(found):.0f}" if found else ""


def prune_table(groups: Sequence[dict[str, Any]]) -> str:
    """Pruning before training: what it keeps and changes, and seconds of a fit."""
    cells = select([cell for group in groups for cell in group["cells"]], question="prune")
    lines = [
        "| models | without | kept | `plug_in`, or its change | seconds | `rm_softmax`, or its change | seconds |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for models in values_of(cells, "models"):
        for variant in values_of(cells, "variant"):
            line = [str(models), "" if variant == "all" else variant]
            line.append(_kept(cells, {"models": models, "variant": variant}))
            for method in METHODS[:2]:
                of = {"question": "prune", "models": models, "method": method, "variant": variant, "way": "", "k": 0}
                level = [cell["utility"] for cell in select(cells, **of)]
                said = f"{100 * sum(level) / len(level):.1f}" if level and variant == "all" else ""
                line += [_points(change(cells, of, against(of))) or said, _seconds(cells, of)]
            lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)


def restrict_table(groups: Sequence[dict[str, Any]]) -> str:
    """A pool restricted at inference: masked, less a router trained again on the rows of those that stay."""
    cells = select([cell for group in groups for cell in group["cells"]], question="restrict")
    lines = [
        "| models | gone | `plug_in` | `rm_softmax` | `rm_softmax`, masks in training | to train it again, s |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for models in values_of(cells, "models"):
        for pool in values_of(cells, "variant"):
            line = [str(models), "a random half" if pool == "half" else "the favourites"]
            place = {"question": "restrict", "models": models, "variant": pool, "k": 0}
            for method in METHODS:
                of = {**place, "method": method, "way": "mask"}
                line.append(_points(change(cells, of, against(of))))
            line.append(_seconds(cells, {**place, "method": "rm_softmax", "way": "retrain"}))
            lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)


def add_table(groups: Sequence[dict[str, Any]]) -> str:
    """A model that comes with k scored queries: gain on the router without it, and seconds."""
    cells = select([cell for group in groups for cell in group["cells"]], question="add")
    lines = [
        "| models | scored queries | `plug_in` extended | seconds | trained again | seconds | `rm_softmax` extended "
        "| seconds | trained again | seconds |",
        "|---:|---:|" + "---:|" * 8,
    ]
    for models in values_of(cells, "models"):
        for k in (*sorted(k for k in values_of(cells, "k") if k), 0):
            line = [str(models), str(k) if k else "all its rows logged"]
            for method in METHODS[:2]:
                of = {"question": "add", "models": models, "method": method, "variant": "", "k": k}
                for way in ("extend", "retrain") if k else ("", "whole log"):
                    one = {**of, "way": way}
                    line += [_points(change(cells, one, against(one))), _seconds(cells, one)]
            lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)
