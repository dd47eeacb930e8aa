"""The verdict: what is said of numbers, and that it looks at no single nuisance alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.diagnostics import diagnose
from jrouter.known_worlds import draw_known_log, linear_rule, make_known_world
from jrouter.overlap import weigh
from jrouter.types import Nuisances
from jrouter.verdict import LEVELS, Thresholds, judge, judge_numbers, key_numbers

FINE = {
    "rows": 2000.0,
    "effective_rows": 900.0,
    "largest_share": 0.01,
    "pareto_k": 0.3,
    "mean_z": 0.5,
    "unsupported": 0.0,
    "propensity_p": 0.4,
    "outcome_p": 0.4,
    "imbalance": 0.1,
    "least_rows": 100.0,
}


@pytest.mark.parametrize(
    ("changed", "level", "said"),
    [
        ({}, "ok", None),
        ({"propensity_p": 0.0}, "ok", None),  # one wrong nuisance is what doubly robust values stand
        ({"outcome_p": 0.0}, "ok", None),
        ({"propensity_p": 0.0, "outcome_p": 0.01}, "caution", "both propensities"),
        ({"propensity_p": 0.0, "outcome_p": 0.0}, "refuse", "richer nuisances"),
        ({"effective_rows": 150.0}, "caution", "only 150 of 2000 rows"),
        ({"effective_rows": 20.0}, "refuse", "log more"),
        ({"pareto_k": 0.8}, "caution", "Pareto k 0.80"),
        ({"largest_share": 0.3}, "refuse", "30% of all weight"),
        ({"unsupported": 0.1}, "caution", "10% of the policy's choices"),
        ({"mean_z": -5.0}, "caution", "-5.0 standard errors"),
    ],
)
def test_each_number_is_a_reason_of_its_own(changed, level, said):
    verdict = judge_numbers(FINE | changed)
    assert verdict.level == level
    assert len(verdict.reasons) == (said is not None)
    assert said is None or said in verdict.reasons[0]


def test_the_worst_reason_decides_and_all_are_said():
    verdict = judge_numbers(FINE | {"pareto_k": 0.8, "effective_rows": 20.0})
    assert verdict.level == "refuse" and len(verdict.reasons) == 2
    strict = judge_numbers(FINE, Thresholds(pareto_k=(0.1, 0.2)))
    assert strict.level == "refuse" and LEVELS.index(strict.level) == 2


def test_a_diagnosis_of_known_nuisances_is_judged_by_its_policy():
    @jax.jit
    def draw():
        world = make_known_world(jax.random.key(0), dim=2, n_models=3)
        policy, params = linear_rule(world)
        log, every = draw_known_log(world, jax.random.key(1), 1000)
        return log, every, jax.vmap(lambda x: policy.probabilities(params, x, 0.0))(log.x)

    log, every, chosen = draw()
    n = log.model.shape[0]
    propensity = jnp.take_along_axis(every, log.model[:, None], axis=1)[:, 0]
    flat = jnp.zeros_like(every)
    nuisances = Nuisances(propensity, flat + log.score.mean(), flat + log.cost.mean(), jnp.zeros(n, jnp.int32), every)
    found = jax.jit(lambda log, nuisances: diagnose(log, nuisances, chosen, lam=0.0))(log, nuisances)
    numbers = {name: float(value) for name, value in key_numbers(found).items()}
    weight = np.asarray(chosen)[np.arange(n), np.asarray(log.model)] / np.asarray(propensity)
    np.testing.assert_allclose(numbers["effective_rows"], weight.sum() ** 2 / (weight**2).sum(), rtol=1e-4)
    # A flat outcome model is wrong, true propensities are not: ok. With flat propensities too, it is not.
    assert judge(found) == judge_numbers(numbers) and judge(found).level == "ok" and numbers["outcome_p"] < 0.05
    blind = replace(nuisances, propensity=jnp.full(n, 1 / 3), all_propensity=jnp.full_like(every, 1 / 3))
    worse = jax.jit(lambda log, nuisances: diagnose(log, nuisances, chosen, lam=0.0))(log, blind)
    assert judge(worse).level != "ok"
    with pytest.raises(ValueError, match="about a policy"):
        key_numbers(found._replace(policy_weights=None))


def test_a_tail_too_short_to_tell_is_no_reason_and_few_large_weights_are():
    """Propensities of two values, as of exploration: 4 rows of weight 25 among 3,000, or 3 rows that hold half."""
    many, few = np.r_[np.full(2996, 1.2), np.full(4, 25.0)], np.r_[np.ones(200), np.full(4, 1e3)]
    for weights, level in ((many, "ok"), (few, "refuse")):
        found = weigh(jnp.asarray(weights, jnp.float32))
        assert np.isposinf(found.pareto_k)
        own = {name: float(getattr(found, name)) for name in ("effective_rows", "largest_share", "pareto_k")}
        assert judge_numbers(FINE | own).level == level
