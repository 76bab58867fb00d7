"""The vertices of a mask's outlines, and which follows which, for all planes at once.

An outline runs along the edges of voxels, a twentieth of a voxel inside, so that no reader has
to decide what a point on an edge belongs to, and a reader that rounds to voxel centres rounds
to voxels of the mask. Voxels that touch at a corner only are apart, so outlines never touch.

A vertex lies on two lines, one along each axis. Line 2j of an axis is a twentieth before the
corner between voxels j − 1 and j, line 2j + 1 a twentieth behind it. On every line the vertices
sorted along it are the ends of one edge after the other: that links them without a search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

INSIDE = 0.05

Integers = NDArray[np.int64]

# Bits of a corner's code: its voxels at the upper left, upper right, lower left, lower right.
UPPER_LEFT, UPPER_RIGHT, LOWER_LEFT, LOWER_RIGHT = 1, 2, 4, 8
EVERY_VOXEL = 15
# Where a vertex is drawn to, (y, x): the one voxel at its corner, or away from the one gap.
TOWARDS = {
    UPPER_LEFT: (0, 0),
    UPPER_RIGHT: (0, 1),
    LOWER_LEFT: (1, 0),
    LOWER_RIGHT: (1, 1),
}
OPPOSITE = {
    UPPER_LEFT: LOWER_RIGHT,
    UPPER_RIGHT: LOWER_LEFT,
    LOWER_LEFT: UPPER_RIGHT,
    LOWER_RIGHT: UPPER_LEFT,
}


@dataclass(frozen=True)
class Vertices:
    """Vertices sorted by plane, then line along y, then line along x.

    Attributes:
        plane, y, x: plane and lines of each vertex, (n,).
        following: the next vertex of the same outline, (n,). With y downwards, voxels of the
            mask lie to the right.
    """

    plane: Integers
    y: Integers
    x: Integers
    following: Integers


def line_position(line: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return where lines lie, in voxels from the centre of voxel 0."""
    return np.asarray(line // 2 - 0.5 + np.where(line % 2, INSIDE, -INSIDE), np.float64)


def find_vertices(mask: NDArray[np.bool_]) -> Vertices:
    """Find the vertices of the outlines of each plane of a mask (planes, rows, columns)."""
    plane, y, x = _corners(mask)
    order = np.lexsort((x, y, plane))
    plane, y, x = plane[order], y[order], x[order]
    following = np.empty(len(plane), np.int64)
    along_x = np.arange(len(plane))
    # Above the mask's voxels (odd lines) an edge runs to the right, below them to the left.
    _link(along_x, y[::2] % 2 == 1, following)
    along_y = np.lexsort((y, x, plane))
    # To their right (even lines) it runs down, to their left up.
    _link(along_y, x[along_y[::2]] % 2 == 0, following)
    return Vertices(plane, y, x, following)


def _link(sorted_vertices: Integers, forwards: NDArray[np.bool_], following: Integers) -> None:
    first, second = sorted_vertices[::2], sorted_vertices[1::2]
    following[np.where(forwards, first, second)] = np.where(forwards, second, first)


def _corners(mask: NDArray[np.bool_]) -> tuple[Integers, Integers, Integers]:
    """Return plane and lines of all vertices, in no order."""
    planes, rows, columns = mask.shape
    code = np.zeros((planes, rows + 1, columns + 1), np.uint8)
    bits = mask.view(np.uint8)
    code[:, 1:, 1:] = bits * np.uint8(UPPER_LEFT)
    code[:, 1:, :-1] |= bits << 1
    code[:, :-1, 1:] |= bits << 2
    code[:, :-1, :-1] |= bits << 3
    turning = np.flatnonzero(_DRAWN[:, 0][code])
    codes = code.reshape(-1)[turning]
    plane, corner = np.divmod(turning, (rows + 1) * (columns + 1))
    y, x = np.divmod(corner, columns + 1)
    parts = []
    for slot in range(2):
        drawn = _DRAWN[codes, slot]
        here = drawn != 0
        towards = _TOWARDS[drawn[here]]
        lines = (2 * y[here] + towards[:, 0], 2 * x[here] + towards[:, 1])
        parts.append((plane[here], *lines))
    first, second, third = (np.concatenate(part) for part in zip(*parts, strict=True))
    return first, second, third


def _drawn_table() -> NDArray[np.uint8]:
    """List, for each code of a corner, the voxels to which its vertices are drawn; 0 for none."""
    table = np.zeros((EVERY_VOXEL + 1, 2), np.uint8)
    for voxel, opposite in OPPOSITE.items():
        table[voxel, 0] = voxel
        table[EVERY_VOXEL - voxel, 0] = opposite
        if voxel < opposite:
            table[voxel | opposite] = (voxel, opposite)
    return table


_DRAWN = _drawn_table()
_TOWARDS = np.zeros((EVERY_VOXEL + 1, 2), np.int64)
for _voxel, _lines in TOWARDS.items():
    _TOWARDS[_voxel] = _lines
