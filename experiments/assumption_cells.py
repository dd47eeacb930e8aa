"""What one cell of `assumptions.py` computes: logs of one violation at one strength, analysed and learned from."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import assumption_programs as programs
import jax
import jax.numpy as jnp
import numpy as np
import sessions
import violations
from assumption_analyses import Analyses, Found, Learned, Values
from assumption_programs import BLOCKS, RM
from scipy import stats
from violations import FAMILIES, LAM, RULE

from jrouter.known_worlds import draw_known_queries
from jrouter.metrics import utility
from jrouter.preferences import with_utility
from jrouter.types import Array

BEST, RC, RC_WEIGHTED = "best_single", "regress_and_compare_pooled", "regress_and_compare_pooled_ipw"
JUMPS = {"logged smoothly": 0.0, "logged by the jump too": 5.0}
"""Variants of "lipschitz", by how much the log-odds of the logging policy follow the jump."""
DECLINES = {"after the log": 1.0, "in the log's last quarter": 1.0 - 1.0 / BLOCKS}
"""Variants of "decline", by the share of the log that is written before the fall."""


def affine(analyses: Analyses, variant: str, strength: Array) -> Found:
    """Utility of one family, estimated as it is, and from score and cost."""
    family = jnp.int32(list(FAMILIES).index(variant))
    test = analyses.test(analyses.plain)
    mean = violations.mean_utility(variant, test.true_score, test.true_cost, strength)
    test = replace(test, score=mean, mean_score=mean, cost=0 * mean, mean_cost=0 * mean)
    truth = analyses.truth(analyses.plain, test)
    logs = analyses.plain_logs
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), logs)
    flat = with_utility(flat, violations.mixed_utility(variant), strength)
    worth = jax.tree.map(lambda leaf: leaf.reshape(-1, analyses.n, *leaf.shape[1:]), flat)
    values = {f"{name} on the utility": one for name, one in analyses.values(worth, analyses.plain, truth).items()}

    both, covariance = analyses.score_and_cost

    def whole(pair):
        return programs.utility_of(family, pair[0], pair[1] / programs.THOUSAND, strength)

    slope = jax.vmap(jax.grad(whole))(both)
    error = jnp.sqrt(jnp.einsum("si,sij,sj->s", slope, covariance, slope))
    values["of mean score and mean cost"] = Values(jax.vmap(whole)(both), error, truth)
    params = violations.rule_params(analyses.plain)
    found = analyses.jitted(
        programs.predicted_value, logs, analyses.split, params, family, strength, config=analyses.config
    )
    value, error = found
    values["of predicted score and cost"] = Values(value, error, truth)

    learned = {}
    for method in (BEST, RC):
        learned[f"{method}, on the utility"] = analyses.learned(worth, test, method)
        apart = (analyses.few(logs), analyses.split, analyses.judging(test), family, strength)
        learned[f"{method}, score and cost apart"] = Learned(
            *analyses.jitted(programs.learn_apart, *apart, method=method, config=analyses.config)
        )
    return Found(values, learned, {})


def lipschitz(analyses: Analyses, variant: str, strength: Array) -> Found:
    """Scores that jump, logged by a policy that knows of the jump, or does not."""
    logs, every = analyses.drawn(violations.draw_jump_log, analyses.half, strength, jnp.float32(JUMPS[variant]))
    test = analyses.test(analyses.half, violations.jump_means(analyses.half, strength))
    truth = analyses.truth(analyses.half, test)
    values = analyses.values(logs, analyses.half, truth)
    known = replace(logs, propensity=_chosen(every, logs.model))
    values["dr, true propensities"] = analyses.values(known, analyses.half, truth)["dr"]
    judging = analyses.judging(test)
    assert judging.x is not None
    smooth = utility(*jax.vmap(violations.means_of(analyses.half))(judging.x), LAM)
    learned = {method: analyses.learned(logs, test, method) for method in (BEST, RC)}
    found, bounds = analyses.jitted(
        programs.learn_and_bound, analyses.few(logs), analyses.split, judging, smooth, config=analyses.config
    )
    learned[RM] = Learned(*found)
    shares = {f"{kind}: {name}": float(each.mean()) for kind, parts in bounds.items() for name, each in parts.items()}
    return Found(values, learned, shares)


def ignorability(analyses: Analyses, variant: str, strength: Array) -> Found:
    """Logs that chose by the realised score, with propensities estimated from x and with the true ones."""
    del variant
    logs, every = analyses.drawn(violations.draw_outcome_log, analyses.plain, strength)
    test = analyses.test(analyses.plain)
    truth = analyses.truth(analyses.plain, test)
    values = analyses.values(logs, analyses.plain, truth)
    known = replace(logs, propensity=_chosen(every, logs.model))
    valid = analyses.values(known, analyses.plain, truth)
    values |= {f"{name}, true p(t | x, outcomes)": valid[name] for name in ("dr", "ips")}
    learned = {method: analyses.learned(logs, test, method) for method in (BEST, RC, RM)}
    for method in (BEST, RC_WEIGHTED, RM):
        learned[f"{method}, true p(t | x, outcomes)"] = analyses.learned(known, test, method)
    return Found(values, learned, {"logged answers of score 1": float(logs.score.mean())})


def sutva(analyses: Analyses, variant: str, strength: Array) -> Found:
    """Sessions, analysed row by row, in clusters, with who answered before in x, and by pairs of turns."""
    del variant
    world, params = analyses.half, violations.rule_params(analyses.half)
    drawn = analyses.drawn(sessions.draw_sessions, world, strength)
    truth = float(
        jax.jit(
            lambda loss: sessions.deployed_utility(
                world,
                jax.random.key(2),
                lambda x: RULE.apply(params, x, LAM),
                loss,
                sessions=analyses.truth_queries // 4,
            )
        )(strength)
    )
    rows = replace(drawn.log, group=None)
    values = {f"{name}, by rows": one for name, one in analyses.values(rows, world, truth).items()}
    by_session = partial(analyses.values, world=world, truth=truth, split=analyses.session_split)
    values["dr, by sessions"] = by_session(drawn.log)["dr"]
    previous = jax.vmap(sessions.with_previous)(drawn)
    values["dr, turn before in x"] = by_session(previous)["dr"]
    pairs = analyses.jitted(programs.pair_logs, drawn, analyses.session_split, config=analyses.config)
    values["dr, by pairs of turns"] = by_session(pairs, policy=sessions.PAIR_RULE)["dr"]

    learned = {}
    for name, method, logs in (
        (BEST, BEST, drawn.log),
        (RC, RC, drawn.log),
        (f"{RC}, turn before in x", RC, previous),
    ):
        operands = (analyses.few(logs), analyses.session_split, strength, world)
        found = analyses.jitted(programs.learn_and_deploy, *operands, method=method, config=analyses.config)
        learned[name] = Learned(found)
    switched = 1.0 - float(drawn.kept.mean()) * sessions.TURNS / (sessions.TURNS - 1) + 1 / (sessions.TURNS - 1)
    return Found(values, learned, {"switches in the log": switched})


def traffic(analyses: Analyses, variant: str, strength: Array) -> Found:
    """Later queries are harder: the log's values, reweighted by the known and by an estimated density ratio."""
    del variant
    world = analyses.harder
    logs = analyses.drawn(violations.draw_log, world)
    test = analyses.test(world, tilt=strength)
    truth = analyses.truth(world, test)
    values = analyses.values(logs, world, truth)
    own = analyses.truth(world, analyses.test(world))
    values["dr, of the log's traffic"] = values["dr"]._replace(truth=own)

    later = jax.vmap(lambda key: violations.tilted_queries(world, jax.random.fold_in(key, 1), analyses.n, strength))
    ratios = {
        "known ratio": jax.vmap(jax.vmap(lambda x: violations.density_ratio(x, strength)))(logs.x),
        "estimated ratio": analyses.jitted(programs.estimated_ratio, logs.x, later(analyses.keys)),
    }
    learned = {method: analyses.learned(logs, test, method) for method in (BEST, RC)}
    for name, ratio in ratios.items():
        weighted = replace(logs, row_weight=ratio)
        values[f"dr, {name}"] = analyses.values(weighted, world, truth)["dr"]
        if name == "known ratio":
            learned |= {f"{method}, {name}": analyses.learned(weighted, test, method) for method in (BEST, RC)}
    share = ratios["known ratio"]
    effective = float((share.sum(axis=1) ** 2 / jnp.square(share).sum(axis=1)).mean() / analyses.n)
    return Found(values, learned, {"effective share of the rows": effective})


