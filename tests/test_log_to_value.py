"""From files as a team has them to the value of a policy: rows that are in the log by choice, against known truth.

Columns have the gateway's names, a contract in TOML says what they are, and scores live in a file of their own. Mean
scores bend (`outcome_bend`), so that the outcome model is wrong and weights do the work; what each case leaves out is
far from the truth, so that no case passes for its width.
"""

import csv
import gzip
import json
from dataclasses import dataclass, replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_answers import draw_answers

from jrouter.app.evaluate import evaluate_router
from jrouter.app.read import LogOptions, read_team_log
from jrouter.known_worlds import (
    draw_known_log,
    draw_known_queries,
    linear_rule,
    make_known_world,
    true_value,
)
from jrouter.nuisances import events, propensity, ridge
from jrouter.nuisances.crossfit import OUTCOME_MODELS, PROPENSITY_MODELS, NuisanceConfig
from jrouter.off_policy import fixed_policy_value
from jrouter.router import Router
from jrouter.splits import split_log

N, T, D = 20_000, 3, 2
LAMBDAS = jnp.array([0.0, 200.0])
WORLD = jax.jit(lambda: make_known_world(jax.random.key(3), n_models=T, dim=D, outcome_bend=0.1))()
RULE, PARAMS = linear_rule(WORLD)
CONFIG = NuisanceConfig("ridge")
COLUMNS = {
    "request_id": "trace",
    "model": "llm",
    "score": "rating",
    "cost": "usd",
    "propensity": "p_chosen",
    "keep_probability": "sampling_rate",
    "allowed_models": "candidates",
    "embedding": "vector",
}
"""Our name -> the gateway's."""


