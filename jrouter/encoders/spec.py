"""All that an embedding's numbers depend on, in plain values: what a cache is keyed by and a saved router remembers."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from jrouter.encoders.errors import EncoderError

VERSION = 1
"""Of what turns texts into tokens or buckets here; raised when the same spec gives other numbers."""


@dataclass(frozen=True)
class EncoderSpec:
    """Which encoder, with its settings.

    Attributes:
      name: "hashing", or what the weights are loaded by.
      architecture: "hashing", "bert", "llama".
      dim: of an embedding.
      revision: of the weights, a commit or "sha256:" and a digest of a folder; "" where there are none.
      tokenizer: digest of its files.
      pooling: how hidden states become one vector; None where there are none.
      normalise: whether an embedding has length 1 (of a text without a token it is zero).
      max_length: most tokens of a text, special ones included; None where nothing is cut.
      truncation: the end that is cut, "right" or "left".
      dtype: of what is computed; embeddings are float32.
      window: turns of a chat that make the text (`last_turns`); None where chats are refused.
      question: whether a few-shot prompt is reduced to its question (`last_question`).
      version: of the code.

    >>> EncoderSpec("hashing", "hashing", 256).identity()[:60]
    'jrouter encoder {"architecture": "hashing", "dim": 256, "dty'
    """

    name: str
    architecture: str
    dim: int
    revision: str = ""
    tokenizer: str = ""
    pooling: str | None = None
    normalise: bool = True
    max_length: int | None = None
    truncation: str = "right"
    dtype: str = "float32"
    window: int | None = None
    question: bool = False
    version: int = VERSION

    def identity(self) -> str:
        """The spec as text, the same in every process; of a folder's weights their digest counts, not its name."""
        record = self.to_dict()
        if self.revision.startswith("sha256:"):
            del record["name"]
        return f"jrouter encoder {json.dumps(record, sort_keys=True)}"

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "EncoderSpec":
        """The spec that `to_dict` gave.

        Raises:
          EncoderError: for a field that is missing, unknown or of another type.
        """
        if not isinstance(record, Mapping):
            raise EncoderError(f"encoder: expected an object of fields, got {type(record).__name__}")
        known = {field.name: field for field in fields(cls)}
        unknown = sorted(set(record) - set(known))
        if unknown:
            raise EncoderError(f"encoder: field {unknown[0]!r} is unknown to this version; install a newer jrouter")
        for name, field in known.items():
            if name not in record:
                if field.default is MISSING:
                    raise EncoderError(f"encoder: field {name!r} is missing; save the router again")
                continue
            kind: Any = field.type
            value = record[name]
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise EncoderError(f"encoder: field {name!r} is {value!r}, expected {getattr(kind, '__name__', kind)}")
        return cls(**record)

    def difference(self, other: "EncoderSpec") -> str | None:
        """The first field that differs from another spec's, with both values; None for equal specs.

        >>> EncoderSpec("hashing", "hashing", 256).difference(EncoderSpec("hashing", "hashing", 64))
        'dim is 256, not 64'
        """
        for field in fields(self):
            here, there = getattr(self, field.name), getattr(other, field.name)
            if here != there:
                return f"{field.name} is {here!r}, not {there!r}"
        return None
