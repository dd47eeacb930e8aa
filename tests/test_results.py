"""Claims too slow for a test have committed results: these must say what the README says of them."""

import csv
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))
RESULTS = ROOT / "experiments" / "results"


def setting(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())["results"][0]


@pytest.mark.parametrize("regime", ["linear", "specialists"])
def test_regret_training_beats_what_ignores_the_bias(regime):
    found = setting(f"synthetic_{regime}")
    assert found["n_train"] == 20_000 and len(found["model_names"]) == 11
    # There is something to gain: the best single model is 3 points below the best policy on x.
    methods = found["methods"]
    gain = methods["oracle"]["mean_over_lambdas"]["utility"]["estimate"]
    gain -= methods["best_single"]["mean_over_lambdas"]["utility"]["estimate"]
    assert gain > 0.03
    for naive in ("baseline_shared", "baseline_per_model", "logging_policy"):
        difference = found["differences"]["rm_softmax"][naive]
        assert difference["mean_over_lambdas"]["low"] > 0, naive
        assert min(difference["estimate"]) >= 0, naive


def test_bounds_hold_under_hidden_confounding_where_the_point_estimate_does_not():
    from confounding_table import joined

    found = joined(RESULTS / "confounding.json")
    assert [one.strength for one in found] == [1.0, 1.25, 1.5, 2.0, 3.0, 5.0]
    assert all(one.logs == 200 for one in found)
    for one in found:
        # What is called the coin's Gamma is its Gamma.
        assert one.gamma == pytest.approx(one.strength, abs=1e-3)
        assert one.held[one.at(one.strength) :].min() >= (0.9 if one.strength == 1.0 else 0.99)
        if one.strength >= 1.5:
            assert one.held[0] < 0.05
            # A gain is announced in nearly every log, whether there is one or not; by bounds, where there is one.
            assert one.announced[0] > 0.95 and one.announced[one.at(one.strength)] < 0.05
    assert found[-1].true_gain < 0 < found[0].true_gain


def test_csv_holds_every_cell_of_the_json():
    found = setting("synthetic_linear")
    with open(RESULTS / "synthetic_linear.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found["methods"]) * len(found["lambdas"]) * 5
    for name, method in found["methods"].items():
        values = [float(row["utility"]) for row in rows if row["method"] == name]
        mean = sum(values) / len(values)
        assert mean == pytest.approx(method["mean_over_lambdas"]["utility"]["estimate"], abs=1e-4)


def test_results_name_tables_without_paths():
    for path in RESULTS.glob("*.json"):
        record = json.loads(path.read_text())
        assert record["schema"] == 1 and record["versions"]["jax"] and record["device"]["kind"]
        for found in record["results"]:
            assert "/" not in found["table"]
            simulated = found["table"].startswith(("synthetic:", "tuning:"))
            assert simulated or found["sha256"] is None or len(found["sha256"]) == 64


def test_tables_of_the_pages_are_those_of_the_results():
    from readme_tables import PAGES, TABLES, filled

    shown = []
    for page in PAGES:
        text = page.read_text()
        assert filled(text) == text, "run: python experiments/readme_tables.py"
        shown += [name for name in TABLES if f"<!-- {name} -->\n" in text and f"\n<!-- /{name} -->" in text]
    assert sorted(shown) == sorted(TABLES)
