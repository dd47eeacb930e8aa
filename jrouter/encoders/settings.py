"""JSON files of a model, and the fields of a frozen config from the dict of its config.json."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from jrouter.encoders.errors import EncoderError

Config = TypeVar("Config")
Json = TypeVar("Json", dict, list)


def read_fields(kind: type[Config], settings: Mapping[str, Any], **given: Any) -> Config:
    """Returns the config whose fields are those settings that have its fields' names.

    Args:
      kind: a dataclass with fields of int, float, bool and str; a field with a default may be missing or null.
      settings: a config.json, as a dict; other keys are ignored.
      **given: fields that have been read already.

    Raises:
      EncoderError: a key is missing, or its value of another type or, an int, below 1.
    """
    values = dict(given)
    for field in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType]
        value = settings.get(field.name)
        if field.name in given or (value is None and field.default is not dataclasses.MISSING):
            continue
        if field.type is float and type(value) is int:
            value = float(value)
        if type(value) is not field.type or (type(value) is int and value < 1):
            expected = {int: "a whole number of at least 1", float: "a number", bool: "true or false", str: "a string"}
            found = "is missing" if field.name not in settings else f"is {value!r}"
            raise EncoderError(f"config.json: {field.name!r} {found}, expected {expected[field.type]}.")
        values[field.name] = value
    return kind(**values)


def refuse(settings: Mapping[str, Any], fine: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises EncoderError where a setting that is there has none of the values that the network has code for."""
    for name, values in fine.items():
        if name in settings and settings[name] not in values:
            known = " or ".join(repr(value) for value in values)
            raise EncoderError(
                f"config.json: {name!r} is {settings[name]!r}, and this network has code for {known} only."
            )


def read_json(path: Path, kind: type[Json]) -> Json:
    """Returns what a JSON file holds, an object (dict) or an array (list); raises EncoderError where it does not."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise EncoderError(f"{path} cannot be read as JSON ({problem}); download it again.") from problem
    if not isinstance(value, kind):
        expected = {dict: "an object", list: "an array"}[kind]
        raise EncoderError(f"{path} holds a {type(value).__name__}, expected {expected}; download it again.")
    return value
