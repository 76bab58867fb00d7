"""Repair two faults of a label map, where the user asks for it: exchanged sides, stray parts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from oarseg.challenges.challenge import Challenge
from oarseg.challenges.pairs import name_pairs
from oarseg.imaging.orientation import to_lps
from oarseg.imaging.volume import Grid, Vector, Volume
from oarseg.labels.runs import LabelRuns, Runs, number_parts
from oarseg.plausibility.measure import stray_parts, usual_parts
from oarseg.plausibility.midline import Midline, find_midline

Repair = Literal["lr", "components"]
# A part nearer to the midline may lie across it.
WRONG_SIDE_MM = 5.0


@dataclass(frozen=True)
class Change:
    """Voxels that a repair gave another label.

    Attributes:
        repair: which one.
        structure: what they were.
        now: what they are; empty for background.
        voxels: how many.
    """

    repair: Repair
    structure: str
    now: str
    voxels: int


def repair_labels(
    labels: Volume,
    challenge: Challenge,
    asked: Collection[Repair],
    *,
    body_mm: Vector | None = None,
) -> tuple[Volume, tuple[Change, ...]]:
    """Repair a label map; sides first, as what is stray depends on them.

    Args:
        labels: uint8; not changed.
        challenge: names the structures and says what a stray part is.
        asked: ``lr`` gives each connected part of a paired structure that lies on the other side
            of the midline its counterpart's label; ``components`` removes stray parts.
        body_mm: the body's centre, in the world.

    Returns:
        The label map, and what was changed; the map itself where nothing was.
    """
    if not asked:
        return labels, ()
    turn = to_lps(labels.grid)
    upright, grid = turn.array(labels.array).copy(), turn.grid(labels.grid)
    changes: list[Change] = []
    if "lr" in asked:
        changes += _set_sides_right(upright, grid, challenge, body_mm)
    if "components" in asked:
        changes += _drop_strays(upright, grid, challenge)
    if not changes:
        return labels, ()
    return labels.with_array(np.ascontiguousarray(turn.back(upright))), tuple(changes)


def find_wrong_sides(
    labels: Volume, challenge: Challenge, *, body_mm: Vector | None = None
) -> tuple[Change, ...]:
    """Tell what the repair ``lr`` would change; see ``repair_labels``."""
    turn = to_lps(labels.grid)
    upright, grid = turn.array(labels.array), turn.grid(labels.grid)
    return tuple(change for change, _, _ in _wrong_sides(upright, grid, challenge, body_mm))


def _set_sides_right(
    upright: NDArray[np.uint8], grid: Grid, challenge: Challenge, body_mm: Vector | None
) -> Iterator[Change]:
    for change, parts, label in _wrong_sides(upright, grid, challenge, body_mm):
        parts.fill(upright, label)
        yield change


def _wrong_sides(
    upright: NDArray[np.uint8], grid: Grid, challenge: Challenge, body_mm: Vector | None
) -> Iterator[tuple[Change, Runs, int]]:
    """Yield parts on the other's side, what they are to become, and its label."""
    runs = LabelRuns(upright)
    label_of = {structure.name: structure.label for structure in challenge.structures}
    pairs = name_pairs(label_of) if runs.whole else ()
    both = [(runs.of([label_of[left]]), runs.of([label_of[right]])) for left, right in pairs]
    present = [(one, other) for one, other in both if len(one) and len(other)]
    midline = find_midline(
        ((_centre(one, grid), _centre(other, grid)) for one, other in present), body_mm
    )
    if midline is None:
        return
    for (left, right), (of_left, of_right) in zip(pairs, both, strict=True):
        for name, other, parts in (
            (left, right, _beyond(of_left, grid, midline, -1)),
            (right, left, _beyond(of_right, grid, midline, 1)),
        ):
            if len(parts):
                yield Change("lr", name, other, parts.voxels), parts, label_of[other]


def _centre(runs: Runs, grid: Grid) -> Vector:
    return cast(Vector, tuple(grid.to_world(runs.centroid()[None])[0].tolist()))


def _beyond(runs: Runs, grid: Grid, midline: Midline, side: int) -> Runs:
    """Return the connected parts that lie on a side of the midline: 1 left, -1 right."""
    numbers = number_parts(runs)
    beyond = [
        part
        for part in range(int(numbers.max(initial=-1)) + 1)
        if side * midline.left_by_mm(_centre(runs.where(numbers == part), grid)) > WRONG_SIDE_MM
    ]
    return runs.where(np.isin(numbers, beyond))


def _drop_strays(upright: NDArray[np.uint8], grid: Grid, challenge: Challenge) -> Iterator[Change]:
    limits = challenge.plausibility
    runs = LabelRuns(upright)
    for structure in challenge.structures if runs.whole else ():
        own = runs.of([structure.label])
        if not len(own):
            continue
        is_stray, _ = stray_parts(own, grid, limits, usual=usual_parts(structure, limits))
        stray = own.where(is_stray)
        if len(stray):
            stray.fill(upright, 0)
            yield Change("components", structure.name, "", stray.voxels)
