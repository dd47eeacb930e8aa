"""Who is ahead of whom, from utilities on many logs: ranks, Friedman and Nemenyi, and what is not decided.

Pure functions of blocks: a block is a log (table, logging policy, seed) from which all M methods learned.
"""

import math
from collections.abc import Sequence
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
from cells import Estimate, over_seeds
from judgement import LEVEL, holm, over_cells, two_sided
from query_batches import query_error
from scipy import stats

from jrouter.resampling import resample_counts

RESAMPLES = 400
"""Of the batches of test queries, for the error of a rank."""


class Block(NamedTuple):
    """All methods on one log.

    Attributes:
      table: name.
      policy: of the logging.
      seed: of the log.
      utility: [M], means over lambdas and test queries.
      influence: [B, M], what each of B batches of the n test queries adds to the mean above its share:
        sum_{i in b} (utility_i - mean) / n.
    """

    table: str
    policy: str
    seed: int
    utility: np.ndarray
    influence: np.ndarray


class Friedman(NamedTuple):
    """Friedman's statistic, corrected for ties; Iman and Davenport's of it; the p-value of the latter."""

    chi_square: float
    f: float
    p_value: float


class Pair(NamedTuple):
    """Two methods by their places, the first one's utility less the second's, and p before and after Holm."""

    first: int
    second: int
    difference: Estimate
    p_value: float
    adjusted: float


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks [..., M] of values [..., M]: 1 for the largest; those that tie share the mean of their ranks.

    >>> ranks(np.array([0.5, 0.9, 0.5, 0.1])).tolist()
    [2.5, 1.0, 2.5, 4.0]
    """
    return np.asarray(stats.rankdata(-np.asarray(values), axis=-1))


def friedman(rank: np.ndarray) -> Friedman:
    """Tests whether all methods have the same ranks but for chance, blocks being independent.

        chi^2 = (M - 1) N^2 sum_j (R_j - (M + 1) / 2)^2 / sum_ij (r_ij - (M + 1) / 2)^2
        F = (N - 1) chi^2 / (N (M - 1) - chi^2),  of F(M - 1, (M - 1) (N - 1))

    Without ties chi^2 is Demsar's formula, which leaves ties uncorrected.

    Args:
      rank: [N, M], r_ij of each block; R_j are their means. One block says nothing of chance: p is then 1.

    Source: Demsar (2006), Statistical comparisons of classifiers over multiple data sets, section 3.2.2.
    """
    n, m = rank.shape
    middle = (m + 1) / 2
    spread = float(np.square(rank - middle).sum())
    if spread == 0:
        return Friedman(0.0, 0.0, 1.0)
    chi_square = (m - 1) * n**2 * float(np.square(rank.mean(axis=0) - middle).sum()) / spread
    if n == 1:
        return Friedman(chi_square, 0.0, 1.0)
    left = n * (m - 1) - chi_square
    # Blocks that all agree leave nothing but rounding.
    f = (n - 1) * chi_square / left if left > 1e-9 * n * (m - 1) else math.inf
    return Friedman(chi_square, f, float(stats.f.sf(f, m - 1, (m - 1) * (n - 1))))


def critical_difference(n_methods: int, n_blocks: int, *, level: float = LEVEL) -> float:
    """Nemenyi's: mean ranks that differ by as much differ beyond chance, all pairs held at once.

        q sqrt(M (M + 1) / (6 N)),  q the upper quantile of the studentized range, divided by sqrt(2)

    >>> round(critical_difference(4, 14), 2)
    1.25

    Source: Demsar (2006), section 3.2.2 and table 5.
    """
    quantile = float(stats.studentized_range.ppf(1 - level, n_methods, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(n_methods * (n_methods + 1) / (6 * n_blocks))


def cliques(mean_rank: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """The largest runs of methods of which no two differ by the critical difference.

    Args:
      mean_rank: [M], ascending.
      difference: critical.

    Returns:
      (first, last) places of each run of at least two; none lies in another.

    >>> cliques([1.0, 1.5, 2.5, 4.0], 1.2)
    [(0, 1), (1, 2)]
    """
    found: list[tuple[int, int]] = []
    for first, low in enumerate(mean_rank):
        last = sum(rank - low < difference for rank in mean_rank) - 1
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def rank_error(block: Block) -> np.ndarray:
    """[M], how much the ranks in one block vary as batches of test queries are drawn again."""
    n = block.influence.shape[0]
    counts = np.asarray(resample_counts(jax.random.key(0), n, RESAMPLES))
    drawn = block.utility + math.sqrt(n / (n - 1)) * (counts - 1.0) @ block.influence
    return ranks(drawn).std(axis=0)


def over_blocks(blocks: Sequence[Block], values: np.ndarray, errors: np.ndarray) -> Estimate:
    """Mean over blocks: over the seeds of a setting as `over_seeds`, over settings as `over_cells`.

    Speaks for these tables and logging policies alone.

    Args:
      blocks: N.
      values: [N], one of each block.
      errors: [N], over its test queries, which a table's blocks share.
    """
    places: dict[tuple[str, str], list[int]] = {}
    for place, block in enumerate(blocks):
        places.setdefault((block.table, block.policy), []).append(place)
    settings: list[Any] = [
        SimpleNamespace(table=table, estimate=over_seeds([values[p] for p in held], [errors[p] for p in held]))
        for (table, _), held in places.items()
    ]
    return over_cells(settings, attrgetter("estimate"))


def compare(blocks: Sequence[Block]) -> list[Pair]:
    """Paired differences of all pairs of methods, p-values corrected after Holm over all of them."""
    n_methods = blocks[0].utility.shape[0]
    utility = np.array([block.utility for block in blocks])
    errors = np.array([query_error(block.influence[:, :, None] - block.influence[:, None]) for block in blocks])
    places = [(first, second) for first in range(n_methods) for second in range(first + 1, n_methods)]
    differences = [over_blocks(blocks, utility[:, a] - utility[:, b], errors[:, a, b]) for a, b in places]
    p_values = [two_sided(difference) for difference in differences]
    together = zip(places, differences, p_values, holm(p_values), strict=True)
    return [Pair(*place, difference, p, adjusted) for place, difference, p, adjusted in together]


def verdict(difference: Estimate) -> str:
    """Whether the 95% interval of a difference leaves open who is ahead.

    >>> verdict(Estimate(0.02, 0.005)), verdict(Estimate(0.02, 0.02))
    ('decided', 'not decided')
    """
    return "not decided" if difference.low <= 0 <= difference.high else "decided"


def interval(estimate: Estimate, low: float = -math.inf, high: float = math.inf) -> dict[str, float]:
    """An estimate with the ends of its 95% interval, which a scale may bound."""
    return {"estimate": estimate.mean, "low": max(low, estimate.low), "high": min(high, estimate.high)}


def rank_methods(names: Sequence[str], blocks: Sequence[Block]) -> dict[str, Any]:
    """The whole ranking, best mean utility first.

    Args:
      names: M methods, in the order of the blocks' arrays.
      blocks: N.

    Returns:
      methods: each with its mean utility and rank, what it gains on the next and whether that is decided, and
        how many others it is better and worse than after Holm's correction.
      friedman, critical_difference, cliques: over blocks; where Friedman's test finds nothing, all are one clique.
      pairs: of all pairs; the first one's utility less the second's.
    """
    rank = np.array([ranks(block.utility) for block in blocks])
    rank_errors = np.array([rank_error(block) for block in blocks])
    utility = np.array([block.utility for block in blocks])
    errors = np.array([query_error(block.influence) for block in blocks])
    means = [over_blocks(blocks, utility[:, m], errors[:, m]) for m in range(len(names))]
    pairs = compare(blocks)
    beaten = [(p.first, p.second)[:: 1 if p.difference.mean > 0 else -1] for p in pairs if p.adjusted < LEVEL]
    difference = {(p.first, p.second): p.difference for p in pairs}
    difference |= {(b, a): one._replace(mean=-one.mean) for (a, b), one in difference.items()}

    order = sorted(range(len(names)), key=lambda m: -means[m].mean)
    methods = []
    for place, following in zip(order, [*order[1:], None], strict=True):
        gain = None if following is None else difference[place, following]
        of_rank = over_blocks(blocks, rank[:, place], rank_errors[:, place])
        methods.append(
            {
                "method": names[place],
                "utility": interval(means[place]),
                "rank": interval(of_rank, 1.0, len(names)),
                "less_next": None if gain is None else interval(gain),
                "against_next": None if gain is None else verdict(gain),
                "better_than": sum(winner == place for winner, _ in beaten),
                "worse_than": sum(loser == place for _, loser in beaten),
            }
        )
    test = friedman(rank)
    by_rank = sorted(range(len(names)), key=lambda m: rank[:, m].mean())
    critical = critical_difference(len(names), len(blocks))
    runs = cliques([rank[:, m].mean() for m in by_rank], critical if test.p_value < LEVEL else math.inf)
    return {
        "blocks": [{"table": b.table, "logging_policy": b.policy, "seed": b.seed} for b in blocks],
        "methods": methods,
        "friedman": test._asdict(),
        "critical_difference": critical,
        "cliques": [[names[m] for m in by_rank[first : last + 1]] for first, last in runs],
        "pairs": [
            {"first": names[p.first], "second": names[p.second], **interval(p.difference)}
            | {"p": p.p_value, "holm": p.adjusted}
            for p in pairs
        ],
    }
