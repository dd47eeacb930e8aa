"""`jrouter pool`: what models a router has, and changes to them without training, with their estimated effect."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jrouter.app.fit import check_folder, save_with_pages
from jrouter.app.options import MaybeFolder, MaybeName, MaybeNames, MaybePlace, RouterFolder
from jrouter.app.read import LogOptions, TeamLog, pairs_of, read_traffic
from jrouter.app.terminal import heading
from jrouter.io.results import plain, text_table
from jrouter.off_policy import fixed_policy_value, paired_difference
from jrouter.router import Router
from jrouter.router_pool import Extended, extend, prunable, prune, reprice, restrict
from jrouter.splits import split_log
from jrouter.types import LoggedData


def list_models(router: Router) -> str:
    """The models of a router as text: in use or not, price, forecast means, the share each gets at some lambdas."""
    summary = {row["name"]: row for row in router.record.get("data", {}).get("models", [])}
    mix = np.array(router.record.get("mix", np.zeros((0, len(router.models)))))
    places = sorted({0, len(router.lambdas) // 2, len(router.lambdas) - 1})
    header = ["model", "in use", "price", "log rows", "score", f"cost, {router.cost_unit}"]
    header += [f"at {router.lambdas[at]:.4g}" for at in places]
    rows = []
    for place, name in enumerate(router.models):
        own = summary.get(name, {})
        shares = ["" if place >= mix.shape[1] or not len(mix) else f"{100 * mix[at, place]:.0f}%" for at in places]
        rows.append(
            [
                name,
                "yes" if name in router.pool else "no",
                f"x{router.prices[place]:g}",
                f"{own['rows']:,}" if own else "",
                f"{own['mean_score']:.3f}" if own.get("mean_score") is not None else "",
                f"{own['mean_cost']:.3g}" if own.get("mean_cost") is not None else "",
                *shares,
            ]
        )
    lines = [heading(f"Router {router.version}: shares of queries by lambda, on the log it was trained on, as trained")]
    lines += ["  " + line for line in text_table(header, rows).splitlines()]
    lines += [f"  {entry['created']}  {entry['what']}" for entry in router.record.get("history", [])]
    return "\n".join(lines)


def effect_of(before: Router, after: Router, log: LoggedData, *, seed: int = 0) -> list[dict[str, Any]]:
    """What a change does on a log's traffic, by lambda.

    Where the log has rows of all models in question, at their prices, its outcomes say so: the doubly robust paired
    difference. Where prices changed, or a model was added, no row of the log has that: the forecasts say.

    Args:
      before: a router, and
      after: it changed: its models are those of `before`, with others after them.
      log: n rows; models as of `evaluate_router`.
      seed: of the folds.

    Returns:
      For each lambda, JSON values: `moved` (share of queries with another choice), `utility`, `score` and `cost` (the
      differences), `utility_error` (None by forecast), and `by` ("log" or "forecast").
    """
    x = np.asarray(log.x)
    weight = np.asarray(log.weight)
    own, others = np.arange(len(x)), {name: place for place, name in enumerate(after.models)}
    score, cost = after.forecast(x)
    by_log = after.prices == (*before.prices, *((1.0,) * (len(after.models) - len(before.models))))
    by_log &= after.models == before.models
    estimates = _by_log(before, after, log, seed) if by_log else None
    rows = []
    for place, lam in enumerate(after.lambdas):
        old, new = (np.array([others[name] for name in router.route(x, lam)]) for router in (before, after))
        moved = float(np.average(old != new, weights=weight))
        if estimates is not None:
            rows.append(
                {"lam": lam, "moved": moved, **{name: one[place] for name, one in estimates.items()}, "by": "log"}
            )
            continue
        d_score, d_cost = (np.average(part[own, new] - part[own, old], weights=weight) for part in (score, cost))
        difference = float(d_score - lam * d_cost)
        found = {"utility": difference, "utility_error": None, "score": float(d_score), "cost": float(d_cost)}
        rows.append({"lam": lam, "moved": moved, **found, "by": "forecast"})
    return rows


def _by_log(before: Router, after: Router, log: LoggedData, seed: int) -> dict[str, list[float]]:
    split = split_log([log], seeds=[seed])[0]
    grid = jnp.asarray(after.lambdas, jnp.float32)
    policies = [router.served(log.models) for router in (after, before)]

    def values(key, log, split, params, grid):
        return [
            fixed_policy_value(key, log, split, policy, one, grid, refit=False)
            for (policy, _), one in zip(policies, params, strict=True)
        ]

    new, old = jax.jit(values)(jax.random.key(seed), log, split, [params for _, params in policies], grid)
    difference, error = paired_difference(new, old)
    return {
        name: np.asarray(one, np.float64).tolist()
        for name, one in {
            "utility": difference,
            "utility_error": error,
            "score": new.score - old.score,
            "cost": new.cost - old.cost,
        }.items()
    }


def effect_as_trained(before: Router, after: Router) -> list[dict[str, Any]]:
    """What is known of a change without a log: of models that leave, the share of queries that they had.

    And at changed prices, what the queries cost more if no choice changed: by the mean cost of each model in the
    training log.
    """
    mix = np.array(before.record.get("mix", []))
    summary = {row["name"]: row for row in before.record.get("data", {}).get("models", [])}
    if not len(mix):
        return []
    mean = np.array([summary.get(name, {}).get("mean_cost") or 0.0 for name in before.models[: mix.shape[1]]])
    change = np.array(after.prices[: mix.shape[1]]) - np.array(before.prices[: mix.shape[1]])
    gone = np.array([name in before.pool and name not in after.pool for name in before.models[: mix.shape[1]]])
    return [
        {
            "lam": lam,
            "moved": float(shares @ gone),
            "cost": float(shares @ (change * mean)),
            "by": "training log, as trained",
        }
        for lam, shares in zip(before.lambdas, mix, strict=True)
    ]


def describe_effect(effect: Sequence[dict[str, Any]], *, cost_unit: str) -> str:
    """An effect as text for a terminal."""
    if not effect:
        return "  nothing is known of its effect: give a log with --log"
    if "utility" not in effect[0]:
        rows = [[f"{row['lam']:.4g}", f"{100 * row['moved']:.1f}%", f"{row['cost']:+.3g}"] for row in effect]
        lines = [
            "  by the training log, if no other choice changed; --log gives values on a log's traffic",
            *(
                "  " + line
                for line in text_table(["lambda", "queries that must move", f"cost, {cost_unit}"], rows).splitlines()
            ),
        ]
        return "\n".join(lines)
    rows = [
        [
            f"{row['lam']:.4g}",
            f"{100 * row['moved']:.1f}%",
            f"{100 * row['utility']:+.2f}"
            + ("" if row["utility_error"] is None else f" ± {196 * row['utility_error']:.2f}"),
            f"{row['score']:+.4f}",
            f"{row['cost']:+.3g}",
        ]
        for row in effect
    ]
    by = {
        "log": "doubly robust, by the log's outcomes; 95% intervals with the nuisances as they are",
        "forecast": "by the router's forecasts: the log has no outcomes at these prices, or of this model",
    }[effect[0]["by"]]
    table = text_table(["lambda", "choices that move", "utility x 100", "score", f"cost, {cost_unit}"], rows)
    return "\n".join([f"  {by}", *("  " + line for line in table.splitlines())])


def summary(effect: Sequence[dict[str, Any]]) -> str:
    """An effect in one sentence, for the router's history."""
    if not effect:
        return "not estimated"
    moved = [100 * row["moved"] for row in effect]
    said = f"{min(moved):.0f} to {max(moved):.0f}% of choices move, by lambda"
    if "utility" not in effect[0]:
        return f"{said}, of those on the training log"
    gains = [100 * row["utility"] for row in effect]
    by = "the log's outcomes" if effect[0]["by"] == "log" else "the router's forecasts on a log's queries"
    return f"{said}; utility x 100 changes by {min(gains):+.1f} to {max(gains):+.1f}, by {by}"


