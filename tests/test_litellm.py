"""jrouter inside LiteLLM, without a network: what is decided is what is logged, and what is read back."""

import asyncio
import copy
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_service import MODELS, made, of_texts

from jrouter.app import cli
from jrouter.app.litellm_deployments import weighted
from jrouter.app.litellm_strategy import Strategy, _Drawn, install, is_installed
from jrouter.app.service import Service
from jrouter.compiled_decisions import Decision
from jrouter.encoders.load import load_encoder
from jrouter.io.adapters import ADAPTERS, Dropped
from jrouter.io.adapters.litellm import ALLOWED_MODELS, LAMBDA, MODEL, PROPENSITY, ROUTER
from jrouter.io.contract import Contract
from jrouter.io.ingest import ingest
from jrouter.io.logs import read_log

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import asks the web for prices
WHY = "litellm is the gateway that these tests run in: pip install litellm"
litellm = pytest.importorskip("litellm", reason=WHY, exc_type=ImportError)
# Warnings of LiteLLM's own: names that it deprecates itself, connections that it leaves open.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.filterwarnings("error:::jrouter")]

KEYS = (LAMBDA, PROPENSITY, ROUTER, ALLOWED_MODELS, MODEL)
FAILS = "litellm.InternalServerError"


class Spy(Service):
    """A service that remembers what it decided."""

    def __init__(self, router=None, **settings):
        settings = {"fallback": "small", "warm": ["short"], **settings}
        super().__init__(router or of_texts(), lam=10.0, seed=0, **settings)
        self.decisions = []

    def decide(self, query, lam=None, **settings):
        self.decisions.append((query, super().decide(query, lam, **settings)))
        return self.decisions[-1][1]


def deployment(model, group="auto", *, id=None, mock="yes", **params):
    """An element of model_list that answers without a network, at a price, as LiteLLM knows none of these models."""
    prices = {"input_cost_per_token": 1e-5 * (1 + len(model)), "output_cost_per_token": 1e-5}
    given = {"model": f"openai/{model}", "api_key": "none", "mock_response": mock, **prices, **params}
    return {"model_name": group, "litellm_params": given, "model_info": {"id": id or model}}


def gateway_of(*deployments, retries=0, **settings):
    listed = list(deployments) or [deployment(model) for model in MODELS]
    return litellm.Router(model_list=listed, num_retries=retries, retry_after=0, **settings)


def chat(text):
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


class Payloads(litellm.integrations.custom_logger.CustomLogger):
    """Collects what LiteLLM logs of each answer."""

    def __init__(self):
        super().__init__()
        self.found = []

    def log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.found.append(copy.deepcopy(kwargs["standard_logging_object"]))

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.log_success_event(kwargs, response_obj, start_time, end_time)

    def of(self, answers):
        """Those of these answers, in their order, once all are there."""
        ids, until = [answer.id for answer in answers], time.monotonic() + 20
        while time.monotonic() < until and not {one["id"] for one in self.found} >= set(ids):
            time.sleep(0.01)
        by_id = {one["id"]: one for one in self.found}
        return [by_id[name] for name in ids]


@pytest.fixture
def payloads() -> Iterator[Payloads]:
    before, collecting = list(litellm.callbacks), Payloads()
    litellm.callbacks = [collecting]
    yield collecting
    for hook in ("success_callback", "_async_success_callback", "failure_callback", "_async_failure_callback"):
        setattr(litellm, hook, [one for one in getattr(litellm, hook) if one is not collecting])
    litellm.callbacks = before


def written(payload) -> dict[str, Any]:
    """What the strategy wrote, and whatever else is there under its names."""
    return {name: value for name, value in (payload["metadata"]["spend_logs_metadata"] or {}).items() if name in KEYS}


def said(decision) -> dict[str, Any]:
    values = (decision.lam, decision.propensity, decision.router, list(decision.allowed), decision.model)
    return dict(zip(KEYS, values, strict=True))


def ask(gateway, text: Any = "prove it", model="auto", **more):
    messages = chat(text) if isinstance(text, str) else text
    return gateway.completion(model=model, messages=messages, **more)


