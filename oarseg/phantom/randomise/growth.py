"""Grow and move parts until an organ has a wished volume at its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from oarseg.imaging.arrays import Doubles, Image, Mask, Points
from oarseg.imaging.volume import Vector
from oarseg.phantom.patient.parts import Part, plus
from oarseg.phantom.patient.pose import Pose, volume_in_world
from oarseg.phantom.patient.shapes import Bounds, Solid, grow_box
from oarseg.phantom.randomise.real_organs import Wish

STEP_MM = 3.0
SAMPLES = (16, 36)  # along each axis of a part's box
PROBES = 24
FURTHEST_MM = 4.0
Lattice = tuple[Image, Image, Image]


@dataclass(frozen=True)
class Moved:
    """A solid at another place."""

    shape: Solid
    by_mm: Vector

    @property
    def box(self) -> Bounds:
        """The solid's, moved."""
        low, high = self.shape.box
        return plus(low, self.by_mm), plus(high, self.by_mm)

    @property
    def stretch(self) -> float:
        """The solid's."""
        return self.shape.stretch

    def distance(self, x: Image, y: Image, z: Image) -> Image:
        """Return the solid's distance."""
        return self.shape.distance(x - self.by_mm[0], y - self.by_mm[1], z - self.by_mm[2])


@dataclass(frozen=True)
class Grown:
    """A solid with a surface further out, or further in if ``by_mm`` is negative."""

    shape: Solid
    by_mm: float

    @property
    def box(self) -> Bounds:
        """The solid's, widened."""
        return grow_box(self.shape.box, max(self.by_mm, 0.0) * self.shape.stretch)

    @property
    def stretch(self) -> float:
        """The solid's."""
        return self.shape.stretch

    def distance(self, x: Image, y: Image, z: Image) -> Image:
        """Return the solid's distance, less the growth."""
        return self.shape.distance(x, y, z) - np.float32(self.by_mm)


def grow(part: Part, by_mm: float) -> Part:
    """Move all layers of a part outwards."""
    layers = tuple((offset + by_mm, tissue) for offset, tissue in part.layers)
    return replace(part, layers=layers)


def move(part: Part, by_mm: Vector) -> Part:
    """Move a part."""
    return replace(part, shape=Moved(part.shape, by_mm))


def fit_organ(parts: Sequence[Part], wish: Wish, *, pose: Pose) -> tuple[Part, ...]:
    """Return all parts, those of an organ moved and grown to its wished volume.

    Args:
        parts: a patient's, in painting order; later ones take an organ's voxels.
        wish: the organ's place and volume.
        pose: how the patient is deformed.
    """
    chosen = [number for number, part in enumerate(parts) if part.owner in wish.owners]
    moved = list(parts)
    for number in chosen:
        moved[number] = move(parts[number], wish.shift_mm)
    if not chosen:
        return tuple(parts)
    scale = float(np.mean([volume_in_world(pose, _inside(moved[number])) for number in chosen]))
    growth = _find_growth(moved, chosen, wish.volume_cm3 * 1000.0 / scale)
    for number in chosen:
        moved[number] = grow(moved[number], growth)
    return tuple(moved)


def _inside(part: Part) -> Points:
    """Return some points (n, 3) inside a part, or the middle of its box."""
    points, _ = _lattice(part.shape.box)
    inside = np.flatnonzero(part.shape.distance(*points) < part.layers[0][0])
    if not inside.size:
        inside = np.asarray([points[0].size // 2])
    some = inside[:: max(1, inside.size // PROBES)]
    return np.stack([axis[some] for axis in points], axis=1).astype(float)


def _find_growth(parts: Sequence[Part], chosen: Sequence[int], volume_mm3: float) -> float:
    """Return by how many mm an organ's parts must grow; 0 if nothing of them survives."""
    distances, weights = [], []
    for number in chosen:
        found, weight = _surviving(parts, number)
        distances.append(found)
        weights.append(np.full(found.size, weight))
    distance = np.concatenate(distances)
    if not distance.size:
        return 0.0
    order = np.argsort(distance)
    volumes = np.cumsum(np.concatenate(weights)[order])
    index = min(int(np.searchsorted(volumes, volume_mm3)), distance.size - 1)
    return float(np.clip(distance[order][index], -FURTHEST_MM, FURTHEST_MM))


def _surviving(parts: Sequence[Part], number: int) -> tuple[Doubles, float]:
    """Return the distances beyond a part's edge of points that no later part takes.

    Returns:
        Distances in mm, negative inside; the volume in mm³ that each point stands for.
    """
    part = parts[number]
    box = grow_box(part.shape.box, FURTHEST_MM * part.shape.stretch)
    points, weight = _lattice(box)
    free = np.ones(points[0].shape, bool)
    for later in parts[number + 1 :]:
        free &= ~_covered(later, box, points)
    distance = part.shape.distance(*points) - part.layers[0][0]
    return np.asarray(distance[free], float), weight


def _lattice(box: Bounds) -> tuple[Lattice, float]:
    """Return x, y and z of points spread over a box, and the volume that each stands for."""
    sides = [_samples(low, high) for low, high in zip(*box, strict=True)]
    x, y, z = (axis.ravel() for axis in np.meshgrid(*(side for side, _ in sides), indexing="ij"))
    return (x, y, z), float(np.prod([step for _, step in sides]))


def _samples(low: float, high: float) -> tuple[Image, float]:
    count = int(np.clip((high - low) / STEP_MM, *SAMPLES))
    step = (high - low) / count
    return (low + step * (np.arange(count) + 0.5)).astype(np.float32), step


def _covered(part: Part, box: Bounds, points: Lattice) -> Mask:
    """Return which of the points in a box a part takes."""
    outer = part.layers[0][0]
    low, high = grow_box(part.shape.box, max(outer, 0.0) * part.shape.stretch)
    if any(low[axis] > box[1][axis] or high[axis] < box[0][axis] for axis in range(3)):
        return np.zeros(points[0].shape, bool)
    inside = np.ones(points[0].shape, bool)
    for axis in range(3):
        inside &= (points[axis] >= low[axis]) & (points[axis] <= high[axis])
    if inside.any():
        x, y, z = (axis[inside] for axis in points)
        inside[inside] = part.shape.distance(x, y, z) < outer
    return inside
