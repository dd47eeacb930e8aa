"""rorf: a random forest of the four outcomes of a pair of models, weak and strong right or wrong.

    P_s(x) = p(only the strong one is right) + p(both are wrong)

and a threshold of it: a query that neither can answer goes to the strong model, one that both can to the weak.

Source: Jain, Tung & Kofman (2024), RoRF: routing on random forests, notdiamond.ai/blog/rorf (labels 0 and 1, A alone
right and both wrong, choose A; 100 trees of depth 20, by the paper's account of it).

Adaptation: a log shows one of the two outcomes. The joint one is imputed as if, given the query, one model's being
right told nothing of the other's: p(both) = p_weak p_strong, p from `pairs.outcomes_of_all` cut off at 0 and 1. Then

    P_s = p_strong (1 - p_weak) + (1 - p_strong) (1 - p_weak) = 1 - p_weak,

so without the joint outcomes RoRF asks only whether the weak model fails: what the strong one adds is left to the
threshold. With `full`, labels are the four outcomes themselves (a score of half the range or more is right).
Deviations: one forest has all pairs' labels and shares its cuts among them; T models are a chain, thresholds are found
for each lambda (`pairs.py`); trees of depth 8 with cuts at 15 quantiles (`forest.py`), since a jitted program
holds complete trees, 2^20 leaves each at RoRF's depth; soft labels, and Poisson counts in place of a bootstrap.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from baselines.forest import ForestConfig, fit_forest, predict_forest
from baselines.pairs import PairsConfig, chain
from jrouter.policy import Method
from jrouter.types import Array


@dataclass(frozen=True)
class RorfConfig(PairsConfig):
    """`PairsConfig`, and the sizes of the forest."""

    forest: ForestConfig = ForestConfig()


def four_outcomes(score: Array, *, hard: bool) -> Array:
    """[n, T - 1, 4], labels of each pair: only the strong one right, neither, both, only the weak one.

    Args:
      score: [n, T], in the chain's order.
      hard: scores are realised, and right or wrong; else they are probabilities of being right.

    >>> four_outcomes(jnp.array([[.25, .5]]), hard=False)
    Array([[[0.375, 0.375, 0.125, 0.125]]], dtype=float32)
    """
    least, most = (score.min(), score.max()) if hard else (0.0, 1.0)
    right = (score >= (least + most) / 2.0) * 1.0 if hard else jnp.clip(score, 0.0, 1.0)
    weak, strong = right[:, :-1], right[:, 1:]
    return jnp.stack([strong * (1 - weak), (1 - strong) * (1 - weak), strong * weak, (1 - strong) * weak], axis=-1)


def rorf(config: RorfConfig = RorfConfig()) -> Method:
    """A chain of pairs, all in one forest."""

    def learn(key, x, score, weight):
        labels = four_outcomes(score, hard=config.full)
        return fit_forest(key, x, labels.reshape(x.shape[0], -1), weight, config.forest)

    def win(params, x):
        return predict_forest(params, x).reshape(-1, 4)[:, :2].sum(axis=1)

    return chain(learn, win, config)
