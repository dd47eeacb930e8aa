"""Router: names in, names out; saved and loaded it decides the same; every misuse is a clear error."""

import copy
import json
import pickle
import shutil
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.io.checkpoint import CheckpointError
from jrouter.methods import build_method
from jrouter.networks import count_parameters
from jrouter.nuisances import propensity, ridge
from jrouter.nuisances.crossfit import OUTCOME_MODELS, PROPENSITY_MODELS, NuisanceConfig
from jrouter.policy import Policy, Problem
from jrouter.router import Router
from jrouter.splits import split_log
from jrouter.types import LoggedData, Nuisances

N, D = 240, 8
MODELS = ("small", "middle", "large")
LAMBDAS = (0.0, 50.0, 400.0)
SMALL = {"hidden": (16,), "epochs": 2, "batch_size": 64}
CONFIGS = {
    "rm_softmax": SMALL,
    "rm_interval": SMALL | {"joint_epochs": 1, "knots": (0.0, 100.0, 400.0)},
    "regress_and_compare_knn": {},
    "best_single": {"estimator": "snips"},
}
X = np.random.default_rng(1).normal(size=(40, D)).astype(np.float32)


@cache
def log():
    rng = np.random.default_rng(0)
    x, model = rng.normal(size=(N, D)), rng.integers(0, 3, N)
    score = rng.random(N) < 1 / (1 + np.exp(-2 * x[np.arange(N), model]))
    cost = np.array([1e-4, 1e-3, 1e-2])[model] * np.exp(0.3 * rng.normal(size=N))
    x, score, cost = (jnp.asarray(part, jnp.float32) for part in (x, score, cost))
    return LoggedData(x, jnp.asarray(model, jnp.int32), score, cost, models=MODELS, cost_unit="EUR")


@cache
def problem():
    split = split_log([log()], seeds=[0], n_folds=3)[0]
    cost = jnp.broadcast_to(jnp.array([1e-4, 1e-3, 1e-2]), (N, 3))
    nuisances = Nuisances(jnp.full(N, 1 / 3), jnp.full((N, 3), 0.5), cost, split.fold)
    return Problem(log(), split, nuisances, jnp.array(LAMBDAS))


@cache
def router(method):
    fit = jax.jit(build_method(method, CONFIGS[method]).fit)
    params = fit(jax.random.key(0), problem())
    return Router(method, CONFIGS[method], params, MODELS, D, LAMBDAS, cost_unit="EUR", embedding="mini")


@cache
def simple():
    """One fixed utility for all queries: at 0 large, at 30 middle, at 1000 small."""
    params = {"score": jnp.array([0.3, 0.6, 0.8]), "cost": jnp.array([1e-3, 2e-3, 1e-2])}
    return Router("best_single", {}, params, MODELS, D, (0.0, 1000.0), embedding="mini")


@cache
def saved(method, folder):
    router(method).save(folder)
    return folder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def folder(shelf, tmp_path):
    """A saved router, to be spoilt."""
    return shutil.copytree(saved("best_single", shelf / "best_single"), tmp_path / "mine")


@pytest.mark.parametrize("method", list(CONFIGS))
def test_a_loaded_router_decides_the_same(shelf, method):
    before, after = router(method), Router.load(saved(method, shelf / method))
    asked = (0.0, 20.0, 50.0, 250.0, 400.0)
    for lam in asked:
        np.testing.assert_array_equal(after.probabilities(X, lam), before.probabilities(X, lam))
        assert after.route(X, lam, ["small", "large"]) == before.route(X, lam, ["small", "large"])
    if method != "best_single":
        # Choices differ over queries and lambdas, or the lines above would say little.
        assert len({name for lam in asked for name in before.route(X, lam)}) > 1
    for field in ("method", "models", "dim", "lambdas", "cost_unit", "embedding"):
        assert getattr(after, field) == getattr(before, field)
    assert build_method(after.method, after.config).config == build_method(method, CONFIGS[method]).config


