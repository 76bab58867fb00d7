"""The plane that divides a patient's left from the right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from oarseg.imaging.volume import Vector

# In LPS.
TO_THE_LEFT = np.array([1.0, 0.0, 0.0])


@dataclass(frozen=True)
class Midline:
    """A plane in the world.

    Attributes:
        normal: unit vector that points to the patient's left.
        offset_mm: of the plane from the origin along it.
    """

    normal: Vector
    offset_mm: float

    def left_by_mm(self, point_mm: Sequence[float]) -> float:
        """Return how far a point lies to the left; negative to the right."""
        return float(np.dot(self.normal, point_mm)) - self.offset_mm


def find_midline(
    pairs_mm: Iterable[tuple[Vector, Vector]], body_mm: Vector | None = None
) -> Midline | None:
    """Find the plane between paired organs.

    Args:
        pairs_mm: the centroids of each pair, in either order.
        body_mm: the body's centre, which counts as much as one pair.

    Returns:
        The plane whose normal is the mean direction from one organ of a pair to the other and
        which lies in the middle of most; None where nothing is known.
    """
    pairs = [(np.asarray(one), np.asarray(other)) for one, other in pairs_mm]
    middles = [(one + other) / 2 for one, other in pairs]
    middles += [np.asarray(body_mm)] if body_mm is not None else []
    if not middles:
        return None
    # A pair that lies across the patient says the most; its order may be wrong.
    across = [one - other for one, other in pairs]
    turned = [way if way @ TO_THE_LEFT > 0 else -way for way in across]
    total = np.sum(turned, axis=0) if turned else TO_THE_LEFT
    normal = total / np.linalg.norm(total) if np.linalg.norm(total) > 0 else TO_THE_LEFT
    offset = float(np.median([middle @ normal for middle in middles]))
    return Midline((float(normal[0]), float(normal[1]), float(normal[2])), offset)
