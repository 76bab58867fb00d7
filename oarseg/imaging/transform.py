"""What a transform of world points has to offer, whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.rigid import RigidTransform


class Transform(Protocol):
    """From CT world points to MR world points, as ITK's resampling wants it."""

    @property
    def rigid_part(self) -> RigidTransform:
        """The rigid transform that this one refines; a rigid one is its own."""

    @property
    def reach_mm(self) -> float:
        """The farthest that any point lands from where ``rigid_part`` takes it."""

    def apply(self, points_mm: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Map points (n, 3), x y z."""

    def to_sitk(self) -> Any:
        """As an ITK transform."""

    def write(self, path: Path) -> None:
        """Write an ITK transform file (``.tfm``)."""
