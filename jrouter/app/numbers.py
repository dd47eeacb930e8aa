"""Numbers as the pages show them: never an exponent, and a dash where a number is not known."""

import math
from decimal import Decimal
from typing import Any

UNKNOWN = "–"
"""Where a number or a word is not known."""


def number(value: Any, digits: int = 3) -> str:
    """A number to so many significant digits, never with an exponent; `UNKNOWN` where it is none, or not finite.

    >>> number(0.0000123456), number(1234567, 3), number(None), number(float("nan"))
    ('0.0000123', '1,230,000', '–', '–')
    """
    if not _is_number(value):
        return UNKNOWN
    if value != 0 and not 1e-12 < abs(value) < 1e15:
        return f"{value:.{digits}g}"
    return f"{Decimal(f'{value:.{digits}g}'):,f}".replace("-", "−")


def count(value: Any) -> str:
    """A whole number with separators.

    >>> count(1204331), count(None)
    ('1,204,331', '–')
    """
    return f"{value:,.0f}" if _is_number(value) else UNKNOWN


def fixed(value: Any, digits: int = 2, *, sign: bool = False) -> str:
    """A number with so many digits after the point.

    >>> fixed(-.125, 1), fixed(.5, 1, sign=True), fixed(-.001, 2), fixed("x")
    ('−0.1', '+0.5', '0.00', '–')
    """
    if not _is_number(value):
        return UNKNOWN
    rounded = round(value, digits) or 0.0  # never -0.0
    return f"{rounded:{'+' if sign and rounded else ''},.{digits}f}".replace("-", "−")


def percent(value: Any, digits: int = 1) -> str:
    """A share as a percentage.

    >>> percent(.1234), percent(None)
    ('12.3%', '–')
    """
    return f"{100 * value:.{digits}f}%" if _is_number(value) else UNKNOWN


def moment(value: Any) -> str:
    """A time to the minute.

    >>> moment("2026-04-02T09:20:11+00:00"), moment(None)
    ('2026-04-02 09:20 UTC', '–')
    """
    said = UNKNOWN if value is None else str(value)
    if said[10:11] != "T":
        return said
    return f"{said[:10]} {said[11:16]}{' UTC' if said.endswith(('+00:00', 'Z')) else ''}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
