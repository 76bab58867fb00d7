"""Solids as implicit shapes: approximate signed distances in mm, negative inside.

Coordinates are anatomical (LPS: +x left, +y posterior, +z superior). A solid need only be
evaluated near its box.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol, cast

import numpy as np
from scipy.interpolate import PchipInterpolator

from oarseg.imaging.arrays import Doubles, Image
from oarseg.imaging.volume import Matrix, Vector

Bounds = tuple[Vector, Vector]
# z, centre x, centre y, radius x, front radius, back radius
EllipseRow = tuple[float, float, float, float, float, float]

STEPS_PER_MM = 8.0  # resolution of a stack's table along z: 0.125 mm


class Solid(Protocol):
    """A part of space with a box and a signed distance."""

    @property
    def box(self) -> Bounds:
        """Lowest and highest corner (x, y, z) of the solid in mm."""
        ...

    @property
    def stretch(self) -> float:
        """Largest ratio of a point's true distance to the one that ``distance`` returns."""
        ...

    def distance(self, x: Image, y: Image, z: Image) -> Image:
        """Return signed distances in mm at points given by three arrays of one shape."""
        ...


def grow_box(box: Bounds, margin_mm: float) -> Bounds:
    """Widen a box on every side."""
    return _bounds(np.asarray(box[0]) - margin_mm, np.asarray(box[1]) + margin_mm)


