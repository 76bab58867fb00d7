"""Where an image file keeps its voxels, and reading them within bounds.

The voxels are read here rather than by ITK, which takes a truncated NIfTI or a damaged
compressed MetaImage for a whole one and fills in what is missing. A stream is inflated
into an array of the promised size, so a bomb cannot grow beyond it, and its checksum must
hold.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import InputError
from oarseg.imaging.volume import Grid

CHUNK_BYTES = 1 << 20
# What is left of the input is copied after every member, so it is fed in smaller pieces.
INPUT_BYTES = 1 << 16
# bgzip, the writer of many members, puts up to 64 KiB in each and an empty one at the end.
SMALL_MEMBER_BYTES = 512
MOST_SMALL_MEMBERS = 1024
# Deflate cannot compress better than 1032:1.
MAX_RATIO = 1100
GZIP_MAGIC = b"\x1f\x8b"

Format = Literal["MetaImage", "NRRD", "NIfTI"]


@dataclass(frozen=True)
class Pixels:
    """What a header says: how a file stores its voxels, and where they lie.

    Attributes:
        format: the kind of file, by its content.
        dtype: the type on disk, with its byte order.
        compressed: the data is a gzip or zlib stream.
        start: byte of the file where the data, or its stream, begins.
        grid: where the voxels lie; its numbers are finite and otherwise unchecked.
        channels: along a fourth axis, where that was asked for.
        interleaved: the channels of a voxel lie together, as Slicer writes layers.
        skip: bytes to leave out of the (inflated) data before the first voxel.
        slope, intercept: NIfTI's scaling, ``value = stored × slope + intercept``.
        notes: what the user should be warned of, a sentence each.
    """

    format: Format
    dtype: np.dtype[Any]
    compressed: bool
    start: int
    grid: Grid
    channels: int = 1
    interleaved: bool = False
    skip: int = 0
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()


def unusable_file(path: Path, *, expected: str, found: str, do: str) -> InputError:
    """Return the error for a file that cannot be used, in one sentence."""
    return InputError(f"{printable_path(str(path))}: expected {expected}, found {found}; {do}")


def printable_path(name: str) -> str:
    """Return a file's name for a message: quoted where it has control characters."""
    return name if name.isprintable() else repr(name)


def not_three_dimensional(path: Path, dimensions: int) -> InputError:
    """Return the error for an image with more or fewer than three axes."""
    return unusable_file(
        path,
        expected="a 3-D image",
        found=f"a {dimensions}-D image",
        do="give one volume in one file",
    )


def not_scalar(path: Path, found: str) -> InputError:
    """Return the error for an image with colours or vectors."""
    return unusable_file(
        path,
        expected="one value a voxel",
        found=found,
        do="give the scalar image, not colours or vectors",
    )


def sheared_axes(path: Path, angle_deg: float) -> InputError:
    """Return the error for axes that are not at right angles, as a tilted gantry leaves them."""
    return unusable_file(
        path,
        expected="orthonormal axis directions",
        found=f"a shear of {angle_deg:.2f}°",
        do="correct the gantry's tilt first: resample it to right angles, as dcm2niix does for "
        "the file that it names _Tilt",
    )


def detached_data(path: Path, found: str) -> InputError:
    """Return the error for a header whose data lies in another file: it could name any path."""
    return unusable_file(
        path,
        expected="header and voxels in one file",
        found=f"a header that points to {quote_header_text(found)}",
        do="write the image as one file",
    )


def unsupported_encoding(path: Path, found: str) -> InputError:
    """Return the error for an encoding that is not supported."""
    return unusable_file(
        path,
        expected="scalar binary voxels, raw or compressed with zlib or gzip",
        found=found,
        do="convert it, for example with 3D Slicer",
    )


def quote_header_text(text: object) -> str:
    """Quote a header's text for a message, printable and short."""
    return ascii(text)[:80]


class _NotPlainError(Exception):
    """A folder, a pipe or a device."""


def _open_plain(path: str, flags: int) -> int:
    handle = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise _NotPlainError


@contextmanager
def open_plain_file(path: Path) -> Iterator[BinaryIO]:
    """Open a plain file, once for all that is read of it.

    Raises:
        InputError: not a plain file (a pipe or device is not waited for), or one that
            cannot be read, now or later.
    """
    try:
        with open(path, "rb", opener=_open_plain) as stream:
            yield stream
    except _NotPlainError as error:
        raise unusable_file(
            path, expected="a plain file", found="something else", do="give the image itself"
        ) from error
    except OSError as error:
        raise unusable_file(
            path, expected="a readable file", found=f"{error.strerror}", do="check the file"
        ) from error