def test_the_manifest_says_what_the_router_is_for(shelf):
    manifest = json.loads((saved("rm_interval", shelf / "rm_interval") / "manifest.json").read_text())
    assert manifest["method"] == "rm_interval"
    assert manifest["config"]["knots"] == [0.0, 100.0, 400.0]
    assert manifest["models"] == list(MODELS) and manifest["embedding_dim"] == D and manifest["embedding"] == "mini"
    assert manifest["lambdas"] == list(LAMBDAS) and manifest["cost_unit"] == "EUR"
    assert set(manifest["versions"]) == {"jrouter", "jax", "flax", "orbax-checkpoint"}
    assert manifest["params"]["policy"]["knots"] == {"shape": [3], "dtype": "float32"}


def test_loading_for_the_right_models_and_width(folder):
    assert Router.load(folder, models=MODELS, dim=D).models == MODELS
    assert Router.load(folder, models=list(MODELS)).dim == D


@pytest.mark.parametrize("models", [["small", "middle", "other"], ["large", "middle", "small"], ["small", "middle"]])
def test_a_router_for_other_models_or_another_order_is_refused(folder, models):
    with pytest.raises(CheckpointError, match="mine: field 'models' is small, middle, large, expected"):
        Router.load(folder, models=models)


def test_a_router_for_other_embeddings_is_refused(folder):
    with pytest.raises(CheckpointError, match="mine: field 'embedding_dim' is 8, expected 9"):
        Router.load(folder, dim=9)


@pytest.mark.parametrize("field", ["method", "config", "models", "embedding_dim", "lambdas", "cost_unit", "params"])
def test_a_missing_field_is_named(folder, field):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest[field]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=f"mine: manifest.json has no field '{field}'"):
        Router.load(folder)


@pytest.mark.parametrize(
    "field,value,message",
    [
        ("method", "rm_magic", "field 'method' is 'rm_magic'"),
        ("format", 99, "field 'format' is 99"),
        ("config", {"estimator": "dr", "newer_setting": 1}, "field 'config'.*newer_setting"),
    ],
)
def test_a_router_that_this_version_does_not_know_is_refused(folder, field, value, message):
    manifest = json.loads((folder / "manifest.json").read_text()) | {field: value}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=f"mine.*{message}"):
        Router.load(folder)


def test_folders_that_hold_no_router_are_refused(folder, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no checkpoint here"):
        Router.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        Router.load(tmp_path)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="mine/manifest.json: not readable as JSON"):
        Router.load(folder)


def test_params_without_their_state_are_refused(folder):
    shutil.rmtree(folder / "params" / "state")
    with pytest.raises(CheckpointError, match="mine: params do not match manifest.json"):
        Router.load(folder)


def test_one_query_gives_a_name_and_rows_give_a_list():
    assert simple().route(X[0], 0.0) == "large"
    assert simple().route(X[:3], 0.0) == ["large"] * 3
    assert simple().route(X[:1], 0.0) == ["large"]
    assert simple().route(X[0].tolist(), 0.0) == "large"
    assert simple().probabilities(X[0], 0.0).shape == (3,)
    assert simple().probabilities(X[:3], 0.0).shape == (3, 3)


def test_rows_are_routed_as_one_by_one():
    together = router("rm_softmax").route(X, 50.0)
    assert together == [router("rm_softmax").route(x, 50.0) for x in X]
    assert len(set(together)) > 1


def test_lambda_trades_score_for_cost():
    assert [simple().route(X[0], lam) for lam in (0.0, 30.0, 1000.0)] == ["large", "middle", "small"]


def test_allowed_restricts_the_pool():
    assert simple().route(X[0], 0.0, ["small", "middle"]) == "middle"
    assert simple().route(X[:2], 0.0, ("small",)) == ["small", "small"]
    assert simple().route(X[0], 0.0, (name for name in ("middle",))) == "middle"
    assert simple().probabilities(X[0], 0.0, ["small", "middle"])[2] == 0.0