def ask_async(gateway, payloads, *requests):
    """Answers to requests made at once, when they are logged."""

    async def all_of_them():
        answers = await asyncio.gather(*(gateway.acompletion(**{"model": "auto", **one}) for one in requests))
        until = time.monotonic() + 20  # the log is written on this loop
        while time.monotonic() < until and len(payloads.found) < len(answers):
            await asyncio.sleep(0.01)
        return answers

    return asyncio.run(all_of_them())


def test_what_is_logged_is_what_was_decided(payloads):
    gateway, service = gateway_of(), Spy(explore=0.5)
    install(gateway, service)
    answers = [ask(gateway, f"question {number}") for number in range(8)]
    found = payloads.of(answers)
    payloads.found.clear()
    requests = [{"messages": chat(f"question {number}")} for number in range(8, 16)]
    found += payloads.of(ask_async(gateway, payloads, *requests))
    decided = {query[-1]["content"]: decision for query, decision in service.decisions}
    assert len(decided) == len(found) == 16
    for payload in found:
        decision = decided[payload["messages"][-1]["content"]]
        assert written(payload) == said(decision) and payload["model_id"] == decision.model
    assert len({decision.model for decision in decided.values()}) == 3
    assert {round(decision.propensity, 4) for decision in decided.values()} == {0.1667, 0.6667}


def test_the_circle_closes(payloads, tmp_path):
    gateway, service = gateway_of(), Spy(explore=0.5)
    install(gateway, service)
    answers = [ask(gateway, f"question {number}") for number in range(60)]
    found = payloads.of(answers)
    lines = "".join(json.dumps(payload, default=str) + "\n" for payload in found)
    (tmp_path / "log.jsonl").write_text(lines)
    scores = "".join(f"{answer.id},{number % 2}\n" for number, answer in enumerate(answers))
    (tmp_path / "scores.csv").write_text(f"request_id,score\n{scores}")

    contract = Contract(adapter="litellm_payload", scores=str(tmp_path / "scores.csv"))
    encoder = of_texts().encoder
    read = ingest(tmp_path / "log.jsonl", tmp_path / "clean", contract, embed=encoder.encode, text=encoder.text)
    assert read.report.rows_kept == 60 and read.report.propensity == "logged"
    assert read.report.joined is not None and read.report.joined["matched"] == 60
    log = read_log(read.folder, models=list(MODELS), embedding="embedding")
    decisions = [decision for _, decision in service.decisions]
    assert [log.models[index] for index in log.model] == [decision.model for decision in decisions]
    assert log.propensity is not None
    np.testing.assert_allclose(log.propensity, [decision.propensity for decision in decisions], rtol=1e-6)
    np.testing.assert_array_equal(log.score, [number % 2 for number in range(60)])
    np.testing.assert_allclose(log.x, encoder.encode([chat(f"question {number}") for number in range(60)]), atol=1e-6)
    # 10 tokens in and 20 out, always: mock answers have no others.
    np.testing.assert_allclose(log.cost, [1e-4 * (1 + len(one.model)) + 2e-4 for one in decisions], rtol=1e-5)


def test_the_circle_goes_on_to_a_verdict(payloads, tmp_path, monkeypatch, capsys):
    """As at a desk: answers are logged, scored, and diagnosed by the command."""
    monkeypatch.setattr("jrouter.encoders.load.HASHING_DIM", 8)
    gateway, service = gateway_of(), Spy(explore=0.6)
    install(gateway, service)
    answers = [ask(gateway, f"{'prove' if number % 2 else 'greet'} number {number}") for number in range(240)]
    found = payloads.of(answers)
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(payload, default=str) + "\n" for payload in found))
    rng = np.random.default_rng(0)
    means = [0.8 if decision.model == "medium" else 0.5 for _, decision in service.decisions]
    rows = [f"{answer.id},{rng.random() < mean:d}" for answer, mean in zip(answers, means, strict=True)]
    (tmp_path / "scores.csv").write_text("\n".join(["request_id,score", *rows]))
    files = [str(tmp_path / name) for name in ("log.jsonl", "scores.csv", "report.json")]
    given = ["--adapter", "litellm_payload", "--scores", files[1], "--window", "1", "--lambdas", "0,100"]
    code = cli.main(["diagnose", files[0], *given, "--json", files[2]])
    report, said = json.loads((tmp_path / "report.json").read_text()), capsys.readouterr().out
    level = report["verdict"]["level"]
    assert said.startswith(f"Verdict: {level}: ") and code == 0 and level in ("ok", "caution"), said
    assert report["propensity"]["kind"] == "logged" and "Propensities are the log's own" in " ".join(said.split())
    assert report["log"]["rows"] == report["source"]["joined"]["matched"] == 240
    drawn = [decision.model for _, decision in service.decisions]
    assert {row["name"]: row["rows"] for row in report["models"]} == {name: drawn.count(name) for name in MODELS}
    # Mock answers have 10 tokens in and 20 out; prices are the deployments'.
    for row in report["models"]:
        assert row["mean_cost"] == pytest.approx(1e-4 * (1 + len(row["name"])) + 2e-4, rel=1e-4)


