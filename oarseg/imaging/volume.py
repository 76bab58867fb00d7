"""Volumes and grids; the only module that converts between (z, y, x) and ITK's (x, y, z).

Tuples in index space (shape, spacing) are (z, y, x), like the arrays. World points (origin,
landmarks) are (x, y, z) in mm, LPS, like every file format and every transform.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.nifti_placement import NiftiPlacement

if TYPE_CHECKING:
    import SimpleITK as sitk

Shape = tuple[int, int, int]
Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]

IDENTITY: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True)
class Grid:
    """A regular grid of voxel centres in the world.

    Attributes:
        shape: number of voxels along (z, y, x).
        spacing_mm: distance between voxel centres along (z, y, x).
        origin_mm: world position (x, y, z) of voxel (0, 0, 0), LPS.
        direction: rows of ITK's direction matrix; column j is the world
            direction of index axis j in the order (x, y, z).
        nifti: the fields of the NIfTI header that the grid was read from, for writing
            labels of the same image; no part of where the voxels lie.
    """

    shape: Shape
    spacing_mm: Vector
    origin_mm: Vector = (0.0, 0.0, 0.0)
    direction: Matrix = IDENTITY
    nifti: NiftiPlacement | None = field(default=None, compare=False, repr=False)

    @property
    def voxels(self) -> int:
        """Return the number of voxels."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def size_text(self) -> str:
        """Size along x, y and z as text, for messages."""
        return "×".join(str(n) for n in reversed(self.shape))

    @property
    def text(self) -> str:
        """Size, spacing, origin and direction, unless it is plain, x y z, as text for messages."""
        spacing = "×".join(f"{s:g}" for s in reversed(self.spacing_mm))
        origin = ", ".join(f"{o:g}" for o in self.origin_mm)
        text = f"{self.size_text} voxels of {spacing} mm from ({origin})"
        if self.direction == IDENTITY:
            return text
        # Adding 0 makes a plain one of the negative zero.
        return f"{text} in direction ({' '.join(f'{v + 0:g}' for v in np.ravel(self.direction))})"

    @property
    def voxel_volume_mm3(self) -> float:
        """Return the volume of one voxel."""
        return self.spacing_mm[0] * self.spacing_mm[1] * self.spacing_mm[2]

    def index_to_world(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the affine map from (z, y, x) indices to world (x, y, z).

        Returns:
            (A, b) with ``world = A @ index_zyx + b``; A is 3×3, b has length 3.
        """
        scaled = np.asarray(self.direction) @ np.diag(self.spacing_mm[::-1])
        return scaled[:, ::-1], np.asarray(self.origin_mm)

    def to_world(self, index_zyx: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Map fractional indices (n, 3), z y x, to world points (n, 3), x y z in mm."""
        linear, offset = self.index_to_world()
        world: NDArray[np.float64] = np.asarray(index_zyx, float) @ linear.T + offset
        return world

    def to_index(self, world_mm: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Map world points (n, 3), x y z in mm, to fractional indices (n, 3), z y x."""
        linear, offset = self.index_to_world()
        index = np.linalg.solve(linear, (np.asarray(world_mm, float) - offset).T).T
        return np.asarray(index, dtype=np.float64)

    def matches(self, other: Grid, *, tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids have the same shape and, within a tolerance, the same corners."""
        if self.shape != other.shape:
            return False
        corners = np.array([[0, 0, 0], self.shape, (self.shape[0], 0, 0), (0, self.shape[1], 0)])
        return bool(np.abs(self.to_world(corners) - other.to_world(corners)).max() <= tolerance_mm)


@dataclass(frozen=True)
class Volume:
    """A 3-D image: array (z, y, x) on a grid.

    Raises:
        ValueError: the array's shape is not the grid's.
    """

    array: NDArray[Any]
    grid: Grid

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape:
            raise ValueError(f"array {self.array.shape} does not fit grid {self.grid.shape}")

    def with_array(self, array: NDArray[Any]) -> Volume:
        """Return a volume of other values on the same grid."""
        return Volume(array, self.grid)


def reversed_triple(values: Iterable[Any]) -> tuple[Any, Any, Any]:
    """Reverse a triple, between ITK's index order and the arrays'."""
    first, second, third = values
    return third, second, first


def grid_of(image: sitk.Image) -> Grid:
    """Return the grid of a 3-D SimpleITK image."""
    flat = [float(v) for v in image.GetDirection()]
    rows = cast(Matrix, tuple(tuple(flat[3 * i : 3 * i + 3]) for i in range(3)))
    return Grid(
        shape=reversed_triple(int(n) for n in image.GetSize()),
        spacing_mm=reversed_triple(float(s) for s in image.GetSpacing()),
        origin_mm=cast(Vector, tuple(float(o) for o in image.GetOrigin())),
        direction=rows,
    )


def from_sitk(image: sitk.Image) -> Volume:
    """Copy a 3-D SimpleITK image into a Volume."""
    import SimpleITK as sitk

    return Volume(sitk.GetArrayFromImage(image), grid_of(image))


def set_geometry(image: sitk.Image, grid: Grid) -> sitk.Image:
    """Set spacing, origin and direction of a SimpleITK image from a grid, in place."""
    image.SetSpacing(reversed_triple(grid.spacing_mm))
    image.SetOrigin(grid.origin_mm)
    image.SetDirection([value for row in grid.direction for value in row])
    return image


def to_sitk(volume: Volume) -> sitk.Image:
    """Copy a Volume into a SimpleITK image."""
    import SimpleITK as sitk

    return set_geometry(sitk.GetImageFromArray(volume.array), volume.grid)
