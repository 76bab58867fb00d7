"""The header of a NIfTI-1 file.

Format: https://nifti.nimh.nih.gov/nifti-1. ITK's reader hangs on a matrix that holds NaN,
and refuses good files whose only matrix lies far from the origin, so the geometry is
worked out here by ITK's rules: the matrix (sform) counts if it is orthogonal and either
alone, or of the scanner, or the same as the quaternion's (qform); else the quaternion.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from oarseg.imaging.arrays import Doubles
from oarseg.imaging.files.pixels import (
    GZIP_MAGIC,
    Pixels,
    not_three_dimensional,
    unsupported_encoding,
    unusable_file,
)
from oarseg.imaging.volume import Grid, Matrix, Vector, reversed_triple

HEADER_BYTES = 348
LARGEST_OFFSET = 1 << 20
DATATYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8",
    256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
MM_PER_UNIT = {1: 1e3, 3: 1e-3}
SCANNER = 1
# Of the directions' scalar products; single precision leaves 1e-7.
ORTHOGONAL = 1e-4
SAME_MM = 1e-3
# Of the spacing, between the two places where a header has it.
SAME_SPACING = 0.01
LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class _Header:
    """The fields that count.

    Attributes:
        sizes: voxels along every axis that is told.
        pixdim: its first four: handedness of the quaternion, spacings.
        scaling: slope and intercept.
        qform, sform: what the codes say.
        quaternion: b, c, d, then the offset.
        rows: of the matrix, (3, 4).
    """

    order: str
    sizes: tuple[int, ...]
    datatype: int
    pixdim: tuple[float, ...]
    offset: float
    scaling: tuple[float, float]
    units: int
    qform: int
    sform: int
    quaternion: Doubles
    rows: Doubles


def is_nifti(head: bytes) -> bool:
    """Whether a file, or what it holds compressed, begins like NIfTI-1 or Analyze."""
    return _start(head)[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c")


def parse_nifti_header(path: Path, head: bytes, *, channels: bool = False) -> Pixels:
    """Where the voxels are, from the first bytes of the file.

    Args:
        path: for messages.
        head: the bytes.
        channels: let it have a fourth axis.

    Raises:
        InputError: header and data in two files, another number of axes, a type that is
            not read, or geometry that is not finite or not orthogonal.
    """
    compressed = head.startswith(GZIP_MAGIC)
    data = _start(head)
    if len(data) < HEADER_BYTES or data[344:348] != b"n+1\x00":
        raise unsupported_encoding(path, "a header that is not NIfTI-1 in a single file")
    read = _read(data)
    if read.datatype not in DATATYPES or not HEADER_BYTES <= read.offset <= LARGEST_OFFSET:
        raise unsupported_encoding(path, f"data type {read.datatype} at byte {read.offset:g}")
    sizes = _sizes(path, read, channels=channels)
    grid = _grid(path, read, sizes[:3])
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
    )


def _start(head: bytes) -> bytes:
    if not head.startswith(GZIP_MAGIC):
        return head
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, HEADER_BYTES)
    except zlib.error:
        # Not gzip after all; the caller says that it is of no known kind.
        return b""


def _read(data: bytes) -> _Header:
    order = "<" if data[:4] == b"\x5c\x01\x00\x00" else ">"

    def at(layout: str, offset: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + layout, data, offset)

    count, *sizes = at("8h", 40)
    slope, intercept = at("2f", 112)
    qform, sform = at("2h", 252)
    return _Header(
        order,
        tuple(sizes[: max(count, 0)]),
        at("h", 70)[0],
        at("4f", 76),
        at("f", 108)[0],
        (slope, intercept),
        data[123] & 7,
        qform,
        sform,
        np.array(at("6f", 256)),
        np.array(at("12f", 280)).reshape(3, 4),
    )


def _sizes(path: Path, read: _Header, *, channels: bool) -> list[int]:
    """Voxels along three axes or, if they may be, four; trailing axes of one do not count."""
    sizes = list(read.sizes)
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) != 3 and not (channels and len(sizes) == 4):
        raise not_three_dimensional(path, len(sizes))
    return sizes


def _grid(path: Path, read: _Header, sizes: list[int]) -> Grid:
    scale = MM_PER_UNIT.get(read.units, 1.0)
    spacing = np.array(read.pixdim[1:])
    if not np.isfinite(spacing).all():
        raise _unfinite(path, "spacings", spacing)
    matrix = _matrix(path, read)
    axes, origin = LPS[:, None] * matrix[:, :3], LPS * matrix[:, 3] * scale
    norms = np.linalg.norm(axes, axis=0)
    if read.qform > 0 or read.sform > 0:
        _check_spacing(path, spacing, norms)
    return Grid(
        shape=reversed_triple(sizes),
        spacing_mm=reversed_triple((spacing * scale).tolist()),
        origin_mm=cast(Vector, tuple(origin.tolist())),
        direction=cast(Matrix, tuple(tuple(row) for row in (axes / norms).tolist())),
    )


def _matrix(path: Path, read: _Header) -> Doubles:
    """Voxel (x, y, z) → RAS, (3, 4)."""
    by_quaternion = _by_quaternion(path, read) if read.qform > 0 else None
    if read.sform > 0 and _is_orthogonal(read.rows):
        if by_quaternion is None or read.sform == SCANNER:
            return read.rows
        if np.abs(by_quaternion - read.rows).max() <= SAME_MM:
            return read.rows
    if by_quaternion is not None:
        return by_quaternion
    if read.sform > 0:
        raise unusable_file(
            path,
            expected="orthogonal axis directions",
            found=f"{np.round(read.rows[:, :3], 4).tolist()}",
            do="correct the header or resample the image",
        )
    # No place is told. What ITK takes: the axes as they are, in LPS.
    return np.column_stack([np.diag(LPS), np.zeros(3)])


def _is_orthogonal(rows: Doubles) -> bool:
    if not np.isfinite(rows).all():
        return False
    norms = np.linalg.norm(rows[:, :3], axis=0)
    if not norms.all():
        return False
    axes = rows[:, :3] / norms
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() <= ORTHOGONAL)


def _by_quaternion(path: Path, read: _Header) -> Doubles:
    """The matrix of a quaternion, rounded to single precision as ITK keeps it."""
    if not np.isfinite(read.quaternion).all():
        raise _unfinite(path, "quaternion and offset", read.quaternion)
    b, c, d = read.quaternion[:3]
    rest = 1.0 - (b * b + c * c + d * d)
    if rest < -0.01:
        raise unusable_file(
            path,
            expected="a quaternion of length 1",
            found=f"b, c, d of {b:g}, {c:g}, {d:g}",
            do="correct the header",
        )
    if rest < 1e-7:
        b, c, d = np.array([b, c, d]) / np.sqrt(b * b + c * c + d * d)
    a = np.sqrt(rest) if rest >= 1e-7 else 0.0
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    handed = np.array([1.0, 1.0, -1.0 if read.pixdim[0] < 0 else 1.0])
    scaled = rotation * handed * np.array(read.pixdim[1:])
    single = np.column_stack([scaled, read.quaternion[3:]]).astype(np.float32)
    return single.astype(np.float64)


def _check_spacing(path: Path, spacing: Doubles, norms: Doubles) -> None:
    if not (np.abs(norms - spacing) <= SAME_SPACING * np.abs(spacing)).all() or not norms.all():
        raise unusable_file(
            path,
            expected="the same spacing in pixdim and in the matrix",
            found=f"{np.round(spacing, 4).tolist()} and {np.round(norms, 4).tolist()}",
            do="correct the header",
        )


def _unfinite(path: Path, what: str, values: Doubles) -> Exception:
    return unusable_file(
        path, expected=f"finite {what}", found=f"{values.tolist()}", do="correct the header"
    )
