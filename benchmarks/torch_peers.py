"""What people would use instead, in PyTorch: the same networks, starts, minibatches, optimiser and losses.

`loop` trains one router after another; `stacked` trains all at once through torch.func.vmap. Both take
NumPy arrays and give NumPy arrays, and run on a GPU where PyTorch has one. Needs the extra `peers`.
"""

# pyright: reportMissingImports=false
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from jrouter.stacked import Stacked, stack, unstack

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as JAX does by default


class Work(NamedTuple):
    """What is trained, on what.

    Attributes:
      x: [n, d]; score: [n, T]; cost: [n, T].
      settings: (lambda, kind of loss) of each router.
      starts: params of each router at the start, by the names of `network`.
      orders: [epochs, batches, B], rows of each minibatch.
      rate: of AdamW, falling along a half cosine.
      decay: of AdamW.
    """

    x: np.ndarray
    score: np.ndarray
    cost: np.ndarray
    settings: Sequence[tuple[float, int]]
    starts: Sequence[Mapping[str, np.ndarray]]
    orders: np.ndarray
    rate: float
    decay: float

    @property
    def steps(self) -> int:
        """Of one router."""
        return self.orders.shape[0] * self.orders.shape[1]

    def rows(self) -> list[torch.Tensor]:
        """x, score and cost, on the device."""
        return [torch.from_numpy(part).to(DEVICE) for part in (self.x, self.score, self.cost)]


def network(start: Mapping[str, np.ndarray]) -> nn.Sequential:
    """A router: linear layers with ReLU between."""
    n_layers = len(start) // 2
    layers: list[nn.Module] = []
    for place in range(n_layers):
        width, dim = start[f"{2 * place}.weight"].shape
        layers += [nn.Linear(dim, width), nn.ReLU()]
    made = nn.Sequential(*layers[:-1])
    made.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in start.items()})
    return made.to(DEVICE)


def surrogates(logits: torch.Tensor, score: torch.Tensor, cost: torch.Tensor, lam, kind) -> torch.Tensor:
    """Per row: softmax regret (kind 0) or cross-entropy weighted by what a model is above the worst (kind 1)."""
    utility = score - lam * cost
    log_p = torch.log_softmax(logits, dim=-1)
    regret = (log_p.exp() * (utility.amax(-1, keepdim=True) - utility)).sum(-1)
    above = utility - utility.amin(-1, keepdim=True)
    return torch.where(kind == 0, regret, -(above * log_p).sum(-1))


def loop(work: Work, *, bfloat16: bool = False) -> list[dict[str, np.ndarray]]:
    """Routers one after another; `bfloat16`: products under autocast. Gives each router's params."""
    rows = work.rows()
    index = torch.from_numpy(work.orders).to(DEVICE)
    trained = []
    for (lam, kind), start in zip(work.settings, work.starts, strict=True):
        router = network(start)
        optimiser = torch.optim.AdamW(router.parameters(), lr=work.rate, weight_decay=work.decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _half_cosine(work.steps))
        which = torch.tensor(kind, device=DEVICE)
        for epoch in index:
            for batch in epoch:
                x_b, score_b, cost_b = (part[batch] for part in rows)
                optimiser.zero_grad(set_to_none=True)
                with torch.autocast(DEVICE, dtype=torch.bfloat16) if bfloat16 else nullcontext():
                    logits = router(x_b)
                surrogates(logits.float(), score_b, cost_b, lam, which).mean().backward()
                optimiser.step()
                schedule.step()
        trained.append({name: value.detach().cpu().numpy() for name, value in router.state_dict().items()})
    return trained


def stacked(work: Work) -> list[dict[str, np.ndarray]]:
    """All routers at once, by torch.func.vmap. Gives each router's params."""
    rows = work.rows()
    index = torch.from_numpy(work.orders).to(DEVICE)
    routers = [network(start) for start in work.starts]
    params, _ = stack_module_state(routers)
    skeleton = routers[0]
    lams = torch.tensor([lam for lam, _ in work.settings], device=DEVICE)
    kinds = torch.tensor([kind for _, kind in work.settings], device=DEVICE)

    def loss(params, x_b, score_b, cost_b, lam, kind):
        return surrogates(functional_call(skeleton, params, (x_b,)), score_b, cost_b, lam, kind).mean()

    gradients: Any = vmap(grad_and_value(loss), in_dims=(0, None, None, None, 0, 0))
    optimiser = torch.optim.AdamW(list(params.values()), lr=work.rate, weight_decay=work.decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _half_cosine(work.steps))
    for epoch in index:
        for batch in epoch:
            found, _ = gradients(params, *(part[batch] for part in rows), lams, kinds)
            for name, leaf in params.items():
                leaf.grad = found[name]
            optimiser.step()
            schedule.step()
    host = {name: value.detach().cpu().numpy() for name, value in params.items()}
    return [{name: value[place] for name, value in host.items()} for place in range(len(routers))]


def _half_cosine(n_steps: int):
    return lambda step: 0.5 * (1.0 + math.cos(math.pi * min(step, n_steps) / n_steps))


def to_torch(params: Any) -> list[dict[str, np.ndarray]]:
    """Flax params, each leaf [R, ...], as a list of PyTorch's."""
    stacked = jax.tree.map(np.asarray, stack(params))
    first, *rest = stacked.kernels
    kernels = [first.transpose(1, 2, 0), *(kernel.transpose(0, 2, 1) for kernel in rest)]
    return [
        {
            f"{2 * layer}.{part}": values[router]
            for layer, both in enumerate(zip(kernels, stacked.biases, strict=True))
            for part, values in zip(("weight", "bias"), both, strict=True)
        }
        for router in range(first.shape[1])
    ]


def to_flax(routers: list[dict[str, np.ndarray]]) -> Any:
    """The inverse of `to_torch`."""
    whole: dict[str, Any] = {name: np.stack([router[name] for router in routers]) for name in routers[0]}
    layers = range(len(whole) // 2)
    first, *rest = [whole[f"{2 * layer}.weight"] for layer in layers]
    kernels = (first.transpose(2, 0, 1), *(kernel.transpose(0, 2, 1) for kernel in rest))
    return unstack(Stacked(kernels, tuple(whole[f"{2 * layer}.bias"] for layer in layers)))
