"""jrouter inside LiteLLM, SDK and proxy: a service decides which model of a group answers, and the log says how.

A group is a `model_name` of LiteLLM with deployments of several models; the model that is asked for is the group:

    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"   # before the import: it fetches prices from the web otherwise
    from litellm import Router
    gateway = Router(model_list=[
        {"model_name": "auto", "litellm_params": {"model": "openai/gpt-large"}},
        {"model_name": "auto", "litellm_params": {"model": "openai/gpt-small"}},
    ])
    install(gateway, Service("router", lam=300, fallback="openai/gpt-small", explore=0.05))
    gateway.completion(model="auto", messages=[...], metadata={"jrouter_lambda": 100})   # lambda is optional

In the proxy, two files beside each other; `litellm --config config.yaml`:

    # config.yaml
    model_list:
      - {model_name: auto, litellm_params: {model: openai/gpt-large, api_key: os.environ/OPENAI_API_KEY}}
      - {model_name: auto, litellm_params: {model: openai/gpt-small, api_key: os.environ/OPENAI_API_KEY}}
    litellm_settings:
      callbacks: route_by_jrouter.hook

    # route_by_jrouter.py
    from jrouter.app.litellm_strategy import proxy_hook
    from jrouter.app.service import Service
    hook = proxy_hook(Service("router", lam=300, fallback="openai/gpt-small", explore=0.05))

LiteLLM has no setting for a strategy of one's own: the hook sees every request and installs the strategy where it is
missing. That is also what a program of one's own should look after, by `is_installed`: to change `routing_strategy` by
`Router.update_settings` drops the strategy without a word.

What is logged, in metadata.spend_logs_metadata of spend logs and of StandardLoggingPayload, is under the names of
`jrouter.io.adapters.litellm`, which reads it back: lambda, propensity, version of the router, models that could have
been drawn; and `MODEL`, the model drawn, under the router's name for it. A request that LiteLLM tries again gets
another deployment of the model drawn, where there is one, and the propensity stays right. Else another model answers,
with no propensity logged: it answers only because the first did not.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jrouter.app.litellm_deployments import Deployment, id_of, listed_healthy, names_of, weighted, without
from jrouter.app.service import Service
from jrouter.encoders.errors import EncoderError
from jrouter.encoders.texts import last_turns
from jrouter.io.adapters.litellm import ALLOWED_MODELS, LAMBDA, MODEL, PROPENSITY, ROUTER
from jrouter.router import Router

DRAWN = "jrouter_drawn"
"""Key of a request's metadata, for when LiteLLM tries it again."""
WRITTEN = (LAMBDA, PROPENSITY, ROUTER, ALLOWED_MODELS, MODEL)

Query = Callable[[Any, Mapping[str, Any]], Any]

logger = logging.getLogger(__name__)


def install(gateway: Any, service: Service, **settings: Any) -> "Strategy":
    """Lets a service decide for a LiteLLM Router, and returns the strategy.

    Args:
      gateway: litellm.Router.
      service: that decides.
      settings: of `Strategy`.
    """
    strategy = make_strategy(gateway, service, **settings)
    # Newer versions (1.110) call it a plugin, and warn of the old name.
    register = getattr(gateway, "register_plugin", None) or gateway.set_custom_routing_strategy
    register(strategy)
    return strategy


def is_installed(gateway: Any) -> bool:
    """Whether a strategy of jrouter decides for a LiteLLM Router: `update_settings` may have dropped it."""
    core = getattr(gateway, "_core", None)  # of newer versions
    picks = (vars(gateway).get("async_get_available_deployment"), getattr(core, "_custom_strategy", None))
    return any(isinstance(getattr(pick, "__self__", pick), Strategy) for pick in picks)


def make_strategy(gateway: Any, service: Service, **settings: Any) -> "Strategy":
    """`Strategy`, as an instance of LiteLLM's base class, which is imported only here."""
    from litellm.types.router import CustomRoutingStrategyBase  # pyright: ignore[reportMissingImports]

    kind: Any = type("JRouterStrategy", (Strategy, CustomRoutingStrategyBase), {})
    return kind(gateway, service, **settings)


