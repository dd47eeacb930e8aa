"""Surrogates of regret: identities, gradients, what they recover, the trap of noisy labels, and the bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.test_util import check_grads

from jrouter.estimators import doubly_robust
from jrouter.losses import (
    classification_surrogate,
    cost_weighted_surrogate,
    pinsker_regret_bound,
    softmax_regret,
    total_variation_regret_bound,
)
from jrouter.metrics import decide, regret

PROPERTY = settings(max_examples=60, derandomize=True, deadline=None)
LOSSES = [softmax_regret, classification_surrogate, cost_weighted_surrogate]
LOGITS = jnp.array([0.3, -1.2, 2.0, 0.1])
UTILITY = jnp.array([0.2, 0.9, -0.5, 0.4])


def softmax(logits):
    weights = [np.exp(h - max(logits)) for h in logits]
    return [w / sum(weights) for w in weights]


def reference(loss, logits, utility):
    """The definitions in float64, where one model is best."""
    f, u = softmax([float(h) for h in logits]), [float(value) for value in utility]
    if loss is softmax_regret:
        return sum(f[t] * (max(u) - u[t]) for t in range(len(u)))
    if loss is classification_surrogate:
        return -np.log(f[u.index(max(u))])
    return sum((u[t] - min(u)) * -np.log(f[t]) for t in range(len(u)))


@pytest.mark.parametrize("loss", LOSSES)
def test_definition_and_vmap(loss):
    rng = np.random.default_rng(0)
    logits, utility = rng.normal(size=(2, 20, 5)).astype(np.float32) * 2
    got = jax.jit(jax.vmap(loss))(logits, utility)
    for i in range(20):
        np.testing.assert_allclose(got[i], reference(loss, logits[i], utility[i]), rtol=1e-4)
        np.testing.assert_allclose(got[i], loss(jnp.asarray(logits[i]), jnp.asarray(utility[i])), rtol=1e-5)


def test_temperature_divides_the_logits():
    np.testing.assert_allclose(
        softmax_regret(LOGITS, UTILITY, temperature=2.5), reference(softmax_regret, LOGITS / 2.5, UTILITY), rtol=1e-5
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kept", [[0, 1, 3], [3]])
def test_mask_is_slice(loss, kept):
    kept = np.array(kept)
    mask = jnp.zeros(4, bool).at[kept].set(True)
    value_and_slope = jax.jit(jax.value_and_grad(loss))
    value, slope = value_and_slope(LOGITS, UTILITY, mask=mask)
    part, part_slope = value_and_slope(LOGITS[kept], UTILITY[kept])
    np.testing.assert_allclose(value, part, atol=1e-6)
    np.testing.assert_allclose(slope[kept], part_slope, atol=1e-6)
    np.testing.assert_array_equal(slope[~mask], 0.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_constants_do_not_matter(loss):
    np.testing.assert_allclose(loss(LOGITS + 3, UTILITY - 2), loss(LOGITS, UTILITY), rtol=1e-5)


def test_softmax_regret_is_the_regret_of_its_policy():
    for temperature, policy in [
        (0.7, jax.nn.softmax(LOGITS / 0.7)),
        (1e-4, decide(LOGITS)),
        (1e8, jnp.full(4, 0.25)),
    ]:
        got = softmax_regret(LOGITS, UTILITY, temperature=temperature)
        np.testing.assert_allclose(got, regret(policy, UTILITY), rtol=1e-5)
    assert softmax_regret(LOGITS, UTILITY, temperature=1e-4) > 1.39  # model 2 is chosen, model 1 is best


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "logits, utility, mask",
    [
        ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], None),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [True, True, False]),
        ([1e4, 0.0, -1e4], [-1e20, 1e20, 1e20], None),
        ([1e4, 0.0, -1e4], [0.0, 1.0, 2.0], [True, False, True]),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [False, False, False]),
        ([1.0, 2.0, 3.0], [1e20, 2.0, -1e20], [False, True, False]),
    ],
)
def test_gradients_are_finite(loss, logits, utility, mask):
    mask = None if mask is None else jnp.array(mask)
    value, slopes = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(jnp.array(logits), jnp.array(utility), mask=mask)
    assert value >= 0
    for leaf in (value, *slopes):
        assert jnp.isfinite(leaf).all()
    if mask is not None and mask.sum() <= 1:
        assert value == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_right(loss):
    check_grads(jax.jit(lambda h: loss(h, UTILITY)), (LOGITS,), order=1, atol=1e-2, rtol=1e-2)


def test_gradient_of_temperature():
    check_grads(lambda tau: softmax_regret(LOGITS, UTILITY, temperature=tau), (0.8,), order=1, atol=1e-2, rtol=1e-2)


def descend(loss, logits, steps=400, learning_rate=0.1):
    """Logits that minimise `loss`, from where they are, by Adam."""
    optimiser = optax.adam(learning_rate)

    def step(carry, _):
        logits, state = carry
        update, state = optimiser.update(jax.grad(loss)(logits), state)
        return (jax.tree.map(jnp.add, logits, update), state), None

    return jax.lax.scan(step, (logits, optimiser.init(logits)), length=steps)[0][0]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_proposition_2_softmax_regret_recovers_the_optimal_assignment(temperature):
    utility = jax.random.uniform(jax.random.key(0), (12, 4))

    def mean_regret(logits):
        return jax.vmap(lambda h, u: softmax_regret(h, u, temperature=temperature))(logits, utility).mean()

    logits = descend(mean_regret, jnp.zeros_like(utility))
    np.testing.assert_array_equal(logits.argmax(axis=1), utility.argmax(axis=1))
    assert mean_regret(logits) < 0.01 < mean_regret(jnp.zeros_like(utility))


def test_classification_is_cross_entropy_where_one_model_is_best():
    logits, utility = jax.random.normal(jax.random.key(0), (2, 20, 5))
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, utility.argmax(axis=1))
    np.testing.assert_allclose(jax.vmap(classification_surrogate)(logits, utility), expected, rtol=1e-5, atol=1e-6)


def test_classification_at_ties():
    utility, cost = jnp.array([1.0, 0.0, 1.0, 1.0]), jnp.array([3.0, 0.0, 1.0, 2.0])
    f = softmax([float(h) for h in LOGITS])
    np.testing.assert_allclose(classification_surrogate(LOGITS, utility), -np.log(f[0] + f[2] + f[3]), rtol=1e-5)
    np.testing.assert_allclose(classification_surrogate(LOGITS, utility, cost=cost), -np.log(f[2]), rtol=1e-5)
    # Model 2 is out of the pool: the cheapest of the best is then model 3.
    mask = jnp.array([True, True, False, True])
    np.testing.assert_allclose(
        classification_surrogate(LOGITS, utility, mask=mask, cost=cost), -np.log(f[3] / (1 - f[2])), rtol=1e-5
    )
    assert classification_surrogate(LOGITS, jnp.ones(4)) == 0


def trap():
    """Every doubly robust row [4, 2] that one query can give, with exact nuisances, and its probability [4]."""
    score, propensity = jnp.array([0.9, 0.8]), jnp.array([0.3, 0.7])
    rows, chance = [], []
    for model in (0, 1):
        for outcome in (0.0, 1.0):
            rows.append(doubly_robust(score, jnp.array(outcome), jnp.array(model), propensity))
            chance.append(propensity[model] * (score[model] if outcome else 1 - score[model]))
    return jnp.stack(rows), jnp.stack(chance)


def test_trap_noisy_rows_are_unbiased_but_their_labels_are_not():
    rows, chance = trap()
    np.testing.assert_allclose(chance @ rows, [0.9, 0.8], rtol=1e-5)
    labels = jax.nn.one_hot(rows.argmax(axis=1), 2)
    np.testing.assert_allclose(chance @ labels, [0.41, 0.59], atol=1e-6)


def test_trap_hard_labels_prefer_the_wrong_model_and_the_other_losses_the_right_one():
    rows, chance = trap()

    def minimiser(loss):
        return jax.nn.softmax(descend(lambda h: chance @ jax.vmap(lambda u: loss(h, u))(rows), jnp.zeros(2)))

    np.testing.assert_allclose(minimiser(classification_surrogate), [0.41, 0.59], atol=1e-3)
    gain = np.asarray(chance @ (rows - rows.min(axis=1, keepdims=True)), np.float64)
    assert gain[0] > gain[1]
    np.testing.assert_allclose(minimiser(cost_weighted_surrogate), gain / gain.sum(), atol=1e-3)
    assert minimiser(softmax_regret)[0] > 0.9


@jax.jit
def bounds(logits, utility):
    """Regret of the policy softmax(logits), and what its cross-entropy says of it: exact, and through Pinsker."""
    cross_entropy, spread = classification_surrogate(logits, utility), utility.max() - utility.min()
    return (
        regret(jax.nn.softmax(logits), utility),
        total_variation_regret_bound(cross_entropy, utility_range=spread),
        pinsker_regret_bound(cross_entropy, lipschitz=spread / 2),
    )


@PROPERTY
@given(
    arrays(np.float32, 4, elements=st.floats(-6, 6, width=32)),
    arrays(np.float32, 4, elements=st.floats(-3, 3, width=32)),
)
def test_bounds_hold_and_are_ordered(logits, utility):
    lost, exact, pinsker = bounds(logits, utility)
    assert lost <= exact + 1e-5 * (1 + np.ptp(utility))
    assert exact <= pinsker * (1 + 1e-5) + 1e-6


def test_exact_bound_is_attained_where_all_other_models_are_equally_bad():
    lost, exact, pinsker = bounds(LOGITS, jnp.array([0.0, 2.0, 0.0, 0.0]))
    np.testing.assert_allclose(lost, exact, rtol=1e-5)
    assert pinsker > exact
    # Half the bound would not hold.
    assert lost > 0.5 * pinsker


def test_bounds_are_their_definitions():
    entropy = np.array([0.0, 1e-6, 0.3, 4.0])
    np.testing.assert_allclose(
        pinsker_regret_bound(jnp.asarray(entropy), lipschitz=1.5), 1.5 * np.sqrt(2 * entropy), rtol=1e-5
    )
    # At 1e-6 a plain 1 - exp(-c) would keep one digit in float32.
    np.testing.assert_allclose(
        total_variation_regret_bound(jnp.asarray(entropy), utility_range=3.0), -3.0 * np.expm1(-entropy), rtol=1e-5
    )


def test_gradient_of_the_bounds_at_0():
    assert jnp.isfinite(jax.grad(lambda c: pinsker_regret_bound(c, lipschitz=1.0))(0.0))
    np.testing.assert_allclose(jax.grad(lambda c: total_variation_regret_bound(c, utility_range=2.0))(0.0), 2.0)
    slope = jax.grad(lambda c: pinsker_regret_bound(c, lipschitz=3.0))(0.5)
    np.testing.assert_allclose(slope, 3.0, rtol=1e-6)  # 3 / sqrt(2 * .5)
