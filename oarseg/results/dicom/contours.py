"""Contours of a mask: closed polygons, one for each part of a plane, holes as keyholes.

A hole is joined to what surrounds it by a cut that runs there and back on the same points, as
DICOM describes for CLOSED_PLANAR contours (PS3.3 C.8.8.6.3). The cut is a quarter of a voxel off
the centres, so that no reader sees a centre on it, and runs through voxels of the mask only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oarseg.results.dicom.outline_vertices import Vertices, find_vertices, line_position
from oarseg.results.dicom.thin_voxels import mark_thin_voxels

# Voxels looked at together; bounds the memory at a few bytes for each.
TRACED_VOXELS = 1 << 22
CUT = 0.25


@dataclass(frozen=True)
class Contour:
    """One closed polygon.

    Attributes:
        plane: index of its plane.
        points: (n, 2), x and y in voxels from the centre of voxel (0, 0); the first is not
            repeated.
    """

    plane: int
    points: NDArray[np.float64]


def trace_contours(labels: NDArray[np.uint8], values: Iterable[int]) -> Iterator[Contour]:
    """Trace the contours of all voxels of some values, plane by plane.

    Args:
        labels: (planes, rows, columns); best the box of the values.
        values: of the label map; together they are one mask.
    """
    chosen = np.zeros(256, np.bool_)
    chosen[list(values)] = True
    slab = max(1, TRACED_VOXELS // max(1, labels[:1].size))
    for start in range(0, len(labels), slab):
        yield from _trace_slab(chosen[labels[start : start + slab]], start)


def _trace_slab(mask: NDArray[np.bool_], start: int) -> Iterator[Contour]:
    vertices = find_vertices(mask)
    if not len(vertices.plane):
        return
    marked = mark_thin_voxels(mask, vertices)
    points, following = marked.points, marked.following.tolist()
    tops = _first_of_each(following)
    # The topmost edge of an outline has voxels below it (an odd line), that of a hole above it.
    outer = vertices.y[tops] % 2 == 1
    if not outer.all():
        points = np.concatenate([points, _cut_holes(mask, vertices, tops[~outer], following)])
    planes = vertices.plane.tolist()
    for top in tops[outer].tolist():
        yield Contour(start + planes[top], points[_walk(following, top)])


def _walk(following: list[int], start: int) -> list[int]:
    path = [start]
    vertex = following[start]
    while vertex != start:
        path.append(vertex)
        vertex = following[vertex]
    return path


def _first_of_each(following: list[int]) -> NDArray[np.int64]:
    """Return the first vertex of each outline: the left end of its topmost edge."""
    seen = bytearray(len(following))
    tops = []
    for start in range(len(following)):
        if seen[start]:
            continue
        tops.append(start)
        vertex = start
        while not seen[vertex]:
            seen[vertex] = 1
            vertex = following[vertex]
    return np.asarray(tops, np.int64)


def _cut_holes(
    mask: NDArray[np.bool_], vertices: Vertices, holes: NDArray[np.int64], following: list[int]
) -> NDArray[np.float64]:
    """Join each hole to the outline above it by rewriting what follows what.

    Args:
        mask: of the slab.
        vertices: of its outlines.
        holes: the left end of each hole's topmost edge.
        following: changed in place.

    Returns:
        The points of four new vertices a hole, to append to the others.
    """
    plane, x = vertices.plane[holes], vertices.x[holes]
    # The hole's upper left voxel; above it lies a voxel of the mask.
    column, row = x // 2, vertices.y[holes] // 2
    above = np.asarray([_run_above(mask, *where) for where in zip(plane, row, column, strict=True)])
    edges = _edge_left_of(vertices, plane, 2 * above + 1, 2 * column + 1)
    # Cuts into the same edge in the order in which it runs.
    order = np.lexsort((column, edges))
    cut = column[order] - CUT
    upper = np.column_stack([cut, line_position(2 * above[order] + 1)])
    lower = np.column_stack([cut, line_position(vertices.y[holes[order]])])
    # A hole's topmost edge runs to the left, over points of thin voxels maybe, to its left end.
    previous = np.empty(len(following), np.int64)
    previous[following] = np.arange(len(following))
    ends = previous[holes[order]].tolist()
    _splice(following, edges[order].tolist(), holes[order].tolist(), ends)
    joined: NDArray[np.float64] = np.stack([upper, lower, lower, upper], axis=1).reshape(-1, 2)
    return joined


def _run_above(mask: NDArray[np.bool_], plane: int, row: int, column: int) -> int:
    """Return the first row of the run of voxels that ends above a row."""
    gaps = np.flatnonzero(~mask[plane, :row, column])
    return int(gaps[-1]) + 1 if gaps.size else 0


def _edge_left_of(
    vertices: Vertices, plane: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the vertices in which the edges begin that run to the right over given lines."""
    height, width = int(vertices.y.max()) + 2, int(vertices.x.max()) + 2
    keys = (vertices.plane * height + vertices.y) * width + vertices.x
    wanted = (plane * height + y) * width + x
    return np.searchsorted(keys, wanted, side="right") - 1


def _splice(following: list[int], edges: list[int], holes: list[int], ends: list[int]) -> None:
    """Lead each edge down the cut, round the hole to its end, and back; from left to right."""
    last_edge = begin = -1
    for edge, hole, end in zip(edges, holes, ends, strict=True):
        upper, lower, lower_back, upper_back = range(len(following), len(following) + 4)
        begin = begin if edge == last_edge else edge
        following.extend([lower, hole, upper_back, following[begin]])
        following[begin] = upper
        following[end] = lower_back
        last_edge, begin = edge, upper_back
