"""The size that a compressed frame claims, read before a decoder allocates it."""

from __future__ import annotations

import struct

# Frames of JPEG and JPEG-LS begin with one of these markers; DHT, JPG and DAC are none.
FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
START, START_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
MOST_SEGMENTS = 1000


def jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Read rows and columns of a grey JPEG or JPEG-LS stream; None if it is none."""
    if not frame.startswith(START):
        return None
    at = len(START)
    for _ in range(MOST_SEGMENTS):
        head = frame[at : at + 10]
        if len(head) < 10 or head[0] != 0xFF:
            return None
        length, _, rows, columns, components = struct.unpack(">HBHHB", head[2:])
        if head[1] in FRAME_MARKERS:
            return (rows, columns) if components == 1 else None
        at += 2 + length
    return None


def jpeg_2000_size(frame: bytes) -> tuple[int, int] | None:
    """Read rows and columns of a grey JPEG 2000 codestream; None if it is none."""
    if not frame.startswith(START_2000) or len(frame) < 42:
        return None
    values = struct.unpack(">8IH", frame[8:42])
    width, height, left, top, tile_width, tile_height, tile_left, tile_top, components = values
    tiles = (tile_left, tile_top) == (left, top) and tile_width and tile_height
    if components != 1 or not tiles or width <= left or height <= top:
        return None
    return height - top, width - left
