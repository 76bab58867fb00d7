"""The fields of a NIfTI-1 header that place an image in space, as they are stored.

A label map gets those of its CT, because no writer can compute them back from a grid: a
header holds two matrices, either of them may be valid, and single precision at that.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

# Offset and layout: pixdim[0..3], xyzt_units, both codes, quaternion and offset, matrix.
FIELDS = ((76, "4f"), (123, "B"), (252, "2h"), (256, "6f"), (280, "12f"))
UNITS_OF_SPACE = 7


@dataclass(frozen=True)
class NiftiPlacement:
    """Where a NIfTI image lies, by its header.

    Attributes:
        pixdim: handedness of the quaternion, then the spacings along x, y, z.
        units: of space: 0 unknown, 1 m, 2 mm, 3 µm.
        qform, sform: what the quaternion and the matrix stand for; 0 where they do not count.
        quaternion: b, c, d, then the offset.
        rows: of the matrix, (3, 4) in one sequence.
    """

    pixdim: tuple[float, ...]
    units: int
    qform: int
    sform: int
    quaternion: tuple[float, ...]
    rows: tuple[float, ...]


def unpack_placement(header: bytes, order: str) -> NiftiPlacement:
    """Read the fields from a header of 348 bytes or more.

    Args:
        header: its bytes.
        order: ``<`` or ``>``.
    """
    pixdim, (units,), (qform, sform), quaternion, rows = (
        struct.unpack_from(order + layout, header, offset) for offset, layout in FIELDS
    )
    return NiftiPlacement(pixdim, units & UNITS_OF_SPACE, qform, sform, quaternion, rows)


def pack_placement(header: bytearray, placement: NiftiPlacement) -> None:
    """Write the fields into a little-endian header, in place; they keep every bit."""
    values = (
        placement.pixdim,
        (placement.units,),
        (placement.qform, placement.sform),
        placement.quaternion,
        placement.rows,
    )
    for (offset, layout), part in zip(FIELDS, values, strict=True):
        struct.pack_into("<" + layout, header, offset, *part)
