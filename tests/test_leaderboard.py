"""The leaderboard: Demsar's own example, ties, cliques, intervals, and the script itself."""

import csv
import doctest
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jrouter.inference import standard_error
from jrouter.types import BenchmarkTable, Nuisances

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

import cells  # noqa: E402 (scripts are no package)
import command_line  # noqa: E402
import data  # noqa: E402
import leaderboard  # noqa: E402
import leaderboard_cells  # noqa: E402
import leaderboard_figure  # noqa: E402
import leaderboard_ranking  # noqa: E402
import learners  # noqa: E402
import query_batches  # noqa: E402
from leaderboard_ranking import Block  # noqa: E402

# AUC of C4.5, with m, with cf, with both, on 14 data sets: Demsar (2006), table 6. The .9751 is printed as .975, and
# ranked before the other.
AUC = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


# Ranks, tests, cliques


def test_the_example_of_the_paper():
    rank = leaderboard_ranking.ranks(AUC)
    np.testing.assert_allclose(rank.mean(axis=0), [3.143, 2.000, 2.893, 1.964], atol=5e-4)
    found = leaderboard_ranking.friedman(rank)
    # The paper's 9.28 is without the correction for ties: 14 * 5 squares less the 6.5 that ties take.
    assert found.chi_square * 63.5 / 70 == pytest.approx(9.28, abs=0.01)
    assert leaderboard_ranking.critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)
    assert leaderboard_ranking.critical_difference(4, 14, level=0.1) == pytest.approx(1.12, abs=5e-3)
    # At 0.1 the first is told from the two with m, and the third from none.
    order = np.argsort(rank.mean(axis=0))
    assert order.tolist() == [3, 1, 2, 0]
    means = np.sort(rank.mean(axis=0)).tolist()
    assert leaderboard_ranking.cliques(means, leaderboard_ranking.critical_difference(4, 14, level=0.1)) == [
        (0, 2),
        (2, 3),
    ]
    assert leaderboard_ranking.cliques(means, leaderboard_ranking.critical_difference(4, 14)) == [(0, 3)]


def test_friedman_is_scipys_with_ties_and_demsars_without():
    rng = np.random.default_rng(0)
    tied = rng.integers(0, 4, (9, 5)).astype(float)
    for values in (AUC, tied, rng.normal(size=(12, 7))):
        found = leaderboard_ranking.friedman(leaderboard_ranking.ranks(values))
        assert found.chi_square == pytest.approx(stats.friedmanchisquare(*values.T).statistic)
    n, m = 12, 7
    rank = leaderboard_ranking.ranks(rng.normal(size=(n, m)))
    found = leaderboard_ranking.friedman(rank)
    plain = 12 * n / (m * (m + 1)) * (np.square(rank.mean(axis=0)).sum() - m * (m + 1) ** 2 / 4)
    assert found.chi_square == pytest.approx(plain)
    assert found.f == pytest.approx((n - 1) * plain / (n * (m - 1) - plain))
    # The paper's critical value of F(3, 39) is 2.85.
    assert stats.f.sf(2.85, 3, 39) == pytest.approx(0.05, abs=5e-4)


def test_friedman_where_there_is_nothing_to_test():
    same = leaderboard_ranking.ranks(np.ones((5, 3)))
    assert (same == 2).all() and leaderboard_ranking.friedman(same) == (0.0, 0.0, 1.0)
    agreed = leaderboard_ranking.friedman(np.tile([1.0, 2.0, 3.0], (6, 1)))
    assert agreed.chi_square == pytest.approx(12) and agreed.f == math.inf and agreed.p_value == 0
    assert leaderboard_ranking.friedman(np.array([[1.0, 2.0, 3.0]])).p_value == 1


def test_critical_differences_are_those_of_the_papers_table():
    # q at 0.05 for 2 to 10 methods, table 5 (a).
    printed = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    for n_methods, q in enumerate(printed, start=2):
        expected = q * math.sqrt(n_methods * (n_methods + 1) / (6 * 20))
        assert leaderboard_ranking.critical_difference(n_methods, 20) == pytest.approx(expected, rel=5e-4)
    # Four times the blocks, half the difference.
    assert leaderboard_ranking.critical_difference(48, 24) == pytest.approx(
        leaderboard_ranking.critical_difference(48, 6) / 2
    )


