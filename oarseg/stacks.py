"""Label files of several channels on one grid, read plane by plane.

Two kinds are known: 4-D images with one channel of zeros and ones an organ, as challenges
with overlapping organs ask for them (MetaImage, NIfTI), and Slicer's segmentations, whose
header names the segments and whose overlapping ones lie in several layers (NRRD; the layer
is the axis of kind "list", https://teem.sourceforge.net/nrrd/format.html). Forty-five
channels of a large scan are ten gigabytes: no more than one plane is in memory at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import SimpleITK as sitk
from numpy.typing import NDArray

from oarseg.pixels import HEADER_LIMIT, Pixels, blocks, locate, not_three_dimensional, unusable
from oarseg.reading import read_header
from oarseg.volume import Grid, Matrix, Vector, grid_of, reversed_triple

MOST_CHANNELS = 1024


@dataclass(frozen=True)
class Segment:
    """One segment of a Slicer segmentation: the voxels of a layer that have its value."""

    name: str
    layer: int
    value: int


@dataclass(frozen=True)
class Stack:
    """What a label file's header says.

    Attributes:
        path: the file.
        pixels: where its voxels are.
        grid: of every channel.
        channels: how many there are; 1 for a 3-D file.
        interleaved: the channels of a voxel lie together, as Slicer writes layers.
        segments: of a Slicer segmentation.
    """

    path: Path
    pixels: Pixels
    grid: Grid
    channels: int = 1
    interleaved: bool = False
    segments: tuple[Segment, ...] = ()

    def planes(self) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """All planes in the order of the file, which is read once.

        Yields:
            channel, z, and values (y, x) as they are stored. The array is only valid until
            the next one is asked for.

        Raises:
            InputError: the file is damaged or holds less than its header promises.
        """
        depth, height, width = self.grid.shape
        if self.interleaved:
            shape = height, width, self.channels
            for z, block in enumerate(blocks(self.path, self.pixels, depth, shape)):
                for channel in range(self.channels):
                    yield channel, z, block[..., channel]
        else:
            count = self.channels * depth
            for number, block in enumerate(blocks(self.path, self.pixels, count, (height, width))):
                yield number // depth, number % depth, block


def open_stack(path: Path) -> Stack:
    """Read the header of a label file of one channel or more.

    Raises:
        InputError: not an image of three axes, or of four with channels along one of them.
    """
    pixels = locate(path, channels=True)
    if pixels.grid is not None:
        return _checked(Stack(path, pixels, pixels.grid, pixels.channels))
    header = read_header(path, pixels)
    axes, components = header.GetDimension(), header.GetNumberOfComponents()
    if axes == 4 and components == 1:
        return _checked(Stack(path, pixels, _first_three(header), int(header.GetSize()[3])))
    if axes != 3:
        raise not_three_dimensional(path, axes)
    first = components > 1 and _list_comes_first(path)
    return _checked(Stack(path, pixels, grid_of(header), components, first, _segments(header)))


def _checked(stack: Stack) -> Stack:
    if not 1 <= stack.channels <= MOST_CHANNELS:
        raise unusable(
            stack.path,
            expected=f"1 to {MOST_CHANNELS} channels",
            found=f"{stack.channels}",
            do="give a label file",
        )
    return stack


def _first_three(header: sitk.ImageFileReader) -> Grid:
    """The grid of the first three axes of a 4-D image."""
    flat = [float(value) for value in header.GetDirection()]
    rows = tuple(tuple(flat[4 * row : 4 * row + 3]) for row in range(3))
    return Grid(
        shape=reversed_triple(int(count) for count in header.GetSize()[:3]),
        spacing_mm=reversed_triple(float(spacing) for spacing in header.GetSpacing()[:3]),
        origin_mm=cast(Vector, tuple(float(place) for place in header.GetOrigin()[:3])),
        direction=cast(Matrix, rows),
    )


def _list_comes_first(path: Path) -> bool:
    """Whether the channels of a voxel lie together in an NRRD file; ITK does not tell."""
    with path.open("rb") as stream:
        kinds = re.search(rb"(?m)^kinds:\s*(\S+)", stream.read(HEADER_LIMIT))
    return kinds is None or kinds[1] not in (b"domain", b"space")


def _segments(header: sitk.ImageFileReader) -> tuple[Segment, ...]:
    keys = set(header.GetMetaDataKeys())
    found = []
    number = 0
    while {f"Segment{number}_ID", f"Segment{number}_Name"} & keys:
        prefix = f"Segment{number}_"
        name = prefix + ("Name" if f"{prefix}Name" in keys else "ID")
        layer, value = (_number(header, prefix + key, keys) for key in ("Layer", "LabelValue"))
        found.append(Segment(header.GetMetaData(name), layer or 0, 1 if value is None else value))
        number += 1
    return tuple(found)


def _number(header: sitk.ImageFileReader, key: str, keys: set[str]) -> int | None:
    text = header.GetMetaData(key).strip() if key in keys else ""
    return int(text) if text.isdecimal() and text.isascii() else None
