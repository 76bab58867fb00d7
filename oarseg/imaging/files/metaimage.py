"""The header of a MetaImage (.mha, or .mhd with its voxels in the same file).

Read here rather than by ITK, which can crash on one. Format: https://docs.itk.org, MetaIO.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from oarseg.imaging.files import header_text
from oarseg.imaging.files.pixels import (
    Pixels,
    detached_data,
    not_scalar,
    not_three_dimensional,
    unsupported_encoding,
)
from oarseg.imaging.volume import Grid, Matrix, Vector, reversed_triple

LAST_KEY = b"ElementDataFile"
ELEMENT_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2",
    "MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


def is_metaimage(head: bytes) -> bool:
    """Return whether a file begins like a MetaImage."""
    first = head[: header_text.LONGEST_LINE].lstrip()
    key = first[: min((at for at in map(first.find, (b"=", b":")) if at >= 0), default=0)]
    return key.strip().isalpha() and LAST_KEY in head


def parse_metaimage_header(path: Path, head: bytes, *, channels: bool = False) -> Pixels:
    """Where the voxels are, from the first bytes of the file.

    Args:
        path: for messages.
        head: the bytes.
        channels: let it have a fourth axis.

    Raises:
        InputError: data in another file, colours, another number of axes, an encoding that
            is not read, or numbers that are none.
    """
    # MetaIO stops at the first ElementDataFile; no word of that name may come before it.
    first = head.index(LAST_KEY)
    line, newline, _ = head[first : first + header_text.LONGEST_LINE].partition(b"\n")
    key, target = header_text.split_field(line.decode("latin-1"), "=:")
    ends = newline and key.encode("latin-1") == LAST_KEY and b"\r" not in line[:-1]
    if not ends or (first and head[first - 1 : first] != b"\n"):
        raise unsupported_encoding(path, "a header whose end cannot be told")
    if target not in ("LOCAL", "Local", "local"):
        raise detached_data(path, target)
    fields = header_text.parse_fields(path, head[:first], separators="=:")
    grid, count = _grid(path, fields, channels=channels)
    compressed, start = _is_true(fields, "CompressedData"), first + len(line) + 1
    return Pixels("MetaImage", _dtype(path, fields), compressed, start, grid, count)


def _dtype(path: Path, fields: dict[str, str]) -> np.dtype[np.generic]:
    name = ELEMENT_TYPES.get(fields.get("ElementType", ""))
    if name is None or not _is_true(fields, "BinaryData") or fields.get("HeaderSize", "0") != "0":
        found = {key: fields.get(key) for key in ("ElementType", "BinaryData", "HeaderSize")}
        raise unsupported_encoding(
            path, ", ".join(f"{key} {ascii(v)[:40]}" for key, v in found.items())
        )
    big = _is_true(fields, "BinaryDataByteOrderMSB") or _is_true(fields, "ElementByteOrderMSB")
    return np.dtype((">" if big else "<") + name)


def _grid(path: Path, fields: dict[str, str], *, channels: bool) -> tuple[Grid, int]:
    """The geometry as ITK's MetaImageIO understands it, and the channels of a fourth axis."""
    (axes,) = header_text.parse_integers(path, "NDims", fields.get("NDims", "").split(), 1)
    if axes != 3 and not (channels and axes == 4):
        raise not_three_dimensional(path, axes)
    components = fields.get("ElementNumberOfChannels", "1").split()
    if header_text.parse_integers(path, "ElementNumberOfChannels", components, 1) != (1,):
        raise not_scalar(path, components[0])
    sizes = header_text.parse_integers(path, "DimSize", fields.get("DimSize", "").split(), axes)
    steps = fields.get("ElementSpacing", "").split()
    spacing = header_text.parse_numbers(path, "ElementSpacing", steps, axes)
    matrix = _synonym(path, fields, axes * axes, "TransformMatrix", "Rotation", "Orientation")
    matrix = matrix or tuple(np.eye(axes).ravel().tolist())
    origin = _synonym(path, fields, axes, "Offset", "Position", "Origin") or (0.0,) * axes
    grid = Grid(
        shape=reversed_triple(sizes[:3]),
        spacing_mm=reversed_triple(spacing[:3]),
        origin_mm=cast(Vector, origin[:3]),
        # One row an index axis, so the transpose of ITK's direction matrix.
        direction=cast(Matrix, tuple(matrix[axis::axes][:3] for axis in range(3))),
    )
    return grid, sizes[3] if axes == 4 else 1


def _synonym(
    path: Path, fields: dict[str, str], count: int, *keys: str
) -> tuple[float, ...] | None:
    given = [key for key in keys if key in fields]
    return (
        header_text.parse_numbers(path, given[-1], fields[given[-1]].split(), count)
        if given
        else None
    )


def _is_true(fields: dict[str, str], key: str) -> bool:
    return fields.get(key, "").lower() in ("true", "1")
