"""Register an MR to a CT and judge the result: the steps in order, and their settings.

An exhaustive search over shifts (``search``) gives the starting poses; the headers'
alignment is one more. elastix (``elastix``, with the stages defined here) refines each on a
coarse grid and the best one on a 2 mm grid. One score (``information``) measures every
pose, and the best measured pose is the result, so it is never worse than the headers'. A
B-spline may refine it (``deformable``); the verdict (``verdict``) is on the rigid pose.
"""

from __future__ import annotations

import logging
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
from oarseg.registration.block_matching import median_local_shift, overlay_pair
from oarseg.registration.coarse import CoarseCt, CoarseMr, coarse_ct, coarse_mr
from oarseg.registration.deformable import Refinement, refine_bspline
from oarseg.registration.elastix import ElastixStage, begin_loading, refine_rigid
from oarseg.registration.information import OverlapScore, Scorer
from oarseg.registration.search import APART_MM, find_starts
from oarseg.registration.verdict import Verdict, judge_pose
from oarseg.system.cpus import available_cpus

Method = Literal["rigid", "bspline", "none"]

COARSE_STAGE = ElastixStage(shrink=(2, 1), iterations=50, samples=1500, max_step_mm=4.0)
FINAL_STAGE = ElastixStage(shrink=(2, 1), iterations=150, samples=3000, max_step_mm=1.0)
REGISTRATION_WINDOW_HU = (-1000.0, 1000.0)
SOFT_HU = (-100.0, 100.0)
OTHER_SLOPE = 0.05
SAMPLED_MM = 12.0
# A start is refined if it reaches this fraction of the best start's score. The right place was
# always the best start or within 2 % of it, and wrong ones below 0.25 where there is a right one.
MIN_START_FRACTION = 1 / 3
MIN_FIELD_OVERLAP = 0.25
MR_CLIP_PERCENTILE = 99.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registration:
    """Result of a registration.

    Attributes:
        transform: CT world → MR world.
        verdict: whether the transform may be used; judges its rigid part.
        seconds: wall time.
        refinement: outcome of the B-spline; None if none was tried.
    """

    transform: Transform
    verdict: Verdict
    seconds: float
    refinement: Refinement | None = None


@dataclass(frozen=True)
class MeasuredPose:
    """A pose (CT world → MR world) and its score."""

    transform: RigidTransform
    score: OverlapScore


def register_mr(
    ct: Volume, mr: Volume, *, method: Method = "rigid", threads: int = 0
) -> Registration:
    """Find the transform from CT world to MR world.

    Args:
        ct: CT in HU.
        mr: MR on any intensity scale.
        method: ``rigid``; ``bspline`` also refines the rigid pose where worthwhile; ``none``
            only judges the headers' alignment.
        threads: 0 uses all cores of this process. The result does not depend on them.

    Raises:
        RegistrationError: no patient found in one of the images.
    """
    begin = time.perf_counter()
    threads = threads or available_cpus()
    small_ct, small_mr = coarse_ct(ct, threads=threads), coarse_mr(mr)
    if method != "none":
        # Beside the search, whose FFTs leave Python to others for a hundredth of a second each.
        # Work in smaller pieces, as reading and block means are, waits for Python at each of them.
        begin_loading()
    scorer = Scorer(small_ct, small_mr)
    poses = [_measure_pose(RigidTransform(), scorer)]
    if method != "none":
        poses = _search_poses(small_ct, small_mr, poses[0], scorer, threads)
    best, *others = poses
    centre = _grid_centre(mr.grid)
    rival = max((p.score.value for p in others if _lie_apart(p, best, centre)), default=0.0)
    pair = overlay_pair(small_ct, small_mr, best.transform, threads=threads)
    mismatch = median_local_shift(pair, threads=threads)
    verdict = judge_pose(
        best.transform,
        scorer,
        centre,
        rival_score=rival,
        mismatch_mm=mismatch.median_mm,
        coarsest_mm=max(*ct.grid.spacing_mm, *mr.grid.spacing_mm),
        threads=threads,
    )
    transform: Transform = best.transform
    refinement = None
    if method == "bspline" and verdict.status != "failed":
        moving = _clip_bright_voxels(small_mr)
        fixed, mask = _prepare_fixed_image(small_ct.fine, small_ct, moving.grid, best.transform)
        transform, refinement = refine_bspline(
            small_ct, small_mr, best.transform, fixed, mask, moving
        )
    return Registration(transform, verdict, time.perf_counter() - begin, refinement)


