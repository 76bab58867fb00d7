"""A CT and an MR scanner that paint an anatomy onto a grid, slab by slab.

A slab is a few planes. A voxel's value depends on its own position only and, for noise,
on the number of its plane, so the slab's size changes no voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Image, Labels, Mask
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Volume
from oarseg.phantom.patient.anatomy import Anatomy
from oarseg.phantom.patient.parts import Part
from oarseg.phantom.patient.pose import to_floats
from oarseg.phantom.patient.shapes import Bounds, grow_box
from oarseg.phantom.patient.structures import number_structures
from oarseg.phantom.patient.tissues import SEQUENCES, TISSUES

SLAB_VOXELS = 400_000
HU_LIMITS = (-1024, 3000)
FAR_FROM_SKIN_MM = 50.0
Coordinates = tuple[Image, Image, Image]


@dataclass(frozen=True)
class View:
    """A patient in a scanner.

    Attributes:
        anatomy: the patient.
        grid: voxels of the scan.
        to_ct: world of the grid → CT world.
        flexion_deg: neck flexion during this scan, added to the patient's own.
        numbers: owner of a part → number painted for it, 1–255; others paint 0. By
            default, the reference structures are numbered.
        slab_voxels: voxels painted at a time.
    """

    anatomy: Anatomy
    grid: Grid
    to_ct: RigidTransform = field(default_factory=RigidTransform)
    flexion_deg: float = 0.0
    numbers: Mapping[str, int] = field(default_factory=number_structures)
    slab_voxels: int = SLAB_VOXELS

    @property
    def edge_mm(self) -> float:
        """Width over which edges blur: the mean voxel spacing."""
        return float(np.mean(self.grid.spacing_mm))

    def coordinates(self, first: int, last: int) -> Coordinates:
        """Return anatomical x, y, z of the planes first … last - 1, each (z, y, x)."""
        pose = self.anatomy.pose
        shrink, shift = pose.linear()
        turn, move = np.asarray(self.to_ct.rotation), np.asarray(self.to_ct.translation_mm)
        step, origin = self.grid.index_to_world()
        matrix = shrink @ turn @ step
        start = shrink @ (turn @ origin + move) + shift
        planes = np.arange(first, last)[:, None, None]
        rows = np.arange(self.grid.shape[1])[:, None]
        columns = np.arange(self.grid.shape[2])
        affine = []
        for axis in range(3):
            by_plane = (matrix[axis, 0] * planes + start[axis]).astype(np.float32)
            by_row = (matrix[axis, 1] * rows).astype(np.float32)
            affine.append(by_plane + by_row + (matrix[axis, 2] * columns).astype(np.float32))
        total = pose.flexion_deg + self.flexion_deg
        return cast(Coordinates, to_floats(*pose.deform(*affine, flexion_deg=total)))

    def slabs(self) -> Iterator[tuple[int, int]]:
        """Yield the first plane of each slab and the one after its last."""
        depth, height, width = self.grid.shape
        thick = max(1, self.slab_voxels // (height * width))
        for first in range(0, depth, thick):
            yield first, min(first + thick, depth)


@dataclass
class Slab:
    """A few planes of a scan while they are painted; arrays are (z, y, x).

    Attributes:
        coordinates: anatomical x, y, z in mm.
        ranges: lowest and highest x per column, y per row and z per plane.
        image: HU or MR signal.
        owners: number of the part that a voxel belongs to, 0 for none.
        skin: signed distance to the skin in mm, negative inside.
        edge_mm: width over which edges blur.
    """

    coordinates: Coordinates
    ranges: tuple[tuple[Image, Image], ...]
    image: Image
    owners: Labels
    skin: Image
    edge_mm: float

    @classmethod
    def blank(cls, coordinates: Coordinates, edge_mm: float) -> Slab:
        """Make an empty slab, far from any skin."""
        shape = coordinates[0].shape
        others = ((0, 1), (0, 2), (1, 2))  # array axes across x, y, z
        ranges = tuple(
            (along.min(axis=across), along.max(axis=across))
            for along, across in zip(coordinates, others, strict=True)
        )
        image = np.zeros(shape, np.float32)
        owners = np.zeros(shape, np.uint8)
        skin = np.full(shape, FAR_FROM_SKIN_MM, np.float32)
        return cls(coordinates, ranges, image, owners, skin, edge_mm)

    def window(self, box: Bounds) -> tuple[slice, slice, slice] | None:
        """Return the part of the slab that may lie in a box; None if none can."""
        window = []
        for axis in (2, 1, 0):  # z, y, x
            low, high = self.ranges[axis]
            inside = np.flatnonzero((high >= box[0][axis]) & (low <= box[1][axis]))
            if inside.size == 0:
                return None
            window.append(slice(int(inside[0]), int(inside[-1]) + 1))
        return window[0], window[1], window[2]

    def paint(self, part: Part, values: Mapping[str, float], owner: int) -> None:
        """Paint a part and note its owner's number."""
        outer = part.layers[0][0]
        margin = max(outer + self.edge_mm, 0.0) * part.shape.stretch
        window = self.window(grow_box(part.shape.box, margin))
        if window is None:
            return
        x, y, z = (c[window] for c in self.coordinates)
        distance = part.shape.distance(x, y, z)
        for offset, tissue in part.layers:
            blend_inside(self.image[window], distance, offset, values[tissue], self.edge_mm)
        self.owners[window][distance < outer] = owner


