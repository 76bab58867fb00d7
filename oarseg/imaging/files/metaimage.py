"""The header of a MetaImage (.mha, or .mhd with its voxels in the same file).

Read here rather than by ITK, which can crash on one. Format: https://docs.itk.org, MetaIO.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import numpy as np

from oarseg.imaging.files import header_text
from oarseg.imaging.files.pixels import (
    Pixels,
    detached_data,
    not_scalar,
    not_three_dimensional,
    open_plain_file,
    quote_header_text,
    unsupported_encoding,
    unusable_file,
)
from oarseg.imaging.volume import Grid, Matrix, Vector, reversed_triple

LAST_KEY = b"ElementDataFile"
# A HeaderSize that says to count the voxels from the end of the file.
FROM_END = "-1"
MOST_AXES = 10
BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
# What ITK's MetaIO takes for the same, and the name under which it is kept here.
SYNONYMS = {
    "Position": "Offset", "Origin": "Offset", "ImagePosition": "Offset",
    "Rotation": "TransformMatrix", "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}  # fmt: skip
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
    """Find the voxels from the first bytes of the file.

    Args:
        path: for messages.
        head: the bytes.
        channels: allow a fourth axis, of channels.

    Raises:
        InputError: data in another file, colours, another number of axes, an encoding that
            is not read, two keys that mean the same, or text where numbers belong.
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
    given = header_text.parse_fields(path, _unambiguous(path, head[:first]), separators="=:")
    fields = header_text.named_once(path, given, SYNONYMS)
    grid, count = _read_grid(path, fields, channels=channels)
    dtype, compressed = _stored_dtype(path, fields), _is_true(path, fields, "CompressedData")
    start = first + len(line) + 1
    if fields.get("HeaderSize") == FROM_END:
        start = _start_from_end(path, grid.voxels * count * dtype.itemsize, start)
    return Pixels("MetaImage", dtype, compressed, start, grid, count)


def _unambiguous(path: Path, text: bytes) -> bytes:
    """Return the lines of a header.

    Raises:
        InputError: a line that ends, or a key that ends, otherwise than for MetaIO.
    """
    if b"\r" in text.replace(b"\r\n", b"\n"):
        raise unsupported_encoding(path, "a header with carriage returns within its lines")
    for line in header_text.split_lines(path, text):
        key, free, _ = line.partition(":=")
        if free and not {"=", ":"} & set(key):
            raise unusable_file(
                path,
                expected="keys that end with = or :",
                found=quote_header_text(line),
                do="correct the header",
            )
    return text


def _stored_dtype(path: Path, fields: dict[str, str]) -> np.dtype[np.generic]:
    name = ELEMENT_TYPES.get(fields.get("ElementType", ""))
    sizes = ("0", FROM_END) if not _is_true(path, fields, "CompressedData") else ("0",)
    binary = _is_true(path, fields, "BinaryData")
    if name is None or not binary or fields.get("HeaderSize", "0") not in sizes:
        found = {key: fields.get(key) for key in ("ElementType", "BinaryData", "HeaderSize")}
        raise unsupported_encoding(
            path, ", ".join(f"{key} {ascii(v)[:40]}" for key, v in found.items())
        )
    return np.dtype((">" if _is_true(path, fields, "BinaryDataByteOrderMSB") else "<") + name)


def _start_from_end(path: Path, needed: int, header: int) -> int:
    """Return where the voxels begin that end with the file.

    Raises:
        InputError: they would begin within the header.
    """
    with open_plain_file(path) as stream:
        held = os.fstat(stream.fileno()).st_size
    if needed > held - header:
        raise unusable_file(
            path,
            expected=f"{needed} bytes of voxels",
            found=f"only {held - header} bytes in the file",
            do="the file is damaged, copy it again",
        )
    return held - needed


def _read_grid(path: Path, fields: dict[str, str], *, channels: bool) -> tuple[Grid, int]:
    """Return the geometry as ITK's MetaImageIO understands it, and the fourth axis' channels.

    Axes of one voxel after the third, such as the time of a single frame, do not count.
    """
    (axes,) = header_text.parse_integers(path, "NDims", fields.get("NDims", "").split(), 1)
    if not 3 <= axes <= MOST_AXES:
        raise not_three_dimensional(path, axes)
    components = fields.get("ElementNumberOfChannels", "1").split()
    if header_text.parse_integers(path, "ElementNumberOfChannels", components, 1) != (1,):
        raise not_scalar(path, components[0])
    sizes = header_text.parse_integers(path, "DimSize", fields.get("DimSize", "").split(), axes)
    counted = max(n for n in range(3, axes + 1) if n == 3 or sizes[n - 1] != 1)
    if counted != 3 and not (channels and counted == 4):
        raise not_three_dimensional(path, counted)
    # ITK takes the size of a voxel where their distance is not given.
    key = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"
    steps = fields.get(key, "").split()
    spacing = header_text.parse_numbers(path, "ElementSpacing", steps, axes)
    matrix = _read_numbers(path, fields, "TransformMatrix", axes * axes)
    matrix = matrix or tuple(np.eye(axes).ravel().tolist())
    origin = _read_numbers(path, fields, "Offset", axes) or (0.0,) * axes
    grid = Grid(
        shape=reversed_triple(sizes[:3]),
        spacing_mm=reversed_triple(spacing[:3]),
        origin_mm=cast(Vector, origin[:3]),
        # One row an index axis, so the transpose of ITK's direction matrix.
        direction=cast(Matrix, tuple(matrix[axis::axes][:3] for axis in range(3))),
    )
    return grid, sizes[3] if axes > 3 else 1


def _read_numbers(
    path: Path, fields: dict[str, str], key: str, count: int
) -> tuple[float, ...] | None:
    if key not in fields:
        return None
    return header_text.parse_numbers(path, key, fields[key].split(), count)


def _is_true(path: Path, fields: dict[str, str], key: str) -> bool:
    """Return a field's truth, by its first letter as in MetaIO; False where it is missing.

    Raises:
        InputError: neither true nor false.
    """
    value = fields.get(key, "False")
    if value.lower() not in BOOLEANS:
        raise unusable_file(
            path, expected=f"{key} True or False", found=ascii(value)[:40], do="correct the header"
        )
    return BOOLEANS[value.lower()]