def _search_poses(
    ct: CoarseCt, mr: CoarseMr, headers: MeasuredPose, scorer: Scorer, workers: int
) -> list[MeasuredPose]:
    """Return the best pose after fine refinement, then all poses tried."""
    starts = [headers]
    starts += [_measure_pose(s.transform, scorer) for s in find_starts(ct, mr, workers=workers)]
    enough = MIN_START_FRACTION * max(start.score.value for start in starts)
    quick = [
        _refine_coarsely(ct, mr, start, scorer) if start.score.value >= enough else start
        for start in starts
    ]
    return [_refine_finely(ct, mr, max(quick, key=_score_of), scorer), *quick]


def _measure_pose(transform: RigidTransform, scorer: Scorer) -> MeasuredPose:
    return MeasuredPose(transform, scorer(transform))


def _score_of(pose: MeasuredPose) -> float:
    return pose.score.value


def _refine_coarsely(
    ct: CoarseCt, mr: CoarseMr, start: MeasuredPose, scorer: Scorer
) -> MeasuredPose:
    """Return the better of a start and its refinement on the coarse grid."""
    moving = mr.field.with_array(np.nan_to_num(mr.field.array))
    return _refine_with_elastix(ct.body, ct, moving, start, scorer, COARSE_STAGE)


def _refine_finely(ct: CoarseCt, mr: CoarseMr, start: MeasuredPose, scorer: Scorer) -> MeasuredPose:
    """Return the better of a pose and its refinement on the fine grid."""
    return _refine_with_elastix(ct.fine, ct, _clip_bright_voxels(mr), start, scorer, FINAL_STAGE)


def _clip_bright_voxels(mr: CoarseMr) -> Volume:
    """Clip the brightest voxels of the fine MR, which would stretch elastix's bins."""
    high = np.percentile(mr.field.array[mr.foreground], MR_CLIP_PERCENTILE)
    return mr.fine.with_array(np.minimum(mr.fine.array, np.float32(high)))


def _refine_with_elastix(
    image: Volume,
    ct: CoarseCt,
    moving: Volume,
    start: MeasuredPose,
    scorer: Scorer,
    stage: ElastixStage,
) -> MeasuredPose:
    if start.score.overlap < MIN_FIELD_OVERLAP:
        return start
    fixed, mask = _prepare_fixed_image(image, ct, moving.grid, start.transform)
    try:
        transform = refine_rigid(fixed, mask, moving, start.transform, stage)
    except RegistrationError as error:
        # Keep the start as measured; the verdict judges it.
        logger.info("a pose was left as it was: %s", error)
        return start
    return max((start, _measure_pose(transform, scorer)), key=_score_of)


def _prepare_fixed_image(
    image: Volume, ct: CoarseCt, mr: Grid, start: RigidTransform
) -> tuple[Volume, Mask]:
    """Return the windowed part of a CT that the MR covers, and the mask to sample in."""
    part = crop_volume(image, *covered_box(mr, start, image.grid))
    near = ndimage.binary_dilation(ct.mask, iterations=round(SAMPLED_MM / COARSE_MM))
    near &= ~np.isnan(ct.body.array)
    mask = resample_nearest(Volume(near, ct.body.grid), part.grid)
    return part.with_array(_stretch_soft_tissue(np.nan_to_num(part.array, nan=AIR_HU))), mask


def _stretch_soft_tissue(hu: Image) -> Image:
    """Stretch the contrast of soft tissue, so that elastix's equal bins resolve it."""
    soft = np.clip(hu, *SOFT_HU)
    return soft + np.float32(OTHER_SLOPE) * (np.clip(hu, *REGISTRATION_WINDOW_HU) - soft)


def _lie_apart(one: MeasuredPose, other: MeasuredPose, centre: Vector) -> bool:
    """Whether two poses place the MR's centre more than ``APART_MM`` apart in the CT."""
    point = np.array([centre])
    gap = one.transform.inverse().apply(point) - other.transform.inverse().apply(point)
    return float(np.linalg.norm(gap)) > APART_MM


def _grid_centre(grid: Grid) -> Vector:
    middle = grid.to_world((np.array([grid.shape]) - 1) / 2)[0]
    return cast(Vector, tuple(middle.tolist()))
