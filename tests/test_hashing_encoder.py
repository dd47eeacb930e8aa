"""Hashed n-grams: the same numbers everywhere, what is alike is near, and a plain reference."""

import json
import math
import os
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.encoders.hashing import BUCKETS, CHARACTERS, fold, hash_texts, project, projection

MASK = 2**64 - 1
TEXTS = ["", " \n", "Cat", "the cat sat on the cat", "x=y+1", "日本語テキスト", "naïve Café, naïve", "a" * 300]
TEXTS += ["👍🏽 ok", "क्षि है", "\x00"]


def mixed(key: int) -> int:
    key = (key + 0x9E3779B97F4A7C15) & MASK
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & MASK
    return key ^ (key >> 31)


def words_of(text: str) -> list[str]:
    words, joined = [], False
    for one in fold(text):
        category = unicodedata.category(one)
        if one.isspace() or category[0] == "C":
            joined = False
        elif one.isalnum() or one == "_" or category[0] == "M":
            words[-1:] = [words[-1] + one] if joined else [*words[-1:], one]
            joined = True
        else:
            words.append(one)
            joined = False
    return words


def reference(text: str) -> dict[int, float]:
    """Buckets and numbers, by loops over strings and Python's whole numbers."""

    def polynomial(gram: str) -> int:
        return mixed(sum(mixed(ord(one)) * pow(0x9E3779B97F4A7C15, i, 2**64) for i, one in enumerate(gram)) & MASK)

    words, totals = words_of(text), Counter()
    hashes = [polynomial(f" {word} ") for word in words]
    grams = list(hashes)
    grams += [mixed((a * 0xD6E8FEB86659FD93 + b) & MASK) for a, b in zip(hashes, hashes[1:], strict=False)]
    for word in words:
        if word[0].isalnum() or word[0] == "_":
            marked = f" {word} "
            for size in CHARACTERS:
                if len(marked) > size:
                    grams += [polynomial(marked[i : i + size]) for i in range(len(marked) - size + 1)]
    for gram in grams:
        totals[gram % BUCKETS] += -1 if gram >> 63 else 1
    values = {bucket: math.copysign(1 + math.log(abs(t)), t) for bucket, t in totals.items() if t}
    length = math.sqrt(sum(value**2 for value in values.values()))
    return {bucket: value / length for bucket, value in values.items()}


@pytest.mark.parametrize("text", TEXTS)
def test_buckets_are_those_of_loops_over_strings(text):
    # Among others: a text's buckets do not depend on what is hashed with it.
    (found,) = hash_texts([text])
    expected = reference(text)
    assert found.ids.tolist() == sorted(expected)
    np.testing.assert_allclose(found.values, [expected[bucket] for bucket in sorted(expected)], rtol=1e-6)
    together = hash_texts([*TEXTS, text, *TEXTS])[len(TEXTS)]
    assert together.ids.tolist() == found.ids.tolist() and together.values.tolist() == found.values.tolist()


def test_texts_hashed_in_several_chunks_keep_their_order(monkeypatch):
    whole = hash_texts(TEXTS)
    monkeypatch.setattr("jrouter.encoders.hashing.AT_ONCE", 5)
    for one, other in zip(whole, hash_texts(TEXTS), strict=True):
        assert one.ids.tolist() == other.ids.tolist() and one.values.tolist() == other.values.tolist()
    assert hash_texts([]) == []


def test_case_and_the_writing_of_letters_do_not_matter_and_letters_do():
    one, same, other = hash_texts(["Straße CAFÉ", "STRASSE  cafe\u0301", "strasse cafe"])
    assert one.ids.tolist() == same.ids.tolist()
    assert one.ids.tolist() != other.ids.tolist()


def embedded(texts, dim=256):
    signs = projection(dim).astype(np.float64)
    return np.stack([one.values @ signs[one.ids] for one in hash_texts(texts)]) / math.sqrt(dim)


def test_a_projection_keeps_lengths_and_products():
    # signs are independent, so a product of projections has the buckets' product as its mean, variance <= 2 / d.
    texts = [
        "How do I sort a list in Python?",
        "Sort a Python list, how?",
        "Who painted the Mona Lisa?",
        "Name the capital city of Mongolia.",
    ]
    dense = np.zeros((len(texts), BUCKETS))
    for row, one in zip(dense, hash_texts(texts), strict=True):
        row[one.ids] = one.values
    products = embedded(texts) @ embedded(texts).T
    np.testing.assert_allclose(products, dense @ dense.T, atol=4 * math.sqrt(2 / 256))
    assert products[0, 1] > products[0, 2] + 0.2 and products[0, 1] > products[0, 3] + 0.2


def test_signs_of_a_projection_are_balanced_and_independent():
    signs = projection(96, 4096).astype(np.int64)
    assert set(np.unique(signs)) == {-1, 1}
    assert abs(signs.mean()) < 4 / math.sqrt(signs.size)
    products = signs.T @ signs / 4096 - np.eye(96)
    assert np.abs(products).max() < 5 / math.sqrt(4096)


def test_a_padded_batch_is_a_product_with_the_buckets():
    signs, rows = jnp.asarray(projection(64)), hash_texts(TEXTS)
    width = max(len(one.ids) for one in rows) + 7
    padded = [np.stack([np.pad(one[part], (0, width - len(one.ids))) for one in rows]) for part in (0, 1)]
    batch = jax.jit(jax.vmap(lambda ids, values: project(signs, type(rows[0])(ids, values))))(*padded)
    dense = np.zeros((len(rows), BUCKETS), np.float32)
    for row, one in zip(dense, rows, strict=True):
        row[one.ids] = one.values
    alone = dense @ np.asarray(signs, np.float32) / math.sqrt(64)
    np.testing.assert_allclose(batch, alone, atol=1e-6)
    assert (alone[:2] == 0).all() and (alone[-1] == 0).all()  # texts without a word


def test_other_processes_hash_alike():
    program = (
        "import sys, json; from jrouter.encoders.hashing import hash_texts, projection;"
        "print(json.dumps([one.ids.tolist() for one in hash_texts(json.loads(sys.argv[1]))]));"
        "print(int(projection(64, 64).astype(int).cumsum().sum()))"
    )
    env = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
    out = subprocess.run(
        [sys.executable, "-c", program, json.dumps(TEXTS)], env=env, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert json.loads(out[0]) == [one.ids.tolist() for one in hash_texts(TEXTS)]
    assert int(out[1]) == projection(64, 64).astype(int).cumsum().sum()


def test_numbers_do_not_change_between_versions():
    # Routers are saved with the encoder's name alone: if this changes, so must VERSION in spec.py.
    (found,) = hash_texts(["a Cat"])
    assert found.ids.tolist() == [2014, 12099, 19546, 35546, 43817, 50213, 53607, 60995]
    one = project(jnp.asarray(projection(4)), found)
    np.testing.assert_allclose(one, [0.35355, -0.35355, 0.0, -0.70711], atol=1e-5)


def test_thousands_of_texts_a_second():
    texts = [f"Question {number}: which of these {number % 97} planets is largest, and why?" for number in range(2000)]
    hash_texts(texts[:10])
    started = time.perf_counter()
    hash_texts(texts)
    assert time.perf_counter() - started < 4  # 0.1 s alone on a core