def test_ranks_of_ties_are_means_and_always_add_up():
    values = np.random.default_rng(1).integers(0, 5, (40, 8))
    rank = leaderboard_ranking.ranks(values)
    np.testing.assert_allclose(rank.sum(axis=1), 8 * 9 / 2)
    for row, given in zip(values, rank, strict=True):
        for place, value in enumerate(row):
            assert given[place] == (row > value).sum() + ((row == value).sum() + 1) / 2


def test_cliques_are_the_largest_and_reach_less_than_the_difference():
    assert leaderboard_ranking.cliques([1.0, 2.0, 3.0], 1.0) == []
    assert leaderboard_ranking.cliques([1.0, 1.0, 3.0], 0.5) == [(0, 1)]
    mean = np.sort(np.random.default_rng(2).uniform(1, 20, 20)).tolist()
    found = leaderboard_ranking.cliques(mean, 4.0)
    for first in range(20):
        for last in range(first + 1, 20):
            together = any(a <= first and last <= b for a, b in found)
            assert together == (mean[last] - mean[first] < 4.0)
    assert all(a < c and b < d for (a, b), (c, d) in zip(found, found[1:], strict=False))


def test_bars_of_one_column_do_not_touch():
    runs = [(0, 4), (1, 6), (3, 8), (5, 9), (7, 11), (12, 13)]
    columns = leaderboard_figure.columns_of(runs)
    assert columns == [0, 1, 2, 0, 1, 0] and leaderboard_figure.columns_of([]) == []


# Intervals


def test_errors_over_queries_are_those_of_batches():
    values = np.random.default_rng(3).normal(size=(40, 3))
    influence = (values - values.mean(axis=0)) / 40
    found = query_batches.query_error(influence)
    np.testing.assert_allclose(found, values.std(axis=0, ddof=1) / math.sqrt(40))
    # Groups are kept together, and bring what they bring.
    group = np.repeat(np.arange(query_batches.BATCHES), 5)
    test = table_of(200, seed=0)
    of_query = np.random.default_rng(4).normal(size=200)
    test = replace(test, group=jnp.asarray(group))
    batch = query_batches.batch_of(test)
    apart = np.bincount(batch, weights=of_query - of_query.mean()) / 200
    clustered = float(standard_error(jnp.asarray(of_query, jnp.float32), group=jnp.asarray(group)))
    assert math.sqrt(np.square(apart).sum()) == pytest.approx(clustered, rel=1e-4)


def blocks_of(utility, *, noise=1e-3, tables=("a", "b"), seeds=3):
    """Blocks of methods with given utilities [M], each off by noise that logs and batches bring."""
    rng = np.random.default_rng(5)
    return [
        Block(table, "p", seed, utility + noise * rng.normal(size=len(utility)), queries(rng, len(utility), noise))
        for table in tables
        for seed in range(seeds)
    ]


def queries(rng, m, noise):
    drawn = noise * rng.normal(size=(40, m)) / 40
    return drawn - drawn.mean(axis=0)


def test_over_blocks_is_over_seeds_then_over_tables():
    blocks = blocks_of(np.zeros(2))
    values, errors = np.arange(6) / 10, np.full(6, 0.01)
    found = leaderboard_ranking.over_blocks(blocks, values, errors)
    parts = [cells.over_seeds(values[part].tolist(), errors[part].tolist()) for part in (slice(0, 3), slice(3, 6))]
    assert found == pytest.approx(cells.over_tables(parts))
    # Logging policies of one table share its queries: no more evidence.
    policies = [block._replace(table="a", policy=block.table) for block in blocks]
    assert leaderboard_ranking.over_blocks(policies, values, errors).error > 1.3 * found.error


