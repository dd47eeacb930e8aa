"""Where a model's files are: in a folder, in the cache of the Hugging Face hub, or on the hub."""

import hashlib
import re
from pathlib import Path

from jrouter.encoders.errors import EncoderError
from jrouter.encoders.sentence import read_sentence
from jrouter.encoders.settings import read_json

WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
UNWANTED = ("onnx/*", "openvino/*", "original/*")
"""Copies of the weights for other runtimes."""

PATIENCE = 10.0
"""Seconds until a hub that does not answer is taken for none."""

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find_folder(name: str | Path, revision: str | None = None) -> tuple[Path, str]:
    """Finds a model's folder, and downloads it where there is none.

    Args:
      name: a folder, or a model of the hub, "organisation/model".
      revision: branch, tag or commit on the hub; None for its newest. Of a folder: its digest, or None.

    Returns:
      The folder, and its revision: the hub's commit, or "sha256:" and 16 digits over config.json and the weights.

    Raises:
      EncoderError: no such folder, or another one than `revision` says; the hub cannot be reached and the cache has
        no copy; the hub has no such model, or not for you.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        digest = folder_digest(read_sentence(folder).root)
        if revision not in (None, digest):
            raise EncoderError(
                f"{folder} is a folder of revision {digest}, not {revision!r}; leave the revision out, or pass the "
                "folder that has it."
            )
        return folder, digest
    if isinstance(name, Path) or not HUB_ID.fullmatch(name):
        raise EncoderError(f"{name} is no folder; pass one with config.json, weights and tokenizer, or a hub name.")
    return _from_hub(name, revision)


def _from_hub(name: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import HfApi, snapshot_download

    silent = None
    try:
        # Downloading would wait for ever for a hub that does not answer.
        HfApi().repo_info(name, revision=revision, timeout=PATIENCE)
    except Exception as problem:  # also the HTTP client's own errors, which change with the hub library's versions
        silent = problem
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(WANTED),
            ignore_patterns=list(UNWANTED),
            local_files_only=silent is not None,
        )
    except Exception as problem:
        raise _absent(name, revision, silent or problem) from problem
    return Path(folder), Path(folder).name  # a snapshot's folder is called by its commit


def _absent(name: str, revision: str | None, why: Exception) -> EncoderError:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(why, RevisionNotFoundError):
        return EncoderError(f"the hub has no revision {revision!r} of {name!r}; check it, or leave it out.")
    if isinstance(why, RepositoryNotFoundError):
        return EncoderError(
            f"{name!r} is neither a folder here nor a model of the hub that you may read: check the name; a private "
            "or gated model needs `hf auth login` first."
        )
    at = "" if revision is None else f" --revision {revision}"
    local = name.rpartition("/")[2]
    found = str(why).strip().partition("\n")[0].rstrip(".") or type(why).__name__
    return EncoderError(
        f"{name!r} is neither a folder here nor in the hub's cache, and cannot be downloaded ({found}). Where there is "
        f"a network, run `hf download {name}{at} --local-dir {local}`, bring the folder {local} here, and pass its "
        "path in place of the name."
    )


def weight_files(folder: Path) -> list[Path]:
    """Returns the safetensors files of a model's weights: model.safetensors, or the shards of its index.

    Raises:
      EncoderError: there are none, or a shard is missing.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if index.exists():
        places = read_json(index, dict).get("weight_map")
        names = sorted(set(places.values())) if isinstance(places, dict) else []
        if not names or any(Path(name).name != name for name in names):
            raise EncoderError(f"{index} has no 'weight_map' of file names; download it again.")
        shards = [folder / name for name in names]
        missing = [str(path) for path in shards if not path.exists()]
        if missing:
            raise EncoderError(f"{index} names files that are not there: {', '.join(missing)}; download them.")
        return shards
    if any(folder.glob("pytorch_model*.bin")):
        raise EncoderError(
            f"{folder} has weights in pytorch_model.bin only, which can run code when read; take a revision with "
            "model.safetensors, or save the model with `save_pretrained` of transformers."
        )
    raise EncoderError(
        f"{folder} has no weights: expected model.safetensors, or shards and their index; download it again."
    )


def folder_digest(folder: Path) -> str:
    """Returns "sha256:" and the first 16 hex digits over config.json and the weights: what the embeddings depend on.

    Raises:
      EncoderError: a file of these is missing.
    """
    digest = hashlib.sha256()
    for path in (config_file(folder), *weight_files(folder)):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}"


def config_file(folder: Path) -> Path:
    """Returns the path of config.json; raises EncoderError where there is none."""
    path = folder / "config.json"
    if not path.exists():
        raise EncoderError(f"{folder} has no config.json; pass a folder as transformers' `save_pretrained` writes it.")
    return path