def _bounds(low: Doubles, high: Doubles) -> Bounds:
    return cast(Bounds, (tuple(low.tolist()), tuple(high.tolist())))


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid.

    Attributes:
        centre: x, y, z in mm.
        radii: in mm.
        axes: unit directions of the three radii, as rows; by default x, y, z.
        boxy: fourth powers instead of squares, which give a rounded box.
    """

    centre: Vector
    radii: Vector
    axes: Matrix | None = None
    boxy: bool = False

    @property
    def box(self) -> Bounds:
        """The ellipsoid's box, or its sphere's where it is turned."""
        reach = np.asarray(self.radii) if self.axes is None else np.full(3, max(self.radii) * 1.2)
        centre = np.asarray(self.centre)
        return _bounds(centre - reach, centre + reach)

    @property
    def stretch(self) -> float:
        """The longest radius, relative to the mean one."""
        return max(self.radii) / float(np.prod(self.radii) ** (1 / 3))

    def distance(self, x: Image, y: Image, z: Image) -> Image:
        """Return the radial distance, scaled by the mean radius."""
        offsets = (x - self.centre[0], y - self.centre[1], z - self.centre[2])
        if self.axes is not None:
            offsets = cast(
                tuple[Image, Image, Image],
                tuple(sum(c * o for c, o in zip(row, offsets, strict=True)) for row in self.axes),
            )
        total: Any = 0.0
        for offset, radius in zip(offsets, self.radii, strict=True):
            squared = np.square(offset * (1.0 / radius))
            total = total + (np.square(squared) if self.boxy else squared)
        ratio = np.sqrt(np.sqrt(total)) if self.boxy else np.sqrt(total)
        mean = float(np.prod(self.radii) ** (1 / 3))
        return cast(Image, (ratio - 1.0) * mean)


@dataclass(frozen=True)
class Tube:
    """Round cones joined end to end along a path of points, each with a radius."""

    points: tuple[Vector, ...]
    radii: tuple[float, ...]

    @property
    def box(self) -> Bounds:
        """The box round the balls at all points."""
        points, radii = np.asarray(self.points), np.asarray(self.radii)[:, None]
        return _bounds((points - radii).min(axis=0), (points + radii).max(axis=0))

    @property
    def stretch(self) -> float:
        """1: the distance is true."""
        return 1.0

    def distance(self, x: Image, y: Image, z: Image) -> Image:
        """Return the distance to the nearest segment."""
        ends = zip(self.points, self.points[1:], self.radii, self.radii[1:], strict=False)
        segments = (_to_segment((x, y, z), a, b, ra, rb) for a, b, ra, rb in ends)
        return reduce(np.minimum, segments)


def _to_segment(
    p: tuple[Image, Image, Image], a: Vector, b: Vector, radius_a: float, radius_b: float
) -> Image:
    along = [end - start for start, end in zip(a, b, strict=True)]
    squared = sum(v * v for v in along)
    px, py, pz = p[0] - a[0], p[1] - a[1], p[2] - a[2]
    t = (px * along[0] + py * along[1] + pz * along[2]) * (1.0 / squared)
    np.clip(t, 0.0, 1.0, out=t)
    px -= t * along[0]
    py -= t * along[1]
    pz -= t * along[2]
    gap = np.sqrt(px * px + py * py + pz * pz)
    return cast(Image, gap - (t * (radius_b - radius_a) + radius_a))


@dataclass(frozen=True)
class Stack:
    """Ellipses stacked along z and interpolated smoothly (PCHIP), with flat ends.

    Attributes:
        rows: the ellipses, z ascending.
        boxy: fourth powers instead of squares.
        table: centre x, y, radius x, front and back radius, interpolated along z.
    """

    rows: tuple[EllipseRow, ...]
    boxy: bool = False
    table: Image = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        knots = np.asarray(self.rows, float)
        count = int((knots[-1, 0] - knots[0, 0]) * STEPS_PER_MM) + 1
        heights = knots[0, 0] + np.arange(count) / STEPS_PER_MM
        values = PchipInterpolator(knots[:, 0], knots[:, 1:])(heights)
        table = np.ascontiguousarray(values.T.astype(np.float32))
        table[2:] = np.maximum(table[2:], 0.05)
        object.__setattr__(self, "table", table)

    @property
    def box(self) -> Bounds:
        """The box round all the ellipses."""
        cx, cy, rx, front, back = self.table
        low = (float((cx - rx).min()), float((cy - front).min()), self.rows[0][0])
        high = (float((cx + rx).max()), float((cy + back).max()), self.rows[-1][0])
        return low, high

    @property
    def stretch(self) -> float:
        """As of an ellipsoid, in the plane."""
        _, _, rx, front, back = self.table
        aspects = [np.maximum(rx / ry, ry / rx).max() for ry in (front, back)]
        return float(np.sqrt(max(aspects)))

    def distance(self, x: Image, y: Image, z: Image) -> Image:
        """Return the radial distance in the plane, or that beyond an end if it is larger."""
        bottom, top = self.rows[0][0], self.rows[-1][0]
        level = ((z - bottom) * STEPS_PER_MM).astype(np.int32)
        np.clip(level, 0, self.table.shape[1] - 1, out=level)
        cx, cy, rx, front, back = (row.take(level) for row in self.table)
        dy = y - cy
        ry = np.where(dy < 0, front, back)
        u, v = np.square((x - cx) / rx), np.square(dy / ry)
        ratio = np.sqrt(np.sqrt(u * u + v * v)) if self.boxy else np.sqrt(u + v)
        inplane = (ratio - 1.0) * np.sqrt(rx * ry)
        return cast(Image, np.maximum(inplane, np.maximum(bottom - z, z - top)))


@dataclass(frozen=True)
class Arch:
    """The front half of an elliptic band: jaws, gums, lips.

    Attributes:
        centre: of the ellipse (x, y, z); the band lies at smaller y.
        radii: of the ellipse (x, y) that the band's middle follows.
        thickness: half the band's thickness in mm.
        height: half its height in mm.
        slope: rise of its middle in z per mm of y.
        back: how far it reaches behind the centre in mm.
        rounding: radius of its edges in mm.
    """

    centre: Vector
    radii: tuple[float, float]
    thickness: float
    height: float
    slope: float = 0.0
    back: float = 0.0
    rounding: float = 2.0

    @property
    def box(self) -> Bounds:
        """The box round the band."""
        cx, cy, cz = self.centre
        rx, ry = self.radii[0] + self.thickness, self.radii[1] + self.thickness
        ends = (cz - self.slope * ry, cz + self.slope * self.back)
        low = (cx - rx, cy - ry, min(ends) - self.height)
        return low, (cx + rx, cy + self.back, max(ends) + self.height)

    @property
    def stretch(self) -> float:
        """An estimate: the ellipse's distance is of first order only."""
        return 1.5

    def distance(self, x: Image, y: Image, z: Image) -> Image:
        """Return the distance to the band's rounded rectangular cross-section."""
        dx, dy = x - self.centre[0], y - self.centre[1]
        u, v = dx * (1 / self.radii[0]), dy * (1 / self.radii[1])
        ratio = np.sqrt(u * u + v * v)
        gradient = np.sqrt(np.square(u / self.radii[0]) + np.square(v / self.radii[1])) + 1e-4
        across = np.abs((ratio - 1.0) * ratio / gradient) - (self.thickness - self.rounding)
        upward = np.abs(z - self.centre[2] - self.slope * dy) - (self.height - self.rounding)
        outer = np.sqrt(np.square(np.maximum(across, 0)) + np.square(np.maximum(upward, 0)))
        band = outer + np.minimum(np.maximum(across, upward), 0) - self.rounding
        return cast(Image, np.maximum(band, dy - self.back))


