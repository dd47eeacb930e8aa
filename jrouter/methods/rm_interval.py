"""rm_interval: one router for a whole range of lambda, by interpolating between networks at knots.

Each interval between neighbouring knots has two endpoint networks. They are first trained at their own
lambda, then all together on the mean over intervals of the average regret at the two endpoints, each in
units of that lambda's utilities (their range grows with lambda). In between, outputs are interpolated.

Knots are shared by neighbouring intervals, so that the router is one function of lambda, without jumps.
What is interpolated is open in the paper:

- logits: the natural reading. Regret-trained logits have no identified scale, so between knots a louder
  endpoint counts for more.
- utility: each network gives a score part and a cost part, its output at lambda is their utility, and
  interpolation is exact if the endpoints agree.

Source: arXiv 2505.16037, RM-Interval.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jrouter.features import fit_scaling, scale
from jrouter.interval import interpolate, locate, regret_scale
from jrouter.losses import softmax_regret
from jrouter.methods.regret_training import RouterConfig, as_targets, router_rows, router_scores
from jrouter.metrics import utility
from jrouter.networks import RouterNetwork, UtilityNetwork, head_width, run
from jrouter.policy import Method, Policy, Problem
from jrouter.sweep import over_settings
from jrouter.train import Hyper, make_train, train_keys
from jrouter.types import Array

HEADS = ("logits", "utility")


@dataclass(frozen=True)
class RmIntervalConfig(RouterConfig):
    """`RouterConfig`, and:

    Attributes:
      head: "logits" or "utility".
      knots: ascending lambdas; None takes every other one of the problem's, both ends included.
      temperature: of the softmax.
      joint_epochs: of joint fine-tuning, after `epochs` at each knot.
      joint_learning_rate: its step size.
    """

    head: str = "utility"
    knots: tuple[float, ...] | None = None
    temperature: float = 1.0
    joint_epochs: int = 5
    joint_learning_rate: float = 3e-4

    def __post_init__(self):
        super().__post_init__()
        if self.head not in HEADS:
            raise ValueError(f"unknown head {self.head!r}: expected one of {', '.join(HEADS)}")
        if self.knots is not None and (len(self.knots) < 2 or sorted(set(self.knots)) != list(self.knots)):
            raise ValueError(f"knots must be two or more ascending lambdas, got {self.knots}")


def knots_of(config: RmIntervalConfig, lambdas: Array) -> Array:
    """The configured knots, or every other lambda, both ends included."""
    if config.knots is not None:
        return jnp.asarray(config.knots, jnp.float32)
    size = lambdas.shape[0]
    return lambdas[jnp.array(sorted({*range(0, size, 2), size - 1}))] if size > 2 else lambdas


def unit_of(params: dict[str, Any]) -> Array:
    """The largest knot, in which lambda is measured; kept apart where the knots are not all there."""
    return params["unit"] if "unit" in params else jnp.maximum(params["knots"][-1], 1e-30)


def rm_interval(config: RmIntervalConfig = RmIntervalConfig()) -> Method:
    """Networks at knots, fine-tuned together, interpolated in lambda."""

    def output(params: Any, x: Array, lam: Array, unit: Array) -> Array:
        """Output [T] of one knot's network on a scaled query; utilities in units of `unit`, as logits are."""
        if config.head == "logits":
            return run(RouterNetwork(head_width(params), config.hidden), params, x)
        score, cost = run(UtilityNetwork(head_width(params) // 2, config.hidden), params, x)
        # The cost part in units in which lambda is about 1, so that both parts are learned alike.
        return utility(score, cost, lam / unit)

    def surrogate(params, example, setting):
        x, (score, cost) = example
        lam, unit, scale_of_regret = setting
        logits = output(params, x, lam, unit)
        values = utility(score, cost, lam)
        return softmax_regret(logits, values, temperature=config.temperature) / scale_of_regret

    def fit(key: Array, problem: Problem) -> dict[str, Any]:
        key_knots, key_joint = jax.random.split(key)
        scores = router_scores(problem, config)
        scaling = fit_scaling(problem.log.x, problem.log.weight)
        rows, valid = router_rows(problem, scaling, as_targets(scores))
        knots = knots_of(config, problem.lambdas)
        unit = unit_of({"knots": knots})
        scales = jax.lax.map(lambda lam: regret_scale(scores, lam, problem.log.weight), knots)
        settings = knots, jnp.broadcast_to(unit, knots.shape), scales

        network = (RouterNetwork if config.head == "logits" else UtilityNetwork)(len(problem.log.models), config.hidden)
        start = make_train(lambda key: network.init(key, problem.log.x[0]), surrogate, config.train)
        endpoints, _ = over_settings(start)(train_keys(key_knots), rows, settings, config.hyper, valid)

        # Of K knots, the K - 2 inner ones are the end of two intervals.
        ends = jnp.full(knots.shape, 2.0).at[jnp.array([0, -1])].set(1.0)

        def joint_loss(networks, example, _):
            regrets = jax.vmap(surrogate, in_axes=(0, None, 0))(networks, example, settings)
            return ends @ regrets / ends.sum()

        joint = make_train(lambda key: endpoints, joint_loss, replace(config.train, epochs=config.joint_epochs))
        hyper = Hyper(config.joint_learning_rate, config.weight_decay)
        networks, _ = joint(train_keys(key_joint), rows, None, hyper, valid)
        return {"networks": networks, "knots": knots, "scaling": scaling}

    def apply(params: dict[str, Any], x: Array, lam: Array) -> Array:
        x = scale(params["scaling"], x)
        knots = params["knots"]
        interval, unit = locate(knots, lam), unit_of(params)

        def at_knot(index):
            network = jax.tree.map(lambda leaf: leaf[index], params["networks"])
            return output(network, x, knots[index], unit)

        return interpolate(
            at_knot(interval.low),
            at_knot(interval.high),
            interval.lam,
            lam_low=knots[interval.low],
            lam_high=knots[interval.high],
        )

    def at(params: dict[str, Any], lam: Array) -> dict[str, Any]:
        """The two ends of lambda's interval."""
        interval = locate(params["knots"], lam)
        ends = jnp.stack([interval.low, interval.high])
        kept = jax.tree.map(lambda leaf: leaf[ends], {name: params[name] for name in ("networks", "knots")})
        return {**kept, "scaling": params["scaling"], "unit": unit_of(params)}

    return Method(fit, Policy(apply, at=at), config)
