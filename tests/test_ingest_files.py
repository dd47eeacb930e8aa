"""Where logs are and where clean ones go: addresses, mock clouds, full disks, killed processes, bounded memory."""

import errno
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from jrouter.io import locations
from jrouter.io.clean_parts import PartWriter
from jrouter.io.contract import Contract
from jrouter.io.errors import DataError
from jrouter.io.ingest import ingest
from jrouter.io.locations import find_files
from jrouter.io.logs import read_log
from jrouter.io.seen_rows import SeenKeys


def table(n=60, start=0):
    i = np.arange(start, start + n)
    return pa.table(
        {
            "request_id": [f"r{j}" for j in i],
            "query": [f"question {j}" for j in i],
            "model": np.where(i % 2, "a", "b"),
            "score": i % 3 / 2,
            "cost": 0.001 * (1 + i % 5),
            "propensity": np.full(n, 0.5),
            "timestamp": 1.7e9 + i,
        }
    )


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_address_of_this_machine(tmp_path):
    pq.write_table(table(), tmp_path / "log.parquet")
    report = ingest(f"file://{tmp_path}/log.parquet", tmp_path / "clean").report
    assert report.fingerprint == ingest(tmp_path / "log.parquet", tmp_path / "again").report.fingerprint
    assert [file["name"] for file in report.files] == ["log.parquet"]
    (tmp_path / "folder").mkdir()
    pq.write_table(table(), tmp_path / "folder" / "x.parquet")
    assert ingest(f"file://{tmp_path}/folder/", tmp_path / "clean").report.rows_kept == 60


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_folder_of_a_cloud(tmp_path, monkeypatch, scheme):
    bucket = tmp_path / "cloud" / "bucket"
    (bucket / "logs" / "day=2").mkdir(parents=True)
    pq.write_table(table(30), bucket / "logs" / "a.parquet")
    (bucket / "logs" / "day=2" / "b.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in table(30, 30).to_pylist())
    )
    (bucket / "logs" / "_temporary").mkdir()
    (bucket / "logs" / "_temporary" / "c.parquet").write_bytes(b"half")
    (bucket / "scores.csv").write_text("request_id,score\nr1,0.25\n")
    cloud = fs.SubTreeFileSystem(str(tmp_path / "cloud"), fs.LocalFileSystem())

    def locate(address):
        assert address.startswith(f"{scheme}://KEY:SECRET@bucket/")
        return cloud, address.split("@")[1].split("?")[0]

    monkeypatch.setattr(locations, "locate", locate)
    address = f"{scheme}://KEY:SECRET@bucket/"
    contract = Contract(scores=address + "scores.csv?region=x")
    report = ingest(address + "logs?region=x", tmp_path / "clean", contract).report
    assert [(file["name"], file["rows"]) for file in report.files] == [("a.parquet", 30), ("day=2/b.jsonl", 30)]
    assert report.rows_kept == 60 and report.joined == {"scores": 1, "matched": 1, "unmatched": 0}
    assert pq.read_table(tmp_path / "clean")["score"][1].as_py() == 0.25
    with pytest.raises(DataError) as caught:
        ingest(address + "none.parquet", tmp_path / "clean")
    assert str(caught.value) == f"{scheme}://bucket/none.parquet: does not exist; check the path."  # and no secret


def test_a_mock_filesystem_and_addresses_that_fail(monkeypatch):
    mock = fs._MockFileSystem()
    mock.create_dir("logs/inner")
    for name in ("logs/b.csv", "logs/inner/a.csv", "logs/x.txt", "logs/empty.csv", "logs/.hidden.csv"):
        with mock.open_output_stream(name) as stream:
            stream.write(b"" if "empty" in name else b"model\n")
    monkeypatch.setattr(locations, "locate", lambda path: (mock, str(path).removeprefix("mock://")))
    files, other = find_files("mock://logs", (".csv",))
    assert [(file.name, file.place, file.size) for file in files] == [
        ("b.csv", "mock://logs/b.csv", 6),
        ("inner/a.csv", "mock://logs/inner/a.csv", 6),
    ]
    assert other == ["empty.csv", "x.txt"]
    monkeypatch.undo()
    for address in ("nope://x/y.csv", "file://host/x.csv"):
        with pytest.raises(DataError, match="is no address that can be read"):
            find_files(address, (".csv",))

    class Unreachable:
        def get_file_info(self, path):
            raise OSError("When reading information for key 'x': AWS Error ACCESS_DENIED\nmore")

    monkeypatch.setattr(locations, "locate", lambda path: (Unreachable(), "x"))
    with pytest.raises(DataError, match="s3://b/x.csv: cannot be reached: .*ACCESS_DENIED; check .* credentials"):
        find_files("s3://b/x.csv", (".csv",))