def read_voxels(path: Path, pixels: Pixels, count: int) -> NDArray[Any]:
    """Read ``count`` voxels into a flat array in the machine's byte order, unscaled.

    Raises:
        InputError: the file holds less than that, a compressed stream holds more or is
            damaged, or the file cannot be read.
    """
    needed = count * pixels.dtype.itemsize
    _check_promise(path, pixels, needed)
    array = np.empty(count, pixels.dtype)
    target, filled = array.view(np.uint8).data, 0
    for part in _voxel_bytes(path, pixels, needed):
        target[filled : filled + len(part)] = part
        filled += len(part)
    return (
        array if array.dtype.isnative else array.byteswap(inplace=True).view(_native_dtype(array))
    )


def read_blocks(
    path: Path, pixels: Pixels, count: int, shape: tuple[int, ...]
) -> Iterator[NDArray[Any]]:
    """Read ``count`` arrays of one shape, one after the other, into the same memory.

    Yields:
        Values as ``read_voxels`` gives them; valid until the next block is asked for.

    Raises:
        InputError: as ``read_voxels``.
    """
    block = np.empty(shape, pixels.dtype)
    needed = count * block.nbytes
    _check_promise(path, pixels, needed)
    target, filled = block.reshape(-1).view(np.uint8).data, 0
    for part in _voxel_bytes(path, pixels, needed):
        while part:
            piece = part[: len(target) - filled]
            target[filled : filled + len(piece)] = piece
            part, filled = part[len(piece) :], filled + len(piece)
            if filled == len(target):
                filled = 0
                yield block if block.dtype.isnative else block.astype(_native_dtype(block))


def _native_dtype(array: NDArray[Any]) -> np.dtype[Any]:
    return array.dtype.newbyteorder("=")


def _damaged_file(path: Path, *, found: str, promised: int | None = None) -> InputError:
    expected = f"{promised} bytes of voxels" if promised else "a whole compressed stream"
    return unusable_file(
        path, expected=expected, found=found, do="the file is damaged, copy it again"
    )


def _check_promise(path: Path, pixels: Pixels, needed: int) -> None:
    """Refuse a header that promises more than the file can hold, before allocating."""
    with open_plain_file(path) as stream:
        held = os.fstat(stream.fileno()).st_size - pixels.start
    if needed > held * (MAX_RATIO if pixels.compressed else 1):
        raise _damaged_file(path, found=f"only {held} bytes in the file", promised=needed)


def _voxel_bytes(path: Path, pixels: Pixels, needed: int) -> Iterator[memoryview]:
    """Yield the bytes of the voxels, as many as are needed, in parts of bounded size."""
    seen = -pixels.skip
    try:
        with open_plain_file(path) as stream:
            stream.seek(pixels.start)
            for part in _inflate_chunks(stream) if pixels.compressed else _read_chunks(stream):
                first = max(0, -seen)
                yield memoryview(part)[first : max(first, needed - seen)]
                seen += len(part)
                if seen > needed:
                    break
    except zlib.error as error:
        raise _damaged_file(path, found=f"a stream that breaks off ({error})") from error
    if seen < needed:
        raise _damaged_file(path, found=f"only {max(0, seen)}", promised=needed)
    if seen > needed and pixels.compressed:
        raise _damaged_file(path, found="more", promised=needed)


def _read_chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _inflate_chunks(stream: BinaryIO) -> Iterator[bytes]:
    """Inflate zlib, or all members of gzip, in parts of bounded size; verify the checksums.

    Raises:
        zlib.error: damaged, or too many members that hold next to nothing.
    """
    member = zlib.decompressobj(zlib.MAX_WBITS | 32)
    data, held, small = b"", 0, 0
    while True:
        data = data or stream.read(INPUT_BYTES)
        if member.eof:
            if len(data) < len(GZIP_MAGIC):
                data += stream.read(INPUT_BYTES)
            if not data.startswith(GZIP_MAGIC):
                return
            small += held < SMALL_MEMBER_BYTES
            if small > MOST_SMALL_MEMBERS:
                raise zlib.error(f"more than {MOST_SMALL_MEMBERS} members of next to nothing")
            member, held = zlib.decompressobj(zlib.MAX_WBITS | 16), 0
        elif not data:
            # The checksum stands last, so a stream whose end was read has given all it holds.
            raise zlib.error("its end is missing")
        part = member.decompress(data, CHUNK_BYTES)
        held += len(part)
        yield part
        data = member.unused_data if member.eof else member.unconsumed_tail
