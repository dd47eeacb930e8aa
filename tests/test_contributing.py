"""The examples of CONTRIBUTING.md run as printed, and what they add can be used by its name."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jrouter
from jrouter import METHODS, Router, logging_policies, synthetic, write_log
from jrouter.counterfactual import WEIGHTS
from jrouter.encoders.load import ENCODERS
from jrouter.nuisances import propensity, ridge
from jrouter.nuisances.crossfit import OUTCOME_MODELS, PROPENSITY_MODELS

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"


def test_the_examples_run_and_what_they_name_is_found(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    for registry in (WEIGHTS, METHODS, ENCODERS, synthetic.REGIMES):  # what the examples register goes again
        for name in ("clipped", "cautious", "letters", "steep"):
            monkeypatch.setitem(registry, name, None)
            monkeypatch.delitem(registry, name)
    table = synthetic.draw_queries(synthetic.make_world("linear", dim=5, n_models=3), jax.random.key(0), 300)
    log, _, _ = logging_policies.simulate_log(jax.random.key(1), table, logging_policies.uniform(table))
    write_log(log, tmp_path / "gateway.parquet")
    monkeypatch.chdir(tmp_path)
    # For speed: fits choose among penalties in folds of their own else.
    monkeypatch.setitem(OUTCOME_MODELS, "pooled", lambda: ridge.pooled(((3.0, 3.0),)))
    monkeypatch.setitem(PROPENSITY_MODELS, "logistic", lambda: propensity.logistic((0.1,)))
    scope: dict = {}
    for block in blocks:
        exec(compile(block, "CONTRIBUTING.md", "exec"), scope)
    loss = scope["squared_regret"](jnp.zeros(2), (jnp.array([1.0, 0.0]), jnp.zeros(2)), 3.0)
    np.testing.assert_allclose(loss, 0.5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(scope["swept"].params))
    assert not np.allclose(scope["clipped_scores"].score, scope["scores"].score)
    router: Router = scope["router"]
    assert router.route(np.zeros(5, np.float32), 0.0) in log.models and router.config == {"errors": 2.0}
    router.save(tmp_path / "router")
    assert Router.load(tmp_path / "router").version == router.version
    x = scope["embeddings"]
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1.0, rtol=1e-5)
    # By its own count: 'S' once, a space four times.
    counts = np.log1p([b"Sort a list in C.".count(bytes([value])) for value in range(128)])
    np.testing.assert_allclose(x[0], counts / np.linalg.norm(counts), atol=1e-6)
    assert scope["table"].models == ("small", "large") and scope["table"].score.shape == (40, 2)
    assert jrouter.load_encoder("letters", dim=64).dim == 64
    # A steeper world: the best model is further ahead of the cheapest than in the regime it is made from.
    quality = [synthetic.make_world(name, dim=8, n_models=3).quality for name in ("steep", "nonlinear")]
    assert np.ptp(quality[0]) > np.ptp(quality[1])
    queries = scope["queries"]
    assert queries.score.shape == queries.mean_score.shape == (100, 3)
