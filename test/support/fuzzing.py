"""Broken image files, made from whole ones: a corpus of seeds and what may happen to them.

A mutation knows its format: it changes the fields of a header, also inside a compressed
file, and leaves the rest whole, so that it comes further than random bytes would. It knows
the synonyms of keys, stretches of blanks, and the members of gzip. The same
numbers of the same generator give the same file; ``bench/fuzz.py`` uses that to name one.
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from oarseg.errors import InputError
from oarseg.imaging.files.read_scan import FARTHEST_MM, ORTHONORMAL_TOLERANCE, Limits, read_volume
from oarseg.imaging.volume import Volume

ENDINGS = ("mha", "mhd", "nrrd", "nii", "nii.gz")
# Small, so that a header's promise costs little even where it is kept.
LIMITS = Limits(voxels=1_000_000, bytes=8_000_000)
SHAPE = (5, 6, 7)
OBLIQUE = (0.96, -0.168, 0.224, 0.28, 0.576, -0.768, 0.0, 0.8, 0.6)
MOST_MUTATIONS = 4
MEMBER = b"\x1f\x8b\x08"
MOST_MEMBERS = 100

NUMBERS = (
    "0", "-0", "1", "-1", "2", "3", "4", "5", "7", "16", "255", "32767", "65536",
    "2147483647", "2147483648", "-2147483648", "4294967295", "9223372036854775807",
    "18446744073709551616", "1e10", "1e308", "1e999", "-1e-320", "0.5", "nan", "-inf", "0x10",
    "1_000", "½", "9" * 400, "",
)  # fmt: skip
TEXTS = (
    "LOCAL", "LIST", "LIST 2", "/etc/hostname", "../x.raw", "x%03d.raw 1 9 1", "True", "False",
    "MET_DOUBLE", "MET_USHORT", "MET_UCHAR_ARRAY", "MET_NONE", "double", "block", "int8",
    "gzip", "bzip2", "hex", "ascii", "raw", "big", "little", "left-posterior-superior",
    "right-anterior-superior", "3D-right-handed", "none", "(1,0,0) (0,1,0) (0,0,1)", "(nan,0,0)",
    "(1,0,0) none (0,0,1)", "domain domain domain", "RGB-color domain domain", "%s%n", "A" * 5000,
    "\x1b[31m", "é", "\x00",
)  # fmt: skip
META_LINES = (
    "ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = True",
    "ElementByteOrderMSB = True", "CompressedData = True", "CompressedDataSize = 99999999999",
    "HeaderSize = -1", "HeaderSize = 9", "ElementNumberOfChannels = 3", "DimSize = 5 6 7",
    "ElementSpacing = 1 1 1", "ElementSize = 0 0 0", "Offset = 1e7 0 0", "Position = 1 2 3",
    "TransformMatrix = 1 0 0 0 1 0 0 0 0", "Rotation = 0 1 0 1 0 0 0 0 1", "ElementMin = x",
    "Origin = 0 0 0", "ImagePosition = 4 5 6", "Orientation = 1 0 0 0 1 0 0 0 1",
    "BinaryDataByteOrderMSB = Maybe", "ElementSize = 0.5 0.75 2", "NDims = 4",
    "DimSize = 7 6 5 1", "ElementSpacing = 1 1 2 1", "ElementNBits = 8", "BinaryData = T",
    "ElementType = MET_LONG_LONG", "ElementDataFile = LOCAL", "AnatomicalOrientation = RAI",
)  # fmt: skip
NRRD_LINES = (
    "dimension: 3", "dimension: 4", "sizes: 7 6 5", "sizes: 7 6 5 1", "type: double",
    "type: block", "block size: 3", "encoding: gzip", "encoding: bz2", "endian: big",
    "data file: /etc/hostname", "datafile: LIST", "line skip: 1", "byte skip: -1",
    "byte skip: 10", "spacings: 1 1 nan", "axis mins: 0 0 0", "kinds: domain domain list",
    "space dimension: 4", "space: 3D-left-handed-time", "space origin: (0,0,nan)",
    "space directions: none (1,0,0) (0,1,0)", "measurement frame: (1,0,0) (0,1,0) (0,0,1)",
    "space units: \"mm\" \"mm\" \"mm\"", "thicknesses: nan nan nan", "key:=value",
    "kinds: domain domain domain time", "spacings: 1 1 2 nan", "space dimension: 3",
    "space: left-posterior-superior-time", "axismins: 0 0 0", "byteskip: 0", "lineskip: 0",
    "oldmin: 0", "DataFile: x", "data  file: x", "centers: cell cell cell",
    "space directions: (1,0,0,0) (0,1,0,0) (0,0,2,0) (0,0,0,1)",
    "old min: nan", "content: x", "# comment", "centerings: cell cell cell",
)  # fmt: skip
# Offset and type of the fields of a NIfTI-1 header that decide anything.
NIFTI_FIELDS = (
    (0, "i"), (38, "b"), (39, "b"), *((40 + 2 * i, "h") for i in range(8)),
    *((56 + 4 * i, "f") for i in range(3)), (68, "h"), (70, "h"), (72, "h"), (74, "h"),
    *((76 + 4 * i, "f") for i in range(8)), (108, "f"), (112, "f"), (116, "f"), (120, "h"),
    (123, "b"), (252, "h"), (254, "h"), *((256 + 4 * i, "f") for i in range(18)),
    (344, "i"), (348, "i"), (352, "i"), (356, "i"),
)  # fmt: skip
# Keys that mean the same to some reader.
SYNONYMS = (
    ("Offset", "Position", "Origin", "ImagePosition"),
    ("TransformMatrix", "Rotation", "Orientation"),
    ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
    ("ElementSpacing", "ElementSize"),
    ("byte skip", "byteskip"), ("line skip", "lineskip"), ("data file", "datafile"),
    ("axis mins", "axismins"), ("spacings", "space directions"), ("space", "space dimension"),
)  # fmt: skip
# What a header may be stretched by, up to the whole of what is read of it.
BLANKS = (
    b" ",
    b"\t",
    b" \t",
    b"\n",
    b" \n",
    b"\r",
    b"\r\n",
    b"\0",
    b"\xa0",
    b"#\n",
    b"k:=\n",
    b"= ",
)
STRETCHES = (1, 7, 100, 513, 5000, 70_000, 400_000, 1_100_000)
INTEGERS = (0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 64, 127, 128, 256, 348, 512, 1024, 2304, 32767, -32768)
FLOATS = (0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, -1e30, float("nan"), float("inf"), 352.0, 348.0, 1e6)


@dataclass(frozen=True)
class File:
    """A file's ending and its bytes."""

    ending: str
    data: bytes


