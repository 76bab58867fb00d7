"""The pixels of one slice: whether the file can hold what its header promises, and reading them."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import InputError
from oarseg.imaging.files.dicom.file_meta import (
    EXPLICIT,
    IMPLICIT,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LS,
    RLE,
    uid_name,
)
from oarseg.imaging.files.dicom.jpeg_size import (
    breaks_off,
    jpeg_2000_size,
    jpeg_size,
    lacks_tiles,
)
from oarseg.imaging.files.dicom.slice_header import PixelFormat, SliceHeader
from oarseg.imaging.files.pixels import quote_header_text, unusable_file

NATIVE = frozenset({IMPLICIT, EXPLICIT})
# Named, as pydicom would ask the next where one refuses, and some make up what is missing.
DECODERS = {
    RLE: "pydicom",
    JPEG_LS: "pyjpegls",
    JPEG_2000: "pylibjpeg",
    **dict.fromkeys(JPEG_LOSSLESS, "pylibjpeg"),
}
# Two bytes of RLE stand for 128 at the most.
RLE_RATIO = 64
MOST_FRAGMENTS = 1000
ITEM, END_OF_ITEMS = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)


def check_pixels(header: SliceHeader) -> None:
    """Make sure that a slice has grey pixels in a form that is read, and all of them.

    Raises:
        InputError: colour, inverted grey, many frames, bits that are not understood, or fewer or
            more bytes than the header promises.
    """
    path, pixels = header.path, header.pixels
    if header.enhanced or pixels.frames != 1:
        raise unusable_file(
            path,
            expected="one slice in each file",
            found="an enhanced multi-frame object" if header.enhanced else "several frames",
            do="export it as classic single-frame images",
        )
    _check_grey(path, pixels)
    _check_bits(path, pixels)
    needed = pixel_bytes(pixels)
    if needed == 0:
        raise unusable_file(
            path,
            expected="Rows (0028,0010) and Columns (0028,0011) above 0",
            found=f"{pixels.rows} and {pixels.columns}",
            do="export it again",
        )
    if pixels.start is None:
        raise _damaged(path, f"{needed} bytes of pixel data", "none")
    held = header.file_bytes - pixels.start
    if header.transfer_syntax_uid in NATIVE:
        _check_native(path, pixels, needed, held)
    elif pixels.length is not None:
        raise _damaged(path, "pixel data in fragments", "one value")
    else:
        _check_decoder(path, header.transfer_syntax_uid)
    if header.transfer_syntax_uid == RLE and needed > held * RLE_RATIO:
        raise _damaged(path, f"{needed} bytes of pixels", f"{held} bytes that cannot hold them")


def read_pixels(header: SliceHeader, stream: BinaryIO) -> NDArray[Any]:
    """Read the pixels of a slice that ``check_pixels`` has passed.

    Returns:
        (rows, columns), integers as they are stored, not rescaled.

    Raises:
        InputError: the file is damaged.
    """
    pixels = header.pixels
    if header.transfer_syntax_uid in NATIVE:
        values = _read_native(header, stream)
    else:
        values = _decode(header, stream)
    return _without_unused_bits(values.reshape(pixels.rows or 0, pixels.columns or 0), pixels)


def pixel_bytes(pixels: PixelFormat) -> int:
    """Return how many bytes the pixels of a slice take, not compressed."""
    return (pixels.rows or 0) * (pixels.columns or 0) * ((pixels.bits_allocated or 0) // 8)


def _check_grey(path: Path, pixels: PixelFormat) -> None:
    if pixels.samples != 1 or pixels.photometric != "MONOCHROME2":
        samples = "" if pixels.samples == 1 else f" with {pixels.samples} samples"
        raise unusable_file(
            path,
            expected="PhotometricInterpretation (0028,0004) MONOCHROME2 with one sample a pixel",
            found=(quote_header_text(pixels.photometric) if pixels.photometric else "none")
            + samples,
            do="give the scan itself, in grey",
        )


def _check_bits(path: Path, pixels: PixelFormat) -> None:
    allocated, stored = pixels.bits_allocated, pixels.bits_stored
    known = allocated in (8, 16) and stored is not None and 1 <= stored <= (allocated or 0)
    high = pixels.high_bit is None or pixels.high_bit == (stored or 0) - 1
    if not (known and high and pixels.signed in (0, 1)):
        raise unusable_file(
            path,
            expected="pixels of 8 or 16 bits with BitsStored, HighBit and PixelRepresentation "
            "that fit",
            found=f"{allocated}, {stored}, {pixels.high_bit} and {pixels.signed}",
            do="export it again",
        )


def _check_native(path: Path, pixels: PixelFormat, needed: int, held: int) -> None:
    # A value of an odd number of bytes is padded to an even one.
    if pixels.length not in (needed, needed + needed % 2):
        found = "fragments" if pixels.length is None else f"{pixels.length}"
        size = f"{pixels.columns}×{pixels.rows} pixels"
        raise _damaged(path, f"{needed} bytes of pixel data for {size}", found)
    if held < needed:
        raise _damaged(path, f"{needed} bytes of pixel data", f"only {max(0, held)} in the file")


def _read_native(header: SliceHeader, stream: BinaryIO) -> NDArray[Any]:
    pixels, needed = header.pixels, pixel_bytes(header.pixels)
    stream.seek(pixels.start or 0)
    data = stream.read(needed)
    if len(data) < needed:
        raise _damaged(header.path, f"{needed} bytes of pixel data", f"only {len(data)}")
    return np.frombuffer(data, _stored_type(pixels))


def _stored_type(pixels: PixelFormat) -> np.dtype[Any]:
    kind = "i" if pixels.signed else "u"
    return np.dtype(f"<{kind}{(pixels.bits_allocated or 16) // 8}")


def _decode(header: SliceHeader, stream: BinaryIO) -> NDArray[Any]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    pixels = header.pixels
    frame = _read_fragments(header, stream)
    if header.transfer_syntax_uid != RLE:
        _check_frame(header, frame)
    try:
        with warnings.catch_warnings():
            # Of more or fewer values of RLE than fit would only be warned.
            warnings.simplefilter("error" if header.transfer_syntax_uid == RLE else "ignore")
            values, _ = get_decoder(UID(header.transfer_syntax_uid)).as_array(
                _encapsulated(frame),
                index=0,
                decoding_plugin=DECODERS[header.transfer_syntax_uid],
                **_decode_options(pixels),
            )
    except MemoryError:
        raise
    # Whatever a decoder makes of damaged bytes: none promises a particular exception.
    except Exception as error:
        found = f"a stream that cannot be decoded ({type(error).__name__})"
        raise _damaged(header.path, "compressed pixels", found) from error
    if values.size != (pixels.rows or 0) * (pixels.columns or 0):
        raise _damaged(header.path, f"{pixels.columns}×{pixels.rows} pixels", f"{values.size}")
    return np.asarray(values)


def _check_decoder(path: Path, syntax: str) -> None:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    if DECODERS[syntax] not in get_decoder(UID(syntax)).available_plugins:
        raise unusable_file(
            path,
            expected=f"a decoder for {uid_name(syntax)}",
            found="none",
            do="install oarseg[dicom-jpeg] (for JPEG Lossless also pylibjpeg-libjpeg), or export "
            "it without compression",
        )


def _check_frame(header: SliceHeader, frame: bytes) -> None:
    """Make sure that a compressed frame has the header's size: decoders allocate its own."""
    pixels = header.pixels
    is_2000 = header.transfer_syntax_uid == JPEG_2000
    size = jpeg_2000_size(frame) if is_2000 else jpeg_size(frame)
    if size != (pixels.rows, pixels.columns):
        found = "a stream of another kind" if size is None else f"{size[1]}×{size[0]} in the stream"
        raise _damaged(header.path, f"{pixels.columns}×{pixels.rows} grey pixels", found)
    if breaks_off(frame) or (is_2000 and lacks_tiles(frame)):
        raise _damaged(header.path, "a whole compressed stream", "one that breaks off")


