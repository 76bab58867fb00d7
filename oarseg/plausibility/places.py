"""Whether an organ lies where the others let expect it.

The usual places are brought onto the patient by the rigid transform that fits the other organs
best, so that neither the head's pose nor the scanner's origin matters. An organ that is out of
place counts for less the farther it is away, and does not drag the frame along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from oarseg.challenges.plausibility import UsualPlace
from oarseg.imaging.arrays import Doubles

# Fewer places fix no frame that one of them could be out of.
FEWEST = 5
ROUNDS = 20
# A standard deviation below this is of the outlining, not of the anatomy.
LEAST_SD_MM = 5.0
# Of three organs in a line, the frame could turn about it.
LEAST_SPREAD_MM = 10.0


def deviations(
    found_mm: Mapping[str, Sequence[float]], usual: Mapping[str, UsualPlace]
) -> dict[str, tuple[float, float]]:
    """Compare centroids with their usual places.

    Args:
        found_mm: organ → centroid (x, y, z), LPS, in the world.
        usual: organ → its usual place.

    Returns:
        Organ → its distance from where the others put it, in mm, and in standard deviations
        along the axis on which it is farthest off; empty where too few organs are known, or
        they lie on a line.
    """
    names = [name for name in found_mm if name in usual]
    if len(names) < FEWEST:
        return {}
    places = np.array([usual[name].mm for name in names])
    spreads = np.maximum([usual[name].sd_mm for name in names], LEAST_SD_MM)
    found = np.array([found_mm[name] for name in names])
    if np.linalg.svd(places - places.mean(0))[1][1] < LEAST_SPREAD_MM:
        return {}
    # Each organ is compared with a frame that it had no part in.
    result = {}
    for index, name in enumerate(names):
        others = np.arange(len(names)) != index
        turn, centre, shift = _fit(places[others], found[others], spreads[others])
        off = (found[index] - shift) @ turn - (places[index] - centre)
        in_sds = float(np.abs(off / spreads[index]).max())
        result[name] = (float(np.linalg.norm(off)), in_sds)
    return result


def _fit(places: Doubles, found: Doubles, spreads: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Fit a rotation and both centres; those far off weigh little (Cauchy's weights)."""
    spread = np.sqrt((spreads**2).mean(axis=1))
    certainty = 1 / spread**2
    weights = certainty
    for _ in range(ROUNDS):
        turn, centre, shift = _kabsch(places, found, weights)
        off = np.linalg.norm((found - shift) - (places - centre) @ turn.T, axis=1) / spread
        weights = certainty / (1 + off**2)
    return turn, centre, shift


def _kabsch(
    places: Doubles, found: Doubles, weights: NDArray[np.float64]
) -> tuple[Doubles, Doubles, Doubles]:
    """Return the rotation from the places to the points that fits best, and both centres."""
    share = weights / weights.sum()
    centre, shift = share @ places, share @ found
    u, _, v = np.linalg.svd(((found - shift) * share[:, None]).T @ (places - centre))
    mirror = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))])
    return u @ mirror @ v, centre, shift
