"""Encoders by name: hashed n-grams, or a pretrained network with its tokenizer."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from jrouter.encoders.batches import Slot, filled, padded
from jrouter.encoders.encode import Encoder, Kind, Rows
from jrouter.encoders.errors import EncoderError
from jrouter.encoders.hashing import BUCKETS, Hashed, hash_texts, project, projection
from jrouter.encoders.pooling import POOLINGS, unit_norm
from jrouter.encoders.spec import EncoderSpec
from jrouter.encoders.tokens import Tokeniser, load_tokeniser, tokenizer_digest
from jrouter.encoders.weights import Pretrained, load_pretrained
from jrouter.types import Array

HASHING = "hashing"
HASHING_DIM = 256
LONGEST = 4096
"""Most tokens of a text where a model's files give no other number; it may have positions for more."""
TOKEN_BUDGET = {"cpu": 2048}
"""rows x width of a batch by platform, for each device; 65,536 on others."""
LAST_TOKEN = {"llama"}
"""Architectures whose tokens see what is before them only: pooled by the last token where files do not say."""


class Tokens(NamedTuple):
    """Inputs of a pretrained encoder.

    Attributes:
      tokens: [n, l] int32.
      mask: [n, l] bool, False at padding.
    """

    tokens: Any
    mask: Any


def load_encoder(
    name: str | Path = HASHING,
    *,
    revision: str | None = None,
    pooling: str | None = None,
    normalise: bool | None = None,
    max_length: int | None = None,
    truncation: str = "right",
    dim: int | None = None,
    dtype: DTypeLike | None = None,
    window: int | None = None,
    question: bool = False,
    mesh: Mesh | None = None,
    token_budget: int | None = None,
) -> Encoder:
    """The encoder of a name.

    Args:
      name: "hashing", which needs no files and reads all of a text, or another of `ENCODERS`; or a pretrained encoder,
        as `load_pretrained`.
      revision: of the weights.
      pooling: "mean", "cls" or "last_token"; None for what the model's files say, else the last token of a decoder
        and the mean of others.
      normalise: whether embeddings have length 1; None for what the model's files say, else True.
      max_length: most tokens of a text, special ones included; None for what the model's files say, else as many
        as it has positions, at most 4,096.
      truncation: the end at which a longer text is cut: "right", or "left" where texts begin alike.
      dim: of the embeddings of "hashing", 256 by default; a pretrained encoder has its own.
      dtype: of products; None for bfloat16 on an accelerator and float32 on a CPU.
      window: turns of a chat that are encoded (`last_turns`), where queries are chats.
      question: reduce few-shot prompts to their question (`last_question`).
      mesh: of the devices that share the rows of each batch, all in this process; None for one device.
      token_budget: rows x width of a batch; by default 2,048 on a CPU and 65,536 on others, for each device.

    Raises:
      EncoderError: for a setting that the encoder has not, and as `load_pretrained`.

    >>> load_encoder(dim=64).encode(["How do I sort a list?", ""]).shape
    (2, 64)
    """
    if window is not None and window < 1:
        raise EncoderError(f"window: expected at least 1 turn, got {window}")
    if mesh is not None and any(device.process_index != jax.process_index() for device in mesh.devices.flat):
        raise EncoderError("mesh: has devices of other processes; give each process its own rows and a mesh of its own")
    if token_budget is None:
        token_budget = TOKEN_BUDGET.get(jax.default_backend(), 65536) * (1 if mesh is None else mesh.size)
    if token_budget < 1:
        raise EncoderError(f"token_budget: expected at least 1, got {token_budget}")
    if name in ENCODERS:
        given = {"revision": revision, "pooling": pooling, "max_length": max_length, "dtype": dtype}
        given["truncation"] = None if truncation == "right" else truncation
        wrong = next((option for option, value in given.items() if value is not None), None)
        if wrong is not None:
            raise EncoderError(f"{wrong}: {name!r} has none, it reads whole texts; leave it out")
        if dim is not None and dim < 1:
            raise EncoderError(f"dim: expected at least 1, got {dim}")
        spec, params, kind = ENCODERS[str(name)](dim=dim, normalise=normalise is not False)
        spec = replace(spec, window=window, question=question)
        return Encoder(spec, _placed(params, mesh), kind, token_budget, mesh)
    if dim is not None:
        raise EncoderError(f"dim: {str(name)!r} has a width of its own; leave it out")
    if pooling is not None and pooling not in POOLINGS:
        raise EncoderError(f"pooling: {pooling!r} is unknown, expected one of {', '.join(POOLINGS)}")
    fast = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    computed = jnp.dtype(fast if dtype is None else dtype)
    pretrained = load_pretrained(name, revision=revision, dtype=computed)
    if max_length is None:
        max_length = min(pretrained.max_length or LONGEST, pretrained.max_positions)
    if max_length > pretrained.max_positions:
        raise EncoderError(f"max_length: {str(name)!r} has {pretrained.max_positions} positions, got {max_length}")
    if normalise is None:
        normalise = pretrained.normalise is not False
    default = "last_token" if pretrained.architecture in LAST_TOKEN else "mean"
    spec = EncoderSpec(
        name=str(name),
        architecture=pretrained.architecture,
        dim=pretrained.dim,
        revision=pretrained.revision,
        tokenizer=tokenizer_digest(pretrained.folder),
        pooling=pooling or pretrained.pooling or default,
        normalise=normalise,
        max_length=max_length,
        truncation=truncation,
        dtype=computed.name,
        window=window,
        question=question,
    )
    tokeniser = load_tokeniser(pretrained.folder, max_length=max_length, truncation=truncation)
    kind = pretrained_kind(pretrained, tokeniser, pooling=str(spec.pooling), normalise=normalise)
    return Encoder(spec, _placed(pretrained.params, mesh), kind, token_budget, mesh)


