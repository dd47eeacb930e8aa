"""BERT: hidden states as torch's, padding and batches that change nothing, and an error for weights that do not fit."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.encoders.activations import ACTIVATIONS
from jrouter.encoders.attention import attend, mask_bias
from jrouter.encoders.bert import Bert, bert_config, bert_params
from jrouter.encoders.errors import EncoderError

SETTINGS = {
    "model_type": "bert",
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
DENSE = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")


def random_tensors(seed=0, **changes):
    """Tensors by transformers' names, none of them all zeros or ones as a fresh model's biases and scales are."""
    config = bert_config(SETTINGS | changes)
    d, inner, rng = config.hidden_size, config.intermediate_size, np.random.default_rng(seed)
    shapes = {
        "embeddings.word_embeddings.weight": (config.vocab_size, d),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, d),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, d),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(config.num_hidden_layers):
        layer = f"encoder.layer.{i}."
        sizes = dict.fromkeys(DENSE, (d, d)) | {"intermediate.dense": (inner, d), "output.dense": (d, inner)}
        for name, (out, into) in sizes.items():
            shapes |= {f"{layer}{name}.weight": (out, into), f"{layer}{name}.bias": (out,)}
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
    shapes |= {f"{norm}.{part}": (d,) for norm in norms for part in ("weight", "bias")}
    return {
        name: (rng.normal(size=shape) * 0.3 + name.endswith("LayerNorm.weight")).astype(np.float32)
        for name, shape in shapes.items()
    }


def random_batch(seed=0, n=4, length=12):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, SETTINGS["vocab_size"], (n, length)).astype(np.int32)
    mask = np.arange(length) < rng.integers(1, length + 1, (n, 1))
    mask[0] = True
    return tokens, mask


def made(dtype=jnp.float32, **changes):
    """The network, compiled, and its parameters."""
    config = bert_config(SETTINGS | changes)
    return compiled(config, dtype), bert_params(random_tensors(**changes), config)


@cache
def compiled(config, dtype):
    return jax.jit(Bert(config, dtype).apply)


@pytest.mark.parametrize("changes", [{}, {"hidden_act": "gelu_new"}, {"hidden_act": "relu", "num_hidden_layers": 1}])
def test_hidden_states_are_those_of_torch(changes):
    torch = pytest.importorskip("torch", reason="torch is what hidden states are compared with")
    from transformers import BertConfig, BertModel

    theirs = BertModel(BertConfig(**(SETTINGS | changes)), add_pooling_layer=False).eval()
    tensors = random_tensors(**changes)
    missing = theirs.load_state_dict({name: torch.tensor(value) for name, value in tensors.items()}, strict=False)
    assert not missing.missing_keys and not missing.unexpected_keys
    tokens, mask = random_batch()
    with torch.inference_mode():
        expected = theirs(torch.tensor(tokens), attention_mask=torch.tensor(mask)).last_hidden_state.numpy()
    apply, params = made(**changes)
    found = np.asarray(apply(params, tokens, mask))
    assert np.abs(found - expected)[mask].max() < 1e-5
    assert np.abs(expected[mask]).max() > 1.0


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_those_of_torch(name):
    torch = pytest.importorskip("torch", reason="torch is what activations are compared with")
    from transformers.activations import ACT2FN

    x = np.linspace(-12.0, 12.0, 2001, dtype=np.float32)
    expected = ACT2FN[name](torch.tensor(x)).numpy()
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x)), expected, rtol=1e-6, atol=2e-6)


def test_attention_is_the_formula():
    n, length, heads, groups, width = 2, 5, 6, 2, 4
    rng = np.random.default_rng(0)
    query = rng.normal(size=(n, length, heads, width)).astype(np.float32)
    key, value = rng.normal(size=(2, n, length, groups, width)).astype(np.float32)
    allowed = rng.random((n, length, length)) < 0.6
    allowed[..., 0] = True
    expected = np.zeros((n, length, heads, width))
    for i, q, h in np.ndindex(n, length, heads):
        shared = h // (heads // groups)
        scores = key[i, :, shared].astype(float) @ query[i, q, h] / np.sqrt(width)
        weights = np.where(allowed[i, q], np.exp(scores), 0.0)
        expected[i, q, h] = weights @ value[i, :, shared] / weights.sum()
    found = jax.jit(attend)(query, key, value, mask_bias(jnp.asarray(allowed)))
    np.testing.assert_allclose(found, expected.reshape(n, length, -1), rtol=1e-5, atol=1e-6)


def test_attention_to_nothing_is_finite():
    def loss(x):
        return attend(x, x, x, mask_bias(jnp.zeros((1, 1, 3), bool))).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.ones((1, 3, 2, 4)) * 1e3)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_parameters_are_those_of_the_network():
    _, params = made()
    shapes = jax.eval_shape(Bert(bert_config(SETTINGS)).init, jax.random.key(0), *random_batch())
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), params
    )


def test_padding_changes_nothing():
    apply, params = made()
    tokens, _ = random_batch(length=7)
    alone = apply(params, tokens, np.ones_like(tokens, bool))
    padded = np.concatenate([tokens, np.full((4, 5), 3, np.int32)], axis=1)
    mask = np.arange(12) < 7 + np.zeros((4, 1))
    np.testing.assert_allclose(apply(params, padded, mask)[:, :7], alone, rtol=1e-5, atol=1e-5)
    # ... and what is seen does.
    assert np.abs(apply(params, padded, np.ones_like(mask))[:, :7] - alone).max() > 0.01


def test_a_batch_is_its_examples():
    apply, params = made()
    tokens, mask = random_batch()
    one = jax.vmap(lambda t, m: apply(params, t[None], m[None])[0])
    np.testing.assert_allclose(one(tokens, mask), apply(params, tokens, mask), rtol=1e-5, atol=1e-5)


def test_empty_text_is_finite():
    apply, params = made()
    tokens, mask = random_batch()
    assert np.isfinite(apply(params, tokens, np.zeros_like(mask))).all()


def test_bfloat16_is_close():
    tokens, mask = random_batch()
    apply, params = made()
    half, _ = made(jnp.bfloat16)
    exact, found = apply(params, tokens, mask), half(params, tokens, mask)
    assert found.dtype == jnp.bfloat16
    cosine = nn.standardize(exact) * nn.standardize(found.astype(jnp.float32))
    assert 0.999 < cosine.mean(-1).min() and np.abs(exact - found).max() > 1e-4


def test_unknown_token_is_nan_and_too_many_are_refused():
    apply, params = made()
    hidden = apply(params, np.full((1, 2), SETTINGS["vocab_size"], np.int32), np.ones((1, 2), bool))
    assert np.isnan(hidden).all()
    with pytest.raises(EncoderError, match="17 tokens are more than the 16 positions"):
        apply(params, np.zeros((1, 17), np.int32), np.ones((1, 17), bool))


def test_names_of_other_checkpoints():
    tensors, config = random_tensors(), bert_config(SETTINGS)
    expected = bert_params(tensors, config)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name, value in tensors.items():
        for new, before in old.items():
            name = name.replace(new, before)
        renamed[f"bert.{name}"] = value
    heads = {"cls.predictions.bias": np.ones(3), "bert.pooler.dense.bias": np.ones(3), "classifier.weight": np.ones(3)}
    buffers = {"bert.embeddings.position_ids": np.arange(3)}
    jax.tree.map(np.testing.assert_array_equal, bert_params({**renamed, **heads, **buffers}, config), expected)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"encoder.layer.1.output.dense.bias": None}, r"'encoder.layer.1.output.dense.bias' is missing.*\(24,\)"),
        ({"embeddings.LayerNorm.bias": np.ones(7)}, r"'embeddings.LayerNorm.bias' has shape \(7,\).*\(24,\)"),
        ({"embeddings.LayerNorm.bias": np.ones(24, np.int8)}, "holds int8, expected floating-point"),
        ({"embeddings.LayerNorm.bias": np.full(24, np.nan)}, "'embeddings.LayerNorm.bias' holds numbers .* not finite"),
        ({"encoder.layer.3.output.dense.bias": np.ones(24)}, "no place for the tensors 'encoder.layer.3.output"),
        ({"bert.embeddings.LayerNorm.bias": np.ones(24)}, "stand for the same weights"),
    ],
)
def test_weights_that_do_not_fit(change, message):
    tensors = {name: value for name, value in (random_tensors() | change).items() if value is not None}
    with pytest.raises(EncoderError, match=message):
        bert_params(tensors, bert_config(SETTINGS))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden_act": "mish"}, "'hidden_act' is 'mish'.*gelu_new"),
        ({"hidden_size": None}, "'hidden_size' is None, expected a whole number"),
        ({"hidden_size": 24.0}, "'hidden_size' is 24.0, expected a whole number"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' is 0"),
        ({"num_attention_heads": 5}, "5 attention heads do not divide a 'hidden_size' of 24"),
        ({"position_embedding_type": "relative_key"}, "'position_embedding_type' is 'relative_key'.*'absolute' only"),
        ({"is_decoder": True}, "'is_decoder' is True"),
        ({"layer_norm_eps": "small"}, "'layer_norm_eps' is 'small', expected a number"),
    ],
)
def test_settings_without_code(change, message):
    with pytest.raises(EncoderError, match=message):
        bert_config(SETTINGS | change)


def test_settings_missing():
    with pytest.raises(EncoderError, match="'vocab_size' is missing"):
        bert_config({name: value for name, value in SETTINGS.items() if name != "vocab_size"})
    assert bert_config({k: v for k, v in SETTINGS.items() if k != "layer_norm_eps"}).layer_norm_eps == 1e-12
