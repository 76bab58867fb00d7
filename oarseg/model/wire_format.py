"""Writes fields of protobuf's wire format, the counterpart of ``protobuf``.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from oarseg.model.protobuf import FIXED32, LENGTH, VARINT


def varint(number: int) -> bytes:
    """Encode a number in base 128, least significant group first; a negative one as 64 bits."""
    rest = number & ((1 << 64) - 1)
    groups = bytearray()
    while rest > 0x7F:
        groups.append(rest & 0x7F | 0x80)
        rest >>= 7
    groups.append(rest)
    return bytes(groups)


def integer(field: int, number: int) -> bytes:
    """Write a number."""
    return varint(field << 3 | VARINT) + varint(number)


def real(field: int, number: float) -> bytes:
    """Write a number in single precision."""
    return varint(field << 3 | FIXED32) + struct.pack("<f", number)


def block(field: int, content: bytes | str) -> bytes:
    """Write a text, bytes or a message that is encoded already."""
    data = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | LENGTH) + varint(len(data)) + data


def blocks(field: int, contents: Iterable[bytes | str]) -> bytes:
    """Write each value of a repeated field."""
    return b"".join(block(field, content) for content in contents)