def test_what_is_apart_is_decided_and_what_is_not_is_said():
    names = ["far", "twin", "other_twin", "last"]
    ranking = leaderboard_ranking.rank_methods(names, blocks_of(np.array([0.6, 0.5, 0.5, 0.3])))
    said = {one["method"]: one for one in ranking["methods"]}
    order = list(said)
    assert order[0] == "far" and order[3] == "last"
    assert [said[name]["against_next"] for name in order] == ["decided", "not decided", "decided", None]
    assert said["far"]["better_than"] == 3 and said["last"]["worse_than"] == 3 and said["twin"]["better_than"] == 1
    assert said["far"]["rank"] == {"estimate": 1.0, "low": 1.0, "high": 1.0}
    assert said["far"]["less_next"]["estimate"] == pytest.approx(0.1, abs=5e-3)
    for one in ranking["methods"]:
        assert one["utility"]["low"] < one["utility"]["estimate"] < one["utility"]["high"]
    twins = said["twin"]["rank"]
    assert 1.9 < twins["estimate"] < 3.1 and twins["low"] < twins["estimate"] < twins["high"]
    assert len(ranking["pairs"]) == 6 and all(one["holm"] >= one["p"] for one in ranking["pairs"])
    for one in ranking["pairs"]:
        # The words follow the interval of the pair.
        decided = one["low"] > 0 or one["high"] < 0
        assert decided == ({one["first"], one["second"]} != {"twin", "other_twin"})
    assert ranking["cliques"] and ranking["friedman"]["p_value"] < 0.05


def test_methods_that_chance_alone_orders_are_one_clique():
    names = [f"m{place}" for place in range(5)]
    ranking = leaderboard_ranking.rank_methods(names, blocks_of(np.full(5, 0.5)))
    assert ranking["friedman"]["p_value"] > 0.05
    (together,) = ranking["cliques"]
    assert sorted(together) == names
    # A method against itself: the same ranks, and nothing is decided.
    same = [
        block._replace(utility=block.utility[[0, 0]], influence=block.influence[:, [0, 0]])
        for block in blocks_of(np.ones(2))
    ]
    ranking = leaderboard_ranking.rank_methods(["one", "again"], same)
    assert [one["rank"]["estimate"] for one in ranking["methods"]] == [1.5, 1.5]
    assert ranking["methods"][0]["against_next"] == "not decided" and ranking["pairs"][0]["p"] == 1


def test_intervals_of_differences_cover():
    rng, hits = np.random.default_rng(6), []
    for _ in range(300):
        query = rng.normal(size=(2, 40, 2)) / 10
        blocks = []
        for table in range(2):
            for seed in range(3):
                utility = query[table].mean(axis=0) + 0.01 * rng.normal(size=2)
                blocks.append(Block(str(table), "p", seed, utility, (query[table] - query[table].mean(axis=0)) / 40))
        (pair,) = leaderboard_ranking.compare(blocks)
        hits.append(pair.difference.low <= 0 <= pair.difference.high)
    assert 0.92 <= np.mean(hits) <= 1.0


def test_aiq_and_apgr_are_within_what_single_models_cost():
    single = jnp.array([1.0, 3.0]), jnp.array([0.4, 0.8])
    # Half of the queries to each, by chance: the line between the two.
    area, recovered = leaderboard_cells.frontier(jnp.array([1.0, 2.0, 3.0]), jnp.array([0.4, 0.6, 0.8]), *single)
    assert float(area) == pytest.approx(0.6) and float(recovered) == pytest.approx(0.5)
    # What costs more than the strong model is that model; what is better at half the way recovers more.
    _, dear = leaderboard_cells.frontier(jnp.array([1.0, 2.0, 9.0]), jnp.array([0.4, 0.8, 0.9]), *single)
    assert float(dear) == pytest.approx(0.75)
    # The cheapest is the best: no gap.
    _, none = leaderboard_cells.frontier(jnp.array([1.0]), jnp.array([0.8]), single[0], single[1][::-1])
    assert np.isnan(none)


def test_examples():
    for module in (leaderboard_ranking, leaderboard_figure):
        found = doctest.testmod(module)
        assert found.attempted and not found.failed


# The script