def _decode_options(pixels: PixelFormat) -> Any:
    return {
        "rows": pixels.rows,
        "columns": pixels.columns,
        "samples_per_pixel": pixels.samples,
        "photometric_interpretation": pixels.photometric,
        "pixel_representation": pixels.signed,
        "bits_allocated": pixels.bits_allocated,
        "bits_stored": pixels.bits_stored,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
    }


def _read_fragments(header: SliceHeader, stream: BinaryIO) -> bytes:
    """Read the fragments of the one frame, without the table of offsets before them."""
    stream.seek(header.pixels.start or 0)
    parts: list[bytes] = []
    for number in range(MOST_FRAGMENTS):
        head = stream.read(8)
        if len(head) < 8:
            break
        group, element, length = struct.unpack("<HHI", head)
        if (group, element) == END_OF_ITEMS:
            return b"".join(parts)
        if (group, element) != ITEM or length > header.file_bytes - stream.tell():
            break
        part = stream.read(length)
        parts += [part] if number else []
    raise _damaged(header.path, "compressed pixels", "fragments that break off")


def _encapsulated(frame: bytes) -> bytes:
    """Wrap a frame as a single fragment, as the decoders expect it."""
    padded = frame + b"\0" * (len(frame) % 2)
    item = struct.pack("<HHI", *ITEM, 0) + struct.pack("<HHI", *ITEM, len(padded)) + padded
    return item + struct.pack("<HHI", *END_OF_ITEMS, 0)


def _without_unused_bits(values: NDArray[Any], pixels: PixelFormat) -> NDArray[Any]:
    """Extend the sign from the highest bit that is stored; old overlays lie in those above it."""
    unused = (pixels.bits_allocated or 0) - (pixels.bits_stored or 0)
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    return native if unused == 0 else (native << unused) >> unused


def _damaged(path: Path, expected: str, found: str) -> InputError:
    return unusable_file(
        path, expected=expected, found=found, do="the file is damaged, export it again"
    )
