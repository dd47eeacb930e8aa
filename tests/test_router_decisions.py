"""Router.decide: as `route` without options; limits, dialogues and exploration as said; forecasts near the truth."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from small_router import COST, MODELS, fitted, world

from jrouter.compiled_decisions import Decision
from jrouter.router import Router

X, SCORE, TRUE_COST = world(300, 7)


def decide(x, lam, **options) -> list[Decision]:
    found = fitted().decide(x, lam, **options)
    assert isinstance(found, list)
    return found


def names(decisions):
    return [one.model for one in decisions]


@pytest.mark.parametrize("lam", [0.0, 20.0, 60.0, 1e6])
def test_without_options_it_is_route(lam):
    decisions = decide(X, lam)
    assert names(decisions) == fitted().route(X, lam)
    assert {one.propensity for one in decisions} == {1.0} and {one.allowed for one in decisions} == {MODELS}
    assert {one.lam for one in decisions} == {min(lam, 100.0)}
    assert {one.router for one in decisions} == {fitted().version}


def test_one_query_is_one_decision():
    one = fitted().decide(X[0], 20.0)
    assert one == decide(X[:1], 20.0)[0]


def test_forecasts_are_near_the_truth_and_what_a_decision_says():
    score, cost = fitted().forecast(X)
    assert np.sqrt(np.mean((score - SCORE) ** 2)) < 0.03
    assert np.abs(cost / TRUE_COST - 1.0).mean() < 0.05
    decisions = decide(X, 20.0)
    place = [MODELS.index(one.model) for one in decisions]
    np.testing.assert_allclose(
        np.array([one.score for one in decisions], float), score[np.arange(300), place], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        np.array([one.cost for one in decisions], float), cost[np.arange(300), place], rtol=1e-4, atol=1e-7
    )


def test_a_limit_on_cost_is_kept_by_forecast_or_said_to_be_unmet():
    score, cost = fitted().forecast(X)
    for one, costs in zip(decide(X, 0.0, max_cost=2e-3), cost, strict=True):
        assert one.unmet == () and one.allowed == tuple(np.array(MODELS)[costs <= 2e-3].tolist())
        assert one.model in one.allowed
    for one, costs in zip(decide(X, 0.0, max_cost=1e-9), cost, strict=True):
        assert one.unmet == ("max_cost",) and one.model == MODELS[int(costs.argmin())]


def test_a_least_score_is_reached_by_forecast_or_said_to_be_unmet():
    score, _ = fitted().forecast(X)
    for one, scores in zip(decide(X, 100.0, min_score=0.6), score, strict=True):
        if scores.max() >= 0.6:
            assert one.unmet == () and scores[MODELS.index(one.model)] >= 0.6
        else:
            assert one.unmet == ("min_score",) and one.model == MODELS[int(scores.argmax())]


def test_exploration_draws_what_it_says_and_its_propensities_are_exact():
    n, explore = 30_000, 0.3
    rows = np.broadcast_to(X[:1], (n, X.shape[1]))
    decisions = decide(np.ascontiguousarray(rows), 20.0, explore=explore, seed=3, allowed=["small", "large"])
    best = fitted().route(X[0], 20.0, allowed=["small", "large"])
    for name in ("small", "large"):
        expected = explore / 2 + (1 - explore) * (name == best)
        said = {one.propensity for one in decisions if one.model == name}
        assert len(said) == 1 and said.pop() == pytest.approx(expected, rel=1e-6)
        share = np.mean([one.model == name for one in decisions])
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / n)
    assert "middle" not in names(decisions)


def test_the_same_seed_draws_the_same():
    draws = [names(decide(X, 20.0, explore=0.5, seed=seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_a_dialogue_stays_where_the_gain_does_not_pay():
    score, cost = fitted().forecast(X)
    lam, switch = 20.0, 5e-3
    values = score - lam * cost
    decisions = decide(X, lam, previous="middle", switch_cost=switch)
    for one, u in zip(decisions, values, strict=True):
        gain = u.max() - u[1]
        if abs(gain - lam * switch) > 1e-4:  # rounding decides on the edge
            stays = gain <= lam * switch
            assert one.model == ("middle" if stays else MODELS[int(u.argmax())])
            assert one.kept == (stays and u.argmax() != 1)
    assert 20 < sum(one.kept for one in decisions) < 250


def test_a_previous_model_that_is_not_there_any_more_is_none():
    assert names(decide(X, 20.0, previous="retired", switch_cost=9.0)) == fitted().route(X, 20.0)
    each = [None, "small"] * 150
    decisions = decide(X, 20.0, previous=each, switch_cost=1e6, allowed=["middle", "large"])
    assert names(decisions) == fitted().route(X, 20.0, allowed=["middle", "large"])


def test_threads_get_what_one_gets():
    alone = [names(decide(X[i : i + 7], 20.0, max_cost=5e-3)) for i in range(0, 280, 7)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: names(decide(X[i : i + 7], 20.0, max_cost=5e-3)), range(0, 280, 7)))
    assert together == alone


def test_a_version_is_of_the_content(tmp_path):
    router = fitted()
    router.save(tmp_path / "one")
    assert Router.load(tmp_path / "one").version == router.version
    assert len(router.version) == 12 and int(router.version, 16) >= 0
    others = [
        replace(router, price=(1.0, 1.0, 2.0)),
        replace(router, available=("small", "large")),
        replace(router, lambdas=(0.0, 20.0, 101.0)),
    ]
    assert len({router.version, *(other.version for other in others)}) == 4


def test_a_saved_router_decides_alike_and_remembers_where_it_comes_from(tmp_path):
    fitted().save(tmp_path / "r")
    loaded = Router.load(tmp_path / "r")
    assert loaded.decide(X, 20.0, max_cost=2e-3) == decide(X, 20.0, max_cost=2e-3)
    assert loaded.record["seed"] == 0 and loaded.record["data"]["rows"] == 600
    rows = {row["name"]: row for row in loaded.record["data"]["models"]}
    assert set(rows) == set(MODELS)
    assert rows["large"]["mean_cost"] == pytest.approx(COST[2], rel=0.1)
    shares = np.array(loaded.record["mix"])
    assert shares.shape == (3, 3)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_cost": float("nan")}, "max_cost: expected a finite number"),
        ({"min_score": float("inf")}, "min_score: expected a finite number"),
        ({"explore": 1.1}, "explore: expected a share"),
        ({"previous": ["small"]}, "previous: expected one model for each of 300"),
        ({"allowed": ["gpt-9"]}, "unknown model 'gpt-9'"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        decide(X, 20.0, **options)


def test_a_router_without_forecasts_says_what_to_do():
    with pytest.raises(ValueError, match="no forecast.*fit it again"):
        replace(fitted(), forecasts=None).decide(X, 20.0)


def test_an_embedding_that_is_not_finite_is_named():
    x = X.copy()
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match="row 3 is not finite"):
        decide(x, 20.0)
