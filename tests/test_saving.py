"""Whatever happens while a router is saved, a whole one is there: a full disk, kill -9, Ctrl-C, foreign files."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_cli import json_lines, parquet, records, refused, run, truth
from small_router import MODELS, fitted

from jrouter.app import fit
from jrouter.io import checkpoint
from jrouter.router import Router

X = truth(50, 6)[0]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saving") / "router"
    fitted().save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "router"))


def assert_whole(folder, version=None):
    loaded = Router.load(folder)
    assert loaded.version == (version or fitted().version)
    if version is None:
        assert loaded.route(X, 20.0) == fitted().route(X, 20.0)


def rewrite(folder, **fields):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change(folder):
    """A new version in the place of the old one."""
    return "pool", folder, "--drop", "small", "--write", folder


@pytest.mark.parametrize("step", ["params", "files"])
def test_a_full_disk_is_one_message_and_the_old_router_stays(folder, monkeypatch, step):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "params")

    monkeypatch.setattr(*(checkpoint.ocp, "save") if step == "params" else (Path, "write_text"), full)
    refused(*change(folder), says=("the disk is full", "make room", "as it was"))
    assert_whole(folder)
    assert os.listdir(folder.parent) == ["router"]


def test_a_disk_that_fills_up_for_real(folder):
    """Orbax on a file system of a few pages, where one may be mounted."""
    small = folder.parent / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        code, out, err = run("pool", folder, "--drop", "small", "--write", small / "router")
        assert code == 2 and err.count("\n") == 1 and not list(small.iterdir()), err
    finally:
        subprocess.run(["umount", small], check=True)


KILLED = """
import os, signal, sys
from pathlib import Path
from jrouter.app.cli import main
from jrouter.io import checkpoint, replace
import jrouter.app.pool
at = sys.argv[1]

def dies(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def after(holder, name):
    call = getattr(holder, name)
    def then(*arguments, **options):
        call(*arguments, **options)
        dies()
    setattr(holder, name, then)

if at == "before params":
    checkpoint.ocp.save = dies
elif at == "after params":
    after(checkpoint.ocp, "save")
elif at == "after a file":
    after(Path, "write_text")
elif at == "before it takes its place":
    checkpoint.take_place = dies
elif at == "after it took its place":
    replace.shutil.rmtree = dies
sys.exit(main(sys.argv[2:]))
"""
MOMENTS = {
    "before params": "old",
    "after params": "old",
    "after a file": "old",
    "before it takes its place": "old",
    "after it took its place": "new",
}


def test_killed_at_any_moment_of_a_save_a_whole_router_is_there(saved, tmp_path):
    new = Router.load(saved)
    run("pool", saved, "--drop", "small", "--write", tmp_path / "new")
    new = Router.load(tmp_path / "new").version
    started = {}
    for moment in MOMENTS:
        folder = Path(shutil.copytree(saved, tmp_path / moment / "router"))
        command = [sys.executable, "-c", KILLED, moment, *map(str, change(folder))]
        started[moment] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for moment, left in MOMENTS.items():
        with started[moment] as process:
            assert process.wait(120) == -signal.SIGKILL, (moment, process.stderr.read() if process.stderr else "")
        folder = tmp_path / moment / "router"
        assert_whole(folder, None if left == "old" else new)
        run(*change(folder))  # what the killed one left beside it is in nobody's way
        assert_whole(folder, new)


def test_killed_while_fitting_the_old_router_is_whole(folder, tmp_path):
    log = parquet(tmp_path / "log.parquet", records())
    flags = ["fit", str(log), "--out", str(folder), "--force"]
    script = (
        "import os, signal, sys; from jrouter.app import fit; from jrouter.app.cli import main; "
        "fit.fit_router = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL); "
        "fit.diagnosed = lambda *a, **k: {'verdict': {'level': 'ok'}}; fit.describe_report = str; "
        f"main({flags!r})"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == -signal.SIGKILL
    assert_whole(folder)


def test_ctrl_c_is_told_and_nothing_lost(folder, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.ocp, "save", interrupted)
    code, _, err = run(*change(folder))
    assert code == 130 and err == "\njrouter: interrupted; nothing was half-written\n"
    assert_whole(folder)
    assert os.listdir(folder.parent) == ["router"]


def test_what_is_no_router_is_not_touched_and_that_is_told_before_any_work(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "read_team_log", None)  # nothing is read
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter").write_text("years")
    refused("fit", "log.parquet", "--out", thesis, says=("--out", str(thesis), "is no router; give another folder"))
    refused("pool", saved, "--drop", "small", "--write", thesis, says=("--write", "is no router"))
    refused("fit", "log.parquet", "--out", thesis / "chapter", says=("--out", "is no router"))
    refused("fit", "log.parquet", "--out", thesis / "chapter" / "r", says=("--out", "cannot write"))
    assert (thesis / "chapter").read_text() == "years" and os.listdir(thesis) == ["chapter"]


# What is loaded


class Runs:
    """Runs when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_nothing_foreign_in_a_folder_is_executed(folder, tmp_path):
    ran = tmp_path / "ran"
    evil = pickle.dumps(Runs(ran))
    for name in (
        "params.pkl",
        "model.pt",
        "params/evil.pkl",
        "params/_METADATA.pkl",
        "__init__.py",
        "sitecustomize.py",
    ):
        (folder / name).write_bytes(evil if name.endswith(("pkl", "pt")) else f"open({str(ran)!r}, 'w')".encode())
    assert_whole(folder)
    assert run("pool", folder)[0] == 0
    assert not ran.exists()


def test_params_that_are_a_pickle_are_refused_and_not_executed(folder, tmp_path):
    ran = tmp_path / "ran"
    for path in [path for path in (folder / "params").rglob("*") if path.is_file()]:
        path.write_bytes(pickle.dumps(Runs(ran)))
    refused("pool", folder, says=(str(folder), "params do not match manifest.json"))
    assert not ran.exists()


def test_a_manifest_that_points_elsewhere_reads_nothing_there(folder, tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Runs(ran)))
    for fields, says in (
        ({"method": "../../evil"}, "field 'method'"),
        ({"method": "os.system"}, "field 'method'"),
        ({"params": str(tmp_path / "evil.pkl")}, "field 'params'"),
        ({"config": {"__class__": "os.system"}}, "field 'config'"),
    ):
        kept = (folder / "manifest.json").read_text()
        rewrite(folder, **fields)
        refused("pool", folder, says=(says,))
        (folder / "manifest.json").write_text(kept)
    assert not ran.exists()


