"""Places of submissions by a challenge's way of ranking, on cases drawn again and again.

Three ways are known; each gives every submission points for each metric, turns them into
ranks (equal ones share their mean), and averages the ranks over the metrics:

- "significance" (HaN-Seg 2023): submissions are compared in pairs by Wilcoxon's signed-rank
  test (one-sided, at α) over all scores; the points are how many others one is
  significantly better than. The challenge's own code is not published: pooling all
  structures of all cases in one test is this project's reading.
- "organ_ranks" (SegRap 2023): submissions are ranked on each organ by the mean over its
  cases; the points are the mean of those ranks, and they are averaged as they are.
- "weighted_means" (StructSeg 2019): the points are the weighted mean over organs of the
  mean over cases.

The mean metric, the first one first, parts those whose mean ranks are equal. In means,
more infinite distances are worse than fewer, whatever the finite ones are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from oarseg.challenges.challenge import RankingRule as Way
from oarseg.evaluation.two_models import LOWER_IS_BETTER, NO_SURFACE_MM, p_better, paired_gains
from oarseg.imaging.arrays import Doubles

POINTS: dict[Way, str] = {
    "significance": "wins",
    "organ_ranks": "mean organ rank",
    "weighted_means": "weighted mean",
}


@dataclass(frozen=True)
class Rules:
    """How to rank.

    Attributes:
        way: see the module's docstring.
        metrics: along the first axis of the values.
        weights: (organs,).
        alpha: of the tests.
    """

    way: Way
    metrics: Sequence[str]
    weights: Doubles
    alpha: float


@dataclass(frozen=True)
class Places:
    """Results for each draw, along the last axis.

    Attributes:
        points: (metrics, submissions, draws); see the module's docstring.
        mean_ranks: (submissions, draws).
        places: (submissions, draws); 1 is the best.
    """

    points: Doubles
    mean_ranks: Doubles
    places: NDArray[np.int64]


def rank_draws(values: Doubles, draws: NDArray[np.int64], rules: Rules) -> Places:
    """Rank submissions on the cases of each draw.

    Args:
        values: (metrics, submissions, cases, organs); NaN, for all submissions, where there
            is no score.
        draws: (draws, cases): numbers of cases.
        rules: how to rank.
    """
    drawn = values[:, :, draws]
    points, ranks = _points(drawn, rules)
    mean_ranks = ranks.mean(axis=0)
    # The last key counts most: the mean rank, then the metrics in their order.
    flat = drawn.reshape(*drawn.shape[:3], -1)
    ties = [_cost(flat[n], metric) for n, metric in enumerate(rules.metrics)]
    order = np.lexsort([*reversed(ties), mean_ranks], axis=0)
    return Places(points, mean_ranks, np.argsort(order, axis=0) + 1)


def _points(drawn: Doubles, rules: Rules) -> tuple[Doubles, Doubles]:
    """Points and ranks, both (metrics, submissions, draws)."""
    if rules.way == "significance":
        wins = np.stack([_wins(drawn[n], m, rules.alpha) for n, m in enumerate(rules.metrics)])
        return wins, rankdata(-wins, axis=1)
    cost = np.stack(
        [_cost(np.moveaxis(drawn[n], 2, -1), metric) for n, metric in enumerate(rules.metrics)]
    )
    # An organ that no drawn case has is nobody's.
    there = ~np.isnan(cost)
    weights = np.where(there, 1.0 if rules.way == "organ_ranks" else rules.weights, 0.0)
    if rules.way == "organ_ranks":
        points = _average(rankdata(np.nan_to_num(cost), axis=1), weights)
        return points, points
    means = _average(np.nan_to_num(cost), weights)
    return _shown(means, rules.metrics), rankdata(means, axis=1)


def _average(values: Doubles, weights: Doubles) -> Doubles:
    """Along the last axis; a draw without any organ gives 0 to all."""
    total = weights.sum(axis=-1)
    mean: Doubles = (values * weights).sum(axis=-1) / np.where(total > 0, total, 1.0)
    return mean


def _shown(costs: Doubles, metrics: Sequence[str]) -> Doubles:
    """Weighted means as a reader knows them: higher Dice better, infinity infinite."""
    signs = np.array([1.0 if metric in LOWER_IS_BETTER else -1.0 for metric in metrics])
    shown = costs * signs[:, None, None]
    return np.where(shown > NO_SURFACE_MM / 1e6, np.inf, shown)


def _wins(values: Doubles, metric: str, alpha: float) -> Doubles:
    """How many others each is significantly better than, (submissions, draws)."""
    flat = values.reshape(*values.shape[:2], -1)
    wins = np.zeros(flat.shape[:2])
    for a, b in combinations(range(len(flat)), 2):
        gain = paired_gains(flat[a], flat[b], metric)
        wins[a] += p_better(gain) < alpha
        wins[b] += p_better(-gain) < alpha
    return wins


def _cost(values: Doubles, metric: str) -> Doubles:
    """The mean along the last axis, so that less is better; NaN where there is none.

    Infinite distances count before all: each is ``FAR_MM``, apart from the finite mean.
    """
    infinite = np.isinf(values).sum(axis=-1)
    finite = np.isfinite(values)
    count = finite.sum(axis=-1)
    mean = np.where(finite, values, 0.0).sum(axis=-1) / np.maximum(count, 1)
    cost = infinite * NO_SURFACE_MM + mean if metric in LOWER_IS_BETTER else -mean
    return np.where(count + infinite > 0, cost, np.nan)
