"""What of the paper's claims does the truth bear out? Read from the results of judge_auto, nothing is computed.

    python experiments/paper_claims.py                            # seconds; needs judge_auto.json
    python experiments/paper_claims.py --smoke --out folder       # the same: there is nothing to make smaller

The claims, in arXiv 2505.16037 and the words of its authors:

- bias: bias correction over the Baseline, +10 to 15% routing accuracy at comparable cost. Read as each
  causal method less each reading of the Baseline, and as R&C with inverse-propensity weights less R&C
  without. The difference in cost is given beside it.
- end_to_end: regret training over causal two-stage methods, +1 to 3%; R&C counts among these, as for the
  authors.
- softmax: RM-Softmax over RM-Classification, +0.5 to 1%, with lower variance.

Percent are read as points, of routing accuracy and, beside it, of utility x 100, both means over lambdas.
Differences are paired by log seed; intervals are Student's 95% over seeds (of one world and its test
queries). A verdict per table, logging policy, rows, pair of methods and metric:

- reproduced: the interval lies within the claimed range or above it;
- same sign: it lies above 0, but reaches below the range;
- no difference: it holds 0, be it narrow or wide;
- refuted: it lies below 0;
- one log: there is no interval.

For the last claim also the ratio of the variances over seeds, with a 95% interval of the F distribution
(which takes the two for independent). Writes <name>.json, .csv (a row per verdict) and .png.

Expect the bias claim to hold for regret training and not for regressions of doubly robust scores, and
little difference between the losses.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cells import Estimate, current, over_seeds, select, values_of
from command_line import script
from data import RESULTS
from judgement import REGRESSIONS
from scipy import stats
from study_figures import claims_figure

from jrouter.io.results import text_table, write_csv, write_json

BASELINES = ("baseline_shared", "baseline_per_model")
CAUSAL = ("cf_regression", "causal_carrot_mlp", "causal_carrot_knn")
CLASSIFICATION = tuple(f"rm_classification_{kind}" for kind in ("hard_dr", "hard_regressed", "cost_weighted"))
END_TO_END = ("rm_softmax", *CLASSIFICATION)
WEIGHTED = tuple(f"{name}_ipw" for name in REGRESSIONS)
METRICS = ("routing_accuracy", "utility")
VERDICTS = ("reproduced", "same sign", "no difference", "refuted", "one log")


class Claim(NamedTuple):
    """What is claimed: a range of differences (a share, not percent) of all pairs (first, second)."""

    low: float
    high: float
    pairs: tuple[tuple[str, str], ...]


CLAIMS = {
    "bias": Claim(
        0.10,
        0.15,
        (
            *((first, second) for first in (*CAUSAL, *END_TO_END) for second in BASELINES),
            *zip(WEIGHTED, REGRESSIONS, strict=True),
        ),
    ),
    "end_to_end": Claim(
        0.01,
        0.03,
        tuple((first, second) for first in END_TO_END for second in (*CAUSAL, *REGRESSIONS, *WEIGHTED)),
    ),
    "softmax": Claim(0.005, 0.01, tuple(("rm_softmax", second) for second in CLASSIFICATION)),
}


@dataclass(frozen=True)
class Options:
    """What is read, and where it is written."""

    source: str = "judge_auto"
    """Name of the result file to read, in the folder --out."""
    smoke: bool = False
    """Taken for uniformity: this script takes seconds."""
    out: Path = RESULTS
    """Folder of the result files."""
    name: str = "paper_claims"
    """Of the result files."""


class Pair(NamedTuple):
    """One claim for one pair of methods in one setting.

    Attributes:
      claim: key of `CLAIMS`.
      table: name.
      policy: of the logging.
      n: logged rows.
      first: method.
      second: method that is taken off.
      seeds: that both have.
      differences: metric -> first less second; also "cost", in the table's unit.
      cost_ratio: mean cost of the first over that of the second; None where that is 0.
      variance_ratio: metric -> (ratio of variances over seeds, low, high); None without two seeds each.
      sha256: of the table's file, or None.
    """

    claim: str
    table: str
    policy: str
    n: int
    first: str
    second: str
    seeds: int
    differences: dict[str, Estimate]
    cost_ratio: float | None
    variance_ratio: dict[str, tuple[float, float, float] | None]
    sha256: str | None = None


def verdict(estimate: Estimate, seeds: int, claim: Claim) -> str:
    """One of `VERDICTS`, as the head of this file defines them.

    >>> verdict(Estimate(0.02, 0.001, 9), 10, CLAIMS["end_to_end"])
    'reproduced'
    """
    if seeds < 2:
        return "one log"
    if estimate.low >= claim.low:
        return "reproduced"
    if estimate.low > 0:
        return "same sign"
    return "refuted" if estimate.high < 0 else "no difference"


def variance_ratio(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float] | None:
    """Variance of the first over that of the second, with 95% interval; None where there is none.

    ratio / F_{.975}, ratio / F_{.025}, of S - 1 and S - 1 degrees of freedom
    """
    if len(first) < 2 or np.ptp(second) == 0:
        return None
    ratio = float(np.var(first, ddof=1) / np.var(second, ddof=1))
    freedom = len(first) - 1, len(second) - 1
    return ratio, ratio / float(stats.f.ppf(0.975, *freedom)), ratio / float(stats.f.ppf(0.025, *freedom))


def pairs_of(path: Path) -> list[Pair]:
    """All pairs of all claims, from a result file of `judge_auto` alone.

    Raises:
      ValueError: if it is missing, or holds something else.
    """
    if not path.exists():
        raise ValueError(f"{path} is missing: run judge_auto.py first, or name its results by --source")
    found = []
    for group in current(path):
        for policy in values_of(group["cells"], "logging_policy"):
            here = select(group["cells"], logging_policy=policy)
            for n in values_of(here, "n"):
                by_method = {
                    method: {cell["key"]["seed"]: cell for cell in select(here, n=n, method=method)}
                    for method in values_of(here, "method")
                }
                for name, claim in CLAIMS.items():
                    for first, second in claim.pairs:
                        ours, theirs = by_method.get(first, {}), by_method.get(second, {})
                        seeds = sorted(ours.keys() & theirs.keys())
                        if seeds:
                            both = [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]
                            pair = _pair((name, group["table"], policy, n, first, second), *both)
                            found.append(pair._replace(sha256=group["sha256"]))
    return found


def _pair(head: tuple[str, str, str, int, str, str], ours: list[dict], theirs: list[dict]) -> Pair:
    def means(cells: list[dict], metric: str) -> np.ndarray:
        return np.array([np.mean(cell[metric]) for cell in cells])

    differences = {}
    for metric in (*METRICS, "cost"):
        by_seed = means(ours, metric) - means(theirs, metric)
        differences[metric] = over_seeds(by_seed.tolist(), [0.0] * len(by_seed))
    spent = float(means(theirs, "cost").mean())
    return Pair(
        *head,
        len(ours),
        differences,
        float(means(ours, "cost").mean()) / spent if spent > 0 else None,
        {metric: variance_ratio(means(ours, metric).tolist(), means(theirs, metric).tolist()) for metric in METRICS},
    )


def records(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """What the JSON holds: a group per setting, its pairs, intervals as [estimate, low, high]."""
    settings: dict[tuple[str, str | None, str, int], list[dict[str, Any]]] = {}
    for pair in pairs:
        row: dict[str, Any] = {"claim": pair.claim, "first": pair.first, "second": pair.second, "seeds": pair.seeds}
        for metric in METRICS:
            row[metric] = _interval(pair, metric)
            row[f"{metric}_verdict"] = verdict(pair.differences[metric], pair.seeds, CLAIMS[pair.claim])
        row["cost"], row["cost_ratio"] = _interval(pair, "cost"), pair.cost_ratio
        if pair.claim == "softmax":
            row["variance_ratio"] = pair.variance_ratio
        settings.setdefault((pair.table, pair.sha256, pair.policy, pair.n), []).append(row)
    return [
        {"table": table, "sha256": sha256, "logging_policy": policy, "n": n, "pairs": rows}
        for (table, sha256, policy, n), rows in settings.items()
    ]


def _interval(pair: Pair, metric: str) -> list[float | None]:
    estimate = pair.differences[metric]
    ends = [estimate.low, estimate.high] if pair.seeds > 1 else [None, None]
    return [None if value is None else round(value, 8) for value in (estimate.mean, *ends)]


COLUMNS = (
    "claim,claim_low,claim_high,table,logging_policy,n,seeds,first,second,metric,difference,low,high,verdict,"
    "cost_difference,cost_ratio,variance_ratio,variance_ratio_low,variance_ratio_high"
).split(",")


def csv_rows(pairs: Sequence[Pair]) -> list[list[Any]]:
    """A row per pair and metric; empty where a number does not exist."""
    rows = []
    for pair in pairs:
        claim = CLAIMS[pair.claim]
        head = [pair.claim, claim.low, claim.high, pair.table, pair.policy, pair.n, pair.seeds, pair.first, pair.second]
        for metric in METRICS:
            ratio = pair.variance_ratio[metric] if pair.claim == "softmax" else None
            said = [*_interval(pair, metric), verdict(pair.differences[metric], pair.seeds, claim)]
            tail = [pair.differences["cost"].mean, pair.cost_ratio, *(ratio or (None, None, None))]
            rows.append([*head, metric, *["" if cell is None else cell for cell in (*said, *tail)]])
    return rows


def print_claims(pairs: Sequence[Pair]) -> None:
    """Per claim and metric: verdicts per setting, then the mean over settings per pair of methods."""
    for name, claim in CLAIMS.items():
        mine = [pair for pair in pairs if pair.claim == name]
        if not mine:
            print(f"\n{name}: no pair of its methods in the file")
            continue
        for metric in METRICS:
            said = f"{100 * claim.low:g} to {100 * claim.high:g} points of {metric.replace('_', ' ')}"
            print(f"\n{name}, +{said}: verdicts over pairs of methods")
            lines = []
            for setting in dict.fromkeys((pair.table, pair.policy, pair.n) for pair in mine):
                here = [pair for pair in mine if (pair.table, pair.policy, pair.n) == setting]
                lines.append([f"{setting[0]}, {setting[1]}, {setting[2]:,} rows", *_summary(here, metric, claim)])
            lines.append(["all", *_summary(mine, metric, claim)])
            print(text_table(["setting", *VERDICTS, "median difference", "median cost ratio"], lines))
        rows = []
        for first, second in claim.pairs:
            here = [pair for pair in mine if (pair.first, pair.second) == (first, second)]
            if here:
                ranges = [_range([100 * pair.differences[metric].mean for pair in here]) for metric in METRICS]
                ratios = [r[0] for pair in here if (r := pair.variance_ratio["utility"])]
                spread = [f"{np.median(ratios):.2f}" if ratios else ""] if name == "softmax" else []
                rows.append([f"{first} less {second}", *ranges, *spread])
        more = ["median variance ratio"] if name == "softmax" else []
        print(f"\n{name}: median [least, greatest] difference over settings, points")
        print(text_table(["pair", *METRICS, *more], rows))


def _summary(pairs: Sequence[Pair], metric: str, claim: Claim) -> list[str]:
    counts = Counter(verdict(pair.differences[metric], pair.seeds, claim) for pair in pairs)
    ratios = [pair.cost_ratio for pair in pairs if pair.cost_ratio is not None]
    median = np.median([100 * pair.differences[metric].mean for pair in pairs])
    return [*[str(counts[word]) for word in VERDICTS], f"{median:+.2f}", f"{np.median(ratios):.2f}" if ratios else ""]


def _range(values: list[float]) -> str:
    return f"{np.median(values):+.2f} [{min(values):+.2f}, {max(values):+.2f}]"


def main(options: Options) -> None:
    """Reads the results and writes what they say of the claims."""
    pairs = pairs_of(options.out / f"{options.source}.json")
    if not pairs:
        raise ValueError(f"{options.source}.json holds no pair of methods that a claim is about")
    print_claims(pairs)
    result = options.out / f"{options.name}.json"
    write_json(result, options=options, results=records(pairs))
    write_csv(result.with_suffix(".csv"), COLUMNS, csv_rows(pairs))
    claims_figure(pairs, {name: (claim.low, claim.high) for name, claim in CLAIMS.items()}, result.with_suffix(".png"))
    print(f"\nwrote {options.name}.json, .csv and .png to {options.out}")


if __name__ == "__main__":
    script(main, Options, __doc__)
