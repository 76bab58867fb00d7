"""Where a NIfTI-1 image lies.

Format: https://nifti.nimh.nih.gov/nifti-1. ITK's reader hangs on a matrix that holds NaN,
and refuses good files whose only matrix lies far from the origin, so the geometry is
worked out here by ITK's rules: the matrix (sform) counts if it is orthogonal and either
alone, or of the scanner, or the same as the quaternion's (qform); else the quaternion.

What those rules pass over in silence is refused or reported here: the sheared matrix of a
tilted gantry, whose quaternion leaves the shear out and is wrong by centimetres, and any
two of matrix, quaternion and spacings that disagree.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import cast

import numpy as np

from oarseg.imaging.arrays import Doubles
from oarseg.imaging.files.pixels import sheared_axes, unusable_file
from oarseg.imaging.nifti_placement import NiftiPlacement
from oarseg.imaging.orientation import shear_deg
from oarseg.imaging.volume import Grid, Matrix, Vector, reversed_triple

MM_PER_UNIT = {1: 1e3, 3: 1e-3}
MILLIMETRES = 2
SCANNER = 1
# Of the directions' scalar products; single precision leaves 1e-7.
ORTHOGONAL = 1e-4
# Of the two matrices' elements, for which ITK takes them as the same.
SAME_MM = 1e-3
# Of any corner, by either matrix: a fifth of the finest voxels.
CORNER_MM = 0.1
# Of the spacing, between the two places where a header has it.
SAME_SPACING = 0.01
LPS = np.array([-1.0, -1.0, 1.0])


def place_image(
    path: Path, placement: NiftiPlacement, sizes: list[int]
) -> tuple[Grid, tuple[str, ...]]:
    """Return the grid of an image, and what its user should be warned of.

    Args:
        path: for messages.
        placement: the header's.
        sizes: voxels along x, y, z.

    Raises:
        InputError: numbers that are not finite, no unit quaternion, a sheared matrix that
            no quaternion confirms, or spacings that are not the matrix's.
    """
    pixdim = np.array(placement.pixdim[1:])
    if not np.isfinite(pixdim).all():
        raise _unfinite(path, "spacings", pixdim)
    scale = MM_PER_UNIT.get(placement.units, 1.0)
    matrix, notes = _matrix(path, placement, sizes, scale)
    axes, origin = LPS[:, None] * matrix[:, :3], LPS * matrix[:, 3] * scale
    norms, spacing = np.linalg.norm(axes, axis=0), np.abs(pixdim)
    if placement.qform > 0 or placement.sform > 0:
        _check_spacing(path, spacing, norms)
    if (pixdim < 0).any():
        # ITK reverses an axis of negative spacing, whatever the matrix says.
        axes = axes * np.where(pixdim < 0, -1.0, 1.0)
        notes += (
            f"{path.name}: axes of negative spacing (pixdim) are taken as reversed, as ITK takes "
            "them and others do not; check left and right",
        )
    grid = Grid(
        shape=reversed_triple(sizes),
        spacing_mm=reversed_triple((spacing * scale).tolist()),
        origin_mm=cast(Vector, tuple(origin.tolist())),
        direction=cast(Matrix, tuple(tuple(row) for row in (axes / norms).tolist())),
        nifti=placement,
    )
    return grid, notes


def describe_placement(grid: Grid) -> NiftiPlacement:
    """Return the header fields that place an image on a grid.

    Those of the file that the grid was read from, if it was NIfTI, to the last bit; else a
    matrix and a quaternion in single precision, both said to be of the scanner. A skew of
    the axes is in the matrix alone.
    """
    sizes = [int(n) for n in reversed_triple(grid.shape)]
    if grid.nifti is not None and place_image(Path(), grid.nifti, sizes)[0] == grid:
        return grid.nifti
    spacing, origin = np.array(grid.spacing_mm[::-1]), LPS * np.array(grid.origin_mm)
    axes = LPS[:, None] * np.array(grid.direction)
    handedness = -1.0 if np.linalg.det(axes) < 0 else 1.0
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(axes * np.array([1.0, 1.0, handedness])).as_quat()
    quaternion = np.array([x, y, z]) * (-1.0 if w < 0 else 1.0)
    return NiftiPlacement(
        pixdim=(handedness, *spacing.tolist()),
        units=MILLIMETRES,
        qform=SCANNER,
        sform=SCANNER,
        quaternion=(*quaternion.tolist(), *origin.tolist()),
        rows=tuple(np.column_stack([axes * spacing, origin]).ravel().tolist()),
    )


def _matrix(
    path: Path, placement: NiftiPlacement, sizes: list[int], scale: float
) -> tuple[Doubles, tuple[str, ...]]:
    """Return the matrix voxel (x, y, z) → RAS, (3, 4), and warnings."""
    quaternion = _quaternion_matrix(path, placement) if placement.qform > 0 else None
    if placement.sform <= 0:
        # Where neither counts, ITK takes the axes as they are, in LPS.
        unplaced = np.column_stack([np.diag(LPS), np.zeros(3)])
        return (unplaced if quaternion is None else quaternion), ()
    rows = np.array(placement.rows).reshape(3, 4)
    if quaternion is None:
        _check_orthogonal(path, rows)
        return rows, ()
    apart_mm = _farthest_corner(rows, quaternion, sizes) * scale
    near = apart_mm <= CORNER_MM
    if not near and _is_regular(rows) and not _is_orthogonal(rows):
        _check_orthogonal(path, rows)
    by_rows = _is_orthogonal(rows) and (
        placement.sform == SCANNER or np.abs(quaternion - rows).max() <= SAME_MM
    )
    used, other = ("sform", "qform") if by_rows else ("qform", "sform")
    how = f"disagree by {apart_mm:.4g} mm at a corner" if np.isfinite(apart_mm) else "disagree"
    note = (
        f"{path.name}: sform and qform {how}; the {used} was taken, as ITK does, and not the "
        f"{other}; check where the image lies"
    )
    return (rows if by_rows else quaternion), (() if near else (note,))


def _farthest_corner(rows: Doubles, others: Doubles, sizes: list[int]) -> float:
    """Return the largest distance of a corner voxel between two matrices; NaN included."""
    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in sizes))])
    with np.errstate(invalid="ignore"):
        return float(np.linalg.norm(corners @ (rows - others).T, axis=1).max())


def _is_regular(rows: Doubles) -> bool:
    return bool(np.isfinite(rows).all() and np.linalg.norm(rows[:, :3], axis=0).all())


def _is_orthogonal(rows: Doubles) -> bool:
    if not _is_regular(rows):
        return False
    axes = rows[:, :3] / np.linalg.norm(rows[:, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() <= ORTHOGONAL)


def _check_orthogonal(path: Path, rows: Doubles) -> None:
    if _is_orthogonal(rows):
        return
    if _is_regular(rows):
        raise sheared_axes(path, shear_deg(rows[:, :3]))
    raise unusable_file(
        path,
        expected="orthogonal axis directions",
        found=f"{np.round(rows[:, :3], 4).tolist()}",
        do="correct the header or resample the image",
    )


def _quaternion_matrix(path: Path, placement: NiftiPlacement) -> Doubles:
    """Return the matrix of a quaternion, rounded to single precision as ITK keeps it."""
    values = np.array(placement.quaternion)
    if not np.isfinite(values).all():
        raise _unfinite(path, "quaternion and offset", values)
    b, c, d = values[:3]
    rest = 1.0 - (b * b + c * c + d * d)
    if rest < -0.01:
        raise unusable_file(
            path,
            expected="a quaternion of length 1",
            found=f"b, c, d of {b:g}, {c:g}, {d:g}",
            do="correct the header",
        )
    if rest < 1e-7:
        b, c, d = np.array([b, c, d]) / np.sqrt(b * b + c * c + d * d)
    a = np.sqrt(rest) if rest >= 1e-7 else 0.0
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    handed = np.array([1.0, 1.0, -1.0 if placement.pixdim[0] < 0 else 1.0])
    scaled = rotation * handed * np.abs(placement.pixdim[1:])
    single = np.column_stack([scaled, values[3:]]).astype(np.float32)
    return single.astype(np.float64)


def _check_spacing(path: Path, spacing: Doubles, norms: Doubles) -> None:
    if not (np.abs(norms - spacing) <= SAME_SPACING * spacing).all() or not norms.all():
        raise unusable_file(
            path,
            expected="the same spacing in pixdim and in the matrix",
            found=f"{np.round(spacing, 4).tolist()} and {np.round(norms, 4).tolist()}",
            do="correct the header",
        )


def _unfinite(path: Path, what: str, values: Doubles) -> Exception:
    return unusable_file(
        path, expected=f"finite {what}", found=f"{values.tolist()}", do="correct the header"
    )
