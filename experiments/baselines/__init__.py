"""Learners of other people's systems, rebuilt on jrouter's parts to be compared with.

`BASELINES[name]()` gives a `Method`, as `jrouter.methods.METHODS` does. compare_methods and the studies run
them where `--methods` names them; they are in no default list. Not adapted: each does with a log what the
system that it stands for does, and its file says where that is to be read and what differs.
"""

from collections.abc import Callable

from baselines import imitation
from jrouter.policy import Method

BASELINES: dict[str, Callable[..., Method]] = {
    "imitation_knn": imitation.imitation_knn,
    "imitation_mlp": imitation.imitation_mlp,
}
