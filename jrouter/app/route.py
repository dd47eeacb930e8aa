"""`jrouter route`: JSON lines in, decisions out, as they come and in order."""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TextIO

import numpy as np
import tyro

from jrouter.app.options import MaybeFile, MaybeInt, MaybeName, MaybeNames, MaybeNumber, RouterFolder
from jrouter.compiled_decisions import Decision
from jrouter.io.columns import LARGEST
from jrouter.router import Router

OWN = ("query", "embedding", "lambda", "allowed", "previous", "max_cost", "min_score")
"""Fields of a line that say what to decide; its other fields are passed on."""


class Counts:
    """Lines that were decided, and those that were not, by reason."""

    def __init__(self):
        self.decided, self.bad = 0, 0


@dataclass(frozen=True)
class RouteOptions:
    """What decisions keep to, where a line does not say otherwise; as of `Router.decide`."""

    lam: float
    allowed: tuple[str, ...] | None = None
    max_cost: float | None = None
    min_score: float | None = None
    explore: float = 0.0
    previous: str | None = None
    switch_cost: float = 0.0


def route_lines(
    router: Router,
    batches: Iterable[list[str]],
    options: RouteOptions,
    *,
    seed: int | None = None,
    report: Any = None,
    counts: Counts | None = None,
) -> Iterator[str]:
    """Decides lines of JSON, each `{"query": ...}` or `{"embedding": [...]}`, or a JSON string.

    A line's own `lambda`, `allowed`, `previous`, `max_cost` and `min_score` come before `options`; its other fields
    (`request_id`) are passed on. Output is a log's: `model`, `propensity`, `allowed_models`, `lambda`, `router`.

    Args:
      router: that decides.
      batches: lists of lines; those of one are decided together, and come out before the next is asked for.
      options: of all lines.
      seed: of exploration.
      report: called with (number of the line from 1, what is wrong with it): it is skipped.
      counts: of lines, kept up to date.

    Yields:
      Lines, in the order of what was decided.
    """
    rng, number = np.random.default_rng(seed), 0
    counts = counts or Counts()
    for lines in batches:
        asked: list[tuple[int, dict[str, Any], Any]] = []
        for line in lines:
            number += 1
            if not line.strip():
                continue
            try:
                record = _record(line)
                asked.append((number, record, _settings(router, record, options)))
            except RecursionError:
                counts.bad += 1
                if report is not None:
                    report(number, "is nested too deep")
            except (ValueError, OverflowError) as problem:  # an integer may have more digits than a float holds
                counts.bad += 1
                if report is not None:
                    report(number, str(problem))
        decided: dict[int, Decision] = {}
        for setting in dict.fromkeys(setting for _, _, setting in asked):
            group = [(at, record) for at, record, other in asked if other == setting]
            for at, found in _decided(router, group, setting, options, rng):
                if isinstance(found, Decision):
                    decided[at] = found
                    continue
                counts.bad += 1
                if report is not None:
                    report(at, found)
        for at, record, _ in asked:
            if at in decided:
                counts.decided += 1
                yield json.dumps(_line(record, decided[at]), ensure_ascii=False)


def _record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as problem:
        raise ValueError(f"is not JSON: {problem}") from None
    record = {"query": record} if isinstance(record, str) else record
    if not isinstance(record, dict) or ("query" in record) == ("embedding" in record):
        raise ValueError("expected an object with either 'query' or 'embedding', or a JSON string")
    return record


def _settings(router: Router, record: dict[str, Any], options: RouteOptions) -> tuple[Any, ...]:
    """What lines must share to be decided together: kind of query, lambda, pool and limits."""
    lam = record.get("lambda", options.lam)
    allowed = record.get("allowed", options.allowed)
    if allowed is not None and not (isinstance(allowed, list | tuple) and all(isinstance(one, str) for one in allowed)):
        raise ValueError(f"'allowed': expected a list of model names, got {allowed!r}")
    limits = []
    for name, value in (
        ("lambda", lam),
        ("max_cost", record.get("max_cost", options.max_cost)),
        ("min_score", record.get("min_score", options.min_score)),
    ):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"'{name}': expected a number, got {value!r}")
        limits.append(None if value is None else float(value))
    previous = record.get("previous")
    if previous is not None and not isinstance(previous, str):
        raise ValueError(f"'previous': expected the name of a model, got {previous!r}")
    if "embedding" in record:
        x = record["embedding"]
        numbers = isinstance(x, list) and all(isinstance(one, int | float) and not isinstance(one, bool) for one in x)
        if not numbers or len(x) != router.dim or not (np.abs(np.array(x, np.float64)) <= LARGEST).all():
            raise ValueError(f"'embedding': expected {router.dim} finite numbers")
    elif not isinstance(record["query"], str | list) or not record["query"]:
        raise ValueError("'query': expected text, or a list of messages")
    return "embedding" in record, None if allowed is None else tuple(allowed), *limits


def _decided(
    router: Router, group: list[tuple[int, dict[str, Any]]], setting: tuple[Any, ...], options: RouteOptions, rng: Any
) -> Iterator[tuple[int, Decision | str]]:
    """Decides lines that share their setting; where that fails, one by one, so that only the bad one is lost."""
    embedded, allowed, lam, max_cost, min_score = setting
    queries = [record["embedding" if embedded else "query"] for _, record in group]
    x = np.array(queries, np.float32) if embedded else queries
    try:
        found = router.decide(
            x,
            lam,
            allowed=allowed,
            max_cost=max_cost,
            min_score=min_score,
            explore=options.explore,
            previous=[record.get("previous", options.previous) for _, record in group],
            switch_cost=options.switch_cost,
            seed=rng,
        )
        assert isinstance(found, list)
        yield from zip((at for at, _ in group), found, strict=True)
    except (ValueError, TypeError, KeyError) as problem:
        if len(group) == 1:
            yield group[0][0], str(problem)
            return
        for one in group:
            yield from _decided(router, [one], setting, options, rng)


