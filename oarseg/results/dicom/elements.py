"""Write DICOM elements in implicit VR, little endian, sequences piece by piece.

Contours of a large case are hundreds of MiB as pydicom's objects, so they go to the file one by
one. In implicit VR a length has 32 bits, and no value over 64 KiB changes its VR to UN. Every
length is defined: some planning systems stop at sequences without one. PS3.5 chapter 7.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

ITEM_TAG = 0xFFFEE000


def write_text(stream: BinaryIO, tag: int, text: str) -> None:
    """Write an element of ASCII text: DS, IS, CS."""
    _write(stream, tag, text.encode("ascii"), padding=b" ")


def write_uid(stream: BinaryIO, tag: int, uid: str) -> None:
    """Write an element of VR UI."""
    _write(stream, tag, uid.encode("ascii"), padding=b"\0")


@contextmanager
def nested(stream: BinaryIO, tag: int) -> Iterator[None]:
    """Write a sequence, or with ``ITEM_TAG`` an item of one, round what is written within."""
    stream.write(_header(tag, 0))
    begin = stream.tell()
    yield
    end = stream.tell()
    stream.seek(begin - 4)
    stream.write(struct.pack("<L", end - begin))
    stream.seek(end)


def _write(stream: BinaryIO, tag: int, value: bytes, *, padding: bytes) -> None:
    if len(value) % 2:
        value += padding
    stream.write(_header(tag, len(value)) + value)


def _header(tag: int, length: int) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, length)
