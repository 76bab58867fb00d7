"""Open label files as masks, one organ at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from oarseg.challenges.challenge import Challenge, Organ
from oarseg.imaging.files.pixels import not_three_dimensional, read_voxels, unusable_file
from oarseg.imaging.volume import IDENTITY, Grid, Volume, from_sitk, set_geometry, to_sitk
from oarseg.labels.boxes import Box, label_boxes
from oarseg.labels.find_labels import LabelFiles
from oarseg.labels.mask import CroppedMask, cut_to_box
from oarseg.labels.pieces import Pieces
from oarseg.labels.stacks import LabelStack, open_stack
from oarseg.labels.structure_sets import is_structure_set, read_structures

IntegerLabels = NDArray[np.integer[Any]]
# Headers tell a grid with seven digits or more; a voxel is half a millimetre or more.
CORNER_TOLERANCE_MM = 1e-2
# Of a label from a whole number; half a step of 255 that hold fifty labels.
LABEL_TOLERANCE = 1e-4
COARSEST_ROUNDING = 0.1


class Masks(Protocol):
    """One side of a case."""

    @property
    def unknown(self) -> tuple[str, ...]:
        """Values or segments that the challenge's table lacks."""

    def mask(self, organ: Organ) -> CroppedMask | None:
        """The organ's mask; None where it has no voxel or no file.

        Raises:
            InputError: its file cannot be used.
        """

    def lacks(self, organ: Organ) -> str:
        """Return why this side says nothing about the organ, not even by an empty mask, or ""."""


@dataclass(frozen=True)
class NoMasks:
    """A side without any usable file."""

    reason: str
    unknown: tuple[str, ...] = ()

    def mask(self, organ: Organ) -> None:
        """None."""

    def lacks(self, organ: Organ) -> str:
        """Return the reason."""
        return self.reason


@dataclass(frozen=True)
class LabelMap:
    """A label map in memory, with the box of each label."""

    labels: NDArray[np.uint8]
    boxes: tuple[Box | None, ...]
    unknown: tuple[str, ...] = ()

    def mask(self, organ: Organ) -> CroppedMask | None:
        """Return the voxels with one of the organ's labels."""
        boxes = [box for label in organ.labels if (box := self.boxes[label - 1])]
        if not boxes:
            return None
        sides = zip(*boxes, strict=True)
        z, y, x = (slice(min(s.start for s in a), max(s.stop for s in a)) for a in sides)
        if len(organ.labels) == 1:
            return CroppedMask(self.labels[z, y, x] == organ.labels[0], (z.start, y.start, x.start))
        inside = np.zeros(256, bool)
        inside[list(organ.labels)] = True
        return CroppedMask(inside[self.labels[z, y, x]], (z.start, y.start, x.start))

    def lacks(self, organ: Organ) -> str:
        """Return "": a label map covers every structure."""
        return ""


@dataclass(frozen=True)
class MaskFiles:
    """Files of binary masks, each read on demand."""

    files: LabelFiles
    target: Target
    unknown: tuple[str, ...] = ()

    def mask(self, organ: Organ) -> CroppedMask | None:
        """Return the non-zero voxels."""
        path = self.files.masks.get(organ.name)
        return cut_to_box(_on_grid(open_stack(path), self.target).array) if path else None

    def lacks(self, organ: Organ) -> str:
        """Return why the organ is missing, or ""."""
        return "" if organ.name in self.files.masks else "no file"


@dataclass(frozen=True)
class StackMasks:
    """Organs of a stack of channels or named segments, packed in memory."""

    pieces: dict[str, Pieces]
    lie_on: Grid
    target: Target
    unknown: tuple[str, ...] = ()

    def mask(self, organ: Organ) -> CroppedMask | None:
        """Return the voxels of the organ's channel or segment."""
        mask = self.pieces[organ.name].mask() if organ.name in self.pieces else None
        if mask is None or self.target.holds(self.lie_on):
            return mask
        z, y, x = mask.start
        corner = self.lie_on.to_world(np.array([[z, y, x]]))[0]
        grid = Grid(
            _shape(mask),
            self.lie_on.spacing_mm,
            (float(corner[0]), float(corner[1]), float(corner[2])),
            self.lie_on.direction,
        )
        return cut_to_box(_moved(Volume(mask.array.view(np.uint8), grid), self.target.grid).array)

    def lacks(self, organ: Organ) -> str:
        """Return why the organ is missing, or ""."""
        return "" if organ.name in self.pieces else "no segment"


