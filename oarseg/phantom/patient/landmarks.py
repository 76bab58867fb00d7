"""The paper's six landmarks, found on the shapes themselves, in anatomical coordinates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.volume import Vector
from oarseg.phantom.patient import head, neck
from oarseg.phantom.patient.parts import Draws
from oarseg.phantom.patient.shapes import Shape

STEP_MM = 0.1


def find(d: Draws, body: Shape) -> dict[str, Vector]:
    """All six, by name."""
    tip = nasal_tip(d, body)
    return {
        "nasal_tip": tip,
        "posterior_skull": posterior_skull(d, tip[2]),
        "mandibular_angle_left": mandibular_angle(d, 1.0),
        "mandibular_angle_right": mandibular_angle(d, -1.0),
        "transverse_process_left": neck.transverse_junction(4, 1.0),
        "transverse_process_right": neck.transverse_junction(4, -1.0),
    }


def nasal_tip(d: Draws, body: Shape) -> Vector:
    """The foremost point of the skin in the nose's middle."""
    x, _, z = head.nose(d).points[-1]
    y = np.arange(-140.0, -80.0, STEP_MM)
    inside = along_y(body, x, y, z) < 0
    return x, float(y[inside][0]), z


def posterior_skull(d: Draws, height: float) -> Vector:
    """The skull's hindmost point in the middle, at a height; where the skull does not
    reach down to it, at the lowest height where it reaches behind the spinal canal.
    """
    brain, thickness = head.brain_shape(), head.skull_thickness(d)
    y = np.arange(30.0, 110.0, STEP_MM)
    for z in np.arange(height, 20.0, 0.5):
        bone = y[along_y(brain, 0.0, y, float(z)) < thickness]
        if bone.size:
            return 0.0, float(bone[-1]), float(z)
    raise ValueError(f"no skull above z = {height} mm")


def mandibular_angle(d: Draws, side: float) -> Vector:
    """The hindmost point of the mandible's angle; side is +1 on the left."""
    bone = head.mandible(d)[0].shape
    z = -61.0 + d.shift("Bone_Mandible")[2]
    y = np.arange(-45.0, 10.0, STEP_MM)
    found: list[Vector] = []
    for x in np.arange(38.0, 56.0, 0.5):
        inside = y[along_y(bone, side * float(x), y, z) < 0]
        if inside.size:
            found.append((side * float(x), float(inside[-1]), z))
    return max(found, key=lambda point: point[1])


def along_y(shape: Shape, x: float, y: NDArray[np.float64], z: float) -> NDArray[np.float32]:
    """Distances on a line parallel to y."""
    flat = np.ones(y.size, np.float32)
    return shape.distance(flat * np.float32(x), y.astype(np.float32), flat * np.float32(z))