def proxy_hook(service: Service, **settings: Any) -> Any:
    """A callback for the LiteLLM proxy, which installs the strategy before a request, where it is missing.

    Args:
      service: that decides.
      settings: of `Strategy`.
    """
    from litellm.integrations.custom_logger import CustomLogger  # pyright: ignore[reportMissingImports]

    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        from litellm.proxy import proxy_server  # pyright: ignore[reportMissingImports]

        gateway = proxy_server.llm_router
        if gateway is not None and not is_installed(gateway):
            install(gateway, service, **settings)

    return type("JRouterHook", (CustomLogger,), {"async_pre_call_hook": async_pre_call_hook})()


class Strategy:
    """Chooses a deployment of the group that a request asks for.

    The pool of a decision are the models with a healthy deployment in the group: by LiteLLM's own listing, with all
    its filters, where a call is async; where it is not, those that are neither cooling down nor paused. A group of
    one model is decided, too: with propensity 1. Deployments of a model share its requests by LiteLLM's weights
    (weight, else rpm, else tpm). A group without a model that the router knows is left to these weights, and nothing
    is logged. LiteLLM's own refusals (no such group, none healthy, not for this team) are raised as they are; nothing
    else is.

    Args:
      gateway: litellm.Router.
      service: that decides.
      deployments: model -> how its deployments are named in the gateway: one or several of model_info.id,
        litellm_params.model, and model_name. A model that is not in it has those that are named like it, the
        provider's prefix left out or not.
      query: (messages or input, request) -> what the router reads of them. By default it is given the messages; of a
        router whose encoder has no window of turns, the text of the last turn.
    """

    def __init__(
        self,
        gateway: Any,
        service: Service,
        *,
        deployments: Mapping[str, str | Sequence[str]] | None = None,
        query: Query | None = None,
    ):
        self.gateway, self.service, self._query = gateway, service, query
        self._names = {
            model: {names} if isinstance(names, str) else set(names) for model, names in (deployments or {}).items()
        }

    async def async_get_available_deployment(
        self,
        model: str,
        messages: Any = None,
        input: Any = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The deployment for a request; called by LiteLLM."""
        request = {} if request_kwargs is None else request_kwargs
        asked = {"messages": messages, "input": input, "specific_deployment": specific_deployment}
        if hasattr(self.gateway, "select"):  # newer versions
            found = await self.gateway.select(model, request, kind="healthy", **asked)
        else:
            found = await self.gateway.async_get_healthy_deployments(model=model, request_kwargs=request, **asked)
        healthy = [found] if isinstance(found, Mapping) else found
        # Elsewhere than on the loop, which an encoder would hold up.
        return await asyncio.to_thread(self._choose, model, healthy, messages or input, request)

    def get_available_deployment(
        self,
        model: str,
        messages: Any = None,
        input: Any = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The deployment for a request that is not async; called by LiteLLM."""
        request = {} if request_kwargs is None else request_kwargs
        return self._choose(model, listed_healthy(self.gateway, model), messages or input, request)

    def _choose(self, group: str, healthy: Sequence[Deployment], query: Any, request: dict[str, Any]) -> Deployment:
        bucket = "litellm_metadata" if "litellm_metadata" in request else "metadata"
        metadata = request.get(bucket) or {}
        try:
            chosen, written = self._decided(group, healthy, query, request, metadata)
        except Exception:  # a gateway that fails by its router is worse than one that does not route
            logger.exception("jrouter could not decide; LiteLLM's weights did")
            chosen, written = weighted(healthy), {}
        said = metadata.get("spend_logs_metadata")
        said = dict(said) if isinstance(said, Mapping) else {}
        if written or not said.keys().isdisjoint(WRITTEN):  # a client may have sent some
            kept = {name: value for name, value in said.items() if name not in WRITTEN}
            # A new dict: callers give one to many requests at a time, and what is logged must be this one's.
            request[bucket] = {**metadata, "spend_logs_metadata": kept | written}
        return chosen

    def _decided(
        self, group: str, healthy: Sequence[Deployment], query: Any, request: Mapping[str, Any], metadata: Any
    ) -> tuple[Deployment, dict[str, Any]]:
        """The deployment chosen, and what is to be logged."""
        router = self.service.router
        pool = self._pool(healthy, router)
        before, trace = metadata.get(DRAWN), request.get("litellm_trace_id")
        mine = isinstance(before, _Drawn) and before.trace == trace
        again = mine or any(metadata.get(f"attempted_{tries}") for tries in ("retries", "fallbacks"))
        if mine and before.group == group:
            untried = without(pool.get(before, ()), before.tried)
            if untried:
                chosen = weighted(untried)
                before.tried.add(id_of(chosen))
                return chosen, before.written
            left = {model: kept for model, found in pool.items() if (kept := without(found, before.tried))}
            pool = left or pool
        if not pool:
            return weighted(healthy), {}
        model, written = self._drawn(router, pool, query, request, _lambda(request))
        if again:
            written = {name: value for name, value in written.items() if name not in (PROPENSITY, ALLOWED_MODELS)}
        chosen = weighted(pool[model])
        tried = before.tried if mine else set()
        metadata[DRAWN] = _Drawn(model, group, trace, tried | {id_of(chosen)}, written)
        return chosen, written

    def _drawn(
        self, router: Router, pool: Mapping[str, Any], query: Any, request: Mapping[str, Any], lam: Any
    ) -> tuple[str, dict[str, Any]]:
        """The model drawn, and what is to be logged of that."""
        if len(pool) == 1:  # neither query nor lambda matters
            (model,) = pool
            return model, {PROPENSITY: 1.0, ROUTER: router.version, ALLOWED_MODELS: [model], MODEL: model}
        decision = self.service.decide(self._read(router, query, request), lam, allowed=tuple(pool))
        return decision.model, {
            LAMBDA: decision.lam,
            PROPENSITY: decision.propensity,
            ROUTER: decision.router,
            ALLOWED_MODELS: list(decision.allowed),
            MODEL: decision.model,
        }

    def _pool(self, healthy: Sequence[Deployment], router: Router) -> dict[str, list[Deployment]]:
        """Models in use -> their deployments, in the order of the router's models."""
        pool: dict[str, list[Deployment]] = {model: [] for model in router.pool}
        for deployment in healthy:
            names = names_of(deployment)
            mapped = next((model for model in pool if not names.isdisjoint(self._names.get(model, ()))), None)
            model = mapped or next((model for model in pool if model in names and model not in self._names), None)
            if model is not None:
                pool[model].append(deployment)
        return {model: found for model, found in pool.items() if found}

    def _read(self, router: Router, query: Any, request: Mapping[str, Any]) -> Any:
        if self._query is not None:
            try:
                return self._query(query, request)
            except Exception:  # the service answers, and counts
                logger.exception("the query could not be read of a request")
                return None
        if isinstance(query, str) or router.encoder_spec is None or router.encoder_spec.window is not None:
            return query
        try:
            return last_turns(query, 1)
        except EncoderError:
            return None


class _Drawn(str):
    """The model drawn for a request. A str, as loggers write metadata as JSON; a type, as clients send such, too."""

    def __new__(cls, model: str, *_: Any) -> "_Drawn":
        return super().__new__(cls, model)

    def __init__(self, model: str, group: str, trace: Any, tried: set[str], written: dict[str, Any]):
        self.group, self.trace, self.tried, self.written = group, trace, tried, written

    def __reduce__(self):
        return type(self), (str(self), self.group, self.trace, set(self.tried), dict(self.written))


def _lambda(request: Mapping[str, Any]) -> Any:
    """Lambda that a request comes with: in its metadata, in what it asks to be logged, or as it came to the proxy."""
    buckets = [request.get(name) or {} for name in ("metadata", "litellm_metadata")]
    places = [
        place for one in buckets for place in (one, one.get("spend_logs_metadata"), one.get("requester_metadata"))
    ]
    found = (place.get(LAMBDA) for place in places if isinstance(place, Mapping))
    return next((lam for lam in found if lam is not None), None)
