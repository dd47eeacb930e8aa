"""ucb_replay: a bandit without context, run through the log by rejection; then the model that it found best.

    row i:  propose t = argmax_t mean_t + width * range * sqrt(2 log(1 + rows used) / rows used of t)
            use it if t_i = t, with probability min(1, q / p_i);  else it did not happen

At each lambda a bandit of its own, on utility. `q` is a low quantile of the logged propensities p_i.

Source: Auer, Cesa-Bianchi & Fischer (2002), UCB1; Hu, Leung & Farnia (2025), A multi-armed bandit approach to online
selection and evaluation of generative models, arXiv 2406.07451 (UCB over generators, no context); replay: Li, Chu,
Langford & Wang (2011), Unbiased offline evaluation of contextual-bandit news article recommendation, arXiv 1003.5956.

What a replay shows: had models been logged evenly (thinning by q / p_i makes them so, but for the rows below q), the
rows used are distributed as those that the bandit would have met, so its choice at the end is one it could have made
after that many rows. What it cannot show: how it goes on after the log ends, or what it would have done on all n rows:
about q n of n rows are used at each lambda (`params["used"]`), the others are thrown away. A method that reads every
row knows more; this is the price of learning by trial, not a way to learn from a log.

Adaptation: utility score - lambda * cost in place of Frechet distance or Inception score, which are of sets of images.
Deviations: rows in the order of time where the log has it, else as they are; unscored rows are not used; propensities
are the nuisances'. A model that was never used is never chosen.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jrouter.interval import nearest
from jrouter.metrics import utility
from jrouter.policy import Method, Policy
from jrouter.types import Array

_NEVER = -1e30


@dataclass(frozen=True)
class UcbReplayConfig:
    """How far bounds reach; and the quantile of propensities that rows are thinned to (0: no thinning)."""

    width: float = 0.3
    quantile: float = 0.05


def replay(model: Array, score: Array, cost: Array, keep: Array, lam: Array, *, n_models: int, width: float):
    """Runs UCB through rows in their order.

    Args:
      model: [n], logged.
      score: [n], of the answer.
      cost: [n].
      keep: [n] bool, rows that may be used where they match.
      lam: of utility.
      n_models: T.
      width: of bounds, in ranges of utility.

    Returns:
      Mean score and mean cost of the rows used of each model [2, T], and how many [T].
    """
    value = utility(score, cost, lam)
    spread = jnp.maximum(value.max() - value.min(), 1e-30)

    def row(state, one):
        rows, sums = state
        model, outcome, keep = one
        mean = utility(sums[0], sums[1], lam) / jnp.maximum(rows, 1.0)
        bonus = width * spread * jnp.sqrt(2.0 * jnp.log1p(rows.sum()) / jnp.maximum(rows, 1.0))
        proposed = jnp.argmax(jnp.where(rows > 0, mean + bonus, jnp.inf))
        used = (keep & (model == proposed)) * jax.nn.one_hot(model, n_models)
        return (rows + used, sums + outcome[:, None] * used), None

    start = jnp.zeros(n_models), jnp.zeros((2, n_models))
    outcomes = jnp.stack([score, cost], axis=1)
    rows, sums = jax.lax.scan(row, start, (model, outcomes, keep))[0]
    return sums / jnp.maximum(rows, 1.0), rows


def ucb_replay(config: UcbReplayConfig = UcbReplayConfig()) -> Method:
    """The model with the highest mean utility among the rows that the bandit used."""

    def fit(key, problem):
        log = problem.log
        propensity = problem.nuisances.propensity
        floor = jnp.quantile(propensity, config.quantile) if config.quantile else jnp.inf
        drawn = jax.random.uniform(key, propensity.shape)
        keep = (log.score_weight > 0) & (drawn * propensity < floor)
        order = jnp.arange(log.model.shape[0]) if log.time is None else jnp.argsort(log.time)

        def at(lam):
            rows = log.model[order], log.score[order], log.cost[order], keep[order]
            return replay(*rows, lam, n_models=len(log.models), width=config.width)

        mean, used = jax.vmap(at)(problem.lambdas)
        return {"mean": mean, "used": used, "lambdas": problem.lambdas}

    def apply(params, x, lam):
        del x
        index = nearest(params["lambdas"], lam)
        score, cost = params["mean"][index]
        return jnp.where(params["used"][index] > 0, utility(score, cost, lam), _NEVER)

    return Method(fit, Policy(apply), config, smooth=False)
