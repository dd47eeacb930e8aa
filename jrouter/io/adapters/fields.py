"""Fields of a gateway's record: nested, maybe JSON text inside JSON, checked one by one.

Each function takes a record and a path: a key, or a tuple of keys, outermost first. None means that nothing is there
(no such key, null, or an empty string); what is there and malformed raises ValueError, in one sentence.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from jrouter.io.errors import listed, shown

Record = Mapping[str, Any]
Path = str | tuple[str, ...]

WRAPPERS = ("messages", "input", "prompt")
"""Keys of a request under which its query stands: chat completions, responses, text completions."""


def look(record: Record, path: Path) -> Any:
    """Returns what stands at a path; objects on the way may be JSON text.

    >>> look({"metadata": '{"tier": {"name": "gold"}}'}, ("metadata", "tier", "name"))
    'gold'
    """
    keys = (path,) if isinstance(path, str) else path
    value: Any = record
    for depth, key in enumerate(keys):
        if depth:
            value = _unpacked(value, keys[:depth])
            if value is None:
                return None
        value = value.get(key)
    return None if isinstance(value, str) and not value else value


def opened(record: Record, path: Path) -> Any:
    """Returns what stands at a path, read where it is JSON text; other text stays text."""
    value = look(record, path)
    found = _json(value) if isinstance(value, str) else value
    return value if found is None and value != "null" else found


def objects(record: Record, path: Path) -> list[Record]:
    """Returns the objects of a list, which may be JSON text; [] where there is none."""
    value = opened(record, path)
    if value is None:
        return []
    if not _is_list(value) or not all(isinstance(item, Mapping) for item in value):
        raise misfit(path, value, "a list of objects")
    return list(value)


def text(record: Record, path: Path) -> str | None:
    """Returns a name or an id; an integer is taken as its digits."""
    value = look(record, path)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise misfit(path, value, "text")


def number(record: Record, path: Path, expected: str = "a finite number") -> float | None:
    """Returns a finite number, maybe written as text."""
    value = look(record, path)
    if value is None:
        return None
    if isinstance(value, int | float | Decimal | str) and not isinstance(value, bool):
        try:
            found = float(value)
        except (ValueError, OverflowError):
            raise misfit(path, value, expected) from None
        if math.isfinite(found):
            return found
    raise misfit(path, value, expected)


def cost(record: Record, path: Path) -> float | None:
    """Returns a cost of at least 0."""
    found = number(record, path, "a cost of at least 0")
    if found is not None and found < 0:
        raise misfit(path, found, "a cost of at least 0")
    return found


def tokens(record: Record, path: Path) -> int | None:
    """Returns a number of tokens."""
    expected = "a whole number of tokens"
    found = number(record, path, expected)
    if found is None:
        return None
    if found < 0 or found != int(found):
        raise misfit(path, found, expected)
    return int(found)


def probability(record: Record, path: Path) -> float | None:
    """Returns a probability in (0, 1]; gateways write 0 where they recorded none, so it is an error."""
    expected = "a probability above 0 and at most 1 (0 means that none was recorded)"
    found = number(record, path, expected)
    if found is not None and not 0 < found <= 1:
        raise misfit(path, found, expected)
    return found


def names(record: Record, path: Path) -> list[str] | None:
    """Returns the names of a list, or the keys of an object; either may be JSON text. None where there are none."""
    value = opened(record, path)
    if value is None:
        return None
    found = list(value) if isinstance(value, Mapping) or _is_list(value) else None
    if found is None or not all(isinstance(name, str) and name for name in found):
        raise misfit(path, value, "a list of names of models")
    return found or None


def flag(record: Record, path: Path) -> bool:
    """Returns whether a field is true: True, 1, or as text "true" or "1"; False where it is absent."""
    value = look(record, path)
    return value.lower() in ("true", "1") if isinstance(value, str) else value is True or value == 1


def moment(record: Record, path: Path) -> str | float | None:
    """Returns a time as it stands (ISO-8601 text, or seconds since 1970); a datetime becomes ISO-8601."""
    value = look(record, path)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, date):
        return value.isoformat()
    return number(record, path, "a time: ISO-8601, or seconds since 1970")


def query(record: Record, path: Path) -> str | list[dict[str, Any]] | None:
    """Returns the query at a path, as text or as chat messages; either may be JSON text, or stand in a request.

    Messages in parts (OpenTelemetry's {"role", "parts"}) become {"role", "content"}. Text that only looks like JSON
    stays text.

    >>> query({"body": '{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}'}, "body")
    [{'role': 'user', 'content': 'Hi'}]
    >>> query({"messages": "{}"}, "messages") is None
    True
    """
    found = look(record, path)
    value = found
    while True:
        if isinstance(value, str):
            inner = _json(value) if value.lstrip()[:1] in ("[", "{") else None
            if inner != {} and not _are_messages(inner) and not _holds_query(inner):
                return value or None
            value = inner
        elif isinstance(value, Mapping):
            if not _holds_query(value):
                return None
            key = next((key for key in WRAPPERS if value.get(key)), None)
            value = [value] if key is None else value[key]
        elif value is None or (_is_list(value) and not value):
            return None
        elif _are_messages(value):
            return [_message(message) for message in value]
        else:
            raise misfit(path, found, "text, or a list of messages with a role each")


def only_score(found: Iterable[tuple[str, float]]) -> float | None:
    """Returns the score of an answer, the last one given; scores of several names cannot stand for one another.

    Args:
      found: (name, score), in order of time.
    """
    scores = dict(found)
    if len(scores) > 1:
        raise ValueError(
            f"scores: found {len(scores)} names for one answer, {listed(sorted(scores))}, expected one; "
            "keep the one to learn from"
        )
    return next(iter(scores.values()), None)


def misfit(path: Path, found: Any, expected: str) -> ValueError:
    """Returns the error for a malformed field."""
    name = path if isinstance(path, str) else ".".join(path)
    try:
        value = shown(found)
    except RecursionError:
        value = "data nested too deep"
    return ValueError(f"{name}: found {value}, expected {expected}")


def part(record: Record, path: Path) -> Record | None:
    """Returns an object, which may be JSON text."""
    return _unpacked(look(record, path), (path,) if isinstance(path, str) else path)


def _unpacked(value: Any, path: tuple[str, ...]) -> Record | None:
    found = value
    for _ in range(2):  # a database's JSON column is at times exported as text of text
        found = _json(found) if isinstance(found, str) else found
    nothing = value is None or (isinstance(value, str) and value.strip() in ("", "null", "None")) or value == []
    if not nothing and not isinstance(found, Mapping):
        raise misfit(path, value, "an object")
    return None if nothing else found


def _json(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _holds_query(value: Any) -> bool:
    return isinstance(value, Mapping) and ("role" in value or any(value.get(key) for key in WRAPPERS))


def _are_messages(value: Any) -> bool:
    return (
        _is_list(value)
        and bool(value)
        and all(isinstance(item, Mapping) and isinstance(item.get("role"), str) for item in value)
    )


def _message(message: Record) -> dict[str, Any]:
    parts = message.get("parts")
    if "content" in message or not _is_list(parts):
        return {"role": message["role"], "content": message.get("content")}
    return {"role": message["role"], "content": [_part(part) for part in parts or ()]}


def _part(part: Any) -> Any:
    """An OpenTelemetry part, {"type": "text", "content": ...}, as a part of a chat message."""
    if not isinstance(part, Mapping) or not isinstance(part.get("content"), str) or part.get("type") != "text":
        return part
    return {"type": "text", "text": part["content"]}
