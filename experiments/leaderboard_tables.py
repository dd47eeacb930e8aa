"""The leaderboard as Markdown, from its ranking alone: whole, and short for the first page."""

from typing import Any

from table_text import hundredfold, interval

ALWAYS = ("rm_auto", "best_single", "logging_policy", "random")
"""Shown on the first page wherever they stand."""
FIRST = 10
"""Of those without full feedback, on the first page."""


def name_of(one: dict[str, Any]) -> str:
    """A method's name, starred where it has full feedback."""
    return f"`{one['method']}`" + "\\*" * one["full_feedback"]


def utility_of(one: dict[str, Any]) -> str:
    """Mean utility x 100, with half of its 95% interval."""
    utility = one["utility"]
    return f"{hundredfold(utility['estimate'])} ± {hundredfold((utility['high'] - utility['low']) / 2)}"


def rank_of(one: dict[str, Any]) -> str:
    """Mean rank, with its 95% interval."""
    return "{estimate:.1f} [{low:.1f}, {high:.1f}]".format(**one["rank"])


def whole_table(ranking: dict[str, Any]) -> str:
    """Every method: utility, what it gains on the next, ranks; curves and time."""
    lines = [
        "| method | utility | less the next | against it | mean rank | better than | worse than | AIQ x 100 | APGR "
        "| seconds |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in ranking["methods"]:
        gain = one["less_next"]
        cells = [
            utility_of(one),
            interval(gain) if gain else "",
            one["against_next"] or "",
            rank_of(one),
            *(str(one[name]) for name in ("better_than", "worse_than")),
            hundredfold(one["aiq"]),
            "" if one["apgr"] is None else f"{one['apgr']:.2f}",
            f"{one['seconds']:.1f}",
        ]
        lines.append(f"| {name_of(one)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def short_table(ranking: dict[str, Any]) -> str:
    """The best with full feedback, the first of those without, and what a team would do otherwise."""
    full = next((one["method"] for one in ranking["methods"] if one["full_feedback"]), None)
    first = [one["method"] for one in ranking["methods"] if not one["full_feedback"]][:FIRST]
    lines = [
        f"| method | utility | mean rank of {len(ranking['methods'])} | better than | worse than |",
        "|---|---:|---:|---:|---:|",
    ]
    for one in ranking["methods"]:
        if one["method"] in (full, *first, *ALWAYS):
            cells = [utility_of(one), rank_of(one), str(one["better_than"]), str(one["worse_than"])]
            lines.append(f"| {name_of(one)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
