"""Studies: cells are kept and resumed, intervals cover, variants are what their names say, scripts run."""

import csv
import doctest
import json
import math
import os
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrouter.methods.rm_auto import RmAutoConfig
from jrouter.nuisances import propensity, ridge
from jrouter.nuisances.crossfit import OUTCOME_MODELS, PROPENSITY_MODELS
from jrouter.splits import split_log
from jrouter.types import LoggedData, Nuisances, take_rows

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

import ablate_embedding  # noqa: E402 (scripts are no package)
import ablate_nuisances  # noqa: E402
import cells  # noqa: E402
import command_line  # noqa: E402
import data  # noqa: E402
import learners  # noqa: E402
import learning_curve  # noqa: E402
import one_log  # noqa: E402
import stress_logging  # noqa: E402
import tune_auto  # noqa: E402

SMALL = ["--n", "60", "--dim", "6", "--models", "3", "--seeds", "1", "--lambdas", "0,100", "--regime", "linear"]


@dataclass(frozen=True)
class Options:
    """What `write_json` needs."""

    out: Path
    n: int = 5


def study(path, *, n=5, digests=None, fresh=False):
    options = Options(path.parent, n)
    return cells.Study(path, options=options, configuration={"n": n}, digests=digests or {"a": None}, fresh=fresh)


def key(seed, table="a"):
    return {"table": table, "seed": seed, "method": "m"}


# Cells


def test_a_later_run_does_only_what_is_missing(tmp_path):
    path = tmp_path / "study.json"
    keys = [key(seed) for seed in range(4)]
    first = study(path)
    for asked in first.missing(keys):
        first.keep(asked, {"value": jnp.float32(asked["seed"])})
        if asked["seed"] == 1:
            break  # killed
    second = study(path)
    left = list(second.missing(keys))
    assert [asked["seed"] for asked in left] == [2, 3]
    kept = second.cell({"method": "m", "seed": 1, "table": "a"})
    assert kept is not None and kept["value"] == 1.0 and second.cell(key(2)) is None
    assert [asked["seed"] for asked in study(path, fresh=True).missing(keys)] == [0, 1, 2, 3]


