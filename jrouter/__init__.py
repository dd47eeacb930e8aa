"""jrouter: learn from a biased log which LLM should answer each query.

    log -> nuisances -> counterfactual scores -> regret training -> Router

Pure functions take one query and are vmapped where they are called; `Router` is where a log becomes an
answer. See the README for a tour.
"""

from jrouter.balancing import balancing_weights
from jrouter.bounding_scores import doubly_valid, pessimistic_scores, tilted_outcome
from jrouter.bounds import imbens_manski_critical, utility_range, value_bounds
from jrouter.compiled_decisions import Decision
from jrouter.counterfactual import counterfactual_scores
from jrouter.diagnostics import Diagnosis, diagnose
from jrouter.encoders.encode import Encoder
from jrouter.encoders.errors import EncoderError
from jrouter.encoders.load import load_encoder
from jrouter.encoders.texts import last_question, last_turns
from jrouter.estimators import (
    augmented,
    direct,
    doubly_robust,
    inverse_propensity_weight,
    ips,
    mrdr_row_weight,
    overlap_row_weight,
    overlap_tilt,
    self_normalised_weights,
    shrunken_weight,
    switch_weight,
)
from jrouter.explain import explain_diagnosis
from jrouter.frontier_metrics import aiq, apgr, call_threshold, frontier_distance, gap_recovered, hull_at, on_hull
from jrouter.honest_value import cross_fitted_value, honest_best, split_best
from jrouter.inference import n_clusters, simultaneous_interval, time_blocks, wald_interval
from jrouter.interval import interpolate, lambda_grid
from jrouter.io.checkpoint import CheckpointError
from jrouter.io.contract import Contract, read_contract
from jrouter.io.errors import DataError
from jrouter.io.ingest import ingest
from jrouter.io.logs import read_log
from jrouter.io.prices import read_prices
from jrouter.io.routerbench import fetch_routerbench, read_routerbench
from jrouter.io.sprout import fetch_sprout, read_sprout
from jrouter.io.tables import read_table, read_texts
from jrouter.io.write_log import write_log
from jrouter.large_logs import fit_stream
from jrouter.limited_overlap import (
    limited_overlap_value,
    overlap_weighted_value,
    supported,
    supported_terms,
    supported_value,
)
from jrouter.losses import (
    classification_surrogate,
    cost_weighted_surrogate,
    pinsker_regret_bound,
    softmax_regret,
    total_variation_regret_bound,
)
from jrouter.methods import METHODS
from jrouter.metrics import regret, routing_accuracy, utility
from jrouter.nuisances.crossfit import NuisanceConfig, fit_nuisances
from jrouter.off_policy import fixed_policy_value, paired_difference
from jrouter.policy import Method, Policy, Problem, evaluate
from jrouter.policy_value import bootstrap_estimates, policy_terms
from jrouter.power import power_by_formula, power_curve, power_grid, rows_by_formula
from jrouter.power_search import exploration_needed, rows_needed
from jrouter.power_world import exploration_price, gain_deviation, make_power_world, with_gain
from jrouter.preferences import with_utility
from jrouter.query_bounds import query_intervals
from jrouter.refitted import refitted_bootstrap, refitted_learner_bootstrap
from jrouter.router import Router
from jrouter.router_pool import extend, prunable, prune, reprice, restrict
from jrouter.routing_metrics import Optimality, arena_score, cost_saving, gap_to_oracle, optimality, performance_gain
from jrouter.sensitivity import critical_gamma, fixed_policy_bounds, sensitivity_bounds
from jrouter.splits import split_log
from jrouter.tuning import choose_strength, slope
from jrouter.types import BenchmarkTable, CounterfactualScores, LoggedData, Nuisances, take_rows

__version__ = "0.1.0"

__all__ = [
    "BenchmarkTable",
    "CheckpointError",
    "Contract",
    "CounterfactualScores",
    "DataError",
    "Decision",
    "Diagnosis",
    "Encoder",
    "EncoderError",
    "LoggedData",
    "METHODS",
    "Method",
    "NuisanceConfig",
    "Nuisances",
    "Optimality",
    "Policy",
    "Problem",
    "Router",
    "aiq",
    "apgr",
    "arena_score",
    "augmented",
    "balancing_weights",
    "bootstrap_estimates",
    "call_threshold",
    "choose_strength",
    "classification_surrogate",
    "cost_saving",
    "cost_weighted_surrogate",
    "counterfactual_scores",
    "critical_gamma",
    "cross_fitted_value",
    "diagnose",
    "direct",
    "doubly_robust",
    "doubly_valid",
    "evaluate",
    "explain_diagnosis",
    "exploration_needed",
    "exploration_price",
    "extend",
    "fetch_routerbench",
    "fetch_sprout",
    "fit_nuisances",
    "fit_stream",
    "fixed_policy_bounds",
    "fixed_policy_value",
    "frontier_distance",
    "gain_deviation",
    "gap_recovered",
    "gap_to_oracle",
    "honest_best",
    "hull_at",
    "imbens_manski_critical",
    "ingest",
    "interpolate",
    "inverse_propensity_weight",
    "ips",
    "lambda_grid",
    "last_question",
    "last_turns",
    "limited_overlap_value",
    "load_encoder",
    "make_power_world",
    "mrdr_row_weight",
    "n_clusters",
    "on_hull",
    "optimality",
    "overlap_row_weight",
    "overlap_tilt",
    "overlap_weighted_value",
    "paired_difference",
    "performance_gain",
    "pessimistic_scores",
    "pinsker_regret_bound",
    "policy_terms",
    "power_by_formula",
    "power_curve",
    "power_grid",
    "prunable",
    "prune",
    "query_intervals",
    "read_contract",
    "read_log",
    "read_prices",
    "read_routerbench",
    "read_sprout",
    "read_table",
    "read_texts",
    "refitted_bootstrap",
    "refitted_learner_bootstrap",
    "regret",
    "reprice",
    "restrict",
    "routing_accuracy",
    "rows_by_formula",
    "rows_needed",
    "self_normalised_weights",
    "sensitivity_bounds",
    "shrunken_weight",
    "simultaneous_interval",
    "slope",
    "softmax_regret",
    "split_best",
    "split_log",
    "supported",
    "supported_terms",
    "supported_value",
    "switch_weight",
    "take_rows",
    "tilted_outcome",
    "time_blocks",
    "total_variation_regret_bound",
    "utility",
    "utility_range",
    "value_bounds",
    "wald_interval",
    "with_gain",
    "with_utility",
    "write_log",
]
