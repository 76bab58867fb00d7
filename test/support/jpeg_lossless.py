"""Encode JPEG Lossless (ITU T.81 annex H), which no package of the tests can: left neighbours."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

PRECISION = 16
# Of a code for each number of bits that a difference can have.
CODE_BITS = 5


def encode_lossless(pixels: NDArray[np.uint16]) -> bytes:
    """Encode a grey image of 16 bits, (rows, columns)."""
    bits = "".join(map(_coded, _differences(pixels).ravel().tolist()))
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    rows, columns = pixels.shape
    frame = struct.pack(">BHHB3B", PRECISION, rows, columns, 1, 1, 0x11, 0)
    counts = bytes(PRECISION + 1 if n == CODE_BITS else 0 for n in range(1, 17))
    table = b"\0" + counts + bytes(range(PRECISION + 1))
    # One component, its table, the left neighbour as the prediction.
    scan = bytes((1, 1, 0, 1, 0, 0))
    parts = (_segment(0xC3, frame), _segment(0xC4, table), _segment(0xDA, scan), data)
    return b"\xff\xd8" + b"".join(parts) + b"\xff\xd9"


def _differences(pixels: NDArray[np.uint16]) -> NDArray[np.int64]:
    values = pixels.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[0, 0] = 1 << (PRECISION - 1)
    predicted[1:, 0] = values[:-1, 0]
    predicted[:, 1:] = values[:, :-1]
    difference = (values - predicted) % (1 << PRECISION)
    half = 1 << (PRECISION - 1)
    return np.where(difference > half, difference - (1 << PRECISION), difference)


def _coded(difference: int) -> str:
    size = abs(difference).bit_length()
    code = f"{size:0{CODE_BITS}b}"
    # The one difference of 16 bits needs none.
    if size in (0, PRECISION):
        return code
    value = difference if difference > 0 else difference + (1 << size) - 1
    return code + f"{value:0{size}b}"


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
