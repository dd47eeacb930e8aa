"""A service answers every query, from one version of its router, which is replaced while threads ask."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from hypothesis import given, settings
from hypothesis import strategies as st

from jrouter.app import service as serving
from jrouter.app.service import Service
from jrouter.app.warming import texts_of_all_widths
from jrouter.encoders.batches import widths
from jrouter.encoders.load import load_encoder
from jrouter.io.checkpoint import CheckpointError
from jrouter.router import Router

MODELS = ("large", "medium", "small")
D = 6
X = np.random.default_rng(0).standard_normal((64, D)).astype(np.float32)
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "prove it"}]


def made(seed, *, dim=D, models=MODELS, lambdas=(0.0, 10.0, 100.0)):
    """A router of random ridges, as `Router.fit` makes them of a log."""
    rng, shape = np.random.default_rng(seed), (2, len(models))
    scaling = {"centre": jnp.zeros(dim), "scale": jnp.float32(1.0)}
    heads = {"coefficients": jnp.array(0.3 * rng.standard_normal((*shape, dim)), jnp.float32)}
    heads["intercept"] = jnp.array(rng.random(shape), jnp.float32)
    # Scores of about 0.5, costs of about 0.005.
    units = {"mean": jnp.array([[0.5], [5e-3]]) * jnp.ones(shape), "deviation": jnp.array([[0.2], [1e-3]])}
    units["deviation"] = units["deviation"] * jnp.ones(shape)
    forecasts = {
        **scaling,
        "coefficients": units["deviation"][..., None] * heads["coefficients"],
        "intercept": units["mean"] + units["deviation"] * heads["intercept"],
    }
    return Router(
        method="regress_and_compare_ridge",
        config={},
        params={"model": heads, "scaling": scaling, **units},
        models=models,
        dim=dim,
        lambdas=lambdas,
        forecasts=forecasts,
        known=len(models),
    )


first, second = cache(lambda: made(1)), cache(lambda: made(2))


@cache
def of_texts():
    return made(3, dim=16).with_encoder(load_encoder(dim=16, window=1))


@cache
def service(**settings):
    """Shared by tests that leave it as it is, but for its counts."""
    return Service(first(), lam=10.0, fallback="small", **settings)


def added(before, after):
    return {name: count for name in after if (count := after[name] - before[name])}


def test_decides_as_its_router_does():
    before = service().counts
    for row, asked in enumerate(
        (
            {},
            {"allowed": ["large", "small"], "explore": 0.3, "seed": 5},
            {"max_cost": 4e-3, "min_score": 0.4, "previous": "large", "switch_cost": 1e-3},
        )
    ):
        assert service().decide(X[row], 50.0, **asked) == first().decide(X[row], 50.0, **asked)
    assert service().decide(X[0]) == first().decide(X[0], 10.0)
    assert added(before, service().counts) == {"decided": 4}


@pytest.mark.parametrize("lam", [-1.0, 100.1, float("nan"), float("inf"), "much", [1.0]])
def test_a_lambda_out_of_range_is_answered_by_the_fallback_model(lam):
    before = service().counts
    decision = service().decide(X[0], lam)
    assert decision[:3] == ("small", 1.0, ("small",)) and decision[4:] == (None, None, (), False, first().version)
    assert decision.lam == (lam if isinstance(lam, float) and np.isfinite(lam) else 10.0)
    assert added(before, service().counts) == {"lambda": 1}
    assert "fitted from 0 to 100" in service().problems["lambda"]


def test_or_clipped_where_the_service_says_so():
    clipping = service(out_of_range="clip")
    before = clipping.counts
    assert clipping.decide(X[0], 1e6) == first().decide(X[0], 100.0)
    assert clipping.decide(X[0], 100) == first().decide(X[0], 100.0)
    assert clipping.decide(X[0], -1.0).allowed == clipping.decide(X[0], float("inf")).allowed == ("small",)
    assert added(before, clipping.counts) == {"decided": 2, "clipped": 1, "lambda": 2}


@pytest.mark.parametrize(
    "query", [X[0, 1:], X[0] * np.nan, X[:2], "a text", CHAT, None, {}, [[1.0], [1.0, 2.0]], [], ["a", "b"], object()]
)
def test_a_query_that_cannot_be_decided_is_answered_by_the_fallback_model(query):
    before = service().counts
    decision = service().decide(query, 50.0)
    assert decision == ("small", 1.0, ("small",), 50.0, None, None, (), False, first().version)
    assert added(before, service().counts) == {"query": 1}


JUNK = st.recursive(
    st.none() | st.floats() | st.text(max_size=9) | st.binary(max_size=4),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), some),
    max_leaves=6,
)


@settings(deadline=None)
@given(query=JUNK, lam=JUNK)
def test_nothing_in_a_query_or_lambda_raises(query, lam):
    before = reader().counts
    decision = reader().decide(query, lam)
    assert decision.model in MODELS and 0 < decision.propensity <= 1 and decision.model in decision.allowed
    assert sum(added(before, reader().counts).values()) == 1 and "error" not in reader().problems, reader().problems


@cache
def reader():
    return Service(of_texts(), lam=0.0, fallback="small", warm=["short"])


def test_texts_and_chats_are_decided_and_others_counted():
    before = reader().counts
    assert reader().decide(CHAT) == of_texts().decide("prove it", 0.0)
    assert reader().decide([{"role": "user"}]).allowed == ("small",)  # no turn in it
    assert added(before, reader().counts) == {"decided": 1, "query": 1}


def test_the_fallback_model_keeps_to_the_pool_of_a_query():
    assert service().decide(None, allowed=["small", "large"]).model == "small"
    assert service().decide(None, allowed=["medium", "large"])[:3] == ("large", 1.0, ("large",))
    with pytest.raises(ValueError, match="allowed: the pool is empty"):
        service().decide(None, allowed=[])


@pytest.mark.parametrize("query", [X[0], None])
def test_what_the_caller_got_wrong_raises_whatever_the_query(query):
    before = service().counts
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"allowed": ["tiny"]}, "unknown model 'tiny'"),
        ({"allowed": "large"}, "expected a list of model names"),
        ({"explore": 2.0}, "expected a share from 0 to 1"),
        ({"max_cost": float("nan")}, "max_cost"),
        ({"switch_cost": "dear"}, "real number"),
    )
    for asked, message in wrong:
        with pytest.raises(ValueError, match=message):
            service().decide(query, **asked)
    assert service().counts == before


def test_other_failures_are_answered_counted_apart_and_logged_once(monkeypatch, caplog):
    broken = Service(first(), lam=10.0, fallback="small")

    def fail(*_, **__):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(Router, "decide", fail)
    with caplog.at_level(logging.WARNING, serving.__name__):
        assert [broken.decide(X[0]).model for _ in range(3)] == ["small"] * 3
    assert broken.counts["error"] == 3 and "the device is gone" in broken.problems["error"]
    assert len(caplog.records) == 1 and "the device" not in caplog.text


def test_exploration_is_drawn_as_its_propensities_say():
    exploring = Service(first(), lam=10.0, fallback="small", explore=0.6, seed=0)
    decisions = [exploring.decide(X[0]) for _ in range(2_000)]
    best = first().route(X[0], 10.0)
    for name in MODELS:
        p = 0.4 * (name == best) + 0.2
        assert {round(d.propensity, 6) for d in decisions if d.model == name} == {round(p, 6)}
        assert np.mean([d.model == name for d in decisions]) == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 2_000))
    again = Service(first(), lam=10.0, fallback="small", explore=0.6, seed=0)
    assert [again.decide(X[0]).model for _ in range(50)] == [d.model for d in decisions[:50]]


def test_threads_draw_apart():
    exploring = Service(first(), lam=10.0, fallback="small", explore=1.0, seed=0)
    together = threading.Barrier(4)

    def ask(_):
        together.wait()
        return tuple(exploring.decide(X[0]).model for _ in range(40))

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(ask, range(4)))) == 4


def test_every_decision_is_of_one_version_while_it_is_replaced(tmp_path):
    first().save(tmp_path / "one")
    second().save(tmp_path / "two")
    changing = Service(tmp_path / "one", lam=10.0, fallback="small")
    expected = {router.version: [router.decide(x, 10.0) for x in X] for router in (first(), second())}
    stop, together = threading.Event(), threading.Barrier(9)

    def ask(number):
        together.wait()
        found, place = [], number
        while not stop.is_set() or len(found) < 100:
            query = None if place % 5 == 0 else X[place % len(X)]
            found.append((place, changing.decide(query)))
            place += 1
        return found, [changing.decide(x) for x in X[:5]]  # after the reload

    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ask, number) for number in range(8)]
        together.wait()
        assert changing.reload(tmp_path / "two")
        stop.set()
        found, afterwards = zip(*(one.result() for one in asked), strict=True)
    assert all(late == expected[second().version][:5] for late in afterwards)
    decisions = [decision for one in found for decision in one]
    for place, decision in decisions:
        if place % 5 == 0:
            assert decision[:3] == ("small", 1.0, ("small",)) and decision.router in expected
        else:
            assert decision == expected[decision.router][place % len(X)]
    assert first().version in {decision.router for _, decision in decisions}
    for one in found:  # each thread sees the new version from some query on
        versions = [decision.router == second().version for _, decision in one]
        assert versions == sorted(versions)
    counts, unsure = changing.counts, sum(place % 5 == 0 for place, _ in decisions)
    assert added(dict.fromkeys(counts, 0), counts) == {"decided": len(decisions) - unsure + 8 * 5, "query": unsure}


def test_a_decision_that_a_reload_falls_into_is_of_the_old_version(tmp_path):
    second().save(tmp_path / "two")
    changing = Service(first(), lam=10.0, fallback="small")

    class Slow:
        """A lambda that takes as long as a reload."""

        def __float__(self):
            changing.reload(tmp_path / "two")
            return 10.0

    slow: Any = Slow()
    assert changing.decide(X[0], slow) == first().decide(X[0], 10.0)
    assert changing.decide(X[0], 10.0) == second().decide(X[0], 10.0)


def test_reloads_what_has_changed(tmp_path):
    folder = tmp_path / "router"
    first().save(folder)
    changing = Service(folder, lam=10.0, fallback="small")
    assert not changing.reload_if_changed() and not changing.reload()
    first().save(folder)  # written again, the same
    assert not changing.reload_if_changed() and changing.router.version == first().version
    second().save(folder)
    assert changing.reload_if_changed() and changing.router.version == second().version
    assert changing.decide(X[0]) == second().decide(X[0], 10.0)
    (folder / "manifest.json").rename(folder / "aside")  # as between the two renames of a save
    assert not changing.reload_if_changed() and changing.router.version == second().version


def test_a_folder_that_does_not_fit_leaves_the_old_version(tmp_path):
    routers = {
        "width": (made(4, dim=D + 1), CheckpointError, "field 'embedding_dim' is 7, this service's queries have 6"),
        "fallback": (made(4, models=("large", "tiny")), ValueError, "fallback: 'small' is none of the router's pool"),
        "lambda": (made(4, lambdas=(20.0, 30.0)), ValueError, "lam: 10.0 is none of the router's"),
    }
    changing = Service(first(), lam=10.0, fallback="small")
    for name, (router, error, message) in routers.items():
        router.save(tmp_path / name)
        with pytest.raises(error, match=message):
            changing.reload(tmp_path / name)
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        changing.reload(tmp_path / "nothing")
    for reload in (changing.reload, changing.reload_if_changed):
        with pytest.raises(ValueError, match="made of a router"):
            reload()
    assert changing.router is first() and changing.decide(X[0]) == first().decide(X[0], 10.0)
    second().save(tmp_path / "two")
    assert changing.reload(tmp_path / "two") and not changing.reload_if_changed()


def test_another_encoder_is_refused_and_the_same_not_loaded_twice(tmp_path):
    made(5, dim=16).with_encoder(load_encoder(dim=16, window=1)).save(tmp_path / "same")
    made(5, dim=16).with_encoder(load_encoder(dim=16, window=2)).save(tmp_path / "other")
    changing = Service(of_texts(), lam=10.0, fallback="small", warm=["short"])
    assert changing.reload(tmp_path / "same") and changing.router.encoder is of_texts().encoder
    with pytest.raises(CheckpointError, match="field 'encoder' differs .*window is 1, not 2"):
        changing.reload(tmp_path / "other")
    assert changing.decide(CHAT).allowed == MODELS


def test_a_folder_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    first().save(tmp_path / "router")
    load, loads = Router.load, []

    def replaced(folder):
        loads.append(load(folder))
        if len(loads) == 1:
            second().save(folder)
        return loads[-1]

    monkeypatch.setattr(Router, "load", replaced)
    assert Service(tmp_path / "router", lam=10.0, fallback="small").router.version == second().version
    assert len(loads) == 2


def test_nothing_is_compiled_after_it_is_warm(monkeypatch):
    monkeypatch.setattr(serving, "WARM_CHARACTERS", 300)  # the longest text below has 289
    warm = Service(of_texts(), lam=10.0, fallback="small", explore=0.1)
    texts = [" ".join(f"word{number}" for number in range(n)) for n in (0, 1, 2, 5, 9, 20, 40)]
    with compilations() as found:
        for row, text in enumerate(texts):
            assert warm.decide(text, float(row), allowed=MODELS[: 1 + row % 3], max_cost=1e-3 * row).lam == row
            warm.decide([{"role": "user", "content": text}], previous="small", switch_cost=1e-3, explore=0.5)
        warm.decide(np.zeros(16))
        warm.decide(None, 1e9)
    assert not found
    assert added(dict.fromkeys(warm.counts, 0), warm.counts) == {"decided": 2 * len(texts), "query": 1, "lambda": 1}


def test_texts_of_all_widths_need_each_shape_once():
    encoder = of_texts().encoder
    found = [encoder.prepare([text])[0].inputs.ids.shape for text in texts_of_all_widths(encoder, 4096)]
    assert found == [(1, width) for width in widths(2**16)[: len(found)]] and found[-1][1] > 4096


def test_what_does_not_fit_is_refused_at_once():
    for wanted, message in (
        ({"fallback": "tiny"}, "fallback: 'tiny' is none of the router's pool: large, medium, small"),
        ({"lam": 1e9}, "lam: 1000000000.0 is none of the router's, fitted from 0 to 100"),
        ({"explore": 1.5}, "explore"),
        ({"out_of_range": "extrapolate"}, "out_of_range: expected 'fallback' or 'clip'"),
    ):
        with pytest.raises(ValueError, match=message):
            Service(first(), **{"lam": 10.0, "fallback": "small", **wanted})
