"""Rigid transforms of world points, and their ITK transform files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import InputError
from oarseg.imaging.volume import IDENTITY, Matrix, Vector

if TYPE_CHECKING:
    import SimpleITK as sitk


@dataclass(frozen=True)
class RigidTransform:
    """``q = rotation @ p + translation_mm`` for world points (x, y, z) in mm.

    A registration's transform maps points of the fixed image (CT) to the moving image (MR),
    as ITK's resampling expects.
    """

    rotation: Matrix = IDENTITY
    translation_mm: Vector = (0.0, 0.0, 0.0)

    @classmethod
    def from_arrays(
        cls, rotation: NDArray[np.floating[Any]], translation_mm: NDArray[np.floating[Any]]
    ) -> RigidTransform:
        """Create from a 3×3 rotation and a translation (3,)."""
        rows = cast(Matrix, tuple(tuple(float(v) for v in row) for row in rotation))
        return cls(rows, cast(Vector, tuple(float(v) for v in translation_mm)))

    @classmethod
    def about(
        cls, centre_mm: Vector, *, angles_deg: Vector, shift_mm: Vector = (0.0, 0.0, 0.0)
    ) -> RigidTransform:
        """Create a rotation about a centre by Euler angles (ITK's order Z·X·Y), then a shift."""
        import SimpleITK as sitk

        euler = sitk.Euler3DTransform()
        euler.SetCenter(centre_mm)
        euler.SetRotation(*np.deg2rad(angles_deg).tolist())
        euler.SetTranslation(shift_mm)
        matrix = np.array(euler.GetMatrix()).reshape(3, 3)
        centre = np.asarray(centre_mm)
        return cls.from_arrays(matrix, centre + np.asarray(shift_mm) - matrix @ centre)

    def apply(self, points_mm: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Map points (n, 3), x y z in mm."""
        matrix = np.asarray(self.rotation)
        return cast(
            NDArray[np.float64], np.asarray(points_mm, float) @ matrix.T + self.translation_mm
        )

    def inverse(self) -> RigidTransform:
        """Return the inverse transform."""
        matrix = np.asarray(self.rotation).T
        return RigidTransform.from_arrays(matrix, -matrix @ np.asarray(self.translation_mm))

    def after(self, first: RigidTransform) -> RigidTransform:
        """Compose ``self ∘ first``: apply ``first``, then this transform."""
        matrix = np.asarray(self.rotation)
        return RigidTransform.from_arrays(
            matrix @ np.asarray(first.rotation), self.apply(np.array([first.translation_mm]))[0]
        )

    @property
    def rigid_part(self) -> RigidTransform:
        """Itself; see ``transform.Transform``."""
        return self

    @property
    def reach_mm(self) -> float:
        """0, since it equals its rigid part; see ``transform.Transform``."""
        return 0.0

    @property
    def angle_deg(self) -> float:
        """Angle of the rotation about its own axis."""
        cosine = (float(np.trace(np.asarray(self.rotation))) - 1.0) / 2.0
        return float(np.rad2deg(np.arccos(np.clip(cosine, -1.0, 1.0))))

    def to_sitk(self) -> sitk.VersorRigid3DTransform:
        """Convert to an ITK transform centred at the world's origin."""
        import SimpleITK as sitk

        transform = sitk.VersorRigid3DTransform()
        # The default tolerance (1e-10) refuses matrices that went through a text file.
        transform.SetMatrix([v for row in self.rotation for v in row], 1e-6)
        transform.SetTranslation(self.translation_mm)
        return transform

    def write(self, path: Path) -> None:
        """Write an ITK transform file (``.tfm``)."""
        import SimpleITK as sitk

        sitk.WriteTransform(self.to_sitk(), str(path))

    @classmethod
    def read(cls, path: Path) -> RigidTransform:
        """Read an ITK transform file.

        Raises:
            InputError: the file is missing, unreadable or not a rigid transform.
        """
        import SimpleITK as sitk

        try:
            transform = sitk.ReadTransform(str(path))
        except RuntimeError as error:
            raise InputError(
                f"{path}: expected an ITK transform file, could not read it"
            ) from error
        return cls.from_sitk(transform, path)

    @classmethod
    def from_sitk(cls, transform: sitk.Transform, path: Path) -> RigidTransform:
        """Create from an ITK transform of any class, read from ``path``.

        Raises:
            InputError: the transform is not rigid.
        """
        probe = np.vstack([np.zeros(3), np.eye(3)])
        image = np.array([transform.TransformPoint(tuple(p)) for p in probe.tolist()])
        matrix = (image[1:] - image[0]).T
        if not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-6):
            raise InputError(f"{path}: expected a rigid transform, found one that scales or shears")
        return cls.from_arrays(matrix, image[0])
