"""How far a mask is from its reference.

Definitions, for a prediction A and a reference B on one grid:

- ``dsc``: 2·|A ∩ B| / (|A| + |B|) over voxels.
- ``nsd``: normalised surface Dice at a tolerance (Nikolov et al., arXiv:1809.04430): the
  share of both surfaces' area that lies within the tolerance of the other surface.
  Always on surfels.
- ``hd95_mm``, by the definition that is asked for:

  - "surface-distance", the default: as google-deepmind's package of that name. Surfels;
    of each surface the distance that 95 % of its area does not exceed; the greater one.
  - "medpy": border voxels; the 95th percentile, interpolated, of both directions'
    distances together.
  - "evalutils": border voxels; of each direction the distance of rank ⌊0.95·(n − 1)⌋; the
    greater one.

- ``msd_mm``, the mean surface distance: for surfels, the mean distance from A's surface to
  B's and that from B's to A's, weighted by area, averaged; for border voxels the mean of
  both directions' distances together (medpy's ``assd``).
- ``volume_difference_cm3``: |A| − |B|, so that too large is positive.

The definitions of HD95 can differ by more than 100 mm on one pair of masks; a figure
without its definition means little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from oarseg.evaluation.surfaces import Surface, border_voxels, distances_mm, surface_elements
from oarseg.imaging.arrays import Doubles
from oarseg.imaging.volume import Vector
from oarseg.labels.mask import CroppedMask

Definition = Literal["surface-distance", "medpy", "evalutils"]
DEFINITIONS: tuple[Definition, ...] = get_args(Definition)
SHARE = 0.95


@dataclass(frozen=True)
class Metrics:
    """What ``compare_masks`` found; see the module's docstring for the definitions."""

    dsc: float
    hd95_mm: float
    nsd: float
    msd_mm: float
    volume_difference_cm3: float


@dataclass(frozen=True)
class _Directed:
    """Distances from one surface to the other in rising order, and the areas with them."""

    distances_mm: Doubles
    areas: Doubles

    @classmethod
    def between(cls, source: Surface, target: Surface, spacing_mm: Vector) -> _Directed:
        distances = distances_mm(source, target, spacing_mm)
        order = np.lexsort((source.areas, distances))
        return cls(distances[order], source.areas[order])

    def weighted_percentile(self) -> float:
        """The distance that ``SHARE`` of the area does not exceed."""
        reached = np.cumsum(self.areas) / np.sum(self.areas)
        index = min(int(np.searchsorted(reached, SHARE)), len(reached) - 1)
        return float(self.distances_mm[index])

    def ranked_percentile(self) -> float:
        """The distance of rank ⌊SHARE·(n − 1)⌋."""
        return float(self.distances_mm[int((len(self.distances_mm) - 1) * SHARE)])

    def mean(self) -> float:
        return float(np.sum(self.distances_mm * self.areas) / np.sum(self.areas))

    def within(self, tolerance_mm: float) -> float:
        """The area no farther than the tolerance."""
        return float(np.sum(self.areas[self.distances_mm <= tolerance_mm]))


def compare_masks(
    prediction: CroppedMask,
    reference: CroppedMask,
    *,
    spacing_mm: Vector,
    tolerance_mm: float,
    definition: Definition = "surface-distance",
) -> Metrics:
    """Compare two masks of one grid, neither of them empty.

    Args:
        prediction, reference: cut to their boxes, or not.
        spacing_mm: of the grid, along z, y, x.
        tolerance_mm: of the normalised surface Dice.
        definition: of HD95 and of the mean surface distance.

    Raises:
        ValueError: a mask is empty: what that gives is the challenge's rule.
    """
    sizes = prediction.voxels, reference.voxels
    if not all(sizes):
        raise ValueError("both masks must hold voxels")
    there, back = _directed(
        surface_elements(prediction, spacing_mm),
        surface_elements(reference, spacing_mm),
        spacing_mm,
    )
    area = float(np.sum(there.areas) + np.sum(back.areas))
    nsd = (there.within(tolerance_mm) + back.within(tolerance_mm)) / area
    if definition != "surface-distance":
        there, back = _directed(border_voxels(prediction), border_voxels(reference), spacing_mm)
    return Metrics(
        dsc=2.0 * prediction.intersection(reference) / sum(sizes),
        hd95_mm=_hd95(there, back, definition),
        nsd=nsd,
        msd_mm=_mean(there, back, definition),
        volume_difference_cm3=(sizes[0] - sizes[1]) * math.prod(spacing_mm) / 1000,
    )


def _directed(a: Surface, b: Surface, spacing_mm: Vector) -> tuple[_Directed, _Directed]:
    return _Directed.between(a, b, spacing_mm), _Directed.between(b, a, spacing_mm)


def _hd95(there: _Directed, back: _Directed, definition: Definition) -> float:
    if definition == "surface-distance":
        return max(there.weighted_percentile(), back.weighted_percentile())
    if definition == "evalutils":
        return max(there.ranked_percentile(), back.ranked_percentile())
    return float(np.percentile(_together(there, back), 100 * SHARE))


def _mean(there: _Directed, back: _Directed, definition: Definition) -> float:
    if definition == "surface-distance":
        return (there.mean() + back.mean()) / 2
    return float(np.mean(_together(there, back)))


def _together(there: _Directed, back: _Directed) -> Doubles:
    return np.concatenate([there.distances_mm, back.distances_mm])
