"""A router that serves: asked from many threads, never without an answer, replaced by a new version while it serves."""

import logging
import math
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jrouter.app.reloading import check_same_embeddings, load_whole, stamp
from jrouter.app.warming import texts_of_all_widths
from jrouter.compiled_decisions import Decision
from jrouter.io import checkpoint
from jrouter.router import Router

FALLBACKS = ("lambda", "query", "error")
"""Why the fallback model answered: lambda was no number or out of the fitted range; the query could not be encoded, or
its embedding had another width or was not finite; anything else (a device that fails)."""
WARM_CHARACTERS = 2**13
"""Texts of up to about so many characters are compiled for; a longer one may compile when it first comes."""

logger = logging.getLogger(__name__)


class Service:
    """Decides queries by a router, from any thread.

    A decision is made by one version of the router from beginning to end, also while `reload` replaces it. Where the
    router cannot decide, the fallback model does: with propensity 1, as it is certain for such a query, and
    `allowed` of it alone, so that a log shows that nothing could have been drawn.

    Args:
      router: or the folder of a saved one.
      lam: lambda of queries that come without one.
      fallback: model for queries that cannot be decided.
      explore: share of decisions drawn uniformly, of queries that come without one.
      out_of_range: of a lambda beyond the fitted ones: "fallback", or "clip" to the nearest one.
      warm: whether to compile before the first query; or examples of the queries to come, to compile what they need.
        A router of texts loads its encoder for that; a service that is only given embeddings gives an example of one.
      seed: of exploration; None for a fresh one.

    Raises:
      ValueError: for a fallback that is not in the router's pool, or a lambda that it would always fall back for.
      CheckpointError: for a folder that holds no router.
    """

    def __init__(
        self,
        router: Router | str | Path,
        *,
        lam: float,
        fallback: str,
        explore: float = 0.0,
        out_of_range: Literal["fallback", "clip"] = "fallback",
        warm: bool | Sequence[Any] = True,
        seed: int | None = None,
    ):
        if out_of_range not in ("fallback", "clip"):
            raise ValueError(f"out_of_range: expected 'fallback' or 'clip', got {out_of_range!r}")
        self.lam, self.fallback, self.explore, self.out_of_range = lam, fallback, explore, out_of_range
        self._warm = warm
        self._folder: Path | None = None
        self._seen: Any = None  # of the folder's manifest, when it was loaded
        self._counts, self._problems = Counter(), {}
        self._counting, self._reloading = threading.Lock(), threading.Lock()
        self._seeds, self._own = np.random.SeedSequence(seed), threading.local()
        if not isinstance(router, Router):
            self._folder = Path(router)
            router, self._seen = load_whole(self._folder, None)
        self._prepare(router)
        self._router = router

    @property
    def router(self) -> Router:
        """The version that answers now; to be read once where several of its fields belong together."""
        return self._router

    @property
    def counts(self) -> dict[str, int]:
        """Queries so far: "decided", and those of the fallback model by reason (`FALLBACKS`); "clipped" of the decided.

        The sum without "clipped" is the number of calls that returned.
        """
        with self._counting:
            return {name: self._counts[name] for name in ("decided", *FALLBACKS, "clipped")}

    @property
    def problems(self) -> dict[str, str]:
        """The last message of each reason to fall back. It may quote the query: mind who reads it."""
        with self._counting:
            return dict(self._problems)

    def decide(
        self,
        query: Any,
        lam: float | None = None,
        *,
        allowed: Iterable[str] | None = None,
        max_cost: float | None = None,
        min_score: float | None = None,
        explore: float | None = None,
        previous: str | None = None,
        switch_cost: float = 0.0,
        seed: int | np.random.Generator | None = None,
    ) -> Decision:
        """Decides one query; raises for no query and no lambda.

        The fallback model is one of `allowed`, too: where `allowed` leaves it out, the first of the router's models
        that is in it stands in.

        Args:
          query: text, chat, or embedding [d], as the router reads.
          lam: None for the service's.
          explore: None for the service's.
          seed: None for the service's own draws.
          allowed, max_cost, min_score, previous, switch_cost: as of `Router.decide`.

        Raises:
          ValueError: for the other arguments, as `Router.decide`.
        """
        router = self._router  # the version of this decision
        asked = _number(self.lam if lam is None else lam)
        settings = {
            # A string is for the router to refuse.
            "allowed": allowed if allowed is None or isinstance(allowed, str) else tuple(allowed),
            "max_cost": max_cost,
            "min_score": min_score,
            "explore": self.explore if explore is None else explore,
            "previous": previous,
            "switch_cost": switch_cost,
            "seed": self._generator() if seed is None else seed,
        }
        used = self._lambda(router, asked)
        if used is None:
            low, high = router.lambdas[0], router.lambdas[-1]
            return self._fall_back(router, "lambda", f"lam: {lam!r}, fitted from {low:g} to {high:g}", asked, settings)
        try:
            decision = router.decide(query, used, **settings)
        except Exception as problem:  # whatever a query holds, its user gets an answer
            # Warnings, where they are errors, are of queries too: numbers beyond float32.
            reason = "query" if isinstance(problem, ValueError | TypeError | Warning) else "error"
            return self._fall_back(router, reason, f"{type(problem).__name__}: {problem}", used, settings)
        if not isinstance(decision, Decision):
            return self._fall_back(router, "query", f"{len(decision)} queries, expected one", used, settings)
        with self._counting:
            self._counts["decided"] += 1
            self._counts["clipped"] += used != asked
        return decision

    def reload(self, folder: str | Path | None = None) -> bool:
        """Loads, checks and compiles a router, then lets it answer; queries meanwhile are the old one's.

        Args:
          folder: of the router; None for the last one.

        Returns:
          Whether another version answers now.

        Raises:
          CheckpointError: for a folder that holds no router, or one that reads other embeddings than the present one.
          ValueError: as at first, for a fallback or lambda that does not fit it. The old version goes on in each case.
        """
        with self._reloading:
            return self._reload(folder)

    def reload_if_changed(self) -> bool:
        """`reload`, where the folder's manifest is another than when it was loaded; quick otherwise.

        To be called every few seconds. A folder without a manifest counts as unchanged: it is being replaced.
        """
        with self._reloading:
            if self._folder is None:
                raise ValueError("this service was made of a router: give the folder of a saved one, once, to `reload`")
            now = stamp(self._folder)
            if now is None or now == self._seen:
                return False
            if checkpoint.load_manifest(self._folder).get("version") == self._router.version:
                self._seen = now
                return False
            return self._reload(None)

    def _reload(self, folder: str | Path | None) -> bool:
        place = self._folder if folder is None else Path(folder)
        if place is None:
            raise ValueError("folder: this service was made of a router, not of a folder; name one")
        old = self._router
        router, seen = load_whole(place, old)
        check_same_embeddings(place, router, old)
        changed = router.version != old.version
        if changed:
            self._prepare(router)
            self._router = router
            logger.info("router %s answers now, instead of %s", router.version, old.version)
        self._folder, self._seen = place, seen
        return changed

    def _prepare(self, router: Router) -> None:
        """Refuses a router that does not fit the service, and compiles the others."""
        if self.fallback not in router.pool:
            raise ValueError(f"fallback: {self.fallback!r} is none of the router's pool: {', '.join(router.pool)}")
        if self._lambda(router, _number(self.lam)) is None:
            low, high = router.lambdas[0], router.lambdas[-1]
            raise ValueError(f"lam: {self.lam!r} is none of the router's, fitted from {low:g} to {high:g}")
        # Also what settings it refuses, and a router without forecasts.
        router.decide(_zeros(router), self.lam, explore=self.explore, seed=0)
        if self._warm is False:
            return
        examples: Iterable[Any] = self._warm if self._warm is not True else ()
        if self._warm is True and router.encoder_spec is not None:
            examples = texts_of_all_widths(router.encoder, WARM_CHARACTERS)
        for query in examples:
            router.decide(query, self.lam)

    def _lambda(self, router: Router, asked: float) -> float | None:
        """Lambda to decide at; None where the fallback model has to."""
        low, high = router.lambdas[0], router.lambdas[-1]
        if low <= asked <= high:
            return asked
        if self.out_of_range == "clip" and 0 <= asked < math.inf:
            return min(max(asked, low), high)
        return None

    def _fall_back(
        self, router: Router, reason: str, problem: str, lam: float, settings: Mapping[str, Any]
    ) -> Decision:
        # Settings are the caller's: a query that is surely fine tells whether they are to blame.
        try:
            router.decide(_zeros(router), router.lambdas[0], **{**settings, "seed": 0})
        except (ValueError, TypeError) as wrong:
            raise ValueError(str(wrong)) from None
        except Exception as failure:  # a device that fails for this query, too
            reason, problem = "error", f"{type(failure).__name__}: {failure}"
        with self._counting:
            first = not self._counts[reason]
            self._counts[reason] += 1
            self._problems[reason] = problem
        if first:  # once for each reason: `counts` has the others
            logger.warning(
                "fallback model %s answered, for reason %r; Service.problems says more", self.fallback, reason
            )
        allowed = settings["allowed"]
        model = self.fallback
        if allowed is not None and model not in allowed:
            model = next(name for name in router.pool if name in allowed)
        return Decision(
            model=model,
            propensity=1.0,
            allowed=(model,),
            lam=lam if math.isfinite(lam) else self.lam,
            score=None,
            cost=None,
            unmet=(),
            kept=False,
            router=router.version,
        )

    def _generator(self) -> np.random.Generator:
        """This thread's own: generators are not to be shared by threads."""
        found = getattr(self._own, "generator", None)
        if found is None:
            with self._counting:
                (child,) = self._seeds.spawn(1)
            found = self._own.generator = np.random.default_rng(child)
        return found


def _number(lam: Any) -> float:
    """Lambda as a number, maybe written as text; NaN for anything else."""
    try:
        return float(lam)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _zeros(router: Router) -> np.ndarray:
    return np.zeros(router.dim, np.float32)
