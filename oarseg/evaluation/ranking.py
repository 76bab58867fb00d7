"""``oarseg rank``: the challenge's ranking of several submissions, and two compared plainly.

Ranking, as HaN-Seg 2023 describes it: for each metric, submissions are compared in pairs
by Wilcoxon's signed-rank test (one-sided, at α) over all scores; the significance score
of a submission is how many others it is significantly better than; the scores give ranks,
equal ones their mean; the ranks are averaged over the metrics; the mean metric, the first
one first, parts equal ones. How sure a place is, is measured by repeating it all on cases
drawn with replacement. The challenge's own code is not published: pooling all structures
of all cases in one test is this project's reading.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, wilcoxon

from oarseg.errors import InputError
from oarseg.evaluation.run import CSV
from oarseg.evaluation.scoring import Score
from oarseg.evaluation.table import read_csv

LOWER_IS_BETTER = frozenset({"hd95_mm", "msd_mm"})
# Numbers drawn at once for the bootstrap; bounds the memory.
CHUNK = 1 << 21

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Standing:
    """One submission's place.

    Attributes:
        name: of the submission.
        means: metric → mean of its finite values.
        wins: metric → significance score.
        mean_rank: over the metrics.
        place: 1 is the best.
        interval: places that hold in 95 % of the bootstrap.
        first: share of the bootstrap in which it came first.
    """

    name: str
    means: Mapping[str, float]
    wins: Mapping[str, int]
    mean_rank: float
    place: int
    interval: tuple[int, int]
    first: float


@dataclass(frozen=True)
class Verdict:
    """Two submissions compared on each structure by one metric.

    Attributes:
        metric: which.
        first, second: names.
        better, worse, undecided: structures on which the first is significantly better,
            significantly worse, and neither.
        untested: structures that are scored in no common case.
        alpha: level of the whole family of tests, by Holm's correction.
        decidable: whether any result could have been significant with so few cases.
    """

    metric: str
    first: str
    second: str
    better: tuple[str, ...]
    worse: tuple[str, ...]
    undecided: tuple[str, ...]
    untested: tuple[str, ...]
    alpha: float
    decidable: bool

    def text(self) -> str:
        """The verdict in one sentence."""
        tests = len(self.better) + len(self.worse) + len(self.undecided)
        text = (
            f"{self.first} against {self.second} by {self.metric}: better on "
            f"{_counted(self.better)}, worse on {_counted(self.worse)}, no evidence on "
            f"{len(self.undecided)} (α = {self.alpha:g}, Holm-corrected over {tests} structures)"
        )
        if self.untested:
            text += f"; not compared: {', '.join(self.untested)}"
        if not self.decidable:
            text += "; too few cases for any difference to be significant"
        return text


@dataclass(frozen=True)
class Ranking:
    """The standings, best first, and, for two submissions, a verdict a metric.

    Attributes:
        standings, verdicts: see there.
        cases, scores: how many were compared.
        left_out: scores that only some of the submissions have.
    """

    standings: tuple[Standing, ...]
    verdicts: tuple[Verdict, ...]
    cases: int
    scores: int
    left_out: int


@dataclass(frozen=True)
class _Table:
    """Values of all submissions, only where all of them have one.

    Attributes:
        names: submissions.
        metrics: their names.
        structures: names, along the last axis.
        values: (metrics, submissions, cases, structures), NaN where not common.
        left_out: scores that were dropped for that.
    """

    names: tuple[str, ...]
    metrics: tuple[str, ...]
    structures: tuple[str, ...]
    values: Floats
    left_out: int


@dataclass(frozen=True)
class _Places:
    """Results for each bootstrap draw, along the last axis."""

    wins: NDArray[np.int64]  # (metrics, submissions, draws)
    mean_ranks: Floats  # (submissions, draws)
    places: NDArray[np.int64]  # (submissions, draws)


def rank(
    csvs: Sequence[Path],
    *,
    metrics: Sequence[str] = ("dsc", "hd95_mm"),
    alpha: float = 0.05,
    draws: int = 1000,
    seed: int = 0,
) -> Ranking:
    """Rank submissions by the CSV files that ``evaluate`` wrote for them.

    Only what every submission has a score for is compared.

    Args:
        csvs: one a submission, which is named by its file, or by its folder for files
            called scores.csv.
        metrics: that the ranking aggregates.
        alpha: of every test.
        draws: of the bootstrap over cases.
        seed: of the bootstrap.

    Raises:
        InputError: fewer than two files, equal names, different definitions of HD95 or
            nothing in common.
    """
    names = [path.resolve().parent.name if path.name == CSV else path.stem for path in csvs]
    if len(csvs) < 2 or len(set(names)) < len(names):
        raise InputError(
            f"{', '.join(map(str, csvs)) or 'no files'}: expected two or more CSV files of "
            "different names; rename them"
        )
    table = _table(names, [read_csv(path) for path in csvs], tuple(metrics))
    rng = np.random.default_rng(seed)
    cases = table.values.shape[2]
    here = _places(table, np.arange(cases)[None], alpha)
    drawn = _bootstrap(table, rng.integers(0, cases, (draws, cases)), alpha)
    standings = [_standing(table, number, here, drawn) for number in range(len(names))]
    two = [_verdict(table, number, alpha) for number in range(len(metrics))]
    return Ranking(
        tuple(sorted(standings, key=lambda standing: standing.place)),
        tuple(two) if len(names) == 2 else (),
        cases,
        int(np.count_nonzero(~np.isnan(table.values[0, 0]))),
        table.left_out,
    )


def _table(
    names: Sequence[str], submissions: Sequence[Sequence[Score]], metrics: tuple[str, ...]
) -> _Table:
    used = {score.definition for scores in submissions for score in scores}
    if len(used) > 1:
        raise InputError(
            f"{', '.join(names)}: expected one definition of HD95, found "
            f"{', '.join(sorted(used))}; evaluate them all with one --definition"
        )
    keyed = [
        {(s.case, s.structure): s for s in scores if not math.isnan(s.dsc)}
        for scores in submissions
    ]
    common = set.intersection(*(set(scores) for scores in keyed))
    if not common:
        raise InputError(f"{', '.join(names)}: expected scores of the same cases, found none")
    order = dict.fromkeys(score.structure for scores in submissions for score in scores)
    rows = {case: row for row, case in enumerate(sorted({case for case, _ in common}))}
    columns = {structure: column for column, structure in enumerate(order)}
    values = np.full((len(metrics), len(names), len(rows), len(columns)), math.nan)
    for (number, metric), (which, scores) in (
        (a, b) for a in enumerate(metrics) for b in enumerate(keyed)
    ):
        for key in common:
            place = number, which, rows[key[0]], columns[key[1]]
            values[place] = getattr(scores[key], metric)
    left_out = len(set().union(*keyed)) - len(common)
    return _Table(tuple(names), metrics, tuple(columns), values, left_out)


def gains(one: Floats, other: Floats, metric: str) -> Floats:
    """By how much one is better than the other; 0 where nothing is to be compared.

    Distances may be infinite, where a structure was missed: two infinite ones are equal,
    and beyond any finite one an infinite one counts once more than the greatest.
    """
    with np.errstate(invalid="ignore"):
        difference = other - one if metric in LOWER_IS_BETTER else one - other
    return np.nan_to_num(difference, nan=0.0, posinf=1e9, neginf=-1e9)


def p_better(difference: Floats, *, exact: bool = False) -> Floats:
    """One-sided p of Wilcoxon's signed-rank test along the last axis; zeros are dropped.

    Args:
        difference: how much one is better than the other.
        exact: by the exact distribution where scipy has it, else by the normal one.

    Returns:
        One p a row; 1 where nothing differs.
    """
    with warnings.catch_warnings():
        # Rows without any difference are answered below.
        warnings.simplefilter("ignore", RuntimeWarning)
        result = wilcoxon(
            difference,
            alternative="greater",
            zero_method="wilcox",
            method="auto" if exact else "asymptotic",
            axis=-1,
        )
    p: Floats = np.nan_to_num(np.asarray(result.pvalue, float), nan=1.0)
    return np.where((difference != 0).any(axis=-1), p, 1.0)


def _places(table: _Table, draws: NDArray[np.int64], alpha: float) -> _Places:
    """Rank on the cases of each draw; ``draws`` is (draws, cases)."""
    count = len(table.names)
    values = table.values[:, :, draws].reshape(len(table.metrics), count, len(draws), -1)
    wins = np.zeros((len(table.metrics), count, len(draws)), np.int64)
    for number, metric in enumerate(table.metrics):
        for a, b in combinations(range(count), 2):
            gain = gains(values[number, a], values[number, b], metric)
            wins[number, a] += p_better(gain) < alpha
            wins[number, b] += p_better(-gain) < alpha
    mean_ranks = rankdata(-wins, axis=1).mean(axis=0)
    # The last key counts most: the mean rank, then the metrics in their order.
    ties = [_worse(values[n], metric) for n, metric in enumerate(table.metrics)]
    order = np.lexsort([*reversed(ties), mean_ranks], axis=0)
    places = np.argsort(order, axis=0) + 1
    return _Places(wins, mean_ranks, places)


def _worse(values: Floats, metric: str) -> Floats:
    """The mean of the finite values along the last axis, so that less is better."""
    finite = np.isfinite(values)
    sums = np.where(finite, values, 0.0).sum(axis=-1)
    mean: Floats = sums / np.maximum(finite.sum(axis=-1), 1)
    return mean if metric in LOWER_IS_BETTER else -mean


def _bootstrap(table: _Table, draws: NDArray[np.int64], alpha: float) -> NDArray[np.int64]:
    """The places (submissions, draws) on cases drawn with replacement."""
    step = max(CHUNK // max(table.values.size, 1), 1)
    parts = [
        _places(table, draws[first : first + step], alpha).places
        for first in range(0, len(draws), step)
    ]
    return np.concatenate(parts, axis=1)


def _standing(table: _Table, number: int, here: _Places, drawn: NDArray[np.int64]) -> Standing:
    low, high = np.percentile(drawn[number], [2.5, 97.5], method="nearest")
    signs = [1 if metric in LOWER_IS_BETTER else -1 for metric in table.metrics]
    return Standing(
        name=table.names[number],
        means={
            metric: sign * float(_worse(table.values[n, number].ravel(), metric))
            for n, (metric, sign) in enumerate(zip(table.metrics, signs, strict=True))
        },
        wins={metric: int(here.wins[n, number, 0]) for n, metric in enumerate(table.metrics)},
        mean_rank=float(here.mean_ranks[number, 0]),
        place=int(here.places[number, 0]),
        interval=(int(low), int(high)),
        first=float(np.mean(drawn[number] == 1)),
    )


def _verdict(table: _Table, number: int, alpha: float) -> Verdict:
    """Compare the first two submissions on each structure, two-sided."""
    metric = table.metrics[number]
    tested, p_values, signs, least = [], [], [], []
    untested = []
    for column, structure in enumerate(table.structures):
        one, other = table.values[number, :2, :, column]
        present = ~np.isnan(one)
        if not present.any():
            untested.append(structure)
            continue
        gain = gains(one[present], other[present], metric)
        forth, back = (float(p_better(g, exact=True)) for g in (gain, -gain))
        tested.append(structure)
        p_values.append(min(2 * min(forth, back), 1.0))
        signs.append(1 if forth < back else -1)
        least.append(2.0 ** (1 - int(present.sum())))
    significant = holm(p_values, alpha)
    split: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for structure, sign, sure in zip(tested, signs, significant, strict=True):
        split[sign if sure else 0].append(structure)
    return Verdict(
        metric,
        table.names[0],
        table.names[1],
        tuple(split[1]),
        tuple(split[-1]),
        tuple(split[0]),
        tuple(untested),
        alpha,
        any(holm(least, alpha)),
    )


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses Holm's step-down procedure rejects (Scand J Statist 6:65, 1979)."""
    rejected = [False] * len(p_values)
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for position, index in enumerate(order):
        if p_values[index] > alpha / (len(p_values) - position):
            break
        rejected[index] = True
    return rejected


def _counted(structures: Sequence[str]) -> str:
    return f"{len(structures)} ({', '.join(structures)})" if structures else "0"


def ranking_text(ranking: Ranking) -> str:
    """The ranking as a Markdown table, with its verdicts."""
    metrics = list(ranking.standings[0].means)
    head = ["place", "95 % of draws", "first in", "submission", "mean rank"]
    head += [column for metric in metrics for column in (f"mean {metric}", f"wins {metric}")]
    rows = [head, ["---:", "---:", "---:", "---", *["---:"] * (len(head) - 4)]]
    for s in ranking.standings:
        low, high = s.interval
        row = [str(s.place), f"{low}–{high}", f"{s.first:.0%}", s.name, f"{s.mean_rank:g}"]
        for metric in metrics:
            row += [f"{s.means[metric]:.4g}", str(s.wins[metric])]
        rows.append(row)
    parts = ["\n".join("| " + " | ".join(row) + " |" for row in rows)]
    counted = f"{ranking.scores} scores of {ranking.cases} cases compared"
    if ranking.left_out:
        counted += f"; {ranking.left_out} left out, which not all submissions have"
    parts += [counted, *(verdict.text() for verdict in ranking.verdicts)]
    return "\n\n".join(parts)
