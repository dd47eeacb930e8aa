"""RouterBench as published: the same table from pickle, Parquet and CSV; CARROT's protocol; rows without scores."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from jrouter.io.errors import DataError
from jrouter.io.routerbench import carrot_split, fetch_routerbench, read_routerbench
from jrouter.io.tables import read_table

DATA = Path(__file__).parents[2] / "shared" / "data"

COLUMNS = {
    "sample_id": ["gsm.1", "zh.1", "gsm.2", "mt.1", "zh.2"],
    "prompt": ["['two\\nlines']", "['a']", '["it\'s"]', "['1st', '2nd']", "['b']"],
    "eval_name": ["grade-school-math", "chinese-idioms", "grade-school-math", "mtbench-x", "Chinese_riddles"],
    "gpt": [1.0, 0.0, 0.25, 1.0, 0.0],
    "yi/34b": [0.0, 1.0, 1.0, 0.5, 1.0],
    "gpt|model_response": ["['x']", "y", None, "z", "w"],
    "yi/34b|model_response": ["x", "y", "z", "w", "v"],
    "gpt|total_cost": [1e-3, 2e-3, 3e-3, 4e-3, 5e-3],
    "yi/34b|total_cost": [1e-5, 0.0, 3e-5, 4e-5, 5e-5],
    "oracle_model_to_route_to": ["gpt", "yi/34b", "yi/34b", "gpt", "yi/34b"],
}


def f32(values):
    return np.asarray(values, np.float32)


def pickled(path, columns):
    pd = pytest.importorskip("pandas", reason="pandas writes pickled tables")
    # As the published file: texts and scores share a block of objects, the costs have blocks of floats.
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    frame = frame.astype({name: float for name in columns if name.endswith("|total_cost")})
    frame.to_pickle(path)
    return path


def parquet(path, columns):
    pq.write_table(pa.table(columns), path)
    return path


def csv(path, columns):
    pyarrow.csv.write_csv(pa.table(columns), path)
    return path


WRITERS = {"rb.pkl": pickled, "rb.pkl.gz": pickled, "rb.parquet": parquet, "rb.csv": csv}


def change(column, row, value):
    values = list(COLUMNS[column])
    values[row] = value
    return COLUMNS | {column: values}


def assert_same(a, b):
    assert (a.models, a.cost_unit, a.x) == (b.models, b.cost_unit, b.x)
    for name in ("score", "cost", "group"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)


def fails(path, *parts, **options):
    with pytest.raises(DataError) as caught:
        read_routerbench(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path)) and message.endswith(".") and "\n" not in message, message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("name", WRITERS)
def test_as_published(tmp_path, name):
    found = read_routerbench(WRITERS[name](tmp_path / name, COLUMNS))
    assert found.table.models == ("gpt", "yi/34b") and found.table.cost_unit == "USD" and found.table.x is None
    np.testing.assert_array_equal(found.table.score, f32([COLUMNS["gpt"], COLUMNS["yi/34b"]]).T)
    costs = [COLUMNS["gpt|total_cost"], COLUMNS["yi/34b|total_cost"]]
    np.testing.assert_array_equal(found.table.cost, f32(costs).T)
    assert found.texts == COLUMNS["prompt"]
    assert found.tasks is not None and found.tasks.tolist() == COLUMNS["eval_name"]
    assert found.sample_id is not None and found.sample_id.tolist() == COLUMNS["sample_id"]
    assert found.train is found.test is None


@pytest.mark.parametrize("name", ["rb.parquet", "rb.csv"])
def test_equals_read_table(tmp_path, name):
    path = WRITERS[name](tmp_path / name, COLUMNS)
    assert_same(read_routerbench(path).table, read_table(path))


@pytest.mark.parametrize("name", WRITERS)
def test_carrot_protocol(tmp_path, name):
    columns = change("prompt", 3, '["it\'s"]')  # repeats another prompt, in other words the same query
    found = read_routerbench(WRITERS[name](tmp_path / name, columns), protocol="carrot")
    kept = [i for i, task in enumerate(columns["eval_name"]) if not task.lower().startswith("chinese")]
    assert kept == [0, 2, 3]
    assert found.texts == [columns["prompt"][i][2:-2] for i in kept] == ["two\\nlines", "it's", "it's"]
    np.testing.assert_array_equal(found.table.score[:, 0], f32(columns["gpt"])[kept])
    np.testing.assert_array_equal(found.table.cost[:, 1], f32(columns["yi/34b|total_cost"])[kept])
    group = np.asarray(found.table.group)
    assert group[1] == group[2] != group[0]
    assert found.sample_id is not None and found.sample_id.tolist() == ["gsm.1", "gsm.2", "mt.1"]
    train, test = carrot_split(3)
    np.testing.assert_array_equal(found.train, train)
    np.testing.assert_array_equal(found.test, test)


@pytest.mark.parametrize("prompt", ["['é𝄞ü']", "['']", "[]", "x", "['a\\', \"b\"']", "  ['s'] "])
def test_carrot_strips_as_python_slices(tmp_path, prompt):
    found = read_routerbench(parquet(tmp_path / "t.parquet", change("prompt", 0, prompt)), protocol="carrot")
    assert found.texts[0] == prompt[2:-2]


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 10, 11, 14, 35, 101, 36_497, 35_712])
def test_split_is_scikit_learns(rows):
    model_selection = pytest.importorskip("sklearn.model_selection", reason="the oracle of the split")
    expected = model_selection.train_test_split(np.arange(rows), test_size=0.2, random_state=42)
    for found, wanted in zip(carrot_split(rows), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_split_needs_two_rows(tmp_path):
    with pytest.raises(ValueError, match="found 1 rows"):
        carrot_split(1)
    with pytest.raises(ValueError, match="protocol='paper' is unknown, expected one of 'published', 'carrot'"):
        read_routerbench(tmp_path, protocol="paper")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="incomplete='zero'"):
        read_routerbench(tmp_path, incomplete="zero")  # type: ignore[arg-type]


NAN = float("nan")  # in CSV, pandas leaves its cell empty


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in WRITERS for value in (None, NAN) if (name, value) != ("rb.csv", NAN)]
)
def test_rows_without_a_score(tmp_path, name, value):
    path = WRITERS[name](tmp_path / name, change("yi/34b", 2, value))
    fails(path, "row 2, column 'yi/34b'", "found null", "finite score", '`incomplete="drop"`')
    fails(path, "row 2", protocol="carrot")
    found = read_routerbench(path, incomplete="drop")
    assert found.texts == [COLUMNS["prompt"][i] for i in (0, 1, 3, 4)]
    np.testing.assert_array_equal(found.table.score[:, 1], [0.0, 1.0, 0.5, 1.0])
    carrot = read_routerbench(path, incomplete="drop", protocol="carrot")
    assert carrot.sample_id is not None and carrot.sample_id.tolist() == ["gsm.1", "mt.1"]
    assert carrot.train is not None and carrot.test is not None
    assert sorted([*carrot.train, *carrot.test]) == [0, 1]
    in_chinese = WRITERS[name](tmp_path / name, change("gpt|total_cost", 4, value))
    fails(in_chinese, "row 4, column 'gpt|total_cost'", "found null", "finite cost")
    assert len(read_routerbench(in_chinese, protocol="carrot").texts) == 3  # CARROT leaves that row out anyway


@pytest.mark.parametrize("name", WRITERS)
def test_bad_values(tmp_path, name):
    write, path = WRITERS[name], tmp_path / name
    fails(write(path, change("gpt|total_cost", 1, -0.5)), "row 1, column 'gpt|total_cost'", "-0.5", "at least 0")
    fails(write(path, change("gpt", 3, float("inf"))), "row 3, column 'gpt'", "inf")
    fails(write(path, change("prompt", 2, None)), "row 2, column 'prompt'", "found null", "a text in every row")
    fails(write(path, change("eval_name", 2, None)), "row 2, column 'eval_name'", "a text in every row")
    lost = change("gpt", 0, None) | {"gpt": [None] * 5}
    if name != "rb.csv":
        fails(write(path, lost), "no row left", incomplete="drop")


@pytest.mark.parametrize("name", WRITERS)
def test_other_columns(tmp_path, name):
    write, path = WRITERS[name], tmp_path / name
    wide = {"query": ["a"], "score:a": [1.0], "cost:a": [1.0], "score:b": [1.0], "cost:b": [1.0]}
    fails(write(path, wide), "no column 'prompt', 'eval_name', 'sample_id'", "`read_table`", "'score:a'")
    raw = {key: COLUMNS[key] for key in ("sample_id", "prompt", "eval_name", "gpt")}
    fails(write(path, raw), "no column '<model>|total_cost'")
    lacking = {key: values for key, values in COLUMNS.items() if key != "gpt|total_cost"}
    fails(write(path, lacking), "'gpt'", "no 'gpt|total_cost'")


def test_responses_stay_in_the_file(tmp_path, monkeypatch):
    path = parquet(tmp_path / "t.parquet", COLUMNS)
    asked = []
    read = pq.ParquetFile.read

    def recorded(self, columns):
        asked.extend(columns)
        return read(self, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read", recorded)
    read_routerbench(path)
    assert len(asked) == 7 and not any("response" in name for name in asked)


REAL = DATA / "routerbench_original_columns.parquet"


def test_real_sample_through_three_formats(tmp_path):
    if not REAL.exists():
        pytest.skip("the real tables are not on this machine")
    pd = pytest.importorskip("pandas", reason="pandas writes pickled tables")
    frame = pd.read_parquet(REAL)
    frame.to_pickle(tmp_path / "t.pkl")
    frame.to_csv(tmp_path / "t.csv")
    direct = read_routerbench(REAL)
    assert_same(direct.table, read_table(REAL))
    assert direct.table.score.shape == (600, 11)
    for name in ("t.pkl", "t.csv"):
        found = read_routerbench(tmp_path / name)
        assert_same(found.table, direct.table)
        assert found.texts == direct.texts
        for a, b in ((found.tasks, direct.tasks), (found.sample_id, direct.sample_id)):
            np.testing.assert_array_equal(a, b)
    carrot = read_routerbench(REAL, protocol="carrot")
    assert carrot.train is not None and carrot.test is not None and (len(carrot.train), len(carrot.test)) == (480, 120)
    assert all(text[2:-2] == short for text, short in zip(direct.texts, carrot.texts, strict=True))


def test_wide_sample_is_no_routerbench():
    path = DATA / "routerbench_3tasks.parquet"
    if not path.exists():
        pytest.skip("the real tables are not on this machine")
    fails(path, "no column 'prompt'", "`read_table`")


class Hub:
    """A stand-in for huggingface_hub.snapshot_download: what is in the cache, and whether there is a network."""

    def __init__(self, folder, online=True):
        self.folder, self.online, self.calls = folder, online, []

    def __call__(self, repository, *, repo_type, revision, allow_patterns, local_files_only):
        self.calls.append((repository, repo_type, revision, tuple(allow_patterns), local_files_only))
        if local_files_only:
            if not self.folder.exists():
                raise FileNotFoundError("nothing in the cache")
            return str(self.folder)
        if not self.online:
            raise OSError("Name or service not known\nand more")
        self.folder.mkdir(exist_ok=True)
        for name in allow_patterns:
            (self.folder / name).write_bytes(b"new")
        return str(self.folder)


def test_fetch(tmp_path, monkeypatch):
    import huggingface_hub

    hub = Hub(tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    path = fetch_routerbench()
    assert path == tmp_path / "cache" / "routerbench_0shot.pkl" and path.read_bytes() == b"new"
    repository = ("withmartian/routerbench", "dataset", None, ("routerbench_0shot.pkl",))
    assert hub.calls == [(*repository, True), (*repository, False)]
    hub.online = False
    assert fetch_routerbench() == path  # from the cache, with no network
    assert hub.calls[2:] == [(*repository, True)]
    with pytest.raises(DataError) as caught:  # the cache has the other file only
        fetch_routerbench("7840214", shots=5)
    message = str(caught.value)
    for part in (
        "withmartian/routerbench",
        "Name or service not known;",
        "download routerbench_5shot.pkl",
        "read_routerbench",
    ):
        assert part in message
    assert "\n" not in message and hub.calls[-1][2] == "7840214"


def test_fetch_without_the_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # an import raises
    with pytest.raises(DataError, match="needs the package huggingface_hub.*read_routerbench"):
        fetch_routerbench()
