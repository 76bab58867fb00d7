"""Broken slices of DICOM in the middle of whole ones, and what may come of reading the series.

A mutation knows elements: it changes a value, a type or a length, leaves an element out, repeats
it, nests sequences, exchanges the transfer syntax; it also flips, cuts and splices bytes as
``fuzzing`` does. The same generator gives the same file.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import fuzzing
import numpy as np
from dicom_files import PATIENT_NAME, Form, compress, slice_dataset, write_series
from fuzzing import FLOATS, INTEGERS, LIMITS, MOST_MUTATIONS, NUMBERS, TEXTS, File
from pydicom.uid import (
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from oarseg.errors import InputError
from oarseg.imaging.files.dicom.choose import find_series
from oarseg.imaging.files.read_scan import read_volume
from oarseg.imaging.volume import Grid, Volume

ENDING = "dcm"
# CPU time for a file; coverage's tracer makes each line of Python take about three times as long.
LONGEST_S = 1.0 if sys.gettrace() is None else 3.0
BROKEN = 2
SERIES = "series"
HEAD = 132
TAGS = (
    (0x0008, 0x0005), (0x0008, 0x0008), (0x0008, 0x0016), (0x0008, 0x0018), (0x0010, 0x0010),
    (0x0010, 0x0020), (0x0020, 0x000D), (0x0020, 0x000E), (0x0020, 0x0032), (0x0020, 0x0037),
    (0x0020, 0x0052), (0x0028, 0x0002), (0x0028, 0x0004), (0x0028, 0x0010), (0x0028, 0x0011),
    (0x0028, 0x0030), (0x0028, 0x0100), (0x0028, 0x0101), (0x0028, 0x0102), (0x0028, 0x0103),
    (0x0028, 0x0120), (0x0028, 0x1052), (0x0028, 0x1053), (0x7FE0, 0x0010), (0x0002, 0x0002),
    (0x0002, 0x0010),
)  # fmt: skip
KINDS = (b"DS", b"IS", b"SQ", b"UN", b"OB", b"OW", b"US", b"LO", b"PN", b"UI", b"\0\0", b"zz")
LENGTHS = (0, 1, 2, 7, 255, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
SYNTAXES = (
    b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.1.99",
    b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.4.70", b"",
    b"1.2.840.10008.1.2.4.57", b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.4.90",
)  # fmt: skip
COMPRESSED = (RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless)
UNDEFINED = 0xFFFFFFFF
SEQUENCE = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, UNDEFINED)
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


@cache
def volume() -> Volume:
    """The series that the broken slice belongs to."""
    # An encoder of JPEG 2000 takes no fewer rows and columns.
    array = np.arange(5 * 32 * 32).reshape(5, 32, 32).astype(np.int16)
    return Volume(array, Grid((5, 32, 32), (2.0, 0.75, 0.5), (-12.5, 100.0, -597.25)))


@cache
def seeds() -> tuple[File, ...]:
    """Whole slices: explicit, implicit, signed with a slope; run-length encoded, three of JPEG."""
    forms = (
        Form(),
        Form(syntax=ImplicitVRLittleEndian),
        Form(slopes=(0.5,), intercept=0.0, signed=True),
    )
    made = [_bytes(form) for form in forms]
    made += [_bytes(Form(), syntax) for syntax in COMPRESSED]
    return tuple(File(ENDING, data) for data in made)


def _bytes(form: Form, syntax: str = "") -> bytes:
    data = slice_dataset(volume(), BROKEN, form)
    data.add_new("PixelPaddingValue", "US", 0)
    if syntax:
        compress(data, syntax)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        data.save_as(path, enforce_file_format=True)
        return path.read_bytes()


def make(random: Random) -> File:
    """A broken slice (sometimes a whole one), the same for the same generator."""
    seed = random.choice(seeds())
    data = seed.data
    for _ in range(random.randint(1, MOST_MUTATIONS)):
        data = mutated(data, random)
    return replace(seed, data=data)


def read_series(path: Path) -> Volume:
    """Read the series in whose middle a slice lies.

    Raises:
        InputError: it was refused.
    """
    folder = path.parent / SERIES
    if not folder.is_dir():
        write_series(folder, volume())
    (folder / f"slice_{BROKEN:04d}.dcm").write_bytes(path.read_bytes())
    return read_volume(find_series(folder, "CT"), limits=LIMITS)


def check(path: Path) -> Volume | None:
    """Read the series in whose middle a slice lies; None where it was refused.

    Raises:
        AssertionError: the image or the refusal breaks a promise.
        Exception: whatever else than InputError the reader raised.
    """
    folder = path.parent / SERIES
    try:
        found = read_series(path)
    except InputError as error:
        message = str(error)
        assert message.startswith(str(folder)), message
        assert ": expected " in message, message
        assert message.isprintable(), message
        assert len(message) < 3 * len(str(folder)) + 900, message
        assert PATIENT_NAME.split("^")[0] not in message, message
        return None
    fuzzing.assert_invariants(found)
    return found


def mutated(data: bytes, random: Random, tags: Sequence[tuple[int, int]] = TAGS) -> bytes:
    """Break a file in one place, mostly at an element of one of the tags."""
    if random.random() < 0.3:
        return random.choice(fuzzing.ANYWHERE)(data, random)
    at = data.find(struct.pack("<HH", *random.choice(tags)), HEAD)
    if at < 0:
        return fuzzing.ANYWHERE[0](data, random)
    return random.choice(ELEMENT)(data, at, random)


def _span(data: bytes, at: int) -> tuple[int, int]:
    """Where the value of the element at a byte begins and ends, as its header says."""
    kind = data[at + 4 : at + 6]
    if kind in (b"OB", b"OW", b"SQ", b"UN"):
        start, length = at + 12, int.from_bytes(data[at + 8 : at + 12], "little")
    elif kind.isalpha() and kind.isupper():
        start, length = at + 8, int.from_bytes(data[at + 6 : at + 8], "little")
    else:
        start, length = at + 8, int.from_bytes(data[at + 4 : at + 8], "little")
    return start, min(len(data), start + length)


def _value(data: bytes, at: int, random: Random) -> bytes:
    """Another value: text or number of another length, which is kept in step or not."""
    start, end = _span(data, at)
    if random.random() < 0.4:
        number = random.choice((*INTEGERS, random.getrandbits(16))) % (1 << 16)
        return data[:start] + struct.pack("<H", number) + data[start + 2 :]
    words = random.choices((*NUMBERS, *TEXTS, *map(str, FLOATS)), k=random.choice((1, 2, 3, 6)))
    new = "\\".join(words).encode()[:60_000]
    new += b" " * (len(new) % 2)
    if random.random() < 0.8:
        short = data[at + 4 : at + 6].isalpha()
        field = at + 6 if short else at + 4
        size = struct.pack("<H" if short else "<I", len(new))
        data = data[:field] + size + data[field + len(size) :]
    return data[:start] + new + data[end:]


def _kind(data: bytes, at: int, random: Random) -> bytes:
    return data[: at + 4] + random.choice(KINDS) + data[at + 6 :]


def _length(data: bytes, at: int, random: Random) -> bytes:
    field, size = random.choice(((4, 4), (6, 2), (8, 4)))
    new = (random.choice(LENGTHS) % (1 << 8 * size)).to_bytes(size, "little")
    return data[: at + field] + new + data[at + field + size :]


def _dropped(data: bytes, at: int, _: Random) -> bytes:
    return data[:at] + data[_span(data, at)[1] :]


def _repeated(data: bytes, at: int, random: Random) -> bytes:
    element = data[at : _span(data, at)[1]]
    times = random.choice((1, 2, 1000, 20_000)) if len(element) < 100 else 1
    return data[:at] + element * times + data[at:]


def _nested(data: bytes, at: int, random: Random) -> bytes:
    depth = random.choice((1, 3, 30, 400, 5000))
    closed = (ITEM_END + SEQUENCE_END) * depth if random.random() < 0.7 else b""
    return data[:at] + (SEQUENCE + ITEM) * depth + closed + data[at:]


def _private(data: bytes, at: int, random: Random) -> bytes:
    """A private element, large or of a length that is not there."""
    size = random.choice((0, 10, 5000, 2_000_000))
    length = random.choice((size, size, random.choice(LENGTHS)))
    kind = random.choice((b"OB", b"UN", b"SQ"))
    return data[:at] + struct.pack("<HH2sHI", 9, 0x1010, kind, 0, length) + bytes(size) + data[at:]


def _syntax(data: bytes, _: int, random: Random) -> bytes:
    at = data.find(struct.pack("<HH2s", 0x0002, 0x0010, b"UI"))
    if at < 0:
        return data
    new = random.choice(SYNTAXES)
    new += b"\0" * (len(new) % 2)
    end = _span(data, at)[1]
    return data[: at + 6] + struct.pack("<H", len(new)) + new + data[end:]


ELEMENT = (_value, _value, _value, _kind, _length, _dropped, _repeated, _nested, _private, _syntax)
