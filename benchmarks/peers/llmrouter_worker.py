"""LLMRouter: its kNN and MLP routers, read from the files that it takes: one row per query and model, in JSON lines.

It expects every model's answer to every query; a log has one. Propensities have no place in it. Embeddings are
handed over as its `.pt` file, so no text is encoded; nothing is called over the network.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Else it asks GitHub for a table of prices while it is imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import numpy as np
import torch
import yaml
from llmrouter.models.knnrouter.router import KNNRouter  # pyright: ignore[reportMissingImports]
from llmrouter.models.mlprouter.router import MLPRouter  # pyright: ignore[reportMissingImports]
from llmrouter.models.mlprouter.trainer import MLPTrainer  # pyright: ignore[reportMissingImports]
from protocol import SEED, Learner, Log, work

KNN = {"n_neighbors": 5}
MLP = {
    "hidden_layer_sizes": [128, 64],
    "activation": "relu",
    "lr": 1e-3,
    "epochs": 100,
    "batch_size": 32,
    "alpha": 1e-4,
}


def configuration(log: Log, folder: str, settings: dict[str, Any]) -> str:
    """Writes the log as its files, and the YAML that names them; returns its path."""
    place = Path(folder)
    rows = [
        {"query": f"query {row}", "model_name": name, "performance": score, "embedding_id": row, "task_name": "log"}
        for row, (name, score) in enumerate(zip(log.names[log.model].tolist(), log.score.tolist(), strict=True))
    ]
    (place / "routing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    torch.save(torch.from_numpy(log.x), place / "embeddings.pt")
    paths = {"routing_data_train": "routing.jsonl", "query_embedding_data": "embeddings.pt"}
    models = {f"{kind}_model_path": str(place / f"{kind}.pkl") for kind in ("ini", "save", "load")}
    said = {
        "data_path": {key: str(place / name) for key, name in paths.items()},
        "model_path": models,
        "metric": {"weights": {"performance": 1}},
        "hparam": settings,
    }
    (place / "router.yaml").write_text(yaml.safe_dump(said))
    return str(place / "router.yaml")


def knn(log: Log) -> Callable[[np.ndarray], np.ndarray]:
    """The model that most of the nearest queries are labelled with."""
    with tempfile.TemporaryDirectory() as folder:
        router = KNNRouter(configuration(log, folder, KNN))
    router.knn_model.fit(router.query_embedding_list, router.model_name_list)
    place = {name: number for number, name in enumerate(log.names.tolist())}
    return lambda x: np.array([place[name] for name in router.knn_model.predict(x)])


def mlp(log: Log) -> Callable[[np.ndarray], np.ndarray]:
    """A classifier of the labels, trained by its own trainer."""
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as folder:
        router = MLPRouter(configuration(log, folder, MLP))
        trainer = MLPTrainer(router, device="cpu")
        trainer.train()
    place = {name: number for number, name in enumerate(log.names.tolist())}
    by_class = np.array([place[router.idx_to_model[number]] for number in range(router.num_classes)])
    return lambda x: by_class[trainer.model.predict(torch.from_numpy(x)).numpy()]


LEARNERS = {
    "knn": Learner(knn, "KNNRouter, its repository's 5 neighbours"),
    "mlp": Learner(mlp, "MLPRouter, its repository's settings: 128 and 64 units, 100 epochs"),
}

if __name__ == "__main__":
    work(LEARNERS, ("llmrouter-lib", "numpy", "scikit-learn", "torch"))
