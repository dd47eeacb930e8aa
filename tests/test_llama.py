"""Llama: hidden states as torch's under all settings, and what causality and padding promise."""

from copy import deepcopy
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.encoders.errors import EncoderError
from jrouter.encoders.llama import Llama, llama_config, llama_params
from jrouter.encoders.rotary import Llama3Scaling, Rotary, frequencies, rotary_config, rotate

SETTINGS = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
NEW = {"rope_parameters": LLAMA3 | {"rope_theta": 500.0}, "rope_theta": None}
VARIANTS = {
    "plain": {},
    "llama3": NEW,
    "llama3_as_before_5": {"rope_theta": 500.0, "rope_scaling": LLAMA3},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide_heads": {"head_dim": 10, "num_key_value_heads": 1},
    "all_heads": {"num_key_value_heads": None, "head_dim": None, "hidden_act": "gelu"},
}


def random_tensors(seed=0, **changes):
    """Tensors by transformers' names, with the prefix that a model saved with its head has."""
    config = llama_config(SETTINGS | changes)
    d, inner, rng = config.hidden_size, config.intermediate_size, np.random.default_rng(seed)
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    shapes = {"model.embed_tokens.weight": (config.vocab_size, d), "model.norm.weight": (d,)}
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}."
        attention = {"q_proj": (queries, d), "k_proj": (keys, d), "v_proj": (keys, d), "o_proj": (d, queries)}
        dense = {"gate_proj": (inner, d), "up_proj": (inner, d), "down_proj": (d, inner)}
        for part, sizes, biased in (
            ("self_attn", attention, config.attention_bias),
            ("mlp", dense, config.mlp_bias),
        ):
            for name, size in sizes.items():
                shapes[f"{layer}{part}.{name}.weight"] = size
                if biased:
                    shapes[f"{layer}{part}.{name}.bias"] = size[:1]
        shapes |= {f"{layer}{name}.weight": (d,) for name in ("input_layernorm", "post_attention_layernorm")}
    return {
        name: (rng.normal(size=shape) * 0.2 + name.endswith("norm.weight")).astype(np.float32)
        for name, shape in shapes.items()
    }


def random_batch(seed=0, n=4, length=24):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, SETTINGS["vocab_size"], (n, length)).astype(np.int32)
    mask = np.arange(length) < rng.integers(1, length + 1, (n, 1))
    mask[0] = True
    return tokens, mask


def made(dtype=jnp.float32, **changes):
    """The network, compiled, and its parameters."""
    config = llama_config(SETTINGS | changes)
    return compiled(config, dtype), llama_params(random_tensors(**changes), config)


@cache
def compiled(config, dtype):
    return jax.jit(Llama(config, dtype).apply)


def torch_model(torch, **changes):
    from transformers import LlamaConfig, LlamaModel

    # transformers takes both ways of writing rotary settings.
    settings = {name: value for name, value in (SETTINGS | changes).items() if value is not None}
    theirs = LlamaModel(LlamaConfig(**deepcopy(settings))).eval()  # it writes into its settings
    tensors = {name.removeprefix("model."): torch.tensor(value) for name, value in random_tensors(**changes).items()}
    theirs.load_state_dict(tensors, strict=True)
    return theirs


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_hidden_states_are_those_of_torch(variant):
    torch = pytest.importorskip("torch", reason="torch is what hidden states are compared with")
    theirs = torch_model(torch, **VARIANTS[variant])
    apply, params = made(**VARIANTS[variant])
    tokens, right = random_batch()
    left = right[:, ::-1].copy()
    for mask in (right, left):
        seen = torch.tensor(mask)
        # Padded on the right, transformers' own positions; on the left it has to be told them.
        told = {} if mask is right else {"position_ids": (seen.long().cumsum(-1) - 1).clamp(min=0)}
        with torch.inference_mode():
            expected = theirs(torch.tensor(tokens), attention_mask=seen, **told).last_hidden_state.numpy()
        found = np.asarray(apply(params, tokens, mask))
        assert np.abs(found - expected)[mask].max() < 1e-5
    assert np.abs(expected[mask]).max() > 1.0


def test_scaled_frequencies_are_those_of_transformers():
    pytest.importorskip("torch", reason="transformers computes frequencies with torch")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    # As Llama 3.2 1B has them.
    scaling = LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 8192}
    theta = {"rope_theta": 500_000.0}
    config = LlamaConfig(head_dim=64, max_position_embeddings=131_072, rope_parameters=scaling | theta)
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    found = frequencies(rotary_config({"rope_scaling": scaling} | theta), 64)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)
    assert np.unique(found / frequencies(Rotary(500_000.0), 64)).size > 3


def test_rotations_depend_on_distances_alone():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 1, 1, 1, 6)).astype(np.float32)
    turn = frequencies(Rotary(), 6)

    def product(i, j):
        return (rotate(query, i * turn[None, None]) * rotate(key, j * turn[None, None])).sum()

    np.testing.assert_allclose(product(7, 4), product(13, 10), rtol=1e-5)
    assert abs(product(7, 4) - product(4, 7)) > 1e-3


