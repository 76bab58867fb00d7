"""Judge whether a registration may be trusted.

The true pose is a sharp, isolated peak of the score: a small shift or rotation lowers it
clearly, and no other pose comes close. A wrong pose, or an MR of another head, is on a
plateau or has rivals. The verdict rests on the peak's height over its surroundings and its
rivals, the overlap of the fields of view and the plausibility of the rotation. Left and
right are too similar for this to detect a mirrored MR.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Vector
from oarseg.registration.information import OverlapScore

VerdictStatus = Literal["good", "doubtful", "failed"]


@dataclass(frozen=True)
class Thresholds:
    """Limits of the verdict: ``good`` meets every good limit, ``failed`` breaks a failed one.

    Provisional. 22 phantom pairs and 12 moves of a real template pair: all good (contrast
    0.18 to 0.26 and 0.11 to 0.15). 30 phantom pairs that must not pass (noise, flipped top to
    bottom or front to back, another patient scaled by 20 %, a region outside the CT): none
    good, one doubtful (contrast 0.01 to 0.05; noise has no information). Another patient of
    the same size was good in 6 of 6: these limits do not detect it.

    Attributes:
        good_information, failed_information: score divided by overlap.
        good_contrast, failed_contrast: fraction of the score lost, on average, when the pose
            is perturbed.
        good_rival, failed_rival: best score found elsewhere, as a fraction of this one.
        good_overlap, failed_overlap: fraction of the MR's patient in the CT's field of view.
        good_angle_deg, failed_angle_deg: angle of the rotation.
        good_mismatch_mm: mismatch of the head's blocks, see ``block_matching``. Exceeding it
            is only a warning, since its value in patients is not known.
        slice_mm: for voxels longer than this, the limit on the mismatch grows in proportion,
            as blocks cannot be placed more precisely than their voxels.
        shift_mm, turn_deg: perturbations along and about each axis, in both directions.
    """

    good_information: float = 0.10
    failed_information: float = 0.05
    good_contrast: float = 0.08
    failed_contrast: float = 0.05
    good_rival: float = 0.6
    failed_rival: float = 0.95
    good_overlap: float = 0.6
    failed_overlap: float = 0.3
    good_angle_deg: float = 15.0
    failed_angle_deg: float = 30.0
    good_mismatch_mm: float = 1.5
    slice_mm: float = 5.0
    shift_mm: float = 8.0
    turn_deg: float = 6.0


@dataclass(frozen=True)
class Verdict:
    """Judgement of a registration and its figures.

    Attributes:
        status: ``good``, ``doubtful`` (use with a warning) or ``failed`` (do not use).
        score: overlap × symmetric uncertainty, in [0, 1].
        information, contrast, rival, overlap, angle_deg, mismatch_mm: see ``Thresholds``.
        reasons: one clause per limit that was not met.
    """

    status: VerdictStatus
    score: float
    information: float
    contrast: float
    overlap: float
    angle_deg: float
    reasons: tuple[str, ...]
    rival: float = 0.0
    mismatch_mm: float = 0.0


def judge_pose(
    transform: RigidTransform,
    score: Callable[[RigidTransform], OverlapScore],
    centre_mm: Vector,
    *,
    rival_score: float = 0.0,
    mismatch_mm: float = 0.0,
    coarsest_mm: float = 0.0,
    limits: Thresholds | None = None,
    threads: int = 1,
) -> Verdict:
    """Judge a pose (CT world → MR world).

    Args:
        transform: the pose.
        score: scores a pose, see ``information``.
        centre_mm: MR world point about which the perturbations rotate.
        rival_score: score of the best pose found elsewhere.
        mismatch_mm: mismatch of the blocks at this pose.
        coarsest_mm: longest voxel edge in both images.
        limits: None for the defaults.
        threads: of the scoring; the result does not depend on them.
    """
    limits = limits or Thresholds()
    here = score(transform)
    others = [other.after(transform) for other in _perturbing_transforms(centre_mm, limits)]
    with ThreadPoolExecutor(threads) as pool:
        around = [found.value for found in pool.map(score, others)]
    contrast = 1 - float(np.mean(around)) / max(here.value, 1e-9)
    rival = rival_score / max(here.value, 1e-9)
    information = here.value / max(here.overlap, 1e-9)
    angle = transform.angle_deg
    # (name, value, good from, failed below)
    checks = (
        ("shared information", information, limits.good_information, limits.failed_information),
        ("sharpness of the match", contrast, limits.good_contrast, limits.failed_contrast),
        ("overlap of MR and CT", here.overlap, limits.good_overlap, limits.failed_overlap),
    )
    reasons = [f"{name} {value:.2f} is below {good:.2f}" for name, value, good, _ in checks
               if value < good]  # fmt: skip
    good_mismatch = limits.good_mismatch_mm * max(1.0, coarsest_mm / limits.slice_mm)
    # (name, value, good up to, failed above)
    limited = (
        ("rival pose's share of the score", rival, limits.good_rival, limits.failed_rival),
        ("rotation in degrees", angle, limits.good_angle_deg, limits.failed_angle_deg),
        ("mismatch of the head's parts in mm", mismatch_mm, good_mismatch, np.inf),
    )
    reasons += [f"{name} {value:.2f} is above {good:.2f}" for name, value, good, _ in limited
                if value > good]  # fmt: skip
    failed = any(value < worst for _, value, _, worst in checks)
    failed |= any(value > worst for _, value, _, worst in limited)
    status: VerdictStatus = "failed" if failed else "doubtful" if reasons else "good"
    return Verdict(
        status, here.value, information, contrast, here.overlap, angle, tuple(reasons), rival,
        mismatch_mm,
    )  # fmt: skip


def _perturbing_transforms(centre_mm: Vector, limits: Thresholds) -> list[RigidTransform]:
    moves = []
    for axis in np.vstack([np.eye(3), -np.eye(3)]).tolist():
        shift = tuple(limits.shift_mm * v for v in axis)
        turn = tuple(limits.turn_deg * v for v in axis)
        moves.append(RigidTransform(translation_mm=(shift[0], shift[1], shift[2])))
        moves.append(RigidTransform.about(centre_mm, angles_deg=(turn[0], turn[1], turn[2])))
    return moves