def _added(router: Router, name: str, team: TeamLog) -> Extended:
    """The router with a model more, from that model's scored rows of a log."""
    if name not in team.log.models:
        raise ValueError(f"--add: the log has no rows of {name!r}; it has {', '.join(team.log.models)}")
    scored = np.asarray(team.log.score_weight) > 0
    rows = np.flatnonzero((np.asarray(team.log.model) == team.log.models.index(name)) & scored)
    return extend(
        router, name, np.asarray(team.log.x)[rows], np.asarray(team.log.score)[rows], np.asarray(team.log.cost)[rows]
    )


@dataclass(frozen=True)
class Pool:
    """Lists a router's models; or changes them without training, says what that does, and saves a new version.

    Without --write nothing is written. Changes are made in this order: --add, --price, --keep, --drop, --prune."""

    router: RouterFolder
    """Folder of the router."""
    keep: MaybeNames = None
    """Models in use, comma-separated; the others leave."""
    drop: MaybeNames = None
    """Models that leave, comma-separated."""
    prune: bool = False
    """Lets models leave that are never chosen, and with --log those that another is never dearer nor worse than."""
    price: Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL=MULTIPLE", help_behavior_hint="")] = ()
    """New prices, as multiples of those in the training log: gpt-4=0.5."""
    add: MaybeName = None
    """Name of a model to add, from its scored rows in --log; 30 or more are better."""
    log: MaybePlace = None
    """A log of the traffic that the effect is estimated on."""
    read: LogOptions = LogOptions()
    write: MaybeFolder = None
    """Saves the changed router there; the same folder replaces it, once it is whole."""
    json: bool = False
    """Prints the effect as JSON."""
    seed: int = 0
    """Of folds and samples."""

    def run(self) -> int:
        router = Router.load(self.router)
        changes = (self.keep, self.drop, self.add, self.price or None, self.prune or None)
        if all(change is None for change in changes):
            print(list_models(router))
            return 0
        if self.add is not None and self.log is None:
            raise ValueError("--add needs --log: a log with scored rows of the new model")
        if self.write is not None:
            check_folder("--write", self.write)
        if self.log is None:
            after = self._changed(router, None)
            effect = effect_as_trained(router, after)
        else:
            with read_traffic(router, self.log, self.read, seed=self.seed) as team:
                after = self._changed(router, team)
                log = _aligned(team.log, after.models)
                effect = effect_of(router, after, log, seed=self.seed)
        history = list(after.record["history"])
        history[-1] = {**history[-1], "effect": summary(effect)}
        after = replace(after, record={**after.record, "history": history})
        if self.json:
            print(json.dumps({"from": router.version, "to": after.version, "effect": plain(effect)}, indent=1))
        else:
            print(heading(f"Router {router.version} becomes {after.version}"))
            print("\n".join(f"  {entry['what']}" for entry in history[len(router.record.get("history", [])) :]))
            print(describe_effect(effect, cost_unit=router.cost_unit))
        if self.write is None:
            if not self.json:
                print("Nothing was written: --write FOLDER saves it.")
            return 0
        save_with_pages(after, self.write, _report_beside(self.router))
        if not self.json:
            print(f"Saved: {self.write}")
        return 0

    def _changed(self, router: Router, team: TeamLog | None) -> Router:
        after, said = router, sys.stderr if self.json else sys.stdout
        if self.add is not None:
            assert team is not None
            extended = _added(after, self.add, team)
            after = extended.router
            print(
                f"{self.add}: its score after {extended.relative}'s, {100 * extended.shift:+.1f} points on average; "
                f"each query left out, the error goes from {extended.plain_error:.3f} to {extended.error:.3f}; "
                f"its cost is {extended.cost_ratio:.3g} times {extended.cost_relative}'s",
                file=said,
            )
        if self.price:
            pairs = pairs_of("--price", self.price)
            try:
                after = reprice(after, {name: float(multiple) for name, multiple in pairs.items()})
            except ValueError as problem:
                raise ValueError(f"--price: expected model=multiple: {problem}") from None
        if self.keep is not None:
            after = restrict(after, _names("--keep", self.keep, after))
        if self.drop is not None:
            gone = _names("--drop", self.drop, after)
            if not set(after.pool) - set(gone):
                raise ValueError(f"--drop: no model would be left in use; those in use are {', '.join(after.pool)}")
            after = restrict(after, [name for name in after.pool if name not in gone])
        if self.prune:
            found = prunable(after, None if team is None else np.asarray(team.log.x))
            print(
                f"never chosen: {', '.join(found.unused) or 'none'}; dominated: {', '.join(found.dominated) or 'none'}",
                file=said,
            )
            after = prune(after, found)
        return after


def _names(flag: str, given: str, router: Router) -> list[str]:
    """The models that a flag names, with commas between them."""
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in router.models:
            raise ValueError(f"{flag}: unknown model {name!r}, expected some of {', '.join(router.models)}")
    return names


def _aligned(log: LoggedData, models: tuple[str, ...]) -> LoggedData:
    """The log with its models in the order of a router's, those that it does not have beside them."""
    names = (*models, *(name for name in log.models if name not in models))
    place = jnp.array([names.index(name) for name in log.models], jnp.int32)
    allowed = log.allowed
    if allowed is not None:
        allowed = jnp.zeros((allowed.shape[0], len(names)), bool).at[:, place].set(allowed)
    return replace(log, model=place[log.model], models=names, allowed=allowed)


def _report_beside(folder: Path) -> dict[str, Any] | None:
    file = folder / "diagnosis.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except ValueError as problem:
        raise ValueError(f"{file}: not readable as JSON ({problem}); delete it, and the card goes without it") from None
