"""Draw what only some patients have: more vessels, fat within organs, arms beside the head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from oarseg.imaging.arrays import Image
from oarseg.imaging.volume import Vector
from oarseg.phantom.patient.head import SIDES
from oarseg.phantom.patient.parts import Draws, Part, canal_y, fill, plus
from oarseg.phantom.patient.shapes import Bounds, Solid, Tube, grow_box
from oarseg.phantom.randomise.levels import Level, happens, within
from oarseg.phantom.randomise.texture import Texture

# Tissues that fat may grow into, each with its own draw.
FATTY = ("muscle", "tongue", "Cavity_Oral", "Parotid", "Glnd_Submand")
FAR_MM = 1e4
FIBRE_WAVES = 5
FIBRES_MM = (7.0, 24.0)
ALONG_FIBRES = (1.0, 1.0, 0.35)
RIND_MM = 1.0  # without fat, so that edges blur as before
SLOPE_MM = 1.6  # per standard deviation of a texture of such waves
# Vessels beside the great ones, of the left side: tissue, radius, path.
VESSELS: tuple[tuple[str, float, tuple[Vector, ...]], ...] = (
    ("vein", 2.4, ((56, -8, -58), (52, -6, -95), (42, -6, -135), (36, -18, -165))),
    ("vein", 1.6, ((7, -57, -98), (8, -53, -125), (12, -46, -160))),
    ("vein", 1.9, ((47, -62, -40), (44, -46, -74), (38, -16, -94))),
    ("A_Carotid", 2.3, ((29, -17, -88), (37, -17, -66), (47, -9, -30))),
    ("A_Carotid", 1.5, ((30, -18, -84), (27, -40, -80), (42, -52, -72))),
    ("A_Carotid", 1.5, ((16, -22, -140), (18, -36, -130), (17, -36, -122))),
)
# The vein that runs through the parotid gland, and its radius.
PAROTID_VEIN: tuple[Vector, ...] = ((52, -12, -14), (51, -10, -38), (49, -8, -64))
PAROTID_VEIN_MM = 2.3
VERTEBRAL_MM = 1.9
VERTEBRAL_Z = (-125.0, -101.0, -69.0, -40.0)
CALIBRE = (0.6, 1.5)
# Shoulder, elbow and hand of a raised left arm, and the skin's radii there.
ARM: tuple[Vector, ...] = ((150, 25, -205), (192, 5, -20), (98, 20, 150))
ARM_MM = (48.0, 40.0, 27.0)
ARM_FAT_MM = 9.0
HUMERUS_MM = 12.0
FOREARM_MM = 7.0


@dataclass(frozen=True)
class Within:
    """What of a solid lies within another one, whose surface is ``offset`` mm further out."""

    shape: Solid
    around: Solid
    offset: float = 0.0

    @property
    def box(self) -> Bounds:
        """The part of both boxes that they share, or a point of one where there is none."""
        low, high = np.asarray(self.shape.box)
        margin = max(self.offset, 0.0) * self.around.stretch
        lowest, highest = np.asarray(grow_box(self.around.box, margin))
        first = np.minimum(np.maximum(low, lowest), highest)
        last = np.maximum(np.minimum(high, highest), first)
        return (
            (float(first[0]), float(first[1]), float(first[2])),
            (float(last[0]), float(last[1]), float(last[2])),
        )

    @property
    def stretch(self) -> float:
        """The larger of both."""
        return max(self.shape.stretch, self.around.stretch)

    def distance(self, x: Image, y: Image, z: Image) -> Image:
        """Return the larger of both distances."""
        outer = self.around.distance(x, y, z) - np.float32(self.offset)
        result: Image = np.maximum(self.shape.distance(x, y, z), outer)
        return result


@dataclass(frozen=True)
class Streaks:
    """Winding streaks everywhere in space.

    Attributes:
        texture: they are where it is high.
        least: how high, in its standard deviations.
    """

    texture: Texture
    least: float

    @property
    def box(self) -> Bounds:
        """Larger than any patient."""
        return (-FAR_MM, -FAR_MM, -FAR_MM), (FAR_MM, FAR_MM, FAR_MM)

    @property
    def stretch(self) -> float:
        """1: the distance is an estimate from the usual slope."""
        return 1.0

    def distance(self, x: Image, y: Image, z: Image) -> Image:
        """Return the distance to the nearest streak, of first order."""
        return (np.float32(self.least) - self.texture.sample(x, y, z)) * np.float32(SLOPE_MM)


def infiltrate(parts: Iterable[Part], d: Draws, level: Level) -> tuple[Part, ...]:
    """Return all parts, those of some tissues with streaks of fat, which belong to their organs.

    Args:
        parts: a patient's, in painting order.
        d: the patient's draws.
        level: how far to go.
    """
    streaks = {tissue: s for tissue in FATTY if (s := _draw_streaks(tissue, d, level))}
    grown: list[Part] = []
    for part in parts:
        grown.append(part)
        offset, tissue = part.layers[0]
        if tissue in streaks and len(part.layers) == 1:
            inside = Within(streaks[tissue], part.shape, offset - RIND_MM)
            grown.append(fill(inside, "fat", part.label, organ=part.organ))
    return tuple(grown)


def _draw_streaks(tissue: str, d: Draws, level: Level) -> Streaks | None:
    key = f"fatty/{tissue}"
    if not happens(d, key, level.fatty_share):
        return None
    share = within(d, key + "/much", level.fatty)
    return Streaks(draw_fibres(d, key), float(ndtri(1.0 - share)))


def draw_fibres(d: Draws, key: str) -> Texture:
    """Draw a texture that changes less along z than across it, as most fibres of the neck run."""
    rng = d.rng("randomise/fibres/" + key)
    waves, phases = [], []
    for _ in range(FIBRE_WAVES):
        direction = rng.standard_normal(3) * ALONG_FIBRES
        length = float(np.exp(rng.uniform(*np.log(FIBRES_MM))))
        wave = direction / np.linalg.norm(direction) * (2 * np.pi / length)
        waves.append((float(wave[0]), float(wave[1]), float(wave[2])))
        phases.append(float(rng.uniform(0, 2 * np.pi)))
    return Texture(tuple(waves), tuple(phases))


def draw_vessels(d: Draws, level: Level) -> list[Part]:
    """Draw small vessels between the organs."""
    parts: list[Part] = []
    for name, s in SIDES:
        vertebral = tuple((15.5, canal_y(z) - 10.0, z) for z in VERTEBRAL_Z)
        every = (*VESSELS, ("A_Carotid", VERTEBRAL_MM, vertebral))
        for number, (tissue, radius, path) in enumerate(every):
            if course := _draw_course(f"vessel{name}{number}", s, path, radius, d, level):
                parts.append(fill(course, tissue))
    return parts


def draw_parotid_veins(parts: Iterable[Part], d: Draws, level: Level) -> list[Part]:
    """Draw the veins that run through the parotid glands and belong to them."""
    veins: list[Part] = []
    for name, s in SIDES:
        course = _draw_course("vessel/parotid" + name, s, PAROTID_VEIN, PAROTID_VEIN_MM, d, level)
        for part in parts:
            if course and part.label == f"Parotid_{name}" and part.layers[0][1] == "Parotid":
                inside = Within(course, part.shape, part.layers[0][0])
                veins.append(fill(inside, "vein", part.label))
    return veins


def _draw_course(
    key: str, s: float, path: Iterable[Vector], radius: float, d: Draws, level: Level
) -> Tube | None:
    """Draw whether a vessel is there, and where."""
    if not happens(d, key, level.vessels_share):
        return None
    shift = d.shift("randomise/" + key, 1.5)
    points = tuple(plus((s * x, y, z), shift) for x, y, z in path)
    size = radius * within(d, key + "/calibre", CALIBRE)
    return Tube(points, (size,) * len(points))


def arms_raised(d: Draws, level: Level) -> bool:
    """Tell whether a patient's arms lie beside the head, where no mask is worn."""
    return happens(d, "arms", level.arms_share)