@pytest.fixture(autouse=True, scope="module")
def one_strength():
    """One strength of each fit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OUTCOME_MODELS, "ridge", lambda: ridge.ridge(((1e-3, 1e-3),)))
        patch.setitem(PROPENSITY_MODELS, "logistic", lambda: propensity.logistic((3e-3,)))
        patch.setattr(events, "PENALTIES", (3e-3,))
        yield


@dataclass(frozen=True)
class Case:
    """What chose the rows of a log, and how it is written."""

    file: str
    propensity: bool
    keep: bool = False
    scores: bool = False
    allowed: bool = False


CASES = {
    "kept, propensity logged": Case("log.csv", True, keep=True),
    "kept, propensity absent": Case("log.jsonl", False, keep=True),
    "scored, propensity absent": Case("log.jsonl.gz", False, scores=True),
    "allowed, propensity logged": Case("log.csv", True, allowed=True),
    "all, propensity logged": Case("log.jsonl", True, keep=True, scores=True, allowed=True),
    "all, propensity absent": Case("log.csv", False, keep=True, scores=True, allowed=True),
}


@cache
def drawn(case):
    """Rows of a log as the gateway's dicts, without scores; all scores that were ever recorded, as (id, rating).

    The logging policy is a softmax over the models that the row was allowed, and `propensity` its p(t | x, A).
    """
    n = (3 if case.keep else 1) * N
    key_x, key_allowed, key_model, key_score, key_cost, key_keep, key_scored = jax.random.split(jax.random.key(7), 7)
    x = draw_known_queries(WORLD, key_x, n)
    allowed = jnp.ones((n, T), bool)
    if case.allowed:  # models 1 and 2 the less, the better they are
        allowed = jax.random.bernoulli(key_allowed, jax.nn.sigmoid(-5.0 * x @ WORLD.ability.T)).at[:, 0].set(True)
    model, score, cost, chosen = draw_answers(WORLD, (key_model, key_score, key_cost), x, allowed)
    score = score.astype(int)  # as thumbs are
    keep = jnp.ones(n)
    if case.keep:
        best = (WORLD.level + x @ WORLD.ability.T).max(axis=1)
        keep = 0.1 + 0.9 * jax.nn.sigmoid(jnp.array([1.5, -1.5, 0.0])[model] - 20.0 * (best - best.mean()))
    scored = jnp.ones(n, bool)
    if case.scores:
        logit = jnp.array([2.0, -1.0, 0.0])[model] - 1.2 * x[:, 1]
        scored = jax.random.bernoulli(key_scored, 0.1 + 0.9 * jax.nn.sigmoid(logit))
    rows = np.flatnonzero(jax.random.bernoulli(key_keep, keep))[:N]
    assert len(rows) == N
    x, allowed, model, score, cost, chosen, keep = jax.tree.map(
        lambda part: np.asarray(part, np.float64 if part.dtype == jnp.float32 else None).tolist(),
        (x, allowed, model, score, cost, chosen, keep),
    )
    log = []
    for row in rows.tolist():
        here = {"trace": f"call-{row:06d}", "llm": WORLD.models[model[row]], "usd": cost[row], "vector": x[row]}
        if case.propensity:
            here["p_chosen"] = min(chosen[row], 1.0)
        if case.keep:
            here["sampling_rate"] = keep[row]
        if case.allowed:
            here["candidates"] = [name for name, one in zip(WORLD.models, allowed[row], strict=True) if one]
        if not case.scores:
            here["rating"] = score[row]
        log.append(here)
    # In any order, and of requests that the log dropped, too.
    order = np.random.default_rng(0).permutation(np.flatnonzero(scored)).tolist()
    return log, [(f"call-{row:06d}", score[row]) for row in order]


def write_csv(path, records):
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(records[0])
        for record in records:
            writer.writerow(json.dumps(one) if isinstance(one, list) else one for one in record.values())


def write_files(folder, case, *, unmapped=()):
    """Writes a log without the columns `unmapped`, its scores and its contract; returns paths of log and contract."""
    rows, scores = drawn(case)
    rows = [{name: value for name, value in row.items() if name not in unmapped} for row in rows]
    path, contract = folder / case.file, folder / "contract.toml"
    if case.file.endswith(".csv"):
        write_csv(path, rows)
    else:
        with gzip.open(path, "wt") if case.file.endswith(".gz") else open(path, "w") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
    there = {*rows[0], "rating"}
    lines = ["[columns]", *(f'{ours} = "{theirs}"' for ours, theirs in COLUMNS.items() if theirs in there)]
    if case.scores:
        write_csv(folder / "thumbs.csv", [{"trace": name, "rating": rating} for name, rating in scores])
        lines.insert(0, 'scores = "thumbs.csv"')
    contract.write_text("\n".join(lines) + "\n")
    return path, contract


def read(folder, case, **changed):
    """A log from its files, and the report of what was read."""
    path, contract = write_files(folder, case, **changed)
    with read_team_log(path, LogOptions(contract=contract), progress=False) as team:
        return team.log, team.report


@cache
def truth(of=None):
    """Mean score and mean cost, [L] each, of the rule, or of a policy and its params."""
    policy, params = (RULE, PARAMS) if of is None else of
    return true_value(WORLD, policy, params, LAMBDAS, jax.random.key(1), n=2**18)


def whole(log):
    """The log with what it leaves out written out, so that one compiled program values all: weight 1, all allowed."""
    n = log.model.shape[0]
    return replace(
        log,
        row_weight=log.weight,
        scored=jnp.ones(n, bool) if log.scored is None else log.scored,
        allowed=jnp.ones((n, T), bool) if log.allowed is None else log.allowed,
    )


@cache
def program():
    def values(log, split):
        # Errors of nuisances as they are: weights dominate them, and refitting takes a minute to compile.
        of = partial(fixed_policy_value, jax.random.key(0), log, split, RULE, PARAMS, LAMBDAS, nuisances=CONFIG)
        return [of(estimator=estimator, refit=False) for estimator in ("dr", "ips")]

    return jax.jit(values)


def furthest(log):
    """The most standard errors that mean score or mean cost of the rule is off the truth: any lambda, dr and ips."""
    log = whole(log)
    split = replace(split_log([log], seeds=[0], n_folds=3)[0], model_size=N)  # else compiled for each log
    score, cost = truth()
    z = [((one.score - score) / one.score_error, (one.cost - cost) / one.cost_error) for one in program()(log, split)]
    return float(np.abs(z).max())


@pytest.mark.parametrize("name", CASES)
def test_what_chose_the_rows_is_repaired_and_matters(tmp_path, name):
    case = CASES[name]
    log, report = read(tmp_path, case)
    assert report.rows_kept == N and not report.rejected and report.propensity in ("logged", "absent")
    assert (log.propensity is not None) == (report.propensity == "logged") == case.propensity
    assert (report.joined is not None) == case.scores
    if report.joined is not None:  # scores of requests that the log dropped have no row
        assert report.joined["matched"] == N - report.unscored < N and (report.joined["unmatched"] > 0) == case.keep
    assert furthest(log) < 4
    if case.keep:
        assert furthest(read(tmp_path, case, unmapped=["sampling_rate"])[0]) > 4
    if case.scores:
        assert furthest(replace(log, scored=None)) > 4  # 0 where there is no score
    if case.allowed and case.propensity:  # an estimated one is of what was chosen given the query, whatever was allowed
        assert furthest(read(tmp_path, case, unmapped=["candidates"])[0]) > 4


@pytest.mark.slow
def test_a_router_on_such_a_log(tmp_path):
    case = CASES["all, propensity logged"]
    log, _ = read(tmp_path, case)
    own, _ = draw_known_log(WORLD, jax.random.key(20), 1_000)
    method, lambdas = "regress_and_compare_pooled", LAMBDAS.tolist()
    router = Router.fit(own, method=method, lambdas=lambdas, nuisances=CONFIG, assess_folds=0, progress=False)
    policy, params = router.served(log.models)
    score, cost = true_value(WORLD, policy, params, LAMBDAS, jax.random.key(1), n=2**18)
    found = evaluate_router(router, log, refit=False, nuisances=CONFIG)["by_lambda"]
    # What a team would take: answers where the log agrees with the router, over the propensity, unscored ones as 0.
    chosen = jax.vmap(lambda x: jax.vmap(lambda lam: policy.probabilities(params, x, lam))(LAMBDAS))(log.x)
    ratio = np.asarray(chosen)[np.arange(N), :, np.asarray(log.model)] / np.asarray(log.propensity)[:, None]
    naive = (ratio * np.asarray(log.score)[:, None]).sum(axis=0) / ratio.sum(axis=0)
    for place, one in enumerate(found):
        assert abs(one["score"] - score[place]) < 4 * one["score_error"]
        assert abs(one["cost"] - cost[place]) < 4 * one["cost_error"]
        assert abs(naive[place] - score[place]) > 4 * one["score_error"]
