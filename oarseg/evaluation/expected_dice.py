"""The Dice to expect of an organ by how far an ensemble's folds agree, learned from a few cases.

A straight line of least squares through (agreement, Dice), whose slope is shrunk by 1 - 1/F, where
F is the regression's F statistic: van Houwelingen and le Cessie, "Predictive value of statistical
models", Statistics in Medicine 9 (1990) 1303-1325, for one variable. Where F is 1 or less, where
the slope falls, and with fewer than ``FEWEST_FOR_A_LINE`` cases, the slope is 0: the mean Dice is
expected of every case. The error is the root mean square over the cases, each predicted by what
the others teach (leave-one-out; Stone, Journal of the Royal Statistical Society B 36 (1974)
111-147), shrinking and clipping included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from oarseg.model.calibration import FEWEST_CASES, ROUNDING, STEEPEST, OrganCalibration

# Ten cases for each thing that is learned, as usual (Harrell, Regression Modeling Strategies, 4.4).
FEWEST_FOR_A_LINE: Final = 10


def calibrate_organ(
    organ: str, agreement: Sequence[float], dice: Sequence[float]
) -> OrganCalibration | None:
    """Learn what Dice to expect of an organ.

    Args:
        organ: its name.
        agreement: mean pairwise Dice of the folds, for each case.
        dice: with the truth, for each case.

    Returns:
        None for fewer than ``FEWEST_CASES`` cases.
    """
    found, truth = np.asarray(agreement, float), np.asarray(dice, float)
    count = len(found)
    if count < FEWEST_CASES:
        return None
    line = count >= FEWEST_FOR_A_LINE
    others = [np.arange(count) != case for case in range(count)]
    wrong = [
        truth[case] - _fit(found[kept], truth[kept], line=line).at(found[case])
        for case, kept in enumerate(others)
    ]
    fit = _fit(found, truth, line=line)
    return OrganCalibration(
        organ=organ,
        cases=count,
        lowest_agreement=fit.lowest,
        highest_agreement=fit.highest,
        mean_agreement=fit.middle,
        mean_dice=fit.dice,
        slope=fit.slope,
        error=min(float(np.sqrt(np.mean(np.square(wrong)))), 1.0),
    )


@dataclass(frozen=True)
class _Fit:
    """A line through (middle, dice), known from the lowest to the highest agreement."""

    lowest: float
    highest: float
    middle: float
    dice: float
    slope: float

    def at(self, agreement: float) -> float:
        """Return the Dice at an agreement, or at the nearest one that is known."""
        known = min(max(agreement, self.lowest), self.highest)
        return min(max(self.dice + self.slope * (known - self.middle), 0.0), 1.0)


def _fit(agreement: NDArray[np.float64], dice: NDArray[np.float64], *, line: bool) -> _Fit:
    lowest, highest = float(agreement.min()), float(agreement.max())
    return _Fit(
        lowest,
        highest,
        middle=min(max(float(agreement.mean()), lowest), highest),
        dice=min(max(float(dice.mean()), 0.0), 1.0),
        slope=shrunken_slope(agreement, dice) if line and highest - lowest > ROUNDING else 0.0,
    )


def shrunken_slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the slope of y over x, shrunk by 1 - 1/F; 0 where it falls or F is 1 or less."""
    across, along = x - x.mean(), y - y.mean()
    spread = float(across @ across)
    slope = float(across @ along) / spread
    if slope <= 0:
        return 0.0
    left = along - slope * across
    explained, residual = slope**2 * spread, float(left @ left) / (len(x) - 2)
    # 1 - 1/F, without a division by the residuals of a perfect line.
    return min(slope * max(0.0, 1 - residual / explained), STEEPEST)