def test_lambda_beyond_the_fitted_range_is_clipped():
    narrow = replace(simple(), lambdas=(30.0, 40.0))
    assert narrow.route(X[0], 0.0) == "middle"  # not large, as at 0
    assert narrow.route(X[0], 1e9) == "middle"  # not small, as at 1e9


def test_a_policy_that_explores_is_routed_to_its_most_probable_model():
    explorer = Router("random", {}, {"values": jnp.zeros(3)}, MODELS, D, (0.0,))
    np.testing.assert_allclose(explorer.probabilities(X[0], 0.0, ["middle", "large"]), [0.0, 0.5, 0.5], rtol=1e-6)
    assert explorer.route(X[0], 0.0, ["middle", "large"]) in ("middle", "large")


@pytest.mark.parametrize(
    "arguments,message",
    [
        ((X[:, :3], 0.0), r"x: expected embeddings of mini of width 8, got shape \(40, 3\)"),
        ((np.zeros((2, 2, D)), 0.0), r"x: expected embeddings of mini of width 8, got shape \(2, 2, 8\)"),
        ((np.float32(1.0), 0.0), r"x: expected embeddings of mini of width 8, got shape \(\)"),
        ((np.where(np.arange(3)[:, None] == 1, np.nan, X[:3]), 0.0), "x: row 1 is not finite"),
        ((X[0] * np.inf, 0.0), "x: row 0 is not finite"),
        ((X[0], -1.0), "lam: expected a finite number of at least 0, got -1.0"),
        ((X[0], float("nan")), "lam: expected a finite number of at least 0, got nan"),
        ((X[0], float("inf")), "lam: expected a finite number of at least 0, got inf"),
        ((X[0], 0.0, ["small", "huge"]), "allowed: unknown model 'huge', expected some of small, middle, large"),
        ((X[0], 0.0, []), "allowed: the pool is empty"),
        ((X[0], 0.0, "small"), "allowed: expected a list of model names, got the string 'small'"),
    ],
)
def test_misuse_is_a_clear_error(arguments, message):
    for method in ("route", "probabilities"):
        with pytest.raises(ValueError, match=message):
            getattr(simple(), method)(*arguments)


def test_a_service_compiles_before_traffic(monkeypatch):
    traces = []
    original = Policy.choice

    def counted(self, *arguments):
        traces.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(Policy, "choice", counted)
    fresh = replace(simple(), lambdas=(0.0, 500.0))
    fresh.compile([1, 8])
    assert len(traces) == 2  # one for each batch size: the counter counts
    for lam in (0.0, 1, 2.5, np.float64(30.0), 1e6):
        fresh.route(X[0], lam)
        fresh.route(X[4:8].astype(np.float64), lam, ["small", "middle"])
        fresh.route(X, lam)
    assert len(traces) == 2
    # Compiling is of an object, not of the values it is made of: a copy starts anew.
    assert replace(fresh).route(X[:1], 0.0) == fresh.route(X[:1], 0.0)
    assert len(traces) == 3


@pytest.mark.parametrize("sizes", [[], [0], [1, -4], [2.5], ["8"]], ids=str)
def test_batch_sizes_that_are_no_positive_integers_are_refused(sizes):
    with pytest.raises(ValueError, match="batch_sizes: expected positive integers, got"):
        simple().compile(sizes)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one)), replace])
def test_a_used_router_can_be_copied(clone):
    used = router("rm_softmax")
    expected = used.route(X, 50.0)
    again = clone(used)
    assert again.route(X, 50.0) == expected and again._policy is not used._policy
    for field in ("method", "config", "models", "dim", "lambdas", "cost_unit", "embedding"):
        assert getattr(again, field) == getattr(used, field)


