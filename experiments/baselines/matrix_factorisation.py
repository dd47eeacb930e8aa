"""matrix_factorisation and tensor_factorisation: the outcome of model t on query x as a product of their vectors.

    matrix:  f_ot(x) = sum_k (P_o x)_k v_otk + b_ot        of score and of cost (o) apart
    tensor:  f_ot(x) = sum_k (P x)_k v_tk u_ok + b_ot      one projection, one vector a model, one an outcome

Of a rank below T, what one model's rows tell serves the others: T regressions in rank * (d + T) numbers.

Source: Ong et al. (2024), RouteLLM, arXiv 2406.18665, matrix factorisation: delta(t, x) = w . (v_t * (W x)), win
probability sigmoid(delta(strong) - delta(weak)); routellm/routers/matrix_factorization. The tensor is its
canonical polyadic form over queries, models and outcomes (Kolda & Bader 2009, section 3).

Adaptation: theirs learns from wins of one model over another, of which a log of one model a query has none. Here
delta(t, x) predicts the observed score itself, so any number of models is one factorisation, nothing is imputed, and
cost is predicted beside score, which gives utility at any lambda. `routellm_mf` keeps the wins.
Deviations: squared error on outcomes in units of each model's deviation; w is left out, since v_t can hold it; a
rank of 4, not 128 (from rank T on, nothing is shared); no noise on embeddings, model vectors of any length; AdamW
with a falling learning rate, its decay chosen by held-out rows.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jrouter.methods.plug_in import fit_logged, plug_in_policy
from jrouter.nuisances.outcome import OutcomeModel, Outcomes, choose
from jrouter.policy import Method
from jrouter.train import Hyper, Rows, TrainConfig, make_train, train_keys
from jrouter.types import Array


@dataclass(frozen=True)
class FactorisationConfig:
    """Rank, whether score and cost share their vectors, training, and the decays to choose from."""

    rank: int = 4
    tensor: bool = False
    epochs: int = 40
    batch_size: int = 256
    learning_rate: float = 1e-2
    weight_decays: tuple[float, ...] = (0.3, 1.0, 3.0)


def start(key: Array, config: FactorisationConfig, dim: int, n_models: int) -> dict[str, Array]:
    """Vectors before training: projections that keep length, small model vectors, outcomes that count alike."""
    keys = jax.random.split(key, 2)
    parts = 1 if config.tensor else 2
    params = {
        "projection": jax.random.normal(keys[0], (parts, config.rank, dim)) / jnp.sqrt(dim),
        "models": 0.1 * jax.random.normal(keys[1], (parts, n_models, config.rank)),
        "bias": jnp.zeros((2, n_models)),
    }
    return params | {"outcomes": jnp.ones((2, config.rank))} if config.tensor else params


def predicted(params: dict[str, Array], x: Array) -> Array:
    """[2, T], standardised score and cost of every model on one scaled query [d].

    >>> shared = {"projection": jnp.ones((1, 1, 2)), "models": jnp.array([[[1.], [2.]]]), "bias": jnp.zeros((2, 2))}
    >>> predicted(shared | {"outcomes": jnp.array([[1.], [-1.]])}, jnp.array([3., 4.]))
    Array([[  7.,  14.],
           [ -7., -14.]], dtype=float32)
    """
    query = params["projection"] @ x
    if "outcomes" in params:
        query = query * params["outcomes"]
    return (query[:, None] * params["models"]).sum(axis=-1) + params["bias"]


def factors(config: FactorisationConfig) -> OutcomeModel:
    """The factorisation as an outcome model, which folds and row weights apply to as to any other."""

    def prepare(key, outcomes: Outcomes, n_models: int, model_size: int):
        del model_size
        return key, outcomes, jnp.zeros(n_models)

    def solve(statistics, weight_decay):
        key, outcomes, models = statistics
        row_weight = outcomes.weight.max(axis=1)
        share = outcomes.weight / jnp.where(row_weight > 0, row_weight, 1.0)[:, None]

        def loss(params, example, setting):
            x, model, observed, share = example
            return (share * (predicted(params, x)[:, model] - observed) ** 2).sum()

        train = make_train(
            lambda key: start(key, config, outcomes.x.shape[1], models.size),
            loss,
            TrainConfig(config.epochs, config.batch_size, min_batches=16),
        )
        rows = Rows((outcomes.x, outcomes.model, outcomes.observed, share), row_weight)
        params = train(train_keys(key), rows, None, Hyper(config.learning_rate, weight_decay))[0]
        # Of score and of cost, each at its own decay.
        return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)

    def predict(params, x):
        both = jax.vmap(predicted, in_axes=(0, None))(params, x)
        return jnp.stack([both[0, 0], both[1, 1]])

    return OutcomeModel(prepare, solve, predict, jnp.array(config.weight_decays), choose)


def matrix_factorisation(config: FactorisationConfig = FactorisationConfig()) -> Method:
    """Plug-in rule of the factorisation."""
    family = factors(config)
    policy = plug_in_policy(family.predict)
    return Method(lambda key, problem: fit_logged(key, family, problem.log, problem), policy, config)


def tensor_factorisation(config: FactorisationConfig = FactorisationConfig(tensor=True)) -> Method:
    """The same with vectors that score and cost share."""
    return matrix_factorisation(config)
