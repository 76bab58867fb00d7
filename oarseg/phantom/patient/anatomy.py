"""One patient: all parts in painting order, the pose, the landmarks.

Everything follows from the seed; see ``parts.Draws``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Vector
from oarseg.phantom.patient import head, landmarks, neck
from oarseg.phantom.patient.parts import Draws, Part
from oarseg.phantom.patient.pose import Pose, Wave
from oarseg.phantom.patient.shapes import Solid, Union
from oarseg.phantom.patient.structures import REMOVABLE, painting_rank


@dataclass(frozen=True)
class Anatomy:
    """A patient; positions are in anatomical coordinates.

    Attributes:
        body: everything inside the skin.
        parts: what fills the body, in painting order.
        metal: centres of metal crowns.
        pose: CT world → anatomical coordinates.
        landmarks: the HaN-Seg paper's six.
        sex: "F" or "M".
        age: years.
        removed: the structure that surgery has removed, "" for none.
        low_top: z of the upper end of the CT's field, where that is below the vertex.
    """

    body: Solid
    parts: tuple[Part, ...]
    metal: tuple[Vector, ...]
    pose: Pose
    landmarks: dict[str, Vector]
    sex: str
    age: int
    removed: str
    low_top: float | None


def make_anatomy(seed: int, *, metal_rate: float | None = None) -> Anatomy:
    """Make the patient of a seed; ``metal_rate`` as in ``head.teeth``."""
    d = Draws(seed)
    sex = "F" if d.chance("sex", 0.45) else "M"
    removed = ""
    if d.chance("surgery", 0.03):
        removed = REMOVABLE[int(d.uniform("removed", 0, len(REMOVABLE)))]
    parts, metal = _parts(d, removed, metal_rate)
    body = Union((*head.head_skin(d), neck.neck_skin(d)), blend=14.0)
    return Anatomy(
        body=body,
        parts=parts,
        metal=metal,
        pose=_pose(d, sex),
        landmarks=landmarks.find_landmarks(d, body),
        sex=sex,
        age=int(d.uniform("age", 28, 84)),
        removed=removed,
        low_top=d.uniform("low_top/z", 6.0, 22.0) if d.chance("low_top", 0.05) else None,
    )


def _parts(
    d: Draws, removed: str, metal_rate: float | None
) -> tuple[tuple[Part, ...], tuple[Vector, ...]]:
    context = [
        *neck.chest(d),
        *neck.neck_muscles(d),
        *head.face_muscles(d),
        *neck.spine(d),
        *head.skull(d),
        *head.sinuses(d),
        *head.orbits(d),
        *neck.larynx(d),
        *neck.gullet(d),
        *head.vessels(d),
    ]
    outlined = [
        *head.salivary(d),
        *head.mouth(d),
        *head.sella(d),
        *neck.thyroid(d),
        *(part for part in context if part.label),
    ]
    kept = [part for part in outlined if part.label != removed]
    kept.sort(key=lambda part: -painting_rank(part.label))
    teeth, metal = head.teeth(d, metal_rate=metal_rate)
    over = [*head.mandible(d), *teeth, *head.nasal_air(d), *neck.airway(d)]
    under = [part for part in context if not part.label]
    return (*under, *kept, *over), metal


def _pose(d: Draws, sex: str) -> Pose:
    size = 1.0 + d.normal("size", 0.03) + (-0.02 if sex == "F" else 0.02)
    scale = tuple(size * (1.0 + d.normal(f"scale/{axis}", 0.02)) for axis in "xyz")
    turn = (d.normal("turn/x", 1.5), d.normal("turn/y", 1.5), d.normal("turn/z", 1.5))
    place = (d.uniform("x", -8, 8), d.uniform("y", -190, -120), d.uniform("z", -250, 250))
    rigid = RigidTransform.about((0.0, 0.0, 0.0), angles_deg=turn, shift_mm=place)
    return Pose(rigid, (scale[0], scale[1], scale[2]), d.normal("flexion", 3.0), _waves(d))


def _waves(d: Draws) -> tuple[Wave, ...]:
    waves = []
    for axis in range(3):
        for number in range(2):
            rng = d.rng(f"wave{axis}{number}")
            direction = rng.standard_normal(3)
            length = rng.uniform(70.0, 160.0)
            wave = direction / np.linalg.norm(direction) * (2 * np.pi / length)
            vector = (float(wave[0]), float(wave[1]), float(wave[2]))
            amplitude = float(rng.uniform(0.5, 1.5))
            waves.append(Wave(axis, amplitude, vector, float(rng.uniform(0, 2 * np.pi))))
    return tuple(waves)
