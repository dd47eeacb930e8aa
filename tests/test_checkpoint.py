"""Checkpoints: what is written is read, whole or not at all, and every misfit is named."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.io import checkpoint, replace
from jrouter.io.checkpoint import FORMAT, CheckpointError

PARAMS = {
    "networks": {"params": {"head": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}}},
    "k": jnp.array([5, 7], jnp.int32),
    "scale": jnp.float32(0.5),
    "present": jnp.array([True, False]),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One checkpoint, to be copied."""
    folder = tmp_path_factory.mktemp("checkpoint") / "router"
    checkpoint.save(folder, PARAMS, {"method": "any", "models": ["a", "b"]})
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "router"))


def rewrite(folder, **fields):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def assert_holds(folder, params):
    loaded, _ = checkpoint.load(folder)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_written_is_read(folder):
    assert_holds(folder, PARAMS)
    manifest = checkpoint.load(folder)[1]
    assert manifest == checkpoint.load_manifest(folder)
    assert manifest["format"] == FORMAT and manifest["method"] == "any" and manifest["models"] == ["a", "b"]
    head = manifest["params"]["networks"]["params"]["head"]
    assert head["kernel"] == {"shape": [2, 3], "dtype": "float32"}
    assert sorted(os.listdir(folder)) == ["manifest.json", "params"]


def test_a_relative_path_and_missing_parents_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save("some/where/router", PARAMS, {})
    assert_holds("some/where/router", PARAMS)
    assert_holds(tmp_path / "some/where/router", PARAMS)


def test_a_new_checkpoint_replaces_the_old_one(folder):
    checkpoint.save(folder, {"bias": jnp.zeros(4)}, {"method": "other"})
    assert_holds(folder, {"bias": jnp.zeros(4)})
    assert checkpoint.load_manifest(folder)["method"] == "other"
    assert os.listdir(folder.parent) == [folder.name]


@pytest.mark.parametrize("exists", [True, False])
def test_a_run_that_dies_while_writing_leaves_what_was_there(folder, monkeypatch, exists):
    if not exists:
        shutil.rmtree(folder)

    def die(path, params):
        Path(path).mkdir()
        (Path(path) / "half").write_text("half an array")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.ocp, "save", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(folder, {"bias": jnp.zeros(4)}, {})
    if exists:
        assert_holds(folder, PARAMS)
    assert os.listdir(folder.parent) == [folder.name] * exists


def test_a_failure_to_put_the_new_one_in_place_leaves_the_old_one(folder, monkeypatch):
    rename = Path.rename

    def fail_once_written(self, target):
        # The new one arrives from a temporary folder; the old one may be moved, and moved back.
        if (
            Path(target) == folder
            and (self / "manifest.json").is_file()
            and "new" in (self / "manifest.json").read_text()
        ):
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(replace, "exchange", lambda one, other: False)  # a disk that cannot
    monkeypatch.setattr(Path, "rename", fail_once_written)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(folder, {"bias": jnp.zeros(4)}, {"method": "new"})
    assert_holds(folder, PARAMS)
    assert os.listdir(folder.parent) == [folder.name]


@pytest.mark.parametrize("as_file", [True, False])
def test_a_folder_that_is_something_else_is_never_replaced(tmp_path, as_file):
    foreign = tmp_path / "thesis"
    if as_file:
        foreign.write_text("years of work")
    else:
        foreign.mkdir()
        (foreign / "chapter.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="thesis: exists and is not a checkpoint"):
        checkpoint.save(foreign, PARAMS, {})
    assert (foreign if as_file else foreign / "chapter.txt").read_text() == "years of work"
    assert os.listdir(tmp_path) == ["thesis"]


def test_a_missing_folder_and_one_without_a_manifest_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty"):
        with pytest.raises(CheckpointError, match=f"{name}: no checkpoint here .manifest.json is missing"):
            checkpoint.load(tmp_path / name)


@pytest.mark.parametrize("text", ["", "{", '{"format": 1,', "\x00\x01"])
def test_a_manifest_that_is_no_json_is_named(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="router/manifest.json: not readable as JSON"):
        checkpoint.load(folder)


@pytest.mark.parametrize("text", ["[]", "null"])
def test_a_manifest_that_is_no_object_is_named(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="router/manifest.json"):
        checkpoint.load(folder)


@pytest.mark.parametrize("version", [FORMAT + 1, None, "1"])
def test_another_format_is_named(folder, version):
    rewrite(folder, format=version)
    said = f"router.*field 'format' is {version!r}, this version reads 1 and {FORMAT}"
    with pytest.raises(CheckpointError, match=said):
        checkpoint.load(folder)


def test_a_manifest_without_params_is_named(folder):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["params"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="router.*params"):
        checkpoint.load(folder)


@pytest.mark.parametrize("params", ["none", {"bias": 3}, {"bias": {"shape": [3], "dtype": "float33"}}])
def test_a_manifest_whose_params_make_no_sense_is_named(folder, params):
    rewrite(folder, params=params)
    with pytest.raises(CheckpointError, match="router.*params"):
        checkpoint.load(folder)


def damage(folder, how):
    """Spoils a checkpoint of PARAMS."""
    state = folder / "params" / "state"
    if how.startswith("no "):
        shutil.rmtree({"no params": folder / "params", "no state": state, "no data": state / "d"}[how])
    elif how.startswith("half "):
        path = state / "_METADATA" if how == "half a description" else next((state / "d").iterdir())
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        shapes = json.loads((folder / "manifest.json").read_text())["params"]
        changed = {"another shape": {"k": {"shape": [3], "dtype": "int32"}}, "one more": {"more": shapes["k"]}}
        rewrite(folder, params=shapes | changed[how])


def test_params_that_are_missing_truncated_or_others_are_named(written, tmp_path):
    ways = ["no params", "no state", "no data", "half a description", "half the data", "another shape", "one more"]
    for how in ways:
        damage(Path(shutil.copytree(written, tmp_path / how.replace(" ", "_"))), how)
    # In a process of its own: Orbax leaves the reads that it gives up on unawaited, and they warn whenever they
    # are collected, be it in a later test.
    script = (
        "import sys\n"
        "from jrouter.io.checkpoint import CheckpointError, load\n"
        "for folder in sys.argv[1:]:\n"
        "    try:\n"
        "        print('loaded', load(folder))\n"
        "    except CheckpointError as error:\n"
        "        print(error)\n"
    )
    folders = [how.replace(" ", "_") for how in ways]
    done = subprocess.run(
        [sys.executable, "-c", script, *folders], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == len(ways), done.stderr
    for folder, line in zip(folders, lines, strict=True):
        assert re.fullmatch(f"{folder}: params do not match manifest.json .*; save again", line), line