def test_the_file_is_whole_after_every_cell_even_if_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "study.json"
    first = study(path)
    first.keep(key(0), {"value": 1.0})
    before = path.read_text()
    with pytest.raises(ValueError):
        first.keep(key(1), {"value": math.nan})
    assert path.read_text() == before and first.cell(key(1)) is None

    def dies(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        first.keep(key(2), {"value": 2.0})
    assert path.read_text() == before and os.listdir(tmp_path) == ["study.json"]
    assert [cell["key"] for cell in json.loads(before)["results"][0]["cells"]] == [{"seed": 0, "method": "m"}]


def test_another_configuration_is_kept_in_the_file_and_not_mixed(tmp_path):
    path = tmp_path / "study.json"
    study(path).keep(key(0), {"value": 5.0})
    other = study(path, n=6)
    assert other.cell(key(0)) is None
    other.keep(key(0), {"value": 6.0})
    (shown,) = cells.current(path)
    assert shown["cells"][0]["value"] == 6.0 and shown["configuration"] == {"n": 6}
    again = study(path)
    assert (again.cell(key(0)) or {})["value"] == 5.0
    again.save()
    assert [group["cells"][0]["value"] for group in json.loads(path.read_text())["results"]] == [5.0, 6.0]


def test_cells_of_a_table_are_those_of_that_very_file(tmp_path):
    path = tmp_path / "study.json"
    study(path, digests={"a": "0" * 64}).keep(key(0), {"value": 1.0})
    assert study(path, digests={"a": "1" * 64}).cell(key(0)) is None
    # Another table of the same configuration stays in the study.
    both = study(path, digests={"b": None})
    both.keep(key(0, "b"), {"value": 2.0})
    assert [group["table"] for group in cells.current(path)] == ["b", "a"]


def test_cells_made_elsewhere_are_joined_and_own_ones_stay(tmp_path):
    elsewhere = study(tmp_path / "elsewhere.json", digests={"a": None, "b": None})
    for asked in (key(0), key(1), key(1, "b")):
        elsewhere.keep(asked, {"value": 2.0})
    own = study(tmp_path / "study.json")
    own.keep(key(0), {"value": 1.0})

    def joined(path, **more):
        options = Options(tmp_path)
        more = {"configuration": {"n": 5}, "digests": {"a": None}} | more
        return cells.Study(tmp_path / "study.json", options=options, join=(tmp_path / path,), **more)

    both = joined("elsewhere.json")
    asked = (key(0), key(1), key(1, "b"))
    assert [(both.cell(one) or {})["value"] for one in asked] == [1.0, 2.0, 2.0]
    both.save()
    assert [len(group["cells"]) for group in cells.current(tmp_path / "study.json")] == [2, 1]
    with pytest.raises(ValueError, match="missing.json is missing"):
        joined("missing.json")
    with pytest.raises(ValueError, match="holds no cells computed with the options of this run"):
        joined("elsewhere.json", configuration={"n": 6})
    with pytest.raises(ValueError, match="holds cells of another file named b"):
        joined("elsewhere.json", digests={"b": "0" * 64})


def test_the_budget_stops_between_cells(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(cells.time, "monotonic", lambda: now[0])
    first, done = study(tmp_path / "study.json"), []
    for asked in first.missing([key(seed) for seed in range(5)], budget_minutes=1.0):
        now[0] += 25.0
        first.keep(asked, {"value": 0.0})
        done.append(asked["seed"])
    assert done == [0, 1, 2]
    assert list(first.missing([key(4)], budget_minutes=0.0)) == []


def test_cells_of_other_code_are_counted(tmp_path):
    first = study(tmp_path / "study.json")
    first.keep(key(0), {"value": 1.0})
    assert first.stale() == 0
    first.code = "another"
    assert first.stale() == 1


def test_what_is_no_study_is_refused_in_words(tmp_path):
    for text in ("{", "[]", '{"schema": 1, "results": [{"table": "a"}]}', '{"schema": 0, "results": []}'):
        (tmp_path / "study.json").write_text(text)
        with pytest.raises(ValueError, match="holds no cells of a study"):
            study(tmp_path / "study.json")


# Intervals


def test_intervals_over_seeds_and_queries_cover():
    """Differences d_sq = mean + seed_s + query_q + both_sq: the intervals cover 95%, or a little more."""
    rng, n_queries, truth, covered = np.random.default_rng(0), 200, 0.3, []
    for n_seeds in (2, 3, 8):
        hits = []
        for _ in range(2000):
            shared = rng.normal(size=n_queries)
            values = truth + 0.08 * rng.normal(size=(n_seeds, 1)) + shared + rng.normal(size=(n_seeds, n_queries))
            errors = values.std(axis=1) / math.sqrt(n_queries)
            found = cells.over_seeds(values.mean(axis=1).tolist(), errors.tolist())
            hits.append(found.low <= truth <= found.high)
        covered.append(np.mean(hits))
    error = math.sqrt(0.05 * 0.95 / 2000)
    assert all(0.95 - 4 * error < share < 0.995 for share in covered), covered


def test_one_seed_speaks_for_queries_alone_and_tables_average():
    alone: Any = cells.over_seeds([1.0], [0.1])
    assert alone == (1.0, pytest.approx(0.1), math.inf)
    assert alone.half_width == pytest.approx(0.1959964, rel=1e-6)
    same: Any = cells.over_tables([cells.Estimate(1.0, 0.2, 3.0)] * 4)
    # Of four independent estimates: half the error, four times the degrees of freedom.
    assert same == (1.0, pytest.approx(0.1), pytest.approx(12.0))
    assert cells.over_seeds([0.0, 0.0], [0.0, 0.0]).half_width == 0.0


def test_paired_differences_are_those_of_numpy():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 3, 50)).astype(np.float32)
    found = learners.paired(ours, theirs, None)
    difference = (ours - theirs).astype(np.float64)
    np.testing.assert_allclose(found["estimate"], difference.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found["error"], difference.std(axis=1) / math.sqrt(50), rtol=1e-5)
    assert found["mean_error"] == pytest.approx(difference.mean(axis=0).std() / math.sqrt(50), rel=1e-4)
    # Every query twice, as one group: the error stays that of 50.
    twice = learners.paired(np.repeat(ours, 2, 1), np.repeat(theirs, 2, 1), jnp.repeat(jnp.arange(50), 2))
    np.testing.assert_allclose(twice["error"], found["error"], rtol=1e-5)


# Logs and variants


@cache
def whole_source():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "TEST_ROWS", 40)
        (found,) = data.sources(data.DataOptions(regime="linear", n=400, dim=6, models=4))
    return found


def small_source(n):
    """n logged and 40 test queries of a linear world."""
    found = whole_source()
    return found._replace(draw=lambda seed: take_rows(found.draw(seed), np.arange(n)))


@pytest.fixture
def source():
    return small_source(400)


@pytest.fixture
def one(source):
    return one_log.draw_log(source.draw(0), source.test, data.logging_rule("confounded", 1.0, 0.1), 0)


def test_room_changes_sizes_and_not_what_they_hold(one):
    exact = split_log([one.log], seeds=[0])[0]
    assert one.split.model_size >= exact.model_size and one.split.model_size % (400 // 16) == 0
    np.testing.assert_array_equal(one.split.fold, exact.fold)
    n = int(exact.train_weight.sum())
    assert one.split.train.shape[0] % 16 == 0 and float(one.split.train_weight.sum()) == n
    np.testing.assert_array_equal(one.split.train[:n], exact.train[:n])


def test_known_propensities_keep_relative_likelihoods(one):
    chosen = np.take_along_axis(np.asarray(one.true_propensity, float), np.asarray(one.log.model)[:, None], 1)[:, 0]
    np.testing.assert_allclose(ablate_nuisances.known(one), chosen, rtol=1e-6)
    powers = np.asarray(one.true_propensity, float) ** 2
    expected = chosen**2 / powers.sum(axis=1)
    np.testing.assert_allclose(ablate_nuisances.known(one, power=2.0), expected, rtol=1e-5)
    np.testing.assert_allclose(ablate_nuisances.known(one, power=0.0), 0.25, rtol=1e-6)
    wrong = np.asarray(ablate_nuisances.shuffled(one))
    after = (np.asarray(one.log.model) + 1) % 4
    np.testing.assert_allclose(wrong, np.asarray(one.true_propensity)[np.arange(400), after], rtol=1e-6)
    # The logged model was likelier than a wrong one: a shuffle that is none would fail here.
    assert np.log(chosen).mean() > np.log(wrong).mean() + 0.1


def test_noise_has_the_size_that_it_says():
    n = 4000
    model = jnp.arange(n) % 2
    unit = jax.random.normal(jax.random.key(0), (n,))
    # The second model's costs are ten times as dear and spread ten times as wide.
    log = LoggedData(
        jnp.zeros((n, 1)), model, 0.5 + 0.1 * unit, jnp.array([1.0, 10.0])[model] * (5 + unit), models=("a", "b")
    )
    base = Nuisances(jnp.full(n, 0.5), jnp.zeros((n, 2)), jnp.zeros((n, 2)), jnp.zeros(n, jnp.int32))
    noisy = ablate_nuisances.noisy_outcomes(jax.random.key(1), base, log, 0.3)
    tolerance = 5 / math.sqrt(2 * n / 2)
    np.testing.assert_allclose(noisy.score.std(axis=0), [0.03, 0.03], rtol=tolerance)
    np.testing.assert_allclose(noisy.cost.std(axis=0), [0.3, 3.0], rtol=tolerance)
    trained = ablate_nuisances.noisy_log(jax.random.key(1), log, 2.0)
    added = np.asarray(trained.cost - log.cost)
    np.testing.assert_allclose([added[::2].std(), added[1::2].std()], [2.0, 20.0], rtol=tolerance)
    odds = np.asarray(ablate_nuisances.noisy_propensities(jax.random.key(1), base, log, 0.5).propensity)
    assert np.log(odds / (1 - odds)).std() == pytest.approx(0.5, rel=tolerance)


def test_components_are_fitted_on_logged_queries_and_apply_to_both():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(2, 5))
    logged, test = (rng.normal(size=(n, 2)) @ mixing + 3.0 for n in (200, 30))
    given = ablate_embedding.Embedded(jnp.asarray(logged, jnp.float32), jnp.asarray(test, jnp.float32))
    two, one = (ablate_embedding.components(given, size) for size in (2, 1))
    # Rank 2: two components keep all distances, between logged and test queries as well.
    for a, b, c, d in ((logged, logged, two.logged, two.logged), (logged, test, two.logged, two.test)):
        np.testing.assert_allclose(
            np.linalg.norm(a[:, None] - b[None], axis=2),
            np.linalg.norm(np.asarray(c)[:, None] - np.asarray(d)[None], axis=2),
            atol=1e-4,
        )
    np.testing.assert_allclose(one.logged[:, 0], two.logged[:, 0], atol=1e-5)
    shifted = ablate_embedding.components(given._replace(test=given.test + 100.0), 2)
    np.testing.assert_array_equal(shifted.logged, two.logged)


