"""The parts of an anatomy, and the seeded draws that make each anatomy different."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import cast

import numpy as np

from oarseg.imaging.volume import Vector
from oarseg.phantom.patient.shapes import EllipseRow, Ellipsoid, Solid, Stack


@dataclass(frozen=True)
class Part:
    """A solid filled with tissue.

    A part takes the voxels inside its outermost layer from every part painted before it.

    Attributes:
        shape: the solid.
        layers: (offset in mm, tissue), outermost first; a tissue fills where the distance
            is below its offset.
        label: the reference structure that it belongs to, "" for none.
        organ: the organ that it belongs to, if that is none of the reference structures or
            a piece of one; else "".
    """

    shape: Solid
    layers: tuple[tuple[float, str], ...]
    label: str = ""
    organ: str = ""

    @property
    def owner(self) -> str:
        """The organ, or else the reference structure."""
        return self.organ or self.label


def fill(shape: Solid, tissue: str, label: str = "", *, organ: str = "") -> Part:
    """Make a part of one tissue."""
    return Part(shape, ((0.0, tissue),), label, organ)


@dataclass(frozen=True)
class Draws:
    """Random numbers by name; each name has its own stream, so adding one changes no other."""

    seed: int

    def rng(self, key: str) -> np.random.Generator:
        """Return the generator of a name."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, zlib.crc32(key.encode())]))

    def uniform(self, key: str, low: float, high: float) -> float:
        """Draw uniformly between two bounds."""
        return float(self.rng(key).uniform(low, high))

    def normal(self, key: str, sigma: float, *, limit: float = 2.0) -> float:
        """Draw normally about 0, clipped at ``limit`` sigma."""
        return float(np.clip(self.rng(key).standard_normal(), -limit, limit) * sigma)

    def chance(self, key: str, probability: float) -> bool:
        """Draw whether something is so, with a probability."""
        return self.uniform(key, 0.0, 1.0) < probability

    def shift(self, key: str, sigma_mm: float = 1.0) -> Vector:
        """Draw a displacement, each component normal and clipped at two sigma."""
        values = np.clip(self.rng(key + "/shift").standard_normal(3), -2, 2) * sigma_mm
        return cast(Vector, tuple(values.tolist()))

    def growth(self, key: str, spread: float = 0.15) -> float:
        """Draw a factor of lengths; its cube, of the volume, varies by about ``± 2·spread``."""
        return float(1.0 + self.rng(key + "/size").uniform(-1, 1) * spread * 0.6)

    def blob(self, key: str, centre: Vector, radii: Vector, *, boxy: bool = False) -> Ellipsoid:
        """Draw an ellipsoid of about these radii near a place."""
        rng = self.rng(key + "/aspect")
        growth = self.growth(key)
        a, b, c = rng.uniform(0.94, 1.06, 3).tolist()
        sizes = (radii[0] * growth * a, radii[1] * growth * b, radii[2] * growth * c)
        return Ellipsoid(plus(centre, self.shift(key)), sizes, boxy=boxy)

    def column(self, key: str, rows: tuple[EllipseRow, ...], *, boxy: bool = False) -> Stack:
        """Draw a stack, moved sideways and thickened or thinned a little."""
        dx, dy, _ = self.shift(key, 0.8)
        growth = self.growth(key, 0.12)
        moved = tuple(
            (z, x + dx, y + dy, rx * growth, rf * growth, rb * growth)
            for z, x, y, rx, rf, rb in rows
        )
        return Stack(moved, boxy=boxy)


def plus(a: Vector, b: Vector) -> Vector:
    """Add two vectors."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def round_rows(rows: tuple[tuple[float, float, float, float], ...]) -> tuple[EllipseRow, ...]:
    """Convert rows (z, x, y, radius) of circles to rows of a stack."""
    return tuple((z, x, y, r, r, r) for z, x, y, r in rows)


# (z, y) of the middle of the spinal canal
CANAL_Y = (
    (-700.0, 40.0),
    (-300.0, 60.0),
    (-200.0, 46.0),
    (-152.0, 30.0),
    (-133.0, 23.0),
    (-116.0, 17.0),
    (-100.0, 13.5),
    (-82.0, 13.0),
    (-48.0, 15.5),
    (-10.0, 14.0),
)


def canal_y(z: float) -> float:
    """Return y of the middle of the spinal canal at a height, in mm."""
    heights, values = zip(*CANAL_Y, strict=True)
    return float(np.interp(z, heights, values))