def blend_inside(
    image: Image, distance: Image, offset: float, value: float, edge_mm: float
) -> None:
    """Fill in place where distance < offset; the edge is as wide as a voxel."""
    cover = distance * (-1.0 / edge_mm)
    cover += 0.5 + offset / edge_mm
    np.clip(cover, 0.0, 1.0, out=cover)
    image += cover * (value - image)


def paint_slab(view: View, first: int, last: int, values: Mapping[str, float]) -> Slab:
    """Paint the patient, with air outside the skin."""
    slab = Slab.blank(view.coordinates(first, last), view.edge_mm)
    body = view.anatomy.body
    window = slab.window(grow_box(body.box, (6.0 + slab.edge_mm) * body.stretch))
    slab.image[...] = values["air"]
    if window is None:
        return slab
    x, y, z = (c[window] for c in slab.coordinates)
    slab.skin[window] = body.distance(x, y, z)
    if not (slab.skin < slab.edge_mm).any():
        return slab
    slab.image[...] = values["fat"]
    for part in view.anatomy.parts:
        slab.paint(part, values, view.numbers.get(part.owner, 0))
    skin = slab.skin
    rind = np.clip((skin + 2.0) / slab.edge_mm + 0.5, 0.0, 1.0)
    slab.image += rind * (values["skin"] - slab.image) * (slab.owners == 0)
    blend_inside(slab.image, -skin, 0.0, values["air"], slab.edge_mm)
    slab.owners[skin > 0] = 0
    return slab


def sample_texture(coordinates: Coordinates) -> Image:
    """Return the fine structure of tissue, within ±1."""
    x, y, z = coordinates
    waves = np.sin(x * 0.71 + z * 0.23) * np.sin(y * 0.63 - x * 0.19)
    return cast(Image, waves * np.cos(z * 0.57 + y * 0.31))


def plane_rng(seed: int, stream: int, plane: int) -> np.random.Generator:
    """Return the noise generator of one plane of one scan."""
    return np.random.default_rng(np.random.SeedSequence([seed, stream, plane]))


