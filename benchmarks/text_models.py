"""Text encoders to time where nothing can be downloaded: random weights of a published shape, and texts for them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

SHAPES = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
"""all-MiniLM-L6-v2's and BERT-base's; how long a forward pass takes does not depend on the weights."""
WORDS, POSITIONS = 30_522, 512
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
MAX_TOKENS = 256


def make_folder(shape: str, folder: Path, *, seed: int = 0) -> Path:
    """Writes a model folder with random weights and a tokenizer of made-up words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    settings = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": WORDS,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        **SHAPES[shape],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(bert_tensors(settings, np.random.default_rng(seed)), folder / "model.safetensors", {"format": "pt"})
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *_words(WORDS - len(SPECIAL))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return folder


def bert_tensors(settings: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """BERT's tensors as transformers names them: weights of deviation 0.02, norms and biases as at the start."""
    width, inner = settings["hidden_size"], settings["intermediate_size"]

    def normal(*shape: int) -> np.ndarray:
        return 0.02 * rng.standard_normal(shape, np.float32)

    def dense(name: str, out: int, into: int) -> dict[str, np.ndarray]:
        return {f"{name}.weight": normal(out, into), f"{name}.bias": np.zeros(out, np.float32)}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": np.ones(width, np.float32), f"{name}.bias": np.zeros(width, np.float32)}

    tensors = {
        "embeddings.word_embeddings.weight": normal(settings["vocab_size"], width),
        "embeddings.position_embeddings.weight": normal(settings["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": normal(settings["type_vocab_size"], width),
        **norm("embeddings.LayerNorm"),
        **dense("pooler.dense", width, width),
    }
    for layer in range(settings["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            tensors |= dense(f"{prefix}.attention.self.{part}", width, width)
        tensors |= dense(f"{prefix}.attention.output.dense", width, width)
        tensors |= norm(f"{prefix}.attention.output.LayerNorm")
        tensors |= dense(f"{prefix}.intermediate.dense", inner, width)
        tensors |= dense(f"{prefix}.output.dense", width, inner)
        tensors |= norm(f"{prefix}.output.LayerNorm")
    return tensors


def make_texts(n: int, *, seed: int = 0, median: float = 48.0, spread: float = 0.9) -> list[str]:
    """Texts of made-up words, as many as queries have: log-normal, so some are cut at `MAX_TOKENS`."""
    rng = np.random.default_rng(seed)
    words = np.array(_words(WORDS - len(SPECIAL)))
    lengths = np.clip(np.round(median * np.exp(spread * rng.standard_normal(n))), 3, 4 * MAX_TOKENS).astype(int)
    return [" ".join(words[rng.integers(len(words), size=length)]) for length in lengths]


def _words(n: int) -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [letters[i // 676 % 26] + letters[i // 26 % 26] + letters[i % 26] + letters[i // 17576] for i in range(n)]
