"""How to use a saved router: lines to copy, with its own models and lambdas."""

import shlex
from collections.abc import Mapping
from typing import Any

from jrouter.app.page import Markup, element


def usage(manifest: Mapping[str, Any]) -> list[Markup]:
    """Lines for Python, the command line and LiteLLM, of the router with this manifest."""
    models, lambdas = [str(name) for name in manifest.get("models") or []], manifest.get("lambdas") or [300.0]
    lam, texts = f"{lambdas[len(lambdas) // 2]:.4g}", bool(manifest.get("encoder"))
    asked = '"Prove that there are infinitely many primes."' if texts else f"x  # {_width(manifest)}"
    python = (
        "import jrouter\n\n"
        'router = jrouter.Router.load("DIR")\n'
        "router.compile()  # before traffic: later calls compile nothing\n"
        f"query = {asked}\n"
        f"router.route(query, lam={lam})  # a model's name\n"
        f"router.route(query, lam={lam}, allowed={models[:2]!r})\n"
        f"router.decide(query, {lam}, explore=0.05)  # with the propensity to log\n"
    )
    line = '{"query": "Hi!"}' if texts else '{"embedding": [...]}'
    some = shlex.quote(",".join(models[:2]))
    shell = (
        f"jrouter route DIR --lambda {lam} < queries.jsonl > decisions.jsonl   # lines: {line}\n"
        f"jrouter route DIR --lambda {lam} --allow {some} --explore 0.05 < queries.jsonl\n"
        "jrouter evaluate DIR NEW_LOG   # its value on a log that it has not seen\n"
    )
    served = f'"DIR", lam={lam}, fallback={(models or ["MODEL"])[0]!r}, explore=0.05'
    litellm = (
        "from litellm import Router\n"
        "from jrouter.app.litellm_strategy import install\n"
        "from jrouter.app.service import Service\n\n"
        'gateway = Router(model_list=[...])  # one model_name, "auto", with a deployment of each model\n'
        f"install(gateway, Service({served}))\n"
        'gateway.completion(model="auto", messages=[...])\n'
    )
    content = [
        element("p", "DIR is the folder of this router; lambda is the cost preference, here the middle one."),
        element("h3", "Python"),
        element("pre", element("code", python), tabindex=0),
        element("h3", "Command line"),
        element("pre", element("code", shell), tabindex=0),
    ]
    if texts:
        return [*content, element("h3", "LiteLLM"), element("pre", element("code", litellm), tabindex=0)]
    said = "This router reads embeddings, so the gateway must embed queries; one fitted with an encoder reads texts."
    return [*content, element("h3", "LiteLLM"), element("p", said)]


def _width(manifest: Mapping[str, Any]) -> str:
    by = f" by {manifest['embedding']}" if manifest.get("embedding") else ""
    return " ".join(f"its embedding{by}, {manifest.get('embedding_dim', 'n')} numbers".split())
