"""What each configuration of a model sees of one case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from oarseg.imaging.slabs import SlabImage
from oarseg.imaging.volume import Vector
from oarseg.inference.preprocessing import IndexBox, NetworkInput, Placement, make_hint, preprocess
from oarseg.model.manifest import Manifest


@dataclass(frozen=True, eq=False)
class CaseInput:
    """The inputs of a model's networks, in the order of ``Manifest.networks``."""

    networks: tuple[NetworkInput, ...]

    @property
    def placement(self) -> Placement:
        """The first's; the image, its axes and the part that is kept are the same for all."""
        return self.networks[0].placement


def preprocess_case(
    channels: Sequence[NDArray[Any] | SlabImage],
    grid_spacing_mm: Vector,
    manifest: Manifest,
    *,
    box: IndexBox | None = None,
    threads: int = 1,
) -> CaseInput:
    """Convert a case's images to what each network sees; see ``preprocess``.

    Configurations that see the same, as a cascade and ``3d_fullres``, share one array.
    """
    found: list[tuple[Manifest, NetworkInput]] = []
    for network in manifest.networks:
        twin = next((made for model, made in found if see_the_same(model, network)), None)
        if twin is None:
            twin = preprocess(channels, grid_spacing_mm, network, box=box, threads=threads)
        stage = network.stage
        hint = None if stage is None else make_hint(channels, twin.placement, stage)
        found.append((network, replace(twin, hint=hint)))
    return CaseInput(tuple(made for _, made in found))


def see_the_same(one: Manifest, other: Manifest) -> bool:
    """Tell whether two configurations see the same image, but for a stage before."""
    return (
        one.channels == other.channels
        and one.spacing_mm == other.spacing_mm
        and one.data_resampling == other.data_resampling
    )
