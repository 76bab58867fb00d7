"""Target registration error at landmarks, and the limits of AAPM TG-132."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Points
from oarseg.imaging.transform import Transform

TG132_MEAN_MM = 2.0
TG132_MAX_MM = 5.0


@dataclass(frozen=True)
class Accuracy:
    """Summary of the target registration errors of one pair, in mm."""

    mean_mm: float
    sd_mm: float
    max_mm: float

    @property
    def meets_tg132(self) -> bool:
        """Whether mean < 2 mm and maximum < 5 mm (Brock et al., Med Phys 2017)."""
        return self.mean_mm < TG132_MEAN_MM and self.max_mm < TG132_MAX_MM


def target_registration_errors(
    transform: Transform, ct_points_mm: Points, mr_points_mm: Points
) -> NDArray[np.float64]:
    """Return the distance of each mapped CT landmark from the same landmark in the MR.

    Args:
        transform: CT world → MR world.
        ct_points_mm: (n, 3), world x y z.
        mr_points_mm: (n, 3), in the same order.

    Returns:
        (n,) distances in mm.

    Raises:
        ValueError: the arrays differ in shape or are empty.
    """
    if ct_points_mm.shape != mr_points_mm.shape or not len(ct_points_mm):
        raise ValueError(f"landmarks {ct_points_mm.shape} and {mr_points_mm.shape} do not pair")
    errors = np.linalg.norm(transform.apply(ct_points_mm) - mr_points_mm, axis=1)
    return cast(NDArray[np.float64], errors)


def landmark_accuracy(transform: Transform, ct_points_mm: Points, mr_points_mm: Points) -> Accuracy:
    """Summarise the errors: mean, SD (n − 1; 0 for a single landmark) and maximum."""
    errors = target_registration_errors(transform, ct_points_mm, mr_points_mm)
    spread = float(errors.std(ddof=1)) if len(errors) > 1 else 0.0
    return Accuracy(float(errors.mean()), spread, float(errors.max()))
