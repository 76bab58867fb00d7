"""The header of an NRRD file.

Format: https://teem.sourceforge.net/nrrd/format.html. The geometry is what ITK's
NrrdImageIO makes of it, to the last bit; what leaves left and right open is refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from oarseg.imaging.files import header_text
from oarseg.imaging.files.pixels import (
    Pixels,
    detached_data,
    not_scalar,
    not_three_dimensional,
    quote_header_text,
    unsupported_encoding,
    unusable_file,
)
from oarseg.imaging.volume import Grid, Matrix, Vector, reversed_triple

NRRD_TYPES = {
    "signed char": "i1", "int8": "i1", "int8_t": "i1",
    "uchar": "u1", "unsigned char": "u1", "uint8": "u1", "uint8_t": "u1",
    "short": "i2", "short int": "i2", "signed short": "i2", "signed short int": "i2",
    "int16": "i2", "int16_t": "i2",
    "ushort": "u2", "unsigned short": "u2", "unsigned short int": "u2",
    "uint16": "u2", "uint16_t": "u2",
    "int": "i4", "signed int": "i4", "int32": "i4", "int32_t": "i4",
    "uint": "u4", "unsigned int": "u4", "uint32": "u4", "uint32_t": "u4",
    "longlong": "i8", "long long": "i8", "long long int": "i8", "signed long long": "i8",
    "signed long long int": "i8", "int64": "i8", "int64_t": "i8",
    "ulonglong": "u8", "unsigned long long": "u8", "unsigned long long int": "u8",
    "uint64": "u8", "uint64_t": "u8",
    "float": "f4", "double": "f8",
}  # fmt: skip
LPS_AND_TIME = "left-posterior-superior-time"
# What x and y are multiplied by to be LPS.
SPACES = {
    "left-posterior-superior": (1.0, 1.0), "lps": (1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0), "ras": (-1.0, -1.0),
    "left-anterior-superior": (1.0, -1.0), "las": (1.0, -1.0),
    LPS_AND_TIME: (1.0, 1.0), "lpst": (1.0, 1.0),
}  # fmt: skip
SKIPS = ("byte skip", "line skip")
# What Teem also reads without the blank, and the name under which it is kept here.
KEYS_WITHOUT_BLANKS = {
    name.replace(" ", ""): name
    for name in (
        "axis mins", "axis maxs", "block size", "byte skip", "data file", "line skip", "old min",
        "old max", "sample units", "space dimension", "space directions", "space origin",
        "space units", "measurement frame",
    )
} | {"centers": "centerings"}  # fmt: skip
DOMAINS = ("domain", "space", "???")


def parse_nrrd_header(path: Path, head: bytes, *, channels: bool = False) -> Pixels:
    """Find the voxels from the first bytes of the file.

    Args:
        path: for messages.
        head: the bytes.
        channels: allow a fourth axis, the first or the last, that lists channels.

    Raises:
        InputError: data in another file, colours, another number of axes, an encoding that
            is not read, geometry that is missing or ambiguous, or text where numbers belong.
    """
    text = _header_text(path, head)
    _check_attached(path, text)
    given = header_text.parse_fields(path, text.lower(), separators=":")
    fields = header_text.named_once(path, given, KEYS_WITHOUT_BLANKS)
    axes = _read_axes(path, fields, channels=channels)
    grid = _read_grid(path, fields, axes)
    name, how = NRRD_TYPES.get(fields.get("type", "")), fields.get("encoding", "")
    if (
        name is None
        or how not in ("raw", "gzip", "gz")
        or any(fields.get(key, "0") != "0" for key in SKIPS)
    ):
        found = f"type {quote_header_text(fields.get('type'))}, encoding {quote_header_text(how)}"
        raise unsupported_encoding(path, found)
    order = ">" if fields.get("endian", "") == "big" else "<"
    dtype = np.dtype(order + name)
    return Pixels("NRRD", dtype, how != "raw", len(text), grid, axes.channels, axes.interleaved)


def _check_attached(path: Path, text: bytes) -> None:
    """Refuse ``data file``, in whatever way it is spelled."""
    for line in header_text.split_lines(path, text):
        key, colon, target = line.partition(":")
        if colon and "".join(key.split()).lower() == "datafile":
            raise detached_data(path, target.removeprefix("=").strip())


def read_key_values(path: Path, head: bytes) -> dict[str, str]:
    """Return the ``key:=value`` pairs of a header.

    Raises:
        InputError: the header does not end, or is longer than one is read.
    """
    lines = header_text.split_lines(path, _header_text(path, head))
    texts = (line.encode("latin-1").decode("utf-8", errors="replace") for line in lines)
    pairs = (text.partition(":=") for text in texts if not text.startswith("#"))
    return {key: value for key, separator, value in pairs if separator}


def _header_text(path: Path, head: bytes) -> bytes:
    """Return the longest text that any reader could take for the header."""
    blank = re.search(rb"\n\r?\n", head)
    if blank is None:
        raise unsupported_encoding(path, "a header without the blank line that ends it")
    return head[: blank.end()]


@dataclass(frozen=True)
class _Axes:
    """Sizes (x, y, z), and the fourth axis, if there is one."""

    sizes: tuple[int, ...]
    channels: int = 1
    interleaved: bool = False


def _read_axes(path: Path, fields: dict[str, str], *, channels: bool) -> _Axes:
    """Return the sizes; a fourth axis of one voxel, such as a single frame's, does not count."""
    (count,) = header_text.parse_integers(path, "dimension", fields.get("dimension", "").split(), 1)
    if count not in (3, 4):
        raise not_three_dimensional(path, count)
    sizes = header_text.parse_integers(path, "sizes", fields.get("sizes", "").split(), count)
    # Without kinds a direction of "none" tells which axis is not one of space.
    told = fields.get("kinds") or re.sub(
        r"\([^()]*\)", "domain", fields.get("space directions", "")
    )
    kinds = (told or "domain " * count).split()
    domain = [kind in DOMAINS for kind in kinds]
    axes = None
    if count == 3 and all(domain):
        axes = _Axes(sizes)
    elif count == 4 and domain == [False, True, True, True]:
        axes = _Axes(sizes[1:], sizes[0], interleaved=True)
    elif count == 4 and len(domain) == 4 and all(domain[:3]):
        axes = _Axes(sizes[:3], sizes[3])
    if count == 4 and not channels and (axes is None or axes.channels != 1):
        raise not_three_dimensional(path, count)
    if axes is None:
        raise not_scalar(path, f"axes of the kinds {quote_header_text(' '.join(kinds))}")
    return axes