def table_of(n, *, seed):
    """The first coordinate says which of two pairs of models is right."""
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(n, 4)), jnp.float32)
    score = jnp.asarray(rng.random((n, 4)) < 0.5 + 0.3 * np.sign(x[:, :1]) * [1, 1, -1, -1], jnp.float32)
    cost = jnp.asarray(rng.uniform(0.5, 1.5, (n, 4)) * [1e-4, 2e-4, 4e-4, 1e-3], jnp.float32)
    return BenchmarkTable(x, score, cost, models=("a", "b", "c", "d"))


NAMES = ("best_single", "random", "cheapest", "carrot_convex_knn")


@pytest.fixture
def quick(monkeypatch):
    """Queries at hand, programs that compile fast, means of the log for nuisances; gives the names that are run."""

    def found(options):
        name, sha256 = ("mine.csv", "0" * 64) if options.table is not None else ("synthetic:linear", None)
        return [data.Source(name, sha256, lambda seed: table_of(200, seed=seed), table_of(60, seed=99), (1.0, 0.1))]

    def means(seed, log, split, config, *, fast):
        shape = (log.model.shape[0], len(log.models))
        score, cost = jnp.full(shape, log.score.mean()), jnp.full(shape, log.cost.mean())
        return Nuisances(jnp.full(shape[0], 1 / shape[1]), score, cost, split.fold)

    begun, whole = [], learners.Learners.run
    monkeypatch.setattr(learners, "compiler_options", lambda fast: data.compiler_options(True))
    monkeypatch.setattr(learners, "estimate_nuisances", means)
    monkeypatch.setattr(leaderboard, "sources", found)
    monkeypatch.setattr(
        learners.Learners, "run", lambda self, name, *rest: begun.append(name) or whole(self, name, *rest)
    )
    return begun


def options_of(folder, **more):
    small: dict[str, Any] = dict(methods=",".join(NAMES), logging_policy="uniform", seeds=2, lambdas="0,100")
    return leaderboard.Options(**(small | more), out=folder)


