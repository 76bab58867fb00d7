"""Where an image file keeps its voxels, and getting them out within bounds.

ITK tells the geometry of NRRD and NIfTI. The voxels are read here, because ITK takes a
truncated NIfTI or a damaged compressed MetaImage for a whole one and fills in what is
missing; so is the whole header of MetaImage, on which ITK can crash. A stream is
inflated into an array of the promised size, so a bomb cannot grow beyond it, and its
checksum must hold. Headers that keep their data in another file are refused: they can
read any path.
"""

from __future__ import annotations

import re
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import InputError
from oarseg.volume import Grid, Matrix, Vector, reversed_triple

HEADER_LIMIT = 1 << 20
CHUNK = 1 << 20
# Deflate cannot compress better than 1032:1.
MAX_RATIO = 1100
NIFTI_HEADER = 348
GZIP_MAGIC = b"\x1f\x8b"

Format = Literal["MetaImage", "NRRD", "NIfTI"]
ENDINGS: dict[str, Format] = {
    ".mha": "MetaImage",
    ".mhd": "MetaImage",
    ".nrrd": "NRRD",
    ".nii": "NIfTI",
    ".nii.gz": "NIfTI",
}
OTHERS = {
    GZIP_MAGIC: "a gzip file of something else",
    b"PK": "a zip file",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8": "a JPEG picture",
    b"II*\0": "a TIFF picture",
}
# Header fields of MetaImage that hold numbers: as many as there are axes, to this power.
META_POWERS = {
    "NDims": 0, "ElementNumberOfChannels": 0, "DimSize": 1, "ElementSpacing": 1,
    "Offset": 1, "Position": 1, "Origin": 1,
    "TransformMatrix": 2, "Rotation": 2, "Orientation": 2,
}  # fmt: skip
NUMBER = re.compile(r"[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})([eE][+-]?\d{1,3})?", re.ASCII)
META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2",
    "MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
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
NIFTI_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8",
    256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip


@dataclass(frozen=True)
class Pixels:
    """How a file keeps its voxels.

    Attributes:
        format: the kind of file, by its content.
        dtype: the type on disk, with its byte order.
        compressed: the data is a gzip or zlib stream.
        start: byte of the file where the data, or its stream, begins.
        skip: bytes to leave out of the (inflated) data before the first voxel.
        slope, intercept: NIfTI's scaling, ``value = stored × slope + intercept``.
        grid: where the voxels lie, unchecked; None where ITK is to read it.
        channels: along the fourth axis of MetaImage, where that was asked for.
    """

    format: Format
    dtype: np.dtype[Any]
    compressed: bool
    start: int
    skip: int = 0
    slope: float = 1.0
    intercept: float = 0.0
    grid: Grid | None = None
    channels: int = 1


def unusable(path: Path, *, expected: str, found: str, do: str) -> InputError:
    """The error for a file that cannot be used, in one sentence."""
    return InputError(f"{path}: expected {expected}, found {found}; {do}")


def not_three_dimensional(path: Path, dimensions: int) -> InputError:
    """The error for an image with more or fewer than three axes."""
    return unusable(
        path,
        expected="a 3-D image",
        found=f"a {dimensions}-D image",
        do="give one volume in one file",
    )


def not_scalar(path: Path, components: int) -> InputError:
    """The error for an image with colours or vectors."""
    return unusable(
        path,
        expected="one value a voxel",
        found=f"{components}",
        do="give the scalar image, not colours or vectors",
    )


def ending(name: str) -> str | None:
    """The image ending of a file name, lower case; None for a name without one."""
    matches = [known for known in ENDINGS if name.lower().endswith(known)]
    return max(matches, key=len, default=None)


