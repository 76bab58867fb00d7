"""Draw the volumes and places of organs as they vary in real patients, from ``organs.toml``.

Organs that the file does not list keep the ranges of the HaN-Seg paper's table
(``patient/structures.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import field
from functools import lru_cache
from importlib.resources import files

from pydantic.dataclasses import dataclass

from oarseg.challenges.structures import STRICT
from oarseg.challenges.toml_file import parse_toml, validate_document
from oarseg.imaging.volume import Vector
from oarseg.phantom.patient.head import SIDES
from oarseg.phantom.patient.parts import Draws
from oarseg.phantom.patient.structures import PAIRED, SINGLE

Percentiles = tuple[float, float, float]
NINETY_FIVE = 1.645  # standard deviations from the median to the 95th percentile
# Draws end before the 5th and 95th percentile, so that voxels and raters do not lead beyond.
FURTHEST = 1.3
USUAL_RATIO = (0.8, 1.25)
PLACE_MM: Vector = (1.0, 1.0, 1.0)
# Their length ends with the field of view, or they are drawn from shapes that depend on others.
LEFT_AS_DRAWN = ("SpinalCord", "Esophagus_S")


@dataclass(frozen=True, config=STRICT)
class RealOrgan:
    """An organ in real patients.

    Attributes:
        name: of the organ, or of a pair of them.
        owners: of its parts, without "L" and "R" of a pair.
        volume_cm3: 5th, 50th and 95th percentile.
        place_mm: standard deviations of its place (x, y, z).
        sides: whether it is a pair.
        ratio: of the left volume to the right one, 5th and 95th percentile.
    """

    name: str
    owners: tuple[str, ...]
    volume_cm3: Percentiles
    place_mm: Vector = PLACE_MM
    sides: bool = False
    ratio: tuple[float, float] = field(default=USUAL_RATIO)


@dataclass(frozen=True, config=STRICT)
class _Document:
    organ: tuple[RealOrgan, ...]


@dataclass(frozen=True)
class Wish:
    """What a patient's organ should be like.

    Attributes:
        owners: of its parts.
        volume_cm3: its volume.
        shift_mm: how far it moves.
    """

    owners: tuple[str, ...]
    volume_cm3: float
    shift_mm: Vector


@lru_cache(maxsize=1)
def load_real_organs() -> tuple[RealOrgan, ...]:
    """Return all organs: those of ``organs.toml``, then the HaN-Seg paper's others."""
    name = "organs.toml"
    text = (files("oarseg.phantom.randomise") / name).read_text(encoding="utf-8")
    listed = validate_document(parse_toml(text, source=name), _Document, source=name).organ
    known = {owner for organ in listed for owner in organ.owners} | set(LEFT_AS_DRAWN)
    pairs = (
        RealOrgan(stem, (stem,), volumes, sides=True)
        for stem, volumes in PAIRED.items()
        if stem not in known
    )
    others = (
        RealOrgan(owner, (owner,), volumes)
        for owner, volumes in SINGLE.items()
        if owner not in known
    )
    return (*listed, *pairs, *others)


def draw_wishes(d: Draws, spread: float) -> Iterator[Wish]:
    """Draw what each organ of a patient should be like.

    Args:
        d: the patient's draws.
        spread: share of the real spread, 0 to 1.
    """
    for organ in load_real_organs():
        key = f"randomise/organ/{organ.name}"
        volume = draw_volume(organ.volume_cm3, d.normal(key, spread, limit=FURTHEST))
        if not organ.sides:
            yield Wish(organ.owners, volume, _shift(d, key, organ, spread))
            continue
        # Half of the ratio on either side of the mean keeps both sides as plausible.
        low, high = (math.log(value) for value in organ.ratio)
        middle = (low + high) / 2
        sigma = (high - low) / (2 * NINETY_FIVE)
        ratio = math.exp(middle * spread + d.normal(key + "/ratio", sigma * spread))
        for name, _ in SIDES:
            owners = tuple(owner + name for owner in organ.owners)
            part = volume * (math.sqrt(ratio) if name == "L" else 1 / math.sqrt(ratio))
            part = min(max(part, organ.volume_cm3[0]), organ.volume_cm3[2])
            yield Wish(owners, part, _shift(d, key + name, organ, spread))


def draw_volume(percentiles: Percentiles, sigmas: float) -> float:
    """Return the volume that lies some standard deviations from the median, in log scale."""
    low, middle, high = (math.log(value) for value in percentiles)
    side = (high - middle) if sigmas > 0 else (middle - low)
    return math.exp(middle + sigmas / NINETY_FIVE * side)


def _shift(d: Draws, key: str, organ: RealOrgan, spread: float) -> Vector:
    x, y, z = (
        d.normal(f"{key}/{axis}", sigma * spread)
        for axis, sigma in zip("xyz", organ.place_mm, strict=True)
    )
    return x, y, z
