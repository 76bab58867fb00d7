"""Whether a registration may be trusted.

A true pose is a sharp peak of the score: moved by a centimetre or turned by eight
degrees, CT and MR explain each other much less. A wrong pose, or an MR that is not this
patient's head, lies on a plateau. The peak's height over its surroundings, the overlap
of the fields and the plausibility of the turn give the verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from oarseg.registration.information import Score
from oarseg.rigid import RigidTransform
from oarseg.volume import Vector

Status = Literal["good", "doubtful", "failed"]


@dataclass(frozen=True)
class Thresholds:
    """Limits of the verdict: ``good`` needs all of the first, ``failed`` breaks one of the second.

    Attributes:
        good_information, failed_information: score divided by overlap.
        good_contrast, failed_contrast: share of the score that is lost, on average, by
            perturbing the pose.
        good_overlap, failed_overlap: share of the MR's patient inside the CT's field.
        good_angle_deg, failed_angle_deg: the rotation's angle.
        shift_mm, turn_deg: the perturbations, along and about each axis, both ways.
    """

    good_information: float = 0.10
    failed_information: float = 0.05
    good_contrast: float = 0.15
    failed_contrast: float = 0.10
    good_overlap: float = 0.6
    failed_overlap: float = 0.3
    good_angle_deg: float = 15.0
    failed_angle_deg: float = 30.0
    shift_mm: float = 12.0
    turn_deg: float = 8.0


@dataclass(frozen=True)
class Verdict:
    """The judgement and what it rests on.

    Attributes:
        status: ``good``, ``doubtful`` (use, but say so) or ``failed`` (do not use).
        score: overlap × symmetric uncertainty, in [0, 1].
        information, contrast, overlap, angle_deg: see ``Thresholds``.
        reasons: one clause for each limit that kept it from ``good``.
    """

    status: Status
    score: float
    information: float
    contrast: float
    overlap: float
    angle_deg: float
    reasons: tuple[str, ...]


def judge(
    transform: RigidTransform,
    score: Callable[[RigidTransform], Score],
    centre_mm: Vector,
    *,
    limits: Thresholds | None = None,
) -> Verdict:
    """Judge a pose (CT world → MR world).

    Args:
        score: of a pose, see ``information``.
        centre_mm: the MR world point about which the pose is turned.
    """
    limits = limits or Thresholds()
    here = score(transform)
    around = [score(other.after(transform)).value for other in _perturbations(centre_mm, limits)]
    contrast = 1 - float(np.mean(around)) / max(here.value, 1e-9)
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
    if angle > limits.good_angle_deg:
        reasons.append(f"rotation {angle:.0f}° is above {limits.good_angle_deg:.0f}°")
    failed = angle > limits.failed_angle_deg or any(value < worst for _, value, _, worst in checks)
    status: Status = "failed" if failed else "doubtful" if reasons else "good"
    return Verdict(status, here.value, information, contrast, here.overlap, angle, tuple(reasons))


def _perturbations(centre_mm: Vector, limits: Thresholds) -> list[RigidTransform]:
    moves = []
    for axis in np.vstack([np.eye(3), -np.eye(3)]).tolist():
        shift = tuple(limits.shift_mm * v for v in axis)
        turn = tuple(limits.turn_deg * v for v in axis)
        moves.append(RigidTransform(translation_mm=(shift[0], shift[1], shift[2])))
        moves.append(RigidTransform.about(centre_mm, angles_deg=(turn[0], turn[1], turn[2])))
    return moves
