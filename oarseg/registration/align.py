"""MR → CT registration that finds the patient and says whether it has.

The headers' alignment is one start among those of an exhaustive search over shifts
(``search``); elastix refines each on a coarse grid and the best one on a 2 mm grid
(``elastix``). Every pose is measured by the same score (``information``), and the best
measured pose is the result: it is never worse than the headers'. A B-spline may refine
it (``deformable``); the verdict is the rigid pose's.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from scipy import ndimage

from oarseg.errors import RegistrationError
from oarseg.imaging.arrays import Image, Mask
from oarseg.imaging.grids import COARSE_MM, crop_volume
from oarseg.imaging.intensities import AIR_HU
from oarseg.imaging.regrid import covered_box, resample_nearest
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.transform import Transform
from oarseg.imaging.volume import Grid, Vector, Volume
from oarseg.registration.coarse import CoarseCt, CoarseMr, coarse_ct, coarse_mr
from oarseg.registration.deformable import Refinement, refine_bspline
from oarseg.registration.elastix import ElastixStage, refine_rigid
from oarseg.registration.information import OverlapScore, Scorer
from oarseg.registration.local import median_local_shift, overlay_pair
from oarseg.registration.search import APART_MM, find_starts
from oarseg.registration.verdict import Verdict, judge_pose

Method = Literal["rigid", "bspline", "none"]

QUICK = ElastixStage(shrink=(2, 1), iterations=50, samples=1500, max_step_mm=4.0)
FINAL_STAGE = ElastixStage(shrink=(2, 1), iterations=150, samples=3000, max_step_mm=1.0)
REGISTRATION_WINDOW_HU = (-1000.0, 1000.0)
SOFT_HU = (-100.0, 100.0)
OTHER_SLOPE = 0.05
SAMPLED_MM = 12.0
# A start is refined if it has this share of the best start's score. The right place has been the
# best start or within 2 % of it, the wrong ones below 0.25 wherever there is a right one.
HOPEFUL = 1 / 3
MIN_FIELD_OVERLAP = 0.25
MR_CLIP_PERCENTILE = 99.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registration:
    """The result.

    Attributes:
        transform: CT world → MR world.
        verdict: whether it may be used; of the rigid part.
        seconds: wall time.
        refinement: what became of the B-spline; None where none was tried.
    """

    transform: Transform
    verdict: Verdict
    seconds: float
    refinement: Refinement | None = None


@dataclass(frozen=True)
class MeasuredPose:
    """A measured pose."""

    transform: RigidTransform
    score: OverlapScore


def register_mr(
    ct: Volume, mr: Volume, *, method: Method = "rigid", threads: int = 0
) -> Registration:
    """Find the transform from CT world to MR world.

    Args:
        ct: HU.
        mr: any intensity scale.
        method: ``rigid``; ``bspline`` refines the rigid pose where that is worth it;
            ``none`` takes the headers at their word and only judges them.
        threads: for the search; 0 takes all cores. The result does not depend on it.

    Raises:
        RegistrationError: no patient in one of the images.
    """
    begin = time.perf_counter()
    small_ct, small_mr = coarse_ct(ct), coarse_mr(mr)
    scorer = Scorer(small_ct, small_mr)
    poses = [_measured(RigidTransform(), scorer)]
    if method != "none":
        poses = _found(small_ct, small_mr, poses[0], scorer, threads or os.cpu_count() or 1)
    best, *others = poses
    centre = _centre(mr.grid)
    rival = max((p.score.value for p in others if _apart(p, best, centre)), default=0.0)
    parts = median_local_shift(overlay_pair(small_ct, small_mr, best.transform))
    verdict = judge_pose(
        best.transform,
        scorer,
        centre,
        rival_score=rival,
        mismatch_mm=parts.median_mm,
        coarsest_mm=max(*ct.grid.spacing_mm, *mr.grid.spacing_mm),
    )
    transform: Transform = best.transform
    refinement = None
    if method == "bspline" and verdict.status != "failed":
        moving = _clipped(small_mr)
        fixed, mask = _fixed(small_ct.fine, small_ct, moving.grid, best.transform)
        transform, refinement = refine_bspline(
            small_ct, small_mr, best.transform, fixed, mask, moving
        )
    return Registration(transform, verdict, time.perf_counter() - begin, refinement)


def _found(
    ct: CoarseCt, mr: CoarseMr, headers: MeasuredPose, scorer: Scorer, workers: int
) -> list[MeasuredPose]:
    """The best pose, finely refined, and all that were tried, the hopeful coarsely refined."""
    starts = [headers]
    starts += [_measured(s.transform, scorer) for s in find_starts(ct, mr, workers=workers)]
    enough = HOPEFUL * max(start.score.value for start in starts)
    quick = [
        _refined(ct, mr, start, scorer) if start.score.value >= enough else start
        for start in starts
    ]
    return [_polished(ct, mr, max(quick, key=_value), scorer), *quick]


def _measured(transform: RigidTransform, scorer: Scorer) -> MeasuredPose:
    return MeasuredPose(transform, scorer(transform))


def _value(pose: MeasuredPose) -> float:
    return pose.score.value


def _refined(ct: CoarseCt, mr: CoarseMr, start: MeasuredPose, scorer: Scorer) -> MeasuredPose:
    """The better of a start and its refinement on the coarse grid."""
    moving = mr.field.with_array(np.nan_to_num(mr.field.array))
    return _improved(ct.body, ct, moving, start, scorer, QUICK)


def _polished(ct: CoarseCt, mr: CoarseMr, start: MeasuredPose, scorer: Scorer) -> MeasuredPose:
    """The better of a pose and its refinement on the fine grid."""
    return _improved(ct.fine, ct, _clipped(mr), start, scorer, FINAL_STAGE)


def _clipped(mr: CoarseMr) -> Volume:
    """The fine MR without its brightest voxels, which would stretch elastix's bins."""
    high = np.percentile(mr.field.array[mr.foreground], MR_CLIP_PERCENTILE)
    return mr.fine.with_array(np.minimum(mr.fine.array, np.float32(high)))


