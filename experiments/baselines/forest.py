"""A random forest in JAX: soft labels, several classifications at once, fitted inside a jitted program.

Trees are complete to a fixed depth and grown level by level: of each node, a few features drawn at random, cuts at
quantiles, and the cut that leaves the least Gini impurity; a node without a good cut sends all its rows left. Each
tree sees its own resample of the rows (Poisson counts). No method of its own: what rorf is made of.

Source: Breiman (2001), Random forests; level-wise growth on histograms as in LightGBM and XGBoost's `hist`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jrouter.types import Array

_NEVER = 1e30  # No value lies above it: all rows of the node go left.


class ForestConfig(NamedTuple):
    """Number of trees, their depth, cuts a feature, features a node (0: square root of all), rows a leaf."""

    trees: int = 100
    depth: int = 8
    cuts: int = 15
    features: int = 0
    least_rows: float = 1.0


def cuts_of(x: Array, weight: Array, *, cuts: int) -> Array:
    """[d, cuts], quantiles of each column of x [n, d] among rows of positive weight."""
    usable = jnp.where((weight > 0)[:, None], x, jnp.nan)
    return jnp.nanquantile(usable, jnp.linspace(0.0, 1.0, cuts + 2)[1:-1], axis=0).T


def _grow(
    key: Array, bins: Array, edges: Array, labels: Array, weight: Array, config: ForestConfig
) -> dict[str, Array]:
    """One tree: {"feature", "cut"} [2^depth - 1] by levels, and {"leaf"} [2^depth, C], mean labels.

    Args:
      key: of its resample and of its features.
      bins: [n, d] int, how many cuts lie below each value.
      edges: [d, cuts].
      labels: [n, C], probabilities that sum to 1 over each classification.
      weight: [n].
      config: sizes.
    """
    n, d = bins.shape
    n_bins, n_classes = edges.shape[1] + 1, labels.shape[1]
    tried = min(d, config.features or max(1, round(d**0.5)))
    key_rows, key_features = jax.random.split(key)
    weight = weight * jax.random.poisson(key_rows, 1.0, (n,))
    # The last column counts rows.
    mass = jnp.concatenate([labels, jnp.ones((n, 1))], axis=1) * weight[:, None]
    node, features, cuts = jnp.zeros(n, jnp.int32), [], []
    for level in range(config.depth):
        nodes = 2**level
        drawn = jax.random.uniform(jax.random.fold_in(key_features, level), (nodes, d))
        candidate = jax.lax.top_k(drawn, tried)[1]

        def histogram(column, node=node, nodes=nodes):
            own = jnp.take_along_axis(bins, column[node][:, None], axis=1)[:, 0]
            return jax.ops.segment_sum(mass, node * n_bins + own, num_segments=nodes * n_bins)

        counts = jax.lax.map(histogram, candidate.T).reshape(tried, nodes, n_bins, n_classes + 1)
        left = jnp.cumsum(counts, axis=2)[:, :, :-1]
        right = counts.sum(axis=2, keepdims=True) - left

        def purity(side):
            rows = jnp.maximum(side[..., -1], 1e-30)
            return jnp.square(side[..., :-1]).sum(axis=-1) / rows

        enough = jnp.minimum(left[..., -1], right[..., -1]) >= config.least_rows
        whole = purity(counts.sum(axis=2, keepdims=True))
        gain = jnp.where(enough, purity(left) + purity(right) - whole, -jnp.inf)
        by_node = gain.transpose(1, 0, 2).reshape(nodes, -1)
        best = jnp.argmax(by_node, axis=1)
        splits = jnp.take_along_axis(by_node, best[:, None], axis=1)[:, 0] > 1e-6
        feature = jnp.take_along_axis(candidate, (best // (n_bins - 1))[:, None], axis=1)[:, 0]
        place = best % (n_bins - 1)
        features.append(feature)
        cuts.append(jnp.where(splits, edges[feature, place], _NEVER))
        goes_right = (bins[jnp.arange(n), feature[node]] > place[node]) & splits[node]
        node = 2 * node + goes_right
    leaves = jax.ops.segment_sum(mass, node, num_segments=2**config.depth)
    # A leaf without rows is reached by no query; it is the mean all the same.
    leaves = jnp.where(leaves[:, -1:] > 0, leaves, mass.sum(axis=0))
    leaf = leaves / jnp.maximum(leaves[:, -1:], 1e-30)
    return {"feature": jnp.concatenate(features), "cut": jnp.concatenate(cuts), "leaf": leaf[:, :-1]}


def fit_forest(key: Array, x: Array, labels: Array, weight: Array, config: ForestConfig) -> dict[str, Array]:
    """Trees, stacked along a leading axis.

    Args:
      key: of the resamples and of the features.
      x: [n, d].
      labels: [n, C], as of one classification, or of several side by side, which then share their trees.
      weight: [n]; a row of weight 0 is as good as absent.
      config: sizes.
    """
    edges = cuts_of(x, weight, cuts=config.cuts)
    bins = jax.vmap(jnp.searchsorted, in_axes=(0, 1), out_axes=1)(edges, x)
    keys = jax.random.split(key, config.trees)
    return jax.lax.map(lambda key: _grow(key, bins, edges, labels, weight, config), keys)


def predict_forest(forest: dict[str, Array], x: Array) -> Array:
    """[C], mean of the leaves that one query [d] falls in."""
    depth = (forest["feature"].shape[1] + 1).bit_length() - 1

    def of_tree(feature, cut, leaf):
        node = 0
        for level in range(depth):
            at = 2**level - 1 + node
            node = 2 * node + (x[feature[at]] > cut[at])
        return leaf[node]

    return jax.vmap(of_tree)(forest["feature"], forest["cut"], forest["leaf"]).mean(axis=0)
