"""Tell left from right in a label map of a model whose classes hold both organs of a pair.

The plane that divides the patient is found from the label map itself, in the world: a head that
is turned, or an image that shows one side only, has the middle elsewhere than the array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.orientation import to_lps
from oarseg.imaging.volume import Grid, Vector, Volume
from oarseg.labels.runs import LabelRuns, RunNumbers, Runs, number_parts
from oarseg.plausibility.midline import TO_THE_LEFT, Midline, find_midline

# A part that reaches less far across the plane, or with less of its voxels, lies on one side.
ACROSS_MM = 4.0
ACROSS_SHARE = 0.03
# The two largest parts of a class are a pair if they are about as large, apart, and across.
LEAST_RATIO = 0.4
PAIR_APART_MM = 8.0
LARGEST_ANGLE_DEG = 35.0
# Fewer pairs than these do not say alone where the middle is.
FEW_PAIRS = 3

PlaneSource = Literal["pairs", "middle structures", "body", "image"]


@dataclass(frozen=True)
class ToldSides:
    """What became of a class of both sides.

    Attributes:
        left, right: the labels.
        left_voxels, right_voxels: how many got each.
        cut: a connected part lies on both sides and was cut at the plane.
    """

    left: int
    right: int
    left_voxels: int
    right_voxels: int
    cut: bool


@dataclass(frozen=True)
class SplitPairs:
    """A label map with sides, and how they were told.

    Attributes:
        labels: the label map.
        midline: the plane; None where no class of both sides has a voxel.
        pairs: how many pairs of parts it was found from.
        source: the least certain of what it was found from.
        sides: for each class that has voxels.
    """

    labels: Volume
    midline: Midline | None
    pairs: int
    source: PlaneSource
    sides: tuple[ToldSides, ...]


def split_pairs(
    labels: Volume,
    pairs: Sequence[tuple[int, int]],
    *,
    middle: Sequence[int] = (),
    body_mm: Vector | None = None,
) -> SplitPairs | None:
    """Give the right organs of pairs their own label.

    Args:
        labels: uint8; not changed. Both organs of a pair have the left one's label.
        pairs: labels (left, right).
        middle: labels of structures that lie across the middle, which help where pairs are few.
        body_mm: the body's centre, in the world.

    Returns:
        None for a label map too ragged.
    """
    turn = to_lps(labels.grid)
    upright, grid = turn.array(labels.array).copy(), turn.grid(labels.grid)
    runs = LabelRuns(upright)
    if not runs.whole:
        return None
    both = [(pair, runs.of([pair[0]])) for pair in pairs]
    present = [(pair, own) for pair, own in both if len(own)]
    if not present:
        return SplitPairs(labels, None, 0, "pairs", ())
    found = list(_paired_parts([own for _, own in present], grid))
    single = [_centre(own, grid) for own in map(runs.of, ([m] for m in middle)) if len(own)]
    midline, source = _divide(found, single, body_mm, grid)
    sides = tuple(_split(upright, own, pair, grid, midline) for pair, own in present)
    done = labels.with_array(np.ascontiguousarray(turn.back(upright)))
    return SplitPairs(done, midline, len(found), source, sides)


def _divide(
    pairs: Sequence[tuple[Vector, Vector]],
    single: Sequence[Vector],
    body_mm: Vector | None,
    grid: Grid,
) -> tuple[Midline, PlaneSource]:
    """Find the plane from pairs; from what lies in the middle too, where these are few.

    The body counts only where there is nothing else, as an image may show one half of it.
    """
    if len(pairs) >= FEW_PAIRS or (pairs and not single):
        middles: Sequence[Vector] = ()
        source: PlaneSource = "pairs"
    elif single:
        middles, source = single, "middle structures"
    elif body_mm is not None:
        middles, source = [body_mm], "body"
    else:
        centre = (np.asarray(grid.shape, float) - 1) / 2
        middles = [cast(Vector, tuple(grid.to_world(centre[None])[0].tolist()))]
        source = "image"
    # A point stands for a pair of no extent: it has a middle and no direction.
    midline = find_midline([*pairs, *((point, point) for point in middles)])
    if midline is None:
        raise RuntimeError("a plane without a single point")
    return midline, source


def _paired_parts(classes: Sequence[Runs], grid: Grid) -> Iterator[tuple[Vector, Vector]]:
    """Yield the centroids of the two largest parts of each class that has both sides."""
    for own in classes:
        parts = number_parts(own)
        sizes = np.bincount(parts, weights=own.lengths)
        if sizes.size < 2 or sizes[1] < LEAST_RATIO * sizes[0]:
            continue
        one, other = (_centre(own.where(parts == number), grid) for number in (0, 1))
        across = np.subtract(one, other)
        length = float(np.linalg.norm(across))
        along = abs(float(across @ TO_THE_LEFT))
        if length > PAIR_APART_MM and along > length * np.cos(np.radians(LARGEST_ANGLE_DEG)):
            yield one, other


def _centre(runs: Runs, grid: Grid) -> Vector:
    return cast(Vector, tuple(grid.to_world(runs.centroid()[None])[0].tolist()))


def _split(
    upright: NDArray[np.uint8], own: Runs, pair: tuple[int, int], grid: Grid, midline: Midline
) -> ToldSides:
    """Give what lies to the right its label, part by part."""
    first = _first_left(own, grid, midline)
    parts = number_parts(own)
    count = int(parts.max()) + 1
    left = np.bincount(parts, weights=own.stop - first, minlength=count)
    voxels = np.bincount(parts, weights=own.lengths, minlength=count)
    reach = _reach_mm(own, parts, count, grid, midline)
    smaller = np.minimum(left, voxels - left)
    cut = (reach > ACROSS_MM) & (smaller > ACROSS_SHARE * voxels)
    # Of parts on one side all voxels go where most are.
    is_right = 2 * left < voxels
    begin = np.where(cut[parts], first, np.where(is_right[parts], own.stop, own.start))
    right = Runs(own.shape, own.z, own.y, own.start, begin).where(begin > own.start)
    right.fill(upright, pair[1])
    return ToldSides(pair[0], pair[1], own.voxels - right.voxels, right.voxels, bool(cut.any()))


def _first_left(own: Runs, grid: Grid, midline: Midline) -> RunNumbers:
    """Return the first voxel of each run that lies to the left; along x it is ever farther left."""
    begin, slope = _left_by_mm(own, own.start, grid, midline)
    steps = np.ceil(np.maximum(-begin / slope, 0))
    found: RunNumbers = np.minimum(own.start + steps.astype(np.int64), own.stop)
    return found


def _left_by_mm(
    own: Runs, x: RunNumbers, grid: Grid, midline: Midline
) -> tuple[NDArray[np.float64], float]:
    """Return how far a voxel of each run lies to the left, and by how much the next one more."""
    points = grid.to_world(np.stack([own.z, own.y, x], axis=1).astype(float))
    step = np.subtract(*grid.to_world(np.array([[0.0, 0, 1], [0.0, 0, 0]])))
    normal = np.asarray(midline.normal)
    slope = max(float(step @ normal), 1e-6)
    return points @ normal - midline.offset_mm, slope


def _reach_mm(
    own: Runs, parts: RunNumbers, count: int, grid: Grid, midline: Midline
) -> NDArray[np.float64]:
    """Return how far each part reaches across the plane, to the side where it reaches less far."""
    lowest, _ = _left_by_mm(own, own.start, grid, midline)
    highest, _ = _left_by_mm(own, own.stop - 1, grid, midline)
    left, right = np.full(count, -np.inf), np.full(count, -np.inf)
    np.maximum.at(left, parts, highest)
    np.maximum.at(right, parts, -lowest)
    reach: NDArray[np.float64] = np.minimum(left, right)
    return reach