def make(random: Random) -> File:
    """A broken file (sometimes a whole one), the same for the same generator."""
    seed = random.choice(seeds())
    data = seed.data
    for _ in range(random.randint(1, MOST_MUTATIONS)):
        data = _mutated(data, seed.ending, random)
    return File(random.choice(ENDINGS) if random.random() < 0.02 else seed.ending, data)


def check(path: Path) -> Volume | None:
    """Read a file; None where it was refused.

    Raises:
        AssertionError: the image or the refusal breaks a promise.
        Exception: whatever else than InputError the reader raised.
    """
    try:
        volume = read_volume(path, limits=LIMITS, warn=_check_warning)
    except InputError as error:
        message = str(error)
        assert message.startswith(f"{path}: expected "), message
        assert message.isprintable(), message
        assert len(message) < len(str(path)) + 600, message
        return None
    assert_invariants(volume)
    return volume


def _check_warning(message: str) -> None:
    assert message.isprintable(), message
    assert len(message) < 600, message


def assert_invariants(volume: Volume) -> None:
    """What every image that was read is promised to be."""
    array, grid = volume.array, volume.grid
    assert array.shape == grid.shape
    assert min(grid.shape) >= LIMITS.shortest
    assert grid.voxels <= LIMITS.voxels
    assert array.dtype.kind in "iu" or array.dtype == np.float32
    assert array.dtype.isnative
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert np.isfinite(array).all()
    assert array.min() < array.max()
    low, high = LIMITS.spacing_mm
    assert all(low <= spacing <= high for spacing in grid.spacing_mm)
    assert all(abs(value) <= FARTHEST_MM for value in grid.origin_mm)
    matrix = np.asarray(grid.direction)
    assert np.abs(matrix.T @ matrix - np.eye(3)).max() <= ORTHONORMAL_TOLERANCE
    assert np.isfinite(grid.to_world(np.array([grid.shape], float))).all()


