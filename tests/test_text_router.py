"""Texts to decisions: what the encoder and the policy do apart; saved with its encoder, refused with another."""

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pytest
from compilations import compilations

from jrouter.encoders.errors import EncoderError
from jrouter.encoders.load import load_encoder
from jrouter.io.checkpoint import CheckpointError
from jrouter.io.logs import read_log
from jrouter.router import Router

MODELS = ("large", "small")
TOPICS = {"prove": "large", "greet": "small"}
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "prove it again"}]


def texts(n, seed=0):
    """Queries of two topics, all different."""
    rng = np.random.default_rng(seed)
    return [f"{topic} number {rng.integers(10**6)}" for topic in rng.choice(list(TOPICS), n)]


@cache
def encoder(**settings):
    return load_encoder(dim=32, window=2, **settings)


@cache
def log():
    """The model of a query's topic answers well, the other badly; both are asked at random."""
    rng = np.random.default_rng(1)
    queries = texts(400)
    model = rng.choice(MODELS, len(queries))
    score = [0.9 if TOPICS[query.split()[0]] == name else 0.1 for query, name in zip(queries, model, strict=True)]
    table = pa.table({"query": queries, "model": model, "score": score, "cost": np.full(len(queries), 1e-3)})
    return read_log(table, embed=encoder().encode, text=encoder().text)


@cache
def router():
    return Router.fit(log(), method="regress_and_compare_ridge", lambdas=[0.0, 10.0], encoder=encoder(), assess_folds=0)


def test_a_router_of_texts_learns_what_they_say():
    queries = texts(60, seed=2)
    assert router().route(queries, lam=0.0) == [TOPICS[query.split()[0]] for query in queries]
    assert router().embedding == "hashing" and router().encoder is encoder()


def test_text_is_decided_as_its_embedding_is():
    queries = [*texts(9, seed=3), "", "prove " * 500, "gr\ud83det me"]
    x = encoder().encode(["gr\ufffdet me" if query == queries[-1] else query for query in queries])
    for allowed in (None, ["small"]):
        assert router().route(queries, 5.0, allowed) == router().route(x, 5.0, allowed)
        np.testing.assert_allclose(
            router().probabilities(queries, 5.0, allowed), router().probabilities(x, 5.0, allowed), atol=1e-6
        )
    assert [router().route(query, 5.0) for query in queries] == router().route(queries, 5.0)
    assert router().probabilities(queries[0], 5.0).shape == (2,)


def same(decisions, others):
    """Whether decisions are the same but for rounding: a program of other shapes sums in another order."""
    for one, other in zip(decisions, others, strict=True):
        np.testing.assert_allclose((one.score, one.cost), (other.score, other.cost), rtol=1e-4, atol=1e-7)
        assert one._replace(score=0.0, cost=0.0) == other._replace(score=0.0, cost=0.0)
    return True


def test_a_decision_on_text_is_that_on_its_embedding():
    queries = [*texts(23, seed=9), "", "prove " * 500, CHAT]  # of two widths, in several batches
    x = encoder().encode(queries)
    previous = [None, "small", "large", "gone"] * 6 + [None, "small"]
    settings: tuple[dict[str, Any], ...] = (
        {},
        {"explore": 0.5, "seed": 3},
        {"allowed": ["small"], "explore": 1.0, "seed": 4},
        {"max_cost": 9e-4, "min_score": 0.5},
        {"previous": previous, "switch_cost": 0.05, "explore": 0.3, "seed": 5},
    )
    for asked in settings:
        assert same(router().decide(queries, 5.0, **asked), router().decide(x, 5.0, **asked))
    drawn: Any = router().decide(queries, 5.0, explore=0.5, seed=3)
    assert {round(decision.propensity, 6) for decision in drawn} == {0.25, 0.75}
    kept: Any = router().decide(queries, 5.0, previous=previous, switch_cost=1.0)
    assert {decision.kept for decision in kept} == {True, False}
    assert same([router().decide(query, 5.0) for query in queries], router().decide(queries, 5.0))


def test_threads_that_decide_texts_get_their_own_decisions():
    one = pickle.loads(pickle.dumps(router()))  # which compiles while they ask
    queries = texts(40, seed=10)
    expected = router().decide(queries, 5.0)
    with ThreadPoolExecutor(8) as threads:
        for _ in range(2):
            assert same(threads.map(lambda query: one.decide(query, 5.0), queries), expected)


