"""The packages: how each is installed, how much disk that takes, and which learners its worker has."""

import sys
from typing import NamedTuple


class Package(NamedTuple):
    """One contestant.

    Attributes:
      learners: names in the worker's LEARNERS.
      installs: arguments of `pip install`, one call after the other; none for what runs where this script does.
      gigabytes: of disk, at most, while it is installed.
    """

    learners: tuple[str, ...]
    installs: tuple[tuple[str, ...], ...] = ()
    gigabytes: float = 0.0


TORCH = "torch==2.13.0+cpu" if sys.platform == "linux" else "torch==2.13.0"
"""Never the build with CUDA: where pip finds no CPU wheel, it fails."""

PACKAGES = {
    "jrouter": Package(("rm_auto", "regress_and_compare_pooled")),
    "vowpalwabbit": Package(
        ("cb_dr", "cb_dr_10_passes", "cb_dr_10_passes_slow", "cb_adf_mtr_10_passes", "cb_adf_mtr_10_passes_slow"),
        (("vowpalwabbit", "numpy"),),
        gigabytes=0.3,
    ),
    "contextualbandits": Package(
        ("separate_classifiers", "offset_tree", "doubly_robust"),
        # np.in1d, which it calls, is gone since; costsensitive it needs and does not ask for.
        (("contextualbandits", "costsensitive", "numpy<2.3"),),
        gigabytes=1.0,
    ),
    "obp": Package(
        ("ipw_learner", "nn_dr"),
        # Its pins are of 2022 and Python < 3.11; it runs on today's versions.
        (
            (TORCH, "numpy", "pandas", "scikit-learn", "scipy", "matplotlib", "seaborn", "tqdm", "pyyaml"),
            ("--no-deps", "--ignore-requires-python", "obp==0.5.7"),
        ),
        gigabytes=2.5,
    ),
    "econml": Package(("policy_tree", "policy_forest"), (("econml",),), gigabytes=1.5),
    "llmrouter": Package(("knn", "mlp"), ((TORCH, "llmrouter-lib==0.4.0"),), gigabytes=5.0),
}
"""By name; the worker of each is `<name>_worker.py`. The largest comes last."""