@cache
def seeds() -> tuple[File, ...]:
    """Whole files of every format, type, byte order, compression and orientation."""
    with tempfile.TemporaryDirectory() as folder:
        written = [
            _by_itk(Path(folder), ending, dtype, compressed)
            for ending in ("mha", "nrrd", "nii", "nii.gz")
            for dtype in ("i2", "u1", "f4")
            for compressed in (False, True)
        ]
    big = [_meta(">i2"), File("mhd", _meta(">f8").data), _nrrd(">u2"), _nifti(">i2")]
    return (
        *written, *big, _scaled(written[-1]), *_gzipped(_nifti(">i2")), *_one_frame(), _aligned()
    )  # fmt: skip


def _ramp(dtype: str) -> NDArray[Any]:
    return np.arange(-20, np.prod(SHAPE) - 20).astype(dtype).reshape(SHAPE)


def _by_itk(folder: Path, ending: str, dtype: str, compressed: bool) -> File:
    image = sitk.GetImageFromArray(_ramp(dtype))
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetOrigin((-12.5, 100.0, -597.25))
    if dtype == "f4":
        image.SetDirection(OBLIQUE)
    path = folder / f"seed.{ending}"
    sitk.WriteImage(image, str(path), compressed)
    return File(ending, path.read_bytes())


def _meta(dtype: str) -> File:
    name = {">i2": "MET_SHORT", ">f8": "MET_DOUBLE"}[dtype]
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = True\n"
        "CompressedData = True\nTransformMatrix = 0 1 0 -1 0 0 0 0 1\nOffset = 0 -10 2.5\n"
        f"ElementSpacing = 1 1 2\nDimSize = 7 6 5\nElementType = {name}\nElementDataFile = LOCAL\n"
    )
    return File("mha", header.encode() + zlib.compress(_ramp(dtype).tobytes()))


def _nrrd(dtype: str) -> File:
    header = (
        "NRRD0004\ntype: unsigned short\ndimension: 3\nspace: right-anterior-superior\n"
        "sizes: 7 6 5\nspace directions: (-1,0,0) (0,-0.5,0) (0,0,3)\nendian: big\n"
        "encoding: raw\nspace origin: (1,2,3)\nname:=value\n\n"
    )
    return File("nrrd", header.encode() + _ramp(dtype).tobytes())


def _nifti(dtype: str) -> File:
    """Big-endian, placed by a quaternion and a matrix, with an extension."""
    header = bytearray(352)
    struct.pack_into(">i", header, 0, 348)
    struct.pack_into(">8h", header, 40, 3, 7, 6, 5, 1, 1, 1, 1)
    struct.pack_into(">hh", header, 70, 4, 16)
    struct.pack_into(">8f", header, 76, -1, 0.5, 0.75, 2, 0, 0, 0, 0)
    struct.pack_into(">3f", header, 108, 384, 1, 0)
    struct.pack_into(">2h", header, 252, 1, 1)
    struct.pack_into(">6f", header, 256, 0, 0, 1, -10, 20, 30)
    struct.pack_into(">12f", header, 280, -0.5, 0, 0, -10, 0, 0.75, 0, 20, 0, 0, 2, 30)
    header[123], header[344:348], header[348] = 2, b"n+1\0", 1
    extension = struct.pack(">ii", 32, 6) + b"a comment".ljust(24, b"\0")
    return File("nii", bytes(header) + extension + _ramp(dtype).tobytes())