def test_noise_in_embeddings_is_in_their_standard_deviations():
    x = 7.0 * jax.random.normal(jax.random.key(0), (2000, 4))
    noisy = ablate_embedding.noisy(ablate_embedding.Embedded(x, x[:1000]), 0.5, jax.random.key(1))
    assert float((noisy.logged - x).std()) == pytest.approx(3.5, rel=5 / math.sqrt(2 * 8000))
    assert float((noisy.test - x[:1000]).std()) == pytest.approx(3.5, rel=5 / math.sqrt(2 * 4000))
    assert abs(float(((noisy.logged - x)[:1000] * (noisy.test - x[:1000])).mean())) < 5 * 3.5**2 / math.sqrt(4000)


def test_mixes_have_the_shares_that_they_say(source):
    logged, test = source.draw(0), source.draw(1)
    kinds = stress_logging.kinds_by_projection(logged)
    side = kinds(logged)
    assert side.sum() == 200 and 150 < kinds(test).sum() < 250
    size = stress_logging.largest(side, stress_logging.LOG_SHARES)
    for share in stress_logging.LOG_SHARES:
        rows = stress_logging.mixed(side, share, size, 3)
        assert len(set(rows.tolist())) == size == 200
        assert side[rows].mean() == pytest.approx(share, abs=1 / size)
    x = np.asarray(logged.x)
    # Along the widest direction: the two halves' means differ there by more than along any coordinate.
    assert np.linalg.norm(x[side].mean(axis=0) - x[~side].mean(axis=0)) > 1.0


def write_table(path, n=60, tasks=True):
    rng = np.random.default_rng(0)
    encoders = [f"embedding:{name}" for name in ("one", "two")]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query", *["task"] * tasks, "score:a", "cost:a", "score:b", "cost:b", *encoders])
        for row in range(n):
            task = [["sums", "poems", "codes"][row % 3]] * tasks
            x = [json.dumps(np.round(rng.normal(size=4) + row % 3, 3).tolist()) for _ in encoders]
            writer.writerow([f"q{row}", *task, int(row % 3 == 0), 0.1, int(row % 2), 0.2, *x])


def test_kinds_are_tasks_where_a_table_has_them(tmp_path):
    write_table(tmp_path / "table.csv")
    (source,) = data.sources(data.DataOptions(table=tmp_path / "table.csv", embedding="one"))
    kinds = stress_logging.kinds_by_task(tmp_path / "table.csv", "one")
    assert kinds is not None
    sides = np.concatenate([kinds(source.draw(0)), kinds(source.test)])
    # Three tasks of 20: one on one side, two on the other.
    assert sorted(Counter(sides.tolist()).values()) == [20, 40]
    write_table(tmp_path / "plain.csv", tasks=False)
    assert stress_logging.kinds_by_task(tmp_path / "plain.csv", "one") is None


