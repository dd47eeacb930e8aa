"""Text for a terminal: headings, and paragraphs that hang."""

import sys
import textwrap
from collections.abc import Iterable


def heading(text: str) -> str:
    """A line that stands out where a terminal can show it."""
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def bullets(texts: Iterable[str], *, width: int = 116) -> list[str]:
    """Each text as an indented paragraph.

    >>> bullets(["one"])
    ['  - one']
    """
    return [textwrap.fill(text, width, initial_indent="  - ", subsequent_indent="    ") for text in texts]