def _line(record: dict[str, Any], decision: Decision) -> dict[str, Any]:
    passed = {name: value for name, value in record.items() if name not in OWN}
    said = {
        "model": decision.model,
        "propensity": decision.propensity,
        "allowed_models": list(decision.allowed),
        "lambda": decision.lam,
        "expected_score": round(decision.score or 0.0, 6),
        "expected_cost": decision.cost,
        "router": decision.router,
    }
    if decision.unmet:
        said["unmet"] = list(decision.unmet)
    if decision.kept:
        said["kept"] = True
    return {**passed, **said}


def lines_as_they_come(stream: Any, *, most: int = 1024) -> Iterator[list[str]]:
    """Lines of a binary stream in batches: whatever has arrived, so that nothing waits for a batch to fill."""
    rest = b""
    while True:
        data = os.read(stream.fileno(), 1 << 20)
        parts = (rest + data).split(b"\n")
        rest = parts.pop() if data else b""
        lines = [part.decode("utf-8", "replace") for part in parts]
        for start in range(0, len(lines), most):
            yield lines[start : start + most]
        if not data:
            return


@dataclass(frozen=True)
class Route:
    """Decides queries: JSON lines in, JSON lines out, as they come and in order.

    A line is {"query": "..."}, or {"embedding": [...]}, with its own "lambda", "allowed", "previous", "max_cost" or
    "min_score" where it has some; other fields are passed on. Bad lines are told on stderr, skipped, and counted at
    the end."""

    router: RouterFolder
    """Folder of the router."""
    lam: Annotated[float, tyro.conf.arg(name="lambda")]
    """Cost preference, score per unit of cost; clipped to the fitted range."""
    input: MaybeFile = None
    """File of JSON lines; stdin by default."""
    allow: MaybeNames = None
    """Models that may be chosen, comma-separated."""
    max_cost: MaybeNumber = None
    """Most that a query may be expected to cost; where no model is that cheap, the cheapest, and the line says so."""
    min_score: MaybeNumber = None
    """Least score to be expected; where no model is that good, the best, and the line says so."""
    explore: float = 0.0
    """Share of decisions drawn uniformly from the models that meet the limits. Every line has its exact propensity,
    so that the next log can be trusted more."""
    previous: MaybeName = None
    """Model that dialogues are on, where a line does not say."""
    switch_cost: float = 0.0
    """What leaving it costs once (a lost cache): it is kept unless the gain pays for that."""
    seed: MaybeInt = None
    """Of exploration; fresh by default."""

    def run(self) -> int:
        router = Router.load(self.router)
        options = RouteOptions(
            lam=self.lam,
            allowed=None if self.allow is None else tuple(name.strip() for name in self.allow.split(",")),
            max_cost=self.max_cost,
            min_score=self.min_score,
            explore=self.explore,
            previous=self.previous,
            switch_cost=self.switch_cost,
        )
        self._check(router)
        # What is wrong with the options must not be told once a line.
        router.decide(
            np.zeros(router.dim, np.float32),
            self.lam,
            allowed=options.allowed,
            max_cost=self.max_cost,
            min_score=self.min_score,
            explore=self.explore,
            switch_cost=self.switch_cost,
        )
        low, high = router.lambdas[0], router.lambdas[-1]
        if not low <= self.lam <= high:
            print(
                f"jrouter: lambda {self.lam:g} is taken as the nearest fitted one, of {low:g} to {high:g}",
                file=sys.stderr,
            )
        counts = Counts()
        stream: Any = sys.stdin.buffer if self.input is None else open(self.input, "rb")
        with stream:
            _write_all(
                route_lines(
                    router, lines_as_they_come(stream), options, seed=self.seed, report=_complain, counts=counts
                ),
                sys.stdout,
            )
        print(f"jrouter: {counts.decided:,} lines decided, {counts.bad:,} skipped", file=sys.stderr)
        return 1 if counts.bad and not counts.decided else 0

    def _check(self, router: Router) -> None:
        """Raises ValueError for what `Router.decide` would take, and nobody means, or would call by another name."""
        if not (self.lam >= 0 and np.isfinite(self.lam)):
            raise ValueError(f"--lambda: expected a finite number of at least 0, got {self.lam:g}")
        if not 0.0 <= self.explore <= 1.0:
            raise ValueError(f"--explore: expected a share from 0 to 1, got {self.explore:g}")
        if not (self.switch_cost >= 0 and np.isfinite(self.switch_cost)):
            raise ValueError(f"--switch-cost: expected a finite number of at least 0, got {self.switch_cost:g}")
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"--seed: expected at least 0, got {self.seed}")
        known = ", ".join(router.models)
        for flag, names in (("--allow", self.allow), ("--previous", self.previous)):
            for name in [] if names is None else [names] if flag == "--previous" else names.split(","):
                if name.strip() not in router.models:
                    raise ValueError(f"{flag}: unknown model {name.strip()!r}, expected some of {known}")


def _complain(number: int, problem: str) -> None:
    print(f"jrouter: line {number} skipped: {problem}", file=sys.stderr)


def _write_all(lines: Iterable[str], out: TextIO) -> None:
    for line in lines:
        out.write(line + "\n")
        out.flush()