def _one_frame() -> tuple[File, ...]:
    """Four dimensions, the last of a single voxel, and a spacing under another name."""
    header = (
        "ObjectType = Image\nNDims = 4\nBinaryData = True\nHeaderSize = -1\nPosition = 1 2 3 4\n"
        "Rotation = 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\nElementSize = 0.5 0.75 2 1\n"
        "DimSize = 7 6 5 1\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    nrrd = (
        "NRRD0005\ntype: short\ndimension: 4\nspace dimension: 4\nsizes: 7 6 5 1\nspace "
        "directions: (0.5,0,0,0) (0,0.75,0,0) (0,0,2,0) (0,0,0,1)\nkinds: domain domain domain "
        "domain\nendian: little\nencoding: raw\nspace origin: (1,2,3,0)\n\n"
    )
    voxels = _ramp("<i2").tobytes()
    return File("mha", header.encode() + voxels), File("nrrd", nrrd.encode() + voxels)


def _aligned() -> File:
    """A qform and an sform that disagree, neither of them the scanner's."""
    data = bytearray(_nifti(">i2").data)
    struct.pack_into(">2h", data, 252, 2, 4)
    struct.pack_into(">f", data, 280 + 12, -60.0)
    return File("nii", bytes(data))


def _scaled(file: File) -> File:
    header = bytearray(gzip.decompress(file.data))
    struct.pack_into("<2f", header, 112, 2.0, -1024.0)
    return File(file.ending, _gzip(bytes(header)))


def _gzipped(file: File) -> tuple[File, File]:
    """In one member, and in two."""
    whole = _gzip(file.data)
    return File("nii.gz", whole), File("nii.gz", _gzip(file.data[:500]) + _gzip(file.data[500:]))


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def _mutated(data: bytes, ending: str, random: Random) -> bytes:
    if random.random() < 0.3:
        return random.choice(ANYWHERE)(data, random)
    if ending == "nii.gz":
        return _inside_gzip(data, random)
    return (_nifti_field if ending == "nii" else _text_header)(data, random)


def _inside_gzip(data: bytes, random: Random) -> bytes:
    if random.random() < 0.15:
        return _with_members(data, random)
    if data.count(MEMBER) > MOST_MEMBERS:
        return _flipped(data, random)  # Python's own reader takes quadratic time for them
    try:
        plain = gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return _flipped(data, random)
    if random.random() < 0.2:
        return _gzip(random.choice(ANYWHERE)(plain, random))
    return _gzip(_nifti_field(plain, random))


def _nifti_field(data: bytes, random: Random) -> bytes:
    offset, kind = random.choice(NIFTI_FIELDS)
    order = random.choice("<<<>")
    if kind == "f":
        new = struct.pack(order + "f", random.choice(FLOATS))
    else:
        size = struct.calcsize(kind)
        value = random.choice((*INTEGERS, random.getrandbits(31)))
        new = (value % (1 << 8 * size)).to_bytes(size, "little" if order == "<" else "big")
    return data[:offset] + new + data[offset + len(new) :]


def _text_header(data: bytes, random: Random) -> bytes:
    """Change one line of a MetaImage or NRRD header."""
    nrrd = data.startswith(b"NRRD")
    end = re.search(rb"\n\n" if nrrd else rb"ElementDataFile[^\n]*\n", data)
    if end is None:
        return _flipped(data, random)
    lines = data[: end.end()].split(b"\n")
    number = random.randrange(len(lines))
    change = random.randrange(9)
    if change == 0:
        del lines[number]
    elif change == 1:
        lines.insert(number, random.choice(lines))
    elif change == 2:
        lines.insert(number, random.choice(NRRD_LINES if nrrd else META_LINES).encode())
    elif change == 3:
        lines[number] = _other_case(lines[number], random)
    elif change == 4:
        lines.insert(random.randint(0, number), _other_key(lines[number], random))
    elif change == 5:
        lines[number] = _other_key(lines[number], random)
    elif change == 6:
        lines[number] = _stretched(lines[number], random)
    else:
        lines[number] = _other_value(lines[number], random)
    return b"\n".join(lines) + data[end.end() :]