def _improved(
    image: Volume,
    ct: CoarseCt,
    moving: Volume,
    start: MeasuredPose,
    scorer: Scorer,
    stage: ElastixStage,
) -> MeasuredPose:
    if start.score.overlap < MIN_FIELD_OVERLAP:
        return start
    fixed, mask = _fixed(image, ct, moving.grid, start.transform)
    try:
        transform = refine_rigid(fixed, mask, moving, start.transform, stage)
    except RegistrationError as error:
        # The start stands as it was measured, and the verdict will say what it is worth.
        logger.info("a pose was left as it was: %s", error)
        return start
    return max((start, _measured(transform, scorer)), key=_value)


def _fixed(image: Volume, ct: CoarseCt, mr: Grid, start: RigidTransform) -> tuple[Volume, Mask]:
    """The windowed part of a CT that the MR covers, and where to draw samples in it."""
    part = crop_volume(image, *covered_box(mr, start, image.grid))
    near = ndimage.binary_dilation(ct.mask, iterations=round(SAMPLED_MM / COARSE_MM))
    near &= ~np.isnan(ct.body.array)
    mask = resample_nearest(Volume(near, ct.body.grid), part.grid)
    return part.with_array(_spread(np.nan_to_num(part.array, nan=AIR_HU))), mask


def _spread(hu: Image) -> Image:
    """HU with the soft tissues drawn apart, so that elastix's even bins tell them apart."""
    soft = np.clip(hu, *SOFT_HU)
    return soft + np.float32(OTHER_SLOPE) * (np.clip(hu, *REGISTRATION_WINDOW_HU) - soft)


def _apart(one: MeasuredPose, other: MeasuredPose, centre: Vector) -> bool:
    """Whether two poses put the MR's centre in different places of the CT."""
    point = np.array([centre])
    gap = one.transform.inverse().apply(point) - other.transform.inverse().apply(point)
    return float(np.linalg.norm(gap)) > APART_MM


def _centre(grid: Grid) -> Vector:
    middle = grid.to_world((np.array([grid.shape]) - 1) / 2)[0]
    return cast(Vector, tuple(middle.tolist()))
