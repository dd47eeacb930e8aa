"""What a saved router says of itself, and what is refused of it: the manifest beside its params."""

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jrouter.assessment import from_plain
from jrouter.encoders.encode import Encoder
from jrouter.encoders.errors import EncoderError
from jrouter.encoders.load import load_encoder_of
from jrouter.encoders.spec import EncoderSpec
from jrouter.io import checkpoint
from jrouter.io.checkpoint import CheckpointError
from jrouter.methods import METHODS, build_method
from jrouter.router_record import RECORDED

PACKAGES = ("jrouter", "jax", "flax", "orbax-checkpoint")


def content_version(said: Sequence[Any], trees: Any) -> str:
    """12 hexadecimal digits of JSON values and of arrays: equal for equal content."""
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=list).encode())
    for leaf in jax.tree.leaves(trees):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:12]


def manifest_of(router: Any) -> dict[str, Any]:
    """The manifest of a `Router`: JSON values; `fields_of` is its inverse."""
    return {
        "version": router.version,
        "method": router.method,
        "config": router.config,
        "models": list(router.models),
        "embedding_dim": router.dim,
        "embedding": router.embedding,
        "encoder": None if router.encoder_spec is None else router.encoder_spec.to_dict(),
        "lambdas": list(router.lambdas),
        "cost_unit": router.cost_unit,
        "price": list(router.prices),
        "pool": list(router.pool),
        "known": router.known or len(router.models),
        "explanation": router.explain().splitlines(),
        "assessment": [one._asdict() for one in router.assessment],
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        **router.record,
    }


def fields_of(manifest: Mapping[str, Any], params: Any) -> dict[str, Any]:
    """The fields of the `Router` of a manifest and the params beside it, without its `encoder_spec`: see `encoder_of`.

    Args:
      manifest: of `read_manifest`.
      params: as saved, {"policy", "forecasts", "reference"}; in the first format the policy's alone.
    """
    if manifest["format"] == 1:
        params = {"policy": params}
    models, pool = manifest["models"], manifest.get("pool")
    return {
        "method": manifest["method"],
        "config": manifest["config"],
        "params": params["policy"],
        "models": tuple(models),
        "dim": manifest["embedding_dim"],
        "lambdas": tuple(manifest["lambdas"]),
        "cost_unit": manifest["cost_unit"],
        "embedding": manifest.get("embedding"),
        "assessment": from_plain(manifest.get("assessment", [])),
        "forecasts": params.get("forecasts"),
        "reference": params.get("reference"),
        "price": tuple(manifest.get("price", ())),
        "available": tuple(pool or ()) if pool != models else (),
        "known": manifest.get("known", 0),
        "record": {name: value for name, value in manifest.items() if name in RECORDED},
    }


def read_manifest(folder: str | Path, *, models: Sequence[str] | None = None, dim: int | None = None) -> dict[str, Any]:
    """The manifest of a saved router that this version can rebuild.

    Args:
      folder: of the router.
      models: the names, in order, that the caller routes to.
      dim: the width of the caller's embeddings.

    Raises:
      CheckpointError: naming the field that is missing, unknown or another than the caller's.
    """
    manifest = checkpoint.load_manifest(folder)
    needed = ("method", "config", "models", "embedding_dim", "lambdas", "cost_unit", "params")
    missing = [name for name in needed if name not in manifest]
    if missing:
        raise CheckpointError(f"{folder}: manifest.json has no field {missing[0]!r}; save the router again")
    _check_fields(folder, manifest)
    if models is not None and list(models) != manifest["models"]:
        raise CheckpointError(
            f"{folder}: field 'models' is {', '.join(manifest['models'])}, expected {', '.join(models)}: "
            "this router was made for other models (or another order); fit one for these"
        )
    if dim is not None and dim != manifest["embedding_dim"]:
        raise CheckpointError(
            f"{folder}: field 'embedding_dim' is {manifest['embedding_dim']}, expected {dim}: "
            "this router reads another encoder's embeddings"
        )
    if manifest["method"] not in METHODS:
        raise CheckpointError(f"{folder}: field 'method' is {manifest['method']!r}, unknown to this version")
    try:
        build_method(manifest["method"], manifest["config"])
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: field 'config' does not fit this version of jrouter ({error}); "
            "load it with the version that wrote it"
        ) from error
    return manifest


def _check_fields(folder: str | Path, manifest: Mapping[str, Any]) -> None:
    """Raises CheckpointError for a field that no router was saved with, or that does not fit its params."""
    models, dim = manifest["models"], manifest["embedding_dim"]
    named = isinstance(models, list) and bool(models) and all(isinstance(one, str) for one in models)
    n = len(models) if named else 0
    forecasts = manifest["params"].get("forecasts") if isinstance(manifest["params"], Mapping) else None
    if named and isinstance(forecasts, Mapping) and isinstance(forecasts.get("coefficients"), Mapping):
        _, t, d = forecasts["coefficients"].get("shape") or (2, n, dim)
        for name, said, there in (("models", n, t), ("embedding_dim", dim, d)):
            if said != there:
                raise CheckpointError(f"{folder}: manifest.json, field {name!r} says {said}, its params hold {there}")
    lambdas = manifest["lambdas"]
    prices, pool = manifest.get("price", []), manifest.get("pool", models)
    checks = {
        "models": named and len(set(models)) == n,
        "embedding_dim": type(dim) is int and dim >= 1,
        "lambdas": bool(lambdas) and _numbers(lambdas) and lambdas[0] >= 0 and lambdas == sorted(set(lambdas)),
        "cost_unit": isinstance(manifest["cost_unit"], str),
        "price": _numbers(prices) and len(prices) in (0, n) and all(one > 0 for one in prices),
        "pool": isinstance(pool, list) and all(isinstance(one, str) and named and one in models for one in pool),
        "known": type(manifest.get("known", 0)) is int and 0 <= manifest.get("known", 0) <= n,
    }
    for name, fits in checks.items():
        if not fits:
            raise CheckpointError(
                f"{folder}: manifest.json, field {name!r} is {manifest.get(name)!r}, which no router is saved with; "
                "save the router again"
            )


def _numbers(value: Any) -> bool:
    """Whether a value of JSON is a list of finite numbers."""
    return isinstance(value, list) and all(type(one) in (int, float) and math.isfinite(one) for one in value)


def encoder_of(
    folder: str | Path, manifest: Mapping[str, Any], given: Encoder | str | Path | None
) -> tuple[EncoderSpec | None, Encoder | None]:
    """The spec of a manifest's encoder, and the encoder that a caller gave (or the place of its weights).

    Raises:
      CheckpointError: for a field 'encoder' that cannot be read, is missing, or is another than what was given.
      EncoderError: where nothing can be loaded from the place given.
    """
    record = manifest.get("encoder")
    try:
        spec = None if record is None else EncoderSpec.from_dict(record)
    except EncoderError as error:
        raise CheckpointError(f"{folder}: manifest.json, {error}") from error
    if given is None:
        return spec, None
    if spec is None:
        raise CheckpointError(
            f"{folder}: manifest.json has no field 'encoder': this router reads embeddings, no texts; leave `encoder` "
            "out, or fit a router with it"
        )
    if not isinstance(given, Encoder):
        return spec, load_encoder_of(spec, name=given)
    if given.spec.identity() != spec.identity():
        raise CheckpointError(
            f"{folder}: field 'encoder' differs from the encoder given, whose {given.spec.difference(spec)}: "
            "a router reads the embeddings of the encoder it was fitted with"
        )
    return spec, given
