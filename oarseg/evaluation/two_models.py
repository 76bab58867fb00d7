"""Two submissions compared: Wilcoxon's signed-rank test and a plain verdict."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from oarseg.imaging.arrays import Doubles

LOWER_IS_BETTER = frozenset({"hd95_mm", "msd_mm"})
# Stands for an infinite distance in sums and differences: beyond any finite one.
NO_SURFACE_MM = 1e9


@dataclass(frozen=True)
class Comparison:
    """Two submissions compared on each structure by one metric.

    Attributes:
        metric: which.
        first, second: names.
        better, worse, undecided: structures on which the first is significantly better,
            significantly worse, and neither.
        untested: structures that no case has a score for.
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


def _counted(structures: Sequence[str]) -> str:
    return f"{len(structures)} ({', '.join(structures)})" if structures else "0"


def compare_two(
    values: Doubles,
    *,
    names: tuple[str, str],
    structures: Sequence[str],
    metric: str,
    alpha: float,
) -> Comparison:
    """Compare two submissions on each structure, two-sided.

    Args:
        values: (2, cases, structures); NaN, for both, where there is no score.
        names: of the submissions.
        structures: names.
        metric: what the values are.
        alpha: level of the whole family of tests.
    """
    tested, p_values, signs, least, untested = [], [], [], [], []
    for column, structure in enumerate(structures):
        one, other = values[:, :, column]
        present = ~np.isnan(one)
        if not present.any():
            untested.append(structure)
            continue
        gain = paired_gains(one[present], other[present], metric)
        forth, back = (float(p_better(g, exact=True)) for g in (gain, -gain))
        tested.append(structure)
        p_values.append(min(2 * min(forth, back), 1.0))
        signs.append(1 if forth < back else -1)
        least.append(2.0 ** (1 - int(present.sum())))
    significant = holm_rejections(p_values, alpha)
    split: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for structure, sign, sure in zip(tested, signs, significant, strict=True):
        split[sign if sure else 0].append(structure)
    return Comparison(
        metric,
        *names,
        better=tuple(split[1]),
        worse=tuple(split[-1]),
        undecided=tuple(split[0]),
        untested=tuple(untested),
        alpha=alpha,
        decidable=any(holm_rejections(least, alpha)),
    )


def paired_gains(one: Doubles, other: Doubles, metric: str) -> Doubles:
    """By how much one is better than the other; 0 where nothing is to be compared.

    Distances may be infinite, where a structure was missed: two infinite ones are equal,
    and an infinite one is farther from any finite one than those are from each other.
    """
    with np.errstate(invalid="ignore"):
        difference = other - one if metric in LOWER_IS_BETTER else one - other
    return np.nan_to_num(difference, nan=0.0, posinf=NO_SURFACE_MM, neginf=-NO_SURFACE_MM)


def p_better(difference: Doubles, *, exact: bool = False) -> Doubles:
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
    p: Doubles = np.nan_to_num(np.asarray(result.pvalue, float), nan=1.0)
    return np.where((difference != 0).any(axis=-1), p, 1.0)


def holm_rejections(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses Holm's step-down procedure rejects (Scand J Statist 6:65, 1979)."""
    rejected = [False] * len(p_values)
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for position, index in enumerate(order):
        if p_values[index] > alpha / (len(p_values) - position):
            break
        rejected[index] = True
    return rejected
