"""The network of a router outside jrouter: in NumPy, PyTorch and scikit-learn, from the same weights.

Each contestant decides on rows [n, d] and gives the index of a model for each. PyTorch and scikit-learn need
the extra `peers`, and are imported only where they take part.
"""

# pyright: reportMissingImports=false

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jrouter.interval import nearest
from jrouter.router import Router

Layers = list[tuple[np.ndarray, np.ndarray]]
"""Kernel [a, b] and bias [b] of each layer, float32."""


def layers_of(router: Router, lam: float) -> Layers:
    """The network that a router of `rm_softmax` uses at one lambda, with the scaling of its inputs folded in."""
    index = int(nearest(router.params["lambdas"], lam))
    network = jax.tree.map(lambda leaf: np.asarray(leaf[index]), router.params["networks"])["params"]
    hidden = [network["trunk"][name] for name in sorted(network["trunk"])]
    layers = [(np.array(layer["kernel"]), np.array(layer["bias"])) for layer in (*hidden, network["head"])]
    scaling = jax.tree.map(np.asarray, router.params["scaling"])
    kernel = layers[0][0] / scaling["scale"]
    return [(kernel, layers[0][1] - scaling["centre"] @ kernel), *layers[1:]]


def numpy_decide(layers: Layers, x: np.ndarray) -> np.ndarray:
    """Decisions on x [d] or [n, d] as one would write them by hand."""
    for kernel, bias in layers[:-1]:
        x = np.maximum(x @ kernel + bias, 0.0)
    kernel, bias = layers[-1]
    return (x @ kernel + bias).argmax(axis=-1)


def torch_contestants(layers: Layers, x: np.ndarray) -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """name -> (starts a decision on all rows, waits for it), on the GPU where PyTorch has one.

    "torch_bfloat16" has inputs and weights rounded beforehand; "torch_bfloat16_rounding" rounds the inputs
    each time; "torch_tensorfloat32" only on a GPU.
    """
    import torch
    from torch import nn

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def network(dtype):
        parts: list[nn.Module] = []
        for kernel, bias in layers:
            linear = nn.Linear(*kernel.shape)
            linear.load_state_dict({"weight": torch.tensor(kernel.T), "bias": torch.tensor(bias)})
            parts += [linear, nn.ReLU()]
        return nn.Sequential(*parts[:-1]).to(device, dtype).eval()

    full, half = network(torch.float32), network(torch.bfloat16)
    rows = torch.from_numpy(x).to(device)
    rounded = rows.to(torch.bfloat16)

    def decide(network, rows, precision="highest"):
        torch.set_float32_matmul_precision(precision)
        with torch.inference_mode():
            return network(rows).argmax(dim=1)

    def wait(decisions):
        if device.type == "cuda":
            torch.cuda.synchronize()
        return decisions

    contestants = {
        "torch_float32": lambda: decide(full, rows),
        "torch_bfloat16": lambda: decide(half, rounded),
        "torch_bfloat16_rounding": lambda: decide(half, rows.to(torch.bfloat16)),
    }
    if device.type == "cuda":
        contestants["torch_tensorfloat32"] = lambda: decide(full, rows, "high")
    return {name: (start, wait) for name, start in contestants.items()}


def sklearn_classifier(layers: Layers) -> Any:
    """scikit-learn's MLPClassifier with these weights; its classes are the indices of the models."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    widths = tuple(bias.size for _, bias in layers)
    model = MLPClassifier(widths[:-1], max_iter=1)
    labels = np.arange(widths[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Makes its shapes and classes; the weights are replaced.
        model.fit(np.zeros((labels.size, layers[0][0].shape[0]), np.float32), labels)
    model.coefs_ = [kernel for kernel, _ in layers]
    model.intercepts_ = [bias for _, bias in layers]
    return model
