"""Find the HaN-Seg paper's six landmarks on the solids, in anatomical coordinates."""

from __future__ import annotations

import numpy as np

from oarseg.imaging.arrays import Doubles, Image
from oarseg.imaging.volume import Vector
from oarseg.phantom.patient import head, neck
from oarseg.phantom.patient.parts import Draws
from oarseg.phantom.patient.shapes import Solid

SEARCH_STEP_MM = 0.1


def find_landmarks(d: Draws, body: Solid) -> dict[str, Vector]:
    """Find all six, by name."""
    tip = find_nasal_tip(d, body)
    return {
        "nasal_tip": tip,
        "posterior_skull": find_posterior_skull(d, tip[2]),
        "mandibular_angle_left": find_mandibular_angle(d, 1.0),
        "mandibular_angle_right": find_mandibular_angle(d, -1.0),
        "transverse_process_left": neck.transverse_junction(4, 1.0),
        "transverse_process_right": neck.transverse_junction(4, -1.0),
    }


def find_nasal_tip(d: Draws, body: Solid) -> Vector:
    """Find the foremost point of the skin in the middle of the nose."""
    x, _, z = head.nose(d).points[-1]
    y = np.arange(-140.0, -80.0, SEARCH_STEP_MM)
    inside = distances_along_y(body, x, y, z) < 0
    return x, float(y[inside][0]), z


def find_posterior_skull(d: Draws, height: float) -> Vector:
    """Find the hindmost point of the skull in the midplane, at a height.

    Where the skull does not reach down to that height, take the lowest height at which it
    reaches behind the spinal canal.
    """
    brain, thickness = head.brain_shape(), head.skull_thickness(d)
    y = np.arange(30.0, 110.0, SEARCH_STEP_MM)
    for z in np.arange(height, 20.0, 0.5):
        bone = y[distances_along_y(brain, 0.0, y, float(z)) < thickness]
        if bone.size:
            return 0.0, float(bone[-1]), float(z)
    raise ValueError(f"no skull above z = {height} mm")


def find_mandibular_angle(d: Draws, side: float) -> Vector:
    """Find the hindmost point of the mandible's angle; side is +1 on the left."""
    bone = head.mandible(d)[0].shape
    z = -61.0 + d.shift("Bone_Mandible")[2]
    y = np.arange(-45.0, 10.0, SEARCH_STEP_MM)
    candidates: list[Vector] = []
    for x in np.arange(38.0, 56.0, 0.5):
        inside = y[distances_along_y(bone, side * float(x), y, z) < 0]
        if inside.size:
            candidates.append((side * float(x), float(inside[-1]), z))
    return max(candidates, key=lambda point: point[1])


def distances_along_y(solid: Solid, x: float, y: Doubles, z: float) -> Image:
    """Return a solid's signed distances at points of a line parallel to y."""
    flat = np.ones(y.size, np.float32)
    return solid.distance(flat * np.float32(x), y.astype(np.float32), flat * np.float32(z))
