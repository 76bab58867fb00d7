"""Refine a rigid pose by a B-spline, and keep it only if it is worthwhile.

Even in a mask the neck bends by a few degrees between two scans. A stiff spline with wide
knots follows that; it could also follow noise. It is kept only if CT and MR share clearly
more information than at the rigid pose and if it folds nowhere. The verdict is always on
the rigid pose: bent enough, any head fits any other.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import RegistrationError
from oarseg.imaging.arrays import Mask
from oarseg.imaging.bspline import BSplineTransform
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.transform import Transform
from oarseg.imaging.volume import Grid, Volume
from oarseg.registration.block_matching import (
    Overlay,
    median_local_shift,
    overlay_grid,
    overlay_pair,
)
from oarseg.registration.coarse import CoarseCt, CoarseMr
from oarseg.registration.elastix import ElastixStage, fit_bspline

BSPLINE_STAGE = ElastixStage(shrink=(2, 1), iterations=100, samples=3000, max_step_mm=1.0)
KNOTS_MM = 40.0
STIFFNESS = 10000.0
MIN_GAIN = 0.02
JACOBIAN_STEP = 2  # every second voxel along each axis

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refinement:
    """Outcome of a B-spline refinement.

    Attributes:
        kept: whether the spline is part of the result.
        reason: why it was dropped; "" if kept.
        gain: relative increase of the shared information.
        mismatch_mm: block-matching mismatch after the spline.
        lowest_jacobian: smallest local volume ratio of MR to CT; 0 or less is a fold.
        farthest_mm: largest displacement of a point of the patient.
    """

    kept: bool
    reason: str
    gain: float = 0.0
    mismatch_mm: float = 0.0
    lowest_jacobian: float = 1.0
    farthest_mm: float = 0.0


def refine_bspline(
    ct: CoarseCt, mr: CoarseMr, rigid: RigidTransform, fixed: Volume, mask: Mask, moving: Volume
) -> tuple[Transform, Refinement]:
    """Refine a pose by a B-spline.

    Args:
        ct, mr: coarse copies, on which the spline is judged.
        rigid: CT world → MR world.
        fixed, mask, moving: as for ``elastix.fit_bspline``.

    Returns:
        The refined transform, or ``rigid`` itself if the spline was dropped.
    """
    try:
        bent = fit_bspline(
            fixed, mask, moving, rigid, BSPLINE_STAGE, knots_mm=KNOTS_MM, stiffness=STIFFNESS
        )
    except RegistrationError as error:
        logger.info("no B-spline: %s", error)
        return rigid, Refinement(False, "elastix found none")
    where = overlay_grid(ct, mr, rigid)
    before, after = (overlay_pair(ct, mr, transform, where=where) for transform in (rigid, bent))
    found = judge_bend(bent, before, after, where)
    return (bent if found.kept else rigid), found


def judge_bend(bent: BSplineTransform, before: Overlay, after: Overlay, where: Grid) -> Refinement:
    """Judge a spline by the overlays at the rigid pose and after the spline."""
    common = before.mask & after.mask
    was = before.within(common).information
    gain = after.within(common).information / max(was, 1e-9) - 1
    points = _patient_points(common, where)
    lowest = float(bent.jacobians(points).min()) if len(points) else 1.0
    farthest = float(np.linalg.norm(bent.displacement_mm(points), axis=1).max(initial=0.0))
    reason = ""
    if lowest <= 0:
        reason = f"it folds (Jacobian {lowest:.2f})"
    elif gain < MIN_GAIN:
        reason = f"shared information rises by {100 * gain:.1f} %, less than {100 * MIN_GAIN:.0f} %"
    return Refinement(
        not reason, reason, gain, median_local_shift(after).median_mm, lowest, farthest
    )


def _patient_points(mask: Mask, where: Grid) -> NDArray[np.float64]:
    thinned = mask[::JACOBIAN_STEP, ::JACOBIAN_STEP, ::JACOBIAN_STEP]
    return where.to_world(np.argwhere(thinned) * float(JACOBIAN_STEP))