@dataclass(frozen=True)
class CtScanner:
    """A CT scanner and its table.

    Attributes:
        seed: of noise and tissue values.
        noise_hu: standard deviation of the noise in soft tissue.
        couch_y_mm: y of the table's top, CT world.
        centre_x_mm: x of the table's middle, CT world.
        face_mask: whether the patient wears a thermoplastic mask.
        contrast: whether a contrast agent enhances blood.
        stream: random stream of the noise; each scan of a patient has its own.
        streak_hu: height of the streaks of metal.
        headrest: whether the head lies in one.
        couch_curve_mm: how much higher the table's edges are than its middle.
        mask_mm: half the mask's thickness.
    """

    seed: int
    noise_hu: float
    couch_y_mm: float
    centre_x_mm: float
    face_mask: bool
    contrast: bool
    stream: int = 101
    streak_hu: float = 420.0
    headrest: bool = True
    couch_curve_mm: float = 0.0
    mask_mm: float = 1.3

    @classmethod
    def draw(cls, seed: int, anatomy: Anatomy) -> CtScanner:
        """Draw the scanner that takes a seed's CT."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, 11]))
        place, scale = anatomy.pose.rigid.translation_mm, anatomy.pose.scale
        return cls(
            seed=seed,
            noise_hu=float(rng.uniform(10.0, 16.0)),
            couch_y_mm=place[1] + 134.0 * scale[1] + float(rng.uniform(0, 8)),
            centre_x_mm=place[0],
            face_mask=bool(rng.random() < 0.85),
            contrast=bool(rng.random() < 0.4),
        )

    def draw_values(self) -> dict[str, float]:
        """Draw the HU of each tissue in this patient."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, 12]))
        result = {}
        for name, (hu, *_) in TISSUES.items():
            result[name] = hu + float(rng.normal()) * (2.0 if abs(hu) < 150 else 0.03 * abs(hu))
        result["air"] = -1000.0
        if self.contrast:
            result["A_Carotid"] += 110.0
            result["vein"] += 80.0
            result["tumour"] += 38.0
            result["node"] += 34.0
        return result

    def scan(
        self, view: View, *, label_slab: Callable[[Slab], Labels] | None = None
    ) -> tuple[Volume, Volume]:
        """Return the CT (int16) and its label map (uint8) on the view's grid.

        Args:
            view: the patient in the scanner.
            label_slab: labels a painted slab; by default, labels are the owners' numbers.
        """
        image = np.empty(view.grid.shape, np.int16)
        labels = np.empty(view.grid.shape, np.uint8)
        values = self.draw_values()
        for first, last in view.slabs():
            slab = paint_slab(view, first, last, values)
            self._add_table(view, slab)
            self.add_texture(slab)
            _add_streaks(view, slab, self.streak_hu)
            for plane in range(first, last):
                image[plane] = self.expose(slab.image[plane - first], plane)
            labels[first:last] = label_slab(slab) if label_slab else slab.owners
        return Volume(image, view.grid), Volume(labels, view.grid)

    def add_texture(self, slab: Slab) -> None:
        """Add the fine structure of tissue to a painted slab."""
        slab.image += sample_texture(slab.coordinates) * 5.0 * (slab.image > -300)

    def expose(self, plane: Image, number: int) -> NDArray[np.int16]:
        """Return a plane (y, x) in HU with the scanner's noise; ``number`` is its index."""
        noise = plane_rng(self.seed, self.stream, number).standard_normal(
            plane.shape, dtype=np.float32
        )
        grain = noise.copy()
        for axis in (0, 1):  # neighbours correlate a little, as by a reconstruction kernel
            grain = 0.5 * grain + 0.25 * (np.roll(grain, 1, axis) + np.roll(grain, -1, axis))
        spread = np.where(plane < -700, 0.35 * self.noise_hu, self.noise_hu)
        exposed = plane + (0.5 * noise + 1.9 * grain) * (spread * 0.8).astype(np.float32)
        return cast(NDArray[np.int16], np.rint(np.clip(exposed, *HU_LIMITS)).astype(np.int16))

    def _add_table(self, view: View, slab: Slab) -> None:
        skin, edge = slab.skin, slab.edge_mm
        values = self.draw_values()
        x, y, z = slab.coordinates
        outside = skin > 0.5 * edge
        if self.headrest:
            rest = np.maximum(np.maximum(np.abs(x) - 95.0, 62.0 - y), -75.0 - z)
            rest = np.maximum(rest, 6.0 - skin)
            _blend_where(slab.image, outside, rest, values["foam"], edge)
        step, origin = view.grid.index_to_world()
        rows = (origin[1] + step[1, 1] * np.arange(view.grid.shape[1])).astype(np.float32)
        columns = (origin[0] + step[0, 2] * np.arange(view.grid.shape[2])).astype(np.float32)
        depth = (rows - self.couch_y_mm)[:, None]
        if self.couch_curve_mm:
            bow = np.square((columns - self.centre_x_mm) / np.float32(260.0))
            depth = depth + np.float32(self.couch_curve_mm) * np.minimum(bow, 1.0)
        wide = np.abs(columns - self.centre_x_mm) - 260.0
        board = np.maximum(np.abs(depth - 22.0) - 22.0, wide)[None]
        shell = np.broadcast_to(np.abs(board) - 1.5, skin.shape)
        _blend_where(slab.image, outside, np.broadcast_to(board, skin.shape), values["foam"], edge)
        _blend_where(slab.image, outside, shell, values["couch"], edge)
        if self.face_mask:
            sheet = np.abs(skin - 3.0) - self.mask_mm
            sheet = np.maximum(sheet, np.maximum(y - 25.0, np.maximum(z - 112.0, -150.0 - z)))
            _blend_where(slab.image, outside, sheet, values["mask"], edge)


def _blend_where(image: Image, mask: Mask, distance: Image, value: float, edge: float) -> None:
    cover = np.clip(0.5 - distance / edge, 0.0, 1.0) * mask
    image += cover * (value - image)


