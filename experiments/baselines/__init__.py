"""Learners of other people's systems, rebuilt on jrouter's parts to be compared with.

`BASELINES[name]()` gives a `Method`, as `jrouter.methods.METHODS` does. compare_methods and the studies run
them where `--methods` names them; they are in no default list. Each file says where its system is to be read, how
it is adapted to a log of one model a query, and what differs. imitation_* are not adapted: they do with a log what
their system does with it. Those with `Method.full_feedback` need every model's outcome, which no log has.
"""

from collections.abc import Callable

from baselines import carrot_convex, imitation, kmeans, linucb, matrix_factorisation, rorf, routellm, uniroute
from jrouter.policy import Method

BASELINES: dict[str, Callable[..., Method]] = {
    "imitation_knn": imitation.imitation_knn,
    "imitation_mlp": imitation.imitation_mlp,
    "kmeans": kmeans.kmeans,
    "kmeans_full": kmeans.kmeans_full,
    "matrix_factorisation": matrix_factorisation.matrix_factorisation,
    "tensor_factorisation": matrix_factorisation.tensor_factorisation,
    **carrot_convex.VARIANTS,
    **linucb.VARIANTS,
    "rorf": rorf.rorf,
    "routellm_mf": routellm.routellm_mf,
    "routellm_sw": routellm.routellm_sw,
    "routellm_classifier": routellm.routellm_classifier,
    "uniroute": uniroute.uniroute,
    "uniroute_learned": uniroute.uniroute_learned,
}