@dataclass(frozen=True)
class Target:
    """The grid on which a case is scored, and what is done with files on others.

    Attributes:
        grid: of the reference.
        resample: bring them onto it by nearest neighbour instead of refusing them.
        frameless: where one of two grids has its origin and direction left at identity,
            they are the same if size and spacing say so.
    """

    grid: Grid
    resample: bool = False
    frameless: bool = False

    def holds(self, other: Grid) -> bool:
        """Whether another grid is this one."""
        if self.grid.matches(other, tolerance_mm=CORNER_TOLERANCE_MM):
            return True
        return self._frameless(other) and _same_size(self.grid, other)

    def takes(self, other: Grid) -> bool:
        """Whether a file on another grid can be used."""
        return self.holds(other) or (self.resample and not self._frameless(other))

    def _frameless(self, other: Grid) -> bool:
        return self.frameless and (is_frameless(other) or is_frameless(self.grid))


def is_frameless(grid: Grid) -> bool:
    """Whether origin and direction are the defaults of a writer that does not set them."""
    return grid.origin_mm == (0.0, 0.0, 0.0) and grid.direction == IDENTITY


def _same_size(one: Grid, other: Grid) -> bool:
    return one.shape == other.shape and np.allclose(one.spacing_mm, other.spacing_mm, rtol=1e-4)


def open_masks(files: LabelFiles, challenge: Challenge, target: Target) -> Masks:
    """One side of a case on a grid.

    Args:
        files: of the case.
        challenge: tells the labels and organs.
        target: the grid.

    Raises:
        InputError: a label file cannot be read, has other channels than the challenge, or
            lies on another grid and ``resample`` is not set.
    """
    if files.label_map is None:
        return MaskFiles(files, target)
    if is_structure_set(files.label_map):
        pieces, others = read_structures(files.label_map, challenge, target.grid)
        return StackMasks(pieces, target.grid, target, others)
    stack = open_stack(files.label_map)
    if stack.channels > 1 or stack.segments:
        return _stack_masks(stack, challenge, target)
    labels = _on_grid(stack, target).array
    count = len(challenge.structures)
    unknown = tuple(map(str, _values_outside(labels, count)))
    known = _bytes(labels, count)
    return LabelMap(known, tuple(label_boxes(known, count)), unknown)


def _stack_masks(stack: LabelStack, challenge: Challenge, target: Target) -> StackMasks:
    _check_grid(stack, target)
    organs = {organ.name for organ in challenge.organs}
    unknown: tuple[str, ...] = ()
    if stack.segments:
        names = {(s.layer, s.value): s.name for s in stack.segments if s.name in organs}
        unknown = tuple(s.name for s in stack.segments if s.name not in organs)
        if not names:
            raise unusable_file(
                stack.path,
                expected=f"segments named as {challenge.name}'s structures",
                found=", ".join(unknown),
                do="rename them",
            )
        return StackMasks(_segment_pieces(stack, names), stack.grid, target, unknown)
    if stack.channels != len(challenge.organs):
        raise unusable_file(
            stack.path,
            expected=f"{len(challenge.organs)} channels, one a structure of {challenge.name}",
            found=f"{stack.channels}",
            do="give the file that the challenge asks for",
        )
    return StackMasks(_channel_pieces(stack, challenge), stack.grid, target)


def _channel_pieces(stack: LabelStack, challenge: Challenge) -> dict[str, Pieces]:
    pieces = [Pieces() for _ in range(stack.channels)]
    for channel, z, plane in stack.planes():
        if plane.any():
            pieces[channel].add(z, _whole(plane[None], stack)[0] != 0)
    return {organ.name: part for organ, part in zip(challenge.organs, pieces, strict=True)}


def _segment_pieces(stack: LabelStack, names: dict[tuple[int, int], str]) -> dict[str, Pieces]:
    """The pieces of each segment, by (layer, value)."""
    pieces = {name: Pieces() for name in names.values()}
    for layer, z, plane in stack.planes():
        if not plane.any():
            continue
        values = _whole(np.ascontiguousarray(plane)[None], stack)[0]
        for (where, value), name in names.items():
            if where == layer:
                pieces[name].add(z, values == value)
    return pieces