def test_both_ways_of_writing_rotary_settings_agree():
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 16)
    old = {"rope_theta": 500, "rope_scaling": LLAMA3}
    older = {"rope_theta": 500.0, "rope_scaling": {"type": "llama3"} | {k: LLAMA3[k] for k in list(LLAMA3)[1:]}}
    assert rotary_config(NEW) == rotary_config(old) == rotary_config(older) == Rotary(500.0, scaling)
    assert rotary_config({}) == Rotary(10_000.0) == rotary_config({"rope_parameters": {"rope_type": "default"}})


def test_parameters_are_those_of_the_network():
    for changes in VARIANTS.values():
        _, params = made(**changes)
        network = Llama(llama_config(SETTINGS | changes))
        shapes = jax.eval_shape(network.init, jax.random.key(0), *random_batch())
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes) == jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), params
        )


def test_padding_changes_nothing_on_either_side():
    apply, params = made()
    tokens, _ = random_batch(length=15)
    alone = apply(params, tokens, np.ones_like(tokens, bool))
    more, seen = np.full((4, 9), 3, np.int32), np.arange(24) < 15 + np.zeros((4, 1))
    right = apply(params, np.concatenate([tokens, more], axis=1), seen)
    left = apply(params, np.concatenate([more, tokens], axis=1), seen[:, ::-1])
    np.testing.assert_allclose(right[:, :15], alone, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(left[:, 9:], alone, rtol=1e-5, atol=1e-5)
    assert np.isfinite(left).all()


def test_a_token_sees_what_is_before_it():
    apply, params = made()
    tokens, mask = random_batch()
    changed = tokens.copy()
    changed[0, 6] = (tokens[0, 6] + 1) % SETTINGS["vocab_size"]
    apart = np.abs(apply(params, tokens, mask) - apply(params, changed, mask)).max(-1)[0]
    assert (apart[:6] == 0).all() and (apart[6:] > 1e-3).all()


def test_a_batch_is_its_examples():
    apply, params = made(**NEW)
    tokens, mask = random_batch()
    one = jax.vmap(lambda t, m: apply(params, t[None], m[None])[0])
    np.testing.assert_allclose(one(tokens, mask), apply(params, tokens, mask), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_close():
    tokens, mask = random_batch()
    apply, params = made()
    half, _ = made(jnp.bfloat16)
    exact, found = apply(params, tokens, mask), half(params, tokens, mask)
    assert found.dtype == jnp.bfloat16
    found = found.astype(jnp.float32)
    cosine = (exact * found).sum(-1) / jnp.linalg.norm(exact, axis=-1) / jnp.linalg.norm(found, axis=-1)
    assert 0.995 < cosine[mask].min() and np.abs(exact - found).max() > 1e-4


def test_names_of_other_checkpoints():
    tensors, config = random_tensors(), llama_config(SETTINGS)
    bare = {name.removeprefix("model."): value for name, value in tensors.items()}
    heads = {"lm_head.weight": np.ones(3), "score.weight": np.ones(3)}
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3)}
    expected = llama_params(tensors, config)
    jax.tree.map(np.testing.assert_array_equal, llama_params(bare, config), expected)
    jax.tree.map(np.testing.assert_array_equal, llama_params({**tensors, **heads, **buffers}, config), expected)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model.norm.weight": None}, r"'norm.weight' is missing, expected one of shape \(24,\)"),
        (
            {"model.layers.1.self_attn.k_proj.weight": np.ones((24, 24))},
            r"'model.layers.1.self_attn.k_proj.weight' has shape \(24, 24\).*\(12, 24\)",
        ),
        ({"model.layers.0.self_attn.q_proj.bias": np.ones(24)}, "no place for the tensors .*q_proj.bias"),
        ({"adapter": np.ones(24)}, "no place for the tensors 'adapter'"),
    ],
)
def test_weights_that_do_not_fit(change, message):
    tensors = {name: value for name, value in (random_tensors() | change).items() if value is not None}
    with pytest.raises(EncoderError, match=message):
        llama_params(tensors, llama_config(SETTINGS))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rotary positions are .*'yarn'"),
        ({"rope_parameters": LLAMA3 | {"factor": None}}, "'factor' is None, expected a number"),
        ({"num_key_value_heads": 3}, "expected a multiple"),
        ({"head_dim": 5}, "an even number"),
        ({"hidden_act": "mish"}, "'hidden_act' is 'mish'"),
        ({"attention_bias": "yes"}, "'attention_bias' is 'yes', expected true or false"),
        ({"num_attention_heads": None}, "'num_attention_heads'"),
    ],
)
def test_settings_without_code(change, message):
    with pytest.raises(EncoderError, match=message):
        llama_config(SETTINGS | change)
