"""The size that a compressed frame claims, and whether all of it is there, before it is decoded.

Decoders allocate the size that a frame claims, and some make up the pixels that it lacks.
"""

from __future__ import annotations

import struct

# Frames of JPEG and JPEG-LS begin with one of these markers; DHT, JPG and DAC are none.
FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
START, START_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
END_OF_IMAGE = b"\xff\xd9"
MOST_SEGMENTS = 1000
TILE_PART, TILE_PART_BYTES, MOST_TILE_PARTS = 0xFF90, 12, 1 << 16


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


def breaks_off(frame: bytes) -> bool:
    """Return whether a frame of any of the three has no end; it may be padded by zeros."""
    return not frame.rstrip(b"\0").endswith(END_OF_IMAGE)


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


def lacks_tiles(frame: bytes) -> bool:
    """Return whether tiles of a JPEG 2000 codestream are missing that its size asks for.

    Args:
        frame: one whose size could be read.
    """
    width, height, left, top, tile_width, tile_height = struct.unpack(">6I", frame[8:32])
    across, down = -(-(width - left) // tile_width), -(-(height - top) // tile_height)
    found: set[int] = set()
    at = _first_tile_part(frame)
    for _ in range(MOST_TILE_PARTS):
        head = frame[at : at + TILE_PART_BYTES]
        if len(head) < TILE_PART_BYTES or int.from_bytes(head[:2], "big") != TILE_PART:
            break
        tile, length = struct.unpack(">HI", head[4:10])
        found.add(tile)
        # The last one may leave its length open.
        at = at + length if length else len(frame)
    return found != set(range(across * down)) if across * down <= MOST_TILE_PARTS else True


def _first_tile_part(frame: bytes) -> int:
    """Return the byte at which the main header ends."""
    at = len(START)
    for _ in range(MOST_SEGMENTS):
        marker, length = struct.unpack(">HH", frame[at : at + 4].ljust(4, b"\0"))
        if marker == TILE_PART or not marker:
            break
        at += 2 + length
    return at