def test_only_a_clean_log_is_replaced(tmp_path):
    target = tmp_path / "clean"
    ingest(table(), target)
    ingest(table(40), target)
    assert read_log(target, embed=lambda texts: np.ones((len(texts), 1))).model.shape == (40,)
    (target / "notes.txt").write_text("mine")
    before = content(target)
    with pytest.raises(DataError, match="clean: is not empty"):
        ingest(table(), target)
    assert content(target) == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        ingest(table(), tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert ingest(table(), tmp_path / "empty" / ".." / "empty").report.rows_kept == 60
    # The log itself, also where it was cleaned before, is not written over.
    with pytest.raises(DataError, match="holds the log that is read"):
        ingest(tmp_path / "empty", tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "empty", "file"]
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    ingest(table(50), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and pq.read_table(tmp_path / "empty").num_rows == 50


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    target = tmp_path / "clean"
    ingest(table(), target)
    before = content(target)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for thing, name in ((pq.ParquetWriter, "write_table"), (pq.ParquetWriter, "close"), (Path, "write_text")):
        with monkeypatch.context() as patch:
            patch.setattr(thing, name, full)
            with pytest.raises(DataError) as caught:
                ingest(table(100), target)
        assert str(caught.value) == (
            f"{target}: cannot be written: No space left on device; what was there before is as it was."
        )
        assert content(target) == before and [path.name for path in tmp_path.iterdir()] == ["clean"]


STOPPED = """
import resource, signal, sys, time
from test_ingest_files import table
from jrouter.io.errors import DataError
from jrouter.io.ingest import ingest

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    ingest(table(50_000), sys.argv[1])
except DataError as problem:
    print(problem, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def wait(step, done):
    print("reading", flush=True)
    time.sleep(60)

ingest(table(50_000), sys.argv[1], progress=wait)
"""


def test_a_disk_that_takes_no_more_and_a_process_killed_while_writing(tmp_path):
    """For real: the system refuses to write, then the process is killed; the old log stays whole both times."""
    target = tmp_path / "clean"
    before = content(ingest(table(), target).folder)
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"{target}: cannot be written: ")
        assert content(target) == before and [path.name for path in tmp_path.iterdir()] == ["clean"]
        assert process.stdout.readline() == "reading\n"
    finally:
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and not errors
    assert content(target) == before
    left = [path.name for path in tmp_path.iterdir() if path.name != "clean"]
    assert len(left) == 1 and left[0].startswith(".clean.")  # nothing that a reader takes for a log
    assert ingest(table(), target).report.rows_kept == 60


def peak_of(call):
    """Bytes that were held at most, by Python and NumPy and by Arrow."""
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] + pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)


@pytest.mark.parametrize("name", ["parquet", "jsonl"])
def test_memory_does_not_grow_with_the_log(tmp_path, monkeypatch, name):
    """But by 8 bytes a row, for a moment 24. The rows that are more hold 7 MB of text, as objects far more."""
    rows_at_once, few, many, peaks = 2048, 4, 16, []
    for module in ("record_stream", "clean_parts"):
        monkeypatch.setattr(f"jrouter.io.{module}.ROWS", rows_at_once)
    monkeypatch.setattr("jrouter.io.record_stream.BLOCK", 1 << 19)
    for chunks in (few, few, many):
        n, path = chunks * rows_at_once, tmp_path / f"{chunks}.{name}"
        rows = table(n).set_column(1, "query", [[f"{i} " + "word " * 60 for i in range(n)]])
        if name == "parquet":
            pq.write_table(rows, path, row_group_size=rows_at_once)
        else:
            with open(path, "w") as stream:
                for batch in rows.to_batches(rows_at_once):
                    stream.writelines(json.dumps(row) + "\n" for row in batch.to_pylist())
        del rows
        peaks.append(peak_of(lambda path=path: ingest(path, tmp_path / "clean")))
    grown = peaks[-1] - max(peaks[:2])
    assert grown < 24 * (many - few) * rows_at_once + 1e6, f"peaks {peaks}"


def test_keys_seen_are_those_of_a_set():
    rng = np.random.default_rng(0)
    seen, known = SeenKeys(), set()
    for size in (0, 1, 50, 300, 7, 1000, 2):
        keys = rng.integers(0, 900, size)
        expected = []
        for key in keys.tolist():
            expected.append(key in known)
            known.add(key)
        assert seen.add(keys).tolist() == expected
    assert len(seen) == len(known) and sum(run.nbytes for run in seen.runs) == 8 * len(known)


def test_parts_and_row_groups_are_small(tmp_path, monkeypatch):
    monkeypatch.setattr("jrouter.io.clean_parts.ROWS", 10)
    monkeypatch.setattr("jrouter.io.clean_parts.PART_ROWS", 30)
    with PartWriter(tmp_path) as writer:
        for size in (3, 25, 1, 40, 0, 6):
            writer.write(table(size))
    parts = [pq.ParquetFile(path).metadata for path in sorted(tmp_path.iterdir())]
    groups = [[part.row_group(g).num_rows for g in range(part.num_row_groups)] for part in parts]
    assert groups == [[10, 10, 10], [10, 10, 10], [10, 5]]