@dataclass(frozen=True)
class Union:
    """Solids merged; a polynomial minimum rounds the seams over ``blend`` mm."""

    shapes: tuple[Solid, ...]
    blend: float = 0.0

    @property
    def box(self) -> Bounds:
        """The box round all of them."""
        boxes = np.asarray([shape.box for shape in self.shapes])
        seam = self.blend * 0.25 * len(self.shapes) * self.stretch
        return grow_box(_bounds(boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)), seam)

    @property
    def stretch(self) -> float:
        """The largest of them."""
        return max(shape.stretch for shape in self.shapes)

    def distance(self, x: Image, y: Image, z: Image) -> Image:
        """Return the least of the distances, smoothed."""
        parts = [shape.distance(x, y, z) for shape in self.shapes]
        return reduce(lambda a, b: _smooth_minimum(a, b, self.blend), parts)


def _smooth_minimum(a: Image, b: Image, blend: float) -> Image:
    low = np.minimum(a, b)
    if blend > 0:
        near = np.maximum(blend - np.abs(a - b), 0.0)
        low -= np.square(near) * (0.25 / blend)
    return cast(Image, low)


@dataclass(frozen=True)
class Without:
    """A solid minus another, with a gap in mm between them."""

    shape: Solid
    other: Solid
    gap: float = 0.0

    @property
    def box(self) -> Bounds:
        """The first solid's."""
        return self.shape.box

    @property
    def stretch(self) -> float:
        """The first solid's."""
        return self.shape.stretch

    def distance(self, x: Image, y: Image, z: Image) -> Image:
        """Return the larger of the first distance and the negated second one."""
        away = self.gap - self.other.distance(x, y, z)
        return cast(Image, np.maximum(self.shape.distance(x, y, z), away))


@dataclass(frozen=True)
class Cut:
    """A solid on one side of a plane: where ``normal · p <= offset``."""

    shape: Solid
    normal: Vector
    offset: float

    @property
    def box(self) -> Bounds:
        """The solid's, cut where the plane is perpendicular to an axis."""
        low, high = [list(corner) for corner in self.shape.box]
        for axis, value in enumerate(self.normal):
            if abs(value) == 1.0 and value > 0:
                high[axis] = min(high[axis], self.offset)
            elif abs(value) == 1.0:
                low[axis] = max(low[axis], -self.offset)
        return cast(Bounds, (tuple(low), tuple(high)))

    @property
    def stretch(self) -> float:
        """The solid's."""
        return self.shape.stretch

    def distance(self, x: Image, y: Image, z: Image) -> Image:
        """Return the larger of the solid's distance and the plane's."""
        plane = x * self.normal[0] + y * self.normal[1] + z * self.normal[2] - self.offset
        return cast(Image, np.maximum(self.shape.distance(x, y, z), plane))


@dataclass(frozen=True)
class Rippled:
    """A solid with a folded surface: gyri, air cells, marrow."""

    shape: Solid
    amplitude: float
    wavelength: float

    @property
    def box(self) -> Bounds:
        """The solid's, widened by the ripples."""
        return grow_box(self.shape.box, 2.0 * self.amplitude * self.shape.stretch)

    @property
    def stretch(self) -> float:
        """The solid's."""
        return self.shape.stretch

    def distance(self, x: Image, y: Image, z: Image) -> Image:
        """Return the solid's distance plus a product of sines."""
        k = 2 * np.pi / self.wavelength
        folds = np.sin(x * k + y * (0.4 * k)) * np.sin(y * k - z * (0.3 * k))
        folds *= np.cos(z * k + x * (0.5 * k))
        return cast(Image, self.shape.distance(x, y, z) + folds * self.amplitude * 2.0)


@dataclass(frozen=True)
class HalfSpace:
    """All of space on one side of a plane: where ``normal · p <= offset``."""

    normal: Vector
    offset: float

    @property
    def box(self) -> Bounds:
        """Larger than any patient."""
        far = 1e4
        return (-far, -far, -far), (far, far, far)

    @property
    def stretch(self) -> float:
        """1: the distance is true."""
        return 1.0

    def distance(self, x: Image, y: Image, z: Image) -> Image:
        """Return the distance to the plane; the normal has length 1."""
        plane = x * self.normal[0] + y * self.normal[1] + z * self.normal[2] - self.offset
        return cast(Image, plane)
