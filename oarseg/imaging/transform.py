"""The interface that rigid and B-spline transforms share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.rigid import RigidTransform


class Transform(Protocol):
    """Maps CT world points to MR world points, as ITK's resampling expects."""

    @property
    def rigid_part(self) -> RigidTransform:
        """The rigid transform that this one refines; itself if rigid."""

    @property
    def reach_mm(self) -> float:
        """Upper bound of a point's distance from where ``rigid_part`` maps it."""

    def apply(self, points_mm: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Map points (n, 3), x y z in mm."""

    def to_sitk(self) -> Any:
        """Convert to an ITK transform."""

    def write(self, path: Path) -> None:
        """Write an ITK transform file (``.tfm``)."""