def draw_arms(d: Draws, level: Level) -> tuple[list[Solid], list[Part]]:
    """Draw raised arms, if the patient raises them.

    Returns:
        The skins, to be merged with the body's, and what fills them.
    """
    if not arms_raised(d, level):
        return [], []
    skins: list[Solid] = []
    parts: list[Part] = []
    for name, s in SIDES:
        shoulder, elbow, hand = _arm_points(d, name, s)
        skins.append(Tube((shoulder, elbow, hand), ARM_MM))
        lean = tuple(radius - ARM_FAT_MM for radius in ARM_MM)
        parts.append(fill(Tube((shoulder, elbow, hand), lean), "muscle"))
        parts.append(_long_bone(shoulder, elbow, HUMERUS_MM))
        for apart in (-11.0, 11.0):
            beside = (0.0, apart, 0.0)
            parts.append(_long_bone(plus(elbow, beside), plus(hand, beside), FOREARM_MM))
    return skins, parts


def _arm_points(d: Draws, name: str, s: float) -> Iterator[Vector]:
    for number, (x, y, z) in enumerate(ARM):
        yield plus((s * x, y, z), d.shift(f"randomise/arm{name}{number}", 6.0))


def _long_bone(start: Vector, end: Vector, radius: float) -> Part:
    return Part(Tube((start, end), (radius, radius)), ((0.0, "cortical"), (-3.0, "marrow")))
