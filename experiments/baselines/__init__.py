"""Learners of other people's systems, rebuilt on jrouter's parts to be compared with.

`BASELINES[name]()` gives a `Method`, as `jrouter.methods.METHODS` does. compare_methods and the studies run
them where `--methods` names them; they are in no default list. Each file says where its system is to be read, how
it is adapted to a log of one model a query, and what differs. imitation_* are not adapted: they do with a log what
their system does with it. Those with `Method.full_feedback` need every model's outcome, which no log has.

Some of these systems learn online, by what their own choices bring; a log has another policy's. `ucb_replay`, `mixllm`
and `pilot` are replayed on the rows that match their choices, `barp` and `llm_bandit` weight the rows; each says what
that shows and what it cannot. `carl_*` and `linucb_*` are rules on what one reading of the log knows.

FrugalGPT's cascade asks several models in turn and pays for all: no `Policy`, it judges itself (`Cascade.outcomes`).
Left out of those that are here, as no log has it: MixLLM's waiting times and users' thumbs, PILOT's preferences of
people between two answers to one query, its budget over a horizon, LLM Bandit's benchmarks that every model answered.
"""

from collections.abc import Callable

from baselines import (
    barp,
    carl,
    carrot_convex,
    cascade,
    imitation,
    kmeans,
    llm_bandit,
    matrix_factorisation,
    mixllm,
    pilot,
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
    **cascade.VARIANTS,
    **{name: linucb.VARIANTS[name] for name in ("linucb_mean", "linucb_upper", "linucb_thompson")},
    "barp": barp.barp,
    "llm_bandit": llm_bandit.llm_bandit,
    **carl.VARIANTS,
    "mixllm": mixllm.mixllm,
    "pilot": pilot.pilot,
    "ucb_replay": ucb_replay.ucb_replay,
    "rorf": rorf.rorf,
    "routellm_mf": routellm.routellm_mf,
    "routellm_sw": routellm.routellm_sw,
    "routellm_classifier": routellm.routellm_classifier,
    "uniroute": uniroute.uniroute,
    "uniroute_learned": uniroute.uniroute_learned,
}