def test_a_text_whose_embedding_is_not_finite_is_refused():
    broken = replace(
        encoder(), kind=encoder().kind._replace(apply=lambda *given: encoder().kind.apply(*given) * np.nan)
    )
    for decide in (router().with_encoder(broken).decide, router().with_encoder(broken).route):
        with pytest.raises(ValueError, match="x: row 0 is not finite"):
            decide(["prove", "greet"], 5.0)


def test_a_chat_is_one_query_and_a_list_of_chats_several():
    one = router().route(CHAT, lam=0.0)
    assert one == router().route("prove it again", lam=0.0) == "large"
    assert router().route([CHAT, CHAT], lam=0.0) == [one, one]
    with pytest.raises(EncoderError, match="row 1: expected a string, got int"):
        router().route(["prove", 3], lam=0.0)
    with pytest.raises(EncoderError, match="row 0: .*'role'"):
        router().route([{"text": "no role"}], lam=0.0)


def test_saved_with_its_encoder(tmp_path):
    router().save(tmp_path / "r")
    record = json.loads((tmp_path / "r" / "manifest.json").read_text())["encoder"]
    assert record == encoder().spec.to_dict()
    queries = texts(20, seed=4)
    for again in (
        Router.load(tmp_path / "r"),
        Router.load(tmp_path / "r", encoder=encoder()),
        Router.load(tmp_path / "r", encoder="hashing"),
        pickle.loads(pickle.dumps(router())),
    ):
        assert again.route(queries, 1.0) == router().route(queries, 1.0)
    with pytest.raises(CheckpointError, match="field 'encoder' differs .* dim is 16, not 32"):
        Router.load(tmp_path / "r", encoder=load_encoder(dim=16, window=2))


def test_another_process_decides_the_same(tmp_path):
    router().save(tmp_path / "r")
    queries = texts(8, seed=5)
    code = "import json, sys, jrouter; r = jrouter.Router.load(sys.argv[1]); "
    code += "print(json.dumps(r.route(json.loads(sys.argv[2]), lam=1.0)))"
    command = [sys.executable, "-c", code, str(tmp_path / "r"), json.dumps(queries)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == router().route(queries, 1.0)


def test_a_manifest_whose_encoder_is_none(tmp_path):
    router().save(tmp_path / "r")
    path = tmp_path / "r" / "manifest.json"
    manifest = json.loads(path.read_text())
    for record, said in (
        ({**manifest["encoder"], "dim": "wide"}, "field 'dim' is 'wide', expected int"),
        ({**manifest["encoder"], "colour": 1}, "field 'colour' is unknown"),
        ([], "expected an object"),
    ):
        path.write_text(json.dumps(manifest | {"encoder": record}))
        with pytest.raises(CheckpointError, match=said):
            Router.load(tmp_path / "r")
    path.write_text(json.dumps({name: value for name, value in manifest.items() if name != "encoder"}))
    older = Router.load(tmp_path / "r")
    with pytest.raises(ValueError, match="this router reads embeddings, no texts: .* by hashing"):
        older.route("prove", 0.0)
    with pytest.raises(CheckpointError, match="no field 'encoder'"):
        Router.load(tmp_path / "r", encoder="hashing")


def test_an_encoder_that_does_not_fit_the_log():
    with pytest.raises(ValueError, match="makes embeddings of width 16, the log's are of width 32"):
        Router.fit(log(), encoder=load_encoder(dim=16))


def test_nothing_compiles_after_compile():
    one = pickle.loads(pickle.dumps(router()))  # its programs are its own
    examples = texts(30, seed=6)
    one.compile((1,), texts=examples)
    with compilations() as compiled:
        one.route(examples[0], 3.0)
        one.route(list(reversed(examples)), 3.0)
        one.probabilities(examples, 3.0, ["large"])
        one.decide(examples[0], 3.0, explore=0.1)
        one.decide(examples[::-1], 3.0, allowed=["large"], max_cost=1e-3, previous="small", switch_cost=1e-3)
        assert not compiled
        one.route("prove " * 400, 3.0)  # longer than any example
        assert compiled


def test_with_a_mesh_texts_are_embedded_on_it_and_decided_the_same():
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    shared = router().with_encoder(load_encoder(dim=32, window=2, mesh=mesh))
    queries = [*texts(9, seed=8), CHAT]
    assert shared.route(queries, 2.0) == router().route(queries, 2.0)
    np.testing.assert_allclose(shared.probabilities(queries, 2.0), router().probabilities(queries, 2.0), atol=1e-6)
    asked: dict[str, Any] = {"explore": 0.5, "seed": 3, "previous": "small"}
    assert same(shared.decide(queries, 2.0, **asked), router().decide(queries, 2.0, **asked))
