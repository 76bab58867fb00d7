"""A point for each voxel that an outline passes on two opposite sides and turns in nowhere.

A reader that rounds points to voxels makes one line of the two sides, drawn there and back. By
the even-odd rule nothing of it is inside, and some readers (scikit-image's ``draw.polygon``)
then draw only the voxels in which a point lies. The points are a quarter of a voxel off the
centres' lines, so that no reader sees one on a line that it looks along.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oarseg.results.dicom.outline_vertices import Integers, Vertices, line_position

ASIDE = 0.25


@dataclass(frozen=True)
class MarkedOutlines:
    """The vertices of outlines, and behind them a point for each thin voxel.

    Attributes:
        points: (n, 2), x and y in voxels.
        following: the next point of the same outline, (n,).
    """

    points: NDArray[np.float64]
    following: Integers


def mark_thin_voxels(mask: NDArray[np.bool_], vertices: Vertices) -> MarkedOutlines:
    """Add a point to the lower edge of thin rows' voxels, and to the right edge of columns'.

    Args:
        mask: (planes, rows, columns).
        vertices: of its outlines.
    """
    points = np.column_stack([line_position(vertices.x), line_position(vertices.y)])
    outlines = MarkedOutlines(points, vertices.following.copy())
    in_row, in_column = _thin_voxels(mask)
    if in_row[0].size:
        outlines = _with_points(outlines, *_on_lower_edges(vertices, *in_row))
    if in_column[0].size:
        outlines = _with_points(outlines, *_on_right_edges(vertices, *in_column))
    return outlines


def _thin_voxels(mask: NDArray[np.bool_]) -> tuple[tuple[Integers, ...], tuple[Integers, ...]]:
    """Return plane, row and column of the voxels with neighbours on two opposite sides only."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    up, down = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]
    left, right = padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
    in_row = np.nonzero(mask & left & right & ~(up | down))
    in_column = np.nonzero(mask & up & down & ~(left | right))
    return in_row, in_column


def _on_lower_edges(
    vertices: Vertices, plane: Integers, row: Integers, column: Integers
) -> tuple[Integers, NDArray[np.float64]]:
    """Return where the edges begin, which run to the left, and the points on them in order."""
    y = 2 * (row + 1)
    keys = _keys(vertices, vertices.y, vertices.x)
    begin = np.searchsorted(keys, _keys_of(vertices, plane, y, 2 * column + 1), side="right")
    order = np.lexsort((-column, begin))
    points = np.column_stack([column + ASIDE, line_position(y)])
    return begin[order], points[order]


def _on_right_edges(
    vertices: Vertices, plane: Integers, row: Integers, column: Integers
) -> tuple[Integers, NDArray[np.float64]]:
    """Return where the edges begin, which run down, and the points on them in order."""
    x = 2 * (column + 1)
    keys = _keys(vertices, vertices.x, vertices.y)
    sorted_vertices = np.argsort(keys)
    wanted = _keys_of(vertices, plane, x, 2 * row + 1)
    begin = sorted_vertices[np.searchsorted(keys[sorted_vertices], wanted, side="right") - 1]
    order = np.lexsort((row, begin))
    points = np.column_stack([line_position(x), row + ASIDE])
    return begin[order], points[order]


def _keys(vertices: Vertices, line: Integers, across: Integers) -> Integers:
    return _keys_of(vertices, vertices.plane, line, across)


def _keys_of(vertices: Vertices, plane: Integers, line: Integers, across: Integers) -> Integers:
    """Number places so that they sort by plane, then line, then the place on the line."""
    side = int(max(vertices.y.max(), vertices.x.max())) + 2
    return np.asarray((plane * side + line) * side + across, np.int64)


def _with_points(
    outlines: MarkedOutlines, begin: Integers, points: NDArray[np.float64]
) -> MarkedOutlines:
    """Insert points behind the vertices in which their edges begin, several in their order."""
    new = np.arange(len(points)) + len(outlines.points)
    first = np.r_[True, begin[1:] != begin[:-1]]
    last = np.r_[first[1:], True]
    following = np.concatenate([outlines.following, new + 1])
    following[new[last]] = outlines.following[begin[last]]
    following[begin[first]] = new[first]
    return MarkedOutlines(np.concatenate([outlines.points, points]), following)
