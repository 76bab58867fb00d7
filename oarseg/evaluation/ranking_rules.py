"""The challenges' ranking rules, applied to bootstrap draws of the cases.

Each rule gives every submission points per metric, converts them to ranks (ties share
their mean rank) and averages the ranks over the metrics:

- "significance" (HaN-Seg 2023): pairwise one-sided Wilcoxon signed-rank tests at α over all
  scores. Points: the number of submissions that one is significantly better than. The
  challenge's code is not published; pooling all structures of all cases in one test is
  this project's interpretation.
- "organ_ranks" (SegRap 2023): submissions are ranked per organ by the mean over cases.
  Points: the mean of those ranks, averaged over the metrics without ranking again.
- "weighted_means" (StructSeg 2019): points are the weighted mean over organs of the mean
  over cases.

Equal mean ranks are separated by the mean of the first metric, then of the next. In such
means, more infinite distances are worse than fewer, whatever the finite ones are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from oarseg.challenges.challenge import RankingRule
from oarseg.evaluation.two_models import LOWER_IS_BETTER, NO_SURFACE_MM, p_better, paired_gains
from oarseg.imaging.arrays import Doubles

POINT_NAMES: dict[RankingRule, str] = {
    "significance": "wins",
    "organ_ranks": "mean organ rank",
    "weighted_means": "weighted mean",
}


@dataclass(frozen=True)
class RankingSettings:
    """How to rank.

    Attributes:
        ranking: see the module's docstring.
        metrics: names along the first axis of the values.
        weights: weight of each organ, (organs,).
        alpha: significance level of the tests.
    """

    ranking: RankingRule
    metrics: Sequence[str]
    weights: Doubles
    alpha: float


@dataclass(frozen=True)
class Places:
    """Placements of all submissions in each draw, which is the last axis.

    Attributes:
        points: (metrics, submissions, draws); see the module's docstring.
        mean_ranks: (submissions, draws).
        places: (submissions, draws); 1 is the best.
    """

    points: Doubles
    mean_ranks: Doubles
    places: NDArray[np.int64]


def rank_draws(values: Doubles, draws: NDArray[np.int64], rules: RankingSettings) -> Places:
    """Rank submissions on the cases of each draw.

    Args:
        values: (metrics, submissions, cases, organs); NaN for all submissions where there
            is no score.
        draws: (draws, cases), indices of cases.
        rules: how to rank.
    """
    drawn = values[:, :, draws]
    points, ranks = _compute_points(drawn, rules)
    mean_ranks = ranks.mean(axis=0)
    # np.lexsort sorts by its last key first: the mean rank, then the metrics in order.
    flat = drawn.reshape(*drawn.shape[:3], -1)
    ties = [_mean_cost(flat[n], metric) for n, metric in enumerate(rules.metrics)]
    order = np.lexsort([*reversed(ties), mean_ranks], axis=0)
    return Places(points, mean_ranks, np.argsort(order, axis=0) + 1)


def _compute_points(drawn: Doubles, rules: RankingSettings) -> tuple[Doubles, Doubles]:
    """Return points and ranks, both (metrics, submissions, draws)."""
    if rules.ranking == "significance":
        wins = np.stack(
            [_count_wins(drawn[n], m, rules.alpha) for n, m in enumerate(rules.metrics)]
        )
        return wins, rankdata(-wins, axis=1)
    cost = np.stack(
        [_mean_cost(np.moveaxis(drawn[n], 2, -1), metric) for n, metric in enumerate(rules.metrics)]
    )
    # An organ that no drawn case has counts for no submission.
    present = ~np.isnan(cost)
    weights = np.where(present, 1.0 if rules.ranking == "organ_ranks" else rules.weights, 0.0)
    if rules.ranking == "organ_ranks":
        points = _average(rankdata(np.nan_to_num(cost), axis=1), weights)
        return points, points
    means = _average(np.nan_to_num(cost), weights)
    return _costs_as_means(means, rules.metrics), rankdata(means, axis=1)


def _average(values: Doubles, weights: Doubles) -> Doubles:
    """Average along the last axis; a draw without any organ gives 0."""
    total = weights.sum(axis=-1)
    mean: Doubles = (values * weights).sum(axis=-1) / np.where(total > 0, total, 1.0)
    return mean


def _costs_as_means(costs: Doubles, metrics: Sequence[str]) -> Doubles:
    """Convert costs back to means of the metric, with infinite distances as such."""
    signs = np.array([1.0 if metric in LOWER_IS_BETTER else -1.0 for metric in metrics])
    shown = costs * signs[:, None, None]
    return np.where(shown > NO_SURFACE_MM / 1e6, np.inf, shown)


def _count_wins(values: Doubles, metric: str, alpha: float) -> Doubles:
    """Count the submissions that each is significantly better than, (submissions, draws)."""
    flat = values.reshape(*values.shape[:2], -1)
    wins = np.zeros(flat.shape[:2])
    for a, b in combinations(range(len(flat)), 2):
        gain = paired_gains(flat[a], flat[b], metric)
        wins[a] += p_better(gain) < alpha
        wins[b] += p_better(-gain) < alpha
    return wins


def _mean_cost(values: Doubles, metric: str) -> Doubles:
    """Average along the last axis so that lower is better; NaN without any value.

    Each infinite distance adds ``NO_SURFACE_MM`` to the mean of the finite ones.
    """
    infinite = np.isinf(values).sum(axis=-1)
    finite = np.isfinite(values)
    count = finite.sum(axis=-1)
    mean = np.where(finite, values, 0.0).sum(axis=-1) / np.maximum(count, 1)
    cost = infinite * NO_SURFACE_MM + mean if metric in LOWER_IS_BETTER else -mean
    return np.where(count + infinite > 0, cost, np.nan)
