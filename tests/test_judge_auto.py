"""rm_auto is judged as its script says, and the paper's claims are read from the same file."""

import csv
import json
import math
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jrouter.methods import METHODS
from jrouter.methods.best_single import best_single
from jrouter.methods.rm_auto import choose
from jrouter.policy import Method
from jrouter.types import BenchmarkTable, Nuisances

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

import cells  # noqa: E402 (scripts are no package)
import command_line  # noqa: E402
import data  # noqa: E402
import judge_auto  # noqa: E402
import judgement  # noqa: E402
import learners  # noqa: E402
import paper_claims  # noqa: E402
import studies  # noqa: E402
from cells import Estimate  # noqa: E402

AUTO = judgement.AUTO


def ledger(path, digests=None, **more) -> judge_auto.Ledger:
    options = judge_auto.Options(out=path.parent, **more)
    return judge_auto.Ledger(path, options=options, configuration={"lambdas": "auto"}, digests=digests or {"a": None})


def fabricate(path, settings, *, error=1e-4, accuracy=None):
    """A result file of {(table, policy, n): {method: utilities by seed}}, as the script would write it."""
    kept = ledger(path, {table: None for table, _, _ in settings})
    for (table, policy, n), methods in settings.items():
        for method, values in methods.items():
            for seed, value in enumerate(values):
                others = {
                    name: {"mean": value - theirs[seed], "mean_error": error}
                    for name, theirs in methods.items()
                    if method == AUTO and name != AUTO
                }
                cell = {
                    **{"n_train": n, "n_test": 100, "lambdas": [0.0, 10.0], "seconds": 1.0},
                    # Two lambdas whose mean is the value.
                    **{metric: [value + 0.1, value - 0.1] for metric in studies.METRICS},
                    **{"cost": [0.01, 0.03], "error": {"utility": error}, "differences": others},
                }
                if accuracy is not None:
                    cell["routing_accuracy"] = [accuracy[method][seed]] * 2
                if method == AUTO:
                    cell["evidence"] = {"chosen": "pooled" if seed else "best_single"}
                kept.keep({"table": table, "logging_policy": policy, "n": n, "seed": seed, "method": method}, cell)
    kept.flush()


# Statistics


