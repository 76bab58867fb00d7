"""Deflate streams of label maps, in which long runs of zeros cost next to nothing.

A mask is nearly all zeros, and a set of thirty masks of a large scan is gigabytes of
them. Here a run of zeros is assembled from pieces that were compressed once, and its
checksum follows from linear algebra instead of from the bytes; only the rows that a
structure touches are compressed. The result is an ordinary stream.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 1
LARGEST_PIECE = 1 << 21
ALL_ONES = 0xFFFFFFFF
# Raw deflate: an empty final block, which ends any sequence of flushed blocks.
END = b"\x03\x00"

Box = tuple[slice, slice, slice]
Bits = tuple[int, ...]


@dataclass(frozen=True)
class Deflated:
    """Compressed bytes that still lack their wrapping.

    Attributes:
        pieces: raw deflate blocks, each on a byte boundary, none of them final.
        length: bytes they stand for.
        crc32: checksum of those bytes.
    """

    pieces: tuple[bytes, ...]
    length: int
    crc32: int

    def gzip(self) -> Iterator[bytes]:
        """As a gzip file (RFC 1952) without time or name: equal data give equal bytes."""
        yield b"\x1f\x8b\x08" + bytes(6) + b"\xff"
        yield from self.pieces
        yield END + struct.pack("<II", self.crc32, self.length & ALL_ONES)

    def zlib(self, adler32: int) -> Iterator[bytes]:
        """As a zlib stream (RFC 1950), given the Adler-32 of the uncompressed bytes."""
        yield b"\x78\x01"
        yield from self.pieces
        yield END + struct.pack(">I", adler32)


class Zeros:
    """Runs of zero rows, ready compressed.

    Args:
        row: bytes a row.
    """

    def __init__(self, row: int) -> None:
        zeros = bytes(row)
        # A CRC-32 register is linear in its start value while zeros go through it:
        # the answers for its 32 bits hold the answer for every value.
        step: Bits = tuple(_through(zeros, 1 << bit) for bit in range(32))
        self._row = row
        self._runs: list[tuple[int, bytes, Bits]] = [(1, _deflate(zeros), step)]
        while row * self._runs[-1][0] < LARGEST_PIECE:
            rows, _, step = self._runs[-1]
            doubled = tuple(_apply(step, value) for value in step)
            self._runs.append((2 * rows, _deflate(bytes(2 * rows * row)), doubled))

    def run(self, rows: int, crc: int) -> tuple[list[bytes], int]:
        """Pieces for a number of zero rows, and the CRC-32 after them, given the one before."""
        pieces: list[bytes] = []
        register = crc ^ ALL_ONES
        for size, piece, step in reversed(self._runs):
            count, rows = divmod(rows, size)
            pieces += [piece] * count
            for _ in range(count):
                register = _apply(step, register)
        return pieces, register ^ ALL_ONES


def deflate_mask(
    labels: NDArray[np.uint8], label: int, *, box: Box | None, zeros: Zeros
) -> Deflated:
    """Compress the binary mask of one label.

    Args:
        labels: label map (z, y, x), uint8.
        label: the value that becomes 1.
        box: a box that holds every voxel of that value; None where there is no voxel.
        zeros: runs for rows of ``labels.shape[2]`` bytes.
    """
    planes, height, _ = labels.shape
    pieces: list[bytes] = []
    crc = done = 0
    for z in range(box[0].start, box[0].stop) if box else ():
        rows = box[1] if box else slice(0, 0)
        before, crc = zeros.run(z * height + rows.start - done, crc)
        band = (labels[z, rows] == label).view(np.uint8)
        crc = zlib.crc32(band, crc)
        pieces += [*before, _deflate(band)]
        done = z * height + rows.stop
    after, crc = zeros.run(planes * height - done, crc)
    return Deflated((*pieces, *after), labels.size, crc)


def deflate_array(array: NDArray[np.uint8], pool: Executor) -> Deflated:
    """Compress a contiguous array (z, y, x), plane by plane in the threads of a pool."""
    return Deflated(tuple(pool.map(_deflate, array)), array.size, zlib.crc32(array.data))


def _deflate(data: Any) -> bytes:
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush(zlib.Z_FULL_FLUSH)


def _through(zeros: bytes, register: int) -> int:
    return zlib.crc32(zeros, register ^ ALL_ONES) ^ ALL_ONES


def _apply(step: Bits, register: int) -> int:
    result = 0
    for bit, column in enumerate(step):
        if register >> bit & 1:
            result ^= column
    return result
