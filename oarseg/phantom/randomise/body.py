"""Vary a patient: organs, pose, fat, teeth, airway, nodes and tumours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import numpy as np

from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Vector
from oarseg.phantom.patient.anatomy import Anatomy
from oarseg.phantom.patient.head import SIDES
from oarseg.phantom.patient.landmarks import find_landmarks
from oarseg.phantom.patient.parts import Draws, Part, fill, plus
from oarseg.phantom.patient.pose import Bend, Pose, Push
from oarseg.phantom.patient.shapes import Ellipsoid, Rippled, Solid, Stack, Union
from oarseg.phantom.randomise.additions import (
    draw_arms,
    draw_parotid_veins,
    draw_vessels,
    infiltrate,
)
from oarseg.phantom.randomise.growth import Grown, Moved, fit_organ, grow
from oarseg.phantom.randomise.levels import Level, deviation, happens, within
from oarseg.phantom.randomise.real_organs import draw_wishes

FLEXION_DEG = (-20.0, 30.0)
PITCH_DEG = (-14.0, 30.0)
LOBED = ("Parotid", "Glnd_Submand", "Glnd_Thyroid")
TEETH = ("tooth", "metal")
BITE_Z = -56.5  # between the jaws
# Where tumours grow (x of either side, y, z), and how far they push.
TUMOUR_SITES: tuple[Vector, ...] = (
    (15.0, -34.0, -62.0),
    (12.0, -26.0, -18.0),
    (14.0, -60.0, -68.0),
    (15.0, -30.0, -101.0),
    (15.0, -16.0, -100.0),
    (42.0, 0.0, -72.0),
    (38.0, -4.0, -112.0),
)
NODE_SITES: tuple[Vector, ...] = (
    (26.0, -58.0, -92.0),
    (40.0, -8.0, -66.0),
    (42.0, -4.0, -90.0),
    (40.0, -8.0, -116.0),
    (46.0, 14.0, -98.0),
    (0.0, -62.0, -96.0),
    (56.0, -18.0, -40.0),
)
ASYMMETRIES = 5


def vary_anatomy(anatomy: Anatomy, d: Draws, level: Level) -> Anatomy:
    """Return a patient who differs more from the general anatomy.

    Args:
        anatomy: the patient of level 0.
        d: the patient's draws.
        level: how far to go.
    """
    body: Solid = Grown(anatomy.body, within(d, "skin", level.skin_mm))
    arms, within_arms = draw_arms(d, level)
    if arms:
        body = Union((body, *arms), blend=8.0)
    parts, metal = lose_teeth(anatomy, d, level)
    masses, pushes = draw_tumours(d, level)
    pose = vary_pose(anatomy.pose, d, level, pushes)
    fitted = tuple(_reshape(part, d, level) for part in parts)
    for wish in draw_wishes(d, level.organ_spread):
        fitted = fit_organ(fitted, wish, pose=pose)
    under = [*draw_vessels(d, level), *masses, *draw_nodes(d, level)]
    over = [*draw_parotid_veins(fitted, d, level), *_plaques(fitted, d, level)]
    first = next((n for n, part in enumerate(fitted) if part.label), len(fitted))
    every = (*within_arms, *fitted[:first], *under, *fitted[first:])
    return replace(
        anatomy,
        body=body,
        parts=(*infiltrate(every, d, level), *over),
        metal=metal,
        pose=pose,
        landmarks=find_landmarks(d, body),
        low_top=_low_top(anatomy, d, level),
    )


def _low_top(anatomy: Anatomy, d: Draws, level: Level) -> float | None:
    if happens(d, "low_top", level.removed_top_share):
        return within(d, "low_top/z", (6.0, 60.0))
    return anatomy.low_top


def vary_pose(pose: Pose, d: Draws, level: Level, pushes: Iterable[Push]) -> Pose:
    """Raise or lower the chin, bend the neck so that the trunk stays on the table, and push."""
    mean, sigma = level.pitch_deg_normal
    if happens(d, "chin_down", level.chin_down_share):
        mean = -6.0
    pitch = float(np.clip(mean + deviation(d, "pitch", sigma), *PITCH_DEG))
    flexion = -pitch + deviation(d, "flexion", level.flexion_deg)
    turns = (
        -pitch,
        deviation(d, "tilt/y", level.tilt_deg),
        deviation(d, "tilt/z", level.tilt_deg),
    )
    turn = RigidTransform.about(pose.rigid.translation_mm, angles_deg=turns)
    grown = level.wave_growth * within(d, "waves", (0.6, 1.0))
    return replace(
        pose,
        rigid=turn.after(pose.rigid),
        waves=tuple(replace(w, amplitude_mm=w.amplitude_mm * grown) for w in pose.waves),
        pushes=(Bend(float(np.clip(flexion, *FLEXION_DEG))), *pushes, *_asymmetries(d, level)),
    )


def _asymmetries(d: Draws, level: Level) -> list[Push]:
    pushes = []
    for number in range(ASYMMETRIES):
        key = f"asymmetry{number}"
        centre = (
            within(d, key + "/x", (-60.0, 60.0)),
            within(d, key + "/y", (-80.0, 40.0)),
            within(d, key + "/z", (-150.0, 30.0)),
        )
        amplitude = within(d, key, (-level.asymmetry_mm, level.asymmetry_mm))
        pushes.append(Push(centre, amplitude, within(d, key + "/reach", (22.0, 45.0))))
    return pushes


def _reshape(part: Part, d: Draws, level: Level) -> Part:
    """Vary a part's form: airway, muscles, jugular veins, glands."""
    if part.organ == "Airway" and isinstance(part.shape, Stack):
        return replace(part, shape=_vary_airway(part.shape, d, level))
    tissue = part.layers[0][1]
    if not part.owner and tissue == "muscle" and len(part.layers) == 1:
        return grow(part, -within(d, "lean", level.lean_mm))
    if not part.owner and tissue == "vein":
        side = "L" if part.shape.box[0][0] > 0 else "R"
        return grow(part, within(d, "jugular" + side, level.vein_mm))
    if part.label.startswith(LOBED):
        depth = within(d, f"lobes/{part.label}", level.lobes_mm)
        length = within(d, f"lobes/{part.label}/length", (9.0, 18.0))
        return replace(part, shape=Rippled(part.shape, depth, length))
    return part