def test_holm_is_the_case_worked_by_hand():
    # Sorted: .005 x 4 = .02, .01 x 3 = .03, .03 x 2 = .06, and .04 x 1 = .04 is raised to the .06 before it.
    np.testing.assert_allclose(judgement.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert judgement.holm([0.9, 0.6]) == [1.0, 1.0] and judgement.holm([]) == []
    p = np.random.default_rng(0).uniform(size=30) ** 3
    adjusted = np.array(judgement.holm(p.tolist()))
    assert (adjusted >= p).all() and (adjusted <= np.minimum(1, 30 * p) + 1e-12).all()
    assert (np.argsort(adjusted[np.argsort(p)], kind="stable") == np.arange(30)).all()


def test_holm_keeps_the_rate_of_any_false_rejection():
    rng, tests, level = np.random.default_rng(1), 12, 0.05
    false = np.mean([min(judgement.holm(rng.uniform(size=tests).tolist())) < level for _ in range(4000)])
    assert abs(false - (1 - (1 - level / tests) ** tests)) < 4 * math.sqrt(level / 4000)


def test_p_values_are_those_of_student():
    values = [0.010, 0.004, -0.001, 0.007]
    found = judgement.two_sided(cells.over_seeds(values, [0.0] * 4))
    assert found == pytest.approx(stats.ttest_1samp(values, 0.0)[1])
    assert judgement.two_sided(Estimate(0.0, 0.0)) == 1.0 and judgement.two_sided(Estimate(0.1, 0.0)) == 0.0
    assert judgement.two_sided(Estimate(1.959964, 1.0)) == pytest.approx(0.05, abs=1e-6)


def cell(table: str, difference: Estimate, n: int = 2000) -> judgement.Cell:
    loss = difference._replace(mean=-difference.mean)
    return judgement.Cell(table, "p", n, 3, {"best_single": difference}, "best_single", loss, loss, judgement.Counter())


def test_a_mean_over_cells_counts_cells_the_same_and_tables_as_independent():
    def over(*held):
        return judgement.over_cells(held, lambda one: one.differences["best_single"])

    a, b, c = (Estimate(mean, error, 5.0) for mean, error in ((0.03, 0.3), (0.06, 0.6), (0.0, 0.6)))
    assert over(cell("x", a), cell("y", b)) == pytest.approx(cells.over_tables([a, b]))
    found = over(cell("x", a), cell("x", b), cell("y", c))
    assert found.mean == pytest.approx(0.03)
    assert found.error == pytest.approx(math.hypot(0.3 + 0.6, 0.6) / 3)
    # The same evidence twice is no more evidence.
    assert over(cell("x", a), cell("x", a, n=20_000)) == pytest.approx(a)


def test_wins_and_losses_need_the_margin_and_the_correction():
    small = {"tiny": Estimate(-0.004, 1e-5), "noisy": Estimate(-0.02, 0.015), "mid": Estimate(-0.02, 0.0079)}
    clear = {"lost": Estimate(-0.02, 1e-3), "won": Estimate(0.02, 1e-3)}
    # Alone, p of `mid` is .011; among five tests it is no longer below .05.
    held = [cell("x", estimate) for estimate in (*small.values(), *clear.values())]
    found = judgement.verdicts(held)
    said = [found[place, "best_single"].outcome for place in range(5)]
    assert said == ["tie", "tie", "loss", "loss", "win"]
    more = judgement.verdicts([*held, *[cell(f"y{place}", Estimate(0.0, 1.0)) for place in range(5)]])
    assert more[2, "best_single"].outcome == "tie" and more[3, "best_single"].outcome == "loss"
    (row,) = judgement.comparison(held)
    assert (row.wins, row.ties, row.losses, row.uncorrected) == (1, 2, 2, 3)


# From the file


def test_the_analysis_is_that_of_the_seeds(tmp_path):
    path = tmp_path / "judge_auto.json"
    first = {
        "best_single": [0.50, 0.56, 0.50],
        "cf_regression": [0.53, 0.52, 0.525],
        "rm_softmax": [0.9, 0.9, 0.9],
        AUTO: [0.52, 0.53, 0.51],
    }
    second = {"best_single": [0.40, 0.41], AUTO: [0.45, 0.46]}
    fabricate(path, {("synthetic:b", "p", 20_000): second, ("synthetic:a", "p", 2000): first})
    small, large = judgement.cells_of(path)
    assert (small.n, large.n, small.seeds, large.seeds) == (2000, 20_000, 3, 2)
    # rm_softmax is no comparator; cf_regression is best on average, best_single in the second log.
    assert small.best == "cf_regression" and set(small.differences) == {"best_single", "cf_regression"}
    assert small.differences["best_single"].mean == pytest.approx(np.mean([0.02, -0.03, 0.01]))
    expected: Any = cells.over_seeds([0.01, -0.01, 0.015], [1e-4] * 3)
    assert small.loss == pytest.approx(expected)
    assert small.loss_by_seed.mean == pytest.approx(np.mean([0.01, 0.03, 0.015]))
    assert large.loss.mean == pytest.approx(-0.05)
    assert small.chosen == {"pooled": 2, "best_single": 1}
    rows = {row.name: row for row in judgement.comparison([small, large])}
    assert list(rows) == ["best_single", "cf_regression"]
    assert rows["best_single"].gain.mean == pytest.approx((0.05 + 0.0) / 2)
    assert rows["best_single"].wins == 1 and rows["best_single"].ties == 1
    assert [(n, len(here)) for n, here, _, _ in judgement.hindsight([small, large])] == [(2000, 1), (20_000, 1)]


def test_targets_met_and_missed_are_said_with_where(tmp_path, capsys):
    path = tmp_path / "judge_auto.json"
    lost = {"best_single": [0.52, 0.52, 0.521], AUTO: [0.50, 0.50, 0.501]}
    won = {"best_single": [0.40, 0.40], AUTO: [0.45, 0.45]}
    fabricate(path, {("synthetic:b", "p", 20_000): won, ("synthetic:a", "p", 2000): lost})
    judgement.print_judgement(path)
    said = [line.strip() for line in capsys.readouterr().out.splitlines() if "met: " in line or "MISSED: " in line]
    assert [line.split(":")[0] for line in said] == ["MISSED", "met", "MISSED", "met"]
    assert "1.0 points; not so: synthetic:a, p, 2,000 rows (+2.00 to best_single)" in said[0]
    assert "synthetic:a, p, 2,000 rows to best_single" in said[2]
    assert judgement.target_at(2531) == 0.010


# The script


def source_of(name, n, sha256=None):
    """n logged and 40 test queries; the first coordinate says which of four models is right."""

    def queries(size, seed):
        rng = np.random.default_rng(seed)
        x = jnp.asarray(rng.normal(size=(size, 6)), jnp.float32)
        score = jnp.asarray(rng.random((size, 4)) < 0.5 + 0.2 * np.sign(x[:, :1]) * [1, 1, -1, -1], jnp.float32)
        cost = jnp.asarray(rng.uniform(0.5, 1.5, (size, 4)) * [1e-4, 2e-4, 4e-4, 1e-3], jnp.float32)
        return BenchmarkTable(x, score, cost, models=("a", "b", "c", "d"))

    return data.Source(name, sha256, lambda seed: queries(n, seed), queries(40, 99), (1.0, 0.1))


@dataclass(frozen=True)
class Simple:
    """What is asked of rm_auto's config."""

    candidates: tuple[str, ...] = ("logging_policy", "best_single", "ridge")


def simple_auto():
    """The best single model, and evidence as rm_auto gives it: the second candidate is taken, the third not."""
    single = best_single()

    def fit(key, problem):
        rows = jnp.array([[0.0, 0.1], [1.0, 1.1], [0.5, 0.6]])
        return single.fit(key, problem) | {"evidence": choose(rows, jnp.ones(2), None, support=0.5)}

    return Method(fit, single.policy, Simple())


@pytest.fixture
def quick(monkeypatch):
    """Queries at hand, programs that compile fast, means of the log for nuisances, and a stand-in for rm_auto."""

    def found(options):
        if options.table is not None:
            return [source_of(options.table.name, 200, "0" * 64)]
        return [source_of("synthetic:linear", options.n)]

    def means(seed, log, split, config, *, fast):
        shape = (log.model.shape[0], len(log.models))
        score, cost = jnp.full(shape, log.score.mean()), jnp.full(shape, log.cost.mean())
        return Nuisances(jnp.full(shape[0], 1 / shape[1]), score, cost, split.fold)

    monkeypatch.setattr(learners, "compiler_options", lambda fast: data.compiler_options(True))
    monkeypatch.setattr(learners, "estimate_nuisances", means)
    monkeypatch.setattr(judge_auto, "sources", found)
    monkeypatch.setitem(METHODS, AUTO, simple_auto)


def options_of(folder, **more):
    small: dict[str, Any] = dict(logging_policy="uniform", seeds=1, lambdas="0,100", out=folder)
    return judge_auto.Options(**(small | more))


def test_tables_and_sizes_share_one_file_and_rm_auto_meets_later_methods(tmp_path, monkeypatch, quick, capsys):
    begun = []
    whole = judge_auto.Judges.judged
    monkeypatch.setattr(
        judge_auto.Judges, "judged", lambda self, name, *rest: begun.append(name) or whole(self, name, *rest)
    )
    options = options_of(tmp_path, n=200, methods=f"{AUTO},best_single")
    judge_auto.main(options)
    assert begun == ["best_single", AUTO]
    begun.clear()
    judge_auto.main(replace(options, methods=f"logging_policy,{AUTO}"))
    # Compared with what it was compared with before, too.
    assert sorted(begun) == sorted(["logging_policy", "best_single", AUTO])
    judge_auto.main(replace(options, n=100, methods="best_single"))
    table = {"table": Path("folder/mine.csv"), "methods": "best_single"}
    judge_auto.main(replace(options, **table))
    begun.clear()
    judge_auto.main(replace(options, methods=f"best_single,{AUTO},logging_policy"))
    assert begun == []

    path = tmp_path / "judge_auto.json"
    groups = {group["table"]: group["cells"] for group in cells.current(path)}
    keys = {(table, c["key"]["n"], c["key"]["method"]) for table, held in groups.items() for c in held}
    mine, synthetic = "mine.csv", "synthetic:linear"
    assert keys == {(synthetic, 200, name) for name in ("best_single", "logging_policy", AUTO)} | {
        (synthetic, 100, "best_single"),
        (mine, 200, "best_single"),
    }
    (ours,) = cells.select(groups[synthetic], method=AUTO)
    for name, difference in ours["differences"].items():
        (theirs,) = cells.select(groups[synthetic], method=name, n=200)
        assert difference["mean"] == pytest.approx(np.mean(ours["utility"]) - np.mean(theirs["utility"]), abs=2e-6)
    assert ours["evidence"]["candidates"] == ["logging_policy", "best_single", "ridge"]
    assert ours["evidence"]["chosen"] == "best_single"
    np.testing.assert_allclose(ours["evidence"]["gain"], [0, 1, -0.5], atol=1e-6)
    assert ours["differences"]["best_single"]["mean"] == pytest.approx(0, abs=1e-6)
    printed = capsys.readouterr().out
    assert "chosen over all logs: " + ours["evidence"]["chosen"] in printed and "targets" in printed
    assert (tmp_path / "judge_auto.png").stat().st_size > 5000
    with open(path.with_suffix(".csv"), newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * len(keys)


def test_two_names_of_one_estimator_are_run_once():
    assert judge_auto.first_name("regress_and_compare_mlp") == judge_auto.first_name("baseline_per_model")
    names = (*judgement.COMPARATORS, *judge_auto.OTHERS)
    assert len({judge_auto.first_name(name) for name in names}) == len(names) - 1


def test_a_table_that_changed_is_refused(tmp_path):
    path = tmp_path / "judge_auto.json"
    key = {"table": "a", "logging_policy": "p", "n": 5, "seed": 0, "method": "best_single"}
    kept = ledger(path, {"a": "0" * 64})
    kept.keep(key, {"value": 1.0})
    kept.flush()
    assert ledger(path, {"a": "0" * 64}).cell(key) is not None
    with pytest.raises(ValueError, match="another file named a"):
        ledger(path, {"a": "1" * 64})


def test_the_file_is_not_written_all_the_time(tmp_path, monkeypatch):
    now, writes = [0.0], []
    monkeypatch.setattr(judge_auto.time, "monotonic", lambda: now[0])

    def write(self):
        writes.append(now[0])
        now[0] += 1.0

    monkeypatch.setattr(cells.Study, "save", write)
    kept = ledger(tmp_path / "judge_auto.json")
    for _ in range(50):
        kept.save()
        now[0] += 1.0
    assert len(writes) == 3 and np.diff(writes).min() >= 20
    kept.flush()
    assert len(writes) == 4


def test_misuse_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["judge_auto", "--methods", "magic", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        command_line.script(judge_auto.main, judge_auto.Options, judge_auto.__doc__)
    assert "--methods: unknown 'magic'" in str(stop.value.code) and os.listdir(tmp_path) == []


# The paper's claims


def test_verdicts_are_those_of_the_interval():
    claim = paper_claims.CLAIMS["bias"]

    def said(low, high, seeds=5):
        estimate = Estimate((low + high) / 2, (high - low) / 2 / stats.norm.ppf(0.975))
        return paper_claims.verdict(estimate, seeds, claim)

    assert said(0.101, 0.14) == said(0.2, 0.3) == "reproduced"
    assert said(0.05, 0.2) == "same sign" and said(-0.01, 0.2) == "no difference"
    assert said(-0.2, -0.001) == "refuted" and said(0.12, 0.12, seeds=1) == "one log"


def test_variance_ratios_cover():
    rng, hits = np.random.default_rng(0), []
    for _ in range(1000):
        first, second = 2.0 * rng.normal(size=6), rng.normal(size=6)
        found = paper_claims.variance_ratio(first.tolist(), second.tolist())
        assert found is not None
        hits.append(found[1] <= 4.0 <= found[2])
    assert abs(np.mean(hits) - 0.95) < 4 * math.sqrt(0.05 * 0.95 / 1000)
    assert paper_claims.variance_ratio([1.0], [2.0]) is None and paper_claims.variance_ratio([1, 2], [1, 1]) is None


def test_claims_are_read_from_the_file_alone(tmp_path, capsys):
    softmax, naive, hard = [0.60, 0.62, 0.61], [0.50, 0.515, 0.51], [0.60, 0.60, 0.66]
    methods = {"rm_softmax": softmax, "baseline_shared": naive, "rm_classification_hard_dr": hard}
    flipped = {"rm_softmax": naive, "baseline_shared": softmax, "rm_classification_hard_dr": hard}
    settings = {("a", "p", 2000): methods, ("b", "p", 2000): {name: [values[0]] for name, values in methods.items()}}
    fabricate(tmp_path / "judge_auto.json", settings, accuracy=flipped)
    paper_claims.main(paper_claims.Options(out=tmp_path))
    with open(tmp_path / "paper_claims.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["claim"] for row in rows} == {"bias", "softmax"} and len(rows) == 2 * 3 * 2

    def row(**fields):
        (only,) = (row for row in rows if all(row[name] == value for name, value in fields.items()))
        return only

    of = {"table": "a", "first": "rm_softmax", "second": "baseline_shared"}
    differences = np.subtract(softmax, naive)
    interval = stats.t.interval(0.95, 2, differences.mean(), stats.sem(differences))
    found = row(**of, metric="utility")
    np.testing.assert_allclose([float(found["low"]), float(found["high"])], interval, atol=1e-7)
    assert found["verdict"] == "same sign" and float(found["cost_ratio"]) == 1.0
    assert row(**of, metric="routing_accuracy")["verdict"] == "refuted"
    assert row(**(of | {"table": "b"}), metric="utility")["verdict"] == "one log"
    ratio = row(table="a", claim="softmax", metric="utility")["variance_ratio"]
    assert float(ratio) == pytest.approx(np.var(softmax) / np.var(hard))
    record = json.loads((tmp_path / "paper_claims.json").read_text())
    assert [group["table"] for group in record["results"]] == ["a", "b"]
    assert (tmp_path / "paper_claims.png").read_bytes().startswith(b"\x89PNG")
    assert "end_to_end: no pair of its methods" in capsys.readouterr().out


def test_missing_results_are_named_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["paper_claims", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        command_line.script(paper_claims.main, paper_claims.Options, paper_claims.__doc__)
    text = str(stop.value.code)
    assert text.startswith("error: ") and "judge_auto.json is missing" in text and "\n" not in text


def test_every_claimed_method_is_one_that_is_judged():
    judged = {*judgement.COMPARATORS, *judge_auto.OTHERS}
    named = {name for claim in paper_claims.CLAIMS.values() for pair in claim.pairs for name in pair}
    assert named <= judged