def test_the_log_is_read_back_under_the_routers_names(payloads):
    """Whatever the gateway calls the deployments that serve them."""
    names = ("gpt-4o", "mini")
    service = Spy(
        made(6, dim=16, models=names).with_encoder(load_encoder(dim=16, window=1)), fallback="mini", explore=1.0
    )
    gateway = gateway_of(deployment("gpt-4o", id="eu-1"), deployment("gpt-4o-mini-2024", id="eu-2"))
    install(gateway, service, deployments={"mini": "openai/gpt-4o-mini-2024"})
    found = payloads.of([ask(gateway) for _ in range(12)])
    assert {payload["model_id"] for payload in found} == {"eu-1", "eu-2"}
    for payload, (_, decision) in zip(found, service.decisions, strict=True):
        (row,) = ADAPTERS["litellm_payload"].rows(payload)
        assert not isinstance(row, Dropped)
        assert (row["model"], row["propensity"], row["allowed_models"]) == (decision.model, 0.5, list(names))
        assert payload["model_id"] == {"gpt-4o": "eu-1", "mini": "eu-2"}[decision.model]


def test_lambda_comes_with_a_request(payloads):
    gateway, service = gateway_of(), Spy()
    install(gateway, service)
    asked = ({"jrouter_lambda": 100}, {"spend_logs_metadata": {"jrouter_lambda": "3.5", "team": "a"}}, {})
    found = payloads.of([ask(gateway, metadata=metadata) for metadata in asked])
    assert [written(payload)[LAMBDA] for payload in found] == [100.0, 3.5, 10.0]
    assert found[1]["metadata"]["spend_logs_metadata"]["team"] == "a"
    (payload,) = payloads.of([ask(gateway, metadata={"jrouter_lambda": "much"})])
    assert written(payload)[ALLOWED_MODELS] == ["small"] and service.counts["lambda"] == 1


def test_some_endpoints_keep_litellms_metadata_apart_from_the_clients():
    strategy = install(gateway_of(), Spy())
    request: dict[str, Any] = {"litellm_metadata": {"model_group": "auto"}, "metadata": {"jrouter_lambda": 7}}
    strategy.get_available_deployment("auto", chat("prove it"), request_kwargs=request)
    assert request["litellm_metadata"]["spend_logs_metadata"][LAMBDA] == 7.0
    assert request["metadata"] == {"jrouter_lambda": 7}
    assert strategy.get_available_deployment("auto", chat("prove it"))["model_name"] == "auto"  # of no request at all


@pytest.mark.parametrize("message", [{"role": "assistant", "content": "no turn of a user"}, {"role": "system"}])
def test_what_cannot_be_read_is_answered_by_the_fallback_model(payloads, message):
    gateway, service = gateway_of(), Spy(explore=1.0)
    install(gateway, service)
    (payload,) = payloads.of([ask(gateway, [message])])
    assert written(payload) | {LAMBDA: 10.0} == written(payload)
    assert (payload["model_id"], written(payload)[PROPENSITY], written(payload)[ALLOWED_MODELS]) == (
        "small",
        1.0,
        ["small"],
    )
    assert service.counts["query"] == 1


