"""How every experiment starts."""

import sys
from collections.abc import Callable
from typing import Any

import tyro

from jrouter.io.columns import DataError


def script(main: Callable[[Any], None], options: type, doc: str | None) -> None:
    """Runs a script from the command line; what it is asked wrongly ends in one line."""
    try:
        main(tyro.cli(options, description=doc))
    except (DataError, ValueError) as error:
        sys.exit(f"error: {error}")
