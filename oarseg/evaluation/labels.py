"""Label files become masks, one structure at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from oarseg.challenge import Challenge, Structure
from oarseg.deflate import Box
from oarseg.evaluation.layouts import LabelFiles
from oarseg.evaluation.metrics import cut_to_box
from oarseg.evaluation.surfaces import Mask
from oarseg.labelfiles import label_boxes
from oarseg.pixels import load, locate, not_scalar, not_three_dimensional, unusable
from oarseg.volume import Grid, Volume, from_sitk, grid_of, place, to_sitk

Labels = NDArray[np.integer[Any]]


class Masks(Protocol):
    """One side of a case."""

    @property
    def unknown_values(self) -> tuple[int, ...]:
        """Values of a label map that the challenge's table lacks."""

    def mask(self, structure: Structure) -> Mask | None:
        """The structure's mask; None where it has no voxel or no file.

        Raises:
            InputError: its file cannot be used.
        """

    def has(self, structure: Structure) -> bool:
        """Whether the side tells of the structure at all, be it by an empty mask."""


@dataclass(frozen=True)
class LabelMap:
    """A label map in memory, and where each label lies."""

    labels: NDArray[np.uint8]
    boxes: tuple[Box | None, ...]
    unknown_values: tuple[int, ...] = ()

    def mask(self, structure: Structure) -> Mask | None:
        """The voxels with the structure's label."""
        box = self.boxes[structure.label - 1]
        if box is None:
            return None
        z, y, x = (side.start for side in box)
        return Mask(self.labels[box] == structure.label, (z, y, x))

    def has(self, structure: Structure) -> bool:
        """A label map tells of every structure."""
        return True


@dataclass(frozen=True)
class MaskFiles:
    """Files of binary masks, each read when it is asked for."""

    files: LabelFiles
    grid: Grid
    resample: bool
    unknown_values: tuple[int, ...] = ()

    def mask(self, structure: Structure) -> Mask | None:
        """The voxels that are not zero."""
        path = self.files.masks.get(structure.name)
        return cut_to_box(on_grid(path, self.grid, resample=self.resample)) if path else None

    def has(self, structure: Structure) -> bool:
        """Whether there is a file."""
        return structure.name in self.files.masks


def open_masks(files: LabelFiles, challenge: Challenge, grid: Grid, *, resample: bool) -> Masks:
    """One side of a case on a grid.

    Args:
        files: of the case.
        challenge: tells the labels.
        grid: of the reference.
        resample: bring files on other grids onto it, by nearest neighbour.

    Raises:
        InputError: the label map cannot be read, or lies on another grid and
            ``resample`` is not set.
    """
    if files.label_map is None:
        return MaskFiles(files, grid, resample)
    labels = on_grid(files.label_map, grid, resample=resample)
    count = len(challenge.structures)
    unknown = _values_outside(labels, count)
    known = _bytes(labels, count)
    return LabelMap(known, tuple(label_boxes(known, count)), unknown)


def on_grid(path: Path, grid: Grid, *, resample: bool) -> Labels:
    """Read labels that lie on a grid, or bring them onto it.

    Raises:
        InputError: not readable, not labels, or on another grid.
    """
    volume = read_labels(path)
    if volume.grid.matches(grid, tolerance_mm=1e-2):
        return volume.array
    if not resample:
        raise unusable(
            path,
            expected=f"the reference's grid, {_described(grid)}",
            found=_described(volume.grid),
            do="write it on the reference's grid, or pass --resample",
        )
    size = [int(count) for count in reversed(grid.shape)]
    target = place(sitk.Image(size, sitk.sitkUInt8), grid)
    moved = sitk.Resample(to_sitk(volume), target, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    return from_sitk(moved).array


def read_labels(path: Path) -> Volume:
    """Read a label map or mask, an empty one too. Values must be whole numbers.

    Raises:
        InputError: not an image, damaged, not 3-D, or values with fractions.
    """
    pixels = locate(path)
    grid = read_grid(path)
    array = load(path, pixels, grid.voxels).reshape(grid.shape)
    if array.dtype.kind == "f" or (pixels.slope, pixels.intercept) != (1.0, 0.0):
        array = _whole(array, pixels.slope, pixels.intercept, path)
    return Volume(array, grid)


def read_grid(path: Path) -> Grid:
    """Read the grid of an image, without its voxels.

    Raises:
        InputError: not a 3-D image of one value a voxel.
    """
    pixels = locate(path)
    if pixels.grid is not None:
        return pixels.grid
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise unusable(
            path,
            expected=f"a whole {pixels.format} header",
            found="one that ITK refuses",
            do="write the file again",
        ) from error
    if reader.GetDimension() != 3:
        raise not_three_dimensional(path, reader.GetDimension())
    if reader.GetNumberOfComponents() != 1:
        raise not_scalar(path, reader.GetNumberOfComponents())
    return grid_of(reader)


def _whole(array: NDArray[Any], slope: float, intercept: float, path: Path) -> Labels:
    """Whole numbers, plane by plane to hold no second copy of wide ones."""
    labels = np.empty(array.shape, np.int16)
    for number, plane in enumerate(array):
        values = plane * slope + intercept
        rounded = np.rint(values)
        if not (np.abs(values - rounded) <= 1e-4).all() or np.abs(rounded).max() > 32767:
            raise unusable(
                path,
                expected="labels, which are whole numbers",
                found="fractions, NaN or numbers beyond 32767",
                do="give the label map, not the image or probabilities",
            )
        labels[number] = rounded
    return labels


def _bytes(labels: Labels, count: int) -> NDArray[np.uint8]:
    """The labels 1 … count as bytes, all other values as background."""
    if labels.dtype == np.uint8 and int(labels.max()) <= count:
        return labels.astype(np.uint8, copy=False)
    known = np.zeros(labels.shape, np.uint8)
    for target, plane in zip(known, labels, strict=True):
        target[...] = np.where((plane < 0) | (plane > count), 0, plane)
    return known


def _values_outside(labels: Labels, count: int) -> tuple[int, ...]:
    if int(labels.max()) <= count and int(labels.min()) >= 0:
        return ()
    found: set[int] = set()
    for plane in labels:
        found.update(np.unique(plane[(plane < 0) | (plane > count)]).tolist())
    return tuple(sorted(found))


def _described(grid: Grid) -> str:
    size = "×".join(str(n) for n in reversed(grid.shape))
    spacing = "×".join(f"{s:g}" for s in reversed(grid.spacing_mm))
    origin = ", ".join(f"{o:g}" for o in grid.origin_mm)
    return f"{size} voxels of {spacing} mm from ({origin})"
