"""`jrouter export`: a router as StableHLO files, for a static and for any batch size, checked against the router."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrouter.app.options import MaybeFolder, Name, RouterFolder
from jrouter.app.terminal import check_writable
from jrouter.io.errors import DataError
from jrouter.io.export import PLATFORMS, SUFFIX, beside, exported, load_exported, parity, serialised
from jrouter.io.replace import replace_bytes, replace_whole
from jrouter.router import Router

TOLERANCE = 1e-5
"""Largest difference of a probability, on the platform that exports."""


def export_router(
    router: Router, out: str | Path, *, batch: int = 1, platforms: tuple[str, ...] = PLATFORMS, seed: int = 0
) -> dict[str, Any]:
    """Writes `router_static` and `router_any_batch` as StableHLO, and `export.json` that says how to call them.

    They read embeddings; texts are encoded before. Lambda is clipped to the fitted range, as the router does.

    Args:
      router: as it is served: pool and prices are within.
      out: folder.
      batch: rows of the static one.
      platforms: that both are lowered for.
      seed: of the random rows of the check.

    Returns:
      Of each file: bytes, and `io.export.parity`.

    Raises:
      DataError: without flatbuffers; for an export that does not decide as the router does, which is not left behind.
    """
    out = Path(out)
    policy, params = router.served()
    low, high = router.lambdas[0], router.lambdas[-1]

    def choose(x, lam):
        lam = jnp.clip(lam, low, high)
        index = jax.vmap(lambda row: policy.choice(params, row, lam))(x)
        return index.astype(jnp.int32), jax.vmap(lambda row: policy.probabilities(params, row, lam))(x)

    rng = np.random.default_rng(seed)
    found = {}
    for name, size in (("router_static", batch), ("router_any_batch", None)):
        file = out / f"{name}{SUFFIX}"
        program = serialised(exported(choose, router.dim, batch=size, platforms=platforms), file)
        replace_bytes(file, program)
        call = load_exported(file)
        lambdas = (low, (low + high) / 2.0, high)
        checks = [
            parity(call, router.probabilities, rng.normal(size=(n, router.dim)).astype(np.float32), lambdas)
            for n in ((batch,) if size else (1, 7, 64))
        ]
        worst = {
            "largest_difference": max(one["largest_difference"] for one in checks),
            "same_choice": min(one["same_choice"] for one in checks),
        }
        found[file.name] = {"bytes": len(program), "batch": size, **worst}
        if worst["same_choice"] < 1.0 and worst["largest_difference"] > TOLERANCE:
            file.unlink()
            raise DataError(f"{file}: does not decide as the router does ({worst}); please report this.")
    replace_whole(out / "export.json", lambda file: file.write(beside(router.manifest)))
    return found


@dataclass(frozen=True)
class Export:
    """Writes a router as StableHLO, for one batch size and for any, and checks both against the router."""

    router: RouterFolder
    """Folder of the router."""
    out: MaybeFolder = None
    """Folder of the files; by default the router's with -export at the end."""
    batch: int = 1
    """Rows of the static one."""
    platforms: Name = ",".join(PLATFORMS)
    """Comma-separated; a file runs on these."""

    def run(self) -> int:
        if self.batch < 1:
            raise ValueError(f"--batch: expected at least 1, got {self.batch}")
        platforms = tuple(one.strip() for one in self.platforms.split(","))
        if unknown := [one for one in platforms if one not in (*PLATFORMS, "rocm")]:
            raise ValueError(f"--platforms: expected some of {', '.join(PLATFORMS)}, rocm, got {unknown[0]!r}")
        out = self.out or self.router.parent / f"{self.router.name}-export"
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out: {out} is no folder; give another")
        check_writable("--out", out)
        found = export_router(Router.load(self.router), out, batch=self.batch, platforms=platforms)
        print(json.dumps({"folder": str(out), "files": found}, indent=1))
        return 0
