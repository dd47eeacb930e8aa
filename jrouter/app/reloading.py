"""Saved routers that take the place of one that serves: read whole, and refused where embeddings differ."""

from pathlib import Path

from jrouter.io.checkpoint import CheckpointError
from jrouter.router import Router

ATTEMPTS = 3
"""Loads of a folder that is being replaced meanwhile."""

Stamp = tuple[int, int, int]
"""Time, size and number of a file."""


def stamp(folder: Path) -> Stamp | None:
    """What changes with a folder's manifest; None where there is none."""
    try:
        found = (folder / "manifest.json").stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def load_whole(folder: Path, old: Router | None) -> tuple[Router, Stamp | None]:
    """A router and the stamp of its manifest, from one version of its folder: a save may replace it meanwhile.

    Args:
      folder: of a saved router.
      old: whose encoder is taken, where it is the same and is loaded.

    Raises:
      CheckpointError: as `Router.load`, and for a folder that changes all the time.
    """
    for _ in range(ATTEMPTS):
        before = stamp(folder)
        try:
            router = Router.load(folder)
        except CheckpointError:
            if stamp(folder) == before:
                raise
            continue
        if stamp(folder) == before:
            break
    else:
        raise CheckpointError(f"{folder}: changes while it is read; load it when it is whole")
    spec, known = router.encoder_spec, None if old is None else vars(old).get("encoder")
    if spec is not None and known is not None and known.spec.identity() == spec.identity():
        router = router.with_encoder(known)  # where it was loaded, not to load it twice
    return router, before


def check_same_embeddings(folder: Path, new: Router, old: Router) -> None:
    """Refuses a router whose embeddings differ: those that callers send would mean nothing to it.

    Raises:
      CheckpointError: naming the field that differs.
    """
    if new.dim != old.dim:
        raise CheckpointError(
            f"{folder}: field 'embedding_dim' is {new.dim}, this service's queries have {old.dim}: "
            "start a service of its own"
        )
    here, there = new.encoder_spec, old.encoder_spec
    if there is None and None not in (old.embedding, new.embedding) and new.embedding != old.embedding:
        raise CheckpointError(
            f"{folder}: field 'embedding' is {new.embedding!r}, this service's queries are {old.embedding!r}'s: "
            "start a service of its own"
        )
    if there is not None and (here is None or here.identity() != there.identity()):
        found = "null" if here is None else there.difference(here)
        raise CheckpointError(
            f"{folder}: field 'encoder' differs from this service's ({found}): start a service of its own"
        )
