"""Compare two submissions by Wilcoxon's signed-rank test, with a verdict in words."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from oarseg.imaging.arrays import Doubles

LOWER_IS_BETTER = frozenset({"hd95_mm", "msd_mm"})
# Replaces an infinite distance in sums and differences; larger than any finite one.
NO_SURFACE_MM = 1e9


@dataclass(frozen=True)
class Comparison:
    """Comparison of two submissions on each structure by one metric.

    Attributes:
        metric: name of the metric.
        first, second: names of the submissions.
        better, worse, undecided: structures on which the first is significantly better,
            significantly worse, or neither.
        untested: structures without any score.
        alpha: family-wise significance level, by Holm's correction.
        decidable: whether any result could be significant with this few cases.
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
        """Format the verdict as one sentence."""
        tests = len(self.better) + len(self.worse) + len(self.undecided)
        text = (
            f"{self.first} against {self.second} by {self.metric}: better on "
            f"{_format_structures(self.better)}, worse on {_format_structures(self.worse)}, "
            f"no evidence on {len(self.undecided)} (α = {self.alpha:g}, "
            f"Holm-corrected over {tests} structures)"
        )
        if self.untested:
            text += f"; not compared: {', '.join(self.untested)}"
        if not self.decidable:
            text += "; too few cases for any difference to be significant"
        return text


def _format_structures(structures: Sequence[str]) -> str:
    return f"{len(structures)} ({', '.join(structures)})" if structures else "0"


def compare_two(
    values: Doubles,
    *,
    names: tuple[str, str],
    structures: Sequence[str],
    metric: str,
    alpha: float,
) -> Comparison:
    """Compare two submissions on each structure by two-sided tests.

    Args:
        values: (2, cases, structures); NaN for both where there is no score.
        names: names of the submissions.
        structures: names of the structures.
        metric: metric of the values.
        alpha: family-wise significance level.
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
    """Return by how much the first value is better than the second; 0 if neither exists.

    The distance of a missed structure may be infinite. Two infinite distances are equal;
    an infinite one is worse than a finite one by more than finite ones can differ.
    """
    with np.errstate(invalid="ignore"):
        difference = other - one if metric in LOWER_IS_BETTER else one - other
    return np.nan_to_num(difference, nan=0.0, posinf=NO_SURFACE_MM, neginf=-NO_SURFACE_MM)


def p_better(difference: Doubles, *, exact: bool = False) -> Doubles:
    """Return one-sided p-values of Wilcoxon's signed-rank test along the last axis.

    Zero differences are dropped.

    Args:
        difference: how much one submission is better than the other.
        exact: use the exact distribution where scipy has it, else the normal one.

    Returns:
        One p-value per row; 1 where nothing differs.
    """
    if exact and difference.shape[-1] == 1:
        # SciPy refuses a single pair that does not differ; of one that does, W is 0 or 1.
        return np.where(difference[..., 0] > 0, 0.5, 1.0)
    with warnings.catch_warnings():
        # Rows without any difference are handled below.
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
    """Return which hypotheses Holm's step-down procedure rejects (Scand J Statist 6:65, 1979)."""
    rejected = [False] * len(p_values)
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for position, index in enumerate(order):
        if p_values[index] > alpha / (len(p_values) - position):
            break
        rejected[index] = True
    return rejected