def truncated(folder):
    largest = max(
        (path for path in (folder / "params").rglob("*") if path.is_file()), key=lambda one: one.stat().st_size
    )
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (truncated, ("params",)),
        (lambda folder: shutil.rmtree(folder / "params"), ("params",)),
        (lambda folder: (folder / "manifest.json").unlink(), ("manifest.json is missing", "jrouter fit")),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 2'), ("manifest.json", "JSON")),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), ("manifest.json", "JSON")),
        (lambda folder: (folder / "manifest.json").write_text("[]"), ("manifest.json", "expected a JSON object")),
        (lambda folder: rewrite(folder, format=99), ("field 'format' is 99", "the version of jrouter that wrote it")),
        (lambda folder: rewrite(folder, models=None), ("'models'",)),
        (lambda folder: rewrite(folder, models=["a", "a", "b"]), ("'models'",)),
        (lambda folder: rewrite(folder, models=["a"]), ("'models'",)),
        (lambda folder: rewrite(folder, embedding_dim="6"), ("'embedding_dim'",)),
        (lambda folder: rewrite(folder, embedding_dim=7), ("'embedding_dim'",)),
        (lambda folder: rewrite(folder, lambdas=[]), ("'lambdas'",)),
        (lambda folder: rewrite(folder, lambdas=["a", "b"]), ("'lambdas'",)),
        (lambda folder: rewrite(folder, price=[1.0]), ("'price'",)),
        (lambda folder: rewrite(folder, pool=["gpt-9"]), ("'pool'",)),
        (lambda folder: rewrite(folder, known="x"), ("'known'",)),
    ],
)
def test_a_folder_that_is_not_as_it_was_saved_is_refused_by_field(folder, spoil, says):
    spoil(folder)
    refused("pool", folder, says=(str(folder), *says))
    query = json_lines(folder.parent / "q.jsonl", [{"embedding": X[0].tolist()}])
    assert refused("route", folder, "--lambda", 20, "--input", query, says=says) == ""


def test_a_router_for_other_models_or_embeddings_is_refused(folder):
    with pytest.raises(checkpoint.CheckpointError, match="field 'models'"):
        Router.load(folder, models=MODELS[::-1])
    with pytest.raises(checkpoint.CheckpointError, match="field 'embedding_dim'"):
        Router.load(folder, dim=7)


def test_the_first_format_is_read_and_says_what_it_cannot_do(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    since = ("price", "pool", "known", "mix", "format", "params")
    checkpoint.save(folder, fitted().params, {name: one for name, one in manifest.items() if name not in since})
    rewrite(folder, format=1)
    assert Router.load(folder).route(X, 20.0) == fitted().route(X, 20.0)
    assert all(name in run("pool", folder).out for name in MODELS)
    refused("pool", folder, "--price", "small=2", says=("older format", "fit it again"))
    query = json_lines(folder.parent / "q.jsonl", [{"embedding": X[0].tolist()}])
    refused("route", folder, "--lambda", 20, "--input", query, says=("older format", "fit it again"))


def test_a_diagnosis_that_cannot_be_read_is_named(folder):
    (folder / "diagnosis.json").write_text("{")
    refused(*change(folder), says=("diagnosis.json", "not readable as JSON"))
    assert_whole(folder)
    assert np.isfinite(fitted().lambdas).all()