def test_a_router_that_reads_no_chats_is_given_the_last_turn_and_embeddings_come_from_a_function():
    encoder = of_texts().encoder

    class Reads(Spy):
        def __init__(self, window):
            super().__init__()
            self.spec = None if window == "none" else replace(encoder.spec, window=window)

        @property
        def router(self):
            return replace(of_texts(), encoder_spec=self.spec)

    for window, query, expected in (
        (None, None, "prove it"),
        (2, None, chat("prove it")),
        ("none", lambda messages, request: [len(messages), 0.0], [2, 0.0]),
        ("none", lambda messages, request: 1 / 0, None),
    ):
        service = Reads(window)
        gateway = gateway_of()
        install(gateway, service, query=query)
        ask(gateway)
        assert service.decisions[0][0] == expected


def cool_down(gateway, name):
    store = gateway.health().cooldowns if hasattr(gateway, "health") else gateway.cooldown_cache
    store.add_deployment_to_cooldown(name, original_exception=RuntimeError(), exception_status=500, cooldown_time=60.0)


@pytest.mark.parametrize("paused", [False, True])
def test_only_models_with_a_healthy_deployment_are_drawn(payloads, paused):
    listed = [deployment(model) for model in MODELS]
    listed[0]["model_info"]["blocked"] = paused
    gateway, service = gateway_of(*listed), Spy(explore=1.0)
    install(gateway, service)
    if not paused:
        cool_down(gateway, "large")
    found = payloads.of([ask(gateway) for _ in range(5)])
    payloads.found.clear()
    found += payloads.of(ask_async(gateway, payloads, *[{"messages": chat("prove it")}] * 5))
    for payload in found:
        assert written(payload)[ALLOWED_MODELS] == ["medium", "small"] and written(payload)[PROPENSITY] == 0.5
        assert payload["model_id"] == written(payload)[MODEL] != "large"


def test_without_a_healthy_deployment_litellm_refuses(payloads):
    gateway, service = gateway_of(), Spy()
    install(gateway, service)
    for model in MODELS:
        cool_down(gateway, model)
    with pytest.raises(Exception, match="[Nn]o deployments available"):
        ask(gateway)
    with pytest.raises(Exception, match="[Nn]o deployments available"):
        ask_async(gateway, payloads, {"messages": chat("prove it")})
    with pytest.raises(litellm.BadRequestError, match="nothing"):
        ask(gateway, model="nothing")
    assert not service.decisions


def test_a_group_of_one_model_is_certain_and_one_of_none_is_not_jrouters(payloads):
    listed = [deployment("large", "mine", id=name) for name in ("a", "b")] + [deployment("unknown", "other")]
    gateway, service = gateway_of(*listed), Spy(explore=1.0)
    install(gateway, service)
    forged = {"spend_logs_metadata": {PROPENSITY: 0.01, "team": "a"}}
    mine, other = payloads.of(
        [ask(gateway, model=group, metadata=copy.deepcopy(forged)) for group in ("mine", "other")]
    )
    version = of_texts().version
    assert written(mine) == {PROPENSITY: 1.0, ROUTER: version, ALLOWED_MODELS: ["large"], MODEL: "large"}
    assert written(other) == {} and other["metadata"]["spend_logs_metadata"] == {"team": "a"}
    assert not service.decisions


def test_deployments_are_named_as_the_gateway_does(payloads):
    listed = [deployment("gpt-1", id="x"), deployment("gpt-1", id="y"), deployment("small", id="z"), deployment("b")]
    gateway, service = gateway_of(*listed), Spy(explore=1.0)
    install(gateway, service, deployments={"large": "openai/gpt-1", "medium": ["z"], "small": ["none"]})
    found = payloads.of([ask(gateway) for _ in range(30)])
    assert {(payload["model_id"], written(payload)[MODEL]) for payload in found} == {
        ("x", "large"),
        ("y", "large"),
        ("z", "medium"),
    }
    assert {written(payload)[PROPENSITY] for payload in found} == {0.5}


