"""Rigid transforms refined by a cubic B-spline, and ITK transform files of either kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from oarseg.errors import InputError
from oarseg.imaging.arrays import Points
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.transform import Transform
from oarseg.imaging.volume import Grid, Matrix, Vector, reversed_triple

if TYPE_CHECKING:
    import SimpleITK as sitk

JACOBIAN_STEP_MM = 0.5


@dataclass(frozen=True, eq=False)
class BSplineTransform:
    """``q = rigid(p + u(p))`` with a cubic B-spline u in the CT's world, 0 outside its grid.

    Attributes:
        rigid: CT world → MR world.
        grid: control points. As in ITK, u ends one point inside the first and two inside
            the last along each axis.
        coefficients_mm: (3, z, y, x), components x, y, z in mm.
    """

    rigid: RigidTransform
    grid: Grid
    coefficients_mm: NDArray[np.float64]

    @property
    def rigid_part(self) -> RigidTransform:
        """The transform that is refined."""
        return self.rigid

    @property
    def reach_mm(self) -> float:
        """Upper bound of |u|: a B-spline stays within the hull of its coefficients."""
        return float(np.linalg.norm(self.coefficients_mm, axis=0).max(initial=0.0))

    def displacement_mm(self, points_mm: Points) -> NDArray[np.float64]:
        """Evaluate u at points (n, 3), x y z in mm."""
        index = self.grid.to_index(points_mm).T
        limits = np.array(self.grid.shape)[:, None] - 2
        inside = ((index >= 1) & (index < limits)).all(0)
        moved = np.zeros((len(points_mm), 3))
        for axis, coefficients in enumerate(self.coefficients_mm):
            moved[inside, axis] = ndimage.map_coordinates(
                coefficients, index[:, inside], order=3, prefilter=False
            )
        return moved

    def apply(self, points_mm: Points) -> NDArray[np.float64]:
        """Map points (n, 3), x y z in mm."""
        return self.rigid.apply(np.asarray(points_mm, float) + self.displacement_mm(points_mm))

    def jacobians(self, points_mm: Points) -> NDArray[np.float64]:
        """Compute the Jacobian determinants at points (n, 3): local volume of MR over CT.

        By central differences over ``JACOBIAN_STEP_MM``; 0 or less is a fold.
        """
        columns = []
        for axis in np.eye(3) * JACOBIAN_STEP_MM:
            ahead = self.displacement_mm(points_mm + axis)
            columns.append(
                (ahead - self.displacement_mm(points_mm - axis)) / (2 * JACOBIAN_STEP_MM)
            )
        gradient = np.stack(columns, axis=2) + np.eye(3)
        return cast(NDArray[np.float64], np.linalg.det(gradient))

    def to_sitk(self) -> sitk.CompositeTransform:
        """Convert to an ITK composite transform: the spline first, then the rigid transform."""
        import SimpleITK as sitk

        spline = sitk.BSplineTransform(3, 3)
        grid = self.grid
        directions = [value for row in grid.direction for value in row]
        spline.SetFixedParameters(
            [
                *reversed_triple(grid.shape),
                *grid.origin_mm,
                *reversed_triple(grid.spacing_mm),
                *directions,
            ]
        )
        spline.SetParameters(self.coefficients_mm.ravel().tolist())
        # A composite applies its transforms from the last to the first.
        return sitk.CompositeTransform([self.rigid.to_sitk(), spline])

    def write(self, path: Path) -> None:
        """Write an ITK transform file (``.tfm``)."""
        import SimpleITK as sitk

        sitk.WriteTransform(self.to_sitk(), str(path))


def read_transform(path: Path) -> Transform:
    """Read an ITK transform file: rigid, or rigid after a cubic B-spline.

    Raises:
        InputError: the file is missing, unreadable, or neither of these.
    """
    import SimpleITK as sitk

    try:
        found = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: expected an ITK transform file, could not read it") from error
    if found.GetName() != "CompositeTransform":
        return RigidTransform.read(path)
    composite = sitk.CompositeTransform(found)
    parts = [composite.GetNthTransform(i) for i in range(composite.GetNumberOfTransforms())]
    if len(parts) != 2 or "BSpline" not in parts[1].GetName():
        names = ", ".join(part.GetName() for part in parts)
        raise InputError(f"{path}: expected a rigid transform and a B-spline, found {names}")
    return BSplineTransform(
        RigidTransform.from_sitk(parts[0], path), *_read_spline_parameters(parts[1])
    )


def _read_spline_parameters(spline: sitk.Transform) -> tuple[Grid, NDArray[np.float64]]:
    fixed = spline.GetFixedParameters()
    shape = reversed_triple(int(n) for n in fixed[:3])
    rows = cast(Matrix, tuple(tuple(fixed[9 + 3 * i : 12 + 3 * i]) for i in range(3)))
    grid = Grid(shape, reversed_triple(fixed[6:9]), cast(Vector, tuple(fixed[3:6])), rows)
    return grid, np.array(spline.GetParameters()).reshape(3, *shape)