def locate(path: Path, *, channels: bool = False) -> Pixels:
    """Tell a file's kind by its content, and find its voxels.

    Args:
        path: the file.
        channels: let a MetaImage have a fourth axis.

    Raises:
        InputError: not a plain file, not an image of a known kind or not of the kind
            that its name says, data kept in another file, or an encoding that is not read.
    """
    _check_plain(path)
    try:
        with path.open("rb") as stream:
            head = stream.read(HEADER_LIMIT)
    except OSError as error:
        raise _unreadable(path, error) from error
    found = _kind(head)
    expected = ENDINGS[ending(path.name) or ".mha"]
    if found != expected:
        raise unusable(
            path,
            expected=f"{expected} as the name says",
            found=found or _describe(head),
            do="give a file whose name fits its content",
        )
    if expected == "MetaImage":
        return _meta(path, head, channels=channels)
    return {"NRRD": _nrrd, "NIfTI": _nifti}[expected](path, head)


def load(path: Path, pixels: Pixels, count: int) -> NDArray[Any]:
    """Read ``count`` voxels into a flat array in the machine's byte order, unscaled.

    Raises:
        InputError: the file holds less than that, a compressed stream holds more or is
            damaged, or the file cannot be read.
    """
    needed = count * pixels.dtype.itemsize
    _check_promise(path, pixels, needed)
    array = np.empty(count, pixels.dtype)
    target, filled = array.view(np.uint8).data, 0
    for part in _payload(path, pixels, needed):
        target[filled : filled + len(part)] = part
        filled += len(part)
    return array if array.dtype.isnative else array.byteswap(inplace=True).view(_native(array))


def blocks(
    path: Path, pixels: Pixels, count: int, shape: tuple[int, ...]
) -> Iterator[NDArray[Any]]:
    """Read ``count`` arrays of one shape, one after the other, into the same memory.

    Yields:
        Values as ``load`` gives them; valid until the next block is asked for.

    Raises:
        InputError: as ``load``.
    """
    block = np.empty(shape, pixels.dtype)
    needed = count * block.nbytes
    _check_promise(path, pixels, needed)
    target, filled = block.reshape(-1).view(np.uint8).data, 0
    for part in _payload(path, pixels, needed):
        while part:
            piece = part[: len(target) - filled]
            target[filled : filled + len(piece)] = piece
            part, filled = part[len(piece) :], filled + len(piece)
            if filled == len(target):
                filled = 0
                yield block if block.dtype.isnative else block.astype(_native(block))


def _native(array: NDArray[Any]) -> np.dtype[Any]:
    return array.dtype.newbyteorder("=")


def _damaged(path: Path, *, found: str, promised: int | None = None) -> InputError:
    expected = f"{promised} bytes of voxels" if promised else "a whole compressed stream"
    return unusable(path, expected=expected, found=found, do="the file is damaged, copy it again")


def _unreadable(path: Path, error: OSError) -> InputError:
    return unusable(
        path, expected="a readable file", found=f"{error.strerror}", do="check the file"
    )


