"""What an anatomy is made of, and the seeded draws that make each one different."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import cast

import numpy as np

from oarseg.imaging.volume import Vector
from oarseg.phantom.patient.shapes import Ellipsoid, Shape, Stack

Row = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Part:
    """A shape filled with tissue.

    Attributes:
        shape: where it is.
        layers: (offset in mm, tissue), outermost first: tissue fills where the
            distance is below the offset.
        label: name of the structure it is, "" for none. A part takes the voxels
            inside its outermost layer from every part painted before it.
        organ: what it belongs to where finer or other structures are told apart than
            HaN-Seg's; "" for what its label says.
    """

    shape: Shape
    layers: tuple[tuple[float, str], ...]
    label: str = ""
    organ: str = ""

    @property
    def owner(self) -> str:
        """The organ, or the label where it is the same."""
        return self.organ or self.label


def fill(shape: Shape, tissue: str, label: str = "", *, organ: str = "") -> Part:
    """A part of one tissue."""
    return Part(shape, ((0.0, tissue),), label, organ)


@dataclass(frozen=True)
class Draws:
    """Random numbers by name: each name has its own stream, so adding one moves no other."""

    seed: int

    def rng(self, key: str) -> np.random.Generator:
        """The generator of a name."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, zlib.crc32(key.encode())]))

    def uniform(self, key: str, low: float, high: float) -> float:
        """Uniform between two bounds."""
        return float(self.rng(key).uniform(low, high))

    def normal(self, key: str, sigma: float, *, limit: float = 2.0) -> float:
        """Normal about 0, clipped at so many sigma."""
        return float(np.clip(self.rng(key).standard_normal(), -limit, limit) * sigma)

    def chance(self, key: str, probability: float) -> bool:
        """True with that probability."""
        return self.uniform(key, 0.0, 1.0) < probability

    def shift(self, key: str, sigma_mm: float = 1.0) -> Vector:
        """A displacement, each component normal and clipped at two sigma."""
        values = np.clip(self.rng(key + "/shift").standard_normal(3), -2, 2) * sigma_mm
        return cast(Vector, tuple(values.tolist()))

    def growth(self, key: str, spread: float = 0.15) -> float:
        """A factor on lengths whose cube, the volume, varies by about ``± 2·spread``."""
        return float(1.0 + self.rng(key + "/size").uniform(-1, 1) * spread * 0.6)

    def blob(self, key: str, centre: Vector, radii: Vector, *, boxy: bool = False) -> Ellipsoid:
        """An ellipsoid near a place, of about a size."""
        rng = self.rng(key + "/aspect")
        growth = self.growth(key)
        a, b, c = rng.uniform(0.94, 1.06, 3).tolist()
        sizes = (radii[0] * growth * a, radii[1] * growth * b, radii[2] * growth * c)
        return Ellipsoid(plus(centre, self.shift(key)), sizes, boxy=boxy)

    def column(self, key: str, rows: tuple[Row, ...], *, boxy: bool = False) -> Stack:
        """A stack moved sideways and thickened a little."""
        dx, dy, _ = self.shift(key, 0.8)
        growth = self.growth(key, 0.12)
        moved = tuple(
            (z, x + dx, y + dy, rx * growth, rf * growth, rb * growth)
            for z, x, y, rx, rf, rb in rows
        )
        return Stack(moved, boxy=boxy)


def plus(a: Vector, b: Vector) -> Vector:
    """Sum of two vectors."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def round_rows(rows: tuple[tuple[float, float, float, float], ...]) -> tuple[Row, ...]:
    """(z, x, y, radius) rows as a stack's."""
    return tuple((z, x, y, r, r, r) for z, x, y, r in rows)


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
)  # (z, y) of the spinal canal's middle


def canal_y(z: float) -> float:
    """Middle of the spinal canal at a height, in mm."""
    heights, values = zip(*CANAL_Y, strict=True)
    return float(np.interp(z, heights, values))
