"""Convert between a scanner's world and anatomical coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from oarseg.imaging.arrays import Doubles, Image, Points
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Vector

BEND_TOP_MM = -25.0  # the skull base: nothing above it bends
BEND_LENGTH_MM = 130.0  # from there to C7
PROBE_MM = 6.0
LEAST_BEND = 1e-3  # radians; what is less is none
BEND_AXIS_MM = 10.0  # y of the line that keeps its length


@dataclass(frozen=True)
class Wave:
    """A sinusoidal displacement ``amplitude · sin(wave · p + phase)`` along an axis."""

    axis: int
    amplitude_mm: float
    wave: Vector
    phase: float


@dataclass(frozen=True)
class Push:
    """Tissue pushed away from a centre, most at the distance ``reach_mm``; negative pulls.

    It folds nowhere if ``amplitude_mm`` is at most half of ``reach_mm``.
    """

    centre: Vector
    amplitude_mm: float
    reach_mm: float

    def undo(self, x: Any, y: Any, z: Any) -> tuple[Any, Any, Any]:
        """Bring pushed points back, elementwise."""
        dx, dy, dz = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        squared = (dx * dx + dy * dy + dz * dz) * (1.0 / self.reach_mm**2)
        share = np.exp(0.5 - 0.5 * squared) * (self.amplitude_mm / self.reach_mm)
        return x - share * dx, y - share * dy, z - share * dz


@dataclass(frozen=True)
class Bend:
    """A neck bent along an arc between skull base and C7, as far as real ones.

    ``unbend`` is for a few degrees. Positive angles move the trunk forwards.
    """

    angle_deg: float

    def undo(self, x: Any, y: Any, z: Any) -> tuple[Any, Any, Any]:
        """Straighten the neck, elementwise."""
        angle = float(np.deg2rad(abs(self.angle_deg)))
        if angle < LEAST_BEND:
            return x, y, z
        sign = 1.0 if self.angle_deg > 0 else -1.0
        radius = BEND_LENGTH_MM / angle
        # Seen from the arc's centre, which is before a flexed neck and behind an extended one.
        across, down = sign * (y - BEND_AXIS_MM) + radius, BEND_TOP_MM - z
        turned = np.clip(np.arctan2(down, across), 0.0, angle)
        cosine, sine = np.cos(turned), np.sin(turned)
        out = across * cosine + down * sine
        along = down * cosine - across * sine + turned * radius
        return x, sign * (out - radius) + BEND_AXIS_MM, BEND_TOP_MM - along


@dataclass(frozen=True)
class Pose:
    """How a patient differs from the general anatomy and lies in the CT scanner.

    Attributes:
        rigid: anatomical frame, scaled, in mm → CT world.
        scale: size along x, y, z relative to the general anatomy.
        flexion_deg: flexion of the neck; positive moves the trunk forwards.
        waves: small smooth deformations.
        pushes: others, undone in this order.
    """

    rigid: RigidTransform
    scale: Vector
    flexion_deg: float
    waves: tuple[Wave, ...]
    pushes: tuple[Push | Bend, ...] = ()

    def linear(self) -> tuple[Doubles, Doubles]:
        """Return (A, b), the affine part of CT world → anatomical coordinates."""
        inverse = self.rigid.inverse()
        shrink = np.diag(1.0 / np.asarray(self.scale))
        return shrink @ np.asarray(inverse.rotation), shrink @ np.asarray(inverse.translation_mm)

    def to_anatomy(self, world_mm: Points) -> Doubles:
        """Convert CT world points (n, 3) to anatomical ones (n, 3)."""
        matrix, offset = self.linear()
        x, y, z = (np.asarray(world_mm, float) @ matrix.T + offset).T
        return cast(Doubles, np.stack(self.deform(x, y, z), axis=1))

    def deform(self, x: Any, y: Any, z: Any, *, flexion_deg: float | None = None) -> Any:
        """Undo flexion, waves and pushes: affine coordinates → anatomical ones, elementwise."""
        angle = self.flexion_deg if flexion_deg is None else flexion_deg
        y, z = unbend(y, z, angle)
        shifted = [x, y, z]
        for wave in self.waves:
            argument = x * wave.wave[0] + y * wave.wave[1] + z * wave.wave[2] + wave.phase
            shifted[wave.axis] = shifted[wave.axis] + np.sin(argument) * wave.amplitude_mm
        for push in self.pushes:
            shifted = list(push.undo(*shifted))
        return tuple(shifted)

    def to_world(self, anatomy_mm: Points) -> Doubles:
        """Convert anatomical points (n, 3) to CT world (n, 3), by fixed-point iteration."""
        wanted = np.asarray(anatomy_mm, float)
        guess = wanted.copy()
        for _ in range(60):
            guess += wanted - np.stack(self.deform(*guess.T), axis=1)
        return self.rigid.apply(guess * np.asarray(self.scale))


def volume_in_world(pose: Pose, places_mm: Points) -> float:
    """Return the mean volume in the world of a small unit of volume at anatomical places (n, 3)."""
    centres = pose.to_world(places_mm)
    steps = np.eye(3) * (PROBE_MM / 2)
    rows = [(pose.to_anatomy(centres + s) - pose.to_anatomy(centres - s)) / PROBE_MM for s in steps]
    return float(np.mean(1.0 / np.abs(np.linalg.det(np.stack(rows, axis=1)))))


def unbend(y: Any, z: Any, angle_deg: float) -> tuple[Any, Any]:
    """Straighten a neck that is flexed by an angle between skull base and C7.

    The neck follows a parabola that ends in a straight line. Below the skull base,
    everything shifts in y and shears in z, both a little.
    """
    if angle_deg == 0.0:
        return y, z
    slope = float(np.tan(np.deg2rad(angle_deg)))
    depth = np.maximum(BEND_TOP_MM - z, 0.0)
    curved = np.minimum(depth, BEND_LENGTH_MM)
    straight = depth - curved
    shift = slope * (curved * curved * (0.5 / BEND_LENGTH_MM) + straight)
    turn = (slope / BEND_LENGTH_MM) * curved
    return y + shift, z - turn * (y + shift - BEND_AXIS_MM)


def to_floats(*coordinates: Any) -> tuple[Image, ...]:
    """Copy coordinates to contiguous float32 arrays."""
    return tuple(np.ascontiguousarray(c, dtype=np.float32) for c in coordinates)