def _read_grid(path: Path, fields: dict[str, str], axes: _Axes) -> Grid:
    shape = reversed_triple(axes.sizes)
    if "space directions" in fields or "space" in fields:
        return _read_placement(path, fields, shape)
    steps = fields.get("spacings", "").split()
    if len(steps) == 4:
        steps = steps[1:] if axes.interleaved else steps[:3]
    spacing = header_text.parse_vector(path, "spacings", steps)
    if "axis mins" in fields:
        raise unusable_file(
            path,
            expected="a position in space",
            found="one along the axes alone (axis mins)",
            do="write it again with 3D Slicer or ITK",
        )
    return Grid(shape, reversed_triple(spacing))


def _axis_signs(path: Path, fields: dict[str, str]) -> tuple[float, float]:
    """Return what x and y are multiplied by to be LPS."""
    # ITK writes no name for four dimensions; they are LPS and time, as those of three are LPS.
    unnamed = LPS_AND_TIME if fields.get("space dimension") == "4" else ""
    signs = SPACES.get(fields.get("space", unnamed))
    if signs is None:
        raise unusable_file(
            path,
            expected=f"a space out of {', '.join(s for s in SPACES if '-' in s)}",
            found=quote_header_text(fields.get("space")),
            do="correct the header: nothing else tells left from right",
        )
    return signs


def _read_placement(path: Path, fields: dict[str, str], shape: tuple[int, int, int]) -> Grid:
    """Return the geometry from space, space directions and space origin."""
    flip = (*_axis_signs(path, fields), 1.0)
    _check_units(path, fields)
    if "spacings" in fields:
        raise header_text.given_twice(path, "space directions", "spacings")
    vectors = re.findall(r"\(([^()]*)\)", fields.get("space directions", ""))
    if len(vectors) == 4:
        del vectors[3]
    if len(vectors) != 3:
        raise unusable_file(
            path,
            expected="three space directions",
            found=quote_header_text(fields.get("space directions")),
            do="correct the header",
        )
    columns = [_read_vector(path, "space directions", text) for text in vectors]
    spacing = [math.sqrt(x * x + y * y + z * z) for x, y, z in columns]
    units = [
        [value * (1.0 / norm if norm else 0.0) * sign for value, sign in zip(c, flip, strict=True)]
        for c, norm in zip(columns, spacing, strict=True)
    ]
    origin = _read_vector(path, "space origin", fields.get("space origin", "(0,0,0)").strip("()"))
    return Grid(
        shape,
        reversed_triple(spacing),
        cast(Vector, tuple(value * sign for value, sign in zip(origin, flip, strict=True))),
        cast(Matrix, tuple(zip(*units, strict=True))),
    )


def _read_vector(path: Path, key: str, text: str) -> Vector:
    """Return a vector's part in space; a fourth, of time, does not count."""
    parts = [part.strip() for part in text.split(",")]
    return header_text.parse_vector(path, key, parts[:3] if len(parts) == 4 else parts)


def _check_units(path: Path, fields: dict[str, str]) -> None:
    given = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    units = {unit.strip() for unit in given[:3]}
    if not units <= {"mm", ""}:
        raise unusable_file(
            path,
            expected="space units of mm",
            found=quote_header_text(fields["space units"]),
            do="write it again in mm",
        )
