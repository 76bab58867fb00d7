"""Label files of several channels on one grid, read plane by plane.

Two kinds are known: 4-D images with one channel of zeros and ones an organ, as challenges
with overlapping organs ask for them (MetaImage, NIfTI), and Slicer's segmentations, whose
header names the segments and whose overlapping ones lie in several layers (NRRD; the layer
is the axis of kind "list", https://teem.sourceforge.net/nrrd/format.html). Forty-five
channels of a large scan are ten gigabytes: no more than one plane is in memory at once.
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

MOST_CHANNELS = 1024


@dataclass(frozen=True)
class StoredSegment:
    """One segment of a Slicer segmentation: the voxels of a layer that have its value."""

    name: str
    layer: int
    value: int


@dataclass(frozen=True)
class LabelStack:
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
    segments: tuple[StoredSegment, ...] = ()

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
    """Read the header of a label file of one channel or more.

    Raises:
        InputError: not an image of three axes, or of four with channels along one of them.
    """
    pixels = locate_voxels(path, channels=True)
    if pixels.channels > MOST_CHANNELS:
        raise unusable_file(
            path,
            expected=f"1 to {MOST_CHANNELS} channels",
            found=f"{pixels.channels}",
            do="give a label file",
        )
    texts = nrrd.read_key_values(path, read_head(path)) if pixels.format == "NRRD" else {}
    return LabelStack(
        path, pixels, pixels.grid, pixels.channels, pixels.interleaved, _segments(texts)
    )


def _segments(texts: Mapping[str, str]) -> tuple[StoredSegment, ...]:
    found = []
    number = 0
    while {f"Segment{number}_ID", f"Segment{number}_Name"} & texts.keys():
        prefix = f"Segment{number}_"
        name = prefix + ("Name" if f"{prefix}Name" in texts else "ID")
        layer, value = (_number(texts, prefix + key) for key in ("Layer", "LabelValue"))
        found.append(StoredSegment(texts[name], layer or 0, 1 if value is None else value))
        number += 1
    return tuple(found)


def _number(texts: Mapping[str, str], key: str) -> int | None:
    text = texts.get(key, "").strip()
    return int(text) if text.isdecimal() and text.isascii() else None