def _other_case(line: bytes, random: Random) -> bytes:
    return random.choice((line.upper(), line.lower(), b" " + line, line + b"\r", line[::-1]))


def _other_key(line: bytes, random: Random) -> bytes:
    """The same line, or the value of another, under a key that means the same."""
    key, separator, value = line.partition(b"=") if b"=" in line else line.partition(b":")
    known = [names for names in SYNONYMS if key.strip().decode("latin-1") in names]
    names = known[0] if known else random.choice(SYNONYMS)
    if random.random() < 0.3:
        value = random.choice((b" 1 2 3", b" True", b" False", b" 0", b" (1,2,3)", b"", value))
    return random.choice(names).encode() + (separator or b"=") + value


def _stretched(line: bytes, random: Random) -> bytes:
    """Blanks, or what is next to nothing, somewhere within a line."""
    at = random.choice((0, len(line), random.randint(0, len(line)), line.find(b"=") + 1))
    unit, size = random.choice(BLANKS), random.choice(STRETCHES)
    return line[:at] + unit * (size // len(unit) + 1) + line[at:]


def _other_value(line: bytes, random: Random) -> bytes:
    """Replace a header line's value, or one word of it."""
    found = re.match(rb"([^:=]*(?::=|[:=])\s*)(.*)", line, re.DOTALL)
    new = random.choice(random.choice((NUMBERS, NUMBERS, TEXTS))).encode()
    if found is None:
        return new
    words = re.split(rb"([ (),]+)", found[2])
    if random.random() < 0.3:
        words = [new]
    else:
        words[random.randrange(len(words))] = new
    return found[1] + b"".join(words)


def _flipped(data: bytes, random: Random) -> bytes:
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _replaced(data: bytes, random: Random) -> bytes:
    at = random.randint(0, len(data))
    new = random.randbytes(random.randint(0, 12))
    return data[:at] + new + data[at + random.randint(0, 12) :]


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.randint(0, len(data))]


def _longer(data: bytes, random: Random) -> bytes:
    return data + random.choice((b"\0", b"\x1f\x8b", _gzip(bytes(400)), bytes(70_000)))


def _with_members(data: bytes, random: Random) -> bytes:
    """Members of gzip that hold nothing or next to nothing, before, after or instead."""
    member = _gzip(random.choice((b"", b"", b"\0", bytes(100))))
    many = member * random.choice((1, 2, 30, 1000, 1025, 3000, 50_000))
    at = random.choice((0, len(data), len(data), random.randint(0, len(data))))
    return data[:at] + many + random.choice((data[at:], b""))


def _spliced(data: bytes, random: Random) -> bytes:
    other = random.choice(seeds()).data
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


def _with_bomb(data: bytes, random: Random) -> bytes:
    """A stream that inflates to far more than any header promises."""
    at = random.randint(min(300, len(data)), len(data))
    return data[:at] + random.choice(_bombs())


@cache
def _bombs() -> tuple[bytes, ...]:
    zeros = bytes(20_000_000)
    return zlib.compress(zeros), _gzip(zeros), _gzip(_nifti(">i2").data + zeros)


def _other_values(data: bytes, random: Random) -> bytes:
    """Overwrite the end, where the voxels are, with one value or with NaN."""
    count = random.randint(0, min(500, len(data)))
    unit = random.choice((b"\0", b"\xff", b"\x00\x00\xc0\x7f", b"\x7f\x80\x00\x00"))
    return data[: len(data) - count] + io.BytesIO(unit * (count // len(unit) + 1)).read(count)


Mutation = Callable[[bytes, Random], bytes]
ANYWHERE: tuple[Mutation, ...] = (
    _flipped, _replaced, _cut, _longer, _spliced, _with_bomb, _other_values, _with_members,
)  # fmt: skip
