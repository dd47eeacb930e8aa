"""Kernel ridge outcome models, pooled over models: f has covariance k(x, x') B[t, t'].

    k(x, x') = (1 - s) x.x' / d + s exp(-|x - x'|^2 / (2 h^2)),   B[t, t'] = 1 / a + (t = t') / b

s mixes a linear with a Gaussian part; a is the penalty on what models share, b on each one's own, as in
`ridge.pooled`, which s = 0 is. The Gaussian is a product of random features (Rahimi & Recht 2007, in
pairs of sine and cosine: Sutherland & Schneider 2015), so that n enters only through moments: n = 100,000
costs ten times n = 10,000, not a thousand times.
"""

import jax
import jax.numpy as jnp

from jrouter.nuisances.outcome import ModelFeatures, OutcomeModel, Outcomes, choose
from jrouter.nuisances.ridge import moments_of, solve_pooled
from jrouter.types import Array

KERNEL_STRENGTHS = ((30.0, 10.0, 0.5), (10.0, 30.0, 0.2), (10.0, 100.0, 0.2), (3.0, 300.0, 0.1))

SUBSAMPLE = 512
"""Rows whose distances give the bandwidth."""

_PROJECTION = 0
"""Seed of the projection. Fixed, so that all folds and all logs have the same random features."""


def median_distance(key: Array, x: Array, weight: Array, *, size: int = SUBSAMPLE) -> Array:
    """Median Euclidean distance between pairs of a random subsample of the rows of positive weight.

    Args:
      key: of the subsample.
      x: [n, d].
      weight: [n].
      size: rows of the subsample, at most.

    Returns:
      A scalar; 1 where all rows coincide or fewer than two count.

    >>> median_distance(jax.random.key(0), jnp.array([[0.0], [3.0], [99.0]]), jnp.array([1.0, 1.0, 0.0]))
    Array(3., dtype=float32)
    """
    rows, present = _subsample(key, weight, size)
    x = x[rows]
    squares = jnp.square(x).sum(axis=1)
    distance = jnp.sqrt(jnp.maximum(squares[:, None] + squares - 2.0 * x @ x.T, 0.0))
    pairs = present[:, None] & present & ~jnp.eye(x.shape[0], dtype=bool)
    median = jnp.nanmedian(jnp.where(pairs, distance, jnp.nan))
    return jnp.where(median > 1e-6, median, 1.0)


def _subsample(key: Array, weight: Array, size: int) -> tuple[Array, Array]:
    order = jnp.where(weight > 0, jax.random.uniform(key, weight.shape), -1.0)
    top, rows = jax.lax.top_k(order, min(size, weight.shape[0]))
    return rows, top >= 0


def random_features(projection: dict[str, Array], x: Array) -> Array:
    """Features [..., d + D] of x [..., d]: x itself, then D random ones, each of mean square about 1.

    Products of the last D, before they are centred, are about D exp(-|x - x'|^2 / (2 h^2)).

    Args:
      projection: "frequencies" [d, D / 2], normal over h; "centre" [D], what is taken from the random ones.
      x: [..., d].

    >>> projection = {"frequencies": jnp.array([[2.0]]), "centre": jnp.zeros(2)}
    >>> random_features(projection, jnp.zeros(1))
    Array([0.       , 1.4142135, 0.       ], dtype=float32)
    """
    angle = x @ projection["frequencies"]
    waves = jnp.sqrt(2.0) * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return jnp.concatenate([x, waves - projection["centre"]], axis=-1)


def kernel_pooled(
    strengths=KERNEL_STRENGTHS, *, n_features: int = 256, bandwidth: float = 0.7, features: ModelFeatures = None
) -> OutcomeModel:
    """Pooled ridge regression on the query and on random features of a Gaussian kernel.

    The projection has a key of its own, not the fold's: all folds share it but for the bandwidth, which
    is that of the fold's training rows.

    Args:
      strengths: triples (a, b, s): penalties as in `ridge.pooled`, and the Gaussian's share of the kernel.
        Chosen by cross-validation where there are several.
      n_features: D, even.
      bandwidth: h as a multiple of the median distance between training queries.
      features: of the models, as in `ridge.pooled`.

    Raises:
      ValueError: if `n_features` is odd.

    Source: Rahimi & Recht (2007); Bonilla, Chai & Williams (2008), for B.
    """
    if n_features % 2:
        raise ValueError(f"random features come in pairs: n_features must be even, got {n_features}")

    def project(outcomes: Outcomes) -> dict[str, Array]:
        key_rows, key_directions = jax.random.split(jax.random.key(_PROJECTION))
        weight, dim = outcomes.weight.max(axis=1), outcomes.x.shape[1]
        directions = jax.random.normal(key_directions, (dim, n_features // 2))
        frequencies = directions / (bandwidth * median_distance(key_rows, outcomes.x, weight))
        projection = {"frequencies": frequencies, "centre": jnp.zeros(n_features)}
        # Centred like x, so that a model without rows predicts its level, not some wave's mean.
        rows, present = _subsample(key_rows, weight, SUBSAMPLE)
        waves = random_features(projection, outcomes.x[rows])[:, dim:]
        return {**projection, "centre": present @ waves / jnp.maximum(present.sum(), 1)}

    def prepare(key, outcomes: Outcomes, n_models: int, model_size: int):
        del key
        projection = project(outcomes)
        return moments_of(outcomes, n_models, model_size, lambda x: random_features(projection, x)), projection

    def solve(statistics, strength):
        moments, _ = statistics
        total = moments.gram.shape[-1]
        dim = total - n_features
        linear, gaussian = (1.0 - strength[2]) * total / dim, strength[2] * total / n_features
        factor = jnp.sqrt(jnp.concatenate([jnp.full(dim, linear), jnp.full(n_features, gaussian)]))
        scaled = moments._replace(
            gram=moments.gram * factor * factor[:, None], moment=moments.moment * factor, x_mean=moments.x_mean * factor
        )
        solution = solve_pooled(scaled, strength[:2])
        return {**solution, "coefficients": solution["coefficients"] * factor}

    def predict(params, x):
        return params["coefficients"] @ random_features(params, x) + params["intercept"]

    def assemble(statistics, solution):
        return {**statistics[1], **solution}

    return OutcomeModel(prepare, solve, predict, jnp.array(strengths), choose, assemble, features=features)