def _check_grid(stack: LabelStack, target: Target) -> None:
    if target.takes(stack.grid):
        return
    same = stack.grid.direction == target.grid.direction
    raise unusable_file(
        stack.path,
        expected=f"the reference's grid, {_described(target.grid, directions=not same)}",
        found=_described(stack.grid, directions=not same),
        do="write it on the reference's grid, or pass --resample",
    )


def _on_grid(stack: LabelStack, target: Target) -> Volume:
    """Read labels that lie on a grid, or bring them onto it.

    Raises:
        InputError: not readable, not labels, or on another grid.
    """
    _check_grid(stack, target)
    volume = _read(stack)
    return volume if target.holds(volume.grid) else _moved(volume, target.grid)


def _moved(volume: Volume, grid: Grid) -> Volume:
    import SimpleITK as sitk

    size = [int(count) for count in reversed(grid.shape)]
    target = set_geometry(sitk.Image(size, sitk.sitkUInt8), grid)
    moved = sitk.Resample(to_sitk(volume), target, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    return from_sitk(moved)


def read_grid(path: Path) -> Grid:
    """Read the grid of a label file or image, without its voxels.

    Raises:
        InputError: not an image of a kind that is read.
    """
    return open_stack(path).grid


def _read(stack: LabelStack) -> Volume:
    if stack.channels != 1:
        raise not_three_dimensional(stack.path, 4)
    array = read_voxels(stack.path, stack.pixels, stack.grid.voxels).reshape(stack.grid.shape)
    return Volume(_whole(array, stack), stack.grid)


def _whole(array: NDArray[Any], stack: LabelStack) -> IntegerLabels:
    """Whole numbers, plane by plane to hold no second copy of wide ones."""
    slope, intercept = stack.pixels.slope, stack.pixels.intercept
    if array.dtype.kind != "f" and (slope, intercept) == (1.0, 0.0):
        return array
    labels = np.empty(array.shape, np.int16)
    off = _rounding(array, slope)
    for number, plane in enumerate(array):
        values = plane * slope + intercept
        rounded = np.rint(values)
        if not (np.abs(values - rounded) <= off).all() or np.abs(rounded).max() > 32767:
            raise unusable_file(
                stack.path,
                expected="labels, which are whole numbers",
                found="fractions, NaN or numbers beyond 32767",
                do="give the label map, not the image or probabilities",
            )
        labels[number] = rounded
    return labels


def _rounding(array: NDArray[Any], slope: float) -> float:
    """Return how far a label may be from a whole number.

    Where integers are scaled, as nibabel stores an array of floats, a whole number comes
    back to within half a step; steps so coarse that any image would pass are not labels'.
    """
    if array.dtype.kind == "f":
        return LABEL_TOLERANCE
    return min(max(LABEL_TOLERANCE, abs(slope) / 2), COARSEST_ROUNDING)


def _bytes(labels: IntegerLabels, count: int) -> NDArray[np.uint8]:
    """The labels 1 … count as bytes, all other values as background."""
    if labels.dtype == np.uint8 and int(labels.max()) <= count:
        return labels.astype(np.uint8, copy=False)
    known = np.zeros(labels.shape, np.uint8)
    for target, plane in zip(known, labels, strict=True):
        target[...] = np.where((plane < 0) | (plane > count), 0, plane)
    return known


def _values_outside(labels: IntegerLabels, count: int) -> tuple[int, ...]:
    if int(labels.max()) <= count and int(labels.min()) >= 0:
        return ()
    found: set[int] = set()
    for plane in labels:
        found.update(np.unique(plane[(plane < 0) | (plane > count)]).tolist())
    return tuple(sorted(found))


def _shape(mask: CroppedMask) -> tuple[int, int, int]:
    z, y, x = mask.array.shape
    return z, y, x


def _described(grid: Grid, *, directions: bool) -> str:
    size = "×".join(str(n) for n in reversed(grid.shape))
    spacing = "×".join(f"{s:g}" for s in reversed(grid.spacing_mm))
    origin = ", ".join(f"{o:g}" for o in grid.origin_mm)
    text = f"{size} voxels of {spacing} mm from ({origin})"
    if directions:
        rows = "; ".join(" ".join(f"{value:g}" for value in row) for row in grid.direction)
        text += f" along [{rows}]"
    return text