def _check_plain(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        raise unusable(
            path, expected="a plain file", found="something else", do="give the image itself"
        )


def _check_promise(path: Path, pixels: Pixels, needed: int) -> None:
    """Refuse a header that promises more than the file can hold, before allocating."""
    held = path.stat().st_size - pixels.start
    if needed > held * (MAX_RATIO if pixels.compressed else 1):
        raise _damaged(path, found=f"only {held} bytes in the file", promised=needed)


def _raw(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        yield chunk


def _inflated(stream: BinaryIO) -> Iterator[bytes]:
    """Inflate zlib, or all members of gzip, by parts of bounded size; checks the checksums."""
    member = zlib.decompressobj(zlib.MAX_WBITS | 32)
    data = b""
    while True:
        data = data or stream.read(CHUNK)
        if member.eof:
            if not data.startswith(GZIP_MAGIC):
                return
            member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        elif not data:
            # The checksum stands last, so a stream whose end was read has given all it holds.
            raise zlib.error("its end is missing")
        yield member.decompress(data, CHUNK)
        data = member.unused_data if member.eof else member.unconsumed_tail


def _payload(path: Path, pixels: Pixels, needed: int) -> Iterator[memoryview]:
    """The bytes of the voxels, just as many as are needed, by parts of bounded size."""
    seen = -pixels.skip
    try:
        with path.open("rb") as stream:
            stream.seek(pixels.start)
            for part in _inflated(stream) if pixels.compressed else _raw(stream):
                first = max(0, -seen)
                yield memoryview(part)[first : max(first, needed - seen)]
                seen += len(part)
                if seen > needed:
                    break
    except OSError as error:
        raise _unreadable(path, error) from error
    except zlib.error as error:
        raise _damaged(path, found=f"a stream that breaks off ({error})") from error
    if seen < needed:
        raise _damaged(path, found=f"only {max(0, seen)}", promised=needed)
    if seen > needed and pixels.compressed:
        raise _damaged(path, found="more", promised=needed)


def _kind(head: bytes) -> Format | None:
    if head.startswith(b"NRRD000"):
        return "NRRD"
    if head.startswith(GZIP_MAGIC):
        head = _start_of_gzip(head)
    if head[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):
        return "NIfTI"
    if re.match(rb"\s*[A-Za-z]+\s*[=:]", head) and b"ElementDataFile" in head:
        return "MetaImage"
    return None


def _describe(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head[128:132] == b"DICM":
        return "a DICOM file"
    return next((name for magic, name in OTHERS.items() if head.startswith(magic)), "another kind")


def _start_of_gzip(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, NIFTI_HEADER)
    except zlib.error:
        # Not gzip after all; the caller says that it is of no known kind.
        return b""


def _detached(path: Path, found: str) -> InputError:
    return unusable(
        path,
        expected="header and voxels in one file",
        found=f"a header that points to {found!r}",
        do="write the image as one file",
    )


def _encoding(path: Path, found: str) -> InputError:
    return unusable(
        path,
        expected="scalar binary voxels, raw or compressed with zlib or gzip",
        found=found,
        do="convert it, for example with 3D Slicer",
    )


def _meta(path: Path, head: bytes, *, channels: bool) -> Pixels:
    # MetaIO stops at the first ElementDataFile; no word of that name may come before it.
    first = head.index(b"ElementDataFile")
    line = re.match(rb"ElementDataFile[ \t]*[=:][ \t]*([^\r\n]*)\r?\n", head[first:])
    if line is None or (first and head[first - 1 : first] != b"\n"):
        raise _encoding(path, "a header whose end cannot be told")
    target = line[1].decode("latin-1").strip()
    if target not in ("LOCAL", "Local", "local"):
        raise _detached(path, target)
    fields = _fields(head[:first], separator=r"[=:]")
    grid, count = _meta_grid(path, fields, channels=channels)
    dtype = META_TYPES.get(fields.get("ElementType", ""))
    binary = fields.get("BinaryData", "False").lower()
    if dtype is None or binary not in ("true", "1") or fields.get("HeaderSize", "0") != "0":
        raise _encoding(path, f"{fields.get('ElementType')}, BinaryData {binary}")
    big = _is_true(fields, "BinaryDataByteOrderMSB") or _is_true(fields, "ElementByteOrderMSB")
    start = first + line.end()
    compressed = _is_true(fields, "CompressedData")
    on_disk = np.dtype((">" if big else "<") + dtype)
    return Pixels("MetaImage", on_disk, compressed, start, grid=grid, channels=count)


def _meta_grid(path: Path, fields: dict[str, str], *, channels: bool) -> tuple[Grid, int]:
    """The geometry as ITK's MetaImageIO understands it, and the channels of a fourth axis."""
    axes = _whole(path, fields, "NDims", 1)[0]
    if axes != 3 and not (channels and axes == 4):
        raise not_three_dimensional(path, axes)
    if "ElementNumberOfChannels" in fields:
        components = _whole(path, fields, "ElementNumberOfChannels", 1)[0]
        if components != 1:
            raise not_scalar(path, components)
    size = _whole(path, fields, "DimSize", axes)
    matrix = _synonym(path, fields, axes, "TransformMatrix", "Rotation", "Orientation")
    matrix = matrix or tuple(np.eye(axes).ravel().tolist())
    origin = _synonym(path, fields, axes, "Offset", "Position", "Origin") or (0.0,) * axes
    grid = Grid(
        shape=reversed_triple(size[:3]),
        spacing_mm=reversed_triple(_numbers(path, fields, "ElementSpacing", axes)[:3]),
        origin_mm=cast(Vector, origin[:3]),
        # One row an index axis, so the transpose of ITK's direction matrix.
        direction=cast(Matrix, tuple(matrix[i::axes][:3] for i in range(3))),
    )
    return grid, size[3] if axes == 4 else 1


def _synonym(path: Path, fields: dict[str, str], axes: int, *keys: str) -> tuple[float, ...] | None:
    given = [key for key in keys if key in fields]
    return _numbers(path, fields, given[-1], axes) if given else None


def _whole(path: Path, fields: dict[str, str], key: str, axes: int) -> tuple[int, ...]:
    return tuple(int(number) for number in _numbers(path, fields, key, axes))


def _numbers(path: Path, fields: dict[str, str], key: str, axes: int) -> tuple[float, ...]:
    """The numbers of a field; MetaIO would read nonsense as zeros."""
    texts = fields.get(key, "").split()
    count = axes ** META_POWERS[key]
    if len(texts) != count or not all(NUMBER.fullmatch(text) for text in texts):
        raise unusable(
            path,
            expected=f"{key} with {count} finite numbers",
            found=repr(fields.get(key, "")[:80]),
            do="correct the header",
        )
    values = tuple(float(text) for text in texts)
    if not np.isfinite(values).all():
        raise unusable(path, expected=f"a finite {key}", found=f"{values}", do="correct the header")
    return values


def _is_true(fields: dict[str, str], key: str) -> bool:
    return fields.get(key, "").lower() in ("true", "1")


def _fields(text: bytes, *, separator: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for line in re.split(r"[\r\n]+", text.decode("latin-1")):
        match = re.match(rf"\s*([^=:]+?)\s*{separator}(?!=)\s*(.*?)\s*$", line)
        if match:
            pairs[match[1]] = match[2]
    return pairs


def _nrrd(path: Path, head: bytes) -> Pixels:
    # The longest text that any reader could take for the header is searched.
    blank = re.search(rb"\n\r?\n", head)
    if blank is None:
        raise _encoding(path, "a header without the blank line that ends it")
    text = head[: blank.end()]
    fields = {key.lower(): value for key, value in _fields(text, separator=":").items()}
    other = re.search(r"(?im)^\s*data\s*file\s*:=?\s*(.*?)\s*$", text.decode("latin-1"))
    if other:
        raise _detached(path, other[1])
    dtype = NRRD_TYPES.get(fields.get("type", "").lower())
    encoding = fields.get("encoding", "").lower()
    skips = [fields.get(key, "0") for key in ("byte skip", "byteskip", "line skip", "lineskip")]
    if dtype is None or encoding not in ("raw", "gzip", "gz") or skips != ["0"] * 4:
        raise _encoding(path, f"type {fields.get('type')!r}, encoding {encoding!r}")
    order = ">" if fields.get("endian", "").lower() == "big" else "<"
    return Pixels("NRRD", np.dtype(order + dtype), encoding != "raw", blank.end())


def _nifti(path: Path, head: bytes) -> Pixels:
    compressed = head.startswith(GZIP_MAGIC)
    header = _start_of_gzip(head) if compressed else head
    if len(header) < NIFTI_HEADER or header[344:348] != b"n+1\x00":
        raise _encoding(path, "a header that is not NIfTI-1 in a single file")
    order = "<" if header[:4] == b"\x5c\x01\x00\x00" else ">"
    (code,) = struct.unpack_from(order + "h", header, 70)
    offset, slope, intercept = struct.unpack_from(order + "3f", header, 108)
    if code not in NIFTI_TYPES or not NIFTI_HEADER <= offset <= HEADER_LIMIT:
        raise _encoding(path, f"data type {code} at byte {offset:g}")
    if not (np.isfinite([slope, intercept]).all() and slope != 0.0):
        slope, intercept = 1.0, 0.0
    start, skip = (0, int(offset)) if compressed else (int(offset), 0)
    dtype = np.dtype(order + NIFTI_TYPES[code])
    return Pixels("NIfTI", dtype, compressed, start, skip, slope, intercept)
