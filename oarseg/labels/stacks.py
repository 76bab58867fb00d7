"""Read label files with several channels on one grid, plane by plane.

Two kinds are supported: 4-D images with one binary channel per organ, as challenges with
overlapping organs ask for (MetaImage, NIfTI); and Slicer's segmentations, whose header names
the segments and which hold overlapping ones in several layers (NRRD; the layer is the axis
of kind "list", https://teem.sourceforge.net/nrrd/format.html). Forty-five channels of a
large scan are ten gigabytes, so only one plane is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from oarseg.imaging.files import nrrd
from oarseg.imaging.files.locate import locate_voxels, read_head
from oarseg.imaging.files.pixels import Pixels, read_blocks, unusable_file
from oarseg.imaging.volume import Grid

MAX_CHANNELS = 1024


@dataclass(frozen=True)
class StoredSegment:
    """One segment of a Slicer segmentation: the voxels of a layer with a value."""

    name: str
    layer: int
    value: int


@dataclass(frozen=True)
class LabelStack:
    """Header of a label file.

    Attributes:
        path: the file.
        pixels: where its voxels are stored.
        grid: grid of every channel.
        channels: number of channels; 1 for a 3-D file.
        interleaved: whether the channels of a voxel are adjacent, as Slicer writes layers.
        segments: segments of a Slicer segmentation.
    """

    path: Path
    pixels: Pixels
    grid: Grid
    channels: int = 1
    interleaved: bool = False
    segments: tuple[StoredSegment, ...] = ()

    def planes(self) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Iterate over all planes in the order of the file, which is read once.

        Yields:
            channel, z, and the values (y, x) as stored; valid until the next iteration.

        Raises:
            InputError: the file is damaged or shorter than its header says.
        """
        depth, height, width = self.grid.shape
        if self.interleaved:
            shape = height, width, self.channels
            for z, block in enumerate(read_blocks(self.path, self.pixels, depth, shape)):
                for channel in range(self.channels):
                    yield channel, z, block[..., channel]
        else:
            count = self.channels * depth
            for number, block in enumerate(
                read_blocks(self.path, self.pixels, count, (height, width))
            ):
                yield number // depth, number % depth, block


def open_stack(path: Path) -> LabelStack:
    """Read the header of a label file with one or more channels.

    Raises:
        InputError: not a 3-D image, nor a 4-D one with channels along one axis.
    """
    pixels = locate_voxels(path, channels=True)
    if pixels.channels > MAX_CHANNELS:
        raise unusable_file(
            path,
            expected=f"1 to {MAX_CHANNELS} channels",
            found=f"{pixels.channels}",
            do="give a label file",
        )
    texts = nrrd.read_key_values(path, read_head(path)) if pixels.format == "NRRD" else {}
    return LabelStack(
        path, pixels, pixels.grid, pixels.channels, pixels.interleaved, _parse_segments(texts)
    )


def _parse_segments(texts: Mapping[str, str]) -> tuple[StoredSegment, ...]:
    found = []
    number = 0
    while {f"Segment{number}_ID", f"Segment{number}_Name"} & texts.keys():
        prefix = f"Segment{number}_"
        name = prefix + ("Name" if f"{prefix}Name" in texts else "ID")
        layer, value = (_parse_number(texts, prefix + key) for key in ("Layer", "LabelValue"))
        found.append(StoredSegment(texts[name], layer or 0, 1 if value is None else value))
        number += 1
    return tuple(found)


def _parse_number(texts: Mapping[str, str], key: str) -> int | None:
    text = texts.get(key, "").strip()
    return int(text) if text.isdecimal() and text.isascii() else None