# Slopes


def test_slopes_are_those_of_a_power_law_with_their_error():
    sizes = [500, 2000, 8000, 32000]
    exact = [[3.0 * n**-0.5, 3.0 * n**-0.5] for n in sizes]
    slope, error, intercept = learning_curve.slope_of(sizes, exact) or (0, 0, 0)
    assert slope == pytest.approx(-0.5) and error == pytest.approx(0, abs=1e-12)
    assert intercept == pytest.approx(math.log(3.0))
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        noisy = [(3.0 * n**-0.5 * np.exp(0.1 * rng.normal(size=3 if n < 20_000 else 1))).tolist() for n in sizes]
        found.append(learning_curve.slope_of(sizes, noisy))
    slopes, errors, _ = np.array(found).T
    assert slopes.mean() == pytest.approx(-0.5, abs=4 * slopes.std() / 20)
    assert np.sqrt((errors**2).mean()) == pytest.approx(slopes.std(), rel=4 / math.sqrt(2 * 400))
    assert learning_curve.slope_of([500], [[0.1]]) is None
    assert learning_curve.slope_of([500, 600], [[0.1], [0.0]]) is None
    assert (learning_curve.slope_of([500, 600], [[0.1], [0.05]]) or (0, 0))[1] is None


def test_rows_needed_wants_it_to_last():
    sizes = [1, 2, 4, 8]
    assert learning_curve.rows_needed(sizes, [0.495, 0.2, 0.495, 0.5]) == 4
    assert learning_curve.rows_needed(sizes, [0.5, 0.6, 0.7, 0.5]) == 1
    assert learning_curve.rows_needed(sizes, [0.1, 0.2, 0.3, 0.5]) == 8


# Scripts


