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
BEND_AXIS_MM = 10.0  # y of the line that keeps its length


@dataclass(frozen=True)
class Wave:
    """A sinusoidal displacement ``amplitude · sin(wave · p + phase)`` along an axis."""

    axis: int
    amplitude_mm: float
    wave: Vector
    phase: float


@dataclass(frozen=True)
class Pose:
    """How a patient differs from the general anatomy and lies in the CT scanner.

    Attributes:
        rigid: anatomical frame, scaled, in mm → CT world.
        scale: size along x, y, z relative to the general anatomy.
        flexion_deg: flexion of the neck; positive moves the trunk forwards.
        waves: small smooth deformations.
    """

    rigid: RigidTransform
    scale: Vector
    flexion_deg: float
    waves: tuple[Wave, ...]

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
        """Undo flexion and waves: affine coordinates → anatomical ones, elementwise."""
        angle = self.flexion_deg if flexion_deg is None else flexion_deg
        y, z = unbend(y, z, angle)
        shifted = [x, y, z]
        for wave in self.waves:
            argument = x * wave.wave[0] + y * wave.wave[1] + z * wave.wave[2] + wave.phase
            shifted[wave.axis] = shifted[wave.axis] + np.sin(argument) * wave.amplitude_mm
        return tuple(shifted)

    def to_world(self, anatomy_mm: Points) -> Doubles:
        """Convert anatomical points (n, 3) to CT world (n, 3), by fixed-point iteration."""
        wanted = np.asarray(anatomy_mm, float)
        guess = wanted.copy()
        for _ in range(60):
            guess += wanted - np.stack(self.deform(*guess.T), axis=1)
        return self.rigid.apply(guess * np.asarray(self.scale))


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