@pytest.mark.parametrize("method", ["rm_softmax", "rm_interval"])
def test_params_at_one_lambda_decide_as_all(method):
    params, policy = router(method).params, build_method(method, CONFIGS[method]).policy
    at, x = policy.at, jnp.asarray(X)
    assert at is not None and count_parameters(at(params, 60.0)) < count_parameters(params)

    def both(lam):
        values = jax.vmap(policy.apply, in_axes=(None, 0, None))
        return jnp.stack([values(params, x, lam), values(at(params, lam), x, lam)])

    # At knots, between them, and beyond.
    values = jax.jit(jax.vmap(both))(jnp.array([0.0, 20.0, 60.0, 100.0, 300.0, 400.0, 500.0]))
    np.testing.assert_allclose(values[:, 0], values[:, 1], rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(values[0] - values[4]).max()) > 1e-3  # lambdas differ, or this would say little


@pytest.fixture
def quick_nuisances(monkeypatch):
    monkeypatch.setitem(OUTCOME_MODELS, "ridge", lambda: ridge.ridge(((float("inf"), 3.0),)))
    monkeypatch.setitem(PROPENSITY_MODELS, "logistic", lambda: propensity.logistic((0.1,)))
    return NuisanceConfig("ridge")


def test_fit_learns_from_a_log_and_keeps_what_it_was_given(quick_nuisances, tmp_path):
    given = {"nuisances": quick_nuisances, "embedding": "mini", "seed": 3, "assess_folds": 2, "progress": False}
    fitted = Router.fit(log(), method="best_single", **given)
    # What the log says of it is kept, is said, and is what its own comparison must be: nothing over the best single.
    assert [one.lam for one in fitted.assessment] == list(fitted.lambdas)
    fitted.save(tmp_path / "router")
    assert Router.load(tmp_path / "router").assessment == fitted.assessment
    assert "gain over logging" in fitted.explain() and fitted.assessed(1e9) == fitted.assessment[-1]
    for one in fitted.assessment:
        assert (one.gain_over_best, one.gain_over_best_error) == (0.0, 0.0)
        assert one.band_low <= one.gain_low <= one.gain <= one.gain_high <= one.band_high
        assert one.gamma_confident <= one.gamma and one.verdict in ("ok", "caution", "refuse")
        assert bool(one.reasons) == (one.verdict != "ok")
        np.testing.assert_allclose(one.gain, one.value - one.logging_value, atol=1e-5)
    with pytest.raises(ValueError, match="was not assessed.*assess_folds"):
        replace(fitted, assessment=()).assessed(0.0)
    assert (fitted.models, fitted.dim, fitted.cost_unit, fitted.embedding) == (MODELS, D, "EUR", "mini")
    assert fitted.lambdas[0] == 0.0 and list(fitted.lambdas) == sorted(set(fitted.lambdas))
    # Every model is as good as the others: at a high price of cost, the cheapest.
    assert replace(fitted, lambdas=(0.0, 1e6)).route(X[0], 1e6) == "small"


def test_fit_refuses_full_feedback_and_unknown_names():
    with pytest.raises(ValueError, match="'carrot_mlp' needs every model's outcome on every query"):
        Router.fit(log(), method="carrot_mlp")
    with pytest.raises(ValueError, match="unknown method 'best': expected one of random, .*rm_interval"):
        Router.fit(log(), method="best")
    with pytest.raises(ValueError, match="'rm_softmax' has no setting 'temprature': expected one of .*temperature"):
        Router.fit(log(), method="rm_softmax", config={"temprature": 2.0})


@pytest.mark.parametrize(
    "lambdas",
    [[100.0, 0.0], [0.0, 0.0], [-1.0, 0.0], [[0.0, 1.0]], [float("nan")], [0.0, float("inf")], []],
    ids=str,
)
def test_fit_refuses_lambdas_that_are_no_ascending_numbers(monkeypatch, lambdas):
    def too_late(*arguments, **named):
        raise AssertionError("the log was split before the lambdas were checked")

    monkeypatch.setattr("jrouter.learn.split_log", too_late)
    with pytest.raises(ValueError, match="lambdas must ascend"):
        Router.fit(log(), method="best_single", lambdas=lambdas)
