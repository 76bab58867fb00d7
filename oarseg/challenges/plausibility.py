"""What a plausible organ is like: limits that a challenge's file gives, each with its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Annotated, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from oarseg.challenges.structures import STRICT
from oarseg.challenges.toml_file import rule_error

SourceKey = Annotated[str, Field(min_length=1)]
Millimetres = tuple[float, float, float]


@dataclass(frozen=True, config=STRICT)
class UsualVolume:
    """Volumes that were seen.

    Attributes:
        cm3: the 5th and the 95th percentile, or the least and the greatest.
        source: key of ``Plausibility.sources``.
        factor: how far beyond them a volume is still plausible; None for the challenge's.
    """

    cm3: tuple[PositiveFloat, PositiveFloat]
    source: SourceKey
    factor: PositiveFloat | None = None


@dataclass(frozen=True, config=STRICT)
class UsualPlace:
    """Where an organ's centroid lies, in a frame that all places of a challenge share.

    Attributes:
        mm: to the left, to the back and up.
        sd_mm: standard deviation along each of them.
        source: key of ``Plausibility.sources``.
    """

    mm: Millimetres
    sd_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    source: SourceKey


@dataclass(frozen=True, config=STRICT)
class UsualDensity:
    """The least and the greatest plausible mean of an organ's values in the CT.

    Attributes:
        hu: both limits.
        source: key of ``Plausibility.sources``.
    """

    hu: tuple[float, float]
    source: SourceKey


@dataclass(frozen=True, config=STRICT)
class Plausibility:
    """Limits beyond which an organ deserves a look.

    Attributes:
        sources: key → where limits come from, in words.
        volume_factor: volumes below the usual ones divided by it, or above them times it.
        largest_ratio: volumes of a pair, the greater by the smaller.
        largest_ratios: of single pairs, by the left organ's name.
        stray_share: a component with less than this share of the organ is stray.
        stray_mm: so is one that lies farther than this from the largest.
        speck_voxels: a part of fewer voxels that lies nearer is none: where an organ is thinner
            than the voxels, rounding cuts such specks off.
        parts: of single organs, how many of the largest components are no stray ones.
        bridged_mm: slices that are empty for less than this do not divide an organ.
        place_sds: standard deviations from its place.
        volume, place, density: what is usual, by organ.
    """

    sources: Mapping[str, str] = field(default_factory=dict)
    volume_factor: PositiveFloat = 2.0
    largest_ratio: PositiveFloat = 1.5
    largest_ratios: Mapping[str, PositiveFloat] = field(default_factory=dict)
    stray_share: PositiveFloat = 0.05
    stray_mm: PositiveFloat = 10.0
    speck_voxels: PositiveInt = 5
    parts: Mapping[str, PositiveInt] = field(default_factory=dict)
    bridged_mm: PositiveFloat = 10.0
    place_sds: PositiveFloat = 3.0
    volume: Mapping[str, UsualVolume] = field(default_factory=dict)
    place: Mapping[str, UsualPlace] = field(default_factory=dict)
    density: Mapping[str, UsualDensity] = field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for table, organ, source in self._sourced():
            if source not in self.sources:
                raise rule_error(
                    ("plausibility", table, organ), f"no source {source!r} in plausibility.sources"
                )
        ranges = [("volume", name, usual.cm3) for name, usual in self.volume.items()]
        ranges += [("density", name, usual.hu) for name, usual in self.density.items()]
        for table, organ, (low, high) in ranges:
            if not low < high:
                raise rule_error(
                    ("plausibility", table, organ), f"must rise, found {low:g} to {high:g}"
                )
        return self

    def _sourced(self) -> Iterator[tuple[str, str, str]]:
        yield from (("volume", organ, usual.source) for organ, usual in self.volume.items())
        yield from (("place", organ, usual.source) for organ, usual in self.place.items())
        yield from (("density", organ, usual.source) for organ, usual in self.density.items())

    @property
    def named(self) -> set[str]:
        """Return the organs that have limits of their own."""
        return {*self.volume, *self.place, *self.density, *self.largest_ratios, *self.parts}

    def volume_limits_cm3(self, organ: str) -> tuple[float, float] | None:
        """Return the least and the greatest plausible volume; None if nothing is known."""
        usual = self.volume.get(organ)
        if usual is None:
            return None
        factor = usual.factor or self.volume_factor
        return usual.cm3[0] / factor, usual.cm3[1] * factor

    def ratio_limit(self, left: str) -> float:
        """Return the greatest plausible ratio of a pair's volumes, by its left organ."""
        return self.largest_ratios.get(left, self.largest_ratio)
