"""Overlap and surface metrics of two non-empty masks.

An empty mask is not handled here: ``scoring`` applies the challenge's rule for it.

Definitions, for a prediction A and a reference B on one grid:

- ``dsc``: Dice, 2·|A ∩ B| / (|A| + |B|) over voxels.
- ``nsd``: normalised surface Dice (Nikolov et al., arXiv:1809.04430): the fraction of both
  surfaces' area within the tolerance of the other surface. Always computed on surfels.
- ``hd95_mm``: 95th percentile Hausdorff distance, in one of three definitions:

  - "surface-distance", the default: as in google-deepmind's package of that name. On
    surfels; the distance that 95 % of a surface's area does not exceed; maximum of both
    directions.
  - "medpy": on border voxels; interpolated 95th percentile of both directions pooled.
  - "evalutils": on border voxels; the distance of rank ⌊0.95·(n − 1)⌋; maximum of both
    directions.

- ``msd_mm``: mean surface distance. On surfels, the mean of both directions' area-weighted
  means; on border voxels, the mean of both directions pooled (medpy's ``assd``).
- ``volume_difference_cm3``: |A| − |B|; positive if the prediction is too large.

The definitions of HD95 can differ by more than 100 mm on the same pair of masks. Never
report the figure without its definition.
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
    """Metrics of one pair of masks; defined in the module's docstring."""

    dsc: float
    hd95_mm: float
    nsd: float
    msd_mm: float
    volume_difference_cm3: float


@dataclass(frozen=True)
class _Distances:
    """Distances from one surface to the other, ascending, with the area of each point."""

    distances_mm: Doubles
    areas: Doubles

    @classmethod
    def between(cls, source: Surface, target: Surface, spacing_mm: Vector) -> _Distances:
        distances = distances_mm(source, target, spacing_mm)
        order = np.lexsort((source.areas, distances))
        return cls(distances[order], source.areas[order])

    def weighted_percentile(self) -> float:
        """Return the distance that ``SHARE`` of the area does not exceed."""
        reached = np.cumsum(self.areas) / np.sum(self.areas)
        index = min(int(np.searchsorted(reached, SHARE)), len(reached) - 1)
        return float(self.distances_mm[index])

    def ranked_percentile(self) -> float:
        """Return the distance of rank ⌊SHARE·(n − 1)⌋."""
        return float(self.distances_mm[int((len(self.distances_mm) - 1) * SHARE)])

    def mean(self) -> float:
        return float(np.sum(self.distances_mm * self.areas) / np.sum(self.areas))

    def area_within(self, tolerance_mm: float) -> float:
        """Return the area within the tolerance."""
        return float(np.sum(self.areas[self.distances_mm <= tolerance_mm]))


def compare_masks(
    prediction: CroppedMask,
    reference: CroppedMask,
    *,
    spacing_mm: Vector,
    tolerance_mm: float,
    definition: Definition = "surface-distance",
) -> Metrics:
    """Compare two non-empty masks on one grid.

    Args:
        prediction, reference: masks, cropped or not.
        spacing_mm: spacing of the grid along z, y, x.
        tolerance_mm: tolerance of the normalised surface Dice.
        definition: definition of HD95 and of the mean surface distance.

    Raises:
        ValueError: a mask is empty.
    """
    sizes = prediction.voxels, reference.voxels
    if not all(sizes):
        raise ValueError("both masks must hold voxels")
    forward, backward = _measure_both_ways(
        surface_elements(prediction, spacing_mm),
        surface_elements(reference, spacing_mm),
        spacing_mm,
    )
    area = float(np.sum(forward.areas) + np.sum(backward.areas))
    nsd = (forward.area_within(tolerance_mm) + backward.area_within(tolerance_mm)) / area
    if definition != "surface-distance":
        forward, backward = _measure_both_ways(
            border_voxels(prediction), border_voxels(reference), spacing_mm
        )
    return Metrics(
        dsc=2.0 * prediction.intersection(reference) / sum(sizes),
        hd95_mm=_hd95(forward, backward, definition),
        nsd=nsd,
        msd_mm=_mean_surface_distance(forward, backward, definition),
        volume_difference_cm3=(sizes[0] - sizes[1]) * math.prod(spacing_mm) / 1000,
    )


def _measure_both_ways(a: Surface, b: Surface, spacing_mm: Vector) -> tuple[_Distances, _Distances]:
    return _Distances.between(a, b, spacing_mm), _Distances.between(b, a, spacing_mm)


def _hd95(forward: _Distances, backward: _Distances, definition: Definition) -> float:
    if definition == "surface-distance":
        return max(forward.weighted_percentile(), backward.weighted_percentile())
    if definition == "evalutils":
        return max(forward.ranked_percentile(), backward.ranked_percentile())
    return float(np.percentile(_pool_distances(forward, backward), 100 * SHARE))


def _mean_surface_distance(
    forward: _Distances, backward: _Distances, definition: Definition
) -> float:
    if definition == "surface-distance":
        return (forward.mean() + backward.mean()) / 2
    return float(np.mean(_pool_distances(forward, backward)))


def _pool_distances(forward: _Distances, backward: _Distances) -> Doubles:
    return np.concatenate([forward.distances_mm, backward.distances_mm])
