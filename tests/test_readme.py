"""The README's Python runs as printed, on a log like a user's."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jrouter import logging_policies, synthetic, write_log
from jrouter.nuisances import propensity, ridge
from jrouter.nuisances.crossfit import OUTCOME_MODELS, PROPENSITY_MODELS

README = Path(__file__).parents[1] / "README.md"


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 3
    world = synthetic.make_world("linear", dim=6, n_models=3)
    table = synthetic.draw_queries(world, jax.random.key(0), 250)
    log, _, _ = logging_policies.simulate_log(jax.random.key(1), table, logging_policies.uniform(table))
    write_log(log, tmp_path / "gateway.parquet")
    # With texts instead of embeddings, as a gateway has them.
    logged = pq.read_table(tmp_path / "gateway.parquet").drop_columns("embedding")
    words = [" ".join(np.array(["sum", "prove", "greet"])[np.asarray(row[:3]) > 0]) for row in log.x]
    queries = [f"{word} number {place}" for place, word in enumerate(words)]
    pq.write_table(logged.append_column("query", pa.array(queries)), tmp_path / "gateway.parquet")
    monkeypatch.chdir(tmp_path)
    # For speed: the fits are of width 256 else, and choose among penalties in folds of their own.
    monkeypatch.setattr("jrouter.encoders.load.HASHING_DIM", 12)
    monkeypatch.setitem(OUTCOME_MODELS, "pooled", lambda: ridge.pooled(((3.0, 3.0),)))
    monkeypatch.setitem(PROPENSITY_MODELS, "logistic", lambda: propensity.logistic((0.1,)))
    scope: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    explanation, answers = capsys.readouterr().out.split("chosen: ")
    assert "logging_policy" in explanation
    # What was chosen, what it is worth at each lambda, then one model for one query.
    assert "gain over logging" in answers
    assert any(line in log.models for line in answers.splitlines())
    assert scope["swept"].loss.shape == (110,) and (tmp_path / "my_sweep" / "group_0").is_dir()
    # An error of 0 is right where both choose the same model for every query.
    assert bool(jnp.isfinite(scope["gain"]).all()) and bool((scope["standard_error"] >= 0).all())
    assert bool((scope["standard_error"] > 0).any())
