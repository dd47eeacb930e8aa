"""Deployments of a LiteLLM Router: which of a group are healthy, what they are called, and which of several answers."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

Deployment = Mapping[str, Any]
"""As in LiteLLM's model_list: model_name, litellm_params, model_info."""


def listed_healthy(gateway: Any, group: str) -> list[Deployment]:
    """Deployments of a group that are neither cooling down nor paused.

    Raises:
      litellm.BadRequestError: for a group without any.
      RouterRateLimitErrorBasic: where none is healthy; LiteLLM's own, by which it falls back.
    """
    import litellm  # pyright: ignore[reportMissingImports]
    from litellm.types.router import RouterRateLimitErrorBasic  # pyright: ignore[reportMissingImports]

    newer = hasattr(gateway, "registry")
    listed = gateway.registry().deployments(group) if newer else gateway.get_model_list(model_name=group)
    if not listed:
        raise litellm.BadRequestError(f"no deployment has model_name {group!r}", model=group, llm_provider="")
    store = gateway.health().cooldowns if newer else gateway.cooldown_cache
    cooling = store.get_active_cooldowns(model_ids=[id_of(one) for one in listed], parent_otel_span=None)
    resting = {name for name, _ in cooling or ()}
    healthy = [one for one in listed if id_of(one) not in resting and not (one.get("model_info") or {}).get("blocked")]
    if not healthy:
        raise RouterRateLimitErrorBasic(model=group)
    return healthy


def id_of(deployment: Deployment) -> str:
    """Its model_info.id."""
    return str((deployment.get("model_info") or {}).get("id"))


def names_of(deployment: Deployment) -> set[str]:
    """What a deployment is known by: its id, its model with and without the provider's prefix, its group.

    >>> sorted(names_of({"model_name": "auto", "litellm_params": {"model": "openai/m"}, "model_info": {"id": "1"}}))
    ['1', 'auto', 'm', 'openai/m']
    """
    called = str((deployment.get("litellm_params") or {}).get("model"))
    return {id_of(deployment), called, called.partition("/")[2] or called, str(deployment.get("model_name"))}


def without(deployments: Sequence[Deployment], tried: set[str]) -> list[Deployment]:
    """Those whose id is not among the tried ones."""
    return [one for one in deployments if id_of(one) not in tried]


def weighted(deployments: Sequence[Deployment]) -> Deployment:
    """One of them, drawn as LiteLLM's simple-shuffle does: by weight, else rpm, else tpm, else all alike."""
    for measure in ("weight", "rpm", "tpm"):
        weights = [float((one.get("litellm_params") or {}).get(measure) or 0) for one in deployments]
        if sum(weights) > 0:
            return random.choices(deployments, weights)[0]
    return random.choice(deployments)