@pytest.mark.parametrize(
    "module", [cells, ablate_embedding, learning_curve, stress_logging, tune_auto], ids=lambda m: m.__name__
)
def test_examples_in_docstrings_are_true(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


CHEAP = "cheapest,best_single"


def options_of(module, folder, **more) -> Any:
    small = dict(n=400, dim=6, models=4, seeds=1, lambdas="0,100", logging_policy="uniform", out=folder)
    return module.Options(**(small | more))


@pytest.fixture
def quick(monkeypatch):
    """Queries at hand, programs that compile fast, and means of the log for nuisances."""

    def means(seed, log, split, config, *, fast):
        shape = (log.model.shape[0], len(log.models))
        score, cost = jnp.full(shape, log.score.mean()), jnp.full(shape, log.cost.mean())
        return Nuisances(jnp.full(shape[0], 1 / shape[1]), score, cost, split.fold)

    monkeypatch.setattr(learners, "compiler_options", lambda fast: data.compiler_options(True))
    for module in (learners, ablate_nuisances):
        monkeypatch.setattr(module, "estimate_nuisances", means)
    for module in (ablate_nuisances, ablate_embedding, stress_logging, learning_curve):
        monkeypatch.setattr(module, "sources", lambda options: [small_source(options.n)])


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "module,variants,reference",
    [
        (ablate_nuisances, ["base", "propensity known^2", "outcome zero"], "base"),
        (ablate_embedding, ["as given", "noise 4"], "best_single"),
        (
            stress_logging,
            ["as asked", "5% of the best models' rows", "traffic: 80% in the log, 20% after"],
            "best_single",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_study_runs_resumes_and_agrees_with_itself(module, variants, reference, tmp_path, monkeypatch, quick, capsys):
    if module is ablate_nuisances:
        chosen = {name: module.VARIANTS[name] for name in variants}
        monkeypatch.setattr(module, "VARIANTS", chosen)
    elif module is stress_logging:
        monkeypatch.setattr(module, "LOGGINGS", {variants[1]: module.LOGGINGS[variants[1]]})
        monkeypatch.setattr(module, "TRAFFIC", {variants[2]: module.TRAFFIC[variants[2]]})
    else:
        monkeypatch.setattr(module, "COMPONENTS", ())
        monkeypatch.setattr(module, "NOISES", (4.0,))
    options = options_of(module, tmp_path, methods="best_single")
    module.main(replace(options, budget_minutes=0.0))
    assert "0 of" in capsys.readouterr().out
    module.main(options)
    kept = json.loads((tmp_path / f"{options.name}.json").read_text())["results"][0]["cells"]
    assert [cell["key"]["variant"] for cell in kept] == variants

    begun = []
    whole = learners.Learners.run
    monkeypatch.setattr(learners.Learners, "run", lambda self, *rest: begun.append(rest[0]) or whole(self, *rest))
    module.main(replace(options, methods=CHEAP))
    printed = capsys.readouterr().out
    assert all(variant in printed for variant in variants)
    path = tmp_path / f"{options.name}.json"
    (group,) = cells.current(path)
    assert len(group["cells"]) == 2 * len(variants) and "/" not in group["table"]
    assert begun.count("cheapest") == len(variants)
    rows = rows_of(path.with_suffix(".csv"))
    assert len(rows) == 2 * 2 * len(variants)
    for row in rows:
        worth = float(row["score"]) - float(row["lambda"]) * float(row["cost"])
        assert float(row["utility"]) == pytest.approx(worth, abs=2e-5)
    for cell in group["cells"]:
        other = {"variant": reference} if reference == "base" else {"method": reference}
        if cell["key"] == cell["key"] | other:
            assert reference not in cell["differences"]
            continue
        (theirs,) = cells.select(group["cells"], **(cell["key"] | other))
        np.testing.assert_allclose(
            cell["differences"][reference]["estimate"], np.subtract(cell["utility"], theirs["utility"]), atol=2e-6
        )
    picture = path.with_suffix(".png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n") and len(picture) > 5000
    assert sorted(os.listdir(tmp_path)) == sorted(f"{options.name}.{kind}" for kind in ("csv", "json", "png"))
    begun.clear()
    module.main(replace(options, methods=CHEAP))
    assert begun == []


def test_the_learning_curve_has_fewer_seeds_at_large_sizes(tmp_path, monkeypatch, quick, capsys):
    monkeypatch.setattr(learning_curve, "ONE_SEED_ABOVE", 300)
    options = options_of(learning_curve, tmp_path, methods="best_single,oracle", sizes="200,400", seeds=2)
    learning_curve.main(options)
    (group,) = cells.current(tmp_path / "learning_curve.json")
    seeds = Counter((cell["key"]["n"], cell["key"]["method"]) for cell in group["cells"])
    assert seeds == {
        (200, "best_single"): 2,
        (200, "oracle"): 2,
        (400, "best_single"): 1,
        (400, "oracle"): 1,
    }
    assert {cell["n_train"] for cell in cells.select(group["cells"], n=400)} == {400}
    assert len({tuple(cell["lambdas"]) for cell in group["cells"]}) == 1
    assert "How much log does a team need?" in capsys.readouterr().out
    assert (tmp_path / "learning_curve.png").stat().st_size > 5000


def test_the_choice_is_replayed_from_what_was_kept(tmp_path, capsys):
    candidates = ("logging_policy", "best_single", "pooled")
    options = tune_auto.Options(
        n=300, dim=4, models=3, seeds=2, lambdas="0,100", regime="linear", smoke=False, out=tmp_path
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune_auto, "CANDIDATES", candidates)
        patch.setattr(tune_auto, "RmAutoConfig", lambda names=candidates[:2]: RmAutoConfig(names))
        patch.setattr(tune_auto, "TEST_ROWS", 500)
        patch.setattr(learners, "compiler_options", lambda fast: data.compiler_options(True))
        # No choice among penalties: less to compile. What is compiled so is not for other tests.
        patch.setattr(one_log, "_nuisance_program", cache(one_log._nuisance_program.__wrapped__))
        patch.setitem(OUTCOME_MODELS, "pooled", lambda: ridge.pooled(((3.0, 3.0),)))
        patch.setitem(PROPENSITY_MODELS, "logistic", lambda: propensity.logistic((0.1,)))
        tune_auto.main(options)
        printed = capsys.readouterr().out
        tune_auto.main(options)
        again = capsys.readouterr().out
    assert (
        printed == again
        and "with pooled" in printed
        and "without best_single" in printed
        and "largest of 2 logs" in printed
    )
    (group,) = cells.current(tmp_path / "tune_auto.json")
    assert [cell["key"]["seed"] for cell in group["cells"]] == [0, 1]
    for place in range(len(tune_auto.STRENGTHS)):
        # What beats everything by however little is taken without support; the best is never lost to.
        for cell in group["cells"]:
            value, error = cell["value"][place], np.asarray(cell["error"][place])
            assert (np.diag(error) == 0).all() and (error[np.triu_indices(3, 1)] > 0).all()
            assert tune_auto.choice(value, error, range(3), support=0.0) == int(np.argmax(value))
        loss = tune_auto.losses(group["cells"], place, candidates, support=1.0)
        assert (loss >= 0).all()
        alone = tune_auto.losses(group["cells"], place, candidates[:1], support=1.0)
        kept = [cell["truth"][place] for cell in group["cells"]]
        np.testing.assert_allclose(alone, [max(truth) - truth[0] for truth in kept])
    # Direct and logged means do not depend on the evaluator, the mean of the shrunken scores does.
    truth = np.asarray(group["cells"][0]["truth"])
    assert np.ptp(truth[:, 0]) == 0 and np.ptp(truth[:, 2]) == 0


@pytest.mark.parametrize(
    "script,arguments,message",
    [
        ("tune_auto", ["--regime", "graded", "--methods", "best_single"], "--regime: unknown 'graded'"),
        ("ablate_nuisances", ["--methods", "magic"], "--methods: unknown 'magic'"),
        ("stress_logging", ["--budget-minutes", "-1"], "--budget-minutes: expected a number of at least 0"),
        ("learning_curve", ["--sizes", "100,50"], "--sizes: expected ascending whole numbers of at least 50"),
        ("ablate_embedding", ["--table", "missing.parquet", "--methods", "best_single"], "missing.parquet"),
    ],
)
def test_misuse_ends_in_one_line(script, arguments, message, tmp_path, monkeypatch):
    module = {m.__name__: m for m in (ablate_nuisances, stress_logging, learning_curve, ablate_embedding, tune_auto)}[
        script
    ]
    monkeypatch.setattr(sys, "argv", [script, *SMALL, "--out", str(tmp_path), *arguments])
    methods = [] if "--methods" in arguments else ["--methods", "best_single"]
    monkeypatch.setattr(sys, "argv", sys.argv + methods)
    with pytest.raises(SystemExit) as stop:
        command_line.script(module.main, module.Options, module.__doc__)
    text = stop.value.code
    assert isinstance(text, str) and text.startswith("error: ") and "\n" not in text and message in text
    assert os.listdir(tmp_path) == []


def test_another_encoder_of_a_table_is_a_variant(tmp_path):
    write_table(tmp_path / "table.csv")
    assert ablate_embedding.encoders(tmp_path / "table.csv") == ["embedding:one", "embedding:two"]
    options = ablate_embedding.Options(table=tmp_path / "table.csv", embedding="one")
    (source,) = data.sources(options)
    names, others = ablate_embedding.variants_of(options, source)
    assert names[:2] == ["as given", "embedding:two"] and list(others) == ["embedding:two"]
    # The same queries on the same side, seen by another encoder.
    np.testing.assert_array_equal(others["embedding:two"].test.score, source.test.score)
    assert np.abs(np.asarray(others["embedding:two"].test.x) - np.asarray(source.test.x)).max() > 0.1
