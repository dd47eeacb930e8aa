"""Contracts: read from TOML, changed by flags, and refused with the file and key where they are wrong."""

from pathlib import Path

import pytest

from jrouter.io.contract import Contract, choose_columns, read_contract
from jrouter.io.errors import DataError

WHOLE = """
adapter = "litellm_spend"
scores = "judge/scores.csv"
on = "group"
prices = "/etc/prices.csv"
embedding = "mini"
models = ["large", "small"]
cost_scale = 2
[columns]
request_id = "call.id"
score = "thumb"
"""


def write(folder, text, name="contract.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def fails(path, *parts):
    with pytest.raises(DataError) as caught:
        read_contract(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and message.endswith(".") and "\n" not in message, message
    for part in parts:
        assert part in message, message


def test_reads_every_key(tmp_path):
    contract = read_contract(write(tmp_path, WHOLE))
    assert contract == Contract(
        columns={"request_id": "call.id", "score": "thumb"},
        adapter="litellm_spend",
        scores=str(tmp_path / "judge" / "scores.csv"),  # from the folder of the contract
        on="group",
        prices="/etc/prices.csv",
        embedding="mini",
        models=("large", "small"),
        cost_scale=2,
    )
    assert read_contract(write(tmp_path, "")) == Contract()
    assert read_contract(write(tmp_path, 'scores = "s3://bucket/scores"')).scores == "s3://bucket/scores"


def test_flags_come_before_the_file_and_columns_are_added(tmp_path):
    contract = read_contract(write(tmp_path, WHOLE))
    changed = contract.changed(adapter=None, on="request_id", columns={"score": "judge"}, models=["a", "b"])
    assert changed.adapter == "litellm_spend" and changed.on == "request_id" and changed.models == ("a", "b")
    assert changed.columns == {"request_id": "call.id", "score": "judge"}
    assert contract.changed() == contract
    assert contract.theirs("score") == "thumb" and contract.theirs("cost") == "cost"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('adaptor = "weave"', ["unknown key 'adaptor'", "'adapter'"]),
        ("cost_scale = true", ["'cost_scale'", "True", "a number"]),
        ("cost_scale = 0", ["cost_scale", "above 0"]),
        ("cost_scale = nan", ["cost_scale", "above 0"]),
        ('models = "a,b"', ["'models'", "a list of strings"]),
        ('models = ["a"]', ["models", "at least two"]),
        ('models = ["a", "a"]', ["models", "each once"]),
        ('columns = "x"', ["'columns'", "a table"]),
        ("[columns]\nscore = 1", ["'columns'", "a table of strings"]),
        ('[columns]\nreward = "r"', ["cannot map 'reward'", "'score'"]),
        ('on = "model"', ["'model'", "'request_id'"]),
        ("adapter = 3", ["'adapter'", "a string"]),
        ('prices = "p.csv"\ncost_unit = "EUR"', ["cost_unit", "USD"]),
        ("= nothing", ["is not TOML"]),
    ],
)
def test_what_is_wrong_is_told_by_file_and_key(tmp_path, text, parts):
    fails(write(tmp_path, text), *parts)


def test_files_that_are_no_contract(tmp_path):
    fails(tmp_path / "none.toml", "does not exist")
    fails(tmp_path, "cannot be read")
    path = tmp_path / "latin.toml"
    path.write_bytes('adapter = "caf\xe9"'.encode("latin-1"))
    fails(path, "is not TOML")


def test_columns_are_chosen_by_our_names_and_theirs():
    names = ["id", "model", "score", "cost", "embedding:a", "lam", "other"]
    contract = Contract(columns={"request_id": "id"})
    chosen = choose_columns(names, contract, "log", by_text=False)
    expected = {"request_id": "id", "model": "model", "score": "score", "cost": "cost", "embedding": "embedding:a"}
    assert chosen == expected
    assert "embedding" not in choose_columns(names, contract, "log", by_text=True)
    with pytest.raises(DataError, match="appears 2 times"):
        choose_columns([*names, "cost"], contract, "log", by_text=False)
    with pytest.raises(DataError, match="several embeddings"):
        choose_columns([*names, "embedding:b"], contract, "log", by_text=False)
    two = Contract(embedding="b")
    assert choose_columns([*names, "embedding:b"], two, "log", by_text=False)["embedding"] == "embedding:b"
    own = Contract(columns={"embedding": "vector"})
    assert choose_columns(["vector"], own, "log", by_text=False) == {"embedding": "vector"}


def test_a_contract_of_another_folder_is_found_from_anywhere(tmp_path, monkeypatch):
    folder = tmp_path / "deep"
    folder.mkdir()
    write(folder, 'scores = "s.csv"')
    monkeypatch.chdir(tmp_path)
    assert Path(str(read_contract("deep/contract.toml").scores)).parts[-2:] == ("deep", "s.csv")