def load_encoder_of(
    spec: EncoderSpec,
    *,
    name: str | Path | None = None,
    mesh: Mesh | None = None,
    token_budget: int | None = None,
) -> Encoder:
    """The encoder that a spec was taken from, or an error: it gives the same embeddings, up to rounding.

    Args:
      spec: of the encoder that a router was trained with.
      name: where its weights are now, if not at `spec.name`.
      mesh, token_budget: as for `load_encoder`.

    Raises:
      EncoderError: where what is there is not what the spec says, by the first field that differs.
    """
    given: dict[str, Any] = {"normalise": spec.normalise, "window": spec.window, "question": spec.question}
    if spec.architecture in ENCODERS:
        given |= {"dim": spec.dim}
    else:
        given |= {"pooling": spec.pooling, "max_length": spec.max_length, "truncation": spec.truncation}
        given |= {"dtype": spec.dtype, "revision": spec.revision}
    encoder = load_encoder(name or spec.name, mesh=mesh, token_budget=token_budget, **given)
    different = encoder.spec.difference(replace(spec, name=encoder.spec.name))
    if different is not None:
        raise EncoderError(f"{name or spec.name}: is not the encoder asked for: its {different}")
    return encoder


def pretrained_kind(pretrained: Pretrained, tokeniser: Tokeniser, *, pooling: str, normalise: bool) -> Kind:
    """How a pretrained encoder computes: tokens, hidden states, pooled, in float32."""
    pool, module = POOLINGS[pooling], pretrained.module

    def rows(texts: Sequence[str]) -> Rows:
        made = tokeniser(texts)
        return Rows(made.rows, np.array([len(row) for row in made.rows], np.int64), made.whole, made.kept)

    def pad(rows: list[Any], slot: Slot) -> Tokens:
        return Tokens(padded(rows, slot, np.int32), filled(rows, slot))

    def apply(params: Any, inputs: Tokens) -> Array:
        hidden: Any = module.apply(params, inputs.tokens, inputs.mask)
        pooled = jax.vmap(pool)(hidden, inputs.mask).astype(jnp.float32)
        return jax.vmap(unit_norm)(pooled) if normalise else pooled

    return Kind(rows, pad, apply, tokeniser.max_length or pretrained.max_positions)


def hashing_kind(*, normalise: bool) -> Kind:
    """How hashed n-grams become embeddings."""

    def rows(texts: Sequence[str]) -> Rows:
        made = hash_texts(texts)
        lengths = np.array([len(one.ids) for one in made], np.int64)
        return Rows([tuple(one) for one in made], lengths, lengths, lengths)

    def pad(rows: list[Any], slot: Slot) -> Hashed:
        parts = ({row: rows[row][part] for row in slot.rows} for part in (0, 1))
        ids, values = (padded(part, slot, kind) for part, kind in zip(parts, (np.int32, np.float32), strict=True))
        return Hashed(ids, values)

    def apply(params: Any, inputs: Hashed) -> Array:
        projected = jax.vmap(project, in_axes=(None, 0))(params["signs"], inputs)
        return jax.vmap(unit_norm)(projected) if normalise else projected

    return Kind(rows, pad, apply, BUCKETS)


def hashing(*, dim: int | None = None, normalise: bool = True) -> tuple[EncoderSpec, Any, Kind]:
    """Hashed n-grams: what they are, their params, and how they compute."""
    dim = HASHING_DIM if dim is None else dim
    params = {"signs": jnp.asarray(projection(dim))}
    return EncoderSpec(HASHING, HASHING, dim, normalise=normalise), params, hashing_kind(normalise=normalise)


ENCODERS: dict[str, Callable[..., tuple[EncoderSpec, Any, Kind]]] = {HASHING: hashing}
"""Encoders that need no files, by name: (dim, normalise) -> what they are, params, and how they compute. The spec's
`name` and `architecture` are the name here."""


def _placed(params: Any, mesh: Mesh | None) -> Any:
    return params if mesh is None else jax.device_put(params, NamedSharding(mesh, P()))
