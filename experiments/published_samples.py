"""Small files in the schemas in which RouterBench and SPROUT are published: for tests, and for --smoke.

Nothing of either benchmark is in them. Texts are words of three subjects, every model is good at some of them and
dear or cheap, so that a router has something to learn. Some prompts carry solved examples, some repeat, and
some belong to tasks that CARROT's protocol drops.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

SUBJECTS = {
    "mmlu-history": "war king treaty empire revolution parliament century colony crown battle",
    "grade-school-math": "sum ratio percent fraction apples price minutes total speed share",
    "mbpp": "python function list string tuple dictionary index sorted recursion integer",
}
"""Tasks of RouterBench, and the words of their texts."""
DROPPED = "chinese_zodiac"
SKILL = {"strong": (0.9, 0.85, 0.8), "words": (0.8, 0.3, 0.2), "numbers": (0.3, 0.8, 0.3), "weak": (0.4, 0.2, 0.6)}
"""Chance of a right answer in each subject."""
DOLLARS = {"strong": (10.0, 30.0), "words": (1.0, 2.0), "numbers": (0.6, 0.6), "weak": (0.06, 0.06)}
"""Per million tokens, read and written; of RouterBench's models, whose costs are published."""
ROUTERBENCH = {
    "gpt-4-1106-preview": "strong",
    "claude-instant-v1": "words",
    "mistralai/mixtral-8x7b-chat": "numbers",
    "mistralai/mistral-7b-chat": "weak",
}
SPROUT = {
    "openai-gpt-4o": "strong",
    "openai-gpt-4o-mini": "words",
    "wxai-mixtral-8x7b-instruct-v01": "numbers",
    "wxai-llama-3-2-1b-instruct": "weak",
}


class Queries(NamedTuple):
    """Texts [n], their subjects [n], and of each kind of model: right [n], tokens read and written [n]."""

    texts: list[str]
    subjects: list[str]
    right: dict[str, np.ndarray]
    read: np.ndarray
    written: dict[str, np.ndarray]


def queries(n: int, *, seed: int) -> Queries:
    """n queries; every tenth has solved examples before it, the last repeats the first."""
    rng = np.random.default_rng(seed)
    names = list(SUBJECTS)
    which = rng.integers(0, len(names), n)
    texts = []
    for row, subject in enumerate(which):
        words = SUBJECTS[names[subject]].split()
        question = f"Q: What of {' '.join(rng.choice(words, 4))}, case {row}?\nA:"
        solved = "".join(f"Q: What of {' '.join(rng.choice(words, 4))}?\nA: {word}\n\n" for word in words[:3])
        texts.append((solved if row % 10 == 0 else "") + question)
    texts[-1], which[-1] = texts[0], which[0]
    return Queries(
        texts,
        [names[subject] for subject in which],
        {kind: (rng.random(n) < np.array(skill)[which]).astype(float) for kind, skill in SKILL.items()},
        np.array([len(text.split()) + 10 for text in texts]),
        {kind: rng.integers(20, 200, n) for kind in SKILL},
    )


def write_routerbench(folder: Path, *, n: int = 300, seed: int = 0) -> Path:
    """Writes routerbench_0shot.parquet, in the columns of RouterBench's zero-shot file; its path."""
    made = queries(n, seed=seed)
    # A prompt is published as a list of one string, as Python prints it.
    columns: dict[str, Any] = {
        "sample_id": [f"{subject}.dev.{row}" for row, subject in enumerate(made.subjects)],
        "prompt": [f"[{text!r}]" for text in made.texts],
        "eval_name": [DROPPED if row % 15 == 7 else subject for row, subject in enumerate(made.subjects)],
    }
    columns |= {model: made.right[kind] for model, kind in ROUTERBENCH.items()}
    columns |= {f"{model}|model_response": ["an answer"] * n for model in ROUTERBENCH}
    for model, kind in ROUTERBENCH.items():
        read, written = DOLLARS[kind]
        columns[f"{model}|total_cost"] = (read * made.read + written * made.written[kind]) / 1e6
    columns["oracle_model_to_route_to"] = [
        next((model for model, kind in ROUTERBENCH.items() if made.right[kind][row]), "no_model_correct")
        for row in range(n)
    ]
    path = folder / "routerbench_0shot.parquet"
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def write_sprout(folder: Path, *, n: int = 300, seed: int = 0) -> Path:
    """Writes the files of SPROUT's three splits into the folder's folder "data", as on the hub; the folder's path."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    shares = {"train": 0.6, "validation": 0.2, "test": 0.2}
    for number, (split, share) in enumerate(shares.items()):
        made = queries(round(share * n), seed=seed * len(shares) + number)
        columns: dict[str, Any] = {
            "key": [f"{split}-{row}" for row in range(len(made.texts))],
            "dataset": made.subjects,
            "prompt": made.texts,
            "golden_answer": ["an answer"] * len(made.texts),
        }
        for model, kind in SPROUT.items():
            columns[model] = [
                {
                    "num_input_tokens": int(made.read[row]),
                    "num_output_tokens": int(made.written[kind][row]),
                    "response": "an answer",
                    "score": float(made.right[kind][row]),
                }
                for row in range(len(made.texts))
            ]
        pyarrow.parquet.write_table(pa.table(columns), folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder
