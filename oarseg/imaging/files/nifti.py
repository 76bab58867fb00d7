"""The header of a NIfTI-1 file. Format: https://nifti.nimh.nih.gov/nifti-1."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oarseg.imaging.files import nifti_geometry
from oarseg.imaging.files.pixels import (
    GZIP_MAGIC,
    Pixels,
    not_three_dimensional,
    unsupported_encoding,
)
from oarseg.imaging.nifti_placement import NiftiPlacement, unpack_placement

HEADER_BYTES = 348
LARGEST_OFFSET = 1 << 20
DATATYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8",
    256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip


@dataclass(frozen=True)
class _Header:
    """The fields that count.

    Attributes:
        order: of the bytes, ``<`` or ``>``.
        sizes: voxels along every axis that the header names.
        datatype: NIfTI's number of the type.
        offset: byte at which the voxels begin.
        scaling: slope and intercept.
        placement: where the image lies.
    """

    order: str
    sizes: tuple[int, ...]
    datatype: int
    offset: float
    scaling: tuple[float, float]
    placement: NiftiPlacement


def is_nifti(head: bytes) -> bool:
    """Return whether a file, inflated if need be, begins like NIfTI-1 or Analyze."""
    return _inflate_start(head)[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c")


def parse_nifti_header(path: Path, head: bytes, *, channels: bool = False) -> Pixels:
    """Find the voxels from the first bytes of the file.

    Args:
        path: for messages.
        head: the bytes.
        channels: allow a fourth axis, of channels.

    Raises:
        InputError: header and data in two files, another number of axes, a type that is
            not read, or geometry that is not finite or not orthogonal.
    """
    compressed = head.startswith(GZIP_MAGIC)
    data = _inflate_start(head)
    if len(data) < HEADER_BYTES or data[344:348] != b"n+1\x00":
        raise unsupported_encoding(path, "a header that is not NIfTI-1 in a single file")
    read = _unpack_header(data)
    if read.datatype not in DATATYPES or not HEADER_BYTES <= read.offset <= LARGEST_OFFSET:
        raise unsupported_encoding(path, f"data type {read.datatype} at byte {read.offset:g}")
    sizes = _counted_sizes(path, read, channels=channels)
    grid, notes = nifti_geometry.place_image(path, read.placement, sizes[:3])
    slope, intercept = read.scaling
    if not (np.isfinite([slope, intercept]).all() and slope != 0.0):
        slope, intercept = 1.0, 0.0
    start, skip = (0, int(read.offset)) if compressed else (int(read.offset), 0)
    dtype = np.dtype(read.order + DATATYPES[read.datatype])
    return Pixels(
        "NIfTI",
        dtype,
        compressed,
        start,
        grid,
        channels=sizes[3] if len(sizes) == 4 else 1,
        skip=skip,
        slope=slope,
        intercept=intercept,
        notes=notes,
    )


def _inflate_start(head: bytes) -> bytes:
    if not head.startswith(GZIP_MAGIC):
        return head
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, HEADER_BYTES)
    except zlib.error:
        # Not gzip after all; the caller says that it is of no known kind.
        return b""


def _unpack_header(data: bytes) -> _Header:
    order = "<" if data[:4] == b"\x5c\x01\x00\x00" else ">"

    def at(layout: str, offset: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + layout, data, offset)

    count, *sizes = at("8h", 40)
    slope, intercept = at("2f", 112)
    return _Header(
        order,
        tuple(sizes[: max(count, 0)]),
        at("h", 70)[0],
        at("f", 108)[0],
        (slope, intercept),
        unpack_placement(data, order),
    )


def _counted_sizes(path: Path, read: _Header, *, channels: bool) -> list[int]:
    """Return the voxels along three axes, or four if allowed; trailing axes of one do not count."""
    sizes = list(read.sizes)
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) != 3 and not (channels and len(sizes) == 4):
        raise not_three_dimensional(path, len(sizes))
    return sizes
