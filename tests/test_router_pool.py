"""Changing a router's models: the pool is kept, prices move choices as they should, few queries add a model."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_router import MODELS, D, fitted, make_log, world

from jrouter.forecast import add_model, forecast
from jrouter.router import Router
from jrouter.router_pool import Pruning, extend, prunable, prune, reprice, restrict

X, SCORE, COST = world(400, 11)


def decided(router, lam):
    found = router.decide(X, lam)
    assert isinstance(found, list)
    return [one.model for one in found]


def best(score, cost, lam):
    return [MODELS[at] for at in (score - lam * cost).argmax(axis=1)]


def test_restricted_it_is_route_among_those():
    smaller = restrict(fitted(), ["large", "small"])
    assert smaller.pool == ("small", "large") and smaller.models == MODELS
    assert smaller.route(X, 20.0) == fitted().route(X, 20.0, allowed=["small", "large"])
    assert decided(smaller, 20.0) == smaller.route(X, 20.0)
    assert restrict(smaller, MODELS).route(X, 20.0) == fitted().route(X, 20.0)
    with pytest.raises(ValueError, match="left this router's pool"):
        smaller.route(X, 20.0, allowed=["middle"])


def test_a_plug_in_router_at_new_prices_is_the_plug_in_rule_at_new_prices():
    score, cost = fitted().forecast(X)
    price = np.array([1.0, 3.0, 0.1])
    changed = reprice(fitted(), {"middle": 3.0, "large": 0.1}, date="2026-11-01")
    for lam in (0.0, 20.0, 100.0):
        assert changed.route(X, lam) == best(score, price * cost, lam)
        assert decided(changed, lam) == changed.route(X, lam)
    assert changed.route(X, 100.0) != fitted().route(X, 100.0)
    np.testing.assert_allclose(changed.forecast(X)[1], price * cost, rtol=1e-5)
    assert reprice(changed, {"middle": 1.0, "large": 1.0}).route(X, 100.0) == fitted().route(X, 100.0)


def test_a_change_is_saved_with_its_history(tmp_path):
    changed = restrict(reprice(fitted(), {"large": 0.5}), ["small", "large"])
    changed.save(tmp_path / "r")
    loaded = Router.load(tmp_path / "r")
    assert loaded.version == changed.version and loaded.prices == (1.0, 1.0, 0.5) and loaded.pool == ("small", "large")
    assert loaded.route(X, 50.0) == changed.route(X, 50.0)
    assert [entry["what"] for entry in loaded.record["history"]] == ["prices: large x0.5", "pool: without middle"]
    assert json.loads((tmp_path / "r" / "manifest.json").read_text())["price_date"]


def test_a_new_model_like_an_old_one_is_found_to_be_its_relative_and_routed_to():
    rng = np.random.default_rng(0)
    x, score, cost = world(40, 21)
    like_middle = score[:, 1] + 0.3 + 0.05 * rng.normal(size=40)
    added = extend(fitted(), "new", x, like_middle, 0.5 * cost[:, 1])
    assert added.relative == "middle" and added.cost_relative in MODELS
    assert added.shift == pytest.approx(0.3, abs=0.05) and added.error < 0.15 < added.plain_error
    router = added.router
    assert router.models == (*MODELS, "new") and router.known == 3
    found_score, found_cost = router.forecast(X)
    assert np.sqrt(np.mean((found_score[:, 3] - SCORE[:, 1] - 0.3) ** 2)) < 0.06
    np.testing.assert_allclose(found_cost[:, 3], 0.5 * COST[:, 1], rtol=0.3)
    assert np.abs(found_cost[:, 3] / (0.5 * COST[:, 1]) - 1.0).mean() < 0.05
    truth = np.concatenate([SCORE, SCORE[:, 1:2] + 0.3], axis=1) - 20.0 * np.concatenate(
        [COST, 0.5 * COST[:, 1:2]], axis=1
    )
    chosen = [router.models.index(name) for name in router.route(X, 20.0)]
    before = [router.models.index(name) for name in fitted().route(X, 20.0)]
    gained = truth[np.arange(400), chosen].mean() - truth[np.arange(400), before].mean()
    assert gained > 0.9 * (truth.max(axis=1).mean() - truth[np.arange(400), before].mean())


def test_a_useless_new_model_is_hardly_chosen_and_the_rest_stays():
    x, score, cost = world(40, 22)
    router = extend(fitted(), "bad", x, score[:, 0] - 0.5, cost[:, 2]).router
    chosen, before = router.route(X, 20.0), fitted().route(X, 20.0)
    assert np.mean([name == "bad" for name in chosen]) < 0.02
    assert np.mean([a == b for a, b in zip(chosen, before, strict=True)]) > 0.98


def test_left_out_errors_are_those_of_fits_without_each_query():
    """The closed form against k fits, each without one query."""
    x, score, cost = (np.asarray(part, np.float32) for part in world(12, 23))
    params = jax.tree.map(np.asarray, fitted().forecasts)
    y = score[:, 1] + 0.2 * x[:, 0]
    found = add_model(params, *(jnp.asarray(part) for part in (x, y, cost[:, 1])))
    z = (x - params["centre"]) / params["scale"]
    relative = int(found.relative)
    predicted = np.array([forecast(params, one)[0][relative] for one in x], np.float64)
    residual = y - predicted
    smallest = np.inf
    for a, b in ((1.0, 30.0), (1.0, 300.0), (1.0, np.inf), (4.0, 300.0), (4.0, np.inf), (16.0, np.inf)):
        kernel = 1.0 / a + z @ z.T / (b * D)
        off = []
        for out in range(12):
            rest = np.arange(12) != out
            weight = np.linalg.solve(kernel[np.ix_(rest, rest)] + np.eye(11), residual[rest])
            off.append(residual[out] - kernel[out, rest] @ weight)
        smallest = min(smallest, np.mean(np.square(off)))
    assert float(found.error) == pytest.approx(np.sqrt(smallest), rel=1e-3)


def test_a_model_that_is_never_chosen_or_dominated_is_found_and_leaves():
    x, score, cost = world(60, 24)
    router = extend(fitted(), "dearer", x, score[:, 1] - 0.5, 2 * cost[:, 1]).router
    found = prunable(router, X)
    assert "dearer" in found.unused and not {"small", "large"} & {*found.unused, *found.dominated}
    assert "dearer" not in prune(router, found).pool
    with pytest.raises(ValueError, match="at least one"):
        prune(router, Pruning(router.models, ()))


def test_domination_is_by_forecast_on_every_query():
    x, score, cost = world(60, 25)
    forecasts = dict(fitted().forecasts or {})
    coefficients, intercept = (np.array(forecasts[name]) for name in ("coefficients", "intercept"))
    coefficients[:, 0], intercept[:, 0] = coefficients[:, 1], intercept[:, 1] - np.array([0.1, 0.0])
    router = replace(fitted(), forecasts={**forecasts, "coefficients": coefficients, "intercept": intercept})
    assert prunable(router, X).dominated == ("small",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: restrict(fitted(), ["gpt-9"]), "unknown model 'gpt-9'"),
        (lambda: restrict(fitted(), []), "at least one"),
        (lambda: reprice(fitted(), {"gpt-9": 2.0}), "unknown model 'gpt-9'"),
        (lambda: reprice(fitted(), {"small": 0.0}), "a multiple above 0"),
        (lambda: extend(fitted(), "small", X, SCORE[:, 0], COST[:, 0]), "models already"),
        (lambda: extend(fitted(), "new", X[:1], SCORE[:1, 0], COST[:1, 0]), "2 or more"),
        (lambda: extend(fitted(), "new", X, np.full(400, np.nan), COST[:, 0]), "finite"),
        (lambda: reprice(replace(fitted(), forecasts=None), {"small": 2.0}), "fit it again"),
    ],
)
def test_what_makes_no_sense_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        change()


def test_a_served_policy_is_what_route_does_on_a_log_of_more_models():
    log = make_log(200, 31)
    changed = restrict(reprice(fitted(), {"large": 0.2}), ["small", "large"])
    policy, params = changed.served((*MODELS, "other"))
    probability = jax.vmap(lambda x: policy.probabilities(params, x, 50.0))(log.x)
    assert probability.shape == (200, 4)
    chosen = [(*MODELS, "other")[at] for at in np.asarray(probability).argmax(axis=1)]
    assert chosen == changed.route(log.x, 50.0)
    with pytest.raises(ValueError, match="expected small, middle, large first"):
        changed.served(("large", "small", "middle"))
