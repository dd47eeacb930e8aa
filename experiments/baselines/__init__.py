"""Learners of other people's systems, rebuilt on jrouter's parts to be compared with.

`BASELINES[name]()` gives a `Method`, as `jrouter.methods.METHODS` does. compare_methods and the studies run
them where `--methods` names them; they are in no default list. Each file says where its system is to be read, how
it is adapted to a log of one model a query, and what differs. imitation_* are not adapted: they do with a log what
their system does with it. Those with `Method.full_feedback` need every model's outcome, which no log has.

Left out, and why. FrugalGPT and other cascades: a query is answered by several models in turn, by what the first one
said, and pays for all; a `Policy` chooses one before any has answered, and is judged so. MixLLM (arXiv 2502.18482):
its predictors of quality and cost of each model are `regress_and_compare_*`, its bonus for uncertainty is
`linucb_upper`, and its waiting times are in no log. PILOT (arXiv 2508.21141): LinUCB that starts from human preferences
between answers, which are in no log; without them it is `linucb_upper`. LLM Bandit: see `barp`.
"""

from collections.abc import Callable

from baselines import (
    barp,
    carrot_convex,
    imitation,
    kmeans,
    matrix_factorisation,
    rorf,
    routellm,
    ucb_replay,
    uniroute,
)
from jrouter.methods import linucb
from jrouter.policy import Method

BASELINES: dict[str, Callable[..., Method]] = {
    "imitation_knn": imitation.imitation_knn,
    "imitation_mlp": imitation.imitation_mlp,
    "kmeans": kmeans.kmeans,
    "kmeans_full": kmeans.kmeans_full,
    "matrix_factorisation": matrix_factorisation.matrix_factorisation,
    "tensor_factorisation": matrix_factorisation.tensor_factorisation,
    **carrot_convex.VARIANTS,
    **{name: linucb.VARIANTS[name] for name in ("linucb_mean", "linucb_upper", "linucb_thompson")},
    "barp": barp.barp,
    "ucb_replay": ucb_replay.ucb_replay,
    "rorf": rorf.rorf,
    "routellm_mf": routellm.routellm_mf,
    "routellm_sw": routellm.routellm_sw,
    "routellm_classifier": routellm.routellm_classifier,
    "uniroute": uniroute.uniroute,
    "uniroute_learned": uniroute.uniroute_learned,
}
