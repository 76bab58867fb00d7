"""Vary where and how finely phantoms are scanned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from oarseg.imaging.volume import Grid
from oarseg.phantom.patient.parts import Draws
from oarseg.phantom.randomise.levels import Level, within
from oarseg.phantom.spec import PhantomSpec

FINEST_USUAL_MM = 3.2  # CTs with thicker slices are toys, whose slices only vary a little
MORE_VOXELS = 1.05


def vary_ct_grid(grid: Grid, d: Draws, level: Level) -> Grid:
    """Return another grid with the same top and middle, of hardly more voxels.

    Args:
        grid: the CT's at level 0.
        d: the patient's draws.
        level: how far to go.
    """
    extent = grid.shape[0] * grid.spacing_mm[0] * within(d, "ct/reach", level.reach)
    slice_mm = _slice_mm(grid.spacing_mm[0], d, level)
    count = max(4, round(extent / slice_mm))
    most = int(np.sqrt(MORE_VOXELS * np.prod([float(n) for n in grid.shape]) / count))
    side = min(grid.shape[1], most - most % 2)
    field_mm = grid.shape[1] * grid.spacing_mm[1] * within(d, "ct/field", level.field)
    inplane = round(field_mm / side, 4)
    top = grid.origin_mm[2] + grid.spacing_mm[0] * (grid.shape[0] - 1)
    middle = [grid.origin_mm[a] + grid.spacing_mm[1] * (grid.shape[1] - 1) / 2 for a in (0, 1)]
    origin = (
        round(middle[0] - inplane * (side - 1) / 2, 3),
        round(middle[1] - inplane * (side - 1) / 2, 3),
        round(top - slice_mm * (count - 1), 3),
    )
    return replace(
        grid, shape=(count, side, side), spacing_mm=(slice_mm, inplane, inplane), origin_mm=origin
    )


def _slice_mm(usual: float, d: Draws, level: Level) -> float:
    number = int(within(d, "ct/slices", (0.0, float(len(level.slices_mm)))))
    if usual > FINEST_USUAL_MM:
        return round(usual * within(d, "ct/slices/toy", (0.85, 1.15)), 3)
    return level.slices_mm[number]


def vary_mr_spec(spec: PhantomSpec, level: Level) -> PhantomSpec:
    """Return a specification with the MR's field and slices drawn, unless they are given.

    Toys of size tiny keep theirs.
    """
    if spec.size == "tiny":
        return spec
    d = Draws(spec.seed)
    return replace(
        spec,
        mr_fov_mm=spec.mr_fov_mm or round(within(d, "mr/field", level.mr_field_mm), 1),
        mr_slice_mm=spec.mr_slice_mm or round(within(d, "mr/slices", level.mr_slices_mm), 2),
    )
