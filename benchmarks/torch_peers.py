"""What people would use instead, in PyTorch: the same networks, minibatches, optimiser and losses.

`loop` trains one router after another; `stacked` trains all at once through torch.func.vmap. Both take
NumPy arrays and give NumPy arrays. Needs the extra `peers`.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

HIDDEN = 200


def network(dim: int, n_models: int, seed: int) -> nn.Sequential:
    """The paper's router, its last layer small, as ours."""
    torch.manual_seed(seed)
    made = nn.Sequential(
        nn.Linear(dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, n_models)
    )
    with torch.no_grad():
        for layer in (made[0], made[2]):
            layer.weight.normal_(0.0, layer.in_features**-0.5)
            layer.bias.zero_()
        made[4].weight.normal_(0.0, 0.01)
        made[4].bias.zero_()
    return made


def surrogates(logits: torch.Tensor, score: torch.Tensor, cost: torch.Tensor, lam, kind) -> torch.Tensor:
    """Per row: softmax regret (kind 0) or cross-entropy weighted by what a model is above the worst (kind 1)."""
    utility = score - lam * cost
    log_p = torch.log_softmax(logits, dim=-1)
    regret = (log_p.exp() * (utility.amax(-1, keepdim=True) - utility)).sum(-1)
    above = utility - utility.amin(-1, keepdim=True)
    return torch.where(kind == 0, regret, -(above * log_p).sum(-1))


def loop(
    x: np.ndarray,
    score: np.ndarray,
    cost: np.ndarray,
    settings: Sequence[tuple[float, int]],
    seeds: Sequence[int],
    orders: np.ndarray,
    *,
    rate: float,
    decay: float,
    bfloat16: bool = False,
) -> list[dict[str, np.ndarray]]:
    """Routers one after another.

    Args:
      x: [n, d]; score: [n, T]; cost: [n, T].
      settings: (lambda, kind of loss) of each router.
      seeds: of each router's start.
      orders: [epochs, batches, B], rows of each minibatch.
      rate: of AdamW, falling along a half cosine.
      decay: of AdamW.
      bfloat16: products under autocast.

    Returns:
      State dict of each router.
    """
    rows = [torch.from_numpy(part) for part in (x, score, cost)]
    index = torch.from_numpy(orders)
    n_steps = orders.shape[0] * orders.shape[1]
    trained = []
    for (lam, kind), seed in zip(settings, seeds, strict=True):
        router = network(x.shape[1], score.shape[1], seed)
        optimiser = torch.optim.AdamW(router.parameters(), lr=rate, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _half_cosine(n_steps))
        which = torch.tensor(kind)
        for epoch in index:
            for batch in epoch:
                x_b, score_b, cost_b = (part[batch] for part in rows)
                optimiser.zero_grad(set_to_none=True)
                with torch.autocast("cpu", dtype=torch.bfloat16) if bfloat16 else nullcontext():
                    logits = router(x_b)
                surrogates(logits.float(), score_b, cost_b, lam, which).mean().backward()
                optimiser.step()
                schedule.step()
        trained.append({name: value.detach().numpy() for name, value in router.state_dict().items()})
    return trained


def stacked(
    x: np.ndarray,
    score: np.ndarray,
    cost: np.ndarray,
    settings: Sequence[tuple[float, int]],
    seeds: Sequence[int],
    orders: np.ndarray,
    *,
    rate: float,
    decay: float,
) -> list[dict[str, np.ndarray]]:
    """All routers at once, by torch.func.vmap; arguments as of `loop`."""
    rows = [torch.from_numpy(part) for part in (x, score, cost)]
    index = torch.from_numpy(orders)
    n_steps = orders.shape[0] * orders.shape[1]
    routers = [network(x.shape[1], score.shape[1], seed) for seed in seeds]
    params, _ = stack_module_state(routers)
    skeleton = routers[0]
    lams = torch.tensor([lam for lam, _ in settings])
    kinds = torch.tensor([kind for _, kind in settings])

    def loss(params, x_b, score_b, cost_b, lam, kind):
        return surrogates(functional_call(skeleton, params, (x_b,)), score_b, cost_b, lam, kind).mean()

    gradients = vmap(grad_and_value(loss), in_dims=(0, None, None, None, 0, 0))
    leaves = list(params.values())
    optimiser = torch.optim.AdamW(leaves, lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _half_cosine(n_steps))
    for epoch in index:
        for batch in epoch:
            found, _ = gradients(params, *(part[batch] for part in rows), lams, kinds)
            for name, leaf in params.items():
                leaf.grad = found[name]
            optimiser.step()
            schedule.step()
    return [{name: value[place].detach().numpy() for name, value in params.items()} for place in range(len(routers))]


def _half_cosine(n_steps: int):
    return lambda step: 0.5 * (1.0 + math.cos(math.pi * min(step, n_steps) / n_steps))


def logits(state: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """What a trained router gives, [n, T]."""
    hidden = np.maximum(x @ state["0.weight"].T + state["0.bias"], 0.0)
    hidden = np.maximum(hidden @ state["2.weight"].T + state["2.bias"], 0.0)
    return hidden @ state["4.weight"].T + state["4.bias"]
