"""Compress label maps to deflate streams, with long runs of zeros at almost no cost.

A mask is nearly all zeros, and thirty masks of a large scan are gigabytes of them. A run of
zeros is assembled here from pieces compressed once, and its checksum is computed by linear
algebra instead of from the bytes. Only the rows that a structure touches are compressed.
The result is an ordinary stream that does not depend on the CPU. Intel's ISA-L, the fastest
library on whole masks, needs four times the CPU time (``bench/writing.py deflate``), and
its output may vary with the CPU.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.labels.boxes import Box

LEVEL = 1
LARGEST_PIECE = 1 << 21
ALL_ONES = 0xFFFFFFFF
ADLER_BASE = 65521
PLANES_AT_ONCE = 16
# Raw deflate: an empty final block, which ends any sequence of flushed blocks.
END = b"\x03\x00"

Bits = tuple[int, ...]


@dataclass(frozen=True)
class Deflated:
    """Compressed bytes without header and trailer.

    Attributes:
        pieces: raw deflate blocks, byte-aligned, none of them final.
        length: number of uncompressed bytes.
        crc32, adler32: checksums of the uncompressed bytes.
    """

    pieces: tuple[bytes, ...]
    length: int
    crc32: int
    adler32: int

    def gzip(self) -> Iterator[bytes]:
        """Wrap as a gzip file (RFC 1952) without time or name: equal data give equal bytes."""
        yield b"\x1f\x8b\x08" + bytes(6) + b"\xff"
        yield from self.pieces
        yield END + struct.pack("<II", self.crc32, self.length & ALL_ONES)

    def zlib(self) -> Iterator[bytes]:
        """Wrap as a zlib stream (RFC 1950)."""
        return zlib_of([self])


def join_deflated(first: bytes, second: Deflated) -> Deflated:
    """Put bytes, which are compressed here, before what is compressed already."""
    crc = _crc_of_both(zlib.crc32(first), second.crc32, second.length)
    adler = _adler_of_both(zlib.adler32(first), second.adler32, second.length)
    return Deflated((_compress_raw(first), *second.pieces), len(first) + second.length, crc, adler)


def zlib_of(parts: Sequence[Deflated]) -> Iterator[bytes]:
    """Join several bodies into a single zlib stream."""
    adler = 1
    yield b"\x78\x01"
    for part in parts:
        yield from part.pieces
        adler = _adler_of_both(adler, part.adler32, part.length)
    yield END + struct.pack(">I", adler)


class Zeros:
    """Runs of zero rows, ready compressed.

    Args:
        row: bytes a row.
    """

    def __init__(self, row: int) -> None:
        zeros = bytes(row)
        # A CRC-32 register is linear in its start value while zeros go through it:
        # the answers for its 32 bits hold the answer for every value.
        step: Bits = tuple(_pass_zeros(zeros, 1 << bit) for bit in range(32))
        self._runs: list[tuple[int, bytes, Bits]] = [(1, _compress_raw(zeros), step)]
        while row * self._runs[-1][0] < LARGEST_PIECE:
            rows, _, step = self._runs[-1]
            doubled = tuple(_apply_step(step, value) for value in step)
            self._runs.append((2 * rows, _compress_raw(bytes(2 * rows * row)), doubled))

    def run(self, rows: int, crc: int) -> tuple[list[bytes], int]:
        """Return the pieces of a run of zero rows, and the CRC-32 after it from that before."""
        pieces: list[bytes] = []
        register = crc ^ ALL_ONES
        for size, piece, step in reversed(self._runs):
            count, rows = divmod(rows, size)
            pieces += [piece] * count
            for _ in range(count):
                register = _apply_step(step, register)
        return pieces, register ^ ALL_ONES


def deflate_mask(
    labels: NDArray[np.uint8], chosen: Sequence[int], *, box: Box | None, zeros: Zeros
) -> Deflated:
    """Compress the binary mask of one label, or of several together.

    Args:
        labels: label map (z, y, x), uint8.
        chosen: values that become 1.
        box: a box that encloses every voxel of these values; None if there is none.
        zeros: runs for rows of ``labels.shape[2]`` bytes.
    """
    planes, height, width = labels.shape
    table = np.zeros(256, np.uint8)
    table[list(chosen)] = 1
    pieces: list[bytes] = []
    crc, adler, done = 0, 1, 0
    for z in range(box[0].start, box[0].stop) if box else ():
        rows = box[1] if box else slice(0, 0)
        source = labels[z, rows]
        band = table[source] if len(chosen) > 1 else (source == chosen[0]).view(np.uint8)
        skipped = z * height + rows.start - done
        before, crc = zeros.run(skipped, crc)
        crc = zlib.crc32(band.data, crc)
        adler = zlib.adler32(band.data, _adler_after_zeros(adler, skipped * width))
        pieces += [*before, _compress_raw(band)]
        done = z * height + rows.stop
    left = planes * height - done
    after, crc = zeros.run(left, crc)
    return Deflated((*pieces, *after), labels.size, crc, _adler_after_zeros(adler, left * width))


def deflate_array(array: NDArray[np.uint8], pool: Executor) -> Deflated:
    """Compress a contiguous array (z, y, x) plane by plane, in the threads of a pool."""
    return deflate_planes(len(array), lambda z: array[z], pool)


def deflate_planes(
    count: int, plane: Callable[[int], NDArray[np.uint8]], pool: Executor
) -> Deflated:
    """Compress planes that are made on demand, a few at a time."""
    pieces: list[bytes] = []
    length, crc, adler = 0, 0, 1
    for first in range(0, count, PLANES_AT_ONCE):
        some = [
            np.ascontiguousarray(plane(z)) for z in range(first, min(first + PLANES_AT_ONCE, count))
        ]
        pieces += pool.map(_compress_raw, some)
        for one in some:
            length += one.size
            crc, adler = zlib.crc32(one.data, crc), zlib.adler32(one.data, adler)
    return Deflated(tuple(pieces), length, crc, adler)


def _adler_after_zeros(adler: int, count: int) -> int:
    """Return the Adler-32 after more zero bytes: each adds the low half to the high half."""
    low, high = adler & 0xFFFF, adler >> 16
    return ((high + count * low) % ADLER_BASE) << 16 | low


def _adler_of_both(first: int, second: int, length: int) -> int:
    """Return the Adler-32 of two joined byte strings from both and the second's length."""
    low, high = first & 0xFFFF, first >> 16
    sum_low = (low + (second & 0xFFFF) - 1) % ADLER_BASE
    sum_high = (high + (second >> 16) + length * (low - 1)) % ADLER_BASE
    return sum_high << 16 | sum_low


def _crc_of_both(first: int, second: int, length: int) -> int:
    """CRC-32 of two byte strings on end, from that of each and the second's length."""
    # What as many zeros as the second is long make of the first's: by doubling the step.
    step: Bits = tuple(_pass_zeros(b"\0", 1 << bit) for bit in range(32))
    while length:
        if length & 1:
            first = _apply_step(step, first)
        step = tuple(_apply_step(step, value) for value in step)
        length >>= 1
    return first ^ second


def _compress_raw(data: Any) -> bytes:
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush(zlib.Z_FULL_FLUSH)


def _pass_zeros(zeros: bytes, register: int) -> int:
    return zlib.crc32(zeros, register ^ ALL_ONES) ^ ALL_ONES


def _apply_step(step: Bits, register: int) -> int:
    result = 0
    for bit, column in enumerate(step):
        if register >> bit & 1:
            result ^= column
    return result