def test_another_strategy_drops_it_silently_which_is_seen():
    gateway = gateway_of()
    assert not is_installed(gateway)
    strategy = install(gateway, Spy())
    assert isinstance(strategy, Strategy) and isinstance(strategy, litellm.types.router.CustomRoutingStrategyBase)
    assert is_installed(gateway)
    gateway.update_settings(num_retries=1)
    assert is_installed(gateway)
    gateway.update_settings(routing_strategy="latency-based-routing")
    assert not is_installed(gateway)
    install(gateway, Spy())
    assert is_installed(gateway)


@pytest.mark.parametrize("in_async", [False, True])
def test_a_retry_stays_on_the_model_drawn_where_it_can(payloads, in_async):
    # By weight the one that fails is tried first.
    fails = [deployment(model, id=f"{model}-1", mock=FAILS, weight=1) for model in MODELS]
    gateway, service = gateway_of(*fails, *(deployment(model) for model in MODELS), retries=2), Spy(explore=0.5)
    install(gateway, service)
    answers = ask_async(gateway, payloads, {"messages": chat("prove it")}) if in_async else [ask(gateway)]
    (payload,) = payloads.of(answers)
    ((_, decision),) = service.decisions  # one, for both tries
    assert written(payload) == said(decision) and payload["model_id"] == decision.model


@pytest.mark.parametrize("in_async", [False, True])
def test_where_it_cannot_no_propensity_is_logged_as_the_model_that_answers_was_not_drawn(payloads, in_async):
    listed = [deployment(model, mock="yes" if model == "small" else FAILS) for model in MODELS]
    gateway, service = gateway_of(*listed, retries=2), Spy()
    install(gateway, service)
    free = {"jrouter_lambda": 0.0}
    request = {"messages": chat("prove it"), "metadata": free}
    answers = ask_async(gateway, payloads, request) if in_async else [ask(gateway, metadata=free)]
    (payload,) = payloads.of(answers)
    assert service.decisions[0][1].model != "small" and "small" in service.decisions[0][1].allowed
    assert {LAMBDA: 0.0, ROUTER: of_texts().version, MODEL: "small"}.items() >= written(payload).items()
    assert MODEL in written(payload)
    (row,) = ADAPTERS["litellm_payload"].rows(payload)
    assert not isinstance(row, Dropped) and "propensity" not in row and "allowed_models" not in row


@pytest.mark.parametrize("in_async", [False, True])
def test_nor_after_a_fallback_to_another_group(payloads, in_async):
    listed = [deployment(model, mock=FAILS) for model in MODELS] + [deployment("large", "spare", id="spare")]
    gateway, service = gateway_of(*listed, fallbacks=[{"auto": ["spare"]}]), Spy(explore=0.5)
    install(gateway, service)
    request = {"messages": chat("prove it")}
    answers = ask_async(gateway, payloads, request) if in_async else [ask(gateway)]
    (payload,) = payloads.of(answers)
    assert payload["model_id"] == "spare"
    assert written(payload) == {ROUTER: of_texts().version, MODEL: "large"}
    # Where LiteLLM says so itself, in the proxy's spend logs, the adapters drop the row.
    payload["metadata"]["attempted_fallbacks"] = 1
    for name in ("litellm_payload", "litellm_spend"):
        assert list(ADAPTERS[name].rows(payload)) == [Dropped("answered after a fallback")]


def test_requests_that_share_their_metadata_are_logged_apart(payloads):
    gateway, service = gateway_of(), Spy(explore=0.5)
    install(gateway, service)
    shared = {"jrouter_lambda": 5.0}
    requests = [{"messages": chat(f"question {number}"), "metadata": shared} for number in range(30)]
    found = payloads.of(ask_async(gateway, payloads, *requests))
    decided = {query[-1]["content"]: decision for query, decision in service.decisions}
    for payload in found:
        assert written(payload) == said(decided[payload["messages"][-1]["content"]])


def test_a_gateway_never_fails_by_its_router(payloads):
    gateway, service = gateway_of(), Spy()
    install(gateway, service)
    service.decide = lambda *_, **__: 1 / 0
    found = payloads.of([ask(gateway)])
    payloads.found.clear()
    found += payloads.of(ask_async(gateway, payloads, {"messages": chat("prove it")}))
    assert [written(payload) for payload in found] == [{}, {}]


