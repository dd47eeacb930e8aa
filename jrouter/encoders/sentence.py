"""What sentence-transformers writes beside a model: how hidden states become an embedding, at how many tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jrouter.encoders.errors import EncoderError
from jrouter.encoders.settings import read_json

POOLING_FILE = "1_Pooling/config.json"

MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last_token",
}
"""Its switches -> names of POOLINGS; in a newer file, `pooling_mode` is one such word itself."""

WORDS = {"mean": "mean", "cls": "cls", "lasttoken": "last_token"}


@dataclass(frozen=True)
class SentenceSettings:
    """How a model's hidden states become embeddings; None where its files do not say.

    Attributes:
      root: folder of config.json, weights and tokenizer; the model's own, or one in it.
      pooling: a name in POOLINGS.
      normalise: whether embeddings have length 1.
      max_length: tokens of a text that are read, special ones included.
    """

    root: Path
    pooling: str | None = None
    normalise: bool | None = None
    max_length: int | None = None


def read_sentence(folder: Path) -> SentenceSettings:
    """Reads modules.json, and the files of the modules it lists.

    Raises:
      EncoderError: a module or a pooling that there is no code for, so that embeddings would not be the model's.
    """
    listing = folder / "modules.json"
    if not listing.exists():
        alone = folder / POOLING_FILE
        pooling = _pooling(alone) if alone.exists() else None
        return SentenceSettings(folder, pooling, max_length=_max_length(folder))
    modules = [(_kind(module, listing), folder / str(module.get("path", ""))) for module in read_json(listing, list)]
    kinds = [kind for kind, _ in modules]
    if kinds[:1] != ["Transformer"] or kinds[1:] not in ([], ["Pooling"], ["Pooling", "Normalize"], ["Normalize"]):
        raise EncoderError(
            f"{listing} lists the modules {', '.join(kinds) or 'none'}; there is code for Transformer, then Pooling, "
            "then Normalize. Choose a model of these."
        )
    root = modules[0][1]
    pooling = _pooling(modules[1][1] / "config.json") if "Pooling" in kinds else None
    return SentenceSettings(root, pooling, "Normalize" in kinds, _max_length(root))


def _kind(module: Any, listing: Path) -> str:
    if not isinstance(module, dict) or not isinstance(module.get("type"), str):
        raise EncoderError(f"{listing}: found {module!r}, expected an object with a 'type'; download it again.")
    return module["type"].rpartition(".")[2]


def _pooling(file: Path) -> str:
    settings = read_json(file, dict)
    chosen = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True]
    words = settings.get("pooling_mode")
    if isinstance(words, str | list):
        chosen = [words] if isinstance(words, str) else list(words)
    known = MODES | WORDS
    if len(chosen) != 1 or chosen[0] not in known:
        raise EncoderError(
            f"{file} asks for the pooling {', '.join(map(str, chosen)) or 'none'}; there is code for one of "
            f"{', '.join(MODES)}. Choose a model of these."
        )
    return known[chosen[0]]


def _max_length(folder: Path) -> int | None:
    file = folder / "sentence_bert_config.json"
    if not file.exists():
        return None
    length = read_json(file, dict).get("max_seq_length")
    if length is not None and (type(length) is not int or length < 1):
        raise EncoderError(f"{file}: 'max_seq_length' is {length!r}, expected a whole number of at least 1.")
    return length