def _add_streaks(view: View, slab: Slab, height_hu: float) -> None:
    """Add the streaks of metal to its planes."""
    for number, (mx, my, mz) in enumerate(view.anatomy.metal):
        window = slab.window(((mx - 100, my - 60, mz - 7), (mx + 100, my + 130, mz + 7)))
        if window is None:
            continue
        x, y, z = (c[window] for c in slab.coordinates)
        angle = np.arctan2(y - my, x - mx)
        radius = np.sqrt(np.square(x - mx) + np.square(y - my)) + 4.0
        bands = np.cos(angle * 7 + number) * np.cos(angle * 12 + 2 * number) - 0.15
        fade = np.maximum(1.0 - np.abs(z - mz) / 7.0, 0.0) * np.exp(-radius / 55.0)
        fade *= np.clip((100.0 - np.abs(x - mx)) / 20.0, 0, 1) * np.clip(radius / 12.0, 0, 1)
        seen = (slab.skin[window] < 0) & (y > my - 60) & (y < my + 130)
        slab.image[window] += bands * fade * height_hu * seen


@dataclass(frozen=True)
class MrScanner:
    """A T1 MR scanner.

    Attributes:
        seed: of noise, bias field and tissue values.
        sequence: index into ``SEQUENCES``.
        gain: signal units per unit of the tissue table.
        noise: standard deviation in signal units.
    """

    seed: int
    sequence: int
    gain: float
    noise: float

    @classmethod
    def draw(cls, seed: int) -> MrScanner:
        """Draw the scanner that takes a seed's MR."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, 21]))
        sequence = int(rng.choice(len(SEQUENCES), p=[0.55, 0.2, 0.25]))
        gain = float(rng.uniform(0.8, 1.8))
        return cls(seed, sequence, gain, gain * float(rng.uniform(9.0, 15.0)))

    def draw_values(self) -> dict[str, float]:
        """Draw the signal of each tissue in this patient."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, 22]))
        signals = {name: row[1 + self.sequence] for name, row in TISSUES.items()}
        return {
            name: signal * self.gain * (1 + 0.04 * float(rng.normal()))
            for name, signal in signals.items()
        }

    def draw_bias(self, grid: Grid) -> tuple[Image, Image, Image]:
        """Draw the factors along z, y, x whose product is the coil's sensitivity."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, 23]))
        factors = []
        for count in grid.shape:
            t = np.linspace(-1, 1, count)
            slope, bow = rng.uniform(-0.18, 0.18), rng.uniform(-0.05, 0.22)
            factors.append((1.0 + slope * t - bow * t * t).astype(np.float32))
        return factors[0], factors[1], factors[2]

    def scan(self, view: View) -> Volume:
        """Return the MR (int16, with noise in the background) on the view's grid."""
        image = np.empty(view.grid.shape, np.int16)
        values = self.draw_values()
        along, down, across = self.draw_bias(view.grid)
        for first, last in view.slabs():
            slab = self.paint(view, first, last, values)
            self.add_texture(slab)
            _displace_signal(view, slab)
            for plane in range(first, last):
                signal = slab.image[plane - first] * (down[:, None] * across * along[plane])
                image[plane] = self.receive(signal, plane)
        return Volume(image, view.grid)

    def paint(self, view: View, first: int, last: int, values: Mapping[str, float]) -> Slab:
        """Paint the patient at the slices' middles."""
        return paint_slab(view, first, last, values)

    def add_texture(self, slab: Slab) -> None:
        """Add the fine structure of tissue to a painted slab."""
        slab.image *= 1.0 + 0.05 * sample_texture(slab.coordinates)

    def receive(self, signal: Image, plane: int) -> NDArray[np.int16]:
        """Take the magnitude under complex Gaussian noise, which is Rician."""
        rng = plane_rng(self.seed, 201, plane)
        noise = rng.standard_normal((2, *signal.shape), dtype=np.float32) * self.noise
        magnitude = np.sqrt(np.square(signal + noise[0]) + np.square(noise[1]))
        return cast(NDArray[np.int16], np.rint(np.minimum(magnitude, 32000)).astype(np.int16))


def _displace_signal(view: View, slab: Slab) -> None:
    """Void the signal around metal and pile it up at the rim."""
    for mx, my, mz in view.anatomy.metal:
        window = slab.window(((mx - 20, my - 20, mz - 20), (mx + 20, my + 20, mz + 20)))
        if window is None:
            continue
        x, y, z = (c[window] for c in slab.coordinates)
        away: Any = np.sqrt(np.square(x - mx) + np.square(y - my) + np.square(z - mz))
        factor = np.clip((away - 7.0) / 4.0, 0.0, 1.0)
        factor *= 1.0 + 0.6 * np.exp(-np.square((away - 12.0) / 2.0))
        slab.image[window] *= np.where(away < 19.0, factor, 1.0).astype(np.float32)