def test_deployments_of_a_model_share_its_requests_by_weight():
    kinds = [deployment("large", id=name, weight=weight) for name, weight in (("a", 0), ("b", 3), ("c", 1))]
    drawn = [weighted(kinds)["model_info"]["id"] for _ in range(400)]
    assert set(drawn) == {"b", "c"} and np.mean(np.array(drawn) == "b") == pytest.approx(0.75, abs=0.09)
    kinds = [deployment("large", id=name, rpm=rpm) for name, rpm in (("a", 0), ("b", 3))]
    assert {weighted(kinds)["model_info"]["id"] for _ in range(40)} == {"b"}
    kinds = [deployment("large", id=name) for name in "ab"]
    assert {weighted(kinds)["model_info"]["id"] for _ in range(40)} == {"a", "b"}


def test_what_marks_a_request_is_text_to_loggers_and_copied_whole():
    mark = _Drawn("large", "auto", "trace", {"a"}, {PROPENSITY: 0.5})
    assert json.dumps(mark) == '"large"' and mark == "large"
    again = copy.deepcopy({"x": mark})["x"]
    assert isinstance(again, _Drawn) and vars(again) == vars(mark) and again.tried is not mark.tried


CONFIG = """
model_list:
  - model_name: auto
    litellm_params: {model: openai/large, api_key: none, mock_response: "yes"}
    model_info: {id: large}
  - model_name: auto
    litellm_params: {model: openai/small, api_key: none, mock_response: "yes"}
    model_info: {id: small}
litellm_settings:
  callbacks: route_by_jrouter.hook
"""
HOOK = """
from jrouter.app.litellm_strategy import proxy_hook
from jrouter.app.service import Service
from jrouter.compiled_decisions import Decision

hook = proxy_hook(Service({folder!r}, lam=10.0, fallback="small", explore=0.5, seed=0, warm=["short"]))
"""


def test_the_proxy_routes_by_the_hook_of_its_configuration(payloads, tmp_path, monkeypatch):
    """The proxy's own app, asked by its own HTTP interface; only the network and a database are missing."""
    proxy_server = pytest.importorskip(
        "litellm.proxy.proxy_server", reason="the proxy needs pip install 'litellm[proxy]'", exc_type=ImportError
    )
    testing = pytest.importorskip("fastapi.testclient", reason="the proxy's HTTP interface is asked by it")
    monkeypatch.chdir(tmp_path)
    of_texts().save(tmp_path / "router")
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "route_by_jrouter.py").write_text(HOOK.format(folder=str(tmp_path / "router")))
    asyncio.run(proxy_server.initialize(config=str(tmp_path / "config.yaml")))
    litellm.callbacks.append(payloads)
    client, answers = testing.TestClient(proxy_server.app), []
    for number in range(6):
        body = {"model": "auto", "messages": chat(f"question {number}"), "metadata": {"jrouter_lambda": number}}
        answers.append(client.post("/chat/completions", json=body))
    assert all(answer.status_code == 200 for answer in answers), answers[0].text
    assert is_installed(proxy_server.llm_router)
    found = payloads.of([type("Answer", (), {"id": answer.json()["id"]}) for answer in answers])
    for number, payload in enumerate(found):
        assert written(payload)[LAMBDA] == number and written(payload)[ALLOWED_MODELS] == ["large", "small"]
        assert written(payload)[PROPENSITY] in (0.25, 0.75) and written(payload)[MODEL] == payload["model_id"]
        best = of_texts().decide(f"question {number}", float(number), allowed=["large", "small"])
        assert isinstance(best, Decision) and (written(payload)[PROPENSITY] == 0.75) == (
            payload["model_id"] == best.model
        )
    # A changed configuration drops the strategy; the next request has it again.
    proxy_server.llm_router.update_settings(routing_strategy="latency-based-routing")
    assert not is_installed(proxy_server.llm_router)
    assert client.post("/chat/completions", json={"model": "auto", "messages": chat("again")}).status_code == 200
    assert is_installed(proxy_server.llm_router)
