"""Text for a terminal, headings and paragraphs that hang; and whether a place that a flag names can be written to."""

import os
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path


def heading(text: str) -> str:
    """A line that stands out where a terminal can show it."""
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def bullets(texts: Iterable[str], *, width: int = 116) -> list[str]:
    """Each text as an indented paragraph.

    >>> bullets(["one"])
    ['  - one']
    """
    return [textwrap.fill(text, width, initial_indent="  - ", subsequent_indent="    ") for text in texts]


def check_writable(flag: str, path: Path) -> None:
    """Before the work: whether what a flag names can be written, beside where it goes and then renamed.

    Raises:
      ValueError: where it cannot.
    """
    there = next(one for one in path.absolute().parents if one.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ValueError(f"{flag}: cannot write to {there}; give another place")


def check_file(flag: str, path: Path | None) -> None:
    """As `check_writable`, of a file, or of none.

    Raises:
      ValueError: also for a folder.
    """
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{flag}: {path} is a folder; give the name of a file")
    check_writable(flag, path)