def test_a_run_resumes_cell_by_cell_and_tables_share_one_file(tmp_path, quick, capsys):
    options = options_of(tmp_path)
    leaderboard.main(replace(options, methods=",".join(NAMES[:3]), budget_minutes=0.0))
    assert quick == [] and "no log has cells of all 3 methods yet" in capsys.readouterr().out
    leaderboard.main(replace(options, methods=",".join(NAMES[:3])))
    assert len(quick) == 6
    leaderboard.main(options)
    assert quick[6:] == ["carrot_convex_knn"] * 2
    capsys.readouterr()
    leaderboard.main(replace(options, table=Path("folder/mine.csv"), seeds=1))
    assert len(quick) == 12
    printed = capsys.readouterr().out
    assert "carrot_convex_knn*" in printed and "decided" in printed and "3 blocks" in printed

    with open(tmp_path / "leaderboard.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == leaderboard.COLUMNS and len(rows) == 3 * len(NAMES)
    assert {row["method"] for row in rows if row["full_feedback"] == "True"} == {"carrot_convex_knn"}
    record = json.loads((tmp_path / "leaderboard_ranking.json").read_text())
    (ranking,) = record["results"]
    assert {(one["table"], one["seed"]) for one in ranking["blocks"]} == {
        ("synthetic:linear", 0),
        ("synthetic:linear", 1),
        ("mine.csv", 0),
    }
    for one in ranking["methods"]:
        # Tables count the same, whatever their seeds.
        mine = [row for row in rows if row["method"] == one["method"]]
        by_table = [
            [float(row["utility"]) for row in mine if row["table"] == table]
            for table in ("mine.csv", "synthetic:linear")
        ]
        assert one["utility"]["estimate"] == pytest.approx(np.mean([np.mean(values) for values in by_table]), abs=1e-6)
        assert one["seconds"] == pytest.approx(np.mean([float(row["seconds"]) for row in mine]), abs=1e-6)
    found = {one["method"]: one for one in ranking["methods"]}
    assert found["carrot_convex_knn"]["rank"]["estimate"] < found["cheapest"]["rank"]["estimate"]
    assert not found["best_single"]["baseline"] and found["carrot_convex_knn"]["baseline"]
    assert (tmp_path / "leaderboard.png").read_bytes().startswith(b"\x89PNG")

    # Two methods alone are ranked from the cells there are.
    leaderboard.main(replace(options, methods="cheapest,best_single"))
    assert len(quick) == 12
    (ranking,) = json.loads((tmp_path / "leaderboard_ranking.json").read_text())["results"]
    assert {one["method"] for one in ranking["methods"]} == {"cheapest", "best_single"} and len(ranking["pairs"]) == 1


def test_no_log_is_counted_twice():
    """poor_overlap is the nonlinear world, logged otherwise: under a policy of neither it is the same log."""
    tables = ["synthetic:nonlinear", "mine.csv", "synthetic:poor_overlap", "synthetic:linear"]
    found = leaderboard.settings_of(tables, ["confounded", "cost"])
    assert found == [(table, policy) for table in tables for policy in ("confounded", "cost")][:5] + [
        ("synthetic:linear", "confounded"),
        ("synthetic:linear", "cost"),
    ]


def test_kept_batches_give_the_error_of_a_difference(tmp_path, quick):
    leaderboard.main(options_of(tmp_path, seeds=1, methods="cheapest,best_single"))
    (group,) = cells.current(tmp_path / "leaderboard.json")
    first, second = group["cells"]
    for cell in group["cells"]:
        assert len(cell["influence"]) == query_batches.BATCHES
        assert sum(cell["influence"]) == pytest.approx(0, abs=1e-6)
        assert 0 <= cell["aiq"] <= 1 and cell["n_test"] == 60
    ((block,), _) = leaderboard_cells.blocks_of([group], ["cheapest", "best_single"])
    test = table_of(60, seed=99)
    # The cheapest model is the first, at every lambda.
    utility = np.asarray(test.score[:, 0] - 50 * test.cost[:, 0], np.float64)
    assert block.utility[0] == pytest.approx(utility.mean(), abs=1e-5)
    batch = np.arange(60) % query_batches.BATCHES
    apart = np.bincount(batch, weights=utility - utility.mean()) / 60
    np.testing.assert_allclose(block.influence[:, 0], apart, atol=1e-6)
    assert first["key"]["method"] != second["key"]["method"]


def test_a_method_that_gives_no_number_is_named(tmp_path, quick, monkeypatch):
    whole = learners.Learners.run

    def broken(self, name, *rest):
        outcomes, seconds = whole(self, name, *rest)
        return outcomes._replace(utility=outcomes.utility * np.nan), seconds

    monkeypatch.setattr(learners.Learners, "run", broken)
    with pytest.raises(ValueError, match="synthetic:linear, uniform, 0, cheapest: .* not finite .*--methods"):
        leaderboard.main(options_of(tmp_path, methods="cheapest,best_single"))


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--methods", "magic,best_single"], "--methods: unknown 'magic'"),
        (["--methods", "best_single"], "--methods: expected at least two to rank, got best_single"),
        (["--budget-minutes", "-1"], "--budget-minutes: expected a number of at least 0"),
        (["--logging-policy", "psychic"], "--logging-policy: unknown 'psychic'"),
    ],
)
def test_misuse_ends_in_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", ["leaderboard", *arguments, "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        command_line.script(leaderboard.main, leaderboard.Options, leaderboard.__doc__)
    text = str(stop.value.code)
    assert text.startswith("error: ") and message in text and "\n" not in text and os.listdir(tmp_path) == []


def test_every_method_is_ranked_once():
    assert set(leaderboard.EVERY) == set(learners.NAMED) - {"regress_and_compare_mlp"}
    assert {"carrot_mlp", "carrot_knn", "oracle"} <= leaderboard.FULL_FEEDBACK < {*learners.NAMED, "oracle"}


@pytest.mark.slow
def test_the_script_runs_and_resumes(tmp_path):
    command = [sys.executable, str(EXPERIMENTS / "leaderboard.py"), "--smoke", "--out", str(tmp_path)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    names = ["leaderboard.csv", "leaderboard.json", "leaderboard.png", "leaderboard_ranking.json"]
    assert sorted(os.listdir(tmp_path)) == names and all(name in done.stdout for name in leaderboard.SMALL)
    before = (tmp_path / "leaderboard.json").read_text()
    subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=True)
    assert (tmp_path / "leaderboard.json").read_text() == before