def _vary_airway(lumen: Stack, d: Draws, level: Level) -> Stack:
    """Widen or narrow the airway, differently at each height."""
    rows = []
    for number, (z, x, y, rx, front, back) in enumerate(lumen.rows):
        wide = within(d, f"airway/x{number}", level.airway)
        deep = within(d, f"airway/y{number}", level.airway)
        rows.append((z, x, y, rx * wide, front * deep, back * deep))
    return Stack(tuple(rows), lumen.boxy)


def lose_teeth(anatomy: Anatomy, d: Draws, level: Level) -> tuple[list[Part], tuple[Vector, ...]]:
    """Take out teeth, in each jaw its own share of them, with their crowns."""
    shares = [within(d, f"lost/{jaw}", level.teeth_lost) ** 2 for jaw in ("upper", "lower")]
    kept: list[Part] = []
    metal: list[Vector] = []
    lost = False
    for number, part in enumerate(anatomy.parts):
        tissue = part.layers[0][1]
        if tissue not in TEETH or not isinstance(part.shape, Ellipsoid):
            kept.append(part)
            continue
        if tissue == "tooth":
            lost = happens(d, f"lost/{number}", shares[part.shape.centre[2] < BITE_Z])
        if lost:
            continue
        kept.append(part)
        if tissue == "metal":
            metal.append(part.shape.centre)
    return kept, tuple(metal)


def draw_tumours(d: Draws, level: Level) -> tuple[list[Part], list[Push]]:
    """Draw tumours, which grow between the organs and push them away."""
    masses: list[Part] = []
    pushes: list[Push] = []
    for number in range(2):
        key = f"tumour{number}"
        if not happens(d, key, level.tumour_share / (1 + number)):
            continue
        x, y, z = TUMOUR_SITES[int(within(d, key + "/site", (0, len(TUMOUR_SITES))))]
        side = 1.0 if happens(d, key + "/side", 0.5) else -1.0
        centre = plus((side * x, y, z), d.shift("randomise/" + key, 3.0))
        reach = within(d, key + "/reach", (10.0, 17.0))
        pushes.append(Push(centre, within(d, key + "/push", (0.15, 0.4)) * reach, reach))
        radius = within(d, key + "/radius", (4.0, 8.0))
        lump = Ellipsoid(centre, (radius, radius * 1.1, radius * 1.2))
        masses.append(fill(Rippled(lump, 0.6, 11.0), "tumour"))
    return masses, pushes


def draw_nodes(d: Draws, level: Level) -> list[Part]:
    """Draw nodes along the vessels and below the jaw."""
    parts = []
    for name, s in SIDES:
        for number, (x, y, z) in enumerate(NODE_SITES):
            key = f"node{name}{number}"
            if happens(d, key, level.nodes_share):
                size = within(d, key + "/size", (2.5, 7.0))
                place = plus((s * x, y, z), d.shift("randomise/" + key, 3.0))
                parts.append(fill(Ellipsoid(place, (size, size * 1.1, size * 1.3)), "node"))
    return parts


def _plaques(parts: Iterable[Part], d: Draws, level: Level) -> list[Part]:
    """Draw calcified plaques in the carotid arteries, near where they fork."""
    plaques = []
    for part in parts:
        name = part.label
        if not name.startswith("A_Carotid") or not happens(d, "plaque/" + name, level.plaque_share):
            continue
        moved = cast(Moved, part.shape)
        artery = cast(Stack, moved.shape)
        z, x, y, rx, *_ = min(artery.rows, key=lambda row: abs(row[0] + 90.0))
        centre = plus((x + rx * 0.6, y, z), moved.by_mm)
        size = within(d, "plaque/size" + name, (1.2, 2.4))
        plaques.append(fill(Ellipsoid(centre, (size, size, size * 1.8)), "ossified", name))
    return plaques
