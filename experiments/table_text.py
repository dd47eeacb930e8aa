"""What the tables of the pages are made of: committed results, and numbers x 100 with their intervals."""

import json
from typing import Any

from data import RESULTS


def load(name: str) -> Any:
    """Results of one committed file."""
    return json.loads((RESULTS / f"{name}.json").read_text())["results"]


def hundredfold(value: float) -> str:
    """A number x 100."""
    return f"{100 * value:.1f}"


def interval(cell: dict[str, float]) -> str:
    """A difference x 100, with its interval."""
    return f"{100 * cell['estimate']:+.1f} [{100 * cell['low']:+.1f}, {100 * cell['high']:+.1f}]"
