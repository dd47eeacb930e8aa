"""The blocks of jrouter/app/README.md run as printed: a service, LiteLLM's SDK, and its proxy."""

import asyncio
import os
import re
from pathlib import Path

import pytest
from test_service import MODELS, made

from jrouter.app import service as serving
from jrouter.encoders.load import load_encoder

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else LiteLLM's import asks the web for prices
README = Path(__file__).parents[1] / "jrouter" / "app" / "README.md"
WHY = "litellm is the gateway that these blocks run in: pip install litellm"
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a router of texts in it, to be in."""
    monkeypatch.setattr(serving, "WARM_CHARACTERS", 50)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.chdir(tmp_path)
    router = made(3, dim=16, lambdas=(0.0, 1000.0)).with_encoder(load_encoder(dim=16, window=1))
    router.save(tmp_path / "my_router")
    return tmp_path


def run(*places):
    """What these blocks define, one after the other."""
    scope = {}
    for place in places:
        exec(compile(BLOCKS[place][1], str(README), "exec"), scope)
    return scope


def test_there_is_no_other_block():
    assert [kind for kind, _ in BLOCKS] == ["python", "python", "yaml", "python"]


def test_a_service(capsys):
    service = run(0)["service"]
    model, propensity, version = capsys.readouterr().out.splitlines()[0].split()
    assert model in ("large", "small") and float(propensity) in (0.975, 0.025) and version == service.router.version
    assert service.counts["decided"] == 1 and service.router.models == MODELS


@pytest.mark.filterwarnings("ignore")
def test_the_sdk():
    pytest.importorskip("litellm", reason=WHY, exc_type=ImportError)
    scope = run(0, 1)
    assert scope["answer"].choices[0].message.content == "By Euclid." and scope["is_installed"](scope["gateway"])
    assert scope["service"].counts["decided"] == 2  # one of the first block


@pytest.mark.filterwarnings("ignore")
def test_the_proxy(folder, monkeypatch):
    proxy_server = pytest.importorskip(
        "litellm.proxy.proxy_server", reason="the proxy needs pip install 'litellm[proxy]'", exc_type=ImportError
    )
    testing = pytest.importorskip("fastapi.testclient", reason="the proxy's HTTP interface is asked by it")
    import litellm  # pyright: ignore[reportMissingImports]

    from jrouter.app import litellm_strategy as strategy

    monkeypatch.setattr(litellm, "callbacks", [])
    # The proxy takes no mock answers from its clients.
    (folder / "config.yaml").write_text(BLOCKS[2][1].replace("api_key:", "mock_response: By Euclid., api_key:"))
    (folder / "route_by_jrouter.py").write_text(BLOCKS[3][1])
    asyncio.run(proxy_server.initialize(config=str(folder / "config.yaml")))
    installed = []
    monkeypatch.setattr(strategy, "install", lambda *given, was=strategy.install: installed.append(was(*given)))
    body = {"model": "auto", "messages": [{"role": "user", "content": "Prove it."}]}
    answer = testing.TestClient(proxy_server.app).post("/chat/completions", json=body)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "By Euclid.", answer.text
    assert strategy.is_installed(proxy_server.llm_router)
    (one,) = installed
    assert sum(one.service.counts.values()) == 1
