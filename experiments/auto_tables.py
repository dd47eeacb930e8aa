"""Tables of `rm_auto`, from committed results: against each single method, the best of them, and its own numbers."""

from collections import Counter

from cells import current
from data import RESULTS
from judgement import cells_of, comparison, hindsight, label, points, target_at, verdicts
from tune_auto import STRENGTHS, SUPPORTS, losses

from jrouter.methods.rm_auto import RmAutoConfig

JUDGED = RESULTS / "judge_auto.json"


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