def decline(analyses: Analyses, variant: str, strength: Array) -> Found:
    """One model's score falls, after the log or in its last quarter, and what a check by blocks of time sees."""
    world, params = analyses.harder, violations.rule_params(analyses.harder)
    x = draw_known_queries(world, jax.random.key(4), 10_000)
    # The model that the policy chooses most.
    model = jax.vmap(lambda x: RULE.probabilities(params, x, LAM))(x).sum(axis=0).argmax()
    since = jnp.float32(DECLINES[variant])
    logs = analyses.drawn(violations.draw_falling_log, world, model, strength, since)
    test = analyses.test(world, violations.fall_means(world, model, strength))
    truth = analyses.truth(world, test)
    # Only the check looks at times; without them these logs share programs with others.
    timeless = replace(logs, time=None)
    recent = replace(timeless, row_weight=(logs.time >= 1 - 1 / BLOCKS).astype(jnp.float32))
    values = analyses.values(timeless, world, truth)
    values["dr, last quarter"] = analyses.values(recent, world, truth)["dr"]
    learned = {method: analyses.learned(timeless, test, method) for method in (BEST, RC)}
    learned |= {f"{method}, last quarter": analyses.learned(recent, test, method) for method in (BEST, RC)}
    statistic = analyses.jitted(programs.block_statistics, logs, analyses.split, config=analyses.config)
    # Bonferroni over models.
    p_value = stats.chi2.sf(np.asarray(statistic), BLOCKS - 1) * statistic.shape[1]
    flagged = p_value < 0.05
    return Found(
        values,
        learned,
        {
            "logs flagged": float(flagged.any(axis=1).mean()),
            "logs in which the right model is flagged": float(flagged[:, int(model)].mean()),
        },
    )


def _chosen(every: Array, model: Array) -> Array:
    """[S, n], of probabilities [S, n, T] those of the logged models."""
    return jnp.take_along_axis(every, model[..., None], axis=-1)[..., 0]


class Violation(NamedTuple):
    """How its cells are computed, and in which variants, at which strengths; at strength 0 the assumption holds."""

    cell: Callable[[Analyses, str, Array], Found]
    variants: tuple[str, ...]
    strengths: tuple[float, ...]


VIOLATIONS = {
    "affine": Violation(affine, tuple(FAMILIES), (0.0, 0.5, 1.0)),
    "lipschitz": Violation(lipschitz, tuple(JUMPS), (0.0, 0.1, 0.2, 0.4)),
    "ignorability": Violation(ignorability, ("logged by realised scores",), (0.0, 0.1, 0.25, 0.5, 1.0)),
    "sutva": Violation(sutva, ("context lost on a switch",), (0.0, 0.05, 0.1, 0.2)),
    "traffic": Violation(traffic, ("harder queries",), (0.0, 0.5, 1.0, 2.0)),
    "decline": Violation(decline, tuple(DECLINES), (0.0, 0.05, 0.1, 0.2)),
}
