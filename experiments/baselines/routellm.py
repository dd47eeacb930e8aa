"""routellm_{mf,sw,classifier}: how probably the stronger of two models wins, and a threshold of it.

    mf          P(x) = sigmoid(w . ((v_strong - v_weak) * (W x))),  model vectors v of length 1
    sw          P(x) = sum_i omega_i label_i / sum_i omega_i,       omega_i = 10^(1 + S_i / max_j S_j), S = cosine
    classifier  P(x) = sigmoid(head(x))

`sw` is the Bradley-Terry model with every comparison weighted by its query's likeness to x. Of one pair its maximum of
likelihood has that closed form; a chain of pairs has no cycle, so the T coefficients jointly give the same.

Source: Ong et al. (2024), RouteLLM, arXiv 2406.18665, routing approaches; routellm/routers/routers.py,
matrix_factorization/train_matrix_factorization.py and calibrate_threshold.py.

Adaptation: wins are imputed, T models are a chain of pairs, and thresholds answer any lambda: `pairs.py`.
`PairsConfig.full` takes every outcome from the table instead: full feedback.
Deviations: half a win for a tie, where mf drops ties and the classifier has a class for them; models are themselves,
not one of ten tiers of an arena's; sw's cosines are of centred embeddings; the classifier is a small head on the
embedding, not a fine-tuned BERT; no noise on embeddings, and AdamW with a falling learning rate.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from baselines.pairs import PairsConfig, chain, win_labels
from jrouter.networks import RouterNetwork, head_width, run
from jrouter.policy import Method
from jrouter.train import Hyper, Rows, TrainConfig, make_train, train_keys
from jrouter.types import Array

_TRAIN = TrainConfig(epochs=20, batch_size=64)


@dataclass(frozen=True)
class RouteLlmMfConfig(PairsConfig):
    """`PairsConfig`, and the width of the factorisation."""

    rank: int = 128


@dataclass(frozen=True)
class RouteLlmSwConfig(PairsConfig):
    """`PairsConfig`, and gamma: what a query of the greatest likeness counts beside one of none."""

    gamma: float = 10.0


@dataclass(frozen=True)
class RouteLlmClassifierConfig(PairsConfig):
    """`PairsConfig`, and the hidden layers of the head."""

    hidden: tuple[int, ...] = (64,)


def _cross_entropy(logits: Array, labels: Array) -> Array:
    """Of pairs [T - 1] with labels that may be anything between a loss and a win, or beyond."""
    return (jax.nn.softplus(logits) - labels * logits).sum()


def factored_logits(params: dict[str, Array], x: Array) -> Array:
    """[T - 1], w . ((v_strong - v_weak) * (W x)), with a constant 1 in x: embeddings here are centred."""
    models = params["models"] / jnp.linalg.norm(params["models"], axis=1, keepdims=True)
    return jnp.diff(models, axis=0) @ (params["weights"] * (params["projection"] @ jnp.append(x, 1.0)))


def routellm_mf(config: RouteLlmMfConfig = RouteLlmMfConfig()) -> Method:
    """Matrix factorisation of wins."""

    def learn(key, x, score, weight):
        n_models, dim = score.shape[1], x.shape[1] + 1

        def start(key):
            models, projection = jax.random.split(key)
            return {
                "models": jax.random.normal(models, (n_models, config.rank)),
                "projection": jax.random.normal(projection, (config.rank, dim)) / jnp.sqrt(dim),
                "weights": jnp.ones(config.rank) / jnp.sqrt(config.rank),
            }

        def loss(params, example, setting):
            return _cross_entropy(factored_logits(params, example[0]), example[1])

        rows = Rows((x, win_labels(score)), weight)
        return make_train(start, loss, _TRAIN)(train_keys(key), rows, None, Hyper(weight_decay=1e-5))[0]

    return chain(learn, lambda params, x: jax.nn.sigmoid(factored_logits(params, x)), config)


def likeness_weights(x: Array, stored: Array, gamma: float) -> Array:
    """omega [m] of one query [d] to stored queries [m, d]: gamma^(1 + S / max S)."""
    length = jnp.linalg.norm(x) * jnp.linalg.norm(stored, axis=1)
    cosine = jnp.where(length > 0, stored @ x / jnp.where(length > 0, length, 1.0), 0.0)
    return gamma ** (1.0 + cosine / jnp.maximum(cosine.max(), 1e-3))


def routellm_sw(config: RouteLlmSwConfig = RouteLlmSwConfig()) -> Method:
    """Similarity-weighted ranking."""

    def learn(key, x, score, weight):
        del key
        return {"x": x, "labels": win_labels(score), "weight": weight}

    def win(params, x):
        omega = likeness_weights(x, params["x"], config.gamma) * params["weight"]
        return jnp.clip(omega @ params["labels"] / jnp.maximum(omega.sum(), 1e-30), 0.0, 1.0)

    return chain(learn, win, config)


def routellm_classifier(config: RouteLlmClassifierConfig = RouteLlmClassifierConfig()) -> Method:
    """A network with one output a pair."""

    def learn(key, x, score, weight):
        network = RouterNetwork(score.shape[1] - 1, config.hidden)

        def loss(params, example, setting):
            return _cross_entropy(run(network, params, example[0]), example[1])

        train = make_train(lambda key: network.init(key, x[0]), loss, _TRAIN)
        return train(train_keys(key), Rows((x, win_labels(score)), weight), None, Hyper())[0]

    def win(params, x):
        return jax.nn.sigmoid(run(RouterNetwork(head_width(params), config.hidden), params, x))

    return chain(learn, win, config)
