"""A cache on disk: what it holds comes back bit for bit, whatever is killed, damaged or shared."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jrouter.encoders.cache import EmbeddingCache, digest, text_keys
from jrouter.encoders.errors import EncoderError
from jrouter.encoders.load import load_encoder

IDENTITY = "an encoder"
TEXTS = ["a", "", "naïve 🙂", "b" * 10_000]


def rows_of(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path, IDENTITY, 3)


def shards(cache: EmbeddingCache) -> list[Path]:
    return sorted(cache.folder.glob("*.npz"))


def test_rows_come_back_bit_for_bit_and_others_are_missing(cache, tmp_path):
    rows = rows_of(4)
    rows[0] = [-0.0, 1e-45, np.finfo(np.float32).max]
    cache.add(TEXTS, rows)
    for one in (cache, EmbeddingCache(tmp_path, IDENTITY, 3)):
        found_rows, found = one.get([TEXTS[2], "new", TEXTS[0], TEXTS[2]])
        assert found.tolist() == [True, False, True, True]
        assert found_rows[[0, 2, 3]].tobytes() == rows[[2, 0, 2]].tobytes() and not found_rows[1].any()
        assert len(one) == 4


def test_encoders_do_not_share_rows(cache, tmp_path):
    cache.add(TEXTS, rows_of(4))
    other = EmbeddingCache(tmp_path, "another encoder", 3)
    assert not other.get(TEXTS)[1].any() and len(other) == 0
    assert digest(IDENTITY) != digest("another encoder")
    # Lengths are part of a key: no text can look like the end of an identity.
    assert text_keys(["bc"], "a") != text_keys(["c"], "ab")


def test_what_another_process_adds_is_found_at_the_next_look(cache, tmp_path):
    other = EmbeddingCache(tmp_path, IDENTITY, 3)
    assert not cache.get(TEXTS)[1].any()
    other.add(TEXTS[:2], rows_of(2))
    cache.add(TEXTS[2:], rows_of(2, seed=1))
    assert cache.get(TEXTS)[1].all() and other.get(TEXTS)[1].all()
    assert len(shards(cache)) == 2


def replace_arrays(path: Path, arrays: dict[str, Any]) -> None:
    with np.load(path) as file:
        whole: dict[str, Any] = dict(file) | arrays
    np.savez(path, **whole)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "a bit":  # of the last row's last number
        at = content.rindex(rows_of(4)[3, 2].tobytes())
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif how == "text":
        path.write_text("no zip")
    elif how == "other arrays":
        np.savez(path, something=np.zeros(3))
    elif how == "other identity":
        replace_arrays(path, {"identity": np.frombuffer(b"x", np.uint8)})
    elif how == "other width":
        replace_arrays(path, {"rows": np.zeros((4, 2), np.float32)})
    elif how == "fewer rows":
        replace_arrays(path, {"rows": np.zeros((1, 3), np.float32)})
    elif how == "objects":
        replace_arrays(path, {"rows": np.array([[{}]], object)})


@pytest.mark.parametrize(
    "how",
    ["cut", "empty", "a bit", "text", "other arrays", "other identity", "other width", "fewer rows", "objects"],
)
def test_a_damaged_file_is_left_out_with_a_warning(cache, tmp_path, how):
    cache.add(TEXTS, rows_of(4))
    (first,) = shards(cache)
    cache.add(["whole"], rows_of(1, seed=1))
    damage(first, how)
    again = EmbeddingCache(tmp_path, IDENTITY, 3)
    with pytest.warns(UserWarning, match=f"{first.name}: .*encoded anew"):
        rows, found = again.get([*TEXTS, "whole"])
    assert found.tolist() == [False] * 4 + [True] and not rows[:4].any()
    again.add(TEXTS, rows_of(4))
    rows, found = again.get(TEXTS)  # and no second warning
    assert found.all() and rows.tobytes() == rows_of(4).tobytes()


def test_a_file_that_another_process_deletes_is_encoded_anew(cache):
    cache.add(TEXTS, rows_of(4))
    shards(cache)[0].unlink()
    with pytest.warns(UserWarning, match="cannot be read"):
        assert not cache.get(TEXTS)[1].any()


def test_leftovers_of_a_killed_writer_are_no_part_of_it(cache):
    (cache.folder / ".1-ab.npz.xyz").write_bytes(b"half")
    (cache.folder / ".half.npz").write_bytes(b"half")
    assert len(cache) == 0


def test_a_write_that_fails_leaves_nothing(cache, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            cache.add(TEXTS, rows_of(4))
    assert [one.name for one in cache.folder.iterdir()] == ["encoder.txt"]
    encoder = load_encoder(dim=3)
    with monkeypatch.context() as patched:
        opened = encoder.open_cache(cache.folder.parent)
        patched.setattr(opened, "add", fail)
        with pytest.warns(UserWarning, match="2 embeddings could not be written .No space left on device"):
            rows = encoder.encode(["red fox", "blue whale"], cache=opened)
    np.testing.assert_array_equal(rows, encoder.encode(["red fox", "blue whale"]))


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EncoderError, match="file: no cache can be kept there"):
        EmbeddingCache(tmp_path / "file", IDENTITY, 3)


KILLED = """
import sys
import jrouter.encoders.run as run
from jrouter.encoders.load import load_encoder
run.FLUSH_ROWS, run.BLOCK_TEXTS = 40, 16
encoder = load_encoder(dim=8, token_budget=256)
made = encoder.kind.rows
def slowly(texts):
    import time
    time.sleep(0.02)
    return made(texts)
object.__setattr__(encoder, "kind", encoder.kind._replace(rows=slowly))
print("started", flush=True)
encoder.encode([f"question number {i}" for i in range(100_000)], cache=sys.argv[1])
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
    running = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=env, stdout=subprocess.PIPE)
    encoder = load_encoder(dim=8)
    cache = encoder.open_cache(tmp_path)
    try:
        waited = time.monotonic()
        while len(shards(cache)) < 4:
            assert running.poll() is None and time.monotonic() - waited < 120
            time.sleep(0.005)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert running.stdout is not None
        running.stdout.close()
    texts = [f"question number {i}" for i in range(100_000)]
    rows, found = cache.get(texts)  # a file of half a row would warn, which is an error here
    n = int(found.sum())
    assert 160 <= n < 100_000 and found[:n].all()
    np.testing.assert_allclose(rows[:n], encoder.encode(texts[:n]), atol=1e-6)

    asked = []
    rows_of_texts = encoder.kind.rows

    def counted(texts):
        asked.extend(texts)
        return rows_of_texts(texts)

    object.__setattr__(encoder, "kind", encoder.kind._replace(rows=counted))
    again = encoder.encode(texts[: n + 50], cache=tmp_path)
    assert asked == texts[n : n + 50]
    assert again[:n].tobytes() == rows[:n].tobytes()
    shutil.rmtree(cache.folder)
